r"""Paired differences of an arm and the baseline: where their spread comes from, intervals and tests.

Both are trained with the same n seeds and judged on the same images. Their difference at one seed varies for two
reasons: another seed would give another difference, and so would other images.

    d[s]     difference of the metric at seed s, on all images
    d[s, r]  the same on images drawn with replacement, drawing r the same for every seed and arm

Two-level variance of the mean difference, with bars for means over seeds and var over what the index says:

    seeds   = var_s(d[s]) / n                              n - 1 degrees of freedom
    images  = var_r(dbar[r]) - sum_s var_r(d[s, r] - dbar[r]) / (n * (n - 1))
    total   = seeds + images

The second term of `images` is what seeds and images do together, which `seeds` has counted already. The interval is the
mean plus and minus Student's t times the root of the total, its degrees of freedom after Satterthwaite. Quantiles of
resampled means would be too narrow for six seeds. Sign flips ask less: they hold whatever symmetric distribution the
differences have, and see nothing of the images.

With folds every seed holds out other images and is trained on the rest, which seeds share. What images do is in the
spread over seeds then, and what the shared images do to the mean is not: no unbiased estimate of it exists (Bengio and
Grandvalet 2004). The corrected resampled t test (Nadeau and Bengio 2003; for repeated folds Bouckaert and Frank 2004)
takes the correlation of two seeds for the share of images that one holds out, and has n - 1 degrees of freedom:

    images  = var_s(d[s]) * (images held out / images trained on)
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import scipy  # whose parts load when they are first used
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]

LEVEL = 0.05  # two-sided error rate of tests, and one less the coverage of intervals
ENUMERATED = 14  # seeds up to which all sign flips are counted; beyond, as many are drawn
CLOSE = 1e-12  # relative difference of sums that rounding alone makes


def draw_images(images: int, resamples: int, seed: int = 0) -> Ints:
    """How often each image is drawn, (resamples, images), when as many are drawn with replacement as there are."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples).astype(np.int32)


def variances(differences: Floats, resampled: Floats, held_out: float | None = None) -> tuple[Floats, Floats]:
    """Variance of the mean difference by its two causes: seeds, and images, of which more seeds take nothing away.

    Args:
        differences: at each seed on all images, (..., seeds), at least two.
        resampled: the same on resampled images, (..., seeds, resamples).
        held_out: with folds, the images that a seed holds out over those that it is trained on; None where all seeds
            are judged on the same images.
    """
    n = differences.shape[-1]
    if held_out is not None:
        spread = differences.var(-1, ddof=1)
        return spread / n, spread * held_out
    together = resampled.mean(-2)
    both = (resampled - together[..., None, :]).var(-1, ddof=1).sum(-1) / (n * (n - 1))
    return differences.var(-1, ddof=1) / n, np.maximum(together.var(-1, ddof=1) - both, 0)


def freedom(seeds: float | Floats, images: float | Floats, n: int, held_out: float | None = None) -> Floats:
    """Degrees of freedom of the sum of both variances, after Satterthwaite; infinite where seeds do not differ.

    With folds n - 1, because both come from the same spread.
    """
    if held_out is not None:
        return np.full(np.shape(seeds), n - 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(seeds > 0, (n - 1) * ((seeds + images) / seeds) ** 2, np.inf)


def interval(
    differences: Floats, resampled: Floats, level: float = LEVEL, held_out: float | None = None
) -> tuple[Floats, Floats]:
    """Two-level interval of the mean difference, its lower and upper bound; arguments as for `variances`."""
    seeds, images = variances(differences, resampled, held_out)
    spread = scipy.stats.t.ppf(1 - level / 2, freedom(seeds, images, differences.shape[-1], held_out))
    mean, reach = differences.mean(-1), spread * np.sqrt(seeds + images)
    return mean - reach, mean + reach


def two_level_p(differences: Floats, resampled: Floats, held_out: float | None = None) -> Floats:
    """Two-sided p value of no difference that belongs to `interval`; 1 where the mean difference is 0."""
    seeds, images = variances(differences, resampled, held_out)
    mean, total = np.abs(differences.mean(-1)), seeds + images
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(mean > 0, mean / np.sqrt(total), 0.0)
    beyond: Floats = scipy.stats.t.sf(distance, freedom(seeds, images, differences.shape[-1], held_out))
    return 2 * beyond


@functools.cache
def signs(n: int) -> Floats:
    """Ways to flip the signs of n differences, (ways, n), the observed one first.

    The first sign stays, because flipping all of them changes no absolute value. All 2^(n - 1) ways where there are at
    most `ENUMERATED` seeds; beyond, as many as that are drawn once for all.
    """
    if n <= ENUMERATED:
        ways = np.array(list(itertools.product((1.0,), *[(1.0, -1.0)] * (n - 1))))
    else:
        ways = np.random.default_rng(n).choice((1.0, -1.0), (2 ** (ENUMERATED - 1), n))
        ways[0], ways[:, 0] = 1.0, 1.0
    ways.flags.writeable = False
    return ways


def sign_flip(differences: Floats) -> Floats:
    """Two-sided p value over all sign flips of the differences, (..., seeds) to (...).

    Of the hypothesis that each difference is as likely to be d as -d. With n seeds it cannot be below 2^(1 - n).
    """
    sums = np.abs(differences @ signs(differences.shape[-1]).T)
    share: Floats = (sums >= sums[..., :1] * (1 - CLOSE)).mean(-1)
    return share


def holm_steps(p: Sequence[float], claims: int, level: float = LEVEL) -> list[tuple[float, float]]:
    """Of each p, in the order given: adjusted after Holm (1979), and the level of its own interval.

    The interval at that level excludes 0 if and only if the adjusted p is at most `level`. Beyond the first p that is
    not, adjusted ones may be larger than Holm's own, which decide the same.

    Args:
        p: of each question by itself.
        claims: how many share the level, at least as many as there are p.
        level: of all of them together.
    """
    found, adjusted = {}, 0.0
    for index in np.argsort(p, kind="stable").tolist():
        adjusted = min(1.0, max(adjusted, p[index] * claims))
        found[index] = adjusted, level / claims
        if adjusted <= level:  # rejected: the others share its part
            claims -= 1
    return [found[index] for index in range(len(p))]


def two_level(asked: Sequence[tuple[Floats, Floats]]) -> list[tuple[float, float, float]]:
    """Of several questions that share `LEVEL`, each with its p, adjusted after Holm, and the bounds of its interval.

    Args:
        asked: of each its differences and its resampled differences, as for `variances`.
    """
    steps = holm_steps([float(two_level_p(*one)) for one in asked], len(asked))
    bounds = [interval(*one, own) for one, (_, own) in zip(asked, steps, strict=True)]
    return [(p, float(low), float(high)) for (p, _), (low, high) in zip(steps, bounds, strict=True)]


def interquartile_mean(differences: Floats) -> float:
    """Mean of the middle half of the values, those at its ends counted by the share of them inside."""
    ordered, n = np.sort(differences), len(differences)
    inside = np.clip(np.minimum(np.arange(1, n + 1), 3 * n / 4) - np.maximum(np.arange(n), n / 4), 0, None)
    return float(ordered @ inside / inside.sum())


def probability_better(
    differences: Floats, resampled: Floats, held_out: float | None = None
) -> tuple[float, float, float]:
    """Probability that the arm beats the baseline with a new seed on new images, and its interval.

    The share of all seeds and resamples in which it does, a tie being half (Bouthillier et al. 2021). The interval is
    that of Clopper and Pearson for as many pairs as would have the share's variance by seeds and images.

    Args:
        differences: at each seed on all images, (seeds,), at least two.
        resampled: the same on resampled images, (seeds, resamples).
        held_out: as for `variances`.
    """
    won = (resampled > 0) + 0.5 * (resampled == 0)
    share, n = float(won.mean()), len(differences)
    by_seed, by_image = variances(won.mean(-1), won, held_out)
    spread = float(by_seed) * (n - 1) / n + float(by_image)
    pairs = min(n, share * (1 - share) / spread) if spread > 0 else n
    won, lost = share * pairs, (1 - share) * pairs
    low = float(scipy.stats.beta.ppf(LEVEL / 2, won, lost + 1)) if won > 0 else 0.0
    return share, low, float(scipy.stats.beta.ppf(1 - LEVEL / 2, won + 1, lost)) if lost > 0 else 1.0


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p of the images that only one of two models gets right (McNemar 1947, by the binomial).

    Args:
        won: images that only the one gets right.
        lost: those that only the other does.
    """
    return float(scipy.stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
