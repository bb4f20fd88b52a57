"""The attentions: one file, one class, one card each.

To add one, write its file and name its class in the tuple below; commands, YAML names and tests follow from it.
"""

import difflib

from ..errors import UserError
from ._base import FORMS, Attention, Card, costs
from .ema import EMAttention

ATTENTIONS: dict[str, type[Attention]] = {cls.card.name: cls for cls in (EMAttention,)}

# Checkpoints pickle a class by its path: `foveal.EMAttention` stays true when a file moves.
for _cls in ATTENTIONS.values():
    _cls.__module__ = "foveal"

_NAMES = {
    alias.casefold(): cls for cls in ATTENTIONS.values() for alias in (cls.card.name, cls.__name__, *cls.card.aliases)
}


def known(name: str) -> bool:
    """Whether `name` is an attention's short name, class name or alias, in any case."""
    return name.casefold() in _NAMES


def find(name: str) -> type[Attention]:
    """The attention class called `name`: its short name, class name or alias, in any case.

    Raises:
        UserError: no attention has that name; the hint gives the nearest one.
    """
    if known(name):
        return _NAMES[name.casefold()]
    near = difflib.get_close_matches(name.casefold(), _NAMES, n=1, cutoff=0)[0]
    raise UserError(f"no attention is named {name!r}", f"did you mean {_NAMES[near].card.name!r}? (foveal list)")


__all__ = ["ATTENTIONS", "FORMS", "Attention", "Card", "EMAttention", "costs", "find", "known"]
