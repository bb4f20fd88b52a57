"""Were two existing runs of Ultralytics treated alike, and is their difference more than the choice of images?

All that is known of a run is what the stock trainer leaves behind: the arguments in `args.yaml`, a row for each epoch
in `results.csv`, and two checkpoints, which hold the arguments as they were in the end. With one run of each, nothing
here says what another seed would give.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import UserError
from ..hosts import contents
from ..hosts import ultralytics as host
from ..hosts.ultralytics import dataset, idle, recorder
from ..results import Finding, differing, without_test
from . import judging
from .judging import Judged
from .runs import WEIGHTS, Run, data_here

SEEDED_WORKERS = (8, 4, 130)  # the host's first release whose loader workers draw from the seed
# Training arguments with findings of their own, and those that say only what is written down.
ELSEWHERE = ("epochs", "patience", "time", "optimizer", "batch", "seed", "plots", "save", "save_period", "cfg")
IGNORED_BY_AUTO = ("lr0", "momentum", "warmup_bias_lr")
OUTPUTS = ("nms", "end2end")  # choose which outputs of an end-to-end head are judged, also while it is trained
FULL_PRECISION = ("cpu", "mps")  # devices on which the host turns mixed precision off, but for bf16

_Runs = tuple[Run, Run]


@dataclass(frozen=True)
class Audit:
    """Two runs, A and B, side by side.

    Attributes:
        runs: the two folders, as given.
        findings: what must hold in a fair comparison.
        fair: whether all of it does; None if something cannot be told.
        split: what `maps` are of, "test" or "val".
        maps: mAP50-95 of both best.pt; None if one is unknown.
        difference: B's less A's.
        low: lower bound of the difference on other images of the same kind; None if it was not evaluated here.
        high: upper bound.
        images: how many were evaluated; None if none.
        parameters: of both best.pt, None for one that is missing.
        sentence: the outcome.
    """

    runs: tuple[str, str]
    findings: tuple[Finding, ...]
    fair: bool | None
    split: str
    maps: tuple[float, float] | None
    difference: float | None
    low: float | None
    high: float | None
    images: int | None
    parameters: tuple[int | None, int | None]
    sentence: str


def audit(
    run_a: Path,
    run_b: Path,
    *,
    data: str | None = None,
    device: str = "cpu",
    evaluate: bool = True,
    trust: bool = False,
) -> Audit:
    """Compare two training runs of detectors.

    Both best.pt are evaluated on the same images if these are here, on test if the data has one with labels; else mAP
    is what the runs wrote down. Nothing is written into the runs. Ultralytics keeps caches beside the labels it reads.

    Args:
        run_a: folder of the baseline's run.
        run_b: folder of the other one.
        data: data file to evaluate on; by default that of the runs, if it is here.
        device: of the evaluation, as Ultralytics takes it.
        evaluate: False compares only what the runs wrote down.
        trust: load checkpoints that name more than layers of known packages, and run what they name.

    Raises:
        UserError: folders that are no such runs or the same one, files that cannot be read, or data that does not fit.
    """
    if run_a.resolve() == run_b.resolve():
        raise UserError(f"{run_a} and {run_b} are the same folder", "name the folders of two runs")
    a, b = runs = Run.read("A", run_a, trust), Run.read("B", run_b, trust)
    with tempfile.TemporaryDirectory(prefix="foveal-audit-") as place:
        here = [data_here(run, Path(place)) for run in runs]
        findings = _written(runs, here, Path(place))
        chosen = data or next((copy for _, copy in filter(None, here)), None)
        judged = _judged(runs, chosen, Path(place), device, evaluate, trust)
        findings += [*judged.findings, _split(judged, chosen)]
    more = "foveal study run --model FILE --data FILE --arms ema@neck,A/A"
    findings.append(Finding("runs", None, f"one run of each says nothing about the noise of the seed: {more}"))
    return Audit(
        runs=(str(run_a), str(run_b)),
        findings=tuple(findings),
        fair=(fair := _fair(findings)),
        split=judged.split,
        maps=judged.maps,
        difference=judged.difference,
        low=judged.low,
        high=judged.high,
        images=judged.images,
        parameters=(a.of_best("parameters"), b.of_best("parameters")),
        sentence=_sentence(findings, fair, judged),
    )


def _written(runs: "_Runs", here: Sequence[tuple[Path, str] | None], folder: Path) -> list[Finding]:
    """What the files of both runs say."""
    return [
        _complete(runs),
        _epochs(runs),
        _patience(runs),
        _time(runs),
        _batch(runs),
        _optimizer(runs),
        _arguments(runs),
        _data(runs, here, folder),
        _same("classes", [run.of_best("classes") for run in runs], "the same classes: {}"),
        _seeds(runs),
        _pretrained(runs),
        _resumed(runs),
        _finite(runs),
        _same("versions", [run.version for run in runs], "Ultralytics {} in both"),
        _device(runs),
    ]


def _judged(runs: "_Runs", data: str | None, folder: Path, device: str, evaluate: bool, trust: bool) -> judging.Judged:
    """Both best.pt on the same images, where that can be; else what the runs wrote down, with the reason."""
    a, b = runs
    if not evaluate:
        return judging.written_down(runs, "not asked for")
    if data is None:
        return judging.written_down(runs, "the data is not here: say where")
    if "best" not in a.weights.keys() & b.weights.keys() or a.of_best("classes") != b.of_best("classes"):
        return judging.written_down(runs, "there are no two best.pt of the same classes that can be read")
    return judging.evaluated(runs, data, folder, device, trust)


def _split(judged: judging.Judged, data: str | None) -> Finding:
    if judged.split == "test":
        return Finding("split", True, "judged on test, which chose nothing")
    absent = without_test(data and dataset.absent_test(data))
    return Finding("split", None, f"judged on val, on which best.pt was chosen in both{absent}")


# Findings ------------------------------------------------------------------------------------------------------------


def _same(check: str, values: Sequence[object], detail: str) -> Finding:
    a, b = values
    if None in (a, b):
        return Finding(check, None, f"cannot be told (A: {a}; B: {b})", unknown=True)
    return Finding(check, True, detail.format(a)) if a == b else Finding(check, False, f"A: {a}; B: {b}")


def _complete(runs: _Runs) -> Finding:
    missing, short = [], False
    for run in runs:
        missing += [f"{run.name} has no {kind}.pt" for kind in WEIGHTS if kind not in {**run.weights, **run.unread}]
        missing += [f"{kind}.pt of {run.name} is not read: {why}" for kind, why in run.unread.items()]
        if run.epochs < run.arguments["epochs"] and not run.arguments.get("time"):
            short = True
            missing.append(f"{run.name} has {run.epochs} of {run.arguments['epochs']} epochs: {_why_short(run)}")
    told = "; ".join(missing) or "both runs have all their files and epochs"
    return Finding("complete", False if short else None if missing else True, told)


def _why_short(run: Run) -> str:
    if run.stopped:
        return "early stopping ended it"
    if not run.weights:
        return "why, its files do not tell"
    return "it was ended before" if run.ended else "interrupted, or still at it"


def _epochs(runs: _Runs) -> Finding:
    told = [f"{run.epochs} epochs trained, {run.arguments['epochs']} asked for" for run in runs]
    return _same("epochs", told, "{} in both")


def _patience(runs: _Runs) -> Finding:
    told = "; ".join(f"{run.name}: {run.arguments.get('patience')}" for run in runs)
    could, stopped = [run for run in runs if run.could_stop], [run for run in runs if run.stopped]
    if stopped:
        which = "both runs" if len(stopped) == 2 else f"run {stopped[0].name}"
        ends = ", ".join(f"{max(run.table)} in {run.name}" for run in stopped)
        why = f"the last epoch, {ends}, is the best one plus the patience"
        return Finding("patience", False, f"early stopping ended {which} (patience of {told}): {why}")
    if unsure := [run.name for run in could if run.stopped is None]:
        detail = f"whether early stopping ended {' and '.join(unsure)} cannot be told (patience of {told})"
        return Finding("patience", None, detail, unknown=True)
    if could:
        return Finding("patience", None, f"early stopping could have ended a run, and did not (patience of {told})")
    return Finding("patience", True, "early stopping could not end a run")


def _time(runs: _Runs) -> Finding:
    a, b = (run.arguments.get("time") for run in runs)
    if a or b:
        return Finding("time", False, f"trained by hours, where a slower model gets fewer epochs (A: {a}; B: {b})")
    return Finding("time", True, "trained by epochs, not by hours")


def _batch(runs: _Runs) -> Finding:
    """The host chooses the batch if it is below 1, and lowers it where memory runs out."""
    asked, used = zip(*((run.arguments.get("batch"), run.in_the_end("batch")) for run in runs), strict=True)
    if any(type(value) is not int or value < 1 for value in asked):
        told = f"A: {asked[0]}, which became {used[0]}; B: {asked[1]}, which became {used[1]}"
        return Finding("batch", False, f"memory chose the batch of a run ({told})")
    return _same("batch", used, "{} images in every batch")


def _optimizer(runs: _Runs) -> Finding:
    names = [run.arguments.get("optimizer") for run in runs]
    if names == ["auto", "auto"]:
        detail = "auto in both: it ignores lr0, and chooses alike for equal data, batch and epochs only"
        return Finding("optimizer", None, detail)
    return _same("optimizer", names, "{} in both")


def _arguments(runs: _Runs) -> Finding:
    """All others that training reads, but for those that one of two releases does not know."""
    a, b = (_in_effect(run) for run in runs)
    left_out = set(idle.arguments())
    if any(run.end_to_end for run in runs):
        left_out -= {*OUTPUTS}
    ignored = IGNORED_BY_AUTO if a.get("optimizer") == b.get("optimizer") == "auto" else ()
    shared = (a.keys() & b.keys()).difference(ELSEWHERE, ignored, left_out)
    names = differing([{name: of[name] for name in shared} for of in (a, b)])
    told = "; ".join(f"{name} is {a[name]} in A and {b[name]} in B" for name in names)
    if names and not any(name in host.grammar.DEFAULT_CFG_DICT for name in names):
        why = f"Ultralytics {host.ultralytics.__version__}, which is installed here, does not know what that does"
        return Finding("arguments", None, f"{told}; {why}", unknown=True)
    return Finding("arguments", not names, told or "all other training arguments are the same")


def _in_effect(run: Run) -> dict[str, object]:
    """Its arguments, as far as they did anything where it ran."""
    full = str(run.arguments.get("device")) in FULL_PRECISION and run.arguments.get("amp") != "bf16"
    return run.arguments | ({"amp": False} if full and "amp" in run.arguments else {})


def _data(runs: _Runs, here: Sequence[tuple[Path, str] | None], folder: Path) -> Finding:
    a, b = (run.arguments.get("data") for run in runs)
    mine, theirs = here
    if mine is None or theirs is None:
        told = f"cannot be compared, because it is not all here (A: {a}; B: {b})"
        return Finding("data", None, told, unknown=True)
    if mine[0] == theirs[0]:
        return Finding("data", True, f"{a} in both")
    of_a, of_b = (contents(dataset.Data(copy), folder / f"{Path(copy).stem}.json") for _, copy in (mine, theirs))
    if changed := of_b.difference(of_a):
        return Finding("data", False, f"A: {a}; B: {b}; they differ in {changed}")
    return Finding("data", True, f"{a} and {b} hold the same images, labels and classes")


def _seeds(runs: _Runs) -> Finding:
    a, b = (run.arguments.get("seed") for run in runs)
    if a != b:
        return Finding("seeds", None, f"seed {a} in A and {b} in B, so their batches may differ as well")
    workers = [run.arguments.get("workers") for run in runs]
    versions = [tuple(map(int, re.findall(r"\d+", str(run.version))[:3])) for run in runs]
    if any(workers) and not all(versions):
        why = "whether it reaches the loader's workers is not known, because a run does not say its release"
        return Finding("seeds", None, f"seed {a} in both, but {why}")
    if any(workers) and min(versions) < SEEDED_WORKERS:
        why = "before Ultralytics 8.4.130 it does not reach the loader's workers: all seeds draw the same augmentations"
        return Finding("seeds", None, f"seed {a} in both, but {why}")
    if 0 in workers and any(run.arguments.get("device") != "cpu" for run in runs):
        return Finding("seeds", None, f"seed {a} in both, but without workers a model can shift what its batches draw")
    return Finding("seeds", True, f"seed {a} in both, which gives them the same batches")


def _resumed(runs: _Runs) -> Finding:
    names = [run.name for run in runs if run.arguments.get("resume")]
    if names:
        why = "Ultralytics goes on from half-precision averages, not from where it was"
        return Finding("resumed", None, f"interrupted and resumed: {', '.join(names)}; {why}")
    return Finding("resumed", True, "no run was resumed")


def _finite(runs: _Runs) -> Finding:
    broken = [f"{kind}.pt of {run.name}" for run in runs for kind, of in run.weights.items() if not of.finite]
    if broken:
        return Finding("finite", False, f"not finite: {', '.join(broken)}")
    if unread := [run.name for run in runs if not run.weights]:
        return Finding("finite", None, f"cannot be told, because no weights of {' and '.join(unread)} are read", True)
    return Finding("finite", True, "all trained weights are finite")


def _device(runs: _Runs) -> Finding:
    a, b = (run.arguments.get("device") for run in runs)
    return Finding("device", True, f"{a} in both") if a == b else Finding("device", None, f"A: {a}; B: {b}")


def _pretrained(runs: _Runs) -> Finding:
    """The tensors of each start that fit the trained model by name and shape: those that the host's loader took."""
    starts = [run.start for run in runs]
    said = ["what, nobody can tell" if start is None else start or "fresh weights" for start in starts]
    told = f"A started from {said[0]}; B from {said[1]}"
    asked = [run.arguments.get("pretrained") for run in runs]
    if None in starts and len({*map(bool, asked)}) == 2:
        return Finding("pretrained", False, f"pretrained is {asked[0]} in A and {asked[1]} in B; {told}")
    if "" in starts and None not in starts:
        return Finding("pretrained", None if starts == ["", ""] else False, told)
    models = [model for start in starts if start and (model := _model(start)) is not None]
    if len(models) < len(starts) or not all("best" in run.weights for run in runs):
        told = f"{told}; not all files are here, so tensors cannot be counted"
        return Finding("pretrained", None, told, unknown=True)
    sources = [model.state_dict() for model in models]
    kept = [
        sum(run.of_best("shapes").get(name) == tensor.shape for name, tensor in source.items())
        for run, source in zip(runs, sources, strict=True)
    ]
    shares = [f"{run.name} kept {of} of {len(source)}" for run, of, source in zip(runs, kept, sources, strict=True)]
    told = f"{told}; of its tensors {' and '.join(shares)}"
    mine, theirs = (set(recorder.digests(model).values()) for model in models)
    if not (mine <= theirs or theirs <= mine):  # an attention's start holds all tensors of the plain one
        return Finding("pretrained", False, f"{told}, and the two files hold other weights")
    return Finding("pretrained", len(sources[0]) - kept[0] == len(sources[1]) - kept[1], told)


def _model(file: str) -> nn.Module | None:
    try:
        return host.load(file).model if Path(file).is_file() else None
    except UserError:
        return None


# The outcome ---------------------------------------------------------------------------------------------------------


def _fair(findings: Sequence[Finding]) -> bool | None:
    if any(finding.ok is False for finding in findings):
        return False
    return None if any(finding.unknown for finding in findings) else True


def _sentence(findings: Sequence[Finding], is_fair: bool | None, judged: Judged) -> str:
    checks = ", ".join(f.check for f in findings if (f.ok is False if is_fair is False else f.unknown))
    fair = {
        True: "Nothing unfair was found.",
        False: f"Not a fair comparison: {checks}.",
        None: f"Whether the comparison is fair cannot be told from these files: {checks}.",
    }[is_fair]
    if judged.difference is None:
        return f"{fair} What mAP the two reached is not written down."
    difference = f"The mAP50-95 of B less that of A is {judged.difference:+.4f}"
    if judged.low is None or judged.high is None:
        return f"{fair} {difference}, as far as it is known, and there is no interval."
    within = judged.low <= 0 <= judged.high
    more = "no more than the choice of images can make" if within else "more than the choice of images makes"
    return (
        f"{fair} {difference} on {judged.images} images of {judged.split}, and {judged.low:+.4f} to {judged.high:+.4f} "
        f"on others like them, {more}. What another seed would give, one run of each cannot tell."
    )
