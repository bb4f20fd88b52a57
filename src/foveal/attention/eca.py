r"""Efficient Channel Attention (ECA).

Paper: Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020,
arXiv:1910.03151. Read: the authors' release (BangguWu/ECANet, MIT); written from the mathematics.

    out = x * sigmoid(conv over channels(mean over H, W of x))           one kernel of k weights, zero padding, no bias

k follows from C: t = int((log2(C) + 1) / 2), made odd upwards.
Multiply-accumulates: k*C. There is no `fast` form of its own: the cost is reading x twice.
"""

from math import log2

from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, Form, Number


class ECA(Attention):
    """Efficient Channel Attention (Wang et al. 2020, arXiv:1910.03151).

    Args:
        channels: width of the input.
        kernel_size: odd number of neighbouring channels that a gate sees; None follows the paper's rule, 3 at 8 to
            127 channels, 5 at 128 to 2047.

    Raises:
        UserError: an even or negative kernel size.
    """

    card = Card(
        name="eca",
        title="Efficient Channel Attention",
        paper="https://arxiv.org/abs/1910.03151",
        year=2020,
        source="BangguWu/ECANet",
        licence="MIT",
        kind="one gate per channel",
        paper_place="backbone",
        avoid="where position matters: it only knows the mean of each channel",
        aliases=("ECAAttention",),
        constraints=("kernel_size is odd", "any width, height and channels"),
        differs=(
            "the paper says the nearest odd number, which is two numbers at 128 channels; the code takes the larger",
            "the released networks set k by hand: ECA-Net50 has 3, 5, 5, 7 where the rule gives 5, 5, 5, 7",
        ),
        copies=("copies agree with the release; timm does not go below k = 3, this rule gives 1 below 8 channels",),
        rows=(
            Form((Number("kernel_size", (3, 5, 7, 9)),)),
            Form((Number("gamma", (2,)), Number("b", (1,)))),
        ),
        notes=("no `fast` form: pooling and scaling is all it does",),
    )

    def __init__(self, channels: int, *, kernel_size: int | None = None):
        super().__init__(channels)
        if kernel_size is None:
            kernel_size = int((log2(channels) + 1) / 2) | 1
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(
                f"ECA(kernel_size={kernel_size}): must be odd and positive", f"kernel_size={abs(kernel_size) | 1} fits"
            )
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

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
        return self.conv(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
