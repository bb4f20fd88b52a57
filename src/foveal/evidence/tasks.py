"""The tasks of models: what a model says of an image, how that is stored, and by which averages it is judged."""

from dataclasses import dataclass, replace
from enum import Enum

from ..errors import UserError, shown
from .answers import Answers
from .detections import KEYS, Detections
from .maps import Maps
from .shapes import Masks, Poses, Rotated

Evidence = Detections | Answers | Maps


@dataclass(frozen=True)
class Metric:
    """The averages by which models are judged.

    Attributes:
        name: of the one that decides, as people write it.
        second: of the one that stands beside it.
        key: of the first in results.
        second_key: of the other.
        part: of the first for one class.
        column: of the first in the host's results.csv, on val.
        of: by what detections are matched, one of `KEYS`; nothing of answers and maps.
    """

    name: str
    second: str
    key: str
    second_key: str
    part: str
    column: str
    of: str = ""

    @property
    def keys(self) -> tuple[str, str]:
        """Those of both in results."""
        return self.key, self.second_key

    @property
    def last(self) -> str:
        """The key of what last.pt reached, where `key` alone is best.pt's."""
        return f"{self.key}_last"


class Says(Enum):
    """What a model says of an image."""

    BOXES = "boxes"
    CLASS = "a class"
    MAP = "a value for each pixel"


@dataclass(frozen=True)
class Task:
    """What models are for.

    Attributes:
        name: Ultralytics' word for it.
        says: of an image.
        image_size: that Ultralytics takes where none is said, in pixels.
        metrics: by the first of which studies judge, the others stand beside it; none where they cannot.
        evidence: the class that stores what was said; None where there is none.
        figure: by which Ultralytics judges it in one number: what it is called, and where its metrics have it.
        read_by_keys: whether keys of a data file say how labels are read: where key points lie, or which class a number
            in a mask is.
    """

    name: str
    says: Says = Says.BOXES
    image_size: int = 640
    metrics: tuple[Metric, ...] = ()
    evidence: type[Evidence] | None = None
    figure: tuple[str, str] = ("mAP50-95", "box.map")
    read_by_keys: bool = False

    @property
    def metric(self) -> Metric:
        """The one by which studies judge."""
        return self.metrics[0]  # or it would not be a study's task

    def judged(self, by: str) -> "Task":
        """The same judged by another of its metrics, which is named by what it matches, or by its name.

        Raises:
            UserError: it has no such metric.
        """
        first = next((metric for metric in self.metrics if by in (metric.of, metric.name)), None)
        if first is None:
            known = " or ".join(metric.of or metric.key for metric in self.metrics)
            raise UserError(f"metric: {shown(by)} is none by which {self.name} is judged", f"metric: {known}")
        return replace(self, metrics=(first, *(metric for metric in self.metrics if metric is not first)))

    @classmethod
    def of(cls, name: str) -> "Task":
        """The task that a model says it has; one that is not known here is taken for one with boxes."""
        return TASKS.get(name) or cls(name)


def _precision(of: str, word: str, letter: str) -> Metric:
    """Average precision of detections that are matched by something, which the host's columns have a letter for."""
    return Metric(f"{word}mAP50-95", f"{word}mAP50", *KEYS[of], "ap", f"metrics/mAP50-95({letter})", of)


_ACCURACY = Metric("top-1 accuracy", "top-5 accuracy", "top1", "top5", "accuracy", "metrics/accuracy_top1")
_OVERLAP = Metric("mIoU", "pixel accuracy", "miou", "pixel_accuracy", "iou", "metrics/mIoU")
_ONE, _BOX = (_precision("box", word, "B") for word in ("", "box "))  # where there is another one besides
_MASK, _POINTS = _precision("mask", "mask ", "M"), _precision("keypoints", "key-point ", "P")

CLASSIFY = "classify"  # whose models the host trains and judges by classes of their own

TASKS = {
    task.name: task
    for task in (
        Task("detect", metrics=(_ONE,), evidence=Detections),
        Task("segment", metrics=(_MASK, _BOX), evidence=Masks),
        Task("pose", metrics=(_POINTS, _BOX), evidence=Poses, read_by_keys=True),
        Task("obb", metrics=(_ONE,), evidence=Rotated),
        Task(CLASSIFY, Says.CLASS, 224, (_ACCURACY,), Answers, ("top-1", "top1")),
        Task("semantic", Says.MAP, 640, (_OVERLAP,), Maps, ("mIoU", "miou"), read_by_keys=True),
        Task("depth", Says.MAP, figure=("delta1", "delta1")),
    )
}
