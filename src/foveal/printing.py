"""Where commands print: data to stdout, talk to stderr."""

import contextlib
import importlib
import json
import sys
from collections.abc import Iterable, Sequence


def say(text: str) -> None:
    """Tell the user something that is no data."""
    print(text, file=sys.stderr, flush=True)


def load_host() -> None:
    """Import Ultralytics so that its log, and what it prints when it is first used, go to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        importlib.import_module("foveal.yolo")


def print_json(data: object) -> None:
    """Data for programs."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], body: Iterable[Sequence]) -> None:
    """Columns as wide as their widest entry."""
    rows = [tuple(map(str, row)) for row in (heads, *body)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
