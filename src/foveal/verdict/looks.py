r"""Planned looks: a study that is judged after so many seeds, and again after more, keeps one error rate for all looks.

Sign flips are exact at any look. Given the absolute differences, every pattern of signs is as likely as any other
where there is no effect. At each look those patterns are set aside that earlier looks would have rejected, and of the
rest the most extreme ones are rejected, as many as this look may spend. What a look spends is a share of the level that
is fixed with the plan: the first look takes what its smallest p needs, and the others share the rest (Lan and DeMets
1983; Koning and van Meer 2025 show that a fixed test can be made sequential without loss).

The two-level interval is taken at one nominal level at every look, so that all looks together keep the level (repeated
confidence intervals, Pocock 1977; Jennison and Turnbull 1989).
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import scipy  # whose parts load when they are first used

from .differences import CLOSE, LEVEL, Floats, sign_flip, signs

STEPS = (6, 8, 12, 16, 24, 32, 48, 64, 96)  # seeds at which an open plan looks
FIRST = (0.4, 0.65)  # shares of the level that the first look takes at least and at most, where others follow


def fewest_seeds(level: float = LEVEL) -> int:
    """Seeds with which sign flips can find anything at all: with fewer, no p is as small as the level."""
    return max(2, 1 + math.ceil(-math.log2(level)))


@dataclass(frozen=True)
class Looks:
    """When a study is judged, and what its pairs share.

    Attributes:
        seeds: at each look, rising.
        claims: arms that share the level; the first look spends what they need.
        held_out: with folds, the images that a seed holds out over those that it is trained on; None without.
    """

    seeds: tuple[int, ...]
    claims: int = 1
    held_out: float | None = None

    @classmethod
    def between(cls, first: int, last: int, claims: int = 1) -> "Looks":
        """The first look at `first` seeds or as many as can tell anything, the last at `last`, others at `STEPS`."""
        first = min(max(first, fewest_seeds(FIRST[1] * LEVEL / claims)), last)
        return cls(
            (first, *(n for n in STEPS if first + 2 <= n <= last - 2), *((last,) if last > first else ())), claims
        )

    @functools.cached_property
    def shares(self) -> tuple[float, ...]:
        """Share of the level that sign flips spend at each look, in whole patterns; what is left over goes on."""
        level, given, spent = LEVEL / self.claims, 0.0, []
        need = 2.0 ** (1 - self.seeds[0]) / level
        first = min(1.0, max(need, FIRST[0])) if self.seeds[1:] else 1.0
        for look, n in enumerate(self.seeds):
            due = first + (1 - first) * look / max(1, len(self.seeds) - 1)
            unit = 1 / (len(signs(n)) * level)  # the share that one pattern takes
            spent.append(unit * math.floor((due - given) / unit + 1e-9) if n != self.seeds[-1] else due - given)
            given += spent[-1]
        return tuple(spent)

    def nominal(self, level: float) -> float:
        """Level of the two-level interval at each look, for that of all looks together."""
        return _nominal(self.seeds, level)

    def overall(self, p: float) -> float:
        """P value for all looks together, of that which the two-level test has at one of them."""
        if not self.seeds[1:] or p >= 1:
            return p
        return min(1.0, _crossing(self.seeds, float(scipy.stats.norm.isf(max(p, 1e-12) / 2))))


class SignFlips:
    """The sequential test of sign flips on the differences that there are.

    Args:
        differences: at each seed in the order of the plan, (seeds,); as many as one of the looks has.
        looks: of the plan.
    """

    def __init__(self, differences: Floats, looks: Looks):
        self.differences, self.alone = differences, looks.seeds == (len(differences),)
        self.looks = [(n, share) for n, share in zip(looks.seeds, looks.shares, strict=True) if n <= len(differences)]

    def rejects(self, shift: float, level: float) -> bool:
        """Whether a true difference of `shift` is rejected at this look or was at an earlier one."""
        left = self.differences - shift
        sizes = np.abs(left)
        bounds: list[tuple[int, float]] = []
        for n, share in self.looks:
            patterns = signs(n)
            allowed = math.floor(level * share * len(patterns) + 1e-9)
            if not allowed:
                continue
            sums = np.abs(patterns @ sizes[:n])
            for before, bound in bounds:  # set aside what was rejected there
                sums[np.abs(patterns[:, :before] @ sizes[:before]) >= bound * (1 - CLOSE)] = -1.0
            bounds.append((n, _bound(sums, allowed)))
            if abs(left[:n].sum()) >= bounds[-1][1] * (1 - CLOSE):
                return True
        return False

    def p(self) -> float:
        """Smallest level at which no difference at all is rejected."""
        if self.alone:
            return float(sign_flip(self.differences))
        if not self.rejects(0.0, 1.0):
            return 1.0
        low, high = 0.0, 1.0  # more is rejected at a higher level
        while high - low > 1e-10 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if self.rejects(0.0, middle) else (middle, high)
        return high

    def interval(self, level: float) -> tuple[float, float]:
        """Shifts about the mean that are not rejected; without end where so few seeds reject nothing."""
        lowest, highest, mean = (float(f(self.differences)) for f in (np.min, np.max, np.mean))
        return self._end(mean, lowest, -1, level), self._end(mean, highest, 1, level)

    def _end(self, mean: float, outer: float, side: int, level: float) -> float:
        width = max(float(np.ptp(self.differences)), 1e-12 + 1e-9 * abs(mean))
        beyond = outer + side * 1e-6 * width
        if not self.rejects(beyond, level):
            return side * math.inf
        inner, outer = mean, beyond
        if min(inner, outer) < 0 < max(inner, outer):  # so that p and the interval never disagree
            inner, outer = (inner, 0.0) if self.rejects(0.0, level) else (0.0, outer)
        while abs(outer - inner) > 1e-5 * width:
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if self.rejects(middle, level) else (middle, outer)
        return outer if outer == 0.0 else inner


def _bound(sums: Floats, allowed: int) -> float:
    """Smallest sum that at most so many reach, ties counted together; infinite where a tie alone is more."""
    largest = np.sort(np.partition(sums, -allowed - 1)[-allowed - 1 :])[::-1] if allowed < len(sums) else np.sort(sums)
    if allowed >= len(sums):
        return max(float(largest[0]), 0.0)
    reached = largest[:allowed][largest[:allowed] > largest[allowed] * (1 + CLOSE)]
    return float(reached[-1]) if len(reached) and reached[-1] >= 0 else math.inf


@functools.lru_cache(maxsize=512)
def _nominal(seeds: tuple[int, ...], level: float) -> float:
    if not seeds[1:]:
        return level
    bound = scipy.optimize.brentq(lambda bound: _crossing(seeds, bound) - level, 0.01, 8.0, xtol=1e-12)
    return float(2 * scipy.stats.norm.sf(bound))


@functools.lru_cache(maxsize=4096)
def _crossing(seeds: tuple[int, ...], bound: float) -> float:
    """Probability that a mean of so many normal values leaves 0 by so many standard errors at any look.

    By the recursion of Armitage, McPherson and Rowe (1969) over the density of the sum inside the bound.
    """
    edge = bound * math.sqrt(seeds[0])
    grid = np.linspace(-edge, edge, 201)
    density = scipy.stats.norm.pdf(grid, scale=math.sqrt(seeds[0]))
    inside = 2 * scipy.stats.norm.cdf(bound) - 1
    for before, now in itertools.pairwise(seeds):
        edge = bound * math.sqrt(now)
        following = np.linspace(-edge, edge, 201)
        steps = scipy.stats.norm.pdf(following[:, None] - grid[None], scale=math.sqrt(now - before))
        density = scipy.integrate.trapezoid(steps * density, grid, axis=1)
        grid = following
        inside = scipy.integrate.trapezoid(density, grid)
    return float(1 - inside)
