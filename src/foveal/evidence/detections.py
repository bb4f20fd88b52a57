"""What a model found on a set of images, stored so that every average can be computed again; knows numpy only."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..verdict import Bools, Floats, Ints, Matches, Truth, average_precision, mean_average_precision
from .claims import SURE, Claims
from .stored import Arrays, Stored, Words

THRESHOLDS = np.linspace(0.5, 0.95, 10)
# COCO's names for areas in pixels of the original image. Here the area is that of the box, and what is exactly between
# two sizes is of the larger one only.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}
# By what detections are matched with objects: the keys of mAP50-95 and mAP50 of each.
KEYS = {
    "box": ("map", "map50"),
    "mask": ("mask_map", "mask_map50"),
    "keypoints": ("keypoint_map", "keypoint_map50"),
}


@dataclass(frozen=True)
class Detections(Stored):
    """Detections of one model on the images of a split, and what is there.

    Boxes are corners (left, top, right, bottom) in pixels of the original image.

    Attributes:
        matched_by: those of `KEYS` that the host matches by.
        sides: numbers that a box has.
        name: file name of each image, (images,).
        image: index of each detection's image, (detections,).
        box: (detections, 4).
        confidence: (detections,).
        label: class index, (detections,).
        hit: whether the host counts it as found, at each of `THRESHOLDS`, (detections, 10).
        true_image: index of each object's image, (objects,).
        true_box: (objects, 4).
        true_label: (objects,).
        rule: by which the host takes average precision, a definition of `verdict.average_precision`.
    """

    matched_by: ClassVar[tuple[str, ...]] = ("box",)
    sides: ClassVar[int] = 4

    name: Words
    image: Ints
    box: Floats
    confidence: Floats
    label: Ints
    hit: Bools
    true_image: Ints
    true_box: Floats
    true_label: Ints
    rule: Words = field(default_factory=lambda: np.array("ultralytics"))  # older files do not say it

    def truth(self) -> Truth:
        """The objects, for `verdict.average_precision`."""
        return Truth(self.true_image, self.true_label)

    def hits(self, of: str) -> Bools:
        """What the host counts as found, at each of `THRESHOLDS`, matched by one of `matched_by`, (detections, 10)."""
        return self.hit

    def matches(self, of: str = "box") -> Matches:
        """The detections as the host matched them, for `verdict.average_precision`."""
        return Matches(self.image, self.confidence, self.label, self.hits(of))

    def figures(self) -> dict[str, float]:
        """Both averages of each of `matched_by`, by `KEYS`, computed from what is stored rather than by the host."""
        found: dict[str, float] = {}
        for of in self.matched_by:
            _, precision = average_precision(self.matches(of), self.truth(), definition=str(self.rule))
            map50, map_ = (float(value[0]) for value in mean_average_precision(precision))
            found |= dict(zip(KEYS[of], (map_, map50), strict=True))
        return found

    def averages(self, counts: Ints, sizes: bool, of: str = "box") -> Arrays:
        """Average precision on resampled images, see `averages.load`.

        Args:
            counts: how often each image counts, (resamples, images).
            sizes: also of the objects of each size.
            of: by what detections are matched, one of `matched_by`.
        """
        classes, by_threshold = self._of_class(counts, of)
        of_class, second = by_threshold.mean(-1), over_classes(by_threshold[..., 0])
        found = {"classes": classes, KEYS[of][0]: of_class, "overall": over_classes(of_class), "second": second}
        for other in (one for one in self.matched_by if one != of):
            found[f"overall_{KEYS[other][0]}"] = over_classes(self._of_class(counts, other)[1].mean(-1))
        for size in SIZES if sizes else ():
            of_size, there = self.of_size(size, of)
            _, sized = average_precision(of_size, there, counts, "coco")
            found[size] = sized.mean(-1) if len(there.image) else np.full((len(counts), 1), np.nan)
        return found

    def _of_class(self, counts: Ints, of: str) -> tuple[Ints, Floats]:
        return average_precision(self.matches(of), self.truth(), counts, str(self.rule))

    def areas(self, of: str) -> tuple[Floats, Floats]:
        """Areas in square pixels of detections and of objects, by which they are of a size."""
        return _area(self.box), _area(self.true_box)

    def objects(self, images: Bools | None = None) -> dict[str, int]:
        """How many objects there are of each size.

        Args:
            images: those that are looked at, (images,); all if None.
        """
        _, areas = self.areas(self.matched_by[0])
        areas = areas if images is None else areas[images[self.true_image]]
        return {size: int(((areas >= low) & (areas < high)).sum()) for size, (low, high) in SIZES.items()}

    def is_whole(self) -> bool:
        """Whether the arrays fit together and are finite, which those of a damaged file need not."""
        count, objects, images = len(self.image), len(self.true_image), len(self.name)
        return all(
            (
                *(
                    self.name.ndim == 1,
                    self.box.shape == (count, self.sides),
                    *(self.true_box.shape == (objects, self.sides), self.hit.shape == (count, len(THRESHOLDS))),
                ),
                *(self.confidence.shape == self.label.shape == (count,), self.true_label.shape == (objects,)),
                *(below(self.image, images), below(self.true_image, images)),
                *(self.label.dtype.kind in "iu", self.true_label.dtype.kind in "iu"),
                *(bool(np.isfinite(one).all()) for one in (self.box, self.true_box, self.confidence)),
            )
        )

    def of_size(self, name: str, of: str = "box") -> tuple[Matches, Truth]:
        """Detections and objects of one of `SIZES`, matched after COCO's rules by one of `matched_by`.

        Objects of other sizes are there to be matched, but they and what matches them count neither way, and so do
        detections of another size that match nothing.
        """
        low, high = SIZES[name]
        other, true_other = ((a < low) | (a >= high) for a in self.areas(of))
        hit = np.zeros((len(self.image), len(THRESHOLDS)), bool)
        ignored = np.repeat(other[:, None], len(THRESHOLDS), 1)  # also where there is nothing to be matched
        for mine, theirs, overlaps in self._pairs(of):
            found = match(overlaps, true_other[theirs])
            passed = true_other[theirs][found] & (found >= 0)
            hit[mine] = (found >= 0) & ~passed
            ignored[mine] = passed | ((found < 0) & other[mine, None])
        counted = ~true_other
        return (
            Matches(self.image, self.confidence, self.label, hit, ignored),
            Truth(self.true_image[counted], self.true_label[counted]),
        )

    def upright(self, boxes: Floats) -> Floats:
        """Corners of boxes of the evidence, or of those around them, (boxes, 4)."""
        return boxes

    def drawn(self, detection: int) -> dict[str, list[Any]]:
        """What is drawn of a detection in the place of its box, or with it.

        Returns:
            Closed `lines`, lists of places, and `points`, places with what is known of each; as far as there are any.
        """
        return {}

    def true_drawn(self, thing: int) -> dict[str, list[Any]]:
        """Likewise of an object."""
        return {}

    def taken(self, among: Ints, of: str = "box") -> Ints:
        """The object that each of some detections finds at an overlap of 0.5, -1 for none, (among,)."""
        taken = np.full(len(self.image), -1)
        for mine, theirs, overlaps in self._pairs(of, among):
            hits = match(overlaps, np.zeros(len(theirs), bool), THRESHOLDS[:1])[:, 0]
            taken[mine] = np.where(hits >= 0, theirs[hits], -1)
        return taken[among]

    def scores(self, confidence: float = SURE, of: str = "box") -> Floats:
        """F1 of each image at an overlap of 0.5, (images,): 1 where all is found and nothing else, or nothing is there.

        Args:
            confidence: of the faintest detections that count.
            of: by what detections are matched, one of `matched_by`.
        """
        kept = np.flatnonzero(self.confidence >= confidence)
        found = np.bincount(self.image[kept][self.taken(kept, of) >= 0], minlength=len(self.name))
        both = np.bincount(self.image[kept], minlength=len(found)) + np.bincount(self.true_image, minlength=len(found))
        return np.where(both > 0, 2 * found / np.maximum(both, 1), 1.0)

    def same_images(self, other: object) -> bool:
        """Whether another model was judged on the same images with the same objects."""
        if not isinstance(other, Detections):
            return False
        mine, theirs = self._in_order(), other._in_order()
        return np.array_equal(self.name, other.name) and all(
            np.array_equal(ours[mine], its[theirs])
            for ours, its in ((self.true_image, other.true_image), (self.true_label, other.true_label))
        )

    def claims(self, of: str = "box") -> Claims:
        """Each detection as a claim, which is right if it finds an object by one of `matched_by`."""
        order = self._in_order()
        place = np.empty(len(order) + 1, int)
        place[order], place[-1] = np.arange(len(order)), -1
        finds = place[self.taken(np.arange(len(self.image)), of)]
        return Claims(
            *(self.image, self.label, self.confidence, self.upright(self.box), finds),
            *(self.true_image[order], self.true_label[order], self.upright(self.true_box[order])),
            SURE,
        )

    def _in_order(self) -> Ints:
        """Indices of the objects in the order of images and label files: hosts go through images in their own."""
        return np.argsort(self.true_image, kind="stable")

    def _pairs(self, of: str, among: Ints | None = None) -> Iterator[tuple[Ints, Ints, Floats]]:
        """Detections, by falling confidence, objects of the same image and class, and how far they overlap.

        Where there are any of both; only of the detections `among` all, if that is given.
        """
        for mine, theirs in self._groups(among):
            yield mine, theirs, iou(self.box[mine], self.true_box[theirs])

    def _groups(self, among: Ints | None) -> Iterator[tuple[Ints, Ints]]:
        among = np.arange(len(self.image)) if among is None else among
        classes = 1 + max((int(labels.max()) for labels in (self.label, self.true_label) if len(labels)), default=0)
        mine = _grouped(self.image[among] * classes + self.label[among], -self.confidence[among])
        theirs = _grouped(self.true_image * classes + self.true_label, np.zeros(len(self.true_image)))
        for key in mine.keys() & theirs.keys():
            yield among[mine[key]], theirs[key]


def iou(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union of each box with each other, (boxes, others)."""
    boxes, others = boxes.astype(float), others.astype(float)
    corners = np.maximum(boxes[:, None, :2], others[None, :, :2]), np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Floats = (corners[1] - corners[0]).clip(0).prod(-1)
    return shared / np.maximum(_area(boxes)[:, None] + _area(others)[None] - shared, 1e-12)


def match(overlaps: Floats, ignored: Bools, thresholds: Floats = THRESHOLDS) -> Ints:
    """COCO's assignment of detections to objects of one image and class.

    Each detection in turn takes the free object it overlaps most, one that counts before one that does not.

    Args:
        overlaps: intersection over union, detections by falling confidence, (detections, objects).
        ignored: objects that do not count, (objects,).
        thresholds: smallest overlaps that match.

    Returns:
        Index of the object that each detection takes at each threshold, -1 for none, (detections, thresholds).
    """
    taken = np.full((len(overlaps), len(thresholds)), -1)
    free = np.ones((len(thresholds), overlaps.shape[1]), bool)
    for index in np.flatnonzero((overlaps >= thresholds[0]).any(1)):
        fits = free & (overlaps[index] >= thresholds[:, None])
        counting = fits & ~ignored
        fits = np.where(counting.any(1, keepdims=True), counting, fits)
        # Of equal ones the last, as in COCO's own loop.
        best = overlaps.shape[1] - 1 - np.where(fits, overlaps[index], -1)[:, ::-1].argmax(1)
        matched = np.flatnonzero(fits.any(1))
        taken[index, matched] = best[matched]
        free[matched, best[matched]] = False
    return taken


def over_classes(found: Floats) -> Floats:
    """Mean over those classes that have an average, (resamples, classes) to (resamples,); nan where none has."""
    there = ~np.isnan(found)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(there, found, 0).sum(1) / there.sum(1)
    return mean


def below(indices: Ints, count: int) -> bool:
    """Whether all are indices of so many things."""
    return indices.ndim == 1 and indices.dtype.kind in "iu" and bool(((indices >= 0) & (indices < count)).all())


def _area(boxes: Floats) -> Floats:
    area: Floats = (boxes[:, 2:] - boxes[:, :2]).clip(0).astype(float).prod(-1)
    return area


def _grouped(keys: Ints, order: Floats) -> dict[int, Ints]:
    """Indices of each key, in the given order."""
    indices = np.lexsort((order, keys))
    found, starts = np.unique(keys[indices], return_index=True)
    return dict(zip(found.tolist(), np.split(indices, starts)[1:], strict=True))
