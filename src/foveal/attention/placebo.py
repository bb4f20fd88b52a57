r"""Placebo: EMA's parameters behind a gate that sees no input.

The control arm of a study: whatever it gains over the plain model comes from more parameters, from another course of
the training or from chance, and not from attention. EMA is computed on a single pixel of ones instead of on x:

    out = x * EMA's map of a 1 x 1 map of ones             one number, the same at every position of every image

Parameters have the names and shapes of `ema`. Those that a single pixel cannot reach (the norm's weight, the strips'
convolution, eight of nine taps) get a gradient of zero.
"""

from dataclasses import replace

from torch import Tensor, nn

from ._base import Attention, size
from .ema import EMAttention


class Placebo(EMAttention):
    """`EMAttention` with a gate that no input can change.

    Args:
        channels: width of the input; a multiple of `groups`.
        groups: as in `EMAttention`.

    Raises:
        UserError: `channels` is not a positive multiple of `groups`.
    """

    card = replace(
        EMAttention.card,
        name="placebo",
        title="Placebo (EMA's parameters, no attention)",
        source="",
        licence="Apache-2.0",
        kind="one learned constant",
        avoid="in a model that is meant to be good: it is the control arm of a study",
        aliases=(),
        differs=("no paper has it; it shares EMA's parameters and place",),
        copies=(),
        notes=("costs less time than EMA, since its gate is computed from one pixel",),
    )

    # EMA's other forms save nothing on one pixel.
    fast, kernel, chosen, why_not = Attention.fast, Attention.kernel, Attention.chosen, Attention.why_not

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`spatial` (B, groups, H, W): the same number everywhere."""
        return {"spatial": self._reference_map(x).expand(x.shape[0], -1, *x.shape[2:])}

    def folded(self, gain: Tensor | None = None) -> nn.Module:
        """The number of each channel, the gain of an identity start inside."""
        weight = self.conv1x1.weight
        scale = super()._reference_map(weight.new_ones(1, self.group_width, 1, 1)).detach().flatten()  # of every group
        return _Folded(scale if gain is None else 1 + gain.detach() * (scale - 1))

    def _reference_map(self, x: Tensor) -> Tensor:
        return super()._reference_map(x.new_ones(1, size(x, 1), 1, 1))


class _Folded(nn.Module):
    """x times one number, or one a channel."""

    scale: Tensor

    def __init__(self, scale: Tensor):
        super().__init__()
        self.register_buffer("scale", scale.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return x * self.scale.to(x.dtype)
