"""What somebody knows of images: a CSV with a line for each, in which one column names their files."""

import csv
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import UserError

EXAMPLE = "its first line could be image,camera and its second a.jpg,north"

Row = dict[str, str]
_Parts = tuple[str, ...]


@dataclass(frozen=True)
class ImageTable:
    """Lines of a CSV, and of which images they are.

    Attributes:
        headings: of the columns that have one, which the numbers of rows that some programs write have not.
        names: the heading of the column that names images: the one with the most lines that do.
        rows: the lines below, by heading.
        of_files: the number of the line of each image; None where none names it.
    """

    headings: list[str]
    names: str
    rows: list[Row]
    of_files: list[int | None]

    @classmethod
    def read(cls, path: Path, what: str, files: Sequence[Path]) -> "ImageTable":
        """The lines of a file that are about images.

        A name is the end of a path, as long as somebody wrote it; without suffixes where no name has one that fits.

        Args:
            path: of the CSV.
            what: it is for, a key of a plan.
            files: of the images.

        Raises:
            UserError: it cannot be read, or says two things of one image, or one of several.
        """
        headings, rows = _read(path, what)
        columns = {heading: [row[heading] for row in rows] for heading in headings}
        found: dict[str, list[int | None]] = {}
        for suffix in (True, False):
            if not any(any(row is not None for row in of_files) for of_files in found.values()):
                found = {heading: _rows_of(files, column, suffix) for heading, column in columns.items()}
        names = max(headings, key=lambda heading: len({*found[heading]} - {None}))
        _require_one_row_each(path, columns[names], rows, found[names])
        return cls(headings, names, rows, found[names])


def _read(path: Path, what: str) -> tuple[list[str], list[Row]]:
    """The headings, and what stands below them in each line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            table = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            lines = [cells for line in table if any(cells := [cell.strip() for cell in line])]
    except OSError as error:
        raise UserError(f"{what}: cannot read {path}: {error.strerror}", f"put it back, or leave out {what}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{what}: {path} is no CSV in UTF-8: {error}", EXAMPLE) from None
    headings = lines[0] if lines else []
    known = [heading for heading in headings if heading]
    if not known or len(set(known)) < len(known):
        raise UserError(f"{what}: the headings of {path} are not one for each column: {', '.join(known)}", EXAMPLE)
    if any(any(line[len(headings) :]) for line in lines):
        said = f"{what}: {path} has a line with more values than headings"
        raise UserError(said, "write what holds a comma in quotes")
    rows = [dict(itertools.zip_longest(headings, line[: len(headings)], fillvalue="")) for line in lines[1:]]
    return known, rows


def _key(name: str) -> _Parts:
    """The parts of a path, however they are joined."""
    return PurePosixPath(name.replace("\\", "/")).parts


def _rows_of(files: Sequence[Path], names: list[str], suffix: bool) -> list[int | None]:
    """For each file the row with the longest name in which its path ends; None without such a row."""
    rows: dict[_Parts, int] = {}
    for number, name in enumerate(names):
        rows.setdefault(_key(name), number)
    paths = (file if suffix else file.with_suffix("") for file in files)
    ends = ((path.parts[-length:] for length in range(len(path.parts), 0, -1)) for path in paths)
    return [next((rows[end] for end in of_file if end in rows), None) for of_file in ends]


def _require_one_row_each(path: Path, names: list[str], rows: list[Row], of_files: list[int | None]) -> None:
    """Refuse a name that stands for several images, and one that stands in rows with other values."""
    used = Counter(names[number] for number in of_files if number is not None)
    for name, often in used.most_common(1):
        if often > 1:
            raise UserError(f"{path}: {name!r} is the name of {often} images", "write their folders before the names")
    seen: dict[_Parts, Row] = {}
    for name, row in zip(names, rows, strict=True):
        if seen.setdefault(_key(name), row) != row:
            raise UserError(f"{path} has several lines with other values for {name!r}", "leave one line for each")
