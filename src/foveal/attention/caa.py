r"""Context Anchor Attention (CAA) of PKINet.

Paper: Cai et al., "Poly Kernel Inception Network for Remote Sensing Detection", CVPR 2024, arXiv:2403.06258. Read: the
authors' release (NUST-Machine-Intelligence-Laboratory/PKINet, Apache-2.0); written from the mathematics.

    u    = silu(BN(conv1x1(mean over 7 x 7 positions of x)))               zeros around the map count as values
    v    = depthwise k_v x 1(depthwise 1 x k_h(u))
    out  = x * sigmoid(silu(BN(conv1x1(v))))

Without norms, as the published networks have it, both 1x1 convolutions have a bias and there is no SiLU.

Multiply-accumulates: (2*C*C + C*(k_h + k_v)) * H*W. `fast` takes the mean along rows and then along columns: 14
additions for each element instead of 49.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, ConvNorm, Form, Number

_SIZES = (7, 9, 11, 13, 15, 17, 19, 21)


class CAA(Attention):
    """Context Anchor Attention (Cai et al. 2024, arXiv:2403.06258).

    Args:
        channels: width of the input.
        h_kernel_size: odd number of columns that the horizontal strip sees.
        v_kernel_size: odd number of rows that the vertical strip sees.
        norm: whether a batch norm and a SiLU follow each 1x1 convolution, as in the class by itself. The published
            networks build it without.

    Raises:
        UserError: an even or negative kernel size.
    """

    card = Card(
        name="caa",
        title="Context Anchor Attention",
        paper="https://arxiv.org/abs/2403.06258",
        year=2024,
        source="NUST-Machine-Intelligence-Laboratory/PKINet",
        licence="Apache-2.0",
        kind="one gate per element, from a separable 11 x 11 kernel over 7 x 7 means",
        paper_place="backbone",
        avoid="as a cheap gate: its two full 1x1 convolutions cost as much as a layer's own",
        constraints=("h_kernel_size and v_kernel_size are odd", "any width, height and channels"),
        differs=(
            "the class has norms and a SiLU by default, also before the sigmoid, so that no gate is below 0.43; the "
            "paper's formula has neither and PKINet builds it without: norm=False loads its weights",
            "the release returns the gate, which PKINet's block multiplies with what its kernels make of the same "
            "input; here it weighs the input itself",
            "PKINet's kernels grow from block to block, by 2 from 11",
        ),
        copies=(
            "some return the gate alone, so that a layer's map becomes numbers between 0.43 and 1",
            "copies keep the norms that the published networks leave out",
        ),
        rows=(Form((Number("h_kernel_size", _SIZES), Number("v_kernel_size", _SIZES))),),
        notes=(
            "its norms keep the release's eps of 0.001 and momentum of 0.03, which are Ultralytics' own, too",
            "exported at its place in yolo11n it adds 26 % in ONNX Runtime and 27 % in OpenVINO, which are its "
            "convolutions and its pools",
        ),
    )
    width_of = "horizontal.weight", 0
    renamed = {
        "conv1.conv": "before.conv",
        "conv1.bn": "before.norm",
        "h_conv.conv": "horizontal",
        "h_conv": "horizontal",
        "v_conv.conv": "vertical",
        "v_conv": "vertical",
        "conv2.conv": "after.conv",
        "conv2.bn": "after.norm",
    }

    def __init__(self, channels: int, *, h_kernel_size: int = 11, v_kernel_size: int = 11, norm: bool = True):
        super().__init__(channels)
        for name, value in (("h_kernel_size", h_kernel_size), ("v_kernel_size", v_kernel_size)):
            if value < 1 or value % 2 == 0:
                raise UserError(f"CAA({name}={value}): must be odd and positive", f"{name}={abs(value) | 1} fits")
        self.norm = norm
        self.before, self.after = (_pointwise(channels, norm) for _ in range(2))
        self.horizontal = nn.Conv2d(
            channels, channels, (1, h_kernel_size), padding=(0, h_kernel_size // 2), groups=channels
        )
        self.vertical = nn.Conv2d(
            channels, channels, (v_kernel_size, 1), padding=(v_kernel_size // 2, 0), groups=channels
        )

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        return x * self._gate(F.avg_pool2d(x, 7, 1, 3))

    def fast(self, x: Tensor) -> Tensor:
        """The same function with the mean over rows and columns one after the other."""
        return x * self.factor(x)

    def factor(self, x: Tensor) -> Tensor:
        """The gate of each element."""
        return self._gate(_mean7x7(x))

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`elements` (B, C, H, W)."""
        return {"elements": self._gate(_mean7x7(x))}

    def _gate(self, pooled: Tensor) -> Tensor:
        seen = self.vertical(self.horizontal(self._activated(self.before(pooled))))
        return self._activated(self.after(seen)).sigmoid()

    def _activated(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.norm else x


def _pointwise(channels: int, norm: bool) -> nn.Module:
    """A 1x1 convolution, `conv` in the state dict, with a norm or a bias."""
    if norm:
        return ConvNorm(nn.Conv2d(channels, channels, 1, bias=False), momentum=0.03, eps=0.001)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, channels, 1)))


def _mean7x7(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.avg_pool2d(x, (1, 7), 1, (0, 3)), (7, 1), 1, (3, 0))
