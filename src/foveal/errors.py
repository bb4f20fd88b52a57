"""The one exception a user of foveal is meant to see."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxstring = 3, 8, 8, 8, 120


def shown(value: object) -> str:
    """What was given, for a message: short, also where a few bytes of YAML stand for a million lists."""
    return _SHORT.repr(value)


class UserError(ValueError):
    """Something the user gave cannot work.

    Args:
        message: what was given and which rule it broke, in lower case and without a full stop.
        hint: one thing that does work.
    """

    def __init__(self, message: str, hint: str):
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message, self.hint = message, hint
