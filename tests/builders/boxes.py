"""Detections of nobody, whose averages by size are known."""

import numpy as np

from foveal.evidence import Detections


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
