"""The one exception a user of foveal is meant to see, and what its messages are made of."""

import importlib.util
import reprlib
from collections.abc import Iterable

# What code of others raises that is given what it does not know or cannot use: layers, builders, converters, readers.
REFUSALS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
)

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxstring = 3, 8, 8, 8, 120


def shown(value: object) -> str:
    """What was given, for a message: short, also where a few bytes of YAML stand for a million lists."""
    return _SHORT.repr(value)


def one_line(error: BaseException, named: bool = False) -> str:
    """What an exception says, for a message: at most 300 characters, after the name of its class if `named`."""
    text = str(error).partition("\nException raised from")[0]  # behind which torch lists calls of its C++ code
    kind = type(error).__name__
    return " ".join((f"{kind}: {text}" if named else text or kind).split())[:300].rstrip(".")


def require_installed(whose: str, packages: Iterable[str], install: str) -> None:
    """Check that packages are there which only some of foveal needs.

    Args:
        whose: what needs them.
        packages: by the names by which they are imported.
        install: what pip is given for all of them.

    Raises:
        UserError: one is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{whose} needs {package}, which is not installed", f"pip install {install}")


class UserError(ValueError):
    """Something the user gave cannot work.

    Args:
        message: what was given and which rule it broke, in lower case and without a full stop.
        hint: one thing that does work.
    """

    def __init__(self, message: str, hint: str):
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message, self.hint = message, hint


def damaged(what: object, error: Exception) -> UserError:
    """What is wrong with a file in the folder of a cell, or with what it should hold, where it cannot be read."""
    said = one_line(error, named=not isinstance(error, UserError))
    return UserError(f"cannot read {what}: {said}", "delete its folder and run the study again")
