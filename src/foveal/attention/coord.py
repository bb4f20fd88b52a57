r"""Coordinate Attention.

Paper: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021, arXiv:2103.02907. Read:
the authors' release (houqb/CoordAttention, MIT); written from the mathematics.

    s   = [mean over W of x | mean over H of x]            one strip of length H + W
    y   = hardswish(BN(conv1x1(s)))                        C to m = max(8, C // reduction) channels
    out = x * sigmoid(conv1x1(y[:H])) * sigmoid(conv1x1(y[H:]))

Shapes: B batch, C channels, m reduced channels, H rows, W columns.
Multiply-accumulates: 2*C*m*(H+W). There is no `fast` form of its own: the time goes into reading and writing x, and to
multiply the two profiles before x was measured and gains nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, ConvNorm, Form, Number


class CoordAttention(Attention):
    """Coordinate Attention (Hou et al. 2021, arXiv:2103.02907).

    Args:
        channels: width of the input.
        reduction: the strip has max(8, channels // reduction) channels.

    Raises:
        UserError: `reduction` is below 1.
    """

    card = Card(
        name="coord",
        title="Coordinate Attention",
        paper="https://arxiv.org/abs/2103.02907",
        year=2021,
        source="houqb/CoordAttention",
        licence="MIT",
        kind="a row and a column profile per channel",
        paper_place="neck",
        avoid="with tiny batches: its batch norm sees only H + W positions of each image",
        aliases=("CA", "CoordAtt"),
        constraints=("any width, height and channels",),
        differs=("paper and code agree; the MobileNet file of the release calls the two gates conv2 and conv3",),
        copies=(
            "adaptive pools to (None, 1) export to ONNX files that are wrong at every size but the traced one",
            "timm's CoordAttn has another reduction and no bias: another module",
        ),
        rows=(Form((Number("reduction", (4, 8, 16, 32)),)),),
        notes=(
            "the paper puts it inside inverted residual blocks, before the projection",
            "no `fast` form: means in place of adaptive pools are what copies lack, and are in `reference` already",
        ),
    )
    width_of = "gate_h.weight", 0
    renamed = {
        "conv1": "reduce.conv",
        "bn1": "reduce.norm",
        "conv_h": "gate_h",
        "conv_w": "gate_w",
        "conv2": "gate_h",
        "conv3": "gate_w",
    }

    def __init__(self, channels: int, *, reduction: int = 32):
        super().__init__(channels)
        if reduction < 1:
            raise UserError(f"CoordAttention(reduction={reduction}): must be at least 1", "reduction=32 fits")
        width = max(8, channels // reduction)
        self.reduce = ConvNorm(nn.Conv2d(channels, width, 1))
        self.gate_h = nn.Conv2d(width, channels, 1)
        self.gate_w = nn.Conv2d(width, channels, 1)

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        rows, columns = self._profiles(x)
        return x * rows * columns

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`rows` (B, C, H) and `columns` (B, C, W); the gate of a pixel is their product."""
        rows, columns = self._profiles(x)
        return {"rows": rows.squeeze(3), "columns": columns.squeeze(2)}

    def _profiles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        height = x.shape[2]
        strip = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)  # [B, C, H + W, 1]
        y = F.hardswish(self.reduce(strip))
        return self.gate_h(y[:, :, :height]).sigmoid(), self.gate_w(y[:, :, height:]).sigmoid().transpose(2, 3)
