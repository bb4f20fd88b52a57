"""Averages of what was judged over resampled images: the slow part of a report, computed once for each cell.

It needs no device, so a cell does not compute them: what runs a study does while other cells train, and a report where
nobody has.
"""

from collections.abc import Collection, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..verdict import average_precision, draw_images, mean_average_precision
from .answers import Answers
from .detections import SIZES, UNREADABLE, Detections, save_arrays
from .tasks import METRICS

RESAMPLES = 2000  # the same draws for every cell of a study
AT_ONCE = 2  # threads that compute them, nearly all of the time outside of Python's lock
KINDS = {"detect": Detections, "classify": Answers}


def judged(folder: Path, kind: str, task: str) -> Detections | Answers:
    """What a model of a cell found, or answered.

    Args:
        folder: of the cell.
        kind: of weights, "best" or "last".
        task: "detect" or "classify".

    Raises:
        UserError: it cannot be read.
    """
    return KINDS[task].load(folder / f"{kind}.npz")


def image_counts(images: int) -> NDArray:
    """How often each image counts, (1 + resamples, images): all once in the first row, then as they are drawn."""
    return np.concatenate([np.ones((1, images), np.int32), draw_images(images, RESAMPLES)])


def again(found: Detections | Answers) -> dict[str, float]:
    """Both averages of a task, by their keys, computed from what is stored rather than by the host."""
    if isinstance(found, Answers):
        return {"top1": float(found.scores().mean()), "top5": float(found.among_best().mean())}
    _, precision = average_precision(found.matches(), found.truth(), definition=str(found.rule))
    map50, map_ = (float(value[0]) for value in mean_average_precision(precision))
    return {"map": map_, "map50": map50}


def load(folder: Path, kind: str, task: str) -> dict[str, NDArray]:
    """The metric on all images (first row) and on resampled ones.

    Args:
        folder: of a cell, which holds what was judged and keeps what is computed here.
        kind: of weights, "best" or "last".
        task: "detect" or "classify".

    Returns:
        `overall`, (1 + resamples,); under the metric's key that of each class, (1 + resamples, classes), for `classes`;
        of detections by best.pt also `small`, `medium` and `large`, for the classes that have objects of this size.
        nan stands where there is nothing to average.
    """
    kept, key = folder / f"averages-{kind}.npz", METRICS[task].key
    try:
        with np.load(kept) as arrays:
            if {"classes", "overall", key} <= {*arrays}:
                return dict(arrays)
    except UNREADABLE:
        pass
    found = judged(folder, kind, task)
    counts = image_counts(len(found.name))
    averages = _accuracies(found, counts) if task == "classify" else _precisions(found, counts, kind == "best")
    save_arrays(kept, averages)
    return averages


_Where = TypeVar("_Where", bound=Hashable)


def loaded(
    folders: Mapping[_Where, Path], kinds: Collection[str], task: str
) -> dict[_Where, dict[str, dict[str, NDArray]]]:
    """`load` for each kind of weights of several cells."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = {
            where: {kind: pool.submit(load, folder, kind, task) for kind in kinds} for where, folder in folders.items()
        }
    return {where: {kind: future.result() for kind, future in of.items()} for where, of in begun.items()}


def over_classes(found: NDArray) -> NDArray:
    """Mean over those classes that have an average, nan where none has."""
    there = ~np.isnan(found)
    with np.errstate(invalid="ignore"):
        return np.where(there, found, 0).sum(1) / there.sum(1)


def _accuracies(found: Answers, counts: NDArray) -> dict[str, NDArray]:
    overall, classes, of_class = found.accuracy(counts)
    return {"classes": classes, "top1": of_class, "overall": overall}


def _precisions(found: Detections, counts: NDArray, sizes: bool) -> dict[str, NDArray]:
    classes, all_sizes = average_precision(found.matches(), found.truth(), counts, str(found.rule))
    of_class = all_sizes.mean(-1)
    averages = {"classes": classes, "map": of_class, "overall": over_classes(of_class)}
    for size in SIZES if sizes else ():
        of_size, there = found.of_size(size)
        _, sized = average_precision(of_size, there, counts, "coco")
        averages[size] = sized.mean(-1) if len(there.image) else np.full((len(counts), 1), np.nan)
    return averages
