"""Cells as tasks of a Ray cluster."""

import functools
import logging
import math
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .base import Executor
from .guard import named, supervise

if TYPE_CHECKING:
    import ray

OBJECT_STORE = 80 * 2**20  # bytes; about the least that Ray accepts, and exit codes need next to nothing


class Ray(Executor):
    """Commands as tasks of a Ray cluster, each a process on the node that Ray chooses.

    Every node must see the same files at the same paths: this folder, the folder of the log, and the Python environment
    with foveal in it. Ray gives each command its GPUs through CUDA_VISIBLE_DEVICES, where they are numbered from 0.

    A command whose worker or node dies is killed, too, and its exit code is that of SIGKILL. Ray tries nothing again.

    Args:
        address: "HOST:PORT" of a cluster, "auto" for the one that runs on this machine, or None to start one on this
            machine that ends with this executor.
        jobs: commands at a time; by default as many as the cluster's nodes have room for.
        gpus: GPUs of each command; 0 means CPU, and a fraction shares one.
        cpus: cores of each command.

    Raises:
        UserError: Ray is not installed, no cluster answers at the address, or a command fits none of its nodes.
    """

    def __init__(self, address: str | None = None, jobs: int | None = None, gpus: float = 0, cpus: float = 1):
        if jobs is not None and jobs < 1:
            raise UserError(f"jobs={jobs} is too small", "jobs=1 is the least")
        if cpus <= 0 or gpus < 0 or (gpus > 1 and gpus % 1):
            raise UserError(f"a cell cannot have cpus={cpus} and gpus={gpus}", "give cpus=1, and gpus=0 or gpus=1")
        _connect(address, jobs and math.ceil(jobs * cpus))
        import ray

        nodes: list[dict[str, Any]] = ray.nodes()
        room = sum(_room(node["Resources"], gpus, cpus) for node in nodes if node["Alive"])
        if not room:  # Ray would wait for such a node for ever
            ray.shutdown()
            raise UserError(
                f"no node of the Ray cluster has cpus={cpus} and gpus={gpus}", "ask for less, or add a node to it"
            )
        super().__init__([named(math.ceil(gpus))] * (jobs or room))
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(supervise)

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

    def __init__(self, result: "ray.ObjectRef[int]"):
        self._result = result

    def wait(self) -> int:
        import ray
        from ray import exceptions

        try:
            code: int = ray.get(self._result)
        except (
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.LocalRayletDiedError,
            exceptions.OutOfMemoryError,
            exceptions.TaskCancelledError,
        ):
            return -signal.SIGKILL
        return code

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
    quietly = functools.partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    if address is None:
        quietly("local", num_cpus=cores, include_dashboard=False, object_store_memory=OBJECT_STORE)
        return
    try:
        if address != "auto":  # Ray itself looks for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        quietly(address)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot join a Ray cluster at {address!r}: {error}", "give the HOST:PORT that `ray start --head` printed"
        ) from None


def _room(node: dict[str, float], gpus: float, cpus: float) -> int:
    """How many commands a node with these resources has room for."""
    shares = [node.get("CPU", 0) / cpus] + ([node.get("GPU", 0) / gpus] if gpus else [])
    return math.floor(min(shares) + 1e-6)
