"""Averages of what was judged over resampled images: the slow part of a report, computed once for each cell.

It needs no device, so a cell does not compute them: what runs a study does while other cells train, and a report where
nobody has.
"""

import hashlib
from collections.abc import Callable, Collection, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..verdict import Bools, Floats, Ints, draw_images
from . import error_types
from .stored import UNREADABLE_ARRAYS, Arrays, Words, save_arrays
from .tasks import Evidence, Task

RESAMPLES = 2000  # the same draws for every cell of a study
AGREEMENT = 1e-6  # between averages computed here and the host's
AT_ONCE = 2  # threads that compute them, nearly all of the time outside of Python's lock


def judged(folder: Path, kind: str, task: Task) -> Evidence:
    """What a model of a cell found, answered or said of pixels.

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
        `overall`, (1 + resamples,), and `second`, which stands beside it and older files lack; under the metric's key
        that of each class, (1 + resamples, classes), for `classes`; `overall_KEY` of each metric that stands beside the
        first; of detections by best.pt also `small`, `medium` and `large`, for the classes that have objects of this
        size. nan stands where there is nothing to average.
    """
    path = folder / f"averages-{kind}.npz"
    if {"classes", "overall", task.metric.key} <= (kept := _kept(path)).keys():
        return kept
    found = judged(folder, kind, task)
    averages = found.averages(image_counts(len(found.name)), kind == "best", task.metric.of)
    save_arrays(path, averages)
    return averages


def within(folder: Path, members: Callable[[Words], Bools], task: Task) -> Floats:
    """The metric of best.pt on slices of the images, all of them (first column) and resampled ones.

    Args:
        folder: as for `load`.
        members: which of the images that have these names are in each slice, (slices, images).
        task: of the study.

    Returns:
        (slices, 1 + resamples), nan where a slice has nothing to average.
    """
    found, path = judged(folder, "best", task), folder / "slices.npz"
    slices = members(found.name)
    asked = repr((task.metric.key, slices.shape)).encode() + np.packbits(slices).tobytes()
    digest, kept = hashlib.blake2b(asked, digest_size=16).hexdigest(), _kept(path)
    if {"digest", "overall"} <= kept.keys() and kept["digest"] == digest:
        return kept["overall"]
    counts = image_counts(len(found.name))
    overall = np.array([found.averages(counts * one, False, task.metric.of)["overall"] for one in slices])
    save_arrays(path, {"digest": np.array(digest), "overall": overall})
    return overall


def costs_of_errors(folder: Path, task: Task) -> dict[str, float]:
    """What each type of error costs best.pt, see `error_types.costs`; nothing where hotcoco is not installed."""
    path = folder / "errors.npz"
    if error_types.TYPES.keys() == (kept := _kept(path)).keys():
        return {name: float(value) for name, value in kept.items()}
    found = error_types.costs(judged(folder, "best", task)) if error_types.is_known() else {}
    if found:
        save_arrays(path, {name: np.array(value) for name, value in found.items()})
    return found


def _kept(path: Path) -> Arrays:
    """What an earlier call kept in a file; nothing where there is none, or one that cannot be read."""
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except UNREADABLE_ARRAYS:
        return {}


_Where = TypeVar("_Where", bound=Hashable)
_Found = TypeVar("_Found")


def of_each(folders: Mapping[_Where, Path], compute: Callable[[Path], _Found]) -> dict[_Where, _Found]:
    """What is computed of each of several cells, some at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(folders, pool.map(compute, folders.values()), strict=True))


def loaded(folders: Mapping[_Where, Path], kinds: Collection[str], task: Task) -> dict[_Where, dict[str, Arrays]]:
    """`load` for each kind of weights of several cells."""
    return of_each(folders, lambda folder: {kind: load(folder, kind, task) for kind in kinds})
