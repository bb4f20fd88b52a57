r"""Large Separable Kernel Attention (LSKA).

Paper: Lau, Po, Rehman, "Large Separable Kernel Attention: Rethinking the Large Kernel Attention Design in CNN", Expert
Systems with Applications 236 (2024), arXiv:2309.01439. Read: the authors' release
(StevenLauHKHK/Large-Separable-Kernel-Attention, Apache-2.0); written from the mathematics.

    out = x * conv1x1(column(row(column(row(x)))))

The first pair are depthwise 1 x k1 and k1 x 1 convolutions, the second 1 x k2 and k2 x 1 with dilation d, where
k1 = 2d - 1 and k2 = k // d: together they see k x k pixels. There is no sigmoid: the factor has no bounds.

Multiply-accumulates: (C*C + 2*C*(k1 + k2)) * H*W. A pair could be merged into one k x k kernel inside the map but not
at its border, where the first convolution's bias meets padding; so there is no `fast` form of its own.
"""

from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, Form, Number

_DILATION = {7: 2, 11: 2, 23: 3, 35: 3, 41: 3, 53: 3}  # the kernel sizes of the release


class LSKA(Attention):
    """Large Separable Kernel Attention (Lau et al. 2024, arXiv:2309.01439): the gate alone.

    Args:
        channels: width of the input.
        kernel_size: side of the square it sees: 7, 11, 23, 35, 41 or 53.

    Raises:
        UserError: a kernel size that the paper does not define.
    """

    card = Card(
        name="lska",
        title="Large Separable Kernel Attention",
        paper="https://arxiv.org/abs/2309.01439",
        year=2024,
        source="StevenLauHKHK/Large-Separable-Kernel-Attention",
        licence="Apache-2.0",
        kind="an unbounded factor per element",
        paper_place="sppf",
        avoid="where half precision is tight: the factor is unbounded and multiplies the input",
        constraints=("kernel_size is 7, 11, 23, 35, 41 or 53", "any width, height and channels"),
        differs=(
            "the authors' blocks put 1x1 convolutions, a GELU and a shortcut around this gate; here is the gate",
            "the authors initialise whole networks with N(0, 2 / fan_out); here are torch's defaults, as in the class",
            "the release's class accepts any kernel size and fails at the first call",
        ),
        copies=("detector copies often use k = 11 behind SPPF's concatenation, not where the paper has it",),
        rows=(Form((Number("kernel_size", (7, 11, 23, 35, 41, 53)),)),),
        notes=(
            "no sigmoid: nothing keeps the factor between 0 and 1",
            "no `fast` form: what copies of tensors it could do without is at most a tenth of its time on a CPU",
        ),
    )
    width_of = "mix.weight", 0
    renamed = {
        "conv0h": "local_h",
        "conv0v": "local_v",
        "conv_spatial_h": "dilated_h",
        "conv_spatial_v": "dilated_v",
        "conv1": "mix",
    }

    def __init__(self, channels: int, *, kernel_size: int = 7):
        super().__init__(channels)
        if kernel_size not in _DILATION:
            near = min(_DILATION, key=lambda k: abs(k - kernel_size))
            raise UserError(
                f"LSKA(kernel_size={kernel_size}): the paper defines {', '.join(map(str, _DILATION))}",
                f"kernel_size={near} fits",
            )
        dilation = _DILATION[kernel_size]
        self.local_h, self.local_v = _pair(channels, 2 * dilation - 1, 1)
        self.dilated_h, self.dilated_v = _pair(channels, kernel_size // dilation, dilation)
        self.mix = nn.Conv2d(channels, channels, 1)

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        return x * self._factor(x)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`factor` (B, C, H, W): without bounds, may be negative."""
        return {"factor": self._factor(x)}

    def _factor(self, x: Tensor) -> Tensor:
        return self.mix(self.dilated_v(self.dilated_h(self.local_v(self.local_h(x)))))


def _pair(channels: int, size: int, dilation: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A depthwise convolution along rows and one along columns that keep the size."""
    reach = dilation * (size - 1) // 2
    return (
        nn.Conv2d(channels, channels, (1, size), padding=(0, reach), dilation=dilation, groups=channels),
        nn.Conv2d(channels, channels, (size, 1), padding=(reach, 0), dilation=dilation, groups=channels),
    )
