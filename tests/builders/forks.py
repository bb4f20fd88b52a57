"""Fresh interpreters in a moment: copies of a process that has imported torch and Ultralytics, and nothing of foveal.

An import of torch takes four seconds of a core, which is most of what a command does that a test asks for, and what a
training imports later takes four more. Whoever tests what is imported, or what the environment decides at an import,
starts a process of its own instead.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ADDRESS = "FOVEAL_TESTS_FORKS"  # of the process that is copied, for those who inherit the environment
LATER = ("torch._dynamo", "torchvision", "polars", "scipy.stats")  # which most of them import on their way


class Forked:
    """A running copy, with as much of `subprocess.Popen` as tests need.

    Args:
        command: of Python: `-c CODE`, `-m MODULE` or the file of a script, and arguments.
        cwd: where.
        env: the whole environment.
        stdout: an open file.
        stderr: another, or the same.
    """

    def __init__(self, command: Sequence[str], cwd: Path | str | None, env: Mapping[str, str], stdout: IO, stderr: IO):
        self._door = socket.socket(socket.AF_UNIX)
        self._door.connect(os.environ.get(ADDRESS) or _address())
        asked = json.dumps({"command": [*map(str, command)], "cwd": str(cwd or Path.cwd()), "env": {**env}}).encode()
        socket.send_fds(self._door, [len(asked).to_bytes(4, "big")], [stdout.fileno(), stderr.fileno()])
        self._door.sendall(asked)
        self.pid = self._number()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        with contextlib.suppress(TimeoutError):
            return self.wait(0.01)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended; negative for a signal."""
        if self.returncode is None:
            self._door.settimeout(timeout)
            self.returncode = self._number()
        return self.returncode

    def _number(self) -> int:
        found = self._door.recv(4, socket.MSG_WAITALL)
        assert len(found) == 4, "whoever waits for the copy is gone"  # nothing would read as 0, which is success
        return int.from_bytes(found, "big", signed=True)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def start(
    command: Sequence[str], cwd: Path | str | None, env: Mapping[str, str], stdout: IO, stderr: IO
) -> "Forked | subprocess.Popen":
    """A running copy; where the system cannot copy processes, an interpreter of its own."""
    if hasattr(os, "fork"):
        return Forked(command, cwd, env, stdout, stderr)
    return subprocess.Popen(command, cwd=cwd, env={**env}, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)


def run(command: Sequence[str], cwd: Path | str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Python to its end, as `subprocess.run` does."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = start(command, cwd, {**os.environ, **env}, out, err).wait(300)
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


@functools.cache
def _address() -> str:
    """Start the process that is copied."""
    address = str(Path(tempfile.mkdtemp(prefix="foveal-forks-")) / "door")
    started = subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE)
    assert b"ready\n" in iter(started.stdout.readline, b"")  # the host may say something before
    return address


# The process that is copied ------------------------------------------------------------------------------------------


def serve(address: str) -> None:
    """Copy this process for everyone who asks, as long as the one lives that started it."""
    parent = os.getppid()
    sys.path.pop(0)  # the folder of this file, which an interpreter of theirs would not know
    for name in ("torch", "ultralytics.models.yolo", *LATER):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    os.environ[ADDRESS] = address
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for the copies
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen(64)
        door.settimeout(1)
        os.write(1, b"ready\n")
        while os.getppid() == parent:  # the workers of a test run are killed
            with contextlib.suppress(TimeoutError):
                asked, _ = door.accept()
                with asked:
                    if not os.fork():
                        try:
                            door.close()
                            _keep(asked)
                        finally:  # whatever goes wrong, this is no second server
                            os._exit(1)
    shutil.rmtree(Path(address).parent, ignore_errors=True)


def _keep(asked: socket.socket) -> None:
    """Start a copy, tell who it is, wait for it, tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, *_ = socket.recv_fds(asked, 4, 2)
    size, text = int.from_bytes(length, "big"), b""
    while len(text) < size:
        part = asked.recv(size - len(text))
        assert part, "who asked is gone"
        text += part
    pid = os.fork()
    if not pid:
        asked.close()
        _become(files, **json.loads(text))
    for file in files:
        os.close(file)
    asked.sendall(pid.to_bytes(4, "big", signed=True))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):  # who asked may be gone
        asked.sendall(code.to_bytes(4, "big", signed=True))
    os._exit(0)


def _become(files: Sequence[int], command: list[str], cwd: str, env: dict[str, str]) -> None:
    """Run a command in this process, and end with it."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in zip((nothing, *files), (0, 1, 2), strict=True):
        os.dup2(source, target)
        os.close(source)
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    code = 0
    try:
        _execute(command)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 255)


def _execute(command: list[str]) -> None:
    # In place, because the host keeps a reference to the list of arguments.
    kind, *arguments = command[1:] if Path(command[0]).name.startswith("python") else command
    if kind == "-c":
        sys.argv[:], main = ["-c", *arguments[1:]], types.ModuleType("__main__")
        sys.path.insert(0, "")
        sys.modules["__main__"] = main
        exec(compile(arguments[0], "<string>", "exec"), vars(main))
    elif kind == "-m":
        sys.argv[:] = arguments
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = [kind, *arguments]
        sys.path.insert(0, str(Path(kind).resolve().parent))
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
