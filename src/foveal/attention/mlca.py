r"""Mixed Local Channel Attention (MLCA).

Paper: Wan, Lu, Shen, Xu, Lang, Ren, "Mixed local channel attention for object detection", Engineering Applications of
Artificial Intelligence 123 (2023), doi:10.1016/j.engappai.2023.106442. The authors' release (wandahangFY/MLCA, GPL-3.0)
was run for numbers and not read; written from the mathematics.

    L   = means of x over s x s windows                    window i of H rows: floor(i*H / s) to ceil((i+1)*H / s)
    G   = means of L over its s x s windows
    g   = sigmoid(conv over channels(G))                   one kernel of k weights, zero padding, no bias
    l   = sigmoid(conv(all s*s*C values of L in one line)) another; the windows row by row, C channels of each in turn
    out = x * U((1 - w) * g + w * l)                       U: each position takes the mean of the windows it touches

k follows from C as in `eca`: t = int((log2(C) + 1) / 2), made odd upwards.

Multiply-accumulates: k*C*(s*s + 1). The pools are counted for `fast` only, which takes means, and gives them back, by
products with matrices of zeros and ones: 2*s*C*(H*W + s*H).
"""

from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, Form, Number, size


class MLCA(Attention):
    """Mixed Local Channel Attention (Wan et al. 2023, doi:10.1016/j.engappai.2023.106442).

    Args:
        channels: width of the input.
        local_size: s, windows along each axis.
        local_weight: w, the share of the windows' own gates; the rest is that of the gate per channel.

    Raises:
        UserError: no window, or a share outside 0 to 1.
    """

    card = Card(
        name="mlca",
        title="Mixed Local Channel Attention",
        paper="https://doi.org/10.1016/j.engappai.2023.106442",
        year=2023,
        source="wandahangFY/MLCA",
        licence="GPL-3.0",
        kind="one gate per channel in each of 5 x 5 windows, mixed with one per channel",
        paper_place="backbone",
        avoid="where the order of channels means nothing: its kernels run across neighbouring channels",
        constraints=("any width, height and channels; maps smaller than local_size have overlapping windows",),
        differs=(
            "the paper speaks of neighbouring channels; the release runs the local kernel over all windows in one "
            "line, so that the last channels of a window meet the first of the next: here as released",
            "the paper's drawing adds both gates; the release mixes them, by default in equal parts: here as released",
            "its global mean is the mean of the windows' means: at sizes that are no multiples of local_size some "
            "positions count more than others",
        ),
        copies=(
            "copies pool to 5 x 5 with adaptive pools, which the ONNX exporter cannot write down at sizes that are no "
            "multiples of 5, nor at dynamic ones: here `fast` computes the same by matrix products, "
            "and what is exported by means of slices and one product",
        ),
        rows=(
            Form((Number("local_size", (3, 5, 7)),)),
            Form((Number("local_size", (3, 5, 7)), Number("gamma", (2,)), Number("b", (1,)))),
            Form(
                (
                    Number("local_size", (3, 5, 7)),
                    Number("gamma", (2,)),
                    Number("b", (1,)),
                    Number("local_weight", (0.5,)),
                )
            ),
        ),
        notes=(
            "two kernels are all its parameters: 10 at 128 to 2047 channels",
            "its `fast` form is for sizes that change: the products that it counts stand for pools that `reference` "
            "does not",
            "exported at its place in yolo11n it adds 9 % in ONNX Runtime and 11 % in OpenVINO: means of windows "
            "and the way back are passes over the largest maps, and the way back is a product",
        ),
    )
    renamed = {"conv_local": "local_conv", "conv": "global_conv"}

    def __init__(self, channels: int, *, local_size: int = 5, local_weight: float = 0.5):
        super().__init__(channels)
        if local_size < 1:
            raise UserError(f"MLCA(local_size={local_size}): must be positive", "local_size=5 fits")
        if not 0 <= local_weight <= 1:
            raise UserError(f"MLCA(local_weight={local_weight}): must be between 0 and 1", "local_weight=0.5 fits")
        self.local_size, self.local_weight = local_size, local_weight
        kernel = int((log2(channels) + 1) / 2) | 1
        self.global_conv, self.local_conv = (nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False) for _ in range(2))

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, local_size={self.local_size}, local_weight={self.local_weight}"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        gates = self._mixed(F.adaptive_avg_pool2d(x, self.local_size))
        return x * F.adaptive_avg_pool2d(gates, (x.shape[2], x.shape[3]))

    def fast(self, x: Tensor) -> Tensor:
        """The same function at every size by operations that export: means by matrices that follow from the size."""
        return x * self._gate(x)

    def exported(self, x: Tensor, gain: Tensor | None) -> Tensor:
        """With means of slices, because runtimes copy a whole map before a product, and with the gain in the gates."""
        rows, columns = (self._touched(x, axis) for axis in (2, 3))
        gates = self._mixed(_window_means(_window_means(x, 2, self.local_size), 3, self.local_size))
        if gain is not None:
            gates = gates * gain.view(-1, 1, 1) + (1 - gain.view(-1, 1, 1))
        return x * ((rows / rows.sum(0)).transpose(0, 1) @ gates @ (columns / columns.sum(0)))

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`elements` (B, C, H, W)."""
        return {"elements": self._gate(x)}

    def _mixed(self, windows: Tensor) -> Tensor:
        """The gates (B, C, s, s) of windows with these means."""
        batch, channels, side, count = windows.shape[0], size(windows, 1), self.local_size, self.local_size**2
        whole = self.global_conv(windows.mean((2, 3)).unsqueeze(1)).sigmoid()
        line = windows.flatten(2).transpose(1, 2).reshape(batch, 1, count * channels)
        local = self.local_conv(line).sigmoid().reshape(batch, count, channels)
        mixed = (1 - self.local_weight) * whole + self.local_weight * local
        return mixed.transpose(1, 2).reshape(batch, channels, side, side)

    def _gate(self, x: Tensor) -> Tensor:
        rows, columns = (self._touched(x, axis) for axis in (2, 3))
        sums = rows @ (x @ columns.transpose(0, 1))
        gates = self._mixed(sums / (rows.sum(1)[:, None] * columns.sum(1)))
        spread = rows.transpose(0, 1) @ gates @ columns
        return spread / (rows.sum(0)[:, None] * columns.sum(0))

    def _touched(self, x: Tensor, axis: int) -> Tensor:
        """(s, L), 1 where a window touches a position: both divide the same length, into s and into L equal parts."""
        length = x.shape[axis]
        window = torch.arange(self.local_size, device=x.device)[:, None]
        position = torch.arange(length, device=x.device)
        touches = (window * length < (position + 1) * self.local_size) & (
            position * self.local_size < (window + 1) * length
        )
        return touches.to(x.dtype)


def _window_means(x: Tensor, axis: int, count: int) -> Tensor:
    """The means of `count` windows along rows (2) or columns (3), as adaptive pools cut them."""
    length, means = x.shape[axis], []
    for window in range(count):
        part = slice(window * length // count, ((window + 1) * length + count - 1) // count)
        means.append((x[:, :, part] if axis == 2 else x[:, :, :, part]).mean(axis, keepdim=True))
    return torch.cat(means, axis)
