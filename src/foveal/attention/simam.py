r"""SimAM, an attention without parameters.

Paper: Yang, Zhang, Li, Xie, "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks", ICML
2021, proceedings.mlr.press/v139/yang21o.html. Read: the authors' release (ZjjConan/SimAM, no licence); written from the
mathematics.

    d   = (x - mean)^2                                                     mean over H, W, per channel
    out = x * sigmoid(d / (4 * (sum(d) / (H*W - 1) + lambda)) + 1/2)

No multiply-accumulates. There is no `fast` form of its own: what is left to save is for a compiler to fuse.
"""

import torch
from torch import Tensor

from ..errors import UserError
from ._base import Attention, Card, Form, Number


class SimAM(Attention):
    """SimAM (Yang et al. 2021): a gate from each value's distance to its channel's mean; no parameters.

    Args:
        channels: width of the input.
        e_lambda: added to the variance.

    Raises:
        UserError: `e_lambda` is not positive.
    """

    card = Card(
        name="simam",
        title="SimAM",
        paper="https://proceedings.mlr.press/v139/yang21o.html",
        year=2021,
        source="ZjjConan/SimAM",
        licence="none",
        kind="one gate per element",
        paper_place="backbone",
        avoid="as proof of a gain: nothing in it learns, apart from what the layers around it do with it",
        constraints=("any width, height and channels",),
        differs=("on a map of one pixel the release gives 0 / 0; here its gate is sigmoid(1/2)",),
        rows=(Form((Number("e_lambda", (1e-3, 1e-4, 1e-5, 1e-6)),)),),
        notes=(
            "the gate never falls below sigmoid(1/2) = 0.62: it lifts what stands out and dims the rest",
            "no `fast` form: its temporaries are for a compiler to remove; another formula trained more slowly",
            "exported at its place in yolo11n it adds 9 % in ONNX Runtime and 6 % in OpenVINO: its means, "
            "squares and gates are passes over the largest maps, which no convolution takes up",
        ),
    )

    def __init__(self, channels: int, *, e_lambda: float = 1e-4):
        super().__init__(channels)
        if e_lambda <= 0:
            raise UserError(f"SimAM(e_lambda={e_lambda}): must be positive", "e_lambda=0.0001 fits")
        self.e_lambda = e_lambda

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        return x * self.factor(x)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`elements` (B, C, H, W), between 0.62 and 1."""
        return {"elements": self.factor(x)}

    def factor(self, x: Tensor) -> Tensor:
        """The gate of each element."""
        d = (x - x.mean((2, 3), keepdim=True)).square()
        # A sum of ones, because an exporter does not see through arithmetic on sizes; a mean, because sums overflow.
        pixels = torch.ones(x.shape[2:], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device).sum()
        variance = d.mean((2, 3), keepdim=True) * (pixels / (pixels - 1).clamp(min=1))
        return (d / (4 * (variance + self.e_lambda)) + 0.5).sigmoid()
