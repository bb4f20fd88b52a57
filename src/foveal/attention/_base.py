"""What every attention shares: its card, and the choice of the form that runs."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UserError

FORMS = ("reference", "fast")


@dataclass(frozen=True)
class Card:
    """What a user should know about an attention before trusting it.

    Attributes:
        name: short name, in commands, YAML files and file names.
        title: the paper's name for it.
        paper: address of the paper.
        year: of publication.
        kind: what its gate depends on, e.g. "spatial".
        paper_place: places where the authors put it, in the grammar of `foveal add --at`.
        aliases: other names that model YAMLs use for it.
        constraints: what it asks of its input.
        notes: what a user would otherwise find out late, one sentence each.
    """

    name: str
    title: str
    paper: str
    year: int
    kind: str
    paper_place: str
    aliases: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Attention(nn.Module):
    """A module that re-weighs a feature map: (B, C, H, W) to (B, C, H, W), same dtype, same memory format.

    A subclass has a `card`, takes `channels` first and everything else by keyword, and implements

    - `reference(x)`: the paper, box by box;
    - `fast(x)`: the same function and gradients for less work, in plain torch operations that export;
    - `gates(x)`: its maps by name, a dict of tensors with values in 0..1. Nothing is kept on the module.

    Attributes:
        channels: C.
        form: "auto", "reference" or "fast". All forms share one state dict. A form asked for by name is the one
            that runs; "auto" means `fast`.
    """

    card: ClassVar[Card]
    form: str = "auto"

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Run the chosen form.

        Raises:
            UserError: an unknown form, or an input that is not (B, channels, H, W).
        """
        # A tracer turns sizes into tensors and warns at the comparison; what it traces was checked before.
        if not torch.jit.is_tracing() and (x.dim() != 4 or x.shape[1] != self.channels):
            raise UserError(
                f"{self.card.name}: input has shape {tuple(x.shape)}, but must be (B, {self.channels}, H, W)",
                f"build it with channels={x.shape[1]}" if x.dim() == 4 else "add the batch dimension: x[None]",
            )
        form = "fast" if self.form == "auto" else self.form
        if form not in FORMS:
            raise UserError(f"{self.card.name}: no form is named {form!r}", f"forms: auto, {', '.join(FORMS)}")
        return getattr(self, form)(x)

    def fast(self, x: Tensor) -> Tensor:
        """The same function for less work; override where one exists."""
        return self.reference(x)


@torch.no_grad()
def costs(cls: type[Attention], channels: int = 256, size: int = 40) -> dict[str, int]:
    """Parameters, and floating-point operations of each form, on a (1, channels, size, size) input.

    A multiply-accumulate counts as two. Convolutions and matrix products are counted, as papers do; element-wise
    work, norms and pooling are not.
    """
    module = cls(channels).eval()
    x = torch.zeros(1, channels, size, size)
    counts = {"parameters": sum(p.numel() for p in module.parameters())}
    for form in FORMS:
        with FlopCounterMode(display=False) as counter:
            getattr(module, form)(x)
        counts[f"flops_{form}"] = counter.get_total_flops()
    return counts
