r"""Multi-Scale Dilated Attention (MSDA) of DilateFormer.

Paper: Jiao et al., "DilateFormer: Multi-Scale Dilated Transformer for Visual Recognition", IEEE TMM 2023,
arXiv:2302.01791. Read: the authors' release (JIAOJIAYUASD/dilateformer, no licence); written from the mathematics.

    q, k, v = conv1x1(x), cut into heads of d channels; the heads are cut into one group per dilation r
    p       = softmax over the 3 x 3 pixels at distance r of each pixel (q . k / sqrt(d))
    out     = linear(sum over these pixels of p * v)

Outside the map k and v are 0, and such a pixel still takes its share of the softmax, as in the authors' code.

Shapes: B batch, n heads of one group, d channels per head, K = 9 neighbours, H rows, W columns.
Multiply-accumulates: (4*C*C + 2*K*C) * H*W. `reference` copies k and v nine times; `fast` reads shifted views of them.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, Form, Number, require_divisor


class MSDA(Attention):
    """Multi-Scale Dilated Attention (Jiao et al. 2023, arXiv:2302.01791).

    Args:
        channels: width of the input; a multiple of `heads`.
        heads: a multiple of the number of dilations.
        dilations: distance of the neighbours, one for each group of heads.
        kernel_size: odd number of neighbours along each axis.
        qkv_bias: whether the first convolution has a bias: no in the authors' class, yes in their networks.

    Raises:
        UserError: one of these rules is broken.
    """

    card = Card(
        name="msda",
        title="Multi-Scale Dilated Attention",
        paper="https://arxiv.org/abs/2302.01791",
        year=2023,
        source="JIAOJIAYUASD/dilateformer",
        licence="none",
        kind="attention over 3 x 3 dilated neighbours",
        paper_place="backbone.P3",
        avoid="for long-range context: four dilations reach 4 pixels; on small maps mhsa sees everything for less",
        aliases=("MultiDilatelocalAttention",),
        constraints=("channels % heads == 0 and heads % len(dilations) == 0", "any height and width"),
        differs=(
            "the class's own defaults (8 heads, dilations 1, 2, 3) fail its own check; here the dilations are 1 to 4",
            "the release writes into its input, so its backward pass fails; nothing is overwritten here",
            "neighbours outside the map are zeros that take part in the softmax, as in the release",
            "the networks add a 3x3 depthwise convolution before each block as position encoding; not part of it",
        ),
        copies=("an MSDABlock of three dilated 3x3 convolutions is in circulation: that is no attention",),
        rows=(Form((Number("heads", (4, 8, 16)),)),),
        notes=(
            "it replaces its input by a mix of neighbours: bare, it needs the shortcut that its block has",
            "NCNN cannot run it: its file gives no output",
            "exported at its place in yolo11n it adds 37 % in ONNX Runtime and 27 % in OpenVINO: its "
            "neighbours are shifted copies, and their softmax is along a short axis",
        ),
    )
    width_of = "proj.weight", 0

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        dilations: Sequence[int] = (1, 2, 3, 4),
        kernel_size: int = 3,
        qkv_bias: bool = True,
    ):
        super().__init__(channels)
        require_divisor(type(self), channels, "heads", heads)
        self.heads, self.dilations, self.kernel_size = heads, tuple(dilations), kernel_size
        if not self.dilations or heads % len(self.dilations) or min(self.dilations) < 1:
            raise UserError(
                f"MSDA(heads={heads}, dilations={list(dilations)}): needs one or more positive dilations whose number "
                "divides heads",
                "dilations=[1] fits",
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"MSDA(kernel_size={kernel_size}): must be odd and positive", "kernel_size=3 fits")
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=qkv_bias)
        self.proj = nn.Conv2d(channels, channels, 1)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, heads={self.heads}, dilations={list(self.dilations)}, kernel_size={self.kernel_size}"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box: every pixel's neighbours written side by side."""
        batch, _, height, width = x.shape
        mixed = []
        for dilation, q, k, v in self._groups(x):
            p = self._probabilities(q, k, dilation)
            mixed.append(torch.einsum("bnkp,bndkp->bndp", p, self._unfold(v, dilation)))
        return self.proj(torch.cat(mixed, 1).reshape(batch, self.channels, height, width))

    def fast(self, x: Tensor) -> Tensor:
        """The same function from shifted views of k and v."""
        mixed = []
        for dilation, q, k, v in self._groups(x):
            logits = torch.stack([(q * shifted).sum(2) for shifted in self._shifts(k, dilation)], 2)
            p = (logits * q.shape[2] ** -0.5).softmax(2)  # [B, n, K, H, W]
            mixed.append(sum(p[:, :, i, None] * shifted for i, shifted in enumerate(self._shifts(v, dilation))))
        return self.proj(torch.cat(mixed, 1).flatten(1, 2))

    def gates(self, x: Tensor, *, matrix: bool = False) -> dict[str, Tensor]:
        """`received` (B, heads, H, W); with `matrix`, `attention` (B, heads, H, W, K), K the neighbours row by row."""
        height, width = x.shape[2:]
        p = [self._probabilities(q, k, dilation) for dilation, q, k, _ in self._groups(x)]
        received = [
            F.fold(
                each.flatten(1, 2),
                (height, width),
                self.kernel_size,
                dilation=dilation,
                padding=self._reach(dilation),
            )
            for each, dilation in zip(p, self.dilations, strict=True)
        ]
        found = {"received": torch.cat(received, 1) / (height * width)}
        if matrix:
            found["attention"] = torch.cat(p, 1).transpose(2, 3).unflatten(2, (height, width))
        return found

    def _groups(self, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """For each dilation: it, and its heads' q, k and v, each (B, n, d, H, W)."""
        batch, _, height, width = x.shape
        count, per_head = self.heads // len(self.dilations), self.channels // self.heads
        qkv = self.qkv(x).reshape(batch, 3, self.heads, per_head, height, width)
        for index, dilation in enumerate(self.dilations):
            heads = slice(index * count, (index + 1) * count)
            yield dilation, qkv[:, 0, heads], qkv[:, 1, heads], qkv[:, 2, heads]

    def _probabilities(self, q: Tensor, k: Tensor, dilation: int) -> Tensor:
        """(B, n, K, H*W): the softmax over each pixel's neighbours."""
        logits = torch.einsum("bndp,bndkp->bnkp", q.flatten(3), self._unfold(k, dilation))
        return (logits * q.shape[2] ** -0.5).softmax(2)

    def _unfold(self, x: Tensor, dilation: int) -> Tensor:
        """The neighbours of every pixel, (B, n, d, H, W) to (B, n, d, K, H*W)."""
        batch, heads, per_head, height, width = x.shape
        maps = x.reshape(batch, heads * per_head, height, width)
        columns = F.unfold(maps, self.kernel_size, dilation=dilation, padding=self._reach(dilation))
        return columns.reshape(batch, heads, per_head, self.kernel_size**2, height * width)

    def _shifts(self, x: Tensor, dilation: int) -> Iterator[Tensor]:
        """The same neighbours one after the other, as views of the padded map."""
        height, width = x.shape[3:]
        padded = F.pad(x, [self._reach(dilation)] * 4)
        steps = range(0, self.kernel_size * dilation, dilation)
        for top in steps:
            for left in steps:
                yield padded[..., top : top + height, left : left + width]

    def _reach(self, dilation: int) -> int:
        return dilation * (self.kernel_size - 1) // 2

    @classmethod
    def from_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our names; the linear layer `proj` becomes a 1x1 convolution."""
        named = super().from_official(state_dict)
        return {name: t[..., None, None] if name == "proj.weight" and t.dim() == 2 else t for name, t in named.items()}
