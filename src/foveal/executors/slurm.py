"""Cells as jobs of Slurm."""

import difflib
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, shown
from .base import Executor
from .guard import named, supervise

if TYPE_CHECKING:
    import submitit

AT_ONCE = 32  # jobs in the queue; how many of them run is Slurm's affair
POLL = 1.0  # seconds between looks at a job, whose result is a file
ASK = 60.0  # seconds between questions whether it is in the queue; submitit asks every ten minutes, and only sacct
GPUS = {"gpus_per_node", "gpus_per_task", "gres", "num_gpus"}  # parameters that say how many a job has
SEVERAL = {"nodes", "ntasks_per_node", "array_parallelism"}  # parameters of more than one command
LISTS = {"setup", "teardown", "srun_args"}  # parameters that are lists of lines


class Slurm(Executor):
    """Commands as jobs of Slurm, by submitit.

    Every node must see the same files at the same paths: this folder, the folder of the log, and the Python environment
    with foveal in it. Slurm gives each job its GPUs through CUDA_VISIBLE_DEVICES, where they are numbered from 0.

    A job that Slurm warns, because its time is over or another goes first, goes back into the queue under its number,
    after its time was over up to three times. A command whose job ends in another way is killed, too, and its exit code
    is that of SIGKILL. If this process is killed, jobs go on and finish.

    Args:
        folder: for the scripts of the jobs and what they say, by their numbers; seen from every node.
        parameters: of each job, by submitit's names, which are those of sbatch with `_` for `-`: "time" in minutes must
            be there, "partition", "account", "cpus_per_task", ... can.
        jobs: in the queue at a time.
        gpus: of each command, unless a parameter says how many; 0 means CPU.
        cluster: of submitit; "local" tries the same with processes of this machine.

    Raises:
        UserError: submitit is not installed, there is no Slurm here, or a parameter cannot work.
    """

    def __init__(
        self, folder: Path, parameters: Mapping[str, Any], jobs: int = AT_ONCE, gpus: int = 0, cluster: str = "slurm"
    ):
        if jobs < 1:
            raise UserError(f"jobs={jobs} is too small", "jobs=1 is the least")
        own = {} if GPUS & {*parameters} or not gpus else {"gpus_per_node": gpus}
        self._submitting = _submitting(folder, {**own, **parameters}, cluster)
        super().__init__([named(gpus)] * jobs)

    def _start(self, command: list[str], log: Path) -> "_Job":
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            return _Job(self._submitting.submit(_Command(), command, log, Path.cwd()), log)
        except (FailedJobError, FailedSubmissionError) as error:
            raise OSError(" ".join(str(error).split())) from None


class _Command:
    """What a job runs; submitit puts what has a `checkpoint` back into the queue."""

    def __call__(self, command: list[str], log: Path, folder: Path) -> int | OSError:
        try:
            return supervise(command, log, folder)
        except OSError as error:
            return error

    def checkpoint(self, *arguments: object) -> "submitit.helpers.DelayedSubmission":
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


class _Job:
    """A job of Slurm with the methods of a process."""

    def __init__(self, job: "submitit.Job[int | OSError]", log: Path):
        self._job, self._log, self._over = job, log, threading.Event()

    def wait(self) -> int:
        from submitit.core.utils import UncompletedJobError

        asked, missed = time.monotonic(), 0
        while not self._job.done() and missed < 2:  # what it leaves may come late, by a disk elsewhere
            if self._over.wait(POLL):  # cancelled, which Slurm takes its time to say
                return -signal.SIGTERM
            if time.monotonic() > asked + ASK:
                asked, missed = time.monotonic(), missed + 1 if self._is_lost() else 0
        self._over.set()
        try:
            if missed == 2:
                raise UncompletedJobError
            found = self._job.result()
        except UncompletedJobError:
            with self._log.open("a") as file:
                print(f"job {self._job.job_id} ended: {self._job.state}, see {self._job.paths.stderr}", file=file)
            return -signal.SIGKILL
        if isinstance(found, OSError):
            raise found
        return found

    def _is_lost(self) -> bool:
        """Whether Slurm has it neither in the queue nor at work; it keeps no book of what has ended everywhere."""
        import submitit

        if not isinstance(self._job, submitit.SlurmJob):
            return False
        asking = ["squeue", "--noheader", "--jobs", self._job.job_id]
        told = subprocess.run(asking, capture_output=True, text=True, check=False)
        return "Invalid job id" in told.stderr if told.returncode else not told.stdout.strip()

    def terminate(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self._job.cancel(check=False)

    kill = terminate


def parameters(text: str) -> dict[str, Any]:
    """Those of a job in a text such as "partition=gpu,time=240"; a value goes on to the next name.

    Raises:
        UserError: a part of it has no name.
    """
    found: dict[str, Any] = {}
    for part in filter(None, re.split(r",\s*(?=\w+=)", text)):
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"--slurm: {part!r} is no NAME=VALUE", '--slurm "partition=gpu,time=240"')
        found[name.strip()] = [value] if name in LISTS else int(value) if value.isdecimal() else value
    return found


def _submitting(folder: Path, given: Mapping[str, Any], cluster: str) -> "submitit.AutoExecutor":
    try:
        import submitit
    except ImportError:
        raise UserError("submitit is not installed", "pip install 'foveal[slurm]'") from None

    known = sorted(submitit.SlurmExecutor._valid_parameters() - SEVERAL)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1) or ["partition"]
            raise UserError(f"a job of Slurm has no parameter {name!r}", f"did you mean {near[0]!r}?")
    minutes = given.get("time")
    if type(minutes) is not int or minutes < 1:  # submitit's own default is five minutes
        raise UserError(f"time: {shown(minutes)} is no number of minutes for a job of Slurm", "time=240")
    try:
        executor = submitit.AutoExecutor(folder, cluster)
        prefixed = {f"slurm_{name}": value for name, value in given.items() if name != "time"}
        executor.update_parameters(**{"name": "foveal", "timeout_min": minutes, **prefixed})
    except RuntimeError:
        raise UserError("there is no Slurm here: srun is not found", "run it where sbatch works") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"submitit refuses {shown(dict(given))}: {error}", "partition=gpu,time=240") from None
    return executor
