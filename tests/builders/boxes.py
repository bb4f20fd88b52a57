"""Detections of nobody, whose averages by size are known."""

import numpy as np

from foveal.evidence import Detections
from foveal.verdict import average_precision


def drawn() -> Detections:
    """Boxes with corners in whole pixels, many exactly as large as a size's bound; no two confidences are equal."""
    rng, images, objects, detections = np.random.RandomState(0), 40, 300, 700
    true_image = np.sort(rng.randint(0, images, objects))
    true_label = rng.randint(0, 3, objects)
    sides = rng.choice([16, 24, 32, 40, 64, 96, 120, 160], (objects, 2))
    sides[::3] = sides[::3, :1]
    corner = rng.randint(0, 300, (objects, 2))
    true_box = np.concatenate([corner, corner + sides], 1)
    of = np.sort(rng.randint(0, objects, detections))
    box = true_box[of] + rng.randint(-6, 7, (detections, 4)) * rng.randint(0, 2, (detections, 1))
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    label = np.where(rng.rand(detections) < 0.15, rng.randint(0, 3, detections), true_label[of])
    image = np.where(rng.rand(detections) < 0.05, rng.randint(0, images, detections), true_image[of])
    order = np.argsort(image, kind="stable")
    confidence = rng.permutation(detections) / detections
    hit = np.zeros((detections, 10), bool)
    name = np.arange(images).astype(str)
    found = (image[order], box[order], confidence[order], label[order], hit)
    return Detections(name, *found, true_image, true_box, true_label)


def rated(seed: int, images: int = 12, bare: int = 0) -> Detections:
    """Two objects on each image but the last `bare`, and two detections of each that hit as the seed is small."""
    generator = np.random.RandomState(seed)
    true_image = np.repeat(np.arange(images - bare), 2)
    image = np.repeat(true_image, 2)
    hit = np.zeros((len(image), 10), bool)
    hit[::2] = generator.uniform(size=(len(image[::2]), 1)) > np.linspace(0.1 * seed, 1, 10)
    true_label = (np.arange(len(true_image)) % 2).astype(np.int32)
    true_box = np.tile([[0.0, 0, 10, 10], [50, 50, 90, 90]], (images - bare, 1))
    box = np.repeat(true_box, 2, 0)
    box[1::2] += 200
    return Detections(
        name=np.array([f"{index:04}.png" for index in range(images)]),
        image=image,
        box=box,
        confidence=generator.uniform(size=len(image)).astype(np.float32),
        label=np.repeat(true_label, 2),
        hit=hit,
        true_image=true_image,
        true_box=true_box,
        true_label=true_label,
    )


def plain_map(found: Detections, counts: np.ndarray) -> tuple[float, float]:
    """mAP50 and mAP50-95 of images that stand there as often as they count."""
    picks = [(new, old) for new, old in enumerate(np.repeat(np.arange(len(counts)), counts))]
    mine = [(new, i) for new, old in picks for i in np.flatnonzero(found.image == old)]
    theirs = [(new, i) for new, old in picks for i in np.flatnonzero(found.true_image == old)]
    (new, kept), (true_new, true_kept) = np.transpose(mine), np.transpose(theirs)
    matches, truth = found.matches(), found.truth()
    matches = type(matches)(new, matches.confidence[kept], matches.label[kept], matches.hit[kept])
    truth = type(truth)(true_new, truth.label[true_kept])
    _, each = average_precision(matches, truth, None, str(found.rule))
    return float(each[0, :, 0].mean()), float(each.mean())
