"""Slices of the images that a study judges on: those with one value in a column of a CSV, as of camera or daytime."""

import csv
import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import digest
from ..hosts import Photographs
from .plan import Plan

MOST = 30  # values of a column; more are no categories
EXAMPLE = "its first line could be image,camera and its second a.jpg,north"

_Row = dict[str, str]


@dataclass(frozen=True)
class Slices:
    """Slices of the images of a split; an image is in one for each column, or in none.

    Attributes:
        file: the CSV, as the plan names it.
        digest: of its content, in hexadecimal digits.
        labels: the column and the value of each slice, in the order of the CSV.
        photographs: of the split.
        inside: which of the photographs are in each slice, (slices, photographs).
    """

    file: str
    digest: str
    labels: tuple[tuple[str, str], ...]
    photographs: Photographs
    inside: NDArray[np.bool_]

    @classmethod
    def of(cls, plan: Plan) -> "Slices | None":
        """Those that a plan asks for; None if it asks for none.

        The column of file names is the one in which most images are named; all others hold categories, but for those
        without a heading, which are the numbers of rows that some programs write.

        Raises:
            UserError: the CSV cannot be read, or is of other images, or has no categories.
        """
        if plan.slices is None:
            return None
        path, photographs = Path(plan.slices), plan.dataset.photographs(plan.dataset.images(plan.split))
        headings, rows = _read(path)
        named = {heading: _rows_of(photographs, [row[heading] for row in rows]) for heading in headings}
        names = max(headings, key=lambda heading: sum(row is not None for row in named[heading]))
        of_each = [None if number is None else rows[number] for number in named[names]]
        numbers = {*named[names]}
        used = [row for number, row in enumerate(rows) if number in numbers]
        if not any(of_each):
            theirs, ours = rows[0][names] if rows else "", photographs.name(photographs.files[0])
            said = f"{path} names no image of {plan.split}: {theirs!r} for example, where an image is {ours!r}"
            raise UserError(said, EXAMPLE)
        _require_one_row_each(path, names, rows, [row[names] for row in of_each if row])
        labels: list[tuple[str, str]] = []
        for heading in headings:
            values = [value for value in dict.fromkeys(row[heading] for row in used) if value and heading != names]
            if len(values) > MOST:
                said = f"{path} has {len(values)} values in its column {heading!r}, more than {MOST}"
                raise UserError(said, "leave the column out of the file, or write ranges into it")
            labels += [(heading, value) for value in values]
        if not labels:
            raise UserError(f"{path} has no categories beside the names in its column {names!r}", EXAMPLE)
        inside = [[row is not None and row[heading] == value for row in of_each] for heading, value in labels]
        return cls(str(plan.text["slices"]), digest(path), tuple(labels), photographs, np.array(inside))

    def members(self, names: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Which of the judged images that have these names are in each slice, (slices, images)."""
        numbers = self.photographs.numbers(names)
        known = [place for place, number in enumerate(numbers) if number is not None]
        found = np.zeros((len(self.labels), len(names)), bool)
        found[:, known] = self.inside[:, [number for number in numbers if number is not None]]
        return found


def _read(path: Path) -> tuple[list[str], list[_Row]]:
    """The headings, and what stands below them in each line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            table = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            lines = [cells for line in table if any(cells := [cell.strip() for cell in line])]
    except OSError as error:
        raise UserError(
            f"cannot read the slices {path}: {error.strerror}", "put it back, or leave out slices"
        ) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"the slices {path} are no CSV in UTF-8: {error}", EXAMPLE) from None
    headings = lines[0] if lines else []
    known = [heading for heading in headings if heading]
    if not known or len(set(known)) < len(known):
        raise UserError(f"the headings of {path} are not one for each column: {', '.join(known)}", EXAMPLE)
    if any(any(line[len(headings) :]) for line in lines):
        raise UserError(f"{path} has a line with more values than headings", "write what holds a comma in quotes")
    rows = [dict(itertools.zip_longest(headings, line[: len(headings)], fillvalue="")) for line in lines[1:]]
    return known, rows


def _key(name: str) -> tuple[str, ...]:
    """The parts of a path, however they are joined."""
    return PurePosixPath(name.replace("\\", "/")).parts


def _rows_of(photographs: Photographs, names: list[str]) -> list[int | None]:
    """For each photograph the row with the longest name in which its path ends; None without such a row."""
    rows: dict[tuple[str, ...], int] = {}
    for number, name in enumerate(names):
        rows.setdefault(_key(name), number)
    ends = ((file.parts[-length:] for length in range(len(file.parts), 0, -1)) for file in photographs.files)
    return [next((rows[end] for end in of_file if end in rows), None) for of_file in ends]


def _require_one_row_each(path: Path, names: str, rows: list[_Row], used: list[str]) -> None:
    """Refuse a name that stands for several images, and one that stands in rows with other values."""
    name, often = Counter(used).most_common(1)[0]
    if often > 1:
        raise UserError(f"{path}: {name!r} is the name of {often} images", "write their folders before the names")
    seen: dict[tuple[str, ...], _Row] = {}
    for row in rows:
        if seen.setdefault(_key(row[names]), row) != row:
            raise UserError(f"{path} has several lines with other values for {row[names]!r}", "leave one line for each")
