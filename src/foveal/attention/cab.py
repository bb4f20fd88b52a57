r"""Channel Attention Block (CAB) of HAT.

Paper: Chen et al., "Activating More Pixels in Image Super-Resolution Transformer", CVPR 2023, arXiv:2205.04437. Read:
the authors' release (XPixelGroup/HAT, Apache-2.0); written from the mathematics.

    y   = conv3x3(gelu(conv3x3(x)))                                        C to C // beta to C channels
    out = y * sigmoid(conv1x1(relu(conv1x1(mean over H, W of y))))         C to C // gamma to C channels

Multiply-accumulates: 18*C*(C // beta)*H*W. There is no `fast` form of its own: the two convolutions are the cost.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Attention, Card, Form, Number, require_hidden


class ChannelAttentionBlock(Attention):
    """Channel Attention Block of HAT (Chen et al. 2023, arXiv:2205.04437).

    Args:
        channels: width of the input.
        compress_ratio: beta, the convolutions' inner width is channels // beta.
        squeeze_factor: gamma, the gate's inner width is channels // gamma.

    Raises:
        UserError: one of the inner widths would be 0.
    """

    card = Card(
        name="cab",
        title="HAT's Channel Attention Block",
        paper="https://arxiv.org/abs/2205.04437",
        year=2023,
        source="XPixelGroup/HAT",
        licence="Apache-2.0",
        kind="two convolutions, then one gate per channel",
        paper_place="P4",
        avoid="as a cheap gate: two 3x3 convolutions make it as dear as a layer of the backbone",
        constraints=("at least compress_ratio and squeeze_factor channels", "any height and width"),
        differs=("the paper scales it by 0.01 and adds it to window attention (hab); alone it has no shortcut",),
        copies=(
            "a much copied HAT for YOLO builds the whole super-resolution network without its upsampler: its output is "
            "its input, and not one of its 5 million parameters gets a gradient",
        ),
        rows=(
            Form((Number("compress_ratio", (2, 3, 4)),)),
            Form((Number("compress_ratio", (2, 3, 4)), Number("squeeze_factor", (8, 16, 30)))),
        ),
        notes=("its output is not a re-weighed input: bare, it replaces what the layer computed",),
    )
    width_of = "conv2.weight", 0
    renamed = {"cab.0": "conv1", "cab.2": "conv2", "cab.3.attention.1": "fc1", "cab.3.attention.3": "fc2"}

    def __init__(self, channels: int, *, compress_ratio: int = 3, squeeze_factor: int = 30):
        super().__init__(channels)
        require_hidden(type(self), channels, "compress_ratio", compress_ratio, usual=3)
        require_hidden(type(self), channels, "squeeze_factor", squeeze_factor, usual=30)
        self.conv1 = nn.Conv2d(channels, channels // compress_ratio, 3, padding=1)
        self.conv2 = nn.Conv2d(channels // compress_ratio, channels, 3, padding=1)
        self.fc1 = nn.Conv2d(channels, channels // squeeze_factor, 1)
        self.fc2 = nn.Conv2d(channels // squeeze_factor, channels, 1)

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        y = self._features(x)
        return y * self._gate(y)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`channel` (B, C), the gate of the two convolutions' output."""
        return {"channel": self._gate(self._features(x)).flatten(1)}

    def _features(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.conv1(x)))

    def _gate(self, y: Tensor) -> Tensor:
        return self.fc2(self.fc1(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
