"""What single claims tell: whether confidences mean what they say, and which claims and objects to look at."""

from collections.abc import Mapping

import numpy as np

from ..evidence import Claims, Words
from ..verdict import Floats
from .records import Bin, Box, Calibration, MissedObject, WrongClaim

BINS = 10
SHOWN = 10  # wrong claims of each model, and missed objects


def calibration(claims: Claims) -> Calibration:
    """The expected calibration error over bins of equal width, each open at its lower end.

        error = sum over bins of (claims in the bin / claims) * |share of right ones - mean confidence|

    Of a classifier's first answers that is the definition of Naeini, Cooper and Hauskrecht (2015) and of Guo, Pleiss,
    Sun and Weinberger (2017). Of detections it is that of Kueppers, Kronenberger, Shantia and Haselhoff (2020) with the
    confidence alone: a detection is right that finds an object of its class at IoU 0.5, and those below `claims.sure`
    are not asked, because hundreds of faint ones on each image would hide the others.
    """
    asked = claims.confidence >= claims.sure
    confidence, right = claims.confidence[asked].astype(float), claims.finds[asked] >= 0
    edges = np.linspace(0, 1, BINS + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    bins, error = [], 0.0
    for index, (low, high) in enumerate(zip(edges[:-1].round(9), edges[1:].round(9), strict=True)):
        mine = place == index
        count = int(mine.sum())
        means = (float(confidence[mine].mean()), float(right[mine].mean())) if count else (None, None)
        bins.append(Bin(float(low), float(high), count, *means))
        error += abs(float(confidence[mine].sum()) - float(right[mine].sum()))
    count = len(confidence)
    return Calibration(error / count if count else None, count, claims.sure, tuple(bins))


def wrong(claims: Claims, images: Words, classes: Mapping[int, str]) -> tuple[WrongClaim, ...]:
    """The most confident claims that find nothing, the surest first."""
    false = np.flatnonzero(claims.finds < 0)
    surest = false[np.argsort(-claims.confidence[false], kind="stable")][:SHOWN]
    return tuple(
        WrongClaim(
            image=str(images[claims.image[one]]),
            label=classes[int(claims.label[one])],
            confidence=float(claims.confidence[one]),
            box=_box(claims.box, one),
            true=classes[int(claims.true_label[claims.image[one]])] if claims.true_box is None else None,
        )
        for one in surest.tolist()
    )


def missed(claims: Mapping[str, Claims], images: Words, classes: Mapping[int, str]) -> tuple[MissedObject, ...]:
    """The objects that the most models miss, those first that all of them are least sure of, and of these the largest.

    Args:
        claims: of each model on the same images, by its name.
        images: their names.
        classes: names of the classes.
    """
    first = next(iter(claims.values()))
    sure = np.array([each.found_with() for each in claims.values()])  # [models, objects]
    without = (sure == 0) | (sure < first.sure)
    count, surest = without.sum(0), sure.max(0)
    area = 0 * surest if first.true_box is None else (first.true_box[:, 2:] - first.true_box[:, :2]).prod(1)
    order = np.lexsort((-area, surest, -count))
    return tuple(
        MissedObject(
            image=str(images[first.true_image[one]]),
            label=classes[int(first.true_label[one])],
            box=_box(first.true_box, one),
            missed_by=tuple(name for name, its in zip(claims, without, strict=True) if its[one]),
            confidence=float(surest[one]),
        )
        for one in order[:SHOWN].tolist()
        if count[one]
    )


def _box(boxes: Floats | None, one: int) -> Box | None:
    if boxes is None:
        return None
    left, top, right, bottom = boxes[one].tolist()
    return left, top, right, bottom
