"""The attentions: one file, one class, one card each.

To add one, write its file and name its class in the tuple below; commands, YAML names and tests follow from it, and
`make docs` writes its card into the table that `foveal list` reads. A class of somebody else is found by its address,
see `_sources`, and is then an attention like ours, see `_custom`.
"""

import difflib
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from torch import nn

from ..errors import UserError
from . import _sources
from ._base import FORMS, PLAIN, Attention, BatchNorm, Card, ConvNorm, Form, Number, costs, forms
from ._custom import Custom, _restore, custom, of_class
from ._sources import timm_names
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


_Class = TypeVar("_Class", bound=type[nn.Module])


def register(name: str) -> Callable[[_Class], _Class]:
    """Let models call a class by a short name: `@foveal.register("mine")`, and then `foveal.add(model, "mine@neck")`.

    A process that loads such a model imports the class's module, which registers the name there, too.

    Args:
        name: of letters, digits and underscores; no attention of foveal has it.

    Raises:
        UserError: another name.
    """
    if not name.isidentifier() or _folded(name) in _NAMES:
        why = f"foveal has {_NAMES[_folded(name)].card.name}" if name.isidentifier() else "it is no word"
        raise UserError(f"{name!r} cannot be registered as an attention: {why}", '@foveal.register("my_attention")')

    def keep(cls: _Class) -> _Class:
        _sources.remember(name, cls)
        return cls

    return keep


def known(name: str) -> bool:
    """Whether a text has the form of an attention's name.

    That is a short name, class name or alias of ours in any case, `foveal.` before it or not, an address of somebody
    else's class, or a name that was registered.
    """
    return _folded(name) in _NAMES or _sources.is_address(name)


def _folded(name: str) -> str:
    return name.casefold().removeprefix("foveal.")


def mathematics(name: str) -> str:
    """What the file of the attention with this name says at its head; of somebody else's, what its class says."""
    cls = find(name)
    home = cls if issubclass(cls, Custom) else import_module(f".{cls.card.name}", __name__)
    return inspect.cleandoc(getattr(home, "__doc__", "") or "")


def find(name: str) -> type[Attention]:
    """The attention class called `name`, in one of the forms of `known`.

    Raises:
        UserError: no attention has that name; the hint gives the nearest one. Or an address leads to no class.
    """
    if _folded(name) in _NAMES:
        return _NAMES[_folded(name)]
    if _sources.is_address(name):
        return custom(name)
    if name.endswith(".py"):
        raise UserError(f"{name!r} is a file, and the class in it is not named", f"write {name}:MyAttention")
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
    "Custom",
    "Form",
    "Number",
    "_restore",
    "costs",
    "custom",
    "find",
    "forms",
    "known",
    "mathematics",
    "of_class",
    "register",
    "timm_names",
    *(cls.__name__ for cls in ATTENTIONS.values()),
]
