"""Detections that are more than upright boxes: rotated boxes, masks and key points; knows numpy only.

What the host measured between detections and objects is stored, as far as it can match, so that whatever matches them
again needs no geometry. Shapes themselves are kept to be looked at, and only those that are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..verdict import Bools, Floats, Ints
from .detections import THRESHOLDS, Detections, below

DRAWN = 0.05  # confidence of the faintest detections whose shapes are kept


@dataclass(frozen=True, kw_only=True)
class Measured(Detections):
    """Detections with the overlaps that the host measured, by the first of `matched_by`.

    Attributes:
        pair: a detection and an object of the same image and class, (pairs, 2).
        overlap: of these, as far as it is at least the first of `THRESHOLDS`, (pairs,).
    """

    pair: Ints
    overlap: Floats

    def is_whole(self) -> bool:
        """Whether the arrays fit together and are finite, which those of a damaged file need not."""
        pairs = self.pair
        return (
            super().is_whole()
            and (pairs.ndim == 2 and pairs.shape[1] == 2 and self.overlap.shape == (len(pairs),))
            and pairs.dtype.kind in "iu"
            and bool(((pairs >= 0) & (pairs < (len(self.image), len(self.true_image)))).all())
            and bool(np.isfinite(self.overlap).all())
        )

    def _pairs(self, of: str, among: Ints | None = None) -> Iterator[tuple[Ints, Ints, Floats]]:
        if of != self.matched_by[0]:
            yield from super()._pairs(of, among)
            return
        order = np.argsort(self.pair[:, 1], kind="stable")
        starts = np.searchsorted(self.pair[order, 1], np.arange(len(self.true_image) + 1))
        place = np.full(len(self.image), -1)
        for mine, theirs in self._groups(among):
            overlaps = np.zeros((len(mine), len(theirs)))
            place[mine] = np.arange(len(mine))
            for column, one in enumerate(theirs):
                measured = order[starts[one] : starts[one + 1]]
                rows = place[self.pair[measured, 0]]
                overlaps[rows[rows >= 0], column] = self.overlap[measured][rows >= 0]
            yield mine, theirs, overlaps


def corners(boxes: Floats) -> Floats:
    """Corners of rotated boxes one after the other, (boxes, 4, 2)."""
    middle, half, angle = boxes[:, None, :2], boxes[:, None, 2:4] / 2, boxes[:, 4]
    along = np.stack([np.cos(angle), np.sin(angle)], -1)[:, None] * half[..., :1]
    across = np.stack([-np.sin(angle), np.cos(angle)], -1)[:, None] * half[..., 1:]
    return np.concatenate([middle + x * along + y * across for x, y in ((1, 1), (1, -1), (-1, -1), (-1, 1))], 1)


def _of(rising: Ints, value: int) -> slice:
    """Where a value stands among rising ones."""
    return slice(*np.searchsorted(rising, [value, value + 1]))


@dataclass(frozen=True, kw_only=True)
class Rotated(Measured):
    """Rotated boxes, matched by the host's overlap of two of them.

    Boxes are centre, width and height in pixels of the original image, and the angle in radians by which the width is
    turned from the horizontal, clockwise as images are drawn: (left to right, top to bottom, width, height, angle).
    """

    sides: ClassVar[int] = 5

    def areas(self, of: str) -> tuple[Floats, Floats]:
        """Areas in square pixels of detections and of objects, by which they are of a size."""
        boxes, true_boxes = (boxes[:, 2:4].clip(0).astype(float).prod(-1) for boxes in (self.box, self.true_box))
        return boxes, true_boxes

    def upright(self, boxes: Floats) -> Floats:
        """Corners of the upright boxes around rotated ones, (boxes, 4)."""
        found = corners(boxes)
        return np.concatenate([found.min(1), found.max(1)], 1)

    def drawn(self, detection: int) -> dict[str, list[Any]]:
        """The box."""
        return {"lines": corners(self.box[[detection]]).tolist()}

    def true_drawn(self, thing: int) -> dict[str, list[Any]]:
        """The box."""
        return {"lines": corners(self.true_box[[thing]]).tolist()}


@dataclass(frozen=True, kw_only=True)
class Masks(Measured):
    """Masks and their boxes, each matched by itself.

    The outline of a mask is one closed line or several, of which those inside another one are holes.

    Attributes:
        mask_hit: whether the host counts the mask as found, at each of `THRESHOLDS`, (detections, 10).
        area: of each mask in square pixels of the original image, (detections,).
        true_area: likewise of the objects, (objects,).
        point: of all lines, left to right and top to bottom in pixels of the original image, (points, 2).
        line: index of the line that each belongs to, rising, (points,).
        owner: index of the detection that each line is an outline of, of those of at least `DRAWN`, (lines,).
        true_point: likewise of the objects.
        true_line: likewise.
        true_owner: index of an object.
    """

    matched_by: ClassVar[tuple[str, ...]] = ("mask", "box")

    mask_hit: Bools
    area: Floats
    true_area: Floats
    point: Floats
    line: Ints
    owner: Ints
    true_point: Floats
    true_line: Ints
    true_owner: Ints

    def hits(self, of: str) -> Bools:
        """What the host counts as found, at each of `THRESHOLDS`, by mask or by box, (detections, 10)."""
        return self.mask_hit if of == "mask" else self.hit

    def areas(self, of: str) -> tuple[Floats, Floats]:
        """As COCO has it: those of objects are their masks', those of detections what is matched."""
        return (self.area if of == "mask" else super().areas(of)[0]), self.true_area

    def drawn(self, detection: int) -> dict[str, list[Any]]:
        """The outline of the mask; of a faint one none."""
        lines = np.flatnonzero(self.owner == detection).tolist()
        return {"lines": [self.point[_of(self.line, line)].tolist() for line in lines]}

    def true_drawn(self, thing: int) -> dict[str, list[Any]]:
        """The outline of the mask."""
        lines = np.flatnonzero(self.true_owner == thing).tolist()
        return {"lines": [self.true_point[_of(self.true_line, line)].tolist() for line in lines]}

    def is_whole(self) -> bool:
        """Whether the arrays fit together and are finite, which those of a damaged file need not."""
        count, objects = len(self.image), len(self.true_image)
        lines = (self.point, self.line, self.owner, count), (self.true_point, self.true_line, self.true_owner, objects)
        return (
            super().is_whole()
            and (self.mask_hit.shape == (count, len(THRESHOLDS)) and self.mask_hit.dtype == bool)
            and (self.area.shape == (count,) and self.true_area.shape == (objects,))
            and all(points.shape == (len(line), 2) for points, line, *_ in lines)
            and all(below(line, len(owner)) and below(owner, most) for _, line, owner, most in lines)
            and all(bool(np.isfinite(a).all()) for a in (self.area, self.true_area, self.point, self.true_point))
        )


@dataclass(frozen=True, kw_only=True)
class Poses(Measured):
    """Key points and their boxes, each matched by itself.

    Attributes:
        keypoint_hit: whether the host counts the key points as found, at each of `THRESHOLDS`, (detections, 10).
        keypoint: left to right and top to bottom in pixels of the original image, and if models say it how surely
            each is seen, (the first detections, of at least `DRAWN`, points, 2 or 3).
        true_keypoint: likewise of the objects; the third is 0 for a point that has no place, (objects, points, 2 or 3).
    """

    matched_by: ClassVar[tuple[str, ...]] = ("keypoints", "box")

    keypoint_hit: Bools
    keypoint: Floats
    true_keypoint: Floats

    def hits(self, of: str) -> Bools:
        """What the host counts as found, at each of `THRESHOLDS`, by key points or by box, (detections, 10)."""
        return self.keypoint_hit if of == "keypoints" else self.hit

    def drawn(self, detection: int) -> dict[str, list[Any]]:
        """The key points; of a faint detection none."""
        return {"points": self.keypoint[detection].tolist() if detection < len(self.keypoint) else []}

    def true_drawn(self, thing: int) -> dict[str, list[Any]]:
        """The key points that have a place."""
        points = self.true_keypoint[thing]
        return {"points": [point.tolist() for point in points if len(point) < 3 or point[2] > 0]}

    def is_whole(self) -> bool:
        """Whether the arrays fit together and are finite, which those of a damaged file need not."""
        found, true = self.keypoint, self.true_keypoint
        return (
            super().is_whole()
            and (self.keypoint_hit.shape == (len(self.image), len(THRESHOLDS)) and self.keypoint_hit.dtype == bool)
            and (found.ndim == true.ndim == 3 and len(found) <= len(self.image) and len(true) == len(self.true_image))
            and bool(np.isfinite(found).all() and np.isfinite(true).all())
        )
