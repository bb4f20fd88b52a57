"""On a node of a cluster: a command that ends when whoever was asked to run it does, however that came.

When a worker of Ray or a job of Slurm dies, its command must not go on and hold its cell's lock. Between the two stands
a guard, a small process that kills the command when its standard input ends, and the death of the worker ends that
however it came. The signal that Linux can send at a parent's death misses grandchildren, comes when the thread that
forked ends, and is asked for between fork and exec, where a process with threads can lock up. A worker that ends in
good order kills its children first, but not theirs, so the guard must not be its child.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path


def named(gpus: int) -> str:
    """So many GPUs as a device is written, numbered as CUDA_VISIBLE_DEVICES has them; "cpu" for none."""
    return ",".join(map(str, range(gpus))) or "cpu"


def supervise(command: list[str], log: Path, folder: Path) -> int:
    """Run a command in a folder under a guard, with its output appended to a log, and return its exit code."""
    if not shutil.which(command[0]):
        raise FileNotFoundError(f"no program {command[0]} on node {socket.gethostname()}")
    guard = [sys.executable, "-c", "from foveal.executors.guard import _guard; _guard()", *command]
    with (
        log.open("ab") as file,
        subprocess.Popen(guard, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, cwd=folder) as process,
    ):
        assert process.stdout
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
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # by which Slurm warns a job, and with it all of its processes
    print(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=2))
