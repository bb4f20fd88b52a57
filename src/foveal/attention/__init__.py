"""The attentions: one file, one class, one card each.

To add one, write its file and name its class in the tuple below; commands, YAML names and tests follow from it.
"""

import difflib
from importlib import import_module

from ..errors import UserError
from ._base import FORMS, PLAIN, Attention, BatchNorm, Card, ConvNorm, Form, Number, costs, forms
from .caa import CAA
from .cab import ChannelAttentionBlock
from .cbam import CBAM
from .coord import CoordAttention
from .cpca import CPCA
from .eca import ECA
from .ema import EMAttention
from .fla import FocusedLinearAttention
from .gam import GAM
from .hab import HybridAttentionBlock
from .lsk import LSKBlock
from .lska import LSKA
from .mhsa import MHSA
from .mlca import MLCA
from .msda import MSDA
from .nam import NAM
from .ocab import OverlappingCrossAttentionBlock
from .placebo import Placebo
from .sa import ShuffleAttention
from .scsa import SCSA
from .se import SqueezeExcitation
from .sea import SeaAttention
from .simam import SimAM
from .triplet import TripletAttention

ATTENTIONS: dict[str, type[Attention]] = {
    cls.card.name: cls
    for cls in (
        EMAttention,
        CoordAttention,
        LSKA,
        LSKBlock,
        MSDA,
        MHSA,
        FocusedLinearAttention,
        SeaAttention,
        ChannelAttentionBlock,
        HybridAttentionBlock,
        OverlappingCrossAttentionBlock,
        SqueezeExcitation,
        CBAM,
        ECA,
        ShuffleAttention,
        NAM,
        SimAM,
        TripletAttention,
        MLCA,
        GAM,
        CAA,
        SCSA,
        CPCA,
        Placebo,
    )
}

# Modules of ours that attentions are made of.
PARTS = (BatchNorm, ConvNorm)

# Checkpoints pickle a class by its path: `foveal.EMAttention` stays true when a file moves.
for _cls in ATTENTIONS.values():
    _cls.__module__ = "foveal"
for _part in PARTS:
    _part.__module__ = "foveal.attention"

_NAMES = {
    alias.casefold(): cls for cls in ATTENTIONS.values() for alias in (cls.card.name, cls.__name__, *cls.card.aliases)
}


def known(name: str) -> bool:
    """Whether `name` is an attention's short name, class name or alias, in any case, with or without `foveal.`."""
    return _folded(name) in _NAMES


def _folded(name: str) -> str:
    return name.casefold().removeprefix("foveal.")


def mathematics(name: str) -> str:
    """What the file of the attention with this short name says at its head."""
    return (import_module(f".{name}", __name__).__doc__ or "").strip()


def find(name: str) -> type[Attention]:
    """The attention class called `name`: its short name, class name or alias in any case, `foveal.` before it or not.

    Raises:
        UserError: no attention has that name; the hint gives the nearest one.
    """
    if known(name):
        return _NAMES[_folded(name)]
    near = difflib.get_close_matches(_folded(name), _NAMES, n=1, cutoff=0)[0]
    raise UserError(f"no attention is named {name!r}", f"did you mean {_NAMES[near].card.name!r}? (foveal list)")


__all__ = [
    "ATTENTIONS",
    "FORMS",
    "PARTS",
    "PLAIN",
    "Attention",
    "BatchNorm",
    "Card",
    "ConvNorm",
    "Form",
    "Number",
    "costs",
    "find",
    "forms",
    "known",
    "mathematics",
    *(cls.__name__ for cls in ATTENTIONS.values()),
]
