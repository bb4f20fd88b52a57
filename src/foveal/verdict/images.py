"""What an average over images is worth: intervals of averages and of differences between models that exist.

Only the choice of images varies here. A model trained again with another seed would give another average, and nothing
in one model of each says by how much.

    a        the average on all n images
    a[r]     the same on images drawn with replacement, draw r the same for every model

    standard error   sqrt(n / (n - 1)) * deviation of a[r]       (a draw varies by n - 1 of n parts: Efron 1979)
    of a difference  d plus and minus t * standard error
    of an average    the same on the scale of log(a / (1 - a)), so that no bound leaves 0..1

with Student's t for n - 1 degrees of freedom, so that for differences of means over images it is the paired t interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # whose parts load when they are first used

from .differences import LEVEL, Floats, holm_steps

FEWEST = 10  # images of a part that has an interval: fewer, drawn again, show too little of how images vary


@dataclass(frozen=True)
class Estimate:
    """An average over images, or a difference of two.

    Attributes:
        value: on the images that there are; None if there is none, as of a class without an object.
        low: lower bound on other images of the same kind; None if these do not tell.
        high: upper bound.
        p: of no difference, adjusted for how many differences were asked; None of an average.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the bounds are known and on one side of 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def estimate(found: Floats, images: int) -> Estimate:
    """An average with its interval, at `LEVEL`.

    Args:
        found: on all images first and then on resampled ones, (1 + resamples,); nan where there is none.
        images: how many there are.

    Returns:
        No bounds of an average that is 0 or 1, which does not vary.
    """
    value, error = _measured(found, images)
    if value is None or error is None or not 0 < value < 1:
        return Estimate(value)
    slope = value * (1 - value)  # of the average by its logit
    reach = float(scipy.stats.t.ppf(1 - LEVEL / 2, images - 1)) * error / slope
    low, high = scipy.special.expit(scipy.special.logit(value) + np.array([-reach, reach])).tolist()
    return Estimate(value, low, high)


def differences_of(found: Sequence[Floats], images: int) -> list[Estimate]:
    """Differences to one reference, which share `LEVEL`: p and intervals after Holm, which never disagree.

    Args:
        found: each difference as `estimate` takes an average.
        images: how many there are.
    """
    measured = [_measured(each, images) for each in found]
    made = []
    steps = holm_steps([_p(*each, images) for each in measured], len(measured))
    for (value, error), (p, level) in zip(measured, steps, strict=True):
        if value is None or error is None:
            made.append(Estimate(value))
        else:
            reach = float(scipy.stats.t.ppf(1 - level / 2, images - 1)) * error
            made.append(Estimate(value, value - reach, value + reach, p))
    return made


def _measured(found: Floats, images: int) -> tuple[float | None, float | None]:
    """The average and its standard error, each None where there is none."""
    drawn = found[1:][np.isfinite(found[1:])]
    value = float(found[0]) if np.isfinite(found[0]) else None
    if value is None or images < 2 or len(drawn) < 2:
        return value, None
    return value, float(drawn.std(ddof=1)) * math.sqrt(images / (images - 1))


def _p(value: float | None, error: float | None, images: int) -> float:
    """Two-sided, of no difference; 1 where the models are equal or nobody knows."""
    if not value or error is None:
        return 1.0
    return float(2 * scipy.stats.t.sf(abs(value) / error, images - 1)) if error else 0.0
