"""One training on several devices: a process for each of them, and all of them end together.

The host has a launcher of its own. It deletes the folder of the run before it starts them, and a cell keeps its lock,
its log and the model that it starts from there; it tells nobody which of them was killed; and where it is killed itself
they go on, while the next process takes the cell. The trainer, its data parallelism and what it evaluates are the
host's.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import Any

from ...errors import UserError

POLL = 0.1  # seconds between looks at the processes
Running = tuple[SpawnProcess, connection.Connection]  # a process, and where it tells what it raised


def train(trainer: type, arguments: Mapping[str, Any], port: int, count: int) -> None:
    """Train in so many processes, each on the device of its number, and wait for them.

    Where one is killed, the others and this process end by the same signal.

    Args:
        trainer: a class that can be imported by its name, and has `train`.
        arguments: what it is made with.
        port: of this machine that is free, where they meet.
        count: of devices.

    Raises:
        UserError: one of them raised it.
        RuntimeError: one of them failed in another way.
    """
    context = multiprocessing.get_context("spawn")  # the host reads its number when it is imported
    running = []
    try:
        for number in range(count):
            told, tell = context.Pipe(duplex=False)
            place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}
            process = context.Process(
                target=_rank, args=((trainer.__module__, trainer.__name__), dict(arguments), place, tell)
            )
            process.start()
            tell.close()
            running.append((process, told))
        failed = _first_failure(running)
    finally:
        for process, _ in running:
            assert process.pid  # it was started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what loads its images
            process.kill()  # if it has no group of its own yet
            process.join()
    if failed:
        _fail_like(*failed)


def _first_failure(running: Sequence[Running]) -> Running | None:
    """The first of them that fails; None once all have ended well."""
    while True:
        codes = [process.exitcode for process, _ in running]  # a sentinel would wait for what loads images, too
        for each, code in zip(running, codes, strict=True):
            if code:
                return each
        if not any(code is None for code in codes):
            return None
        time.sleep(POLL)


def _fail_like(process: SpawnProcess, told: connection.Connection) -> None:
    code = process.exitcode or 0
    if code < 0:
        os.kill(os.getpid(), -code)
    try:
        error = told.recv()
    except EOFError:  # it ended without a word
        raise RuntimeError(f"a process of the training ended with exit code {code}") from None
    raise UserError(*error) if len(error) > 1 else RuntimeError(*error)


def _rank(
    named: tuple[str, str], arguments: dict[str, Any], place: dict[str, int], tell: connection.Connection
) -> None:
    """One of the processes."""
    os.setsid()
    parent = multiprocessing.parent_process()
    assert parent

    def end_with_it() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_it, daemon=True).start()
    os.environ |= {key: str(value) for key, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torch's own launcher has it: each would take all cores
    try:
        getattr(importlib.import_module(named[0]), named[1])(**arguments).train()
    except Exception as error:
        tell.send(
            (error.message, error.hint) if isinstance(error, UserError) else (f"{type(error).__name__}: {error}",)
        )
        raise
