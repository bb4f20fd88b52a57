"""One cell of a study, from its plan to `result.json`, which is written last and whole.

A cell's folder is an ordinary Ultralytics run with a few files more. It can be killed at any moment: the next process
continues after the last whole epoch. A lock, which the system frees when its holder dies, keeps two from the same cell.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from ..checks import is_a
from ..errors import UserError, shown
from ..evidence import TASKS
from ..files import MALFORMED, write_text
from ..hosts import Contents, Data, Refused, Training, contents
from ..surgery import opened
from ..tensors import count, is_finite
from .folds import divided
from .plan import Cell, Plan, versions

BUSY = 75  # exit code of a process that finds its cell taken, as sysexits.h has it for "try again later"
PLAN, CELLS, DATA, REFUSED, RESULT, FAILURE, LOCK, LOG = (
    *("plan.yaml", "cells", "data.json", "refused.json", "result.json", "failure.json", "lock", "log.txt"),
)
WEIGHTS = {"best": "", "last": "_last"}  # of weights that are judged, and what that adds to the key of a score
SCORES = [
    {key + end for metric in task.metrics for key in metric.keys for end in WEIGHTS.values()}
    for task in TASKS.values()
    if task.metrics
]
# Arguments of the training that evaluations share.
JUDGING = ("imgsz", "batch", "workers", "single_cls", "max_det", "overlap_mask", "mask_ratio")


@dataclass(frozen=True)
class Result:
    """What a cell measured.

    Attributes:
        arm: name of the arm.
        pair: the seed by which it is paired.
        seed: the seed it drew from.
        scores: the metrics of best.pt on the split judged by their keys, those of last.pt by the same with `_last`, and
            both for their second averages: map, map_last, map50, map50_last; or top1, top1_last, top5, top5_last.
        disagreement: largest difference of all of them to those computed again from what is stored.
        epochs: trained.
        batch: images in a batch, which the host may have lowered for want of memory.
        batches: a digest of all batches, for each epoch.
        start: a digest of each tensor before training.
        finite: whether all trained tensors are.
        parameters: of the trained model.
        seconds: of training, evaluation of every epoch included.
        peak_bytes: most memory used; of the GPU if there was one, else of the process.
        resumed: how often it was interrupted and went on.
        device: where it ran.
        data: digest of the data set.
        versions: of what decides a result.
        finished: when, in UTC.
        opened: largest gain of the identity starts in best.pt and in last.pt, by these names; None where there is none.
    """

    arm: str
    pair: int
    seed: int
    scores: dict[str, float]
    disagreement: float
    epochs: int
    batch: int
    batches: list[str]
    start: dict[str, str]
    finite: bool
    parameters: int
    seconds: float
    peak_bytes: int | None
    resumed: int
    device: str
    data: str
    versions: dict[str, str]
    finished: str
    opened: dict[str, float] | None = None

    @classmethod
    def load(cls, folder: Path) -> "Result | None":
        """The result in a cell's folder, None if there is none.

        Raises:
            UserError: a value in it is of another type.
        """
        try:
            found = cls(**json.loads((folder / RESULT).read_text()))
        except (FileNotFoundError, NotADirectoryError, RecursionError, TypeError, ValueError):  # or of another release
            return None
        for field in dataclasses.fields(cls):
            sound = is_a(value := getattr(found, field.name), field.type)
            if not sound or (field.name == "scores" and set(value) not in SCORES):
                raise UserError(
                    f"{folder / RESULT} is damaged: {field.name} is {shown(value)}",
                    "delete its folder and run the study again",
                )
        return found


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0) -> Iterator[bool]:
    """Hold a cell's lock; whether that worked within so many seconds."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def run(study: Path, key: str, device: str = "cpu") -> bool:
    """Train and judge one cell of the study in a folder.

    Returns:
        False if another process holds the cell, True when its result is there.

    Raises:
        UserError: no such cell as things are now, or another number of devices than its plan has.
    """
    plan = Plan.read(study / PLAN, download=True)
    if (given := len(device.split(","))) != plan.devices_per_cell:
        said = f"device {device} is {given} where each training of {study} has {plan.devices_per_cell}"
        raise UserError(said, f"--device {','.join(map(str, range(plan.devices_per_cell)))}")
    now = contents(plan.dataset, study / DATA)
    cell = next((cell for cell in plan.cells(now.digest) if cell.key == key), None)
    if cell is None:
        raise UserError(
            f"{key} is no cell of {study} as its plan, data and installed versions are now",
            f"list them with foveal study cells {study}",
        )
    folder = study / CELLS / key
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, patience=5) as mine:  # somebody who only looks holds it for a moment
        if not mine:
            return False
        if Result.load(folder) is None:
            try:
                _measure(plan, cell, now, study, folder, device)
            except Exception as error:  # whatever it is, `status` must be able to say it later
                failure = json.dumps({"reason": _in_words(error)})
                write_text(folder / FAILURE, failure)
                raise
    return True


def _measure(plan: Plan, cell: Cell, before: Contents, study: Path, folder: Path, device: str) -> None:
    (folder / FAILURE).unlink(missing_ok=True)
    scan(plan, study)
    host, arguments = plan.host, plan.arguments(cell.arm)
    data, before, cache = _read(plan, cell, before, study)
    record = host.train(
        Training(
            model=cell.arm.model,
            weights=cell.arm.weights,
            spec=cell.arm.spec,
            seed=cell.seed,
            arguments=arguments,
            settings=plan.complete(cell.arm),
            data=data,
            contents=before,
            cache=cache,
            recipe=plan.recipe,
            resume_period=plan.resume_period,
            folder=folder,
            kept=(LOCK, LOG),
            device=device,
        )
    )
    settings = {key: arguments[key] for key in JUDGING if key in arguments} | {"device": device.partition(",")[0]}
    scores: dict[str, float] = {}
    disagreement = 0.0
    for kind, end in WEIGHTS.items():
        found, theirs = host.judge(folder / "weights" / f"{kind}.pt", data.name, plan.split, folder, settings)
        found.save(folder / f"{kind}.npz")
        ours = found.figures()
        disagreement = max(disagreement, *(abs(ours[key] - theirs[key]) for key in theirs))
        scores |= {key + end: value for key, value in theirs.items()}
    contents(host.data(data.name, False, plan.task.name), cache).require_as(before.digest, before.stamp, before)
    networks = {kind: host.network(folder / "weights" / f"{kind}.pt") for kind in WEIGHTS}
    gains = {kind: gain for kind, network in networks.items() if (gain := opened(network)) is not None}
    result = Result(
        arm=cell.arm.name,
        pair=cell.pair,
        seed=cell.seed,
        scores=scores,
        disagreement=disagreement,
        epochs=len(record.batches),
        batch=record.batch,
        batches=record.batches,
        start=record.start,
        finite=all(is_finite(network) for network in networks.values()),
        parameters=count(networks["best"]),
        seconds=round(sum(record.seconds), 1),
        peak_bytes=record.peak_bytes,
        resumed=record.resumed,
        device=device,
        data=before.digest,
        versions=versions(),
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        opened=gains if len(gains) == len(networks) else None,
    )
    write_text(folder / RESULT, json.dumps(dataclasses.asdict(result), indent=1))
    for file in (file for pattern in host.leftovers for file in folder.glob(pattern)):
        file.unlink(missing_ok=True)


def _read(plan: Plan, cell: Cell, whole: Contents, study: Path) -> tuple[Data, Contents, Path]:
    """What a cell reads, what that holds and where its digests are kept: the data as they are, or split into folds."""
    if not plan.partitions:
        return plan.dataset, whole, study / DATA
    data = divided(plan.host, plan.task.name, plan.dataset, plan.partitions, cell.pair, study)
    _verified(plan, data, study)
    return data, contents(data, data.root / DATA), data.root / DATA


def scan(plan: Plan, study: Path) -> None:
    """Let the host verify the images and labels that a study reads, and keep in its folder which of them it refuses.

    Raises:
        UserError: of a split that is needed it leaves none.
    """
    found = _verified(plan, plan.dataset, study)
    write_text(study / REFUSED, json.dumps({split: dataclasses.asdict(of) for split, of in found.items()}))


def _verified(plan: Plan, data: Data, study: Path) -> dict[str, Refused]:
    needed = {"train", plan.split, chosen_on(data)}
    with FileLock(study / "scan.lock"):  # two processes must not write the host's caches beside the labels at once
        return data.scan(needed, bool(plan.train.get("single_cls")))


def refused(study: Path) -> dict[str, Refused] | None:
    """What the last scan of a study's data found, by split; None if there was none, or that is not what it wrote."""
    try:
        return {split: Refused(**of) for split, of in json.loads((study / REFUSED).read_text()).items()}
    except MALFORMED:
        return None


def chosen_on(data: Data) -> str:
    """The split on which the host chooses best.pt: the first of these that is there."""
    return next(split for split in ("val", "test") if split in data.splits)


def _in_words(error: Exception) -> str:
    return error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
