"""How often a verdict is wrong, and how many seeds it takes: simulated studies, judged as real ones are.

python benchmarks/calibration.py [--share 1.0] [--only NAME ...]

Two kinds of studies. In "precision" each run is a simulated detector: objects of three classes on 80 images, one of
them rare, are found or missed, with false positives between them, and scored by real average precision on all and on
resampled images. In the others the score of a run is a mean over 100 images of normal values, or of skewed ones. Arms
share one baseline and its seeds. Each row has random numbers of its own, so that a part of it is repeated exactly.

In rows with folds each seed holds out a fold of the images. In "learners" models are really trained on the others and
judged by accuracy; each arm sees features of its own, which are equally good in the population, so that there is no
effect, and one arm may well be better by chance for all folds of the images that a study has. Such rows are also judged
as if no image were shared ("uncorrected"), to show what the correction is for.

Writes benchmarks/results/calibration.json; docs/calibration.py makes the page.
"""

import argparse
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from foveal.verdict import LEVEL, Looks, Matches, Truth, average_precision, draw_images, judge

ROOT = Path(__file__).parents[1]
FILE = ROOT / "benchmarks" / "results" / "calibration.json"
RESAMPLES = 100
THRESHOLDS = np.array([0.5, 0.65, 0.8])  # of overlaps: three of COCO's ten, to save time
IMAGES = 100  # of scores that are means over images
MARGIN = 0.5  # points, in all rows
OPEN = (6, 24)


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        name: of the row.
        kind: of what varies: a key of `KINDS`.
        arms: beside the baseline.
        seeds: fixed, or the first and last of planned looks.
        effect: true difference of every arm, in margins.
        studies: to be simulated.
        folds: of which each seed holds out one; 0 where all seeds are judged on the same images.
        corrected: whether the verdict knows of them.
    """

    name: str
    kind: str
    arms: int = 1
    seeds: int | tuple[int, int] = 6
    effect: float = 0.0
    studies: int = 2000
    folds: int = 0
    corrected: bool = True

    @property
    def looks(self) -> Looks:
        """When arms are judged."""
        fixed = isinstance(self.seeds, int)
        looks = Looks((self.seeds,), self.arms) if fixed else Looks.between(*self.seeds, self.arms)
        return replace(looks, held_out=1 / (self.folds - 1)) if self.folds and self.corrected else looks


# Scores --------------------------------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    """Values of deviation 1."""
    return rng.normal(size=shape)


@dataclass(frozen=True)
class Normal:
    """Standard deviations, in points, of a paired difference: by seed, by image, and by both together."""

    by_seed: float
    by_image: float
    by_both: float
    draw: Callable[[np.random.Generator, tuple[int, ...]], NDArray] = normal

    def scores(self, rng: np.random.Generator, row: Row) -> tuple[NDArray, NDArray]:
        """Of the baseline and the arms, (arms + 1, seeds), and on resampled images, with RESAMPLES more."""
        arms, n = row.arms + 1, row.looks.seeds[-1]
        x = self.by_seed * self.draw(rng, (arms, n))[..., None] * np.ones(IMAGES)
        x = x + self.by_image * math.sqrt(IMAGES) * rng.normal(size=(arms, 1, IMAGES))
        x = (x + self.by_both * math.sqrt(IMAGES) * rng.normal(size=(arms, n, IMAGES))) / math.sqrt(2)
        x[1:] += row.effect * MARGIN
        counts = draw_images(IMAGES, RESAMPLES, int(rng.integers(2**31)))
        return x.mean(-1), x @ (counts.T / IMAGES)


def log_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    """Logarithm of deviation 1, so that the mean is far from the median; as a difference to a baseline of 0."""
    values = rng.lognormal(0, 1, shape) - math.exp(0.5)
    values[0] = 0
    return values * math.sqrt(2)


def collapsing(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    """One run of the arms in eight collapses, by 5.5 standard deviations."""
    lost = 5.5 * ((rng.random(shape) < 1 / 8) - 1 / 8)
    lost[0] = 0
    return rng.normal(size=shape) - lost * math.sqrt(2)


@dataclass(frozen=True)
class Precision:
    """Simulated detectors, scored by real average precision in points.

    Attributes:
        images: in the test set.
        objects: of each class on an image, on average.
        seed: standard deviation of a run's skill, on the scale of a logit.
        image: of an arm's skill on an image.
    """

    images: int = 80
    objects: tuple[float, ...] = (2.0, 1.0, 0.125)
    seed: float = 0.08
    image: float = 0.1

    def scores(self, rng: np.random.Generator, row: Row) -> tuple[NDArray, NDArray]:
        """As `Normal.scores`, without an effect; every study has images of its own."""
        n = row.looks.seeds[-1]
        counts = np.concatenate(
            [np.ones((1, self.images), int), draw_images(self.images, RESAMPLES, int(rng.integers(2**31)))]
        )
        number = rng.poisson(self.objects, (self.images, len(self.objects)))
        number[0] = np.maximum(number[0], 1)  # every class is there
        image = np.repeat(np.arange(self.images), number.sum(1))
        label = np.concatenate([np.repeat(np.arange(len(self.objects)), of) for of in number])
        truth, hard = Truth(image, label), rng.normal(0, 1, len(image))
        found = np.empty((row.arms + 1, n, 1 + RESAMPLES))
        for arm in range(row.arms + 1):
            liking = rng.normal(0, self.image, self.images)
            for seed in range(n):
                skill = rng.normal(0, self.seed) + liking
                matches = self._matches(rng, image, label, hard, skill)
                _, precision = average_precision(matches, truth, counts)
                found[arm, seed] = 100 * np.nanmean(precision.mean(-1), 1)
        return found[..., 0], found[..., 1:]

    def _matches(
        self, rng: np.random.Generator, image: NDArray, label: NDArray, hard: NDArray, skill: NDArray
    ) -> Matches:
        """Detections of one run: an overlap for every object, and false positives, one an image on average."""
        logit = 0.6 + skill[image] - hard + rng.normal(0, 0.7, len(image))
        overlap = 1 / (1 + np.exp(-logit))
        hit = overlap[:, None] >= THRESHOLDS
        surely = 1 / (1 + np.exp(-(logit + rng.normal(0, 0.7, len(logit)))))
        wrong = rng.poisson(1.0 * np.exp(-skill))
        where = np.repeat(np.arange(self.images), wrong)
        count = len(where)
        return Matches(
            np.concatenate([image, where]),
            np.concatenate([surely, rng.beta(2, 4, count)]),
            np.concatenate([label, rng.choice(len(self.objects), count, p=np.array(self.objects) / sum(self.objects))]),
            np.concatenate([hit, np.zeros((count, len(THRESHOLDS)), bool)]),
        )


def divided(rng: np.random.Generator, images: int, row: Row) -> list[tuple[NDArray, NDArray]]:
    """The images that each seed is trained on, and those that it holds out; another partition after every `folds`."""
    found = []
    for seed in range(row.looks.seeds[-1]):
        if seed % row.folds == 0:
            parts = np.array_split(rng.permutation(images), row.folds)
        fold = seed % row.folds
        found.append((np.concatenate(parts[:fold] + parts[fold + 1 :]), parts[fold]))
    return found


@dataclass(frozen=True)
class Learners:
    """Classifiers of 200 images, fitted by least squares on features of their own and judged by accuracy in points.

    Attributes:
        left_out: share of the features that a seed leaves out, which is all that it draws.
        features: of each arm.
        signal: distance of a class from 0 in each feature, in standard deviations.
        images: of train and val together.
    """

    left_out: float
    features: int = 10
    signal: float = 0.35
    images: int = 200

    def scores(self, rng: np.random.Generator, row: Row) -> tuple[NDArray, NDArray]:
        """As `Normal.scores`, without an effect; what is drawn of the images has no variance, and is not read."""
        label = rng.choice([-1.0, 1.0], self.images)
        seen = rng.normal(size=(row.arms + 1, self.images, self.features)) + self.signal * label[:, None]
        found = np.empty((row.arms + 1, row.looks.seeds[-1]))
        for seed, (train, held_out) in enumerate(divided(rng, self.images, row)):
            kept = rng.random((row.arms + 1, self.features)) >= self.left_out
            for arm, x in enumerate(seen * kept[:, None]):
                ridge = 0.1 * len(train) * np.eye(self.features)
                weights = np.linalg.solve(x[train].T @ x[train] + ridge, x[train].T @ label[train])
                found[arm, seed] = 100 * (np.sign(x[held_out] @ weights) == label[held_out]).mean()
        return found, np.repeat(found[..., None], 2, -1)


@dataclass(frozen=True)
class Folded:
    """Standard deviations of a paired difference as in `Normal`, were it judged on all images, and one by those it saw.

    Attributes:
        by_seed: of a seed.
        by_image: of the images.
        by_both: of both together.
        by_training: of the images that were trained on.
    """

    by_seed: float
    by_image: float
    by_both: float
    by_training: float

    def scores(self, rng: np.random.Generator, row: Row) -> tuple[NDArray, NDArray]:
        """As `Learners.scores`, with an effect."""
        arms, n, each = row.arms + 1, row.looks.seeds[-1], math.sqrt(IMAGES)
        image, taught = (each * by * rng.normal(size=(arms, IMAGES)) for by in (self.by_image, self.by_training))
        both = each * self.by_both * rng.normal(size=(arms, n, IMAGES))
        found = self.by_seed * rng.normal(size=(arms, n))
        for seed, (train, held_out) in enumerate(divided(rng, IMAGES, row)):
            found[:, seed] += (image + both[:, seed])[:, held_out].mean(-1) + taught[:, train].mean(-1)
        found /= math.sqrt(2)
        found[1:] += row.effect * MARGIN
        return found, np.repeat(found[..., None], 2, -1)


KINDS = {
    "seeds": Normal(0.5, 0, 0),
    "few images": Normal(0.5, 0.3, 0.3),
    "some images": Normal(0.5, 0.15, 0.15),
    "log-normal seeds": Normal(0.5, 0, 0, log_normal),
    "one run in eight collapses": Normal(0.5, 0, 0, collapsing),
    "precision": Precision(),
    "learners": Learners(0.0),
    "learners, noisy seeds": Learners(0.3),
    "folds of few images": Folded(0.5, 0.3, 0.3, 0.15),
}

ROWS = [
    *(Row(f"precision, 1 arm, {seeds} seeds", "precision", 1, seeds, studies=300) for seeds in (6, 10, 20)),
    *(Row(f"precision, {arms} arms, 10 seeds", "precision", arms, 10, studies=300) for arms in (3, 5, 8)),
    *(
        Row(f"some images, {arms} arms, {seeds} seeds", "some images", arms, seeds, studies=2000)
        for arms in (1, 3, 5, 8)
        for seeds in (6, 10, 20)
    ),
    *(
        Row(f"{kind}, {seeds} seeds", kind, 1, seeds, studies=2000)
        for kind in ("seeds", "log-normal seeds", "one run in eight collapses")
        for seeds in (6, 8, 10, 20)
    ),
    *(
        Row(f"{kind}, looks, {arms} arms, {effect} margins", kind, arms, OPEN, effect, 1000 if effect == 0 else 400)
        for kind in ("seeds", "some images", "few images")
        for arms in (1, 3)
        for effect in (0, 1, 2, 4)
    ),
    *(
        Row(f"{kind}, looks", kind, 1, OPEN, studies=1000)
        for kind in ("log-normal seeds", "one run in eight collapses")
    ),
    *(
        Row(f"{kind}, {seeds} seeds, {effect} margins", kind, 1, seeds, effect, 1000)
        for kind in ("seeds", "some images", "few images")
        for seeds in (6, 24)
        for effect in (1, 2, 4)
    ),
    *(
        Row(f"{kind}, {folds} folds, {arms} arms, {seeds} seeds", kind, arms, seeds, 0.0, studies, folds)
        for kind, folds, arms, seeds, studies in (
            ("learners", 5, 1, 10, 2000),
            ("learners", 5, 1, 20, 1000),
            ("learners", 10, 1, 10, 2000),
            ("learners", 5, 3, 10, 1000),
            ("learners", 5, 1, OPEN, 1000),
            ("learners, noisy seeds", 5, 1, 10, 2000),
            ("learners, noisy seeds", 5, 1, 20, 1000),
        )
    ),
    *(
        Row(f"{kind}, {folds} folds, 1 arms, {seeds} seeds, uncorrected", kind, 1, seeds, 0.0, 1000, folds, False)
        for kind in ("learners",)
        for folds, seeds in ((5, 10), (5, 20), (10, 10), (5, OPEN))
    ),
    *(
        Row(f"{kind}, 5 folds, {seeds} seeds, {effect} margins", kind, 1, seeds, effect, 1000, 5)
        for kind in ("folds of few images",)
        for seeds in (10, 20)
        for effect in (0, 1, 2, 4)
    ),
]


# Studies -------------------------------------------------------------------------------------------------------------


def study(rng: np.random.Generator, row: Row) -> list:
    """The verdicts of one simulated study."""
    scores, drawn = KINDS[row.kind].scores(rng, row)
    arms = [(scores[arm] - scores[0], drawn[arm] - drawn[0]) for arm in range(1, row.arms + 1)]
    return judge(arms, MARGIN, row.looks)


def simulated(row: Row, share: float = 1.0, number: int = 0) -> dict[str, object]:
    """What comes out of a row.

    Returns:
        the row, and as shares of studies: "claims" (any arm is said to help or hurt), "wrong" ones of them (those
        against the sign of the effect; all where there is none), "equivalent" (any arm) and "covered" (all intervals
        hold the truth), each with its 95 % interval by Wilson; and of arms: the words, and the mean number of seeds
        until the last look.
    """
    started, studies = time.process_time(), max(1, round(share * row.studies))
    rng = np.random.default_rng([20261128, number])
    count, words, seeds = Counter(), Counter(), []
    for _ in range(studies):
        verdicts = study(rng, row)
        claims = {each.outcome for each in verdicts} & {"helps", "hurts"}
        count["claims"] += bool(claims)
        count["wrong"] += "hurts" in claims or (row.effect == 0 and bool(claims))
        count["equivalent"] += any(each.outcome == "equivalent" for each in verdicts)
        count["covered"] += all(each.low is None or each.low <= row.effect * MARGIN <= each.high for each in verdicts)
        words.update(each.outcome for each in verdicts)
        seeds += [each.seeds for each in verdicts]
    shares = {key: interval(count[key], studies) for key in ("claims", "wrong", "equivalent", "covered")}
    found = {word: words[word] / len(seeds) for word in ("helps", "hurts", "equivalent", "inconclusive")}
    row = asdict(row) | {"studies": studies, "looks": list(row.looks.seeds)}
    return (
        row
        | shares
        | {"words": found, "mean_seeds": float(np.mean(seeds)), "cpu": round(time.process_time() - started)}
    )


def interval(count: int, of: int) -> list[float]:
    """A share and its 95 % interval by Wilson."""
    return [count / of, *map(float, stats.binomtest(count, of).proportion_ci(0.95, "wilson"))]


def main() -> None:
    """Simulate all rows and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the studies of each row")
    parser.add_argument("--only", nargs="*", default=[], help="rows whose name begins so; the others stay as they are")
    given = parser.parse_args()
    kept = {row["name"]: row for row in json.loads(FILE.read_text())["rows"]} if FILE.exists() else {}
    chosen = [
        (number, row) for number, row in enumerate(ROWS) if not given.only or row.name.startswith(tuple(given.only))
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        work = {pool.submit(simulated, row, given.share, number): row for number, row in reversed(chosen)}
        for future in work:
            found = future.result()
            kept[found["name"]] = found
            rows = [kept[row.name] for row in ROWS if row.name in kept]
            FILE.write_text(json.dumps({"level": LEVEL, "margin": MARGIN, "rows": rows}, indent=1) + "\n")
            print(
                found["name"],
                {key: found[key] for key in ("claims", "covered", "words", "mean_seeds", "cpu")},
                flush=True,
            )


if __name__ == "__main__":
    main()
