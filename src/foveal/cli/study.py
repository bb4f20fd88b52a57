"""The commands about studies: `foveal study ...`, `foveal audit` and `foveal demo`."""

import contextlib
import dataclasses
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError, require_installed
from .printing import Json, Trust, load_host, print_json, print_table, say

UNKNOWN = 3  # exit code where there is no answer: 1 and 2 are taken, by "no" and by the user's mistakes


app = typer.Typer(help="Does an attention help on your data, and is that noise?", no_args_is_help=True)
_Folder = Annotated[Path, typer.Argument(help="Of the study.")]


@app.command("run")
def run_study(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PLAN] [KEY=VALUE]...", help="A plan or the folder of a study, and arguments of the training."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="A .pt file, or a model YAML or its name.")] = "",
    data: Annotated[str, typer.Option(help="A data.yaml.")] = "",
    arms: Annotated[str, typer.Option(help='Such as "ema@neck,coord@neck,A/A,placebo,2x epochs".')] = "",
    seeds: Annotated[
        str,
        typer.Option(
            help="Runs of each arm, or 6..24: from 6 on until an answer is there. [default: as few as can tell]"
        ),
    ] = "",
    folder: Annotated[Path | None, typer.Option("-o", "--output", help="Folder of the study.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trainings at once, on each device; with Slurm in its queue. [default: 1; with Ray all that fit]",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, 0 or 0,1: one training on each.")] = "cpu",
    devices_per_cell: Annotated[
        int | None, typer.Option(min=1, help="GPUs of each training, which share its batches.")
    ] = None,
    executor: Annotated[str, typer.Option(help="local, ray or slurm.")] = "local",
    address: Annotated[str, typer.Option(help="Of a Ray cluster. [default: one on this machine]")] = "",
    slurm: Annotated[str, typer.Option(help='Of each job of Slurm, such as "partition=gpu,time=240,account=x".')] = "",
    scale: Annotated[
        float | None, typer.Option(help="Rehearse on this share of images, epochs and seeds, as in 0.01.")
    ] = None,
    trust: Trust = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would find and take, and train and download nothing.")
    ] = False,
) -> None:
    """Train every arm with every seed, and report.

    foveal study run --model yolo11n.pt --data my.yaml --arms ema@neck,A/A,placebo epochs=50 imgsz=640

    Says first what so many seeds can find, and how long they will take. Whatever is interrupted goes on when the same
    command is given again. A plan with several models is a study of each, in a folder of its own.
    """
    _load_studies(installing=not dry_run)
    _require_executor(executor, slurm)
    given: dict[str, object] = {"model": model, "data": data, "arms": arms, "devices_per_cell": devices_per_cell}
    given |= {"seeds": int(seeds) if seeds.isdecimal() else seeds, "trust": trust}
    asked = _asked(arguments or [], {key: value for key, value in given.items() if value}, folder)
    if dry_run:
        if scale is not None:
            raise UserError("--dry-run copies no images, and a rehearsal needs a copy", "leave one of them out")
        _forecast_only(asked, device)
        return
    failed = False
    for study in _prepared(asked, scale):
        failed |= not _run(study, _runner(study, executor, jobs, device, address, slurm), device)
    raise typer.Exit(failed)


def _require_executor(executor: str, slurm: str) -> None:
    if executor not in ("local", "ray", "slurm"):
        raise UserError(f"there is no executor {executor!r}", "local, ray and slurm are known")
    if slurm and executor != "slurm":
        raise UserError(f"--slurm is for jobs of Slurm, and the executor is {executor}", "add --executor slurm")


def _runner(study, executor: str, jobs: int | None, device: str, address: str, slurm: str):
    """What runs the cells of a study."""
    from .. import executors
    from ..tensors import require_device

    each = study.plan.devices_per_cell
    if each > 1 and device == "cpu":
        raise UserError(f"each training has {each} devices, and the device is cpu", "--device 0,1")
    gpus = 0 if device == "cpu" else each
    if executor == "ray":
        return executors.Ray(address or None, jobs, gpus)
    if executor == "slurm":
        given = executors.parameters(slurm)
        return executors.Slurm(study.folder / "slurm", given, jobs or executors.AT_ONCE, gpus)
    require_device(device)
    return executors.Local(jobs or 1, device.split(","), each)


@app.command("status")
def study_status(
    folder: _Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds until all is finished.")] = False,
    as_json: Json = False,
) -> None:
    """What is finished, running, failed and missing, and how long it will take."""
    _load_studies()
    from ..study import POLL, Status, Study, in_words

    told: set[str] = set()
    while True:
        study = Study(folder)
        states = study.states()
        for sentence in [new for new in study.news() if new not in told]:
            say(sentence)
            told.add(sentence)
        if as_json:
            print_json([_state_entry(state, study) for state in states])
        else:
            heads = ("arm", "seed", "state", "epochs", study.plan.metric.name, "why")
            print_table(heads, [_state_row(state, study) for state in states])
            left = study.seconds_left(states)
            finished = sum(state.status is Status.FINISHED for state in states)
            print(f"\n{finished} of {len(states)} finished" + (f", about {in_words(left)} left" if left else ""))
        if not watch or all(state.status in (Status.FINISHED, Status.FAILED) for state in states):
            return
        time.sleep(POLL)
        print("\033[2J\033[H" if sys.stdout.isatty() else "")


@app.command("cells")
def study_cells(folder: _Folder) -> None:
    """One command for each training that is missing: for a cluster's queue, or another machine that sees the folder."""
    _load_studies()
    from ..study import Study

    for command in Study(folder).commands():
        print(command)


@app.command("cell")
def study_cell(
    folder: _Folder,
    key: Annotated[str, typer.Argument(help="Name of the cell, as `cells` prints it.")],
    device: Annotated[str, typer.Option(help="As Ultralytics takes it.")] = "cpu",
) -> None:
    """Train and judge one cell. Exit code 75: another process is at it."""
    _load_studies()
    from ..study import BUSY, run

    if not run(folder, key, device):
        say(f"another process is at {key}")
        raise typer.Exit(BUSY)


@app.command("report")
def study_report(folder: _Folder, language: Annotated[str, typer.Option("--lang", help="en or zh.")] = "en") -> None:
    """Write results.json, report.html, table.md and table.csv, also of a study under way."""
    _load_studies()
    from ..study import Study

    _report(Study(folder), language, measure=False)


def audit(
    run_a: Annotated[Path, typer.Argument(help="Folder of the baseline's run: runs/detect/train.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another one.")],
    more: Annotated[list[Path] | None, typer.Argument(help="Further ones, compared with the baseline's, too.")] = None,
    data: Annotated[str, typer.Option(help="Data file to judge on. [default: that of the runs, if it is here]")] = "",
    device: Annotated[str, typer.Option(help="As Ultralytics takes it.")] = "cpu",
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Judge all best.pt on the same images.")
    ] = True,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Are runs of Ultralytics a fair comparison?

    And is their difference to the first more than the choice of images? Exit code 0 if nothing unfair was found, 1 if
    something is unfair, 3 if these files do not tell.
    """
    _load_studies()
    from ..audit import audit as call
    from ..judging import letters

    with contextlib.redirect_stdout(sys.stderr):  # the host's tables
        found = call(run_a, run_b, *(more or ()), data=data or None, device=device, evaluate=evaluate, trust=trust)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        words = {True: "holds", False: "BROKEN", None: "note"}
        rows = [("unknown" if f.unknown else words[f.ok], f.check, f.detail) for f in found.findings]
        print_table(("", "what", "found"), rows)
        if found.maps:
            scores = (f"{name} {score:.4f}" for name, score in zip(letters(len(found.maps)), found.maps, strict=True))
            print(f"\nmAP50-95  {'  '.join(scores)} on {found.split}")
        print(f"\n{found.sentence}")
    raise typer.Exit({True: 0, False: 1, None: UNKNOWN}[found.fair])


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the study.")] = Path("demo"),
) -> None:
    """A small study on drawn images, from nothing to its report.

    Takes a few minutes on two cores and downloads nothing.
    """
    os.environ.setdefault("YOLO_OFFLINE", "1")  # read when the host is imported
    _load_studies()
    from ..executors import Local
    from ..study import prepare

    finished = _run(prepare(output), Local(jobs=2))
    say(f"\nopen     {output / 'report.html'}")
    if finished:
        say("next     the same on your own images:")
        say(f"         {_called()} study run --model yolo11n.pt --data my.yaml --arms ema@neck,A/A,placebo epochs=50")
    else:
        say(f"next     {_called()} demo -o {output}   goes on with what is missing")
    raise typer.Exit(not finished)


def _called() -> str:
    """This program as a shell here finds it: by its name, or by the path it was called by."""
    path = sys.argv[0]
    return path if Path(path).stem == "foveal" and shutil.which("foveal") != path else "foveal"


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A plan's keys, where its paths are meant from, and the folder of its study."""

    written: dict
    beside: Path
    folder: Path

    def each(self) -> list["_Asked"]:
        """The same for each of several models, in a folder of its own."""
        from ..study import each

        plans = list(each(self.written))
        if not plans[1:]:
            return [_Asked(plans[0], self.beside, self.folder)]
        folders = _folder_names([str(plan["model"]) for plan in plans])
        return [_Asked(plan, self.beside, self.folder / name) for plan, name in zip(plans, folders, strict=True)]


def _folder_names(models: list[str]) -> list[str]:
    """Short names of models: resnet50 for timm:resnet50(stem=cifar), with its arguments where two have one name."""
    whole = [re.sub(r"^\w+:|\.(pt|ya?ml)$", "", Path(model).name) for model in models]
    short = [name.partition("(")[0] for name in whole]
    return [re.sub(r"\W+", "-", name).strip("-") for name in (short if len(set(short)) == len(short) else whole)]


def _asked(arguments: list[str], given: dict, folder: Path | None) -> _Asked:
    """What `foveal study run` is about: a plan or a folder, options, and arguments of the training."""
    from ..hosts.ultralytics import no_argument, read
    from ..study import PLAN, load

    there = [argument for argument in arguments if Path(argument).exists()]  # also a folder that is named as a flag is
    train, words = read([argument for argument in arguments if argument not in there])
    named = there + words
    if len(named) > 1:
        raise no_argument(named[1])
    if not named:
        return _Asked({**given, "train": train}, Path(), folder or Path("study"))
    path = Path(named[0])
    path = path / PLAN if path.is_dir() else path
    written = load(path)
    own = written.get("train") or {}
    written |= given | {"train": own | train if isinstance(own, dict) else own}  # what is no mapping is refused later
    return _Asked(written, path.parent, folder or (path.parent if path.name == PLAN else path.with_suffix("")))


def _prepared(asked: _Asked, scale: float | None) -> list:
    """The studies, whose plans are all checked before one is run."""
    from ..study import Study, rehearsal

    if scale is not None:
        folder = asked.folder.with_name(f"{asked.folder.name}-rehearsal")
        small = rehearsal.reduced(asked.written, asked.beside, folder, scale)
        asked = _Asked(small, asked.beside, folder)
    return [Study.prepare(one.written, one.beside, one.folder) for one in asked.each()]


def _forecast_only(asked: _Asked, device: str) -> None:
    from .. import results
    from ..study import Plan, forecast, near_twins

    for one in asked.each():
        plan = Plan.of(one.written, one.beside, look=False)
        found = _finished(plan, one.folder)
        print(f"{plan.model} on {plan.data}\n{results.before(plan, found)}")
        if found:
            if len(found) < len(plan.arms) * len(plan.seeds):
                print(f"how long the others will take: foveal study status {one.folder}")
            continue
        if twins := near_twins(plan):
            print(twins)
        print(forecast(plan, device, say) or "how long it takes can be said where its data and the device are")


def _finished(plan, folder: Path) -> dict:
    """The results of a plan's cells that are in a folder; none where its data are elsewhere."""
    from ..study import StudyFolder

    try:
        return StudyFolder(folder, plan).results()
    except UserError:
        return {}


def _run(study, executor, device: str = "cpu") -> bool:
    """Train what is missing and report; whether all is finished."""
    from .. import results
    from ..study import forecast, near_twins

    found = study.results()
    say(results.before(study.plan, found))
    if not found:
        for sentence in filter(None, (near_twins(study.plan, study.folder), forecast(study.plan, device))):
            say(str(sentence))
    try:
        with executor:
            study.run(executor, say)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    _report(study, "en", measure=True)
    return study.is_finished()


def _report(study, language: str, measure: bool) -> None:
    from .. import report, results
    from ..evidence import error_types

    found = results.assemble(study)
    if measure:
        found = results.measure(study, found)
    written = [results.write(found, study.folder), *report.write(found, study.folder, language)]
    print(report.sentence(found, language))
    if found.task == "detect" and not error_types.is_known():
        say("what errors cost is not in the report: hotcoco is not installed; pip install 'foveal[study]'")
    for finding in found.fairness:
        if finding.ok is False:
            say(f"BROKEN  {finding.check}: {finding.detail}")
    for path in written:
        say(f"written  {path}")


def _state_row(state, study) -> tuple[str, ...]:
    score = f"{state.result.scores[study.plan.metric.key]:.4f}" if state.result else ""
    epochs = f"{state.epochs}/{study.epochs[state.cell.arm.name]}"
    return (state.cell.arm.name, str(state.cell.pair), state.status, epochs, score, state.reason)


def _state_entry(state, study) -> dict:
    key = study.plan.metric.key
    entry = {"key": state.cell.key, "arm": state.cell.arm.name, "seed": state.cell.pair, "state": state.status}
    return entry | {"epochs": state.epochs, "reason": state.reason, key: state.result and state.result.scores[key]}


def _load_studies(installing: bool = True) -> None:
    """The host, which may install what it misses unless that is forbidden, and what only studies need."""
    if not installing:
        os.environ["YOLO_AUTOINSTALL"] = "0"  # read when the host is imported
    load_host()
    require_installed("a study", ("scipy", "jinja2", "msgspec", "sklearn", "imagehash"), "'foveal[study]'")
