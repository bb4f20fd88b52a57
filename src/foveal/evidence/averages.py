"""Averages of what was judged over resampled images: the slow part of a report, computed once for each cell.

It needs no device, so a cell does not compute them: what runs a study does while other cells train, and a report where
nobody has.
"""

from collections.abc import Collection, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..verdict import Ints, draw_images
from .answers import Answers
from .detections import UNREADABLE_ARRAYS, Arrays, Detections, save_arrays
from .tasks import Task

RESAMPLES = 2000  # the same draws for every cell of a study
AT_ONCE = 2  # threads that compute them, nearly all of the time outside of Python's lock


def judged(folder: Path, kind: str, task: Task) -> Detections | Answers:
    """What a model of a cell found, or answered.

    Args:
        folder: of the cell.
        kind: of weights, "best" or "last".
        task: of the study.

    Raises:
        UserError: it cannot be read.
    """
    assert task.evidence  # or it would not be a study's task
    return task.evidence.load(folder / f"{kind}.npz")


def image_counts(images: int) -> Ints:
    """How often each image counts, (1 + resamples, images): all once in the first row, then as they are drawn."""
    return np.concatenate([np.ones((1, images), np.int32), draw_images(images, RESAMPLES)])


def load(folder: Path, kind: str, task: Task) -> Arrays:
    """The metric on all images (first row) and on resampled ones.

    Args:
        folder: of a cell, which holds what was judged and keeps what is computed here.
        kind: of weights, "best" or "last".
        task: of the study.

    Returns:
        `overall`, (1 + resamples,); under the metric's key that of each class, (1 + resamples, classes), for `classes`;
        `overall_KEY` of each metric that stands beside it; of detections by best.pt also `small`, `medium` and `large`,
        for the classes that have objects of this size. nan stands where there is nothing to average.
    """
    kept, key = folder / f"averages-{kind}.npz", task.metric.key
    try:
        with np.load(kept) as arrays:
            if {"classes", "overall", key} <= {*arrays}:
                return dict(arrays)
    except UNREADABLE_ARRAYS:
        pass
    found = judged(folder, kind, task)
    averages = found.averages(image_counts(len(found.name)), kind == "best", task.metric.of)
    save_arrays(kept, averages)
    return averages


_Where = TypeVar("_Where", bound=Hashable)


def loaded(folders: Mapping[_Where, Path], kinds: Collection[str], task: Task) -> dict[_Where, dict[str, Arrays]]:
    """`load` for each kind of weights of several cells."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = {
            where: {kind: pool.submit(load, folder, kind, task) for kind in kinds} for where, folder in folders.items()
        }
    return {where: {kind: future.result() for kind, future in of.items()} for where, of in begun.items()}
