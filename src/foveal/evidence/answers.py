"""What a classifier said of a set of images, stored so that every accuracy can be computed again; knows numpy only."""

from dataclasses import dataclass, field

import numpy as np

from ..verdict import Bools, Floats, Ints
from .claims import Claims
from .stored import Arrays, Stored, Words


@dataclass(frozen=True)
class Answers(Stored):
    """The classes that one model holds most likely for each image of a split, and the true one.

    Attributes:
        name: of each image's file with its folder, "apple/3.png", (images,).
        ranked: class indices, the most likely first, (images, 5) or as many as there are classes.
        label: the true class index, (images,).
        confidence: of the first answer, (images,); older files have none.
    """

    name: Words
    ranked: Ints
    label: Ints
    confidence: Floats = field(default_factory=lambda: np.empty(0, np.float32))

    def scores(self, *, of: str = "") -> Floats:
        """1 for each image whose first answer is right, else 0, (images,); `of` makes no difference."""
        right: Floats = (self.ranked[:, 0] == self.label).astype(float)
        return right

    def among_best(self) -> Bools:
        """Whether any of the answers kept is right, (images,)."""
        right: Bools = (self.ranked == self.label[:, None]).any(1)
        return right

    def figures(self) -> dict[str, float]:
        """Top-1 and top-5 accuracy by the keys of the metric, computed from what is stored rather than by the host."""
        return {"top1": float(self.scores().mean()), "top5": float(self.among_best().mean())}

    def averages(self, counts: Ints, sizes: bool = False, of: str = "") -> Arrays:
        """Accuracy on resampled images, see `averages.load`; an answer is of no size.

        Args:
            counts: how often each image counts, (resamples, images).
            sizes: makes no difference.
            of: nor does this.
        """
        overall, classes, of_class = self.accuracy(counts)
        with np.errstate(invalid="ignore"):  # nan where no image was drawn
            second = counts @ self.among_best() / counts.sum(1)
        return {"classes": classes, "top1": of_class, "overall": overall, "second": second}

    def same_images(self, other: object) -> bool:
        """Whether another model answered for the same images, and the same answers are true."""
        return (
            isinstance(other, Answers)
            and np.array_equal(self.name, other.name)
            and np.array_equal(self.label, other.label)
        )

    def claims(self, of: str = "") -> Claims:
        """The first answer for each image as a claim; `of` makes no difference."""
        images = np.arange(len(self.name))
        confidence = self.confidence if len(self.confidence) else np.full(len(images), np.nan)
        finds = np.where(self.scores() > 0, images, -1)
        return Claims(images, self.ranked[:, 0], confidence, None, finds, images, self.label, None, 0.0)

    def objects(self, images: Bools | None = None) -> dict[str, int]:
        """None are looked for, on whichever images."""
        return {}

    def is_whole(self) -> bool:
        """Whether the arrays fit together, which those of a damaged file need not."""
        images, ranked = len(self.name), self.ranked.shape
        return (
            (self.name.ndim == 1 and self.label.shape == (images,) and ranked == (images, ranked[1]) and ranked[1] > 0)
            and self.confidence.shape in ((0,), (images,))
            and self.label.dtype.kind in "iu"
            and self.ranked.dtype.kind in "iu"
        )

    def accuracy(self, counts: Ints) -> tuple[Floats, Ints, Floats]:
        """Share of first answers that are right.

        Args:
            counts: how often each image counts, (resamples, images).

        Returns:
            Of all images, (resamples,); the classes there are; and of each, (resamples, classes). It is nan where no
            image was drawn.
        """
        right = self.scores()
        classes = np.unique(self.label)
        of_class = np.full((len(counts), len(classes)), np.nan)
        for column, label in enumerate(classes):
            mine = counts[:, self.label == label]
            drawn = mine.sum(1)
            hits = mine @ right[self.label == label]
            of_class[drawn > 0, column] = hits[drawn > 0] / drawn[drawn > 0]
        with np.errstate(invalid="ignore"):
            return counts @ right / counts.sum(1), classes, of_class
