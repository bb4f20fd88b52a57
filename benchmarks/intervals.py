"""How often an interval over images holds the truth: simulated detectors, judged as `foveal judge` judges real ones.

python benchmarks/intervals.py [--studies 400]

Two detectors of equal quality are drawn on so many images: of one frequent class, of three of which one is rare,
and of twenty that all are. Printed are the shares of intervals that hold the mAP of a large set of images, and of those
of the difference that hold 0. Each row has random numbers of its own, so that a part of it is repeated exactly.
"""

import argparse

import numpy as np
from calibration import Precision
from numpy.typing import NDArray

from foveal.verdict import Matches, Truth, average_precision, differences_of, draw_images, estimate

RESAMPLES = 500
LARGE, TIMES = 4000, 6  # images of the set, and how often it is drawn, that give the truth
ROWS = [(objects, images) for objects in ((2.0, 1.0, 0.125), (3.0,)) for images in (10, 20, 40, 80, 200)]
ROWS += [((0.05,) * 20, 100)]  # objects of each class on an image


def drawn(rng: np.random.Generator, images: int, objects: tuple[float, ...], count: int) -> tuple[Truth, list[Matches]]:
    """Objects, and what so many detectors of equal quality find."""
    number = rng.poisson(objects, (images, len(objects)))
    number[0] = np.maximum(number[0], 1)  # every class is there
    image = np.repeat(np.arange(images), number.sum(1))
    label = np.concatenate([np.repeat(np.arange(len(objects)), of) for of in number])
    hard, made = rng.normal(0, 1, len(image)), Precision(images=images, objects=objects)
    found = [made._matches(rng, image, label, hard, rng.normal(0, made.image, images)) for _ in range(count)]
    return Truth(image, label), found


def averages(found: Matches, truth: Truth, counts: NDArray) -> NDArray:
    """MAP on resampled images."""
    return np.nanmean(average_precision(found, truth, counts)[1].mean(-1), 1)


def held(objects: tuple[float, ...], images: int, studies: int) -> tuple[float, float]:
    """Shares of intervals of an average that hold the truth, and of intervals of a difference that hold 0."""
    rng, large = np.random.default_rng(images), []
    for _ in range(TIMES):
        truth, (found,) = drawn(rng, LARGE, objects, 1)
        large.append(averages(found, truth, np.ones((1, LARGE), int))[0])
    count = np.zeros(2)
    for _ in range(studies):
        truth, both = drawn(rng, images, objects, 2)
        counts = np.concatenate([np.ones((1, images), int), draw_images(images, RESAMPLES, int(rng.integers(2**31)))])
        first, second = (averages(found, truth, counts) for found in both)
        one, (difference,) = estimate(first, images), differences_of([first - second], images)
        count += (one.low <= np.mean(large) <= one.high, not difference.excludes_zero)
    return tuple(count / studies)


def main() -> None:
    """Print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400, help="of each row")
    studies = parser.parse_args().studies
    print("objects of each class on an image, images: average, difference")
    for objects, images in ROWS:
        average, difference = held(objects, images, studies)
        print(f"{objects}, {images}: {100 * average:.1f} %, {100 * difference:.1f} %", flush=True)


if __name__ == "__main__":
    main()
