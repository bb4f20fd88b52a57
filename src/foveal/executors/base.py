"""Ways of running a study's cells: processes of this machine, or tasks of a Ray cluster."""

import math
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from ..errors import UserError

PATIENCE = 5.0  # seconds that a command is given to end before it is killed

OBJECT_STORE = 80 * 2**20  # bytes; about the least that Ray accepts, and exit codes need next to nothing


class _Started(Protocol):
    """The part of `subprocess.Popen` that an executor uses."""

    def wait(self) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Executor(ABC):
    """Runs commands, at most `slots` at a time and the others in the order submitted.

    Leaving its context ends the commands that still run and drops those that wait, so wait for the futures first.

    Attributes:
        slots: how many commands can run at once.
    """

    def __init__(self, devices: Iterable[str]):
        self._devices: queue.SimpleQueue[str] = queue.SimpleQueue()
        for device in devices:
            self._devices.put(device)
        self.slots = self._devices.qsize()
        self._pool = ThreadPoolExecutor(self.slots)
        self._started: list[_Started] = []
        self._starting = threading.Lock()
        self._left = False

    def submit(self, command: Sequence[str], log: Path) -> Future[int]:
        """Run a command, `--device` and a device of its own appended, when there is a slot.

        Args:
            command: program and arguments.
            log: file in an existing folder, to which standard output and standard error are appended.

        Returns:
            The exit code, negative for the signal that ended the command. Of a command that cannot be started it is an
            OSError instead.
        """
        return self._pool.submit(self._run, command, log.absolute())

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        killer = threading.Timer(PATIENCE, self._kill)
        try:
            with self._starting:
                self._left = True
            for command in self._started:
                command.terminate()
            killer.start()
            self._pool.shutdown()
        finally:  # also where a second Ctrl-C cuts the patience short
            killer.cancel()
            self._kill()

    @abstractmethod
    def _start(self, command: list[str], log: Path) -> _Started: ...

    def _run(self, command: Sequence[str], log: Path) -> int:
        device = self._devices.get()
        try:
            with self._starting:  # either it is among those that leaving ends, or it does not start
                if self._left:
                    return -signal.SIGTERM
                started = self._start([*command, "--device", device], log)
                self._started.append(started)
            return started.wait()
        finally:
            self._devices.put(device)

    def _kill(self) -> None:
        for command in self._started:
            command.kill()


class Local(Executor):
    """Commands as processes of this machine.

    They stay in the process group of this process, so Ctrl-C in a terminal reaches them, but they need nothing of it:
    if it is killed they go on and finish.

    Args:
        jobs: commands at a time on each device.
        devices: such as "cpu", or "0" and "1" for two GPUs.

    Raises:
        UserError: no job or no device.
    """

    def __init__(self, jobs: int = 1, devices: Sequence[str] = ("cpu",)):
        if jobs < 1:
            raise UserError(f"jobs={jobs} is too small", "jobs=1 is the least")
        if not devices:
            raise UserError("no device to run on", "device cpu is always there")
        super().__init__([*devices] * jobs)

    def _start(self, command: list[str], log: Path) -> subprocess.Popen:
        environment = dict(os.environ)
        if command[-1] == "cpu":
            # Each would take all cores, and threads that wait for each other take most of the time.
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // self.slots)))
        with log.open("ab") as file:  # a file, because a pipe would end with this process
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment
            )


class Ray(Executor):
    """Commands as tasks of a Ray cluster, each a process on the node that Ray chooses.

    Every node must see the same files at the same paths: this folder, the folder of the log, and the Python environment
    with foveal in it. Ray gives each command its GPU through CUDA_VISIBLE_DEVICES, where it is device 0.

    A command whose worker or node dies is killed, too, and its exit code is that of SIGKILL. Ray tries nothing again.

    Args:
        address: "HOST:PORT" of a cluster, "auto" for the one that runs on this machine, or None to start one on this
            machine that ends with this executor.
        jobs: commands at a time; by default as many as the cluster's nodes have room for.
        gpus: GPUs of each command, from 0, which means CPU, to 1; a fraction shares one.
        cpus: cores of each command.

    Raises:
        UserError: Ray is not installed, no cluster answers at the address, or a command fits none of its nodes.
    """

    def __init__(self, address: str | None = None, jobs: int | None = None, gpus: float = 0, cpus: float = 1):
        if jobs is not None and jobs < 1:
            raise UserError(f"jobs={jobs} is too small", "jobs=1 is the least")
        if cpus <= 0 or not 0 <= gpus <= 1:
            raise UserError(f"a cell cannot have cpus={cpus} and gpus={gpus}", "give cpus=1, and gpus=0 or gpus=1")
        _connect(address, jobs and math.ceil(jobs * cpus))
        import ray

        room = sum(_room(node["Resources"], gpus, cpus) for node in ray.nodes() if node["Alive"])
        if not room:  # Ray would wait for such a node for ever
            ray.shutdown()
            raise UserError(
                f"no node of the Ray cluster has cpus={cpus} and gpus={gpus}", "ask for less, or add a node to it"
            )
        super().__init__(["0" if gpus else "cpu"] * (jobs or room))
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_supervise)

    def __exit__(self, *exception: object) -> None:
        import ray

        try:
            super().__exit__(*exception)
        finally:
            ray.shutdown()

    def _start(self, command: list[str], log: Path) -> "_Task":
        return _Task(self._task.remote(command, log, Path.cwd()))


class _Task:
    """A task of Ray with the methods of a process."""

    def __init__(self, result: object):
        self._result = result

    def wait(self) -> int:
        import ray
        from ray import exceptions

        try:
            return ray.get(self._result)
        except (
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.LocalRayletDiedError,
            exceptions.OutOfMemoryError,
            exceptions.TaskCancelledError,
        ):
            return -signal.SIGKILL

    def terminate(self) -> None:
        import ray

        ray.cancel(self._result, force=True)  # ends the worker; without force Ray waits for the command

    kill = terminate


def _connect(address: str | None, cores: int | None) -> None:
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed", "pip install 'foveal[ray]'") from None

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
        return
    try:
        if address != "auto":  # Ray itself looks for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        ray.init(address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot join a Ray cluster at {address!r}: {error}", "give the HOST:PORT that `ray start --head` printed"
        ) from None


def _room(node: dict[str, float], gpus: float, cpus: float) -> int:
    """How many commands a node with these resources has room for."""
    shares = [node.get("CPU", 0) / cpus] + ([node.get("GPU", 0) / gpus] if gpus else [])
    return math.floor(min(shares) + 1e-6)


# On the node ---------------------------------------------------------------------------------------------------------
#
# When a worker of Ray dies, the command must not go on and hold its cell's lock. Between the two stands a guard, a
# small process that kills the command when its standard input ends, and the death of the worker ends that however it
# came. The signal that Linux can send at a parent's death misses grandchildren, comes when the thread that forked ends,
# and is asked for between fork and exec, where a process with threads can lock up. A worker that ends in good order
# kills its children first, but not theirs, so the guard must not be its child.


def _supervise(command: list[str], log: Path, folder: Path) -> int:
    """Run a command under a guard and return its exit code; the task of Ray."""
    if not shutil.which(command[0]):
        raise FileNotFoundError(f"no program {command[0]} on node {socket.gethostname()}")
    guard = [sys.executable, "-c", "from foveal.executors import base; base._guard()", *command]
    with (
        log.open("ab") as file,
        subprocess.Popen(guard, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, cwd=folder) as process,
    ):
        code = process.stdout.read()
    if process.returncode:
        raise OSError(f"the guard of a command could not start on node {socket.gethostname()}, see {log}")
    return int(code or -signal.SIGKILL)


def _guard() -> None:
    """Run the command in `sys.argv` and print its exit code; kill it when standard input ends."""
    if os.fork():
        os._exit(0)
    os.setsid()

    def watch() -> None:
        os.read(0, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    print(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=2))
