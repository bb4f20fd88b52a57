"""What to put where, as text: `ema`, `ema(groups=8)`, `ema(groups=8, start=paper)@neck,backbone.P4`."""

import ast
import inspect
import re
from dataclasses import dataclass, field

from .attention import find
from .errors import UserError

STARTS = ("identity", "paper")

_FORM = re.compile(r"\s*(?P<name>\w+)\s*(?:\((?P<arguments>[^()]*)\))?\s*(?:@(?P<places>.*))?")


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
    arguments: dict[str, object] = field(default_factory=dict)
    start: str | None = None
    places: tuple[str, ...] = ()

    def __post_init__(self):
        cls = find(self.name)
        object.__setattr__(self, "name", cls.card.name)
        allowed = [p for p in inspect.signature(cls).parameters if p != "channels"]
        for argument in self.arguments:
            if argument not in allowed:
                takes = ", ".join([*allowed, "start"])
                raise UserError(f"{self.name} has no argument {argument!r}", f"it takes {takes}")
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
        arguments = {}
        for part in filter(None, (p.strip() for p in (match["arguments"] or "").split(","))):
            key, equals, value = (p.strip() for p in part.partition("="))
            if not (equals and key and value):
                raise UserError(f"cannot read {part!r} in {text!r} as an argument", "write for example groups=8")
            arguments[key] = _literal(value)
        places = tuple(p.strip() for p in match["places"].split(",")) if match["places"] else ()
        return cls.of(match["name"], arguments, places)

    @classmethod
    def of(cls, name: str, arguments: dict[str, object], places: tuple[str, ...] = ()) -> "Spec":
        """A spec from arguments that may include `start`."""
        arguments = dict(arguments)
        start = arguments.pop("start", None)
        return cls(name, arguments, start, places)

    def settings(self) -> dict[str, object]:
        """The arguments together with `start`, as a model YAML writes them."""
        return {**self.arguments, **({"start": self.start} if self.start else {})}

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.settings().items())
        return self.name + (f"({inside})" if inside else "") + (f"@{','.join(self.places)}" if self.places else "")


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
