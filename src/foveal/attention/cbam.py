r"""Convolutional Block Attention Module (CBAM).

Paper: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv:1807.06521. Read: the
authors' release (Jongchan/attention-module, MIT); written from the mathematics.

    y   = x * sigmoid(mlp(mean over H, W of x) + mlp(maximum over H, W of x))       C to C // reduction to C, ReLU
    out = y * sigmoid(BN(conv7x7([maximum over channels of y | mean over channels of y])))

Multiply-accumulates: 4*C*C / reduction + 98*H*W. There is no `fast` form of its own: one call of the perceptron
for both poolings was measured and gains nothing.
"""

import torch
from torch import Tensor, nn

from ._base import Attention, Card, ConvNorm, Form, Number, channel_mean
from .se import bottleneck


class CBAM(Attention):
    """Convolutional Block Attention Module (Woo et al. 2018, arXiv:1807.06521).

    Args:
        channels: width of the input, at least `reduction`.
        reduction: the hidden layer of the channel half has channels // reduction units.

    Raises:
        UserError: the hidden layer would have no unit.
    """

    card = Card(
        name="cbam",
        title="Convolutional Block Attention Module",
        paper="https://arxiv.org/abs/1807.06521",
        year=2018,
        source="Jongchan/attention-module",
        licence="MIT",
        kind="one gate per channel, then one map",
        paper_place="backbone",
        avoid="for training speed: the gradient of its maxima costs more than all the rest",
        constraints=("at least `reduction` channels", "any width and height"),
        differs=(
            "the paper's spatial half has no norm, the release has a batch norm without bias before: here as released",
            "the release's ResNet starts that norm's weight at 0 (a gate of 1/2); the module by itself starts at 1",
        ),
        copies=(
            "many copies drop the batch norm, add a bias and pool (mean, max): swap the 7x7 kernel's inputs",
            "Ultralytics' own CBAM has one full C x C layer, no hidden layer and no maximum: 65,792 instead of 8,564 "
            "parameters at 256 channels, and another function",
        ),
        rows=(
            Form((Number("kernel_size", (7,)),)),
            Form((Number("reduction", (2, 4, 8, 16, 32)),)),
            Form((Number("reduction", (2, 4, 8, 16, 32)), Number("kernel_size", (7,)))),
        ),
        notes=(
            "its batch norm keeps the authors' momentum of 0.01 inside a YOLO, too",
            "no `fast` form: what speeds up its forward pass on a CPU slows its training down",
            "exported at its place in yolo11n it adds 25 % in ONNX Runtime and 8 % in OpenVINO: much of it the "
            "maximum over the channels of the largest maps, which ONNX Runtime is slow at",
        ),
    )
    width_of = "fc2.weight", 0
    renamed = {
        "ChannelGate.mlp.1": "fc1",
        "ChannelGate.mlp.3": "fc2",
        "SpatialGate.spatial.conv": "spatial.conv",
        "SpatialGate.spatial.bn": "spatial.norm",
    }

    def __init__(self, channels: int, *, reduction: int = 16):
        super().__init__(channels)
        self.fc1, self.fc2 = bottleneck(type(self), channels, reduction)
        self.spatial = ConvNorm(nn.Conv2d(2, 1, 7, padding=3, bias=False), momentum=0.01)

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        x = x * self._channel(x)[:, :, None, None]
        return x * self._map(x)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`channel` (B, C), and `spatial` (B, 1, H, W), which sees the input weighed by `channel`."""
        channel = self._channel(x)
        return {"channel": channel, "spatial": self._map(x * channel[:, :, None, None])}

    def _mlp(self, pooled: Tensor) -> Tensor:
        return self.fc2(self.fc1(pooled).relu())

    def _channel(self, x: Tensor) -> Tensor:
        return (self._mlp(x.mean((2, 3))) + self._mlp(x.amax((2, 3)))).sigmoid()

    def _map(self, x: Tensor) -> Tensor:
        return self.spatial(torch.cat([x.amax(1, keepdim=True), channel_mean(x)], 1)).sigmoid()
