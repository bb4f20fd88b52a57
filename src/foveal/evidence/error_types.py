"""What each type of error costs a detector: TIDE (Bolya et al. 2020), computed by hotcoco."""

import importlib.util

import numpy as np

from .detections import Detections
from .tasks import Evidence

# hotcoco's names by ours. A false detection has one of the first five:
TYPES = {
    "classification": "Cls",  # it overlaps an object of another class by half or more
    "localisation": "Loc",  # it overlaps an object of its class by a tenth or more, and by less than half
    "both": "Both",  # it overlaps only objects of other classes like that
    "duplicate": "Dupe",  # the object that it overlaps has been found with more confidence
    "background": "Bkg",  # it overlaps no object by a tenth
    "missed": "Miss",  # an object that none finds, nor would if its class or its box were put right
}


def is_known() -> bool:
    """Whether hotcoco is installed."""
    return importlib.util.find_spec("hotcoco") is not None


def costs(found: Evidence) -> dict[str, float]:
    """How much larger mAP50 would be without the errors of each of `TYPES`, as a fraction.

    By COCO's average precision at an overlap of half. The gains do not add up to what is missing: to put one type right
    leaves the others, and precision is no sum.

    Returns:
        A value for each type. None where no boxes were found: of classes, also of pixels, of masks, key points and
        rotated boxes there is no such account here.
    """
    if type(found) is not Detections or not len(found.true_image):
        return {}
    import hotcoco  # of the extra `study`; not on every platform

    classes = np.union1d(found.label, found.true_label).tolist()
    images = [{"id": image, "file_name": ""} for image in range(len(found.name))]
    categories = [{"id": label, "name": str(label)} for label in classes]
    there = hotcoco.COCO.from_arrays(images, categories, found.true_image, found.true_label, _sides(found.true_box))
    columns = (found.image, _sides(found.box), found.confidence, found.label)
    judged = hotcoco.COCOeval(there, there.load_res(np.column_stack(columns).astype(float)), "bbox")
    judged.params.max_dets = [int(np.bincount(found.image, minlength=1).max())]  # all that are stored
    judged.evaluate()
    gains = judged.tide_errors()["delta_ap"]
    return {name: float(gains[theirs]) for name, theirs in TYPES.items()}


def _sides(corners: np.ndarray) -> np.ndarray:
    """Boxes as COCO writes them: left, top, width, height."""
    corners = corners.astype(float)
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
