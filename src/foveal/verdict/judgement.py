"""The verdict: one p, one interval and one outcome for each arm, which belong to the same decision.

The p value is the larger one of sign flips, which hold for seeds of any symmetric distribution, and of the two-level t
test, which knows the images: both must reject. The interval is the hull of what either of them does not reject. Where
several arms are compared, both are taken at the level that Holm's steps give an arm, so that all outcomes of a study
together are wrong in no more than 5 % of studies.

    helps, hurts    the interval excludes 0, and would do so without the run that speaks most for it, and with one run
                    more that lies far on the other side: three and a half standard deviations away, four and a half
                    where there are several looks, because their errors add up
    equivalent      neither, and the interval lies within the margin: two one-sided tests, each at half of the level
    inconclusive    neither, and the plan has no look left, or no number of seeds could tell

A mean of a few skewed differences has no test that keeps its level (Bahadur and Savage 1956). That is why a claim must
bear a bad run more, and why the interquartile mean stands beside the mean.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import scipy  # whose parts load when they are first used

from .differences import (
    Floats,
    freedom,
    holm_steps,
    interquartile_mean,
    interval,
    probability_better,
    sign_flip,
    two_level_p,
    variances,
)
from .looks import Looks, SignFlips, fewest_seeds

LEARNED = 4  # margins that the metric of one of both must reach before a difference means anything
BAD_RUN, BAD_RUN_OF_LOOKS = 3.5, 4.5  # standard deviations by which a run may miss that a claim must bear
UPPER = 0.8  # how sure the limit of a spread is from which more seeds are counted
MOST_SEEDS = 1000


class Outcome(str, Enum):
    """What is said of an arm, those with the most to say first."""

    HELPS = "helps"
    HURTS = "hurts"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    NEVER_OPENED = "never opened"
    NOTHING_LEARNED = "nothing learned"
    PRELIMINARY = "preliminary"

    __str__ = str.__str__  # in a sentence it is its word, in every release of Python

    @property
    def is_claim(self) -> bool:
        """Whether it says that the arm and the baseline differ."""
        return self in (Outcome.HELPS, Outcome.HURTS)


@dataclass(frozen=True)
class Verdict:
    """One arm against the baseline.

    Attributes:
        outcome: what is said of the arm; it is preliminary before the first look, when there is no interval.
        reason: of an outcome that is inconclusive: "seeds" (more of them would tell), "images" (only more images
            would), "run" (one run decides whether the interval excludes 0); else "".
        final: no planned look could change it.
        mean: of the paired differences.
        middle: their interquartile mean.
        seeds: how many pairs it was decided by.
        deviation: standard deviation of the paired differences.
        better: probability that the arm beats the baseline with a new seed on new images.
        better_low: lower bound of its interval.
        better_high: upper bound.
        low: lower bound of the interval; None where so few seeds give none, and before the first look.
        high: upper bound.
        p: the larger one of both tests, for all looks, adjusted for the number of arms; None before the first look.
        next: pairs at the next look; None if there is none.
        needed: seeds that would decide, from the upper limit of the spread; None if none would, or none are needed.
        more_images: how many times as many images would let seeds decide; None unless only images would tell.
    """

    outcome: Outcome
    reason: str
    final: bool
    mean: float
    middle: float
    seeds: int
    deviation: float
    better: float
    better_low: float
    better_high: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    next: int | None = None
    needed: int | None = None
    more_images: float | None = None

    def instead(self, outcome: Outcome) -> "Verdict":
        """The same numbers with an outcome that must be said before any other; final at any look."""
        final = self.outcome is not Outcome.PRELIMINARY
        return replace(self, outcome=outcome, reason="", final=final, needed=None, more_images=None)


Pair = tuple[Floats, Floats]  # differences, (seeds,), and resampled ones, (seeds, resamples), in the plan's order


def judge(arms: Sequence[Pair], margin: float, looks: Looks | None = None) -> list[Verdict]:
    """A verdict for each arm, after the looks that its seeds reach.

    An arm that has its outcome needs no more seeds: at later looks it keeps it, and the others share the level of those
    that helped or hurt (Holm).

    Args:
        arms: of each arm its differences and its resampled differences; at least two seeds.
        margin: the smallest difference that would matter in practice, in the unit of the metric.
        looks: of the plan, whose claims are at least as many as the arms; one look at all seeds that there are if None.
    """
    looks = looks or Looks((max(len(differences) for differences, _ in arms),), len(arms))
    verdicts: list[Verdict | None] = [None] * len(arms)
    for n in looks.seeds:
        still_open = [index for index, verdict in enumerate(verdicts) if not verdict or not verdict.final]
        ready = [index for index in still_open if len(arms[index][0]) >= n]
        claimed = sum(verdict is not None and verdict.outcome.is_claim for verdict in verdicts)
        cut = [(arms[index][0][:n], arms[index][1][:n]) for index in ready]
        for index, verdict in zip(ready, _look(cut, margin, looks, looks.claims - claimed), strict=True):
            verdicts[index] = verdict
    return [verdict or _described(*pair, looks, looks.seeds[0]) for verdict, pair in zip(verdicts, arms, strict=True)]


def judge_families(
    compared: Mapping[str, Pair], treatments: Collection[str], margin: float, looks: Looks
) -> dict[str, Verdict]:
    """A verdict for each arm by its name: treatments account for each other, and controls stand for themselves.

    Args:
        compared: as for `judge`, by name.
        treatments: the arms among them that are no controls.
        margin: as for `judge`.
        looks: of the treatments.
    """
    families = [[name for name in compared if name in treatments]]
    families += [[name] for name in compared if name not in treatments]
    found: dict[str, Verdict] = {}
    for family in filter(None, families):
        shared = looks if family[0] in treatments else replace(looks, claims=1)
        found |= zip(family, judge([compared[name] for name in family], margin, shared), strict=True)
    return found


def _look(arms: Sequence[Pair], margin: float, looks: Looks, claims: int) -> list[Verdict]:
    """At one look, of the arms that are still open; so many share the level."""
    raw = [max(SignFlips(d, looks).p(), looks.overall(float(two_level_p(d, r, looks.held_out)))) for d, r in arms]
    steps = holm_steps(raw, claims)
    return [_decide(*pair, margin, looks, level, p) for pair, (p, level) in zip(arms, steps, strict=True)]


def _decide(differences: Floats, resampled: Floats, margin: float, looks: Looks, level: float, p: float) -> Verdict:
    low, high = (float(bound) for bound in interval(differences, resampled, looks.nominal(level), looks.held_out))
    ends = SignFlips(differences, looks).interval(level)
    low, high = min(low, ends[0]), max(high, ends[1])
    following = next((seeds for seeds in looks.seeds if seeds > len(differences)), None)
    outcome, reason, needed, more = Outcome.INCONCLUSIVE, "", None, None
    excluded = low > 0 or high < 0
    worst = BAD_RUN_OF_LOOKS if looks.seeds[1:] else BAD_RUN
    if excluded and _bears_a_run(differences, resampled, looks, level, worst):
        outcome = Outcome.HELPS if low > 0 else Outcome.HURTS
    elif -margin < low and high < margin:
        outcome = Outcome.EQUIVALENT
    elif excluded:
        reason = "run"
    else:
        needed, more = _to_decide(differences, resampled, margin, looks, level)
        reason = "seeds" if more is None else "images"
    final = outcome is not Outcome.INCONCLUSIVE or following is None or reason == "images"
    return replace(
        _described(differences, resampled, looks, None if final else following),
        outcome=outcome,
        reason=reason,
        final=final,
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
        p=p,
        needed=needed,
        more_images=more,
    )


def _described(differences: Floats, resampled: Floats, looks: Looks, following: int | None) -> Verdict:
    """The numbers that stand beside an outcome and do not decide it, before there is one."""
    better, low, high = probability_better(differences, resampled, held_out=looks.held_out)
    return Verdict(
        Outcome.PRELIMINARY,
        reason="",
        final=False,
        mean=float(differences.mean()),
        middle=interquartile_mean(differences),
        seeds=len(differences),
        deviation=float(differences.std(ddof=1)),
        better=better,
        better_low=low,
        better_high=high,
        next=following,
    )


def _bears_a_run(differences: Floats, resampled: Floats, looks: Looks, level: float, worst: float) -> bool:
    """Whether a claim stays without the run that speaks most for it, and with one more that misses by `worst`."""
    n, side, level = len(differences), float(np.sign(differences.mean())), looks.nominal(level)
    rest = np.arange(n) != (side * differences).argmax()
    fewer, drawn = differences[rest], resampled[rest]
    reachable = max(level, 2.0 ** (2 - n))  # what one seed less can show
    if side * fewer.mean() <= 0 or max(sign_flip(fewer), two_level_p(fewer, drawn, looks.held_out)) > reachable:
        return False
    more = np.append(differences, differences.mean() - side * worst * differences.std(ddof=1))
    seeds, images = more.var(ddof=1) / (n + 1), float(variances(differences, resampled, looks.held_out)[1])
    reach = scipy.stats.t.ppf(1 - level / 2, freedom(seeds, images, n + 1, looks.held_out)) * math.sqrt(seeds + images)
    return bool(side * more.mean() > reach)


def _to_decide(
    differences: Floats, resampled: Floats, margin: float, looks: Looks, level: float
) -> tuple[int | None, float | None]:
    """Seeds with which the interval would exclude 0 or lie within the margin, and how many times more images.

    With the mean as it is, the upper limit of the spread of seeds, and the images' part as it is. One of both is None.
    """
    n, mean = len(differences), abs(float(differences.mean()))
    limit = differences.var(ddof=1) * (n - 1) / scipy.stats.chi2.ppf(1 - UPPER, n - 1)
    images = float(variances(differences, resampled, looks.held_out)[1])
    at_most = images if looks.held_out is None else limit * looks.held_out
    reach, nominal = max(mean, margin - mean), looks.nominal(level)

    def enough(seeds: int) -> bool:
        part = limit / seeds
        t = scipy.stats.t.ppf(1 - nominal / 2, freedom(part, at_most, seeds, looks.held_out))
        return bool(t * math.sqrt(part + at_most) < reach)

    # The mean is not known: whatever it is, within what seeds leave open, must be beyond their help.
    alone = float(scipy.stats.norm.ppf(1 - nominal / 2)) * math.sqrt(images)
    unsure = float(scipy.stats.t.ppf(1 - nominal / 2, n - 1)) * float(differences.std(ddof=1)) / math.sqrt(n)
    nearest, farthest = max(mean - unsure, 0.0), mean + unsure
    if farthest <= alone and alone >= margin - nearest:
        return None, 2 * (alone / reach) ** 2
    low, high = max(n, fewest_seeds(level) - 1), MOST_SEEDS
    if not enough(high):
        return None, None if alone < reach else 2 * (alone / reach) ** 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high, None
