"""Slices of the images that a study judges on: those with one value in a column of a CSV, as of camera or daytime."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import digest
from ..hosts import Photographs
from .plan import Plan
from .tables import EXAMPLE, ImageTable

MOST = 30  # values of a column; more are no categories


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

        All columns of the CSV that do not name images hold categories.

        Raises:
            UserError: the CSV cannot be read, or is of other images, or has no categories.
        """
        if plan.slices is None:
            return None
        path, photographs = Path(plan.slices), plan.dataset.photographs(plan.dataset.images(plan.split))
        table = ImageTable.read(path, "slices", photographs.files)
        of_each = [None if number is None else table.rows[number] for number in table.of_files]
        if not any(of_each):
            theirs, ours = table.rows[0][table.names] if table.rows else "", photographs.name(photographs.files[0])
            said = f"{path} names no image of {plan.split}: {theirs!r} for example, where an image is {ours!r}"
            raise UserError(said, EXAMPLE)
        numbers = {*table.of_files}
        used = [row for number, row in enumerate(table.rows) if number in numbers]
        labels: list[tuple[str, str]] = []
        for heading in (heading for heading in table.headings if heading != table.names):
            values = [value for value in dict.fromkeys(row[heading] for row in used) if value]
            if len(values) > MOST:
                said = f"{path} has {len(values)} values in its column {heading!r}, more than {MOST}"
                raise UserError(said, "leave the column out of the file, or write ranges into it")
            labels += [(heading, value) for value in values]
        if not labels:
            raise UserError(f"{path} has no categories beside the names in its column {table.names!r}", EXAMPLE)
        inside = [[row is not None and row[heading] == value for row in of_each] for heading, value in labels]
        return cls(str(plan.text["slices"]), digest(path), tuple(labels), photographs, np.array(inside))

    def members(self, names: NDArray[np.str_]) -> NDArray[np.bool_]:
        """Which of the judged images that have these names are in each slice, (slices, images)."""
        numbers = self.photographs.numbers(names)
        known = [place for place, number in enumerate(numbers) if number is not None]
        found = np.zeros((len(self.labels), len(names)), bool)
        found[:, known] = self.inside[:, [number for number in numbers if number is not None]]
        return found
