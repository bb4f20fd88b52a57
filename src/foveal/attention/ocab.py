r"""Overlapping Cross-Attention Block (OCAB) of HAT.

Paper: Chen et al., "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023, arXiv:2205.04437. Read:
the authors' release (XPixelGroup/HAT, Apache-2.0); written from the mathematics.

    y   = x + linear(attention(q, k, v))                   q, k, v = linear(LN(x))
    out = y + linear(gelu(linear(LN(y))))

Queries come from windows of s x s positions, keys and values from windows of M x M around them, M = s + int(r * s). The
logits are q . k / sqrt(d) + a learned bias per offset, per head. Outside the map k and v are 0, and such a position
still takes its share of the softmax, as in the authors' code.

Multiply-accumulates per position: 4*C*C + 2*M*M*C + 2*m*C*C, m the ratio of the perceptron.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from . import _windows
from ._base import Attention, Card, require_divisor


class OverlappingCrossAttentionBlock(Attention):
    """Overlapping Cross-Attention Block of HAT (Chen et al. 2023, arXiv:2205.04437).

    Args:
        channels: width of the input; a multiple of `heads`.
        heads: number of heads.
        window_size: s, the side of a window of queries in positions.
        overlap_ratio: r; int(r * window_size) must be even.
        mlp_ratio: inner width of the perceptron, in channels.

    Raises:
        UserError: one of these rules is broken.
    """

    card = Card(
        name="ocab",
        title="HAT's Overlapping Cross-Attention Block",
        paper="https://arxiv.org/abs/2205.04437",
        year=2023,
        source="XPixelGroup/HAT",
        licence="Apache-2.0",
        kind="attention from windows to larger windows",
        paper_place="P5",
        avoid="more than once in a network: the paper has one, after a row of hab",
        constraints=(
            "channels must be a multiple of heads",
            "int(overlap_ratio * window_size) must be even",
            "any height and width; multiples of window_size are exactly the paper's",
        ),
        differs=(
            "the release indexes its table of biases with negative numbers; here the index starts at 0 and "
            "from_official rolls the table to match",
            "keys outside the map are zeros that take part in the softmax, as in the release; so are those that fill "
            "up a map that is no multiple of the window, which the release refuses",
        ),
        copies=("the HAT copied for YOLO is the identity: see hab",),
        notes=(
            "it has a shortcut of its own",
            "torch.export takes a map of a single window for a promise, so trace with a larger one",
            "NCNN cannot run it: its file gives no output",
            "exported at its place in yolo11n it adds 9 % in ONNX Runtime and 9 % in OpenVINO, which are its "
            "matrix products",
        ),
    )
    width_of = "norm1.weight", 0
    renamed = {"relative_position_bias_table": "rel_bias", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}

    index: Tensor

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        window_size: int = 8,
        overlap_ratio: float = 0.5,
        mlp_ratio: float = 2,
    ):
        super().__init__(channels)
        require_divisor(type(self), channels, "heads", heads)
        overlap = int(overlap_ratio * window_size)
        if window_size < 1 or overlap < 0 or overlap % 2:
            raise UserError(
                f"{type(self).__name__}(window_size={window_size}, overlap_ratio={overlap_ratio}): needs a positive "
                f"window and an even overlap, not {overlap}",
                "window_size=8, overlap_ratio=0.5 fits",
            )
        self.heads, self.window_size, self.overlap = heads, window_size, overlap
        reach = window_size + overlap
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.fc1, self.fc2 = _windows.perceptron(channels, mlp_ratio)
        biases = torch.empty((window_size + reach - 1) ** 2, heads)
        self.rel_bias = nn.Parameter(nn.init.trunc_normal_(biases, std=0.02))
        self.register_buffer("index", _windows.bias_index(window_size, reach, 1), persistent=False)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, heads={self.heads}, window_size={self.window_size}, overlap={self.overlap}"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        return self._block(x, _windows.attend)

    def fast(self, x: Tensor) -> Tensor:
        """The same function by `scaled_dot_product_attention`, and windows as slices."""
        return self._block(x, _windows.attend_fused, _windows.overlapping)

    def gates(self, x: Tensor, *, matrix: bool = False) -> dict[str, Tensor]:
        """`received` (B, heads, H, W); with `matrix`, `attention` (B, windows, heads, s*s, M*M)."""
        height, width = x.shape[2:]
        q, k, _ = self._qkv(x.permute(0, 2, 3, 1))
        p = _windows.probabilities(q, k, self._bias())
        size, reach = self.window_size, self.window_size + self.overlap
        columns = (p.mean(3) / p.shape[1]).permute(0, 2, 3, 1).flatten(1, 2)  # [B, heads * M * M, windows]
        received = F.fold(
            columns,
            (_windows.whole(height, size), _windows.whole(width, size)),
            reach,
            padding=self.overlap // 2,
            stride=size,
        )
        found = {"received": received[:, :, :height, :width]}
        return found | ({"attention": p} if matrix else {})

    def _block(
        self, x: Tensor, attend: Callable[..., Tensor], around: Callable[..., Tensor] = _windows.unfolded
    ) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        height, width = tokens.shape[1:3]
        mixed = attend(*self._qkv(tokens, around), self._bias()).transpose(2, 3).flatten(3)
        joined = _windows.joined(mixed, self.window_size, height, width)
        tokens = tokens + self.proj(joined[:, :height, :width])
        tokens = tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        return tokens.permute(0, 3, 1, 2)

    def _qkv(self, tokens: Tensor, around: Callable[..., Tensor] = _windows.unfolded) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of each window, keys and values of the larger ones around: (B, windows, heads, s*s or M*M, d)."""
        size, reach = self.window_size, self.window_size + self.overlap
        per_head = self.channels // self.heads
        qkv = _windows.padded(self.qkv(self.norm1(tokens)), size)
        q = _windows.cut(qkv[..., : self.channels], size)
        batch, windows = q.shape[:2]
        q = q.reshape(batch, windows, size**2, self.heads, per_head).transpose(2, 3)
        kv = around(qkv[..., self.channels :], size, reach)
        kv = kv.reshape(batch, windows, reach**2, 2, self.heads, per_head)
        # Contiguous in d, without which the fused kernels step aside.
        k, v = kv.permute(3, 0, 1, 4, 2, 5).contiguous().unbind(0)
        return q, k, v

    def _bias(self) -> Tensor:
        return self.rel_bias[self.index].permute(2, 0, 1)

    @classmethod
    def from_official(cls, state_dict: Mapping[str, Tensor], *, overlap_ratio: float = 0.5) -> dict[str, Tensor]:
        """Our names, and the table of biases rolled to an index that starts at 0.

        Args:
            state_dict: the authors'.
            overlap_ratio: what it was trained with; the table's size does not tell window from overlap.

        Raises:
            UserError: no window has a table of that size at this overlap.
        """
        named = super().from_official(state_dict)
        if "rel_bias" in named and named["rel_bias"].dim():
            table = named["rel_bias"]
            span = round(len(table) ** 0.5)
            sizes = {2 * size + int(overlap_ratio * size) - 1: size for size in range(1, span + 1)}
            if span not in sizes or span**2 != len(table):
                raise UserError(
                    f"no window has a table of {len(table)} biases at overlap_ratio={overlap_ratio}",
                    "give the overlap_ratio that the weights were trained with, for example 0.5",
                )
            reach = sizes[span] + int(overlap_ratio * sizes[span])
            named["rel_bias"] = table.roll((reach - 2) * (span + 1), 0)
        return named
