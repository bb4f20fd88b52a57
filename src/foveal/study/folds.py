"""Folds: train and val of a data set split anew for each pair of a study, for those who have few images.

The pair of seed s holds out fold `s % number` of partition `s // number`: all arms of a pair see the same split, as
many seeds as there are folds hold out each image once, and further ones draw another partition.
"""

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ..errors import UserError, shown
from ..files import beside
from ..hosts import Data, Host
from .tables import ImageTable

FOLDER = "folds"  # of a study, where the host finds the splits of each fold
DIVIDED = ("train", "val")
HINT = 'folds: {number: 5, group: "(.*)_[0-9]+"}'


@dataclass(frozen=True)
class Folds:
    r"""How train and val are split anew.

    Attributes:
        number: folds of a partition.
        group: images stay together that share this: the first parenthesis of a pattern that each file name without its
            suffix fits, as in `(.*)_\d+`; or a column of a table of the images, `FILE.csv:COLUMN`.
            Each image is on its own if it is "".
    """

    number: int
    group: str = ""

    @classmethod
    def of(cls, written: object, folder: Path) -> "Folds | None":
        """Read what stands in a plan; None if nothing does.

        Args:
            written: a number, or a mapping with `number` and `group`.
            folder: where a table is looked for first.

        Raises:
            UserError: it is neither, or cannot work with any images.
        """
        if written is None:
            return None
        given = written if isinstance(written, dict) else {"number": written}
        number, group = given.get("number"), given.get("group", "")
        if not given.keys() <= {"number", "group"} or type(number) is not int or not isinstance(group, str):
            raise UserError(f"folds: {shown(written)} is no number of folds, alone or with a group", HINT)
        if not 2 <= number <= 100:
            raise UserError(f"folds: {number} is not between 2 and 100", "folds: 5")
        table, colon, column = group.rpartition(".csv:")
        if colon:
            return cls(number, f"{beside(f'{table}.csv', folder)}:{column}")
        try:
            if group and not re.compile(group).groups:
                raise UserError(f"folds: the pattern {group!r} has no parenthesis around what images share", HINT)
        except re.error as error:
            raise UserError(f"folds: {group!r} is no pattern: {error}", HINT) from None
        return cls(number, group)

    @property
    def held_out(self) -> float:
        """Images that a seed holds out over those that it is trained on, as folds of one size have it."""
        return 1 / (self.number - 1)

    def whole(self, seeds: int) -> int:
        """As many seeds at least, with which each image is held out equally often."""
        return -(-seeds // self.number) * self.number

    def split(self, wanted: object) -> str:
        """The split to judge on.

        Raises:
            UserError: it is another one than the images that are held out.
        """
        if wanted not in (None, "val"):
            said = f"split: {shown(wanted)} is the same for every seed, and folds judge each pair on what it holds out"
            raise UserError(said, "leave one of split and folds out")
        return "val"

    def place(self, seed: int) -> tuple[int, int]:
        """The partition of a seed, and the fold of it that its pair holds out."""
        return divmod(seed, self.number)

    def shares(self, images: Mapping[str, int]) -> dict[str, int]:
        """Images in each split of a fold, from those in the splits of the data; test stays as it is."""
        both = sum(images.get(split, 0) for split in DIVIDED)
        held_out = both // self.number
        return {**images, "train": both - held_out, "val": held_out} if both else dict(images)

    def __str__(self) -> str:
        return f"{self.number} folds" + (f" by {self.group}" if self.group else "")


class Partitions:
    """The folds of a data set.

    Args:
        folds: how many, and what stays together.
        data: whose train and val are split anew.

    Attributes:
        folds: how many, and what stays together.
        files: of all images that are held out by some seed.
        groups: what each shares with those that stay together with it, of one on its own its name.

    Raises:
        UserError: the data cannot be split so.
    """

    def __init__(self, folds: Folds, data: Data):
        self.folds = folds
        self.files = sorted({file for split in DIVIDED for file in data.images(split)}, key=str)
        self._groups = _groups(folds.group, self.files)
        distinct = len(set(self._groups)) if self._groups else len(self.files)
        if distinct < folds.number:
            what = f"groups by {folds.group}" if self._groups else "images in train and val"
            raise UserError(f"folds: {folds.number} are more than the {distinct} {what}", "take fewer folds")
        self._classes = _rarest(data.classes(self.files), folds.number)
        self._names = [os.path.relpath(file, data.root) for file in self.files]
        self.groups = self._groups or self._names
        self._found: dict[int, list[list[int]]] = {}

    def splits(self, seed: int) -> dict[str, list[Path]]:
        """The images that the pair of a seed is trained on and those that it is judged on, as train and val."""
        held_out = {*self.held_out(seed)}
        train = [file for number, file in enumerate(self.files) if number not in held_out]
        return {"train": train, "val": [self.files[number] for number in sorted(held_out)]}

    def digest(self, seed: int) -> str:
        """Of the names of the images that the pair of a seed holds out."""
        names = "\n".join(self._names[number] for number in self.held_out(seed))
        return hashlib.blake2b(names.encode(), digest_size=16).hexdigest()

    def held_out(self, seed: int) -> list[int]:
        """Numbers of the images that the pair of a seed is judged on, rising."""
        partition, fold = self.folds.place(seed)
        if partition not in self._found:
            self._found[partition] = self._partition(partition)
        return self._found[partition][fold]

    def _partition(self, number: int) -> list[list[int]]:
        """Numbers of the images in each fold, classes spread as evenly as groups allow."""
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # takes a second to load

        kind = StratifiedGroupKFold if self._groups else StratifiedKFold
        parts = kind(self.folds.number, shuffle=True, random_state=number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a class in fewer groups than there are folds
            drawn = parts.split(self._names, self._classes, self._groups)
            found = [sorted(held_out.tolist()) for _, held_out in drawn]
        if not all(found):
            said = f"folds: groups by {self.folds.group} are too unequal for {self.folds.number} folds: one is empty"
            raise UserError(said, "take fewer folds")
        return found


def divided(host: Host, task: str, data: Data, partitions: Partitions, seed: int, study: Path) -> Data:
    """The data of a pair, whose splits are written into the study's folder for the host."""
    partition, fold = partitions.folds.place(seed)
    with FileLock(study / f"{FOLDER}.lock"):  # all arms of a pair share them
        name = host.divided(data, partitions.splits(seed), study / FOLDER / f"{partition}-{fold}")
        return host.data(name, False, task)


def _rarest(classes: Sequence[set[int]], folds: int) -> list[int]:
    """Of each image the rarest class in it, by which images are spread; those too rare for that count as one."""
    often = Counter(label for of in classes for label in of)
    rarest = [min(of, key=lambda label: (often[label], label)) if of else -1 for of in classes]
    images = Counter(rarest)
    common = images.most_common(1)[0][0]
    return [label if images[label] >= folds else common for label in rarest]


def _groups(group: str, files: Sequence[Path]) -> list[str] | None:
    """What each image shares with others; None where each is on its own."""
    if not group:
        return None
    table, colon, column = group.rpartition(".csv:")
    if colon:
        known = ImageTable.read(Path(f"{table}.csv"), "folds", files)
        if column not in known.headings:
            said = f"folds: the table {table}.csv has no column {column!r}"
            raise UserError(said, f"its columns are {', '.join(known.headings)}")
        found = [None if number is None else known.rows[number][column] for number in known.of_files]
        missing, where, hint = "does not stand", f"in {table}.csv", "a column of it has the names of image files"
    else:
        matched = [re.fullmatch(group, file.stem) for file in files]
        found = [match and match[1] for match in matched]
        missing, where, hint = "does not fit", f"the pattern {group!r}", HINT
    if None in found:
        left = [file.stem for file, shared in zip(files, found, strict=True) if shared is None]
        raise UserError(f"folds: {left[0]!r}, one of {len(left)} such images, {missing} {where}", hint)
    return [shared for shared in found if shared is not None]
