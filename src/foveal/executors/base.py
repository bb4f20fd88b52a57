"""What every executor does: it runs commands in slots, and ends those that still run when it is left."""

import queue
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

PATIENCE = 5.0  # seconds that a command is given to end before it is killed


class Started(Protocol):
    """The part of `subprocess.Popen` that an executor uses."""

    def wait(self) -> int:
        """Wait until it has ended, and return its exit code."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


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
        self._started: list[Started] = []
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

    def __enter__(self) -> "Executor":
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
    def _start(self, command: list[str], log: Path) -> Started: ...

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
