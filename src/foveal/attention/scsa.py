r"""Spatial and Channel Synergistic Attention (SCSA).

Paper: Si et al., "SCSA: Exploring the Synergistic Effects Between Spatial and Channel Attention", Neurocomputing 634
(2025), arXiv:2407.05128. Read: the authors' release (HZAI-ZJNU/SCSA, Apache-2.0); written from the mathematics.

    s(z) = sigmoid(GN4(conv1d(z)))                         a quarter of the channels each by kernels of 3, 5, 7 and 9
    y    = x * s(mean over W of x) * s(mean over H of x)   the same kernels for both, a norm for each
    p    = GN1(means of y over w x w windows)
    q, k, v = a weight per channel each * p
    A    = softmax(q . k / sqrt(d))                        between the d channels of a head, over all windows
    out  = y * sigmoid(mean over windows of A . v)

conv1d is depthwise; GNg normalises each sample over all positions of C / g channels. Windows start at the top left.
Rows and columns that whole windows leave over are in none; an axis shorter than w is one window.

Shapes: n heads of d = C / n channels, P windows.
Multiply-accumulates: 6*C*(H + W) + (2*d + 3)*C*P. `fast` takes the mean of v, not of A . v, which halves the work of
the channel half, and finds its windows in a way that exports.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, Form, Number, require_divisor, size

_KERNELS = (3, 5, 7, 9)


class SCSA(Attention):
    """Spatial and Channel Synergistic Attention (Si et al. 2025, arXiv:2407.05128).

    Args:
        channels: width of the input; a multiple of 4 and of `heads`.
        heads: number of heads between which the channels are cut for the attention between them.
        window_size: w, the side of the windows that are averaged.

    Raises:
        UserError: one of these rules is broken, or there is no window.
    """

    card = Card(
        name="scsa",
        title="Spatial and Channel Synergistic Attention",
        paper="https://arxiv.org/abs/2407.05128",
        year=2025,
        source="HZAI-ZJNU/SCSA",
        licence="Apache-2.0",
        kind="a row and a column profile per channel, then one gate per channel from attention between channels",
        paper_place="backbone",
        avoid="at wide layers for memory: its attention between channels is a C x C matrix for every image",
        constraints=(
            "channels must be a multiple of 4 and of heads",
            "any height and width: rows and columns that whole windows leave over are in none, and an axis shorter "
            "than window_size is one window",
        ),
        differs=(
            "the release fails on maps smaller than a window; here the window is then as long as the axis",
            "the release checks that there are 4 channels, not that they are a multiple of 4, and fails at the first "
            "call; it has no default number of heads, its networks have 1",
            "dropout of the attention (0.1 in the ResNet-101), softmax gates and other ways to shrink the map are in "
            "the release and not here",
        ),
        copies=("copies default to 8 heads instead of 1: the same parameters, another function",),
        rows=(
            Form((Number("heads", (1, 2, 4, 8)),)),
            Form((Number("heads", (1, 2, 4, 8)), Number("window_size", (7,)))),
        ),
        notes=(
            "16 parameters per channel",
            "what windows leave over is still weighed, it only does not speak: up to 6 rows and columns of a map",
            "ONNX takes any size; torch.export, traced with several windows along an axis, refuses a single one",
            "exported at its place in yolo11n it adds 14 % in ONNX Runtime and 10 % in OpenVINO: its means, its "
            "windows and its products are passes over the largest maps, which no convolution takes up",
        ),
    )
    width_of = "norm.weight", 0
    renamed = {
        "local_dwc": "kernels.0",
        "global_dwc_s": "kernels.1",
        "global_dwc_m": "kernels.2",
        "global_dwc_l": "kernels.3",
        "norm_h": "row_norm",
        "norm_w": "column_norm",
    }

    def __init__(self, channels: int, *, heads: int = 1, window_size: int = 7):
        super().__init__(channels)
        if channels % 4:
            raise UserError(
                f"SCSA(channels={channels}): must be a multiple of 4", f"channels={channels + -channels % 4} fits"
            )
        require_divisor(type(self), channels, "heads", heads)
        if window_size < 1:
            raise UserError(f"SCSA(window_size={window_size}): must be positive", "window_size=7 fits")
        self.heads, self.window_size = heads, window_size
        quarter = channels // 4
        self.kernels = nn.ModuleList(
            nn.Conv1d(quarter, quarter, kernel, padding=kernel // 2, groups=quarter) for kernel in _KERNELS
        )
        self.row_norm, self.column_norm = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)
        self.norm = nn.GroupNorm(1, channels)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1, groups=channels, bias=False) for _ in range(3))

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, heads={self.heads}, window_size={self.window_size}"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        rows, columns = self._profiles(x)
        y = x * rows * columns
        window = [min(self.window_size, side) for side in x.shape[2:]]
        q, k, v = self._qkv(F.avg_pool2d(y, window))
        received = _probabilities(q, k) @ v
        return y * received.mean(3).flatten(1).sigmoid()[:, :, None, None]

    def fast(self, x: Tensor) -> Tensor:
        """The same function with the mean taken first, by operations that export."""
        rows, columns = self._profiles(x)
        y = x * rows * columns
        return y * self._channel(y)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`rows` (B, C, H), `columns` (B, C, W), and `channel` (B, C), which sees the input weighed by both."""
        rows, columns = self._profiles(x)
        channel = self._channel(x * rows * columns)
        return {"rows": rows.squeeze(3), "columns": columns.squeeze(2), "channel": channel.flatten(1)}

    def _cut(self) -> tuple[int, ...]:
        return (self.channels,)

    def _profiles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates of rows (B, C, H, 1) and of columns (B, C, 1, W)."""
        rows = self._profile(x.mean(3), self.row_norm)
        return rows.unsqueeze(3), self._profile(x.mean(2), self.column_norm).unsqueeze(2)

    def _profile(self, strip: Tensor, norm: nn.GroupNorm) -> Tensor:
        quarters = strip.split(size(strip, 1) // 4, 1)
        seen = torch.cat([kernel(part) for kernel, part in zip(self.kernels, quarters, strict=True)], 1)
        return _normed(seen, norm).sigmoid()

    def _qkv(self, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three times (B, heads, d, windows)."""
        normed, batch = _normed(pooled, self.norm), pooled.shape[0]
        shape = batch, self.heads, size(pooled, 1) // self.heads, pooled.shape[2] * pooled.shape[3]
        return self.q(normed).reshape(shape), self.k(normed).reshape(shape), self.v(normed).reshape(shape)

    def _channel(self, y: Tensor) -> Tensor:
        q, k, v = self._qkv(self._windows(y))
        received = _probabilities(q, k) @ v.mean(3, keepdim=True)
        return received.reshape(y.shape[0], size(y, 1), 1, 1).sigmoid()

    def _windows(self, y: Tensor) -> Tensor:
        """The means over windows. An axis too short for one gets zeros, which the mean then leaves out."""
        short = [_lacking(side, self.window_size) for side in y.shape[2:]]
        means = F.avg_pool2d(F.pad(y, (0, short[1], 0, short[0])), self.window_size)
        return means * (self.window_size**2 / ((self.window_size - short[0]) * (self.window_size - short[1])))


def _lacking(side: int, window: int) -> int:
    """max(0, window - side) without a comparison: a tracer and an exporter write down what is computed, no choice."""
    is_short = ((window - 1) // side + window - 1) // window  # 0 or 1
    return is_short * (window - side)


def _probabilities(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(2, 3) * q.shape[2] ** -0.5).softmax(3)


def _normed(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    # Not the module's call, which refuses a single value per group: four channels of a 1 x 1 map are legal here.
    return torch.group_norm(x.contiguous(), norm.num_groups, norm.weight, norm.bias, norm.eps)
