"""How far apart runs are: on the images that are here, else by what they wrote down."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evidence import Evidence, averages
from ..hosts import split_to_judge
from ..hosts.ultralytics import dataset, modelfile
from ..judging import evaluated
from ..results import Finding
from ..verdict import Estimate, differences_of
from .findings import Runs, both
from .runs import Run


@dataclass(frozen=True)
class Judged:
    """What runs reached.

    Attributes:
        findings: on how they were judged.
        split: what `maps` are of, "test" or "val".
        maps: mAP50-95 of each; None if one is unknown.
        differences: of each run after the first to that one, adjusted after Holm; without bounds if nothing was
            evaluated here, and none if `maps` are unknown.
        images: how many were evaluated; None if none.
    """

    findings: list[Finding]
    split: str
    maps: tuple[float, ...] | None
    differences: tuple[Estimate, ...] = ()
    images: int | None = None


def written_down(runs: Sequence[Run], why: str) -> Judged:
    """The best that each run noted, and why nothing was evaluated."""
    detail = f"not evaluated here ({why}); mAP is the best that each run wrote down"
    maps = tuple(found for run in runs if (found := run.best_map) is not None)
    known = maps if len(maps) == len(runs) else None
    return Judged([Finding("evaluator", None, detail)], "val", known, _plain(known))


def _plain(maps: tuple[float, ...] | None) -> tuple[Estimate, ...]:
    return tuple(Estimate(each - maps[0]) for each in maps[1:]) if maps else ()


def of_weights(runs: Runs, data: str, folder: Path, device: str, trust: bool = False) -> Judged:
    """All best.pt on the same images, on test if the data have one with labels.

    Raises:
        UserError: data of other classes, or without an object, or that the host cannot use with these models.
    """
    described = dataset.Data(data)
    classes = list(described.names.values())
    if classes != runs[0].of_best("classes") and not runs[0].arguments.get("single_cls"):
        raise UserError(f"{data} has the classes {classes}, and the runs have others", "give the data of the runs")
    split = split_to_judge(described)
    shared: dict[str, Any] = {"device": device, "single_cls": bool(runs[0].arguments.get("single_cls"))}
    found, disagreement = [], 0.0
    for run in runs:
        best = modelfile.opened(run.folder / "weights" / "best.pt", trust)
        said, apart = evaluated(best, data, split, folder, imgsz=run.arguments["imgsz"], **shared)
        found.append(said)
        disagreement = max(disagreement, apart)
    findings = [
        Finding(
            "agreement",
            bool(disagreement <= averages.AGREEMENT),
            f"mAP computed again from the detections and Ultralytics' own are within {disagreement:.0e}",
        )
    ]
    images = len(found[0].name)
    if not all(one.same_images(found[0]) for one in found):
        told = "; ".join(f"{run.name}: {len(one.name)}" for run, one in zip(runs, found, strict=True))
        findings.append(Finding("evaluator", False, f"judged on other images ({told})"))
        maps = tuple(one.figures()["map"] for one in found)
        return Judged(findings, split, maps, _plain(maps))
    findings.append(Finding("evaluator", True, f"{both(runs)} judged on the same {images} images"))
    return _compared(found, findings, split)


def _compared(found: Sequence[Evidence], findings: list[Finding], split: str) -> Judged:
    images = len(found[0].name)
    counts = averages.image_counts(images)
    first, *others = [one.averages(counts, False)["overall"] for one in found]
    maps = tuple(float(each[0]) for each in (first, *others))
    return Judged(findings, split, maps, tuple(differences_of([each - first for each in others], images)), images)
