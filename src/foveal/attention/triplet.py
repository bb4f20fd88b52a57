r"""Triplet attention.

Paper: Misra, Nalamada, Arasanipalai, Hou, "Rotate to Attend: Convolutional Triplet Attention Module", WACV 2021,
arXiv:2010.03045. Read: the authors' release (LandskapeAI/triplet-attention, MIT); written from the mathematics.

Each of the three axes C, H and W is pooled away once; a 7x7 convolution over the other two gives a gate:

    gate(axis) = sigmoid(BN(conv7x7([maximum over axis | mean over axis])))
    out        = x * (gate(C) + gate(H) + gate(W)) / 3

Multiply-accumulates: 98 * (H*W + C*W + C*H). `fast` adds the gates first: x is multiplied once, and never permuted.
"""

import torch
from torch import Tensor, nn

from ._base import Attention, Card, ConvNorm, Form, Number, channel_mean


class TripletAttention(Attention):
    """Triplet attention (Misra et al. 2021, arXiv:2010.03045).

    Args:
        channels: width of the input; the parameters do not depend on it.
    """

    card = Card(
        name="triplet",
        title="Triplet Attention",
        paper="https://arxiv.org/abs/2010.03045",
        year=2021,
        source="LandskapeAI/triplet-attention",
        licence="MIT",
        kind="one map, and a profile per channel along each axis",
        paper_place="backbone",
        avoid="where the order of channels means nothing: its convolutions run across neighbouring channels",
        constraints=("any width, height and channels",),
        differs=("the three branches' norms keep the release's momentum of 0.01",),
        rows=(
            Form((Number("no_spatial", (0,)),)),
            Form((Number("kernel_size", (7,)),)),
        ),
        notes=(
            "300 parameters at any width",
            "exported at its place in yolo11n it adds 27 % in ONNX Runtime and 16 % in OpenVINO: much of it the "
            "maximum over the channels of the largest maps, which ONNX Runtime is slow at, and passes over them",
        ),
    )
    renamed = {
        "cw.conv.conv": "over_rows.conv",
        "cw.conv.bn": "over_rows.norm",
        "hc.conv.conv": "over_columns.conv",
        "hc.conv.bn": "over_columns.norm",
        "hw.conv.conv": "over_channels.conv",
        "hw.conv.bn": "over_channels.norm",
    }

    def __init__(self, channels: int):
        super().__init__(channels)
        self.over_rows, self.over_columns, self.over_channels = (
            ConvNorm(nn.Conv2d(2, 1, 7, padding=3, bias=False), momentum=0.01) for _ in range(3)
        )

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box: each branch turns its axis to the front, and back."""
        branches = []
        for axis, convolution in ((1, self.over_channels), (2, self.over_rows), (3, self.over_columns)):
            turned = x.transpose(1, axis)
            pooled = torch.cat([turned.amax(1, keepdim=True), turned.mean(1, keepdim=True)], 1)
            branches.append((turned * convolution(pooled).sigmoid()).transpose(1, axis))
        return sum(branches) / 3

    def fast(self, x: Tensor) -> Tensor:
        """The same function with one multiplication of x."""
        return x * (sum(self._gates(x)) / 3)

    def exported(self, x: Tensor, gain: Tensor | None) -> Tensor:
        """With the gain in gates that are smaller than the map."""
        if gain is None:
            return self.fast(x)
        third = gain.view(-1, 1, 1) / 3
        spatial, columns, rows = self._gates(x)
        return x * (spatial * third + (columns * third + (1 - 3 * third)) + rows * third)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`spatial` (B, 1, H, W), `columns` (B, C, W) and `rows` (B, C, H); a pixel is weighed by their mean."""
        spatial, columns, rows = self._gates(x)
        return {"spatial": spatial, "columns": columns.squeeze(2), "rows": rows.squeeze(3)}

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Without C, without H and without W, each of size 1 in the axis it lacks."""
        channels = self.over_channels(_pooled(x, 1)).sigmoid()
        rows = self.over_rows(_pooled(x, 2)).sigmoid().transpose(1, 2)
        columns = self.over_columns(_pooled(x, 3).transpose(2, 3)).sigmoid().permute(0, 3, 2, 1)
        return channels, rows, columns


def _pooled(x: Tensor, axis: int) -> Tensor:
    """Maximum and mean over an axis, in place of the channels: (B, 2, the other two axes in order)."""
    mean = channel_mean(x).squeeze(1) if axis == 1 else x.mean(axis)
    return torch.stack([x.amax(axis), mean], 1)
