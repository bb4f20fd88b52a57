"""A folder with a plan, a folder for each cell, and the loop that trains what is missing."""

import concurrent.futures
import contextlib
import csv
import errno
import functools
import json
import os
import shlex
import shutil
import signal
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..errors import UserError
from ..evidence import averages
from ..executors import Executor
from ..files import write_text
from ..hosts import Contents, contents, host_of
from . import verdicts
from .cell import BUSY, CELLS, DATA, FAILURE, KINDS, LOG, PLAN, RESULT, Result, held, scan
from .plan import Cell, Plan, load

CONTENTS = "contents.json"  # digests of the data set when it last ran
BEGUN = "begun.json"  # what decides a verdict, as it was when the first cell was trained
ATTEMPTS = 3  # of a cell whose process is killed; one that raises waits for the next `run`
SCARCE = 100e6  # bytes of disk; less is worth a word where something failed
FULL = 1e6  # bytes of disk; with less, the last words of a process, in a log on the same disk, may be cut off
POLL = 2.0  # seconds between looks at cells that another process holds


@dataclass(frozen=True)
class State:
    """How far a cell is: "finished", "running", "failed", "interrupted" or "waiting"."""

    cell: Cell
    word: str
    epochs: int = 0
    reason: str = ""
    result: Result | None = None


class Study:
    """A study in its folder.

    Args:
        folder: holds `plan.yaml`, see `Study.prepare`.

    Raises:
        UserError: no plan there, or one that cannot work now.
    """

    _seeds_due: tuple[dict[str, int], dict[str, int]] = ({}, {})  # what each arm needs after the looks it has reached

    def __init__(self, folder: Path):
        if not (folder / PLAN).is_file():
            raise UserError(f"there is no study in {folder}: it has no {PLAN}", "start one with foveal study run PLAN")
        self.folder = folder
        self.plan = Plan.read(folder / PLAN)
        self.contents = contents(self.plan.dataset, folder / DATA)
        self.cells = self.plan.cells(self.contents.digest)

    @classmethod
    def prepare(cls, written: Mapping[str, object], beside: Path, folder: Path) -> "Study":
        """Check a plan and write it into a study's folder, new or not.

        Args:
            written: the plan's keys.
            beside: the folder from which its paths are meant.
            folder: of the study.
        """
        plan = Plan.of(written, beside, download=True)
        # What the host knows by name is downloaded here, so that its content is known from now on.
        for model in dict.fromkeys(arm.model for arm in plan.arms):
            if (task := plan.host.made_for(model, plan.dataset)) != plan.task.name:
                said = f"{model} is a model for the task {task!r}, and a study of {plan.data} is for {plan.task.name!r}"
                raise UserError(said, "a data file is for detectors, a folder with train and val for classifiers")
        folder.mkdir(parents=True, exist_ok=True)
        moved = _seen_from(folder, dict(written), beside)
        if not (folder / PLAN).is_file() or load(folder / PLAN) != moved:  # else comments would be lost
            text = yaml.safe_dump(moved, sort_keys=False, allow_unicode=True)
            write_text(folder / PLAN, text)
        return cls(folder)

    @functools.cached_property
    def epochs(self) -> dict[str, int]:
        """How many each arm is trained for, by its name."""
        return {arm.name: self.plan.epochs(arm) for arm in self.plan.arms}

    def path(self, cell: Cell) -> Path:
        """The folder of a cell, which is the one of its earlier name if only that has a result."""
        now, earlier = (self.folder / CELLS / name for name in (cell.key, cell.earlier))
        return earlier if (earlier / RESULT).is_file() and not (now / RESULT).is_file() else now

    def command(self, cell: Cell) -> list[str]:
        """What runs one cell, in a process of its own on any machine that sees the folder."""
        return [sys.executable, "-m", "foveal", "study", "cell", str(self.folder), cell.key]

    def commands(self) -> list[str]:
        """One command line for each cell that is not finished."""
        return [shlex.join(["foveal", *self.command(cell)[3:]]) for cell in self.missing()]

    def due(self) -> list[Cell]:
        """Cells up to the next look at each arm, and none beyond the word of an arm."""
        if not self.plan.looks[1:]:
            return self.cells
        found = self.results()
        reached = verdicts.reached(self.plan, found)
        if self._seeds_due[0] != reached:
            averaged = averages.loaded(self.folders(found), KINDS, self.plan.task)
            judged = verdicts.judged(self.plan, found, averaged, "best")
            self._seeds_due = reached, verdicts.due(self.plan, judged)
        seeds = self._seeds_due[1]
        return [cell for cell in self.cells if cell.pair in self.plan.seeds[: seeds[cell.arm.name]]]

    def missing(self) -> list[Cell]:
        """Cells that are due and not finished."""
        return [cell for cell in self.due() if Result.load(self.path(cell)) is None]

    def states(self) -> list[State]:
        """Of all cells that are due, from what is on disk."""
        return [self._state(cell) for cell in self.due()]

    def results(self) -> dict[tuple[str, int], Result]:
        """Of finished cells, by arm and pair."""
        found = {(cell.arm.name, cell.pair): Result.load(self.path(cell)) for cell in self.cells}
        return {where: result for where, result in found.items() if result}

    def folders(self, found: Mapping[tuple[str, int], Result]) -> dict[tuple[str, int], Path]:
        """The folders of finished cells, by arm and pair."""
        return {(c.arm.name, c.pair): self.path(c) for c in self.cells if (c.arm.name, c.pair) in found}

    def left_over(self) -> int:
        """Finished cells in the folder that do not count: of other data, other versions or another plan."""
        counted = {self.path(cell) for cell in self.cells}
        folders = (self.folder / CELLS).glob("*/") if (self.folder / CELLS).is_dir() else ()
        return sum(folder not in counted and Result.load(folder) is not None for folder in folders)

    def not_counted(self) -> str:
        """How many finished cells are left over, in words; empty if none is."""
        left_over = self.left_over()
        said = f"{left_over} finished cells are of other data, versions or arguments: kept, and not counted"
        return said if left_over else ""

    def changed(self) -> dict[str, tuple[object, object]] | None:
        """What of the plan is another than when the study began, as it was and is; None if that is not known."""
        try:
            begun = json.loads((self.folder / BEGUN).read_text())
            return {key: (begun[key], now) for key, now in self._decisive().items() if begun[key] != now}
        except (OSError, ValueError, LookupError, RecursionError, TypeError):
            return None

    def _decisive(self) -> dict[str, object]:
        plan = self.plan
        arms = sorted(arm.name for arm in plan.arms)
        return {"arms": arms, "looks": list(plan.looks), "margin": plan.margin, "split": plan.split}

    def news(self) -> list[str]:
        """What is another than when this study last ran, and which finished cells count; a sentence each."""
        said = []
        with contextlib.suppress(
            OSError, AttributeError, RecursionError, TypeError, ValueError
        ):  # none yet, or damaged
            earlier = Contents(**json.loads((self.folder / CONTENTS).read_text()))
            if changed := self.contents.difference(earlier):
                said.append(f"the data set is another than when this study last ran: {changed}")
        if aside := self.not_counted():
            said.append(f"{aside}; {len(self.results())} of this plan count")
        for key, (was, is_now) in (self.changed() or {}).items():
            said.append(f"{key} was {was} when the study began and is {is_now} now: the report says so")
        return said

    def seconds_left(self, states: list[State]) -> float | None:
        """Until all cells are finished, as far as finished and running ones tell."""
        an_epoch = [state.result.seconds / state.epochs for state in states if state.result]
        an_epoch += [
            seconds / state.epochs
            for state in states
            if state.word == "running" and state.epochs and (seconds := _elapsed(self.path(state.cell)))
        ]
        if not an_epoch:
            return None
        missing = sum(self.epochs[state.cell.arm.name] - state.epochs for state in states)
        return statistics.median(an_epoch) * missing / max(1, sum(state.word == "running" for state in states))

    def run(self, executor: Executor, say: Callable[[str], None]) -> None:
        """Train every cell that is due, look by look; returns when each is finished or has failed.

        Several may run on one folder: a cell that another process holds is waited for.

        Raises:
            UserError: no image of a split is usable; nothing is trained then.
        """
        self._note_contents(say)
        attempts: Counter[str] = Counter()
        while waiting := deque(cell for cell in self.missing() if cell.key not in attempts):
            if not attempts:
                scan(self.plan, self.folder)
            else:
                arms = ", ".join(dict.fromkeys(cell.arm.name for cell in waiting if cell.arm.role != "baseline"))
                say(f"no word yet on {arms}: going on")
            with concurrent.futures.ThreadPoolExecutor(averages.AT_ONCE) as ahead:
                self._train(waiting, executor, attempts, say, ahead)

    def _train(
        self,
        waiting: deque[Cell],
        executor: Executor,
        attempts: Counter[str],
        say: Callable[[str], None],
        ahead: concurrent.futures.Executor,
    ) -> None:
        """Train cells, and let `ahead` average what the finished ones found, which needs no device."""
        running: dict[concurrent.futures.Future, Cell] = {}
        while waiting or running:
            for _ in range(len(waiting)):
                if len(running) >= executor.slots:
                    break
                cell = waiting.popleft()
                if Result.load(self.path(cell)):  # by another process, meanwhile
                    self._tell(cell, say)
                elif self._taken(cell):
                    waiting.append(cell)
                else:
                    attempts[cell.key] += 1
                    running[self._submit(cell, executor)] = cell
            if not running:  # others hold all that is left
                time.sleep(POLL)
            done, _ = concurrent.futures.wait(running, timeout=POLL, return_when="FIRST_COMPLETED")
            for future in done:
                cell = running.pop(future)
                if self._again(cell, future, attempts, say):
                    waiting.append(cell)
                elif Result.load(self.path(cell)):
                    for kind in KINDS:  # an error is raised again where they are needed
                        ahead.submit(averages.load, self.path(cell), kind, self.plan.task)

    def _submit(self, cell: Cell, executor: Executor) -> concurrent.futures.Future:
        try:
            self.path(cell).mkdir(parents=True, exist_ok=True)
            (self.path(cell) / FAILURE).unlink(missing_ok=True)
            return executor.submit(self.command(cell), self.path(cell) / LOG)
        except OSError as error:
            failed: concurrent.futures.Future = concurrent.futures.Future()
            failed.set_exception(error)
            return failed

    def _again(
        self, cell: Cell, future: concurrent.futures.Future, attempts: Counter[str], say: Callable[[str], None]
    ) -> bool:
        """Whether a cell whose process has ended needs another."""
        if Result.load(self.path(cell)):
            self._tell(cell, say)
            return False
        if isinstance(error := future.exception(), OSError):  # no room for its folder or log, say
            say(f"{cell.arm.name}, seed {cell.pair}: cannot be started: {error}")
            return False
        code = future.result()
        if code == BUSY:  # no attempt: another process is at it
            attempts[cell.key] -= 1
            return True
        folder = self.path(cell)
        reason = f"killed by {_signal(-code)}" if code < 0 else _noted(folder) or _last_words(folder / LOG)
        reason = reason or f"exit code {code}"
        if (free := shutil.disk_usage(self.folder).free) < SCARCE:
            reason += f"; {free / 1e6:.0f} MB of disk are free"
        if free < FULL:
            reason += f" ({os.strerror(errno.ENOSPC)})"
        self._note_failure(cell, reason)
        again = code < 0 and attempts[cell.key] < ATTEMPTS
        say(f"{cell.arm.name}, seed {cell.pair}: {reason}{'; going on' if again else f', see {folder / LOG}'}")
        return again

    def _note_failure(self, cell: Cell, reason: str) -> None:
        try:
            target = self.path(cell) / FAILURE
            write_text(target, json.dumps({"reason": reason}))
        except UserError as error:  # a full disk: nothing can be noted, and the study goes on
            print(error, file=sys.stderr)

    def _note_contents(self, say: Callable[[str], None]) -> None:
        """Say what is another than when this study last ran, and note how things are now."""
        if not self.results():  # nobody has seen anything yet
            write_text(self.folder / BEGUN, json.dumps(self._decisive()))
        for sentence in self.news():
            say(sentence)
        now = {"digest": self.contents.digest, "files": self.contents.files}
        write_text(self.folder / CONTENTS, json.dumps(now))

    def _taken(self, cell: Cell) -> bool:
        if not self.path(cell).is_dir():
            return False
        try:
            with held(self.path(cell)) as free:
                return not free
        except OSError:  # a full disk has no room for a lock, and nobody has one
            return False

    def _state(self, cell: Cell) -> State:
        folder = self.path(cell)
        if result := Result.load(folder):
            return State(cell, "finished", self.epochs[cell.arm.name], result=result)
        epochs = len(rows(folder))
        if self._taken(cell):
            return State(cell, "running", epochs)
        if reason := _noted(folder):
            return State(cell, "failed", epochs, reason)
        return State(cell, "interrupted" if epochs else "waiting", epochs)

    def _tell(self, cell: Cell, say: Callable[[str], None]) -> None:
        states = self.states()
        finished = sum(state.word == "finished" for state in states)
        result, left = Result.load(self.path(cell)), self.seconds_left(states)
        later = f", about {in_words(left)} left" if left else ""
        score = f"{self.plan.metric.name} {result.scores[self.plan.metric.key]:.4f}"
        say(f"[{finished}/{len(states)}] {cell.arm.name}, seed {cell.pair}: {score}{later}")


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
        said = f"cannot read {folder / 'results.csv'}: {error}"
        raise UserError(said, "delete its folder and run the study again") from None


def _elapsed(folder: Path) -> float:
    try:
        return float(rows(folder)[-1]["time"])
    except (IndexError, KeyError, TypeError, ValueError):  # none yet, or one half-written
        return 0.0


def _seen_from(folder: Path, written: dict, beside: Path) -> dict:
    """The same plan with paths as they are seen from another folder; what is no file there is a name of the host's."""

    def seen(name: object) -> object:
        if isinstance(name, dict):
            return {key: seen(value) for key, value in name.items()}
        there = isinstance(name, str) and (beside / name).is_file()
        return os.path.relpath(beside / name, folder) if there else name

    arms, data = written["arms"], host_of(written["model"]).beside(written["data"], beside)
    arms = [seen(arm) for arm in arms] if isinstance(arms, list) else arms
    data = os.path.relpath(data, folder) if Path(data).exists() else data
    return {**written, "model": seen(written["model"]), "data": data, "arms": arms}


def _noted(folder: Path) -> str:
    """Why a cell failed, if that is known."""
    try:
        return str(json.loads((folder / FAILURE).read_text())["reason"])
    except (OSError, ValueError, LookupError, RecursionError, TypeError):
        return ""


def _last_words(log: Path) -> str:
    """What a command said of the user's mistake that ended it."""
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("error: ")]
    return said[-1].removeprefix("error: ") if said else ""


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name}, as the system does when memory runs out" if name == "SIGKILL" else name
