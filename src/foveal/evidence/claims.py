"""What a model claims, one row for each detection or answer, and what is there: for all that asks of single ones."""

from dataclasses import dataclass

import numpy as np

from ..verdict import Floats, Ints

SURE = 0.25  # of detections that count where one threshold is needed, the host's own for predictions


@dataclass(frozen=True)
class Claims:
    """The claims of one model on the images of a split, and the objects there, in an order that all models share.

    Of a classifier each image is one object.

    Attributes:
        image: index of each claim's image, (claims,).
        label: class index that it names, (claims,).
        confidence: (claims,); nan where it was not stored.
        box: corners in pixels, (claims, 4); None where claims are about whole images.
        finds: index of the object that it finds, -1 for none, (claims,).
        true_image: index of each object's image, (objects,).
        true_label: (objects,).
        true_box: (objects, 4), or None.
        sure: the confidence from which claims count where one threshold is needed.
    """

    image: Ints
    label: Ints
    confidence: Floats
    box: Floats | None
    finds: Ints
    true_image: Ints
    true_label: Ints
    true_box: Floats | None
    sure: float

    def found_with(self) -> Floats:
        """The confidence of the claim that finds each object, 0 where none does, (objects,)."""
        sure = np.zeros(len(self.true_image))
        right = self.finds >= 0
        sure[self.finds[right]] = self.confidence[right]
        return sure
