"""Questions about values that users wrote, in YAML, in JSON or between parentheses."""

import types
import typing
from typing import Any

from .errors import UserError, shown

_MOST = 10**6


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value has a type: a plain one, a union, a dictionary or a sequence; a whole number is a float, too."""
    options = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(is_a(value, option) for option in options)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(is_a(part, options[1]) for part in value.values())
    if options:
        return isinstance(value, list | tuple) and all(is_a(part, options[0]) for part in value)
    return type(value) in ((int, float) if kind is float else (kind,))


def require_positive(**given: object) -> None:
    """Refuse whatever is no whole number above 0; None stands for a number that was not given.

    Raises:
        UserError: the first that is none.
    """
    for name, value in given.items():
        if value is not None and (type(value) is not int or value < 1):
            raise UserError(
                f"{name}={shown(value)} is no whole number above 0", f"{name}={640 if name == 'imgsz' else 16}"
            )


def endless(tree: object) -> bool:
    """Whether lists and dictionaries, written out, are more than a million values, as a few aliases of YAML can be."""
    return _values(tree, ()) > _MOST


def _values(tree: object, inside: tuple[int, ...]) -> int:
    """How many, counted no further than `_MOST`; what contains itself has more."""
    if not isinstance(tree, dict | list):
        return 1
    if id(tree) in inside:
        return _MOST + 1
    count = 1
    for part in [*tree, *tree.values()] if isinstance(tree, dict) else tree:
        count += _values(part, (*inside, id(tree)))
        if count > _MOST:
            break
    return count
