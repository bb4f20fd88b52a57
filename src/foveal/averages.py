"""Averages of stored detections over resampled images: the slow part of a report, computed once for each cell."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import yolo as host
from .detections import SIZES, UNREADABLE, Detections, save_arrays
from .verdict import average_precision, draw_images

RESAMPLES = 2000  # the same draws for every cell of a study


def image_counts(images: int) -> NDArray:
    """How often each image counts, (1 + resamples, images): all once in the first row, then as they are drawn."""
    return np.concatenate([np.ones((1, images), np.int32), draw_images(images, RESAMPLES)])


def load(folder: Path, kind: str) -> dict[str, NDArray]:
    """Average precision of each class on all images (first row) and on resampled ones.

    Args:
        folder: of a cell, which holds its detections and keeps what is computed here.
        kind: of weights, "best" or "last".

    Returns:
        `map`, over all thresholds, (1 + resamples, classes), for `classes`; of best.pt also `small`, `medium` and
        `large`, for the classes that have objects of this size, nan if none has.
    """
    kept = folder / f"averages-{kind}.npz"
    try:
        with np.load(kept) as arrays:
            if {"classes", "map"} <= {*arrays}:
                return dict(arrays)
    except UNREADABLE:
        pass
    found = Detections.load(folder / f"{kind}.npz")
    counts = image_counts(len(found.name))
    classes, all_sizes = average_precision(found.matches(), found.truth(), counts, host.AVERAGE_PRECISION)
    averages = {"classes": classes, "map": all_sizes.mean(-1)}
    for size in SIZES if kind == "best" else ():
        of_size, there = found.of_size(size)
        _, sized = average_precision(of_size, there, counts, "coco")
        averages[size] = sized.mean(-1) if len(there.image) else np.full((len(counts), 1), np.nan)
    save_arrays(kept, averages)
    return averages
