r"""Large Selective Kernel block (LSKNet).

Paper: Li et al., "Large Selective Kernel Network for Remote Sensing Object Detection", ICCV 2023, arXiv:2303.09030.
Read: the authors' release (zcablii/LSKNet, CC BY-NC 4.0, not for commercial use); written from the mathematics.

    near = depthwise 5x5(x),  far = depthwise 7x7, dilation 3(near)       together they see 23 x 23 pixels
    a, b = conv1x1(near), conv1x1(far)                                     C to C // 2 channels each
    s, t = sigmoid(conv7x7([mean over channels | maximum over channels] of [a | b]))
    out  = x * conv1x1(a * s + b * t)                                      C // 2 to C channels

Multiply-accumulates for even C: (1.5*C*C + 74*C + 196) * H*W.
"""

import torch
from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, channel_mean


class LSKBlock(Attention):
    """Large Selective Kernel block (Li et al. 2023, arXiv:2303.09030): the gate alone.

    Args:
        channels: width of the input, at least 2.

    Raises:
        UserError: fewer than 2 channels.
    """

    card = Card(
        name="lsk",
        title="Large Selective Kernel",
        paper="https://arxiv.org/abs/2303.09030",
        year=2023,
        source="zcablii/LSKNet",
        licence="CC-BY-NC-4.0",
        kind="an unbounded factor per element, chosen between two fields of view",
        paper_place="backbone",
        avoid="on small maps: it looks 11 pixels far, which on 20 x 20 is mostly padding",
        constraints=("at least 2 channels", "any width and height"),
        differs=(
            "the authors' blocks put 1x1 convolutions, a GELU and a shortcut around this gate; here is the gate",
            "the authors initialise whole networks with N(0, 2 / fan_out); here are torch's defaults, as in the class",
        ),
        copies=("copies agree with the release but for the projections, the shortcut and the initial values",),
        notes=(
            "the sigmoids choose between the two branches; the factor itself has no bounds",
            "no `fast` form; in channels_last its depthwise convolutions are up to 1.8 times as fast on a CPU",
            "exported at its place in yolo11n it adds 44 % in ONNX Runtime and 28 % in OpenVINO: its depthwise "
            "convolutions, and the maximum over the channels",
        ),
    )
    width_of = "expand.weight", 0
    renamed = {
        "conv0": "local",
        "conv_spatial": "context",
        "conv1": "reduce_local",
        "conv2": "reduce_context",
        "conv_squeeze": "select",
        "conv": "expand",
    }

    def __init__(self, channels: int):
        super().__init__(channels)
        if channels < 2:
            raise UserError(f"LSKBlock(channels={channels}): needs at least 2 channels", "channels=2 fits")
        self.local = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.context = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.reduce_local = nn.Conv2d(channels, channels // 2, 1)
        self.reduce_context = nn.Conv2d(channels, channels // 2, 1)
        self.select = nn.Conv2d(2, 2, 7, padding=3)
        self.expand = nn.Conv2d(channels // 2, channels, 1)

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        near, far = self._views(x)
        return x * self._factor(near, far, self._choice(near, far))

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`spatial` (B, 2, H, W), the weights of the near and the far view, and `factor` (B, C, H, W)."""
        near, far = self._views(x)
        choice = self._choice(near, far)
        return {"spatial": choice, "factor": self._factor(near, far, choice)}

    def _views(self, x: Tensor) -> tuple[Tensor, Tensor]:
        near = self.local(x)
        return self.reduce_local(near), self.reduce_context(self.context(near))

    def _choice(self, near: Tensor, far: Tensor) -> Tensor:
        both = torch.cat([near, far], 1)
        return self.select(torch.cat([channel_mean(both), both.amax(1, keepdim=True)], 1)).sigmoid()

    def _factor(self, near: Tensor, far: Tensor, choice: Tensor) -> Tensor:
        return self.expand(near * choice[:, :1] + far * choice[:, 1:])
