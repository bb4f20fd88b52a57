"""Is the difference real? Arrays in, intervals and words out; numpy and scipy, and nothing of ours."""

from .differences import (
    LEVEL,
    draw_images,
    holm,
    interquartile_mean,
    interval,
    mcnemar,
    probability_better,
    sign_flip,
    signs,
    two_level_p,
    variances,
)
from .judgement import LEARNED, Verdict, judge, judge_families
from .looks import Looks, SignFlips, fewest_seeds
from .power import detectable, power
from .precision import Matches, Truth, average_precision, mean_average_precision

__all__ = [
    "LEARNED",
    "LEVEL",
    "Looks",
    "Matches",
    "SignFlips",
    "Truth",
    "Verdict",
    "average_precision",
    "detectable",
    "draw_images",
    "fewest_seeds",
    "holm",
    "interquartile_mean",
    "interval",
    "judge",
    "judge_families",
    "mcnemar",
    "mean_average_precision",
    "power",
    "probability_better",
    "sign_flip",
    "signs",
    "two_level_p",
    "variances",
]
