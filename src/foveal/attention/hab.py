r"""Hybrid Attention Block (HAB) of HAT.

Paper: Chen et al., "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023, arXiv:2205.04437. Read:
the authors' release (XPixelGroup/HAT, Apache-2.0); written from the mathematics.

    n   = LN(x)                                            over channels, at every position
    y   = x + W(n) + alpha * CAB(n)                        W: attention in windows, CAB: see `cab`
    out = y + linear(gelu(linear(LN(y))))

In a window of s x s positions, W is a softmax over q . k / sqrt(d) + a learned bias per offset, per head. A shifted
block cuts its windows s // 2 further down and right, the map wrapping around, and hides positions from each other that
only wrapping brought together. Maps that are no multiple of s are padded with zeros below and to the right after LN.

Multiply-accumulates per position: 4*C*C + 2*s*s*C + CAB + 2*r*C*C, r the ratio of the perceptron.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from . import _windows
from ._base import Attention, Card, require_divisor
from .cab import ChannelAttentionBlock


class HybridAttentionBlock(Attention):
    """Hybrid Attention Block of HAT (Chen et al. 2023, arXiv:2205.04437).

    Args:
        channels: width of the input; a multiple of `heads`.
        heads: number of heads.
        window_size: s, the side of a window in positions.
        shift_size: by how much the windows are shifted, below `window_size`; window_size // 2 in every other block.
        mlp_ratio: inner width of the perceptron, in channels.
        compress_ratio: see `ChannelAttentionBlock`.
        squeeze_factor: see `ChannelAttentionBlock`.
        conv_scale: alpha, a constant.

    Raises:
        UserError: one of these rules is broken.
    """

    card = Card(
        name="hab",
        title="HAT's Hybrid Attention Block",
        paper="https://arxiv.org/abs/2205.04437",
        year=2023,
        source="XPixelGroup/HAT",
        licence="Apache-2.0",
        kind="attention in windows, and a gate per channel",
        paper_place="P4,P5",
        avoid="as a light addition: at 256 channels it has more parameters than the layers it joins",
        constraints=(
            "channels must be a multiple of heads",
            "at least compress_ratio and squeeze_factor channels",
            "any height and width; multiples of window_size are exactly the paper's",
        ),
        differs=(
            "the class's defaults (window 7, mlp_ratio 4) and the trained networks' (window 16, 6 heads, mlp_ratio 2) "
            "suit neither a detector's maps nor its widths; here window 8, 8 heads, mlp_ratio 2",
            "the release needs maps that are multiples of the window, and pads the image; here the map is padded, and "
            "padded positions take part as they do in Swin's detectors",
            "the release drops the shift on maps no larger than a window; here the shift is what was asked for",
        ),
        copies=(
            "a much copied HAT for YOLO builds the whole super-resolution network without its upsampler: its output is "
            "its input, and not one of its 5 million parameters gets a gradient",
        ),
        notes=(
            "it has a shortcut of its own",
            "torch.export takes a map of a single window for a promise, so trace with a larger one",
            "NCNN cannot run it: its file gives no output",
            "exported at its place in yolo11n it adds 26 % in ONNX Runtime and 35 % in OpenVINO: its "
            "perceptron, its convolutions and its windows",
        ),
    )
    width_of = "norm1.weight", 0
    renamed = {
        "attn.relative_position_bias_table": "rel_bias",
        "attn.qkv": "qkv",
        "attn.proj": "proj",
        "mlp.fc1": "fc1",
        "mlp.fc2": "fc2",
        **{f"conv_block.{theirs}": f"cab.{ours}" for theirs, ours in ChannelAttentionBlock.renamed.items()},
    }

    index: Tensor

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        window_size: int = 8,
        shift_size: int = 0,
        mlp_ratio: float = 2,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
    ):
        super().__init__(channels)
        require_divisor(type(self), channels, "heads", heads)
        if window_size < 1 or not 0 <= shift_size < window_size:
            raise UserError(
                f"{type(self).__name__}(window_size={window_size}, shift_size={shift_size}): needs a positive window "
                "and a shift below it",
                "window_size=8, shift_size=4 fits",
            )
        self.heads, self.window_size, self.shift_size, self.conv_scale = heads, window_size, shift_size, conv_scale
        self.cab = ChannelAttentionBlock(channels, compress_ratio=compress_ratio, squeeze_factor=squeeze_factor)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.fc1, self.fc2 = _windows.perceptron(channels, mlp_ratio)
        self.rel_bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window_size - 1) ** 2, heads), std=0.02))
        self.register_buffer("index", _windows.bias_index(window_size, window_size, -1), persistent=False)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, heads={self.heads}, window_size={self.window_size}, shift_size={self.shift_size}"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        return self._block(x, _windows.attend)

    def fast(self, x: Tensor) -> Tensor:
        """The same function by `scaled_dot_product_attention`."""
        return self._block(x, _windows.attend_fused)

    def gates(self, x: Tensor, *, matrix: bool = False) -> dict[str, Tensor]:
        """`channel` (B, C) of CAB, `received` (B, heads, H, W) within windows.

        With `matrix`, `attention` (B, windows, heads, s*s, s*s).
        """
        normed = self.norm1(x.permute(0, 2, 3, 1))
        windows, bias = self._windows(normed)
        q, k, _ = self._qkv(windows)
        p = _windows.probabilities(q, k, bias)
        received = self._map(p.mean(3).transpose(-2, -1) / p.shape[1], normed).permute(0, 3, 1, 2)
        found = self.cab.gates(normed.permute(0, 3, 1, 2)) | {"received": received}
        return found | ({"attention": p} if matrix else {})

    def _block(self, x: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        normed = self.norm1(tokens)
        windows, bias = self._windows(normed)
        mixed = attend(*self._qkv(windows), bias).transpose(2, 3).flatten(3)  # [B, windows, s * s, C]
        local = self.cab.reference(normed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        tokens = tokens + self._map(self.proj(mixed), normed) + self.conv_scale * local
        tokens = tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        return tokens.permute(0, 3, 1, 2)

    def _windows(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (B, windows, s*s, C), and the bias of their logits."""
        size, shift = self.window_size, self.shift_size
        bias = self.rel_bias[self.index].permute(2, 0, 1)  # [heads, s * s, s * s]
        normed = _windows.padded(normed, size)
        if shift:
            bias = bias + self._hidden(normed)
            normed = normed.roll((-shift, -shift), (1, 2))
        return _windows.cut(normed, size), bias

    def _hidden(self, normed: Tensor) -> Tensor:
        """-100 between positions that only wrapping brought into one window, (windows, 1, s*s, s*s)."""
        # Along an axis the rolled map has three parts: untouched windows, and both sides of the seam.
        parts = []
        for length in normed.shape[1:3]:
            position = torch.arange(length, device=normed.device)
            parts.append((position >= length - self.window_size).int() + (position >= length - self.shift_size).int())
        part = (3 * parts[0][:, None] + parts[1])[None, :, :, None]
        part = _windows.cut(part, self.window_size)[0, :, :, 0]  # [windows, s * s]
        return -100.0 * (part[:, None, :, None] != part[:, None, None, :]).to(normed.dtype)

    def _qkv(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, count, positions, channels = windows.shape
        qkv = self.qkv(windows).reshape(batch, count, positions, 3, self.heads, channels // self.heads)
        return qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)

    def _map(self, windows: Tensor, like: Tensor) -> Tensor:
        """Windows (B, windows, s*s, c) back to (B, H, W, c) at the size of `like`."""
        height, width = like.shape[1:3]
        size, shift = self.window_size, self.shift_size
        joined = _windows.joined(windows, size, height, width)
        if shift:
            joined = joined.roll((shift, shift), (1, 2))
        return joined[:, :height, :width]
