"""What commands share: where they print, which is data to stdout and talk to stderr, and options."""

import contextlib
import importlib
import json
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import typer

from ..files import stdout_to

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Load a .pt file that names more than layers, and run what it names.")
]


def say(text: str) -> None:
    """Tell the user something that is no data."""
    print(text, file=sys.stderr, flush=True)


def load_host() -> None:
    """Import Ultralytics so that its log, and what it prints when it is first used, go to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        importlib.import_module("foveal.yolo")


@contextlib.contextmanager
def only_talk() -> Iterator[None]:
    """Whatever is printed meanwhile, also by programs that are started, goes to stderr."""
    with stdout_to(2), contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(data: object) -> None:
    """Data for programs; where stdout has not all letters, in ASCII."""
    print(json.dumps(data, indent=2, ensure_ascii=not writes_all_letters()))


def writes_all_letters() -> bool:
    """Whether stdout has an encoding that knows every letter."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def print_table(heads: Sequence[str], body: Iterable[Sequence]) -> None:
    """Columns as wide as their widest entry."""
    rows = [tuple(map(str, row)) for row in (heads, *body)]
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell + " " * (width - _columns(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese letters and others of their width take two each."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)
