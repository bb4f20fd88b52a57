"""Were existing runs of Ultralytics treated alike, and are their differences more than the choice of images?

All that is known of a run is what the stock trainer leaves behind: the arguments in `args.yaml`, a row for each epoch
in `results.csv`, and two checkpoints, which hold the arguments as they were in the end. With one run of each, nothing
here says what another seed would give.
"""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..errors import UserError
from ..files import named
from ..hosts.ultralytics import dataset
from ..judging import images_only, letters
from ..results import Finding, without_test
from ..tensors import require_device
from ..verdict import Estimate
from . import judging
from .findings import Runs, both, written
from .judging import Judged
from .runs import Run, data_here


@dataclass(frozen=True)
class Audit:
    """Runs side by side: A, with which the others are compared, B, and so on.

    Attributes:
        runs: their folders, as given.
        findings: what must hold in a fair comparison.
        fair: whether all of it does; None if something cannot be told.
        split: what `maps` are of, "test" or "val".
        maps: mAP50-95 of each best.pt; None if one is unknown.
        differences: that of each run after A less A's, with an interval over images and a p that are adjusted for how
            many there are; without these if nothing was evaluated here, and none if `maps` are unknown.
        images: how many were evaluated; None if none.
        parameters: of each best.pt, None for one that is missing.
        sentence: the outcome.
    """

    runs: tuple[str, ...]
    findings: tuple[Finding, ...]
    fair: bool | None
    split: str
    maps: tuple[float, ...] | None
    differences: tuple[Estimate, ...]
    images: int | None
    parameters: tuple[int | None, ...]
    sentence: str


def audit(
    run_a: str | PathLike[str],
    run_b: str | PathLike[str],
    *more: str | PathLike[str],
    data: str | PathLike[str] | None = None,
    device: str = "cpu",
    evaluate: bool = True,
    trust: bool = False,
) -> Audit:
    """Compare training runs of detectors, with the first of them.

    All best.pt are evaluated on the same images if these are here, on test if the data has one with labels; else mAP
    is what the runs wrote down. Nothing is written into the runs. Ultralytics keeps caches beside the labels it reads.

    Args:
        run_a: folder of the baseline's run.
        run_b: folder of another one.
        more: further ones, if there are any.
        data: data file to evaluate on; by default that of the runs, if it is here.
        device: of the evaluation, as Ultralytics takes it.
        evaluate: False compares only what the runs wrote down.
        trust: load checkpoints that name more than layers of known packages, and run what they name.

    Raises:
        UserError: folders that are no such runs or the same one, files that cannot be read, or data
            that does not fit.
    """
    folders = tuple(named(folder, "a run") for folder in (run_a, run_b, *more))
    require_device(device)
    for one, other in itertools.combinations(folders, 2):
        if one.resolve() == other.resolve():
            raise UserError(f"{one} and {other} are the same folder", "name the folders of two runs")
    lettered = zip(letters(len(folders)), folders, strict=True)
    runs = tuple(Run.read(letter, folder, trust) for letter, folder in lettered)
    with tempfile.TemporaryDirectory(prefix="foveal-audit-") as place:
        here = [data_here(run, Path(place)) for run in runs]
        findings = written(runs, here, Path(place))
        chosen = str(named(data, "data")) if data else next((copy for _, copy in filter(None, here)), None)
        judged = _judged(runs, chosen, Path(place), device, evaluate, trust)
        findings += [*judged.findings, _split(runs, judged, chosen)]
    command = "foveal study run --model FILE --data FILE --arms ema@neck,A/A"
    findings.append(Finding("runs", None, f"one run of each says nothing about the noise of the seed: {command}"))
    return Audit(
        runs=tuple(map(str, folders)),
        findings=tuple(findings),
        fair=(fair := _fair(findings)),
        split=judged.split,
        maps=judged.maps,
        differences=judged.differences,
        images=judged.images,
        parameters=tuple(run.of_best("parameters") for run in runs),
        sentence=_sentence(runs, findings, fair, judged),
    )


def _judged(runs: Runs, data: str | None, folder: Path, device: str, evaluate: bool, trust: bool) -> judging.Judged:
    """All best.pt on the same images, where that can be; else what the runs wrote down, with the reason."""
    if not evaluate:
        return judging.written_down(runs, "not asked for")
    if data is None:
        return judging.written_down(runs, "the data is not here: say where")
    classes = [run.of_best("classes") for run in runs]
    if not all("best" in run.weights for run in runs) or any(each != classes[0] for each in classes):
        many = "two" if len(runs) == 2 else len(runs)
        return judging.written_down(runs, f"there are no {many} best.pt of the same classes that can be read")
    return judging.of_weights(runs, data, folder, device, trust)


def _split(runs: Runs, judged: judging.Judged, data: str | None) -> Finding:
    if judged.split == "test":
        return Finding("split", True, "judged on test, which chose nothing")
    absent = without_test(data and dataset.absent_test(data))
    return Finding("split", None, f"judged on val, on which best.pt was chosen in {both(runs)}{absent}")


# The outcome ---------------------------------------------------------------------------------------------------------


def _fair(findings: Sequence[Finding]) -> bool | None:
    if any(finding.ok is False for finding in findings):
        return False
    return None if any(finding.unknown for finding in findings) else True


def _sentence(runs: Runs, findings: Sequence[Finding], is_fair: bool | None, judged: Judged) -> str:
    checks = ", ".join(f.check for f in findings if (f.ok is False if is_fair is False else f.unknown))
    fair = {
        True: "Nothing unfair was found.",
        False: f"Not a fair comparison: {checks}.",
        None: f"Whether the comparison is fair cannot be told from these files: {checks}.",
    }[is_fair]
    if not judged.differences:
        many = "two" if len(runs) == 2 else "runs"
        return f"{fair} What mAP the {many} reached is not written down."
    said = [
        f"The mAP50-95 of {run.name} less that of A is {found.value:+.4f}"
        for run, found in zip(runs[1:], judged.differences, strict=True)
    ]
    if judged.images is None or any(found.low is None for found in judged.differences):
        return f"{fair} {'. '.join(said)}, as far as it is known, and there is no interval."
    told = " ".join(
        f"{difference} on {judged.images} images of {judged.split}, and {found.low:+.4f} to {found.high:+.4f} on "
        f"others like them, {images_only(found)}."
        for difference, found in zip(said, judged.differences, strict=True)
    )
    return f"{fair} {told} What another seed would give, one run of each cannot tell."
