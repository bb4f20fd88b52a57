"""One model on one split, by the host's own validator, and words for what comes of it."""

from pathlib import Path
from string import ascii_uppercase
from typing import Any

from ..errors import UserError
from ..evidence import Detections, Evidence, Maps
from ..hosts.ultralytics import modelfile, validators
from ..verdict import Estimate


def evaluated(
    file: modelfile.ModelFile, data: str, split: str, folder: Path, **settings: Any
) -> tuple[Evidence, float]:
    """What a model says of a split, and how far averages of that, computed again, are from the host's own.

    Args:
        file: as it was opened.
        data: a data file; for a classifier a folder.
        split: "train", "val" or "test".
        folder: for what the host writes.
        settings: `imgsz`, `batch`, `device`, ...

    Raises:
        UserError: the host cannot use the file or the data, or there is no object.
    """
    with modelfile.refusing(file.path):
        found, theirs = validators.evaluate(file, data, split, folder, **settings)
    if isinstance(found, Detections) and not len(found.true_image):
        raise UserError(f"no image of {split} in {data} has an object", "give data with labels")
    if isinstance(found, Maps) and not found.true.any():
        raise UserError(f"no pixel of {split} in {data} has a class", "give data with masks")
    ours = found.figures()
    return found, max(abs(ours[key] - theirs[key]) for key in theirs)


def images_only(difference: Estimate) -> str:
    """Whether a difference is more than another choice of images would make of none."""
    if difference.low is None or difference.high is None:
        return "and these images do not tell how much others would change it"
    if difference.excludes_zero:
        return "more than the choice of images makes"
    return "no more than the choice of images can make"


def letters(count: int) -> list[str]:
    """Short names for a table: A to Z, then numbers."""
    return [*ascii_uppercase[:count], *map(str, range(len(ascii_uppercase) + 1, count + 1))]
