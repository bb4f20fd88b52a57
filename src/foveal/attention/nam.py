r"""Normalization-based Attention Module (NAM), its channel half.

Paper: Liu, Shao, Teng, Hoffmann, "NAM: Normalization-based Attention Module", arXiv:2111.12419. Read: the authors'
release (Christian-lyc/NAM, no licence); written from the mathematics.

    u   = BN(x)                                            gamma, beta: the norm's weight and bias
    out = x * sigmoid(|gamma| / sum|gamma| * u)            the factor of u is held constant for the gradient

No multiply-accumulates. `fast` puts the factor into the norm's weight and bias: one pass less over x.
"""

import torch
from torch import Tensor

from ._base import Attention, BatchNorm, Card, Form, Number


class NAM(Attention):
    """Normalization-based Attention Module, channel half (Liu et al. 2021, arXiv:2111.12419).

    Args:
        channels: width of the input.
    """

    card = Card(
        name="nam",
        title="Normalization-based Attention Module",
        paper="https://arxiv.org/abs/2111.12419",
        year=2021,
        source="Christian-lyc/NAM",
        licence="none",
        kind="one gate per element, scaled per channel",
        paper_place="backbone",
        avoid="without the sparsity penalty: with equal weights every gate stays within 1 / (4 C) of 1/2",
        constraints=("any width, height and channels",),
        differs=(
            "the paper's spatial half is not in the release; its history has one that weighs each pixel of a map of "
            "fixed square size by a batch norm over pixels, which a detector's changing sizes exclude: not here",
            "the paper's penalty on the norm's weights is an edit of gradients in the training script: not here",
        ),
        copies=("the release reads `weight.data` in the forward pass, which torch.export refuses",),
        rows=(Form((Number("no_spatial", (1,)),)),),
        notes=(
            "a fresh module halves its input: its gates are 1/2 up to 1 / (4 C)",
            "exported at its place in yolo11n it adds 7 % in ONNX Runtime and 3 % in OpenVINO: a gate for each "
            "element of the largest maps is several passes over them, which no convolution takes up",
        ),
    )
    width_of = "norm.weight", 0
    renamed = {"Channel_Att.bn2": "norm"}

    def __init__(self, channels: int):
        super().__init__(channels)
        self.norm = BatchNorm(channels)

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        return x * (self._share()[:, None, None] * self.norm(x)).sigmoid()

    def fast(self, x: Tensor) -> Tensor:
        """The same function with the factor inside the norm."""
        return x * self.factor(x)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`elements` (B, C, H, W)."""
        return {"elements": self.factor(x)}

    def _share(self) -> Tensor:
        size = self.norm.weight.detach().abs()
        return size / size.sum().clamp(min=torch.finfo(size.dtype).tiny)

    def factor(self, x: Tensor) -> Tensor:
        """The gate of each element."""
        # The norm is called, because what replaces, synchronises, prunes or watches a batch norm does so in its call.
        share = self._share()
        if torch.jit.is_tracing():  # which takes no other tensors for a module's own
            return (share[:, None, None] * self.norm(x)).sigmoid()
        scaled = {"weight": self.norm.weight * share, "bias": self.norm.bias * share}
        return torch.func.functional_call(self.norm, scaled, x).sigmoid()
