"""Masks as Ultralytics reads them: images in whose pixels stand classes, one beside each image of a data set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import models as host  # before Ultralytics itself, because it says if that is missing or too old

# isort: split
from ultralytics.data import utils

# Keys of a data file: the folder that stands in the place of `images`, and classes by the numbers in the masks.
FOLDER, MAPPING = "masks_dir", "label_mapping"


def files(images: list[Path], folder: str) -> list[Path]:
    """The mask of each image, whether it exists or not; one that is no PNG if there is none.

    Args:
        images: their files.
        folder: where masks lie, see `FOLDER`.
    """
    named = utils.img2label_paths([str(image) for image in images], folder, ".png")
    return [_there(Path(name)) for name in named]


def _there(file: Path) -> Path:
    others = (file.with_suffix(f".{suffix}") for suffix in utils.IMG_FORMATS)
    return file if file.is_file() else next((other for other in others if other.is_file()), file)


def classes(file: Path, names: Mapping[int, str], mapping: Mapping[int, Any] | None) -> set[int]:
    """The classes in a mask, by index; none of one that cannot be read.

    Args:
        file: of the mask.
        names: of the classes; other numbers are no class.
        mapping: see `MAPPING`.
    """
    try:
        with Image.open(file) as image:
            mode = image.mode
        found = np.unique(utils.read_mask(str(file), mode)).tolist()
    except host.UNREADABLE:
        return set()
    mapped = {str((mapping or {}).get(number, number)) for number in found}
    return {label for label in names if str(label) in mapped}
