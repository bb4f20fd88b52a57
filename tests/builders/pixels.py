"""Classes of pixels that nobody trained, and what is kept of them."""

import numpy as np

from foveal.evidence import UNLABELLED, Maps


def drawn(images: int, known: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Classes as they are said and as they are, of images of several sizes, 255 for none.

    The last class has no true pixel, the last but one has some in the first image alone, and the last image holds
    nothing but class 0.
    """
    random = np.random.default_rng(seed)
    said, true = [], []
    for image in range(images):
        shape, classes = tuple(random.integers(4, 9, 2)), 2 if known == 1 else known - 1 - (image > 0)
        one = random.integers(0, classes, shape) if image < images - 1 else np.zeros(shape, int)
        told = np.where(random.random(shape) < 0.6, one, random.integers(0, max(2, known), shape))
        true.append(np.where(random.random(shape) < 0.1, 255, one))
        said.append(told)
    return said, true


def counted(said: list[np.ndarray], true: list[np.ndarray], known: int) -> Maps:
    """What is kept of such images, each pixel a cell of what is looked at."""
    rows = []
    for image, (told, one) in enumerate(zip(said, true, strict=True)):
        for label in range(max(2, known)):
            here = (one == label), (told == label) & (one != 255)
            if here[0].any() or here[1].any():
                rows.append((image, label - (known == 1), (here[0] & here[1]).sum(), here[1].sum(), here[0].sum()))
    image, label, both, of_said, of_true = np.array(rows).reshape(-1, 5).T
    return Maps(
        name=np.array([f"{index:03}.png" for index in range(len(said))]),
        known=np.array(known),
        **{"image": image, "label": label, "both": both, "said": of_said, "true": of_true},
        shape=np.array([one.shape for one in true]),
        cell=np.concatenate([told.ravel() for told in said]) - (known == 1),
        true_cell=np.concatenate([np.where(one == 255, UNLABELLED, one - (known == 1)).ravel() for one in true]),
    )
