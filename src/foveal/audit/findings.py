"""Were runs treated alike? One finding for each thing that must hold, from the files that a stock training leaves."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..errors import UserError
from ..hosts import contents
from ..hosts import ultralytics as host
from ..hosts.ultralytics import dataset, idle
from ..results import Finding, differing
from ..tensors import digests
from .runs import WEIGHTS, Run

SEEDED_WORKERS = (8, 4, 130)  # the host's first release whose loader workers draw from the seed
# Training arguments with findings of their own, and those that say only what is written down.
ELSEWHERE = ("epochs", "patience", "time", "optimizer", "batch", "seed", "plots", "save", "save_period", "cfg")
IGNORED_BY_AUTO = ("lr0", "momentum", "warmup_bias_lr")
OUTPUTS = ("nms", "end2end")  # choose which outputs of an end-to-end head are judged, also while it is trained
FULL_PRECISION = ("cpu", "mps")  # devices on which the host turns mixed precision off, but for bf16

Runs = tuple[Run, ...]


def both(runs: Runs) -> str:
    """All of them, in a sentence."""
    return "both" if len(runs) == 2 else "all"


def written(runs: Runs, here: Sequence[tuple[Path, str] | None], folder: Path) -> list[Finding]:
    """What the files of all runs say."""
    return [
        _complete(runs),
        _epochs(runs),
        _patience(runs),
        _time(runs),
        _batch(runs),
        _optimizer(runs),
        _arguments(runs),
        _data(runs, here, folder),
        _same("classes", runs, [run.of_best("classes") for run in runs], "the same classes: {}"),
        _seeds(runs),
        _pretrained(runs),
        _resumed(runs),
        _finite(runs),
        _same("versions", runs, [run.version for run in runs], f"Ultralytics {{}} in {both(runs)}"),
        _device(runs),
    ]


def _each(runs: Runs, values: Sequence[object], form: str = "{}: {}", between: str = "; ") -> str:
    """A value for each run, "A: 16; B: 32"."""
    return between.join(form.format(run.name, value) for run, value in zip(runs, values, strict=True))


def _listed(runs: Runs, values: Sequence[object]) -> str:
    """The same in a sentence, "16 in A, 32 in B and 64 in C"."""
    *others, last = (f"{value} in {run.name}" for run, value in zip(runs, values, strict=True))
    return f"{', '.join(others)} and {last}"


def _same(check: str, runs: Runs, values: Sequence[object], detail: str) -> Finding:
    told = _each(runs, values)
    if None in values:
        return Finding(check, None, f"cannot be told ({told})", unknown=True)
    return Finding(check, True, detail.format(values[0])) if _alike(values) else Finding(check, False, told)


def _alike(values: Sequence[object]) -> bool:
    return all(value == values[0] for value in values)


def _complete(runs: Runs) -> Finding:
    missing, short = [], False
    for run in runs:
        missing += [f"{run.name} has no {kind}.pt" for kind in WEIGHTS if kind not in {**run.weights, **run.unread}]
        missing += [f"{kind}.pt of {run.name} is not read: {why}" for kind, why in run.unread.items()]
        if run.epochs < run.arguments["epochs"] and not run.arguments.get("time"):
            short = True
            missing.append(f"{run.name} has {run.epochs} of {run.arguments['epochs']} epochs: {_why_short(run)}")
    told = "; ".join(missing) or f"{both(runs)} runs have all their files and epochs"
    return Finding("complete", False if short else None if missing else True, told)


def _why_short(run: Run) -> str:
    if run.stopped:
        return "early stopping ended it"
    if not run.weights:
        return "why, its files do not tell"
    return "it was ended before" if run.ended else "interrupted, or still at it"


def _epochs(runs: Runs) -> Finding:
    told = [f"{run.epochs} epochs trained, {run.arguments['epochs']} asked for" for run in runs]
    return _same("epochs", runs, told, f"{{}} in {both(runs)}")


def _patience(runs: Runs) -> Finding:
    told = _each(runs, [run.arguments.get("patience") for run in runs])
    could, stopped = [run for run in runs if run.could_stop], [run for run in runs if run.stopped]
    if stopped:
        which = f"{both(runs)} runs" if len(stopped) == len(runs) else f"run {', '.join(r.name for r in stopped)}"
        ends = ", ".join(f"{max(run.table)} in {run.name}" for run in stopped)
        why = f"the last epoch, {ends}, is the best one plus the patience"
        return Finding("patience", False, f"early stopping ended {which} (patience of {told}): {why}")
    if unsure := [run.name for run in could if run.stopped is None]:
        detail = f"whether early stopping ended {' and '.join(unsure)} cannot be told (patience of {told})"
        return Finding("patience", None, detail, unknown=True)
    if could:
        return Finding("patience", None, f"early stopping could have ended a run, and did not (patience of {told})")
    return Finding("patience", True, "early stopping could not end a run")


def _time(runs: Runs) -> Finding:
    hours = [run.arguments.get("time") for run in runs]
    if any(hours):
        told = f"trained by hours, where a slower model gets fewer epochs ({_each(runs, hours)})"
        return Finding("time", False, told)
    return Finding("time", True, "trained by epochs, not by hours")


def _batch(runs: Runs) -> Finding:
    """The host chooses the batch if it is below 1, and lowers it where memory runs out."""
    asked, used = zip(*((run.arguments.get("batch"), run.in_the_end("batch")) for run in runs), strict=True)
    if any(type(value) is not int or value < 1 for value in asked):
        became = [f"{value}, which became {end}" for value, end in zip(asked, used, strict=True)]
        told = _each(runs, became)
        return Finding("batch", False, f"memory chose the batch of a run ({told})")
    return _same("batch", runs, used, "{} images in every batch")


def _optimizer(runs: Runs) -> Finding:
    names = [run.arguments.get("optimizer") for run in runs]
    if set(names) == {"auto"}:
        detail = f"auto in {both(runs)}: it ignores lr0, and chooses alike for equal data, batch and epochs only"
        return Finding("optimizer", None, detail)
    return _same("optimizer", runs, names, f"{{}} in {both(runs)}")


def _arguments(runs: Runs) -> Finding:
    """All others that training reads, but for those that one of two releases does not know."""
    given = [_in_effect(run) for run in runs]
    left_out = set(idle.arguments())
    if any(run.end_to_end for run in runs):
        left_out -= {*OUTPUTS}
    ignored = IGNORED_BY_AUTO if {of.get("optimizer") for of in given} == {"auto"} else ()
    shared = set.intersection(*(set(of) for of in given)).difference(ELSEWHERE, ignored, left_out)
    names = differing([{name: of[name] for name in shared} for of in given])
    told = "; ".join(f"{name} is {_listed(runs, [of[name] for of in given])}" for name in names)
    if names and not any(name in host.grammar.DEFAULT_CFG_DICT for name in names):
        why = f"Ultralytics {host.ultralytics.__version__}, which is installed here, does not know what that does"
        return Finding("arguments", None, f"{told}; {why}", unknown=True)
    return Finding("arguments", not names, told or "all other training arguments are the same")


def _in_effect(run: Run) -> dict[str, object]:
    """Its arguments, as far as they did anything where it ran."""
    full = str(run.arguments.get("device")) in FULL_PRECISION and run.arguments.get("amp") != "bf16"
    return run.arguments | ({"amp": False} if full and "amp" in run.arguments else {})


def _data(runs: Runs, here: Sequence[tuple[Path, str] | None], folder: Path) -> Finding:
    named = [run.arguments.get("data") for run in runs]
    told = _each(runs, named)
    files = [copy for copy in here if copy is not None]
    if len(files) < len(runs):
        return Finding("data", None, f"cannot be compared, because it is not all here ({told})", unknown=True)
    if _alike([file for file, _ in files]):
        return Finding("data", True, f"{named[0]} in {both(runs)}")
    first, *others = (contents(dataset.Data(copy), folder / f"{Path(copy).stem}.json") for _, copy in files)
    if changed := next(filter(None, (other.difference(first) for other in others)), None):
        return Finding("data", False, f"{told}; they differ in {changed}")
    return Finding("data", True, f"{' and '.join(map(str, named))} hold the same images, labels and classes")


def _seeds(runs: Runs) -> Finding:
    seeds, every = [run.arguments.get("seed") for run in runs], both(runs)
    if not _alike(seeds):
        return Finding("seeds", None, f"seed {_listed(runs, seeds)}, so their batches may differ as well")
    a = seeds[0]
    workers = [run.arguments.get("workers") for run in runs]
    versions = [tuple(map(int, re.findall(r"\d+", str(run.version))[:3])) for run in runs]
    if any(workers) and not all(versions):
        why = "whether it reaches the loader's workers is not known, because a run does not say its release"
        return Finding("seeds", None, f"seed {a} in {every}, but {why}")
    if any(workers) and min(versions) < SEEDED_WORKERS:
        why = "before Ultralytics 8.4.130 it does not reach the loader's workers: all seeds draw the same augmentations"
        return Finding("seeds", None, f"seed {a} in {every}, but {why}")
    if 0 in workers and any(run.arguments.get("device") != "cpu" for run in runs):
        return Finding(
            "seeds", None, f"seed {a} in {every}, but without workers a model can shift what its batches draw"
        )
    return Finding("seeds", True, f"seed {a} in {every}, which gives them the same batches")


def _resumed(runs: Runs) -> Finding:
    names = [run.name for run in runs if run.arguments.get("resume")]
    if names:
        why = "Ultralytics goes on from half-precision averages, not from where it was"
        return Finding("resumed", None, f"interrupted and resumed: {', '.join(names)}; {why}")
    return Finding("resumed", True, "no run was resumed")


def _finite(runs: Runs) -> Finding:
    broken = [f"{kind}.pt of {run.name}" for run in runs for kind, of in run.weights.items() if not of.finite]
    if broken:
        return Finding("finite", False, f"not finite: {', '.join(broken)}")
    if unread := [run.name for run in runs if not run.weights]:
        return Finding("finite", None, f"cannot be told, because no weights of {' and '.join(unread)} are read", True)
    return Finding("finite", True, "all trained weights are finite")


def _device(runs: Runs) -> Finding:
    devices = [run.arguments.get("device") for run in runs]
    if _alike(devices):
        return Finding("device", True, f"{devices[0]} in {both(runs)}")
    return Finding("device", None, _each(runs, devices))


def _pretrained(runs: Runs) -> Finding:
    """The tensors of each start that fit the trained model by name and shape: those that the host's loader took."""
    starts = [run.start for run in runs]
    said = ["what, nobody can tell" if start is None else start or "fresh weights" for start in starts]
    told = f"A started from {said[0]}; {_each(runs[1:], said[1:], '{} from {}')}"
    asked = [run.arguments.get("pretrained") for run in runs]
    if None in starts and len({*map(bool, asked)}) == 2:
        return Finding("pretrained", False, f"pretrained is {_listed(runs, asked)}; {told}")
    if "" in starts and None not in starts:
        return Finding("pretrained", None if not any(starts) else False, told)
    models = [model for start in starts if start and (model := _model(start)) is not None]
    if len(models) < len(starts) or not all("best" in run.weights for run in runs):
        told = f"{told}; not all files are here, so tensors cannot be counted"
        return Finding("pretrained", None, told, unknown=True)
    sources = [model.state_dict() for model in models]
    kept = [
        sum(run.of_best("shapes").get(name) == tensor.shape for name, tensor in source.items())
        for run, source in zip(runs, sources, strict=True)
    ]
    shares = [f"{of} of {len(source)}" for of, source in zip(kept, sources, strict=True)]
    told = f"{told}; of its tensors {_each(runs, shares, '{} kept {}', ' and ')}"
    held = [set(digests(model).values()) for model in models]
    # An attention's start holds all tensors of the plain one.
    if not all(mine <= theirs or theirs <= mine for mine, theirs in itertools.combinations(held, 2)):
        which = "the two files" if len(runs) == 2 else "the files"
        return Finding("pretrained", False, f"{told}, and {which} hold other weights")
    return Finding("pretrained", _alike([len(source) - of for source, of in zip(sources, kept, strict=True)]), told)


def _model(file: str) -> nn.Module | None:
    try:
        return host.load(file).model if Path(file).is_file() else None
    except UserError:
        return None
