"""Studies on drawn images, with results that no training made; and what kills those that train."""

import concurrent.futures
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import forks
from foveal.executors import Local, Ray
from foveal.study import Result, Study
from foveal.study.cell import LOCK, RESULT
from foveal.study.demo import draw_data
from helpers import until

PLAN = {
    "model": "yolo11n.yaml",
    "data": "data/data.yaml",
    "arms": ["ema@neck"],
    "seeds": 2,
    "train": {"epochs": 2, "imgsz": 64, "batch": 4, "nbs": 12, "warmup_epochs": 1, "verbose": False},
}


def prepared(folder: Path, **changes: object) -> Study:
    """A study on drawn images, nothing trained yet; five batches an epoch, and a step after every third."""
    draw_data(folder / "data", train=20, val=6)
    return Study.prepare({**PLAN, **changes}, folder, folder)


def fake(study: Study, cell, **changes: object) -> Result:
    """A result as a finished cell leaves it."""
    scores = {"map": 0.5, "map50": 0.6, "map_last": 0.5, "map50_last": 0.6}
    values = dict(arm=cell.arm.name, pair=cell.pair, seed=cell.seed, scores=scores)
    values |= dict(disagreement=0.0, epochs=2, batch=4, batches=["a", "b"], start={}, finite=True, parameters=1)
    values |= dict(seconds=10.0, peak_bytes=1, resumed=0, device="cpu", data="", versions={}, finished="")
    study.path(cell).mkdir(parents=True, exist_ok=True)
    (study.path(cell) / RESULT).write_text(json.dumps(values | changes))
    return Result.load(study.path(cell))


class Forking(Local):
    """An executor whose commands are copies, where the start of an interpreter would take longest."""

    def _start(self, command: list[str], log: Path) -> forks.Forked | subprocess.Popen:
        with log.open("ab") as file:
            return forks.start(command, None, os.environ, file, file)


class Scripted:
    """An executor that does what the test says instead of training."""

    def __init__(self, script, slots: int = 2):
        self.script, self.slots, self.submitted = script, slots, []

    def submit(self, command: list[str], log: Path) -> concurrent.futures.Future:
        self.submitted.append(command[-1])
        future = concurrent.futures.Future()
        try:
            future.set_result(self.script(command[-1], self.submitted.count(command[-1])))
        except OSError as error:
            future.set_exception(error)
        return future


def values(study: Study) -> dict:
    """All that must not depend on how often a study was killed."""
    own = ("seconds", "peak_bytes", "resumed", "finished")
    return {where: {k: v for k, v in vars(result).items() if k not in own} for where, result in study.results().items()}


def workers(study: Study) -> list[int]:
    """Processes that train a cell of the study, also those whose runner is gone: by their command, or by its lock."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            if "cell" in words and str(study.folder) in words:
                found.add(int(entry.name))
    nodes = {str(lock.stat().st_ino) for lock in study.folder.glob(f"cells/*/{LOCK}")}
    for line in Path("/proc/locks").read_text().splitlines():
        *_, pid, where, _, _ = line.split()
        if where.rpartition(":")[2] in nodes and int(pid) > 0:
            found.add(int(pid))
    return sorted(found)


def progress(study: Study) -> dict[Path, int]:
    """When each state that a cell can go on from, and each result, was written."""
    files = [path for name in ("resume.pt", "result.json") for path in study.folder.glob(f"cells/*/{name}")]
    found = {}
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def kill_a_worker_of_ray(study: Study) -> None:
    """Train a study on a cluster of this machine, whose worker is killed once its cell has a state to go on from."""
    psutil = pytest.importorskip("psutil", reason="psutil is not installed")
    pytest.importorskip("ray", reason="Ray is not installed")
    said = []
    with Ray(jobs=1) as executor, concurrent.futures.ThreadPoolExecutor() as pool:
        loop = pool.submit(study.run, executor, said.append)
        until(lambda: loop.done() or progress(study))
        assert not loop.done(), said
        ours = psutil.Process().children(recursive=True)
        next(one for one in ours if "".join(one.cmdline()).startswith("ray::supervise")).kill()
        loop.result(timeout=300)
    assert any("killed by SIGKILL" in line and "going on" in line for line in said)


@contextlib.contextmanager
def full(disk: Path, left: int) -> Iterator[None]:
    """A small file system with no more than so many bytes left, rounded down to its blocks."""
    filling = disk / "filling"
    found = os.statvfs(disk)
    filling.write_bytes(bytes(max(0, found.f_bavail - left // found.f_frsize) * found.f_frsize))
    yield
    filling.unlink()


def kill_in_a_loop(study: Study, runner: Callable[[Study], subprocess.Popen], rounds: int, longest: float) -> int:
    """Kill what trains a study, in three ways in turn, and let it go on to its end.

    Args:
        study: nothing of it trained yet.
        runner: starts what trains it.
        rounds: how often each way.
        longest: seconds from something that has happened to the next kill, at most.

    Returns:
        How many processes were killed.
    """
    chance, started, kills = random.Random(0), runner(study), 0
    try:
        delay = 0.0  # the first state is lost at once, so that a cell goes on from it
        for way in ["everything", "a worker", "the runner"] * rounds:  # each when something has happened
            if len(study.results()) == len(study.cells):
                break
            before = progress(study)
            until(lambda then=before, process=started: progress(study) != then or process.poll() is not None, 180)
            time.sleep(delay)
            delay = chance.uniform(0, longest)
            doomed = workers(study)[:1] if way == "a worker" else [started.pid]
            for process in [*doomed, *(workers(study) if way == "everything" else [])]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    kills += 1
            if way != "a worker":
                started.wait()
                started = runner(study)
        assert started.wait(600) == 0
    finally:
        for process in [started.pid, *workers(study)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    return kills
