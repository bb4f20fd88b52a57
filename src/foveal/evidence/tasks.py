"""The tasks of models: what a model says of an image, how that is stored, and by which averages it is judged."""

from dataclasses import dataclass
from enum import Enum

from .answers import Answers
from .detections import Detections


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
    """

    name: str
    second: str
    key: str
    second_key: str
    part: str
    column: str

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
        metric: by which studies judge; None where they cannot.
        evidence: the class that stores what was said; None where there is none.
        figure: by which Ultralytics judges it in one number: what it is called, and where its metrics have it.
    """

    name: str
    says: Says = Says.BOXES
    image_size: int = 640
    metric: Metric | None = None
    evidence: type[Detections] | type[Answers] | None = None
    figure: tuple[str, str] = ("mAP50-95", "box.map")

    @classmethod
    def of(cls, name: str) -> "Task":
        """The task that a model says it has; one that is not known here is taken for one with boxes."""
        return TASKS.get(name) or cls(name)


_PRECISION = Metric("mAP50-95", "mAP50", "map", "map50", "ap", "metrics/mAP50-95(B)")
_ACCURACY = Metric("top-1 accuracy", "top-5 accuracy", "top1", "top5", "accuracy", "metrics/accuracy_top1")

TASKS = {
    task.name: task
    for task in (
        Task("detect", metric=_PRECISION, evidence=Detections),
        Task("segment"),
        Task("pose"),
        Task("obb"),
        Task("classify", Says.CLASS, 224, _ACCURACY, Answers, ("top-1", "top1")),
        Task("semantic", Says.MAP, figure=("mIoU", "miou")),
        Task("depth", Says.MAP, figure=("delta1", "delta1")),
    )
}
METRICS = {name: task.metric for name, task in TASKS.items() if task.metric}
