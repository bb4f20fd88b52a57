"""The loop that trains what is missing of a study, look by look, whatever is killed meanwhile."""

import concurrent.futures
import errno
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..evidence import averages
from ..executors import Executor
from ..files import named, write_text
from ..hosts import Contents, contents, host_of
from . import arms as arm_names
from .cell import BUSY, DATA, FAILURE, LOG, PLAN, WEIGHTS, Result, scan
from .folder import BEGUN, CONTENTS, Status, StudyFolder, in_words, noted
from .plan import Cell, Plan, load
from .slices import Slices

ATTEMPTS = 3  # of a cell whose process is killed; one that raises waits for the next `run`
SCARCE = 100e6  # bytes of disk; less is worth a word where something failed
FULL = 1e6  # bytes of disk; with less, the last words of a process, in a log on the same disk, may be cut off
POLL = 2.0  # seconds between looks at cells that another process holds


class Study(StudyFolder):
    """A study in its folder, to be trained.

    Args:
        folder: holds `plan.yaml`, see `prepare`.

    Raises:
        UserError: no plan there, or one that cannot work now.
    """

    def _contents(self) -> Contents:
        """What the data holds now; digests are kept in the folder."""
        return contents(self.plan.dataset, self.folder / DATA)

    @classmethod
    def prepare(cls, written: Mapping[str, Any], beside: str | PathLike[str], folder: str | PathLike[str]) -> "Study":
        """Check a plan and write it into a study's folder, new or not.

        Args:
            written: the plan's keys.
            beside: the folder from which its paths are meant.
            folder: of the study.
        """
        written = {key: str(value) if isinstance(value, PathLike) else value for key, value in written.items()}
        beside, folder = named(beside, "a folder"), named(folder, "a folder")
        plan = Plan.of(written, beside, download=True)
        # What the host knows by name is downloaded here, so that its content is known from now on.
        for model in arm_names.models(plan.arms, plan.host, plan.settings):
            if (task := plan.host.made_for(model, plan.dataset)) != plan.task.name:
                said = f"{model} is a model for the task {task!r}, and a study of {plan.data} is for {plan.task.name!r}"
                raise UserError(said, "a folder with train and val is for classifiers, a data file for all others")
        arm_names.starts(plan.arms, plan.host)  # which refuses weights that fit nothing
        Slices.of(plan)  # or what is wrong with them would be said after the last training
        folder.mkdir(parents=True, exist_ok=True)
        moved = _seen_from(folder, dict(written), beside)
        if not (folder / PLAN).is_file() or load(folder / PLAN) != moved:  # else comments would be lost
            text = yaml.safe_dump(moved, sort_keys=False, allow_unicode=True)
            write_text(folder / PLAN, text)
        return cls(folder)

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
                if result := Result.load(self.path(cell)):  # by another process, meanwhile
                    self._tell(cell, result, say)
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
                    ahead.submit(self._average, cell)  # an error is raised again where they are needed

    def _average(self, cell: Cell) -> None:
        """Compute what a report averages of a finished cell, which keeps it."""
        folder, task = self.path(cell), self.plan.task
        for kind in WEIGHTS:
            averages.load(folder, kind, task)
        averages.costs_of_errors(folder, task)
        if self.slices:
            averages.within(folder, self.slices.members, task)

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
        if result := Result.load(self.path(cell)):
            self._tell(cell, result, say)
            return False
        if isinstance(error := future.exception(), OSError):  # no room for its folder or log, say
            say(f"{cell.arm.name}, seed {cell.pair}: cannot be started: {error}")
            return False
        code = future.result()
        if code == BUSY:  # no attempt: another process is at it
            attempts[cell.key] -= 1
            return True
        folder = self.path(cell)
        reason = f"killed by {_signal(-code)}" if code < 0 else noted(folder) or _last_words(folder / LOG)
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

    def _tell(self, cell: Cell, result: Result, say: Callable[[str], None]) -> None:
        states = self.states()
        finished = sum(state.status is Status.FINISHED for state in states)
        left = self.seconds_left(states)
        later = f", about {in_words(left)} left" if left else ""
        score = f"{self.plan.metric.name} {result.scores[self.plan.metric.key]:.4f}"
        say(f"[{finished}/{len(states)}] {cell.arm.name}, seed {cell.pair}: {score}{later}")


def _seen_from(folder: Path, written: dict[str, Any], beside: Path) -> dict[str, Any]:
    """The same plan with paths as they are seen from another folder; what is no file there is a name of the host's."""

    def seen(name: object) -> object:
        if isinstance(name, dict):
            return {key: seen(value) for key, value in name.items()}
        for suffix in (".py", ".csv"):  # of somebody else's attention, and of a table of groups
            file, colon, rest = name.partition(f"{suffix}:") if isinstance(name, str) else ("", "", "")
            if colon and (beside / f"{file}{suffix}").is_file():
                return f"{os.path.relpath(beside / f'{file}{suffix}', folder)}:{rest}"
        if isinstance(name, str) and (beside / name).is_file():
            return os.path.relpath(beside / name, folder)
        return name

    arms, data = written["arms"], host_of(written["model"]).beside(written["data"], beside)
    arms = arm_names.split(arms) if isinstance(arms, str) and ".py:" in arms else arms
    arms = [seen(arm) for arm in arms] if isinstance(arms, list) else arms
    data = os.path.relpath(data, folder) if Path(data).exists() else data
    train = {"train": seen(written["train"])} if isinstance(written.get("train"), dict) else {}
    tables = {key: seen(written[key]) for key in ("slices", "folds") if written.get(key)}
    return {**written, "model": seen(written["model"]), "data": data, "arms": arms, **train, **tables}


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
