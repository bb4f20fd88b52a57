"""The folder of a study, looked at: which cells there are, how far each is, and what is another than when it began."""

import contextlib
import csv
import functools
import json
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, damaged
from ..evidence import averages
from ..files import MALFORMED, named
from ..hosts import Contents, Photographs, contents
from . import verdicts
from .cell import CELLS, DATA, FAILURE, LOCK, PLAN, RESULT, WEIGHTS, Result, locked
from .plan import Cell, Plan
from .slices import Slices

CONTENTS = "contents.json"  # digests of the data set when it last ran
BEGUN = "begun.json"  # what decides a verdict, as it was when the first cell was trained


class Status(str, Enum):
    """How far a cell is."""

    FINISHED = "finished"
    RUNNING = "running"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    WAITING = "waiting"

    __str__ = str.__str__  # in a sentence it is its word, in every release of Python


@dataclass(frozen=True)
class State:
    """A cell as it is on disk.

    Attributes:
        cell: which.
        status: how far it is.
        epochs: trained so far.
        reason: why it failed, if it has.
        result: of a finished one.
    """

    cell: Cell
    status: Status
    epochs: int = 0
    reason: str = ""
    result: Result | None = None


class StudyFolder:
    """A study in its folder, which is left as it is.

    Args:
        folder: holds `plan.yaml`, see `Study.prepare`.
        plan: another one, to see what of it is finished here.

    Raises:
        UserError: no plan there, or one that cannot work now.
    """

    _seeds_due: tuple[dict[str, int], dict[str, int]] = ({}, {})  # what each arm needs after the looks it has reached

    def __init__(self, folder: str | PathLike[str], plan: Plan | None = None):
        folder = named(folder, "a study")
        if plan is None and not (folder / PLAN).is_file():
            raise UserError(f"there is no study in {folder}: it has no {PLAN}", "start one with foveal study run PLAN")
        self.folder = folder
        self.plan = plan or Plan.read(folder / PLAN)
        self.contents = self._contents()
        self.cells = self.plan.cells(self.contents.digest)

    def _contents(self) -> Contents:
        """What the data holds now; digests that are taken for it are not kept."""
        with tempfile.TemporaryDirectory() as scratch:
            cache = Path(scratch) / DATA
            if (self.folder / DATA).is_file():
                shutil.copyfile(self.folder / DATA, cache)
            return contents(self.plan.dataset, cache)

    @functools.cached_property
    def epochs(self) -> dict[str, int]:
        """How many each arm is trained for, by its name."""
        return {arm.name: self.plan.epochs(arm) for arm in self.plan.arms}

    @functools.cached_property
    def slices(self) -> Slices | None:
        """Slices of the images that are judged; None if the plan asks for none.

        Raises:
            UserError: their CSV is not what it must be.
        """
        return Slices.of(self.plan)

    def path(self, cell: Cell) -> Path:
        """The folder of a cell, which is the one of its earlier name if only that has a result."""
        now, earlier = (self.folder / CELLS / name for name in (cell.key, cell.earlier))
        return earlier if (earlier / RESULT).is_file() and not (now / RESULT).is_file() else now

    def photographs(self, pair: int) -> Photographs:
        """The images on which a pair is judged, by the numbers that they have in its evidence."""
        data, folds = self.plan.dataset, self.plan.partitions
        return data.photographs(folds.splits(pair)["val"] if folds else data.images(self.plan.split))

    def numbers(self, pair: int, names: NDArray) -> NDArray:
        """Which image each one is among all that are judged in this study; -1 where a fold has none of its name.

        Args:
            pair: that was judged on it.
            names: of the images in its evidence.
        """
        if not self.plan.partitions:
            return np.arange(len(names))
        held_out = self.plan.partitions.held_out(pair)
        found = self.photographs(pair).numbers(names)
        return np.array([-1 if number is None else held_out[number] for number in found])

    def command(self, cell: Cell) -> list[str]:
        """What runs one cell, in a process of its own on any machine that sees the folder."""
        return [sys.executable, "-m", "foveal", "study", "cell", str(self.folder), cell.key]

    def commands(self) -> list[str]:
        """One command line for each cell that is not finished."""
        count = self.plan.devices_per_cell
        devices = ["--device", ",".join(map(str, range(count)))] if count > 1 else []
        return [shlex.join(["foveal", *self.command(cell)[3:], *devices]) for cell in self.missing()]

    def due(self) -> list[Cell]:
        """Cells up to the next look at each arm, and none beyond the word of an arm."""
        if not self.plan.looks[1:]:
            return self.cells
        found = self.results()
        reached = verdicts.reached(self.plan, found)
        if self._seeds_due[0] != reached:
            averaged = averages.loaded(self.folders(found), WEIGHTS, self.plan.task)
            judged = verdicts.judged(self.plan, found, averaged, "best")
            self._seeds_due = reached, verdicts.due(self.plan, judged)
        seeds = self._seeds_due[1]
        return [cell for cell in self.cells if cell.pair in self.plan.seeds[: seeds[cell.arm.name]]]

    def missing(self) -> list[Cell]:
        """Cells that are due and not finished."""
        return [cell for cell in self.due() if Result.load(self.path(cell)) is None]

    def states(self) -> list[State]:
        """How far each cell is that is due, from what is on disk."""
        return [self.state(cell) for cell in self.due()]

    def state(self, cell: Cell) -> State:
        """How far a cell is, from what is on disk."""
        folder = self.path(cell)
        if result := Result.load(folder):
            return State(cell, Status.FINISHED, self.epochs[cell.arm.name], result=result)
        epochs = len(rows(folder))
        if self._taken(cell):
            return State(cell, Status.RUNNING, epochs)
        if reason := noted(folder):
            return State(cell, Status.FAILED, epochs, reason)
        return State(cell, Status.INTERRUPTED if epochs else Status.WAITING, epochs)

    def is_finished(self) -> bool:
        """Whether all cells that are due are finished."""
        return all(state.status is Status.FINISHED for state in self.states())

    def results(self) -> dict[tuple[str, int], Result]:
        """The results of finished cells, by arm and pair."""
        found = {(cell.arm.name, cell.pair): Result.load(self.path(cell)) for cell in self.cells}
        return {where: result for where, result in found.items() if result}

    def folders(self, found: Mapping[tuple[str, int], Result]) -> dict[tuple[str, int], Path]:
        """The folders of finished cells, by arm and pair."""
        return {(c.arm.name, c.pair): self.path(c) for c in self.cells if (c.arm.name, c.pair) in found}

    def stale(self) -> int:
        """Finished cells in the folder that do not count: of other data, other versions or another plan."""
        counted = {self.path(cell) for cell in self.cells}
        folders = (self.folder / CELLS).glob("*/") if (self.folder / CELLS).is_dir() else ()
        return sum(folder not in counted and Result.load(folder) is not None for folder in folders)

    def not_counted(self) -> str:
        """How many finished cells are left over, in words; empty if none is."""
        stale = self.stale()
        said = f"{stale} finished cells are of other data, versions or arguments: kept, and not counted"
        return said if stale else ""

    def changed(self) -> dict[str, tuple[object, object]] | None:
        """What of the plan is another than when the study began, as it was and is; None if that is not known."""
        try:
            begun = json.loads((self.folder / BEGUN).read_text())
            return {key: (begun[key], now) for key, now in self._decisive().items() if begun[key] != now}
        except MALFORMED:
            return None

    def _decisive(self) -> dict[str, object]:
        plan = self.plan
        arms, split = sorted(arm.name for arm in plan.arms), plan.text["folds"] if plan.folds else plan.split
        metric = {"metric": plan.metric.of} if len(plan.task.metrics) > 1 else {}
        return {"arms": arms, "looks": list(plan.looks), "margin": plan.margin, "split": split, **metric}

    def news(self) -> list[str]:
        """What is another than when this study last ran, and which finished cells count; a sentence each."""
        said = []
        with contextlib.suppress(*MALFORMED):  # none yet, or damaged
            earlier = Contents(**json.loads((self.folder / CONTENTS).read_text()))
            if changed := self.contents.difference(earlier):
                said.append(f"the data set is another than when this study last ran: {changed}")
        if aside := self.not_counted():
            said.append(f"{aside}; {len(self.results())} of this plan count")
        for key, (was, is_now) in (self.changed() or {}).items():
            said.append(f"{key} was {was} when the study began and is {is_now} now: the report says so")
        return said

    def seconds_left(self, states: list[State]) -> float | None:
        """Time until all cells are finished, as far as finished and running ones tell; None where they tell nothing."""
        an_epoch = [state.result.seconds / state.epochs for state in states if state.result]
        an_epoch += [
            seconds / state.epochs
            for state in states
            if state.status is Status.RUNNING and state.epochs and (seconds := _elapsed(self.path(state.cell)))
        ]
        if not an_epoch:
            return None
        missing = sum(self.epochs[state.cell.arm.name] - state.epochs for state in states)
        return statistics.median(an_epoch) * missing / max(1, sum(state.status is Status.RUNNING for state in states))

    def _taken(self, cell: Cell) -> bool:
        """Whether a process holds a cell; asking takes its lock for a moment, and one that starts has patience."""
        if not (self.path(cell) / LOCK).is_file():
            return False
        try:
            with locked(self.path(cell)) as free:
                return not free
        except OSError:  # a full disk has no room for a lock, and nobody has one
            return False


def in_words(seconds: float) -> str:
    """A duration, as "35 s", "12 min" or "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def rows(folder: Path) -> list[dict[str, str]]:
    """The host's table of a run, one row for each epoch so far.

    Raises:
        UserError: it is damaged.
    """
    try:
        with (folder / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file, skipinitialspace=True))
    except OSError:
        return []
    except (ValueError, csv.Error) as error:
        raise damaged(folder / "results.csv", error) from None


def _elapsed(folder: Path) -> float:
    try:
        return float(rows(folder)[-1]["time"])
    except MALFORMED:  # none yet, or one half-written
        return 0.0


def noted(folder: Path) -> str:
    """Why a cell failed, if that is known."""
    try:
        return str(json.loads((folder / FAILURE).read_text())["reason"])
    except MALFORMED:
        return ""
