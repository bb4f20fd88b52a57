"""The plain values of a plan, read and checked."""

import re

from ..errors import UserError, shown
from ..hosts import Data, split_to_judge
from ..verdict import LEVEL, Looks, fewest_seeds
from .arms import OTHER_SEEDS
from .folds import Folds


def seeds(written: object, shared_by: int, folds: Folds | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds, and how many of them there are at each look."""
    if written is None:
        written = fewest_seeds(LEVEL / shared_by)
        written = folds.whole(written) if folds else written
    if isinstance(written, str) and (ends := re.fullmatch(r"(\d{1,9}) *\.\. *(\d{1,9})", written.strip())):
        first, last = map(int, ends.groups())
        if not 2 <= first <= last < OTHER_SEEDS:
            raise UserError(
                f"seeds: {shown(written)} does not rise from 2 or more to below {OTHER_SEEDS}", "seeds: 6..24"
            )
        looks = Looks.between(first, last, shared_by).seeds
        return tuple(range(looks[-1])), looks
    # No longer than is needed to see that it is too long.
    found = list(range(min(written, OTHER_SEEDS + 1))) if type(written) is int else written
    if not isinstance(found, list) or not found or not all(type(s) is int and 0 <= s < OTHER_SEEDS for s in found):
        said = f"seeds: {shown(written)} is no number of seeds, no range such as 6..24 and no list below {OTHER_SEEDS}"
        raise UserError(said, "seeds: 6")
    if len(set(found)) < len(found):
        raise UserError(f"seeds: {shown(written)} says a seed twice", "seeds: [0, 1, 2, 3, 4, 5]")
    return tuple(found), (len(found),)


def split(wanted: object, data: Data) -> str:
    """The split to judge on: the one that is wanted, else test where it has labels."""
    if not {"val", "test"} & {*data.splits}:
        said = f"{data.name} has neither val nor test, and models are chosen and judged on one of them"
        raise UserError(said, "take a part of the images out of train, and name it val")
    if wanted is None:
        return split_to_judge(data)
    if wanted not in ("test", "val") or wanted not in data.splits:
        raise UserError(f"split: {shown(wanted)} is not a split of {data.name}", f"split: {data.splits[-1]}")
    return wanted


def share(written: object) -> float | None:
    """Of a larger plan that a rehearsal is; None if it is none."""
    if written is not None and (type(written) is not float or not 0 < written < 1):
        raise UserError(f"rehearsal: {shown(written)} is not a share between 0 and 1", "rehearsal: 0.01")
    return written


def number(key: str, written: object, of: str, example: int) -> int:
    """How many, one at least."""
    if type(written) is not int or written < 1:
        raise UserError(f"{key}: {shown(written)} is no number of {of}", f"{key}: {example}")
    return written


def margin(written: object, of: str) -> float:
    """The smallest difference of a metric that would matter."""
    if type(written) is not float or not 0 < written < 1:
        raise UserError(f"margin: {shown(written)} is not a difference of {of} between 0 and 1", "margin: 0.005")
    return written


def flag(key: str, written: object) -> bool:
    """Yes or no."""
    if type(written) is not bool:
        raise UserError(f"{key}: {shown(written)} is neither true nor false", f"{key}: true")
    return written
