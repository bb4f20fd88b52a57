"""How far apart two runs are: on the images that are here, else by what they wrote down."""

from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..evidence import Detections, averages
from ..hosts import ultralytics as host
from ..hosts.ultralytics import dataset, validators
from ..results import AGREEMENT, Finding
from ..verdict import LEVEL, average_precision, draw_images, mean_average_precision
from .runs import Run


@dataclass(frozen=True)
class Judged:
    """What two runs reached.

    Attributes:
        findings: on how they were judged.
        split: what `maps` are of, "test" or "val".
        maps: mAP50-95 of both; None if one is unknown.
        low: lower bound of the difference on other images of the same kind; None if it was not evaluated here.
        high: upper bound.
        images: how many were evaluated; None if none.
    """

    findings: list[Finding]
    split: str
    maps: tuple[float, float] | None
    low: float | None = None
    high: float | None = None
    images: int | None = None

    @property
    def difference(self) -> float | None:
        """The second run's mAP50-95 less the first one's."""
        return self.maps and self.maps[1] - self.maps[0]


def written_down(runs: tuple[Run, Run], why: str) -> Judged:
    """The best that each run noted, and why nothing was evaluated."""
    a, b = (run.best_map for run in runs)
    detail = f"not evaluated here ({why}); mAP is the best that each run wrote down"
    return Judged([Finding("evaluator", None, detail)], "val", None if a is None or b is None else (a, b))


def evaluated(runs: tuple[Run, Run], data: str, folder: Path, device: str, trust: bool = False) -> Judged:
    """Both best.pt on the same images, on test if the data have one with labels.

    Raises:
        UserError: data of other classes, or without an object, or that the host cannot use with these models.
    """
    described = dataset.Data(data)
    classes = list(described.names.values())
    if classes != runs[0].of_best("classes") and not runs[0].arguments.get("single_cls"):
        raise UserError(f"{data} has the classes {classes}, and the runs have others", "give the data of the runs")
    split = "test" if described.has_labels("test") else "val"
    shared: dict[str, Any] = {"device": device, "trust": trust, "single_cls": bool(runs[0].arguments.get("single_cls"))}
    found, averages, disagreement = [], [], 0.0
    for run in runs:
        best = run.folder / "weights" / "best.pt"
        with host.refusing(best):
            detections, theirs = validators.evaluate(best, data, split, folder, imgsz=run.arguments["imgsz"], **shared)
        assert isinstance(detections, Detections)  # the runs are detectors'
        if not len(detections.true_image):
            raise UserError(f"no image of {split} in {data} has an object", "give data with labels")
        map50, ours = _averages(detections)
        disagreement = max(disagreement, abs(map50[0] - theirs["map50"]), abs(ours[0] - theirs["map"]))
        found.append(detections)
        averages.append(ours)
    findings = [
        Finding(
            "agreement",
            bool(disagreement <= AGREEMENT),
            f"mAP computed again from the detections and Ultralytics' own are within {disagreement:.0e}",
        )
    ]
    maps, images = (float(averages[0][0]), float(averages[1][0])), len(found[0].name)
    if any(
        not np.array_equal(getattr(found[0], k), getattr(found[1], k)) for k in ("name", "true_image", "true_label")
    ):
        findings.append(Finding("evaluator", False, f"judged on other images (A: {images}; B: {len(found[1].name)})"))
        return Judged(findings, split, maps)
    findings.append(Finding("evaluator", True, f"both judged on the same {images} images"))
    spread = (averages[1] - averages[0])[1:].std(ddof=1)
    reach = float(NormalDist().inv_cdf(1 - LEVEL / 2) * spread)
    return Judged(findings, split, maps, maps[1] - maps[0] - reach, maps[1] - maps[0] + reach, images)


def _averages(found: Detections) -> tuple[NDArray, NDArray]:
    """mAP50 and mAP50-95, on all images and on resampled ones, each (1 + resamples,); the draws are always the same."""
    images = len(found.name)
    drawn = draw_images(images, averages.RESAMPLES)
    drawn = drawn[drawn[:, np.unique(found.true_image)].any(1)]  # without objects there is no average
    counts = np.concatenate([np.ones((1, images), np.int32), drawn])
    return mean_average_precision(average_precision(found.matches(), found.truth(), counts, str(found.rule))[1])
