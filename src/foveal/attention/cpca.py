r"""Channel Prior Convolutional Attention (CPCA).

Paper: Huang et al., "Channel prior convolutional attention for medical image segmentation", Computers in Biology and
Medicine 178 (2024), arXiv:2306.05196. Read: the authors' release (Cuthbert-Huang/CPCANet, Apache-2.0); written from the
mathematics.

    u    = gelu(mix(x))                                                    mix: one 1x1 convolution, used three times
    y    = u * (sigmoid(mlp(mean over H, W of u)) + sigmoid(mlp(maximum over H, W of u)))
    v    = depthwise 5x5(y)
    s    = v + strip_7(v) + strip_11(v) + strip_21(v)                      strip_k: depthwise 1 x k, then k x 1
    out  = mix(mix(s) * y)

mlp: C to C // reduction to C channels, ReLU between them.

Multiply-accumulates: (3*C*C + 103*C) * H*W + 4*C*(C // reduction). There is no `fast` form of its own: a strip could be
merged into one k x k kernel inside the map but not at its border, and would cost more.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Attention, Card, Form, Number, require_hidden

_STRIPS = (7, 11, 21)


class CPCA(Attention):
    """Channel Prior Convolutional Attention (Huang et al. 2024, arXiv:2306.05196).

    Args:
        channels: width of the input, at least `reduction`.
        reduction: the hidden layer of the channel half has channels // reduction units.

    Raises:
        UserError: the hidden layer would have no unit.
    """

    card = Card(
        name="cpca",
        title="Channel Prior Convolutional Attention",
        paper="https://arxiv.org/abs/2306.05196",
        year=2024,
        source="Cuthbert-Huang/CPCANet",
        licence="Apache-2.0",
        kind="two gates per channel, then an unbounded factor per element",
        paper_place="backbone",
        avoid="for latency: one 1x1 convolution runs three times, and seven depthwise ones beside it",
        constraints=("at least `reduction` channels", "any width and height"),
        differs=(
            "the paper describes one 1x1 convolution, on the factor; the release calls that same convolution on the "
            "input, with a GELU, and on the output, too: here as released",
            "the paper's formula adds what both poolings give before one sigmoid; the release adds two sigmoids, so "
            "that a channel is weighed by up to 2: here as released",
            "the class reduces by 4, the released networks by 8 and 16",
        ),
        copies=(
            "some copies take one sigmoid of the sum, as the paper has it: another function with the same tensors",
            "the copy beside SCSA reduces by 16: 102,416 instead of 127,040 parameters at 256 channels",
        ),
        rows=(Form((Number("reduction", (2, 4, 8, 16)),)),),
        notes=(
            "its output is not a re-weighed input: bare, it replaces what the layer computed",
            "no sigmoid on the factor: nothing keeps it between 0 and 1",
            "it looks 12 pixels far, which on 20 x 20 is mostly padding",
            "exported at its place in yolo11n it adds 55 % in ONNX Runtime and 49 % in OpenVINO, which are its "
            "three 1x1 and seven depthwise convolutions",
        ),
    )
    width_of = "mix.weight", 0
    renamed = {
        "ca.fc1": "fc1",
        "ca.fc2": "fc2",
        "dconv5_5": "local",
        **{f"dconv1_{size}": f"rows.{index}" for index, size in enumerate(_STRIPS)},
        **{f"dconv{size}_1": f"columns.{index}" for index, size in enumerate(_STRIPS)},
        "conv": "mix",
    }

    def __init__(self, channels: int, *, reduction: int = 4):
        super().__init__(channels)
        require_hidden(type(self), channels, "reduction", reduction, usual=4)
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)
        self.local = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.rows, self.columns = (
            nn.ModuleList(
                nn.Conv2d(channels, channels, shape, padding=(shape[0] // 2, shape[1] // 2), groups=channels)
                for shape in shapes
            )
            for shapes in ([(1, size) for size in _STRIPS], [(size, 1) for size in _STRIPS])
        )
        self.mix = nn.Conv2d(channels, channels, 1)

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        u = F.gelu(self.mix(x))
        y = u * sum(self._channel(u))
        return self.mix(self._factor(y) * y)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`channel` (B, 2C): the gates from means, then those from maxima, whose sum weighs; `factor` (B, C, H, W).

        Both weigh what the first convolution makes of the input, and the factor sees it weighed by the sum.
        """
        u = F.gelu(self.mix(x))
        means, maxima = self._channel(u)
        factor = self._factor(u * (means + maxima))
        return {"channel": torch.cat([means, maxima], 1).flatten(1), "factor": factor}

    def _channel(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Two gates per channel, (B, C, 1, 1)."""
        means, maxima = u.mean((2, 3), keepdim=True), u.amax((2, 3), keepdim=True)
        return self._mlp(means).sigmoid(), self._mlp(maxima).sigmoid()

    def _mlp(self, pooled: Tensor) -> Tensor:
        return self.fc2(self.fc1(pooled).relu())

    def _factor(self, y: Tensor) -> Tensor:
        near = self.local(y)
        far = [column(row(near)) for row, column in zip(self.rows, self.columns, strict=True)]
        return self.mix(sum(far, near))
