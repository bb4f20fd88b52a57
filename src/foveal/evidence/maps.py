"""The classes that a model gives to the pixels of images, counted so that every average can be computed again.

Of each image there are three numbers for each class in it: pixels that are of the class, that are said to be, and that
are both. The mean IoU is a ratio of sums of these over images, so images that are drawn twice count twice in the sums.
Knows numpy only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..verdict import Bools, Floats, Ints
from .claims import SURE, Claims
from .detections import below, over_classes
from .stored import Arrays, Stored, Words

GROUND = -1  # the class of what a model with a single class leaves out
UNLABELLED = -2  # of pixels that have no true class, and count for nothing
SIDE = 128  # cells of what is kept to be looked at, on the longer side of an image


@dataclass(frozen=True)
class Maps(Stored):
    """What one model says of the pixels of the images of a split, and what they are.

    Pixels are those that the host judges, of images at the size that the network reads.

    Attributes:
        name: file name of each image, (images,).
        known: how many classes the model has; with a single one there is `GROUND`, too.
        image: index of the image of each row, rising; it has a row for each class that is in it or is said to be,
            (rows,).
        label: class index, (rows,).
        both: pixels that are of the class and said to be, (rows,).
        said: pixels that are said to be of it, of those with a true class, (rows,).
        true: pixels that are of it, (rows,).
        shape: rows and columns of cells that each image is divided into, to be looked at, (images, 2).
        cell: the class that is said in the middle of each cell, image after image and row after row, (cells,).
        true_cell: the true one, (cells,).
    """

    name: Words
    known: Ints
    image: Ints
    label: Ints
    both: Ints
    said: Ints
    true: Ints
    shape: Ints
    cell: Ints
    true_cell: Ints

    def figures(self) -> dict[str, float]:
        """Mean IoU and pixel accuracy by the keys of the metric, computed from what is stored rather than by the host.

        As the host has it they are 0 where no pixel has a true class.
        """
        found = self.averages(np.ones((1, len(self.name)), int))
        return {"miou": float(np.nan_to_num(found["overall"][0])), "pixel_accuracy": float(found["second"][0])}

    def averages(self, counts: Ints, sizes: bool = False, of: str = "") -> Arrays:
        """IoU of each class, its mean and the pixel accuracy on resampled images, see `averages.load`.

        The mean is the host's: over the classes that any pixel of the drawn images has, however many images that are;
        the IoU of a single class is judged even if none has it, and is 0 then.

        Args:
            counts: how often each image counts, (resamples, images).
            sizes: makes no difference, as classes are of no size.
            of: nor does this.
        """
        times = counts.astype(float)  # of which sums are exact below 2^53, and products far faster than of integers
        classes = np.zeros(1, int) if self.known == 1 else np.unique(self.label[self.true > 0])
        both, said, true = (times @ self._table(of, classes) for of in (self.both, self.said, self.true))
        of_class = both / np.maximum(said + true - both, 1)
        if self.known != 1:
            of_class[true == 0] = np.nan
        right, pixels = (times @ np.bincount(self.image, of, len(self.name)) for of in (self.both, self.true))
        return {
            "classes": classes,
            "miou": of_class,
            "overall": over_classes(of_class),
            "second": right / np.maximum(pixels, 1),
        }

    def _table(self, pixels: Ints, classes: Ints) -> Floats:
        """Pixels of each image and class, (images, classes)."""
        table = np.zeros((len(self.name), len(classes)))
        mine = np.isin(self.label, classes)
        table[self.image[mine], np.searchsorted(classes, self.label[mine])] = pixels[mine]
        return table

    def of_image(self, image: int) -> list[tuple[int, float, float]]:
        """The classes of an image, those with the most true pixels first: index, share of the true pixels, and IoU."""
        rows = np.flatnonzero(self.image == image)
        rows = rows[np.argsort(-self.true[rows], kind="stable")]
        share = self.true[rows] / max(1, int(self.true[rows].sum()))
        return list(zip(self.label[rows].tolist(), share.tolist(), self._overlap()[rows].tolist(), strict=True))

    def cells(self, image: int) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        """The class of each cell of an image as it is said and as it is, (rows, columns) each."""
        end = self.shape.prod(1).cumsum()
        mine = slice(int(end[image] - self.shape[image].prod()), int(end[image]))
        return self.cell[mine].reshape(self.shape[image]), self.true_cell[mine].reshape(self.shape[image])

    def scores(self, *, of: str = "") -> Floats:
        """Mean IoU of each image over the classes in it, (images,); `of` makes no difference.

        Of an image without any it is 1 if none is said either, else 0.
        """
        there = (self.true > 0) & (self.label != GROUND)
        count = np.bincount(self.image[there], minlength=len(self.name))
        sums = np.bincount(self.image[there], self._overlap()[there], len(self.name))
        none = np.bincount(self.image[self.label != GROUND], minlength=len(self.name)) == 0
        return np.where(count > 0, sums / np.maximum(count, 1), none)

    def _overlap(self) -> Floats:
        overlap: Floats = self.both / np.maximum(self.said + self.true - self.both, 1)
        return overlap

    def same_images(self, other: object) -> bool:
        """Whether another model was judged on the same images; at another size these have other numbers of pixels."""
        return isinstance(other, Maps) and np.array_equal(self.name, other.name)

    def claims(self, of: str = "") -> Claims:
        """Each class of an image as an object. Nothing is claimed, as how sure a model is of pixels is not kept."""
        there = (self.true > 0) & (self.label != GROUND)
        none = np.zeros(0, int)
        return Claims(none, none, np.zeros(0), None, none, self.image[there], self.label[there], None, SURE)

    def objects(self, images: Bools | None = None) -> dict[str, int]:
        """None are looked for, on whichever images."""
        return {}

    def is_whole(self) -> bool:
        """Whether the arrays fit together, which those of a damaged file need not."""
        rows, images, counts = len(self.image), len(self.name), (self.both, self.said, self.true)
        return (
            (self.name.ndim == 1 and self.known.shape == () and self.known.dtype.kind in "iu")
            and below(self.image, images)
            and (self.label.shape == (rows,) and self.label.dtype.kind in "iu")
            and all(of.shape == (rows,) and of.dtype.kind in "iu" for of in counts)
            and bool((self.both >= 0).all() and (self.both <= np.minimum(self.said, self.true)).all())
            and bool(((self.label >= GROUND) & (self.label < self.known)).all())
            and (self.shape.shape == (images, 2) and self.shape.dtype.kind in "iu" and bool((self.shape >= 0).all()))
            and self.cell.shape == self.true_cell.shape == (int(self.shape.prod(1).sum()),)
        )
