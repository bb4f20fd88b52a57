"""What a plan can find, before hours are spent. A verdict does not use it: power after the fact says nothing new."""

import math

import numpy as np
import scipy  # whose parts load when they are first used

from .differences import LEVEL

POWER = 0.8
MOST_DEVIATIONS = 20.0  # larger effects are not looked for


def power(effect: float, seeds: int, level: float = LEVEL, held_out: float | None = None) -> float:
    """Probability that a paired t test finds an effect, given in standard deviations of the paired differences.

    Args:
        effect: to be found.
        seeds: of the study.
        level: of the test, two-sided.
        held_out: with folds, the images that a seed holds out over those that it is trained on; see `variances`.
    """
    if seeds < 2:
        return 0.0
    bound = scipy.stats.t.ppf(1 - level / 2, seeds - 1)
    # Beyond, it is certain, and the distribution below cannot be computed.
    shift = min(effect / math.sqrt(1 / seeds + (held_out or 0.0)), 50.0)
    wrong_side = scipy.stats.nct.cdf(-bound, seeds - 1, shift)  # nan where it is too small to be computed
    return float(scipy.stats.nct.sf(bound, seeds - 1, shift) + np.nan_to_num(wrong_side))


def detectable(seeds: int, level: float = LEVEL, held_out: float | None = None) -> float:
    """Smallest effect that is found with the power `POWER`, in standard deviations of the paired differences.

    Infinite where so few seeds find nothing at such a level, however large it is.
    """
    if power(MOST_DEVIATIONS, seeds, level, held_out) < POWER:
        return math.inf

    def missing(effect: float) -> float:
        return power(effect, seeds, level, held_out) - POWER

    return float(scipy.optimize.brentq(missing, 1e-6, MOST_DEVIATIONS))
