"""Cells as processes of this machine."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .base import Executor


class Local(Executor):
    """Commands as processes of this machine.

    They stay in the process group of this process, so Ctrl-C in a terminal reaches them, but they need nothing of it:
    if it is killed they go on and finish.

    Args:
        jobs: commands at a time on each device.
        devices: such as "cpu", or "0" and "1" for two GPUs.
        together: devices of each command, which it gets as one argument, such as "0,1".

    Raises:
        UserError: no job or no device, or devices that are left over.
    """

    def __init__(self, jobs: int = 1, devices: Sequence[str] = ("cpu",), together: int = 1):
        if jobs < 1:
            raise UserError(f"jobs={jobs} is too small", "jobs=1 is the least")
        if not devices:
            raise UserError("no device to run on", "device cpu is always there")
        if len(devices) % together:
            said = f"device {','.join(devices)} is {len(devices)}, which cannot be shared out by {together}"
            raise UserError(said, f"device {','.join(map(str, range(together)))} is for one command")
        super().__init__([",".join(devices[at : at + together]) for at in range(0, len(devices), together)] * jobs)

    def _start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if command[-1] == "cpu":
            # Each would take all cores, and threads that wait for each other take most of the time.
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // self.slots)))
        with log.open("ab") as file:  # a file, because a pipe would end with this process
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
