"""Average precision of matched detections, on all images and on resampled ones."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Matches:
    """Detections of one model on a set of images, matched with what is there.

    Attributes:
        image: index of each detection's image, (detections,).
        confidence: of each detection.
        label: class index of each detection.
        hit: whether it found an object, at each IoU threshold, (detections, thresholds).
        ignored: whether it counts neither way (COCO's crowds and sizes), like `hit` and never where that is true; None
            where all count.
    """

    image: NDArray
    confidence: NDArray
    label: NDArray
    hit: NDArray
    ignored: NDArray | None = None


@dataclass(frozen=True)
class Truth:
    """The objects that count: index of the image and of the class of each, both (objects,)."""

    image: NDArray
    label: NDArray


def average_precision(
    matches: Matches, truth: Truth, counts: ArrayLike | None = None, definition: str = "ultralytics"
) -> tuple[NDArray, NDArray]:
    """Average precision of each class that has objects.

    Args:
        matches: detections.
        truth: objects.
        counts: how often each image counts, (resamples, images); None counts every image once.
        definition: "ultralytics" (area under the interpolated envelope, as in `ap_per_class`; 0 beyond the last
            recall, since its release 8.4), "ultralytics-8.3" (a line from there to (1, 0)) or "coco" (mean of the
            envelope at 101 recalls).

    Returns:
        The classes, and their average precision, (resamples, classes, thresholds); nan for a class that has no object
        in a resample.
    """
    counts = np.ones((1, 1 + _last(matches.image, truth.image)), np.int32) if counts is None else np.asarray(counts)
    order = np.argsort(-matches.confidence, kind="stable")
    classes = np.unique(truth.label)
    mine = [order[matches.label[order] == label] for label in classes]
    theirs = [truth.image[truth.label == label] for label in classes]

    def resampled(counts: NDArray) -> NDArray:
        counts = np.ascontiguousarray(counts.T, np.int32)  # [images, resamples]: each step below runs along memory
        found = np.empty((counts.shape[1], len(classes), matches.hit.shape[1]))
        for index, (detections, images) in enumerate(zip(mine, theirs, strict=True)):
            objects, weight = counts[images].sum(0), counts[matches.image[detections]]
            seen = weight.cumsum(0, np.int32)
            for threshold in range(found.shape[2]):
                if matches.ignored is not None:
                    counted = np.where(matches.ignored[detections, threshold, None], 0, weight)
                    seen = counted.cumsum(0, np.int32)
                hit = matches.hit[detections, threshold]
                found[:, index, threshold] = _areas(weight[hit], seen[hit], seen[-1:], objects, definition)
        return found

    # In parts that fit a cache.
    parts = np.array_split(counts, math.ceil(len(counts) / 50))
    return classes, np.concatenate([resampled(part) for part in parts])


def mean_average_precision(found: NDArray) -> tuple[NDArray, NDArray]:
    """Means over classes of `average_precision`: at the first threshold and over all, each (resamples,)."""
    by_threshold = np.nanmean(found, 1)
    return by_threshold[:, 0], by_threshold.mean(1)


def _last(*indices: NDArray) -> int:
    return max((int(i.max()) for i in indices if len(i)), default=0)


def _areas(weight: NDArray, seen: NDArray, total: NDArray, objects: NDArray, definition: str) -> NDArray:
    """Average precision of one class at one threshold, (resamples,).

    Only hits change the recall, and where it is level the envelope needs no more than its ends.

    Args:
        weight: how often each hit counts, in order of confidence, (hits, resamples).
        seen: detections down to each hit, itself included, (hits, resamples).
        total: detections in all, (1, resamples); (0, resamples) if there are none.
        objects: objects to be found, (resamples,).
        definition: as in `average_precision`.
    """
    with np.errstate(invalid="ignore"):
        missing = np.where(objects > 0, 0.0, np.nan)
    if not len(weight):
        return missing
    hits = weight.cumsum(0, np.int32)
    envelope = np.maximum.accumulate((hits / np.maximum(seen, 1))[::-1], 0)[::-1]
    recall = hits / np.maximum(objects, 1)
    if definition == "coco":
        envelope = np.concatenate([envelope, np.zeros_like(envelope[:1])])
        reached = [np.searchsorted(column, RECALLS) for column in recall.T]
        return missing + np.take_along_axis(envelope, np.array(reached).T, 0).mean(0)
    # Between two hits the curve is a line, level where a detection between them missed.
    missed = np.diff(seen - weight, axis=0, prepend=0) > np.concatenate([np.zeros_like(weight[:1]), weight[:-1]])
    left = np.where(missed, envelope, np.concatenate([np.ones_like(envelope[:1]), envelope[:-1]]))
    before = np.concatenate([np.zeros_like(recall[:1]), recall[:-1]])
    tail = hits[-1:] / np.maximum(total, 1) if definition == "ultralytics-8.3" else np.zeros_like(recall[:1])
    # Corners of the curve: both ends of each line, the end of the hits, and (1, 0).
    x = np.stack([before, recall], 1).reshape(-1, recall.shape[1])
    y = np.stack([left, envelope], 1).reshape(x.shape)
    x = np.concatenate([x, recall[-1:], np.ones_like(tail)]).T
    y = np.concatenate([y, tail, np.zeros_like(tail)]).T
    curves = np.array([np.interp(RECALLS, *corners) for corners in zip(x, y, strict=True)])
    return missing + (curves[:, 1:] + curves[:, :-1]).mean(1) / 2
