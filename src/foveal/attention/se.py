r"""Squeeze-and-Excitation (SE).

Paper: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507. Read: the authors' prototxt
(hujie-frank/SENet, Apache-2.0); written from the mathematics.

    out = x * sigmoid(linear(relu(linear(mean over H, W of x))))          C to C // reduction to C channels

Multiply-accumulates: 2*C*C / reduction. There is no `fast` form of its own: the cost is reading x twice.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from ._base import Attention, Card, Form, Number, require_hidden


class SqueezeExcitation(Attention):
    """Squeeze-and-Excitation (Hu et al. 2018, arXiv:1709.01507).

    Args:
        channels: width of the input, at least `reduction`.
        reduction: the hidden layer has channels // reduction units.
        bias: of both layers, as in the authors' networks. The usual PyTorch port has none.

    Raises:
        UserError: the hidden layer would have no unit.
    """

    card = Card(
        name="se",
        title="Squeeze-and-Excitation",
        paper="https://arxiv.org/abs/1709.01507",
        year=2018,
        source="hujie-frank/SENet",
        licence="Apache-2.0",
        kind="one gate per channel",
        paper_place="backbone",
        avoid="where position matters: it only knows the mean of each channel",
        aliases=("SEAttention", "SELayer"),
        constraints=("at least `reduction` channels", "any width and height"),
        differs=("the paper's formula has no bias, the authors' networks have: here bias=True",),
        copies=(
            "the usual PyTorch port has no bias: bias=False loads its weights",
            "timm rounds the hidden width to a multiple of 8",
        ),
        rows=(Form((Number("reduction", (2, 4, 8, 16, 32)),)),),
        notes=("no `fast` form: pooling and scaling is all it does",),
    )
    width_of = "fc2.weight", 0
    renamed = {"fc.0": "fc1", "fc.2": "fc2"}

    def __init__(self, channels: int, *, reduction: int = 16, bias: bool = True):
        super().__init__(channels)
        self.fc1, self.fc2 = bottleneck(type(self), channels, reduction, bias)

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        return x * self.factor(x)

    def factor(self, x: Tensor) -> Tensor:
        """The gate of each channel, (B, C, 1, 1)."""
        return self._gate(x)[:, :, None, None]

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`channel` (B, C)."""
        return {"channel": self._gate(x)}

    def _gate(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x.mean((2, 3))).relu()).sigmoid()

    @classmethod
    def from_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names as in the PyTorch port; 1x1 convolutions become linear layers."""
        named = super().from_official(state_dict)
        return {name: t.flatten(1) if name.endswith("weight") and t.dim() > 1 else t for name, t in named.items()}


def bottleneck(cls: type[Attention], channels: int, reduction: int, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """The two layers between C and C // reduction units.

    Raises:
        UserError: C // reduction is 0.
    """
    require_hidden(cls, channels, "reduction", reduction, usual=16)
    return nn.Linear(channels, channels // reduction, bias), nn.Linear(channels // reduction, channels, bias)
