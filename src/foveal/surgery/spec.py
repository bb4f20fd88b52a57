"""What to put where, as text: `ema`, `ema(groups=8)`, `ema(groups=8, start=paper)@neck,backbone.P4`."""

import ast
import inspect
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..attention import ATTENTIONS, Custom, find, of_class
from ..checks import is_a
from ..errors import UserError
from ..files import beside

STARTS = ("identity", "paper")

_FORM = re.compile(r"\s*(?P<name>(?:foveal\.)?\w+|[^()@]+:\w+)\s*(?:\((?P<arguments>.*)\))?\s*(?:@(?P<places>[^()]*))?")


@dataclass(frozen=True)
class Spec:
    """One attention, its arguments and its places.

    Attributes:
        name: short name of the attention, or the address of somebody else's class.
        arguments: keyword arguments of its constructor, without `channels`.
        replace: whether it stands in the place of a part of a layer, which its places then mean.
        start: "identity" (the module leaves its input unchanged until trained), "paper" (the bare module), or None
            where the text leaves it to the reader: identity when attached to a layer, paper in a row of its own.
        places: names of places or row numbers, as `foveal add --at` takes them.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    places: tuple[str, ...] = ()
    replace: bool = False

    def __post_init__(self) -> None:
        cls = find(self.name)
        object.__setattr__(self, "name", cls.card.name)
        takes = dict(list(inspect.signature(cls).parameters.items())[1:])
        for argument, value in self.arguments.items():
            if argument not in takes:
                names = ", ".join([*takes, "start"])
                raise UserError(f"{self.name} has no argument {argument!r}", f"it takes {names}")
            annotation = takes[argument].annotation
            if annotation is not inspect.Parameter.empty and not is_a(value, annotation):
                kind = inspect.formatannotation(annotation).replace("collections.abc.", "")
                example = f"{argument}={takes[argument].default}"
                raise UserError(
                    f"{self.name}: {argument}={value!r} is not of type {kind}", f"write for example {example}"
                )
        if type(self.replace) is not bool:
            raise UserError(f"{self.name}: replace={self.replace!r} is neither True nor False", "replace=True")
        if self.replace and self.start == "identity":
            raise UserError(
                f"{self.name} cannot replace a part and start as the identity, which that part is not",
                "leave start out, or attach it behind the part",
            )
        if self.start is not None and self.start not in STARTS:
            raise UserError(f"{self.name}: start={self.start!r} is not a way to start", "start=identity or start=paper")

    @classmethod
    def parse(cls, text: str, folder: Path = Path()) -> "Spec":
        """Read the form `str` writes.

        Args:
            text: in that form.
            folder: where the file of somebody else's class is looked for first.

        Raises:
            UserError: the text has another form, or names an unknown attention, argument or start.
        """
        if ".py" not in text:  # whose path may have any letters
            _require_half_width(text)
        match = _FORM.fullmatch(text)
        if not match:
            named = re.sub(r"\.py(?!:)", ".py:ItsClass", text, count=1)
            example = f"name its class, as in {named}" if named != text else "write for example ema(groups=8)@neck"
            raise UserError(f"cannot read {text!r} as an attention", example)
        arguments = read_arguments(match["arguments"] or "", text, "ema(groups=8)")
        places = tuple(p.strip() for p in match["places"].split(",")) if match["places"] else ()
        home, colon, name = match["name"].rpartition(":")
        home = beside(home, folder) if home.endswith(".py") else home
        return cls.of(f"{home}{colon}{name}", arguments, places)

    @classmethod
    def of(cls, name: str, arguments: Mapping[str, Any], places: tuple[str, ...] = ()) -> "Spec":
        """A spec from arguments that may include `start` and `replace`."""
        arguments = dict(arguments)
        start, replaces = arguments.pop("start", None), arguments.pop("replace", False)
        return cls(name, arguments, start, places, replaces)

    def given(self, at: str | int | Sequence[str | int] = (), start: str | None = None) -> "Spec":
        """This spec with the places and the start that stand beside it.

        Raises:
            UserError: one of them is given twice.
        """
        _require_half_width(str(at))
        named = str(at).split(",") if isinstance(at, str | int) else map(str, at)
        at = tuple(place.strip() for place in named if place.strip())
        if at and self.places:
            raise UserError(
                f"two places are given, {str(self)!r} and {','.join(at)!r}", "give one, as in ema --at neck"
            )
        if start and self.start and start != self.start:
            raise UserError(f"two starts are given, {str(self)!r} and {start!r}", "give one, as in ema --start paper")
        return replace(self, places=at or self.places, start=start or self.start)

    @property
    def label(self) -> str:
        """The name in names of files: of somebody else's attention that of its class."""
        return self.name.rpartition(":")[2]

    @property
    def identity(self) -> str:
        """What it is, wherever its files lie: of somebody else's class also a digest of the file, or its version."""
        cls = find(self.name)
        if not issubclass(cls, Custom):
            return str(self)
        return str(self).replace(self.name, f"{self.label}[{cls.source.digest}]", 1)

    @property
    def row(self) -> str:
        """What a row of its own is called, `foveal.ema`, which no class of the host's hides."""
        return f"foveal.{self.name}" if self.name in ATTENTIONS else self.name

    def settings(self) -> dict[str, object]:
        """The arguments together with `start`, as a model YAML writes them."""
        start = {"start": self.start} if self.start and not self.replace else {}
        return {**self.arguments, **start, **({"replace": True} if self.replace else {})}

    def started(self, default: str) -> "Spec":
        """This spec with a start, the default where it says none; what replaces a part is the bare module."""
        return replace(self, start="paper" if self.replace else self.start or default)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.settings().items())
        return self.name + (f"({inside})" if inside else "") + (f"@{','.join(self.places)}" if self.places else "")


def read(spec: "str | Spec | type[nn.Module]", portable: bool = True) -> Spec:
    """What is given as an attention: its text, its class, or a spec.

    Args:
        spec: what is given.
        portable: whether other processes must find the class.

    Raises:
        UserError: it cannot be read, or is a class that others must find and cannot.
    """
    if isinstance(spec, Spec):
        return spec
    if isinstance(spec, str):
        return Spec.parse(spec)
    if isinstance(spec, type) and issubclass(spec, nn.Module):
        ours = next((name for name, cls in ATTENTIONS.items() if cls is spec), None)
        return Spec(ours or of_class(spec, portable).card.name)
    raise UserError(f"{spec!r} is no attention", 'give a text such as "ema(groups=8)", or a class below nn.Module')


def _require_half_width(text: str) -> None:
    """Refuse the punctuation that an input method for Chinese or Japanese writes."""
    if set(text) & set("，；：（）＝＠"):
        raise UserError(f"{text!r} has full-width punctuation", f"write {unicodedata.normalize('NFKC', text)!r}")


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
