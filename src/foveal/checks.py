"""Questions about values that users wrote, in YAML, in JSON or between parentheses."""

import types
import typing
from typing import Any

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
