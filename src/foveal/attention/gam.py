r"""Global Attention Mechanism (GAM).

Paper: Liu, Shao, Hoffmann, "Global Attention Mechanism: Retain Information to Enhance Channel-Spatial Interactions",
arXiv:2112.05561. The authors published no code; read: two of the copies that circulate
(z1069614715/objectdetection_script and WengYan0619/Cargo-Yolov11); written from the mathematics.

    y   = x * sigmoid(conv1x1(relu(conv1x1(x))))           C to C // rate to C channels, at every position
    out = y * sigmoid(BN(conv7x7(relu(BN(conv7x7(y))))))   C to C // rate to C channels

The paper writes the first line as a perceptron on permuted axes. With groups, both 7x7 convolutions are grouped, and
the second gate's channels are shuffled: channel k of group g goes to k * groups + g.

Multiply-accumulates: 2*C*(C // rate) * (1 + 49 / groups) * H*W. There is no `fast` form of its own: the two 7x7
convolutions are the cost.
"""

from collections.abc import Mapping
from math import gcd

from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, ConvNorm, Form, Number, require_hidden, size


class GAM(Attention):
    """Global Attention Mechanism (Liu et al. 2021, arXiv:2112.05561).

    Args:
        channels: width of the input, at least `rate`.
        rate: both hidden widths are channels // rate.
        groups: of the 7x7 convolutions, whose parameters and work it divides; a divisor of channels and of
            channels // rate.

    Raises:
        UserError: a hidden layer would have no unit, or the widths are no multiples of `groups`.
    """

    card = Card(
        name="gam",
        title="Global Attention Mechanism",
        paper="https://arxiv.org/abs/2112.05561",
        year=2021,
        source="z1069614715/objectdetection_script",
        licence="none",
        kind="one gate per element, twice",
        paper_place="backbone",
        avoid="as a light addition: at 256 channels it has 1.6 million parameters, more than the layers it joins",
        aliases=("GAM_Attention",),
        constraints=(
            "at least `rate` channels",
            "groups divides channels and channels // rate",
            "any height and width",
        ),
        differs=(
            "the authors published no code: the numbers are those of two copies",
            "the paper shuffles channels where convolutions are grouped and does not say where; here as in the copies, "
            "after the last sigmoid",
        ),
        copies=(
            "the most copied class leaves out the sigmoid of the first half, so that its factor has no bounds, and the "
            "file of a model does not tell: none is converted",
            "that class groups by `rate` unless told not to and always shuffles by 4: groups=4 here",
        ),
        rows=(
            Form((Number("rate", (2, 4, 8, 16)),)),
            Form((Number("group", (0,)), Number("rate", (2, 4, 8, 16)))),
            Form((Number("group", (1,)), Number("rate", (4,))), implies={"groups": 4}),
        ),
        notes=(
            "heavy: 25*C*C + 5*C parameters at rate 4; with groups=4 it has 435,456 instead of 1,639,680 at 256 "
            "channels, and 0.7 instead of 2.6 billion multiply-accumulates at 40 x 40",
            "exported at its place in yolo11n it adds 163 % in ONNX Runtime and 134 % in OpenVINO, which are its "
            "7 x 7 convolutions; groups=4 has a quarter of their work",
        ),
    )
    width_of = "spatial2.conv.weight", 0
    renamed = {
        "channel_attention.0": "fc1",
        "channel_attention.2": "fc2",
        "spatial_attention.0": "spatial1.conv",
        "spatial_attention.1": "spatial1.norm",
        "spatial_attention.3": "spatial2.conv",
        "spatial_attention.4": "spatial2.norm",
    }

    def __init__(self, channels: int, *, rate: int = 4, groups: int = 1):
        super().__init__(channels)
        require_hidden(type(self), channels, "rate", rate, usual=4)
        hidden = channels // rate
        if groups < 1 or channels % groups or hidden % groups:
            common = gcd(channels, hidden)
            fits = max(n for n in range(1, max(groups, 1) + 1) if common % n == 0)
            raise UserError(
                f"GAM(channels={channels}, rate={rate}, groups={groups}): {channels} and {hidden} channels are no "
                "multiples of groups",
                f"groups={fits} fits",
            )
        self.groups = groups
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.spatial1, self.spatial2 = (
            ConvNorm(nn.Conv2d(*widths, 7, padding=3, groups=groups))
            for widths in ((channels, hidden), (hidden, channels))
        )

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, rate={self.channels // size(self.fc1.weight, 0)}, groups={self.groups}"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        y = x * self._first(x)
        return y * self._second(y)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`elements` (B, C, H, W), the product of both gates; the second sees the input weighed by the first."""
        first = self._first(x)
        return {"elements": first * self._second(x * first)}

    @classmethod
    def from_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Linear layers become 1x1 convolutions."""
        named = super().from_official(state_dict)
        return {name: t[:, :, None, None] if name.startswith("fc") and t.dim() == 2 else t for name, t in named.items()}

    def _first(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x).relu()).sigmoid()

    def _second(self, y: Tensor) -> Tensor:
        gate = self.spatial2(self.spatial1(y).relu()).sigmoid()
        if self.groups == 1:
            return gate
        batch, _, height, width = gate.shape
        by_group = gate.reshape(batch, self.groups, size(gate, 1) // self.groups, height, width)
        return by_group.transpose(1, 2).reshape(gate.shape)
