"""What to put where, as text: `ema`, `ema(groups=8)`, `ema(groups=8, start=paper)@neck,backbone.P4`."""

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..attention import find
from ..checks import is_a
from ..errors import UserError

STARTS = ("identity", "paper")

_FORM = re.compile(r"\s*(?P<name>(?:foveal\.)?\w+)\s*(?:\((?P<arguments>.*)\))?\s*(?:@(?P<places>[^()]*))?")


@dataclass(frozen=True)
class Spec:
    """One attention, its arguments and its places.

    Attributes:
        name: short name of the attention.
        arguments: keyword arguments of its constructor, without `channels`.
        start: "identity" (the module leaves its input unchanged until trained), "paper" (the bare module), or None
            where the text leaves it to the reader: identity when attached to a layer, paper in a row of its own.
        places: names of places or row numbers, as `foveal add --at` takes them.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    places: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        cls = find(self.name)
        object.__setattr__(self, "name", cls.card.name)
        takes = dict(list(inspect.signature(cls).parameters.items())[1:])
        for argument, value in self.arguments.items():
            if argument not in takes:
                names = ", ".join([*takes, "start"])
                raise UserError(f"{self.name} has no argument {argument!r}", f"it takes {names}")
            if not is_a(value, takes[argument].annotation):
                kind = inspect.formatannotation(takes[argument].annotation).replace("collections.abc.", "")
                example = f"{argument}={takes[argument].default}"
                raise UserError(
                    f"{self.name}: {argument}={value!r} is not of type {kind}", f"write for example {example}"
                )
        if self.start is not None and self.start not in STARTS:
            raise UserError(f"{self.name}: start={self.start!r} is not a way to start", "start=identity or start=paper")

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read the form `str` writes.

        Raises:
            UserError: the text has another form, or names an unknown attention, argument or start.
        """
        match = _FORM.fullmatch(text)
        if not match:
            raise UserError(f"cannot read {text!r} as an attention", "write for example ema(groups=8)@neck")
        arguments = read_arguments(match["arguments"] or "", text, "ema(groups=8)")
        places = tuple(p.strip() for p in match["places"].split(",")) if match["places"] else ()
        return cls.of(match["name"], arguments, places)

    @classmethod
    def of(cls, name: str, arguments: Mapping[str, Any], places: tuple[str, ...] = ()) -> "Spec":
        """A spec from arguments that may include `start`."""
        arguments = dict(arguments)
        start = arguments.pop("start", None)
        return cls(name, arguments, start, places)

    def given(self, at: str | Sequence[str] = (), start: str | None = None) -> "Spec":
        """This spec with the places and the start that stand beside it.

        Raises:
            UserError: one of them is given twice.
        """
        at = tuple(p.strip() for p in at.split(",") if p.strip()) if isinstance(at, str) else tuple(at)
        if at and self.places:
            raise UserError(
                f"two places are given, {str(self)!r} and {','.join(at)!r}", "give one, as in ema --at neck"
            )
        if start and self.start and start != self.start:
            raise UserError(f"two starts are given, {str(self)!r} and {start!r}", "give one, as in ema --start paper")
        return replace(self, places=at or self.places, start=start or self.start)

    def settings(self) -> dict[str, object]:
        """The arguments together with `start`, as a model YAML writes them."""
        return {**self.arguments, **({"start": self.start} if self.start else {})}

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.settings().items())
        return self.name + (f"({inside})" if inside else "") + (f"@{','.join(self.places)}" if self.places else "")


def read_arguments(inside: str, text: str, example: str) -> dict[str, Any]:
    """What stands between the parentheses of `text`: Python's keywords and values, where a bare word means itself.

    Raises:
        UserError: something else stands there.
    """
    try:
        call = ast.parse(f"_({inside})", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError("a second pair of parentheses")
        read = {
            k.arg: k.value.id if isinstance(k.value, ast.Name) else ast.literal_eval(k.value)
            for k in call.keywords
            if k.arg
        }
        if call.args or len(read) < len(call.keywords):
            raise ValueError("a value without a name, or a name twice")
    except (SyntaxError, TypeError, ValueError):
        raise UserError(f"cannot read the arguments of {text!r}", f"write for example {example}") from None
    return read
