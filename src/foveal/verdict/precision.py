"""Average precision of matched detections, on all images and on resampled ones."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from .differences import Bools, Floats, Ints

RECALLS = np.linspace(0, 1, 101)
PART = 300  # resamples at a time, which fit a cache


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

    image: Ints
    confidence: Floats
    label: Ints
    hit: Bools
    ignored: Bools | None = None


@dataclass(frozen=True)
class Truth:
    """The objects that count: index of the image and of the class of each, both (objects,)."""

    image: Ints
    label: Ints


def average_precision(
    matches: Matches, truth: Truth, counts: ArrayLike | None = None, definition: str = "ultralytics"
) -> tuple[Ints, Floats]:
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
    by_image = np.ascontiguousarray(counts.T, np.int32)  # [images, resamples]: each step below runs along memory
    drawn: Bools = np.any(counts, axis=0)  # images that never count cost no time
    order = np.argsort(-matches.confidence, kind="stable")
    order = order[drawn[matches.image[order]]]
    classes = np.unique(truth.label)
    found = np.empty((len(counts), len(classes), matches.hit.shape[1]))
    for index, label in enumerate(classes):
        objects = truth.image[(truth.label == label) & drawn[truth.image]]
        mine = _One.of(matches, order[matches.label[order] == label], objects)
        for start in range(0, len(counts), PART):
            part = slice(start, start + PART)
            found[part, index] = mine.resampled(np.ascontiguousarray(by_image[:, part]), definition)
    return classes, found


@dataclass(frozen=True)
class _One:
    """One class: its detections by falling confidence, and those rows of them that can change a curve.

    Between two of these rows only the number of detections matters, which is the same at every threshold, except for
    detections that are ignored at some thresholds and not at others; they have rows of their own.

    Attributes:
        image: of each detection, (detections,).
        counted: whether it counts at every threshold, (detections,).
        rows: indices of detections that hit, or are ignored, at some thresholds, (rows,).
        hit: of these, (rows, thresholds).
        sometimes: of these, whether it counts at some thresholds, and at this one, (rows, thresholds); None if none.
        objects: image of each object, (objects,).
    """

    image: Ints
    counted: Bools
    rows: Ints
    hit: Bools
    sometimes: Bools | None
    objects: Ints

    @classmethod
    def of(cls, matches: Matches, mine: Ints, objects: Ints) -> "_One":
        hit = matches.hit[mine]
        if matches.ignored is None:
            rows = np.flatnonzero(hit.any(1))
            return cls(matches.image[mine], np.ones(len(mine), bool), rows, hit[rows], None, objects)
        ignored = matches.ignored[mine]
        varying = (ignored != ignored[:, :1]).any(1)
        rows = np.flatnonzero(hit.any(1) | varying)
        sometimes = varying[rows, None] & ~ignored[rows] if varying.any() else None
        return cls(matches.image[mine], ~(varying | ignored[:, 0]), rows, hit[rows], sometimes, objects)

    def resampled(self, counts: Ints, definition: str) -> Floats:
        """Average precision, (resamples, thresholds), of images that count so often, (images, resamples)."""
        objects, weight, all_seen = counts[self.objects].sum(0), counts[self.image[self.rows]], counts[self.image]
        all_seen[~self.counted] = 0
        np.cumsum(all_seen, 0, out=all_seen)
        seen, total = all_seen[self.rows], all_seen[-1:]
        found = np.empty((counts.shape[1], self.hit.shape[1]))
        for threshold, hit in enumerate(self.hit.T):
            here, end = seen, total
            if self.sometimes is not None:
                more = np.where(self.sometimes[:, threshold, None], weight, 0).cumsum(0, np.int32)
                here, end = seen + more, total + more[-1:]
            found[:, threshold] = _areas(weight[hit], here[hit], end, objects, definition)
        return found


def mean_average_precision(found: Floats) -> tuple[Floats, Floats]:
    """Means over classes of `average_precision`: at the first threshold and over all, each (resamples,)."""
    by_threshold = np.nanmean(found, 1)
    return by_threshold[:, 0], by_threshold.mean(1)


def _last(*indices: Ints) -> int:
    return max((int(i.max()) for i in indices if len(i)), default=0)


def _areas(weight: Ints, seen: Ints, total: Ints, objects: Ints, definition: str) -> Floats:
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
        mean: Floats = np.take_along_axis(envelope, _place(recall, right=False), 0).mean(0)
        return missing + mean
    # Between two hits the curve is a line, level where a detection between them missed.
    missed = np.diff(seen - weight, axis=0, prepend=0) > np.concatenate([np.zeros_like(weight[:1]), weight[:-1]])
    left = np.where(missed, envelope, np.concatenate([np.ones_like(envelope[:1]), envelope[:-1]]))
    tail = hits[-1:] / np.maximum(total, 1) if definition == "ultralytics-8.3" else np.zeros_like(recall[:1])
    # Each line from its left end to its right one, and the last from the end of the hits to (1, 0).
    x = np.concatenate([np.zeros_like(recall[:1]), recall]), np.concatenate([recall, np.ones_like(tail)])
    y = np.concatenate([left, tail]), np.concatenate([envelope, np.zeros_like(tail)])
    slope = (y[1] - y[0]) / np.where(x[1] > x[0], x[1] - x[0], 1)
    line = _place(recall, right=True)
    curves = np.take_along_axis(y[0] - slope * x[0], line, 0) + np.take_along_axis(slope, line, 0) * RECALLS[:, None]
    curves[-1, line[-1] == len(recall)] = 0.0  # at the end of the last one, which is a point where all was found
    area: Floats = (curves[1:] + curves[:-1]).mean(0) / 2
    return missing + area


def _place(recall: Floats, right: bool) -> Ints:
    """How many hits have a recall below each of `RECALLS`, or no higher if `right`: (101, resamples)."""
    columns = torch.from_numpy(np.ascontiguousarray(recall.T))
    wanted = torch.from_numpy(RECALLS).expand(len(columns), -1).contiguous()
    return torch.searchsorted(columns, wanted, right=right).numpy().T
