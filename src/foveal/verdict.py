r"""Is the difference real? Arrays in, intervals and words out; knows numpy and scipy only.

An arm is trained with n seeds, and so is the baseline; all are evaluated on the same images. The difference of arm and
baseline at one seed varies for two reasons: another seed would give another difference, and so would other images.

    d[s]     difference of the metric at seed s, on all images
    d[s, r]  the same on images drawn with replacement, drawing r the same for every seed and arm

Two-level variance of the mean difference, with bars for means over seeds and var over what the index says:

    seeds   = var_s(d[s]) / n                              n - 1 degrees of freedom
    images  = var_r(dbar[r]) - sum_s var_r(d[s, r] - dbar[r]) / (n * (n - 1))
    total   = seeds + images

The second term of `images` is what seeds and images do together, which `seeds` has counted already. The interval is the
mean plus and minus Student's t times the root of the total, its degrees of freedom after Satterthwaite. Quantiles of
resampled means would be too narrow for six seeds. The p value asks less: it flips the signs of d[s] in all 2^n ways.
"""

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

LEVEL = 0.05  # two-sided error rate of tests, and one less the coverage of intervals
POWER = 0.8
MOST_DEVIATIONS = 20.0  # larger effects are not looked for
RECALLS = np.linspace(0, 1, 101)


# Average precision ---------------------------------------------------------------------------------------------------


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

    image: NDArray
    confidence: NDArray
    label: NDArray
    hit: NDArray
    ignored: NDArray | None = None


@dataclass(frozen=True)
class Truth:
    """The objects that count: index of the image and of the class of each, both (objects,)."""

    image: NDArray
    label: NDArray


def average_precision(
    matches: Matches, truth: Truth, counts: ArrayLike | None = None, definition: str = "ultralytics"
) -> tuple[NDArray, NDArray]:
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
    order = np.argsort(-matches.confidence, kind="stable")
    classes = np.unique(truth.label)
    mine = [order[matches.label[order] == label] for label in classes]
    theirs = [truth.image[truth.label == label] for label in classes]

    def resampled(counts: NDArray) -> NDArray:
        counts = np.ascontiguousarray(counts.T, np.int32)  # [images, resamples]: each step below runs along memory
        found = np.empty((counts.shape[1], len(classes), matches.hit.shape[1]))
        for index, (detections, images) in enumerate(zip(mine, theirs, strict=True)):
            objects, weight = counts[images].sum(0), counts[matches.image[detections]]
            seen = weight.cumsum(0, np.int32)
            for threshold in range(found.shape[2]):
                if matches.ignored is not None:
                    counted = np.where(matches.ignored[detections, threshold, None], 0, weight)
                    seen = counted.cumsum(0, np.int32)
                hit = matches.hit[detections, threshold]
                found[:, index, threshold] = _areas(weight[hit], seen[hit], seen[-1:], objects, definition)
        return found

    # In parts that fit a cache.
    parts = np.array_split(counts, math.ceil(len(counts) / 50))
    return classes, np.concatenate([resampled(part) for part in parts])


def mean_average_precision(found: NDArray) -> tuple[NDArray, NDArray]:
    """Means over classes of `average_precision`: at the first threshold and over all, each (resamples,)."""
    by_threshold = np.nanmean(found, 1)
    return by_threshold[:, 0], by_threshold.mean(1)


def _last(*indices: NDArray) -> int:
    return max((int(i.max()) for i in indices if len(i)), default=0)


def _areas(weight: NDArray, seen: NDArray, total: NDArray, objects: NDArray, definition: str) -> NDArray:
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
        reached = [np.searchsorted(column, RECALLS) for column in recall.T]
        return missing + np.take_along_axis(envelope, np.array(reached).T, 0).mean(0)
    # Between two hits the curve is a line, level where a detection between them missed.
    missed = np.diff(seen - weight, axis=0, prepend=0) > np.concatenate([np.zeros_like(weight[:1]), weight[:-1]])
    left = np.where(missed, envelope, np.concatenate([np.ones_like(envelope[:1]), envelope[:-1]]))
    before = np.concatenate([np.zeros_like(recall[:1]), recall[:-1]])
    tail = hits[-1:] / np.maximum(total, 1) if definition == "ultralytics-8.3" else np.zeros_like(recall[:1])
    # Corners of the curve: both ends of each line, the end of the hits, and (1, 0).
    x = np.stack([before, recall], 1).reshape(-1, recall.shape[1])
    y = np.stack([left, envelope], 1).reshape(x.shape)
    x = np.concatenate([x, recall[-1:], np.ones_like(tail)]).T
    y = np.concatenate([y, tail, np.zeros_like(tail)]).T
    curves = np.array([np.interp(RECALLS, *corners) for corners in zip(x, y, strict=True)])
    return missing + (curves[:, 1:] + curves[:, :-1]).mean(1) / 2


# Differences ---------------------------------------------------------------------------------------------------------


def draw_images(images: int, resamples: int, seed: int = 0) -> NDArray:
    """How often each image is drawn, (resamples, images), when as many are drawn with replacement as there are."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples).astype(np.int32)


def variances(differences: NDArray, resampled: NDArray) -> tuple[NDArray, NDArray]:
    """Variance of the mean difference by its two causes, seeds and images.

    Args:
        differences: at each seed on all images, (..., seeds), at least two.
        resampled: the same on resampled images, (..., seeds, resamples).
    """
    n, together = differences.shape[-1], resampled.mean(-2)
    both = (resampled - together[..., None, :]).var(-1, ddof=1).sum(-1) / (n * (n - 1))
    return differences.var(-1, ddof=1) / n, np.maximum(together.var(-1, ddof=1) - both, 0)


def interval(differences: NDArray, resampled: NDArray, level: float = LEVEL) -> tuple[NDArray, NDArray]:
    """Two-level interval of the mean difference, its lower and upper bound; arguments as for `variances`."""
    seeds, images = variances(differences, resampled)
    total = seeds + images
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(seeds > 0, (differences.shape[-1] - 1) * (total / seeds) ** 2, np.inf)
    mean, reach = differences.mean(-1), stats.t.ppf(1 - level / 2, freedom) * np.sqrt(total)
    return mean - reach, mean + reach


def sign_flip(differences: NDArray) -> NDArray:
    """Two-sided p value over all 2^seeds sign flips of the differences, (..., seeds) to (...).

    Of the hypothesis that each difference is as likely to be d as -d. With n seeds it cannot be below 2^(1 - n). Beyond
    16 seeds, 2^15 flips drawn at random stand for all; the observed signs are one of them.
    """
    n = differences.shape[-1]
    # The first sign may stay, because flipping all of them changes no absolute value.
    if n <= 16:
        signs = np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=n - 1)])
    else:
        signs = np.random.default_rng(0).choice((1, -1), (2**15, n))
        signs[0] = 1
    sums = np.abs(differences @ signs.T)
    return (sums >= sums[..., :1] * (1 - 1e-12)).mean(-1)


def holm(p: ArrayLike) -> NDArray:
    """P values adjusted for having asked several times, (..., arms), in the order given (Holm 1979)."""
    p = np.asarray(p, float)
    order = p.argsort(-1)
    steps = np.maximum.accumulate(np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1), -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(steps, 1), -1)
    return adjusted


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p of the images that only one of two models gets right (McNemar 1947, by the binomial).

    Args:
        won: images that only the one gets right.
        lost: those that only the other does.
    """
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


# Power ---------------------------------------------------------------------------------------------------------------


def power(effect: float, seeds: int, level: float = LEVEL) -> float:
    """Probability that a paired t test finds an effect, given in standard deviations of the paired differences."""
    if seeds < 2:
        return 0.0
    bound = stats.t.ppf(1 - level / 2, seeds - 1)
    shift = min(effect * math.sqrt(seeds), 50.0)  # beyond, it is certain, and the distribution below cannot be computed
    wrong_side = stats.nct.cdf(-bound, seeds - 1, shift)  # nan where it is too small to be computed
    return float(stats.nct.sf(bound, seeds - 1, shift) + np.nan_to_num(wrong_side))


def detectable(seeds: int, level: float = LEVEL, wanted: float = POWER) -> float:
    """Smallest effect that is found with the wanted power, in standard deviations of the paired differences.

    Infinite where so few seeds find nothing at such a level, however large it is.
    """
    if power(MOST_DEVIATIONS, seeds, level) < wanted:
        return math.inf
    return float(optimize.brentq(lambda effect: power(effect, seeds, level) - wanted, 1e-6, MOST_DEVIATIONS))


def fewest_seeds(level: float = LEVEL) -> int:
    """Seeds with which sign flips can find anything at all: with fewer, no p is as small as the level."""
    return max(2, 1 + math.ceil(-math.log2(level)))


def seeds_needed(
    effect: float, images: float = 0.0, level: float = LEVEL, wanted: float = POWER, most: int = 1000
) -> int | None:
    """Seeds with which an effect is found with the wanted power, by a t test and by sign flips.

    Args:
        effect: in standard deviations of the paired differences.
        images: variance of the mean difference that comes from the images, in those of one paired difference. No
            number of seeds makes it smaller.
        level: error rate; that of all arms divided by their number, where several are compared.
        wanted: power.
        most: where to stop looking.

    Returns:
        The number, or None where more than `most` would be needed, or more images instead.
    """

    def enough(seeds: int) -> bool:
        left = effect / math.sqrt(1 + seeds * images)
        return power(left, seeds, level) >= wanted and _sign_flip_power(round(left, 3), seeds, level) >= wanted

    candidates = range(fewest_seeds(level), most + 1)
    found = bisect.bisect_left(candidates, True, key=enough)  # more seeds, more power
    return candidates[found] if found < len(candidates) else None


@functools.cache
def _sign_flip_power(effect: float, seeds: int, level: float) -> float:
    """By simulation; beyond a dozen seeds sign flips find what a t test finds."""
    if seeds > 12:
        return 1.0
    return float((sign_flip(np.random.default_rng(0).normal(effect, 1, (4000, seeds))) <= level).mean())


# The verdict ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """One arm against the baseline.

    Attributes:
        word: "helps", "hurts", "no detectable difference" or "underpowered".
        mean: of the paired differences.
        low: lower bound of the two-level interval.
        high: upper bound.
        p: of the sign flips, adjusted for the number of arms.
        seeds: how many pairs.
        deviation: standard deviation of the paired differences.
        needed: seeds with which a difference as large as the margin would be found; None where no number of seeds
            would do on these images.
    """

    word: str
    mean: float
    low: float
    high: float
    p: float
    seeds: int
    deviation: float
    needed: int | None


def judge(arms: Sequence[tuple[NDArray, NDArray]], margin: float, level: float = LEVEL) -> list[Verdict]:
    """A verdict for each arm.

    "helps" and "hurts": the interval excludes 0, and so do the sign flips after Holm. Otherwise "no detectable
    difference" if the interval lies within the margin, or if a difference as large as the margin would have been found
    with a power of 80 %; and "underpowered" if neither, or if seeds agree exactly that are too few to find anything:
    two that happen to agree have no spread, and their interval is too narrow.

    Args:
        arms: of each arm its differences, (seeds,), and its resampled differences, (seeds, resamples); at least two
            seeds.
        margin: the smallest difference that would matter in practice, in the unit of the metric.
        level: error rate of all arms together.
    """
    adjusted = holm([float(sign_flip(differences)) for differences, _ in arms])
    verdicts = []
    for (differences, resampled), p in zip(arms, adjusted, strict=True):
        low, high = (float(bound) for bound in interval(differences, resampled, level))
        n, mean, deviation = len(differences), float(differences.mean()), float(differences.std(ddof=1))
        images = float(variances(differences, resampled)[1])
        scale, fewest = deviation or math.sqrt(images), fewest_seeds(level / len(arms))
        # Seeds that agree exactly leave only the images, and perhaps not even those.
        needed = seeds_needed(margin / scale, images / scale**2, level / len(arms)) if scale else fewest
        if p <= level and not low <= 0 <= high:
            word = "helps" if mean > 0 else "hurts"
        elif ((deviation or n >= fewest) and -margin < low and high < margin) or (needed and needed <= n):
            word = "no detectable difference"
        else:
            word = "underpowered"
        verdicts.append(Verdict(word, mean, low, high, float(p), n, deviation, needed))
    return verdicts
