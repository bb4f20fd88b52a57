"""The one exception a user of foveal is meant to see."""

import reprlib

_MOST = 10**6
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxstring = 3, 8, 8, 8, 120


def shown(value: object) -> str:
    """What was given, for a message: short, also where a few bytes of YAML stand for a million lists."""
    return _SHORT.repr(value)


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


class UserError(ValueError):
    """Something the user gave cannot work.

    Args:
        message: what was given and which rule it broke, in lower case and without a full stop.
        hint: one thing that does work.
    """

    def __init__(self, message: str, hint: str):
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message, self.hint = message, hint
