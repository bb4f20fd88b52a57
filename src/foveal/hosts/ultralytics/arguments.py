"""Arguments of Ultralytics as they are typed: `imgsz=640`, and bare names of boolean ones, such as `dynamic`."""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import UserError
from .parser import silent, without_lines  # before Ultralytics itself, because it says if that is missing or too old

# isort: split
from ultralytics import cfg as grammar

# Arguments that name a model whose file decides a training; older hosts have none.
TEACHERS = tuple(name for name in ("distill_model",) if name in grammar.DEFAULT_CFG_DICT)


def train_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """All training arguments, the host's own values where none is given.

    Raises:
        UserError: one the host does not know, or a value it refuses.
    """
    try:
        with without_lines("yolo TASK MODE ARGS"):  # the host's help, in forty lines
            grammar.check_dict_alignment(grammar.DEFAULT_CFG_DICT, given)
            return vars(grammar.get_cfg(overrides=given))
    except (SyntaxError, TypeError, ValueError) as error:
        said = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().partition("\n\n")[0].rstrip(". ")
        raise UserError(f"training arguments: {said}", "write for example epochs=50 imgsz=640") from None


def read(arguments: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Values by name, read as the host's own command reads them, and the words that are no argument of it.

    A name without a value means True where the argument is boolean. `=` may stand between spaces, and lists may have
    some, as in `imgsz=[96, 128]`.

    Raises:
        UserError: something with `=` that cannot be read, or an argument that needs a value and has none.
    """
    given, words = {}, []
    for argument in _merged(list(arguments)):
        argument = argument.removeprefix("--").removesuffix(",")
        if "=" in argument:
            try:
                key, value = grammar.parse_key_value_pair(argument)
            except (AssertionError, ValueError, SyntaxError):
                raise UserError(
                    f"cannot read {argument!r}: it has no value", "write key=value, as in imgsz=640"
                ) from None
            given[key] = value
        elif is_flag(argument):
            given[argument] = True
        elif argument in grammar.DEFAULT_CFG_DICT and argument not in grammar.MODES:
            like = grammar.DEFAULT_CFG_DICT[argument]
            hint = f"write {argument}= and the value" if like is None else f"write {argument}={like}"
            raise UserError(f"cannot read {argument!r}: it is no flag, it needs a value", hint)
        else:
            words.append(argument)
    return given, words


def key_values(arguments: Iterable[str]) -> dict[str, object]:
    """The same where words are not allowed.

    Raises:
        UserError: also for a word that is neither KEY=VALUE nor a flag.
    """
    given, words = read(arguments)
    if words:
        raise no_argument(words[0])
    return given


def no_argument(word: str) -> UserError:
    """What is wrong with a word that is neither KEY=VALUE nor a flag."""
    near = difflib.get_close_matches(word, filter(is_flag, grammar.DEFAULT_CFG_DICT), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "write key=value, as in format=onnx, or a flag, as in dynamic"
    return UserError(f"cannot read {word!r}: it is neither KEY=VALUE nor a flag of Ultralytics", hint)


@functools.cache
def is_flag(name: str) -> bool:
    """Whether an argument of the host is boolean, so that its bare name means True."""
    if name in (*grammar.TASKS, *grammar.MODES):  # `val` is both
        return False
    if name in grammar.DEFAULT_CFG_DICT:
        return isinstance(grammar.DEFAULT_CFG_DICT[name], bool) or name in grammar.CFG_BOOL_KEYS
    # Names that the host only translates, as `half` since 8.4: of a flag, False is what is so anyway.
    off, unsaid, on = (_translated(given) for given in ({name: False}, {}, {name: True}))
    return off == unsaid and on not in (unsaid, None)


def _translated(given: dict[str, bool]) -> dict[str, object] | None:
    """All arguments if these are given, None where the host knows no such name; without what it says meanwhile."""
    with silent():
        try:
            return vars(grammar.get_cfg(overrides=given))
        except (SyntaxError, TypeError, ValueError):
            return None


def _merged(arguments: list[str]) -> list[str]:
    try:
        return grammar.merge_equals_args(arguments)
    except (IndexError, SyntaxError):  # of a bracket without its other, and of what then stands alone
        raise UserError(
            f"cannot read {' '.join(arguments)!r}: a bracket is not closed", "write imgsz=[96,128]"
        ) from None
