"""What a study measures, for each of the host's tasks that it can compare; knows nothing else."""

from dataclasses import dataclass


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


METRICS = {
    "detect": Metric("mAP50-95", "mAP50", "map", "map50", "ap", "metrics/mAP50-95(B)"),
    "classify": Metric("top-1 accuracy", "top-5 accuracy", "top1", "top5", "accuracy", "metrics/accuracy_top1"),
}
