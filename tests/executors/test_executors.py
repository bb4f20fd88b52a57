"""The ways of running cells: exit codes, slots and devices, and nothing left behind when something dies."""

import concurrent.futures
import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foveal import UserError
from foveal.executors import Local, Ray, Slurm, base, guard, parameters
from foveal.executors import slurm as slurms
from foveal.executors.ray import _room
from helpers import swept, until

EXITS = ["", "import sys; sys.exit(3)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
# Command lines end in "--device DEVICE".
TALK = """
import os, sys
print("out", sys.argv[-2:], repr(sys.stdin.read()), flush=True)
print("err", os.getcwd(), file=sys.stderr)
"""
# As many as the second argument must run at once; says when it ran and where. First argument: a folder for all.
MEET = """
import json, os, pathlib, sys, time
began = time.monotonic()
folder, number = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(folder / f"{os.getpid()}.here").touch()
while len([*folder.glob("*.here")]) < number:
    if time.monotonic() > began + 120:  # a worker of Ray may take long to start on a busy machine
        sys.exit("met nobody")
    time.sleep(0.01)
time.sleep(0.1)
facts = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
facts |= {"device": sys.argv[-1], "began": began, "ended": time.monotonic()}
(folder / f"{os.getpid()}.json").write_text(json.dumps(facts))
"""
PROGRAM = """
import pathlib, signal, sys, time
from foveal import UserError
from foveal.executors import Local, Ray, Slurm, base, guard
"""
# Holds a lock as long as it lives. The second argument is what it does on SIGTERM, or that a child lives with it.
HOLD = """
import fcntl, os, pathlib, signal, sys, time
path, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
if kind == "stay":
    signal.signal(signal.SIGTERM, lambda *_: path.with_suffix(".termed").touch())
if kind == "tidy":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
lock = path.open("a")
fcntl.flock(lock, fcntl.LOCK_EX)
path.with_suffix(".raylet").write_text(os.environ.get("RAY_RAYLET_PID", ""))
if kind == "family":  # which writes nothing more: one of both would empty a file that is being read
    os.fork()
path.with_suffix(".held").touch()
for _ in range(60):  # longer than any test waits, so that nothing outlives one that fails
    time.sleep(1)
"""


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-I", "-c", code, *map(str, arguments)]


def free(path: Path) -> bool:
    """Whether no process holds the lock."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def hold(executor, path: Path, kind: str):
    """The future of a command that holds a lock, once it does."""
    future = executor.submit(python(HOLD, path, kind), path.with_suffix(".log"))
    until(path.with_suffix(".held").exists)
    return future


def meet(executor, folder: Path, rounds: int = 2) -> list[dict]:
    """What commands tell of which a slot each must run at once, several rounds of them."""
    folder.mkdir()
    command = python(MEET, folder, executor.slots)
    futures = [executor.submit(command, folder / "log") for _ in range(rounds * executor.slots)]
    assert [future.result(150) for future in futures] == [0] * len(futures), (folder / "log").read_text()
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def most_at_once(runs: list[dict]) -> int:
    return max(sum(run["began"] <= other["began"] < run["ended"] for run in runs) for other in runs)


@contextlib.contextmanager
def program(code: str, *arguments: object, **options):
    """A process that runs `code` with executors, in a session of its own."""
    command = [sys.executable, "-c", f"{PROGRAM}\n{code}", *map(str, arguments)]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, **options) as process:
        try:
            yield process
        finally:
            process.kill()


class Interruption(Exception):
    pass


# Local ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def local():
    with Local() as executor:
        yield executor


def exit_codes(executor, log: Path) -> list[int]:
    return [executor.submit(python(code), log).result(60) for code in EXITS]


def test_exit_codes(local, tmp_path):
    assert exit_codes(local, tmp_path / "log") == [0, 3, -9]


def test_output_is_appended_to_the_log(local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("log").write_text("before\n")
    assert local.submit(python(TALK), Path("log")).result(60) == 0
    assert Path("log").read_text() == f"before\nout ['--device', 'cpu'] ''\nerr {tmp_path}\n"


def test_commands_stay_in_the_process_group(local, tmp_path):
    local.submit(python("import os; print(os.getpgrp())"), tmp_path / "log").result(60)
    assert int((tmp_path / "log").read_text()) == os.getpgrp()


@pytest.mark.parametrize(
    ("jobs", "devices", "together"),
    [(2, ("cpu",), 1), (1, ("0", "1"), 1), (2, ("0", "1"), 1), (1, ("0", "1", "2", "3"), 2)],
)
def test_slots_are_filled_and_devices_shared_by_no_more_than_jobs(jobs, devices, together, tmp_path):
    with Local(jobs, devices, together) as executor:
        assert executor.slots == jobs * len(devices) // together
        runs = meet(executor, tmp_path / "runs")
    assert most_at_once(runs) == executor.slots
    for device in [",".join(devices[at : at + together]) for at in range(0, len(devices), together)]:
        assert most_at_once([run for run in runs if run["device"] == device]) == jobs


@pytest.mark.parametrize(
    ("devices", "before", "threads"),
    [(("cpu",), None, "3"), (("cpu",) * 5, None, "1"), (("cpu",), "5", "5"), (("0",), None, None)],
)
def test_jobs_on_the_cpu_share_its_cores(devices, before, threads, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(7), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if before:
        monkeypatch.setenv("OMP_NUM_THREADS", before)
    with Local(2, devices) as executor:
        runs = meet(executor, tmp_path / "runs", rounds=1)
    assert {run["OMP_NUM_THREADS"] for run in runs} == {threads}


def failures(executor, folder: Path) -> None:
    for command, log in (["no-such-program"], folder / "log"), (python(""), folder / "none" / "log"):
        with pytest.raises(FileNotFoundError, match=r"no-such-program|none"):
            executor.submit(command, log).result(60)
    assert executor.submit(python(""), folder / "log").result(60) == 0


def test_what_cannot_start_raises_and_gives_its_slot_back(local, tmp_path):
    failures(local, tmp_path)


def test_leaving_by_an_exception_ends_what_runs_and_drops_what_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "PATIENCE", 1.0)
    names = ("tidy", "die", "stay")
    with contextlib.suppress(Interruption), Local(jobs=3) as executor:
        running = [hold(executor, tmp_path / name, name) for name in names]
        waiting = [executor.submit(python(""), tmp_path / "log") for _ in range(3)]
        raise Interruption
    assert [future.result(0) for future in running] == [7, -15, -9]
    assert (tmp_path / "stay.termed").exists()
    assert all(future.cancelled() for future in waiting)
    assert not (tmp_path / "log").exists()
    assert all(free(tmp_path / name) for name in names)


def test_leaving_at_once_leaves_nothing_that_was_about_to_start(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "PATIENCE", 60.0)
    began = time.monotonic()
    with Local(jobs=16) as executor:
        futures = [executor.submit(python("import time; time.sleep(60)"), tmp_path / "log") for _ in range(16)]
    assert all(future.cancelled() or future.result(0) == -15 for future in futures)
    assert time.monotonic() < began + 30


def test_ctrl_c_ends_all_and_a_second_one_at_once(tmp_path):
    code = """
base.PATIENCE = 60
with Local(jobs=2) as executor:
    futures = [executor.submit([*sys.argv[3:], path, "stay"], pathlib.Path(path + ".log")) for path in sys.argv[1:3]]
    futures[0].result()
"""
    ignoring = python("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + HOLD)
    paths = [tmp_path / "one", tmp_path / "two"]
    began = time.monotonic()
    with program(code, *paths, *ignoring) as parent:
        until(lambda: all(path.with_suffix(".held").exists() for path in paths))
        os.killpg(parent.pid, signal.SIGINT)
        until(lambda: all(path.with_suffix(".termed").exists() for path in paths))
        assert not any(map(free, paths))
        os.killpg(parent.pid, signal.SIGINT)
        assert b"KeyboardInterrupt" in parent.communicate(timeout=30)[1]
    assert time.monotonic() < began + 50
    assert all(map(free, paths))


def test_commands_finish_when_the_parent_is_killed(tmp_path):
    code = """
with Local() as executor:
    executor.submit(sys.argv[1:], pathlib.Path("log")).result()
"""
    child = """
import pathlib, sys, time
pathlib.Path("began").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.01)
print("out", flush=True)
print("err", file=sys.stderr, flush=True)
pathlib.Path("finished").touch()
"""
    with program(code, *python(child), cwd=tmp_path) as parent:
        until((tmp_path / "began").exists)
        parent.kill()
        assert parent.wait(30) == -9
        (tmp_path / "go").touch()
        until((tmp_path / "finished").exists)
    assert (tmp_path / "log").read_text() == "out\nerr\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Local(0), "jobs=0 is too small; jobs=1 is the least"),
        (lambda: Local(devices=()), "no device to run on; device cpu is always there"),
        (lambda: Ray(jobs=0), "jobs=0 is too small; jobs=1 is the least"),
        (lambda: Ray(cpus=0), "a cell cannot have cpus=0 and gpus=0; give cpus=1, and gpus=0 or gpus=1"),
        (lambda: Ray(gpus=-1), "a cell cannot have cpus=1 and gpus=-1"),
        (lambda: Ray(gpus=1.5), "a cell cannot have cpus=1 and gpus=1.5"),
        (
            lambda: Local(1, ("0", "1", "2"), 2),
            "device 0,1,2 is 3, which cannot be shared out by 2; device 0,1 is for one command",
        ),
        (lambda: Slurm(Path(), {}, jobs=0), "jobs=0 is too small; jobs=1 is the least"),
        (lambda: slurm({"partitoin": "gpu"}), "a job of Slurm has no parameter 'partitoin'; did you mean 'partition'?"),
        (lambda: slurm({}), "time: None is no number of minutes for a job of Slurm; time=240"),
        (lambda: slurm({"time": "4:00:00"}), "time: '4:00:00' is no number of minutes for a job of Slurm; time=240"),
        (lambda: slurm({"time": 5, "nodes": 2}), "a job of Slurm has no parameter 'nodes'"),
        (lambda: parameters("gpu,time=240"), "--slurm: 'gpu' is no NAME=VALUE; --slurm \"partition=gpu,time=240\""),
    ],
)
def test_mistakes_are_explained(make, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make()


# Under a guard -------------------------------------------------------------------------------------------------------


def test_a_command_under_guard_tells_its_exit_code(tmp_path):
    assert [guard.supervise(python(code), tmp_path / "log", tmp_path) for code in EXITS] == [0, 3, -9]


def test_a_command_under_guard_has_a_process_group_of_its_own(tmp_path):
    # The guard kills its whole group, which must be nobody else's.
    guard.supervise(python("import os; print(os.getpgrp())"), tmp_path / "log", tmp_path)
    assert int((tmp_path / "log").read_text()) != os.getpgrp()


def test_a_guard_kills_the_family_of_its_command_when_the_supervisor_dies(tmp_path):
    path = tmp_path / "lock"
    code = """
guard.supervise(sys.argv[1:], pathlib.Path("log"), pathlib.Path.cwd())
"""
    with program(code, *python(HOLD, path, "family"), cwd=tmp_path) as supervisor:
        until(path.with_suffix(".held").exists)
        assert not free(path)
        supervisor.kill()
    until(lambda: free(path), 10)


def test_a_guard_that_cannot_start_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(guard.sys, "executable", shutil.which("false"))
    with pytest.raises(OSError, match=r"the guard of a command could not start on node .*, see .*log"):
        guard.supervise(["sh"], tmp_path / "log", tmp_path)


# Ray -----------------------------------------------------------------------------------------------------------------


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed; pip install 'foveal\[ray\]'"):
        Ray()


@pytest.mark.parametrize(
    ("node", "gpus", "cpus", "room"),
    [
        ({"CPU": 8.0}, 0, 1, 8),
        ({"CPU": 8.0}, 0, 3, 2),
        ({"CPU": 0.3}, 0, 0.1, 3),
        ({"CPU": 8.0}, 1, 1, 0),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 1, 2),
        ({"CPU": 3.0, "GPU": 2.0}, 0.5, 1, 3),
        ({}, 0, 1, 0),
    ],
)
def test_room_on_a_node(node, gpus, cpus, room):
    assert _room(node, gpus, cpus) == room


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two cores and, in name, two GPUs, and commands without one on it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", functools.partial(ray.init, num_gpus=2))
        executor = Ray(jobs=2)
    with executor:
        yield executor


@pytest.fixture
def address(cluster):
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.mark.slow
def test_ray_exit_codes(cluster, tmp_path):
    assert exit_codes(cluster, tmp_path / "log") == [0, 3, -9]


@pytest.mark.slow
def test_ray_appends_output_to_the_log(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("log").write_text("before\n")
    assert cluster.submit(python(TALK), Path("log")).result(60) == 0
    assert Path("log").read_text() == f"before\nout ['--device', 'cpu'] ''\nerr {tmp_path}\n"


@pytest.mark.slow
def test_ray_fills_its_slots(cluster, tmp_path):
    runs = meet(cluster, tmp_path / "runs")
    assert most_at_once(runs) == cluster.slots == 2
    assert {run["device"] for run in runs} == {"cpu"}


@pytest.mark.slow
def test_ray_raises_what_cannot_start(cluster, tmp_path):
    failures(cluster, tmp_path)


@pytest.mark.slow
def test_ray_worker_that_dies_takes_its_command_along(cluster, tmp_path):
    psutil = pytest.importorskip("psutil", reason="psutil is not installed")
    path = tmp_path / "lock"
    future = hold(cluster, path, "family")
    raylet = psutil.Process(int(path.with_suffix(".raylet").read_text()))

    def busy() -> list:  # a process that has just begun or ended has no command line
        return [child for child in raylet.children() if "".join(child.cmdline()).startswith("ray::supervise")]

    until(lambda: len(busy()) == 1)  # that of the command before may not have noticed yet that it is done
    assert not free(path)
    busy()[0].kill()
    assert future.result(30) == -9
    until(lambda: free(path), 10)
    assert exit_codes(cluster, tmp_path / "log") == [0, 3, -9]


ATTACHED = """
address, path, *command = sys.argv[1:]
with Ray(address, jobs=1) as executor:
    assert executor.slots == 1
    futures = [executor.submit(command, pathlib.Path(path + ".log")) for _ in range(3)]
    while not pathlib.Path(path + ".leave").exists():
        time.sleep(0.01)
assert futures[0].result(0) == -9
assert futures[2].cancelled()
assert not sys.modules["ray"].is_initialized()
"""


@pytest.mark.parametrize("how", ["left", "killed"])
@pytest.mark.slow
def test_ray_ends_commands_when_their_study_ends(how, address, tmp_path):
    path = tmp_path / "lock"
    with program(ATTACHED, address, path, *python(HOLD, path, "family")) as study:
        until(path.with_suffix(".held").exists)
        assert not free(path)
        if how == "killed":
            study.kill()
        else:
            path.with_suffix(".leave").touch()
        said = study.communicate(timeout=30)[1]
        assert study.returncode == (-9 if how == "killed" else 0), said.decode()
    until(lambda: free(path), 20)


@pytest.mark.slow
def test_ray_gives_each_command_a_gpu(address, tmp_path):
    code = """
address, folder, *command = sys.argv[1:]
try:
    Ray(address, gpus=1, cpus=3)
except UserError as error:
    print(error, flush=True)
with Ray(address, gpus=1) as executor:
    futures = [executor.submit(command, pathlib.Path(folder, "log")) for _ in range(4)]
    print(executor.slots, *(future.result() for future in futures))
"""
    command = python(MEET, tmp_path, 2)
    with program(code, address, tmp_path, *command, stdout=subprocess.PIPE, text=True) as study:
        out, err = study.communicate(timeout=300)
    assert out.splitlines() == [
        "no node of the Ray cluster has cpus=3 and gpus=1; ask for less, or add a node to it",
        "2 0 0 0 0",
    ], err
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert {run["device"] for run in runs} == {"0"}
    for gpu in "01":
        assert most_at_once([run for run in runs if run["CUDA_VISIBLE_DEVICES"] == gpu]) == 1
    assert most_at_once(runs) == 2


@pytest.mark.parametrize("wrong", swept(["nonsense", "127.0.0.1:{}", "ray://127.0.0.1:{}"], "127.0.0.1:{}"))
def test_an_address_without_a_cluster_is_refused_soon(wrong):
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as taken:  # bound and not listening: it refuses, and nobody else can take it
        taken.bind(("127.0.0.1", 0))
        began = time.monotonic()
        with pytest.raises(UserError, match=r"cannot join a Ray cluster at .*; give the HOST:PORT that `ray start"):
            Ray(wrong.format(taken.getsockname()[1]))
    assert time.monotonic() < began + 20


# Slurm ---------------------------------------------------------------------------------------------------------------


def slurm(given: dict, **more: object) -> Slurm:
    """An executor that is not to be left behind."""
    return Slurm(Path("jobs"), given, cluster="local", **more)


def test_without_submitit_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"submitit is not installed; pip install 'foveal\[slurm\]'"):
        slurm({"time": 5})


def test_without_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no Slurm here: srun is not found; run it where sbatch works"):
        Slurm(tmp_path, {"time": 5})


def test_parameters_of_a_job_in_a_text():
    text = "partition=gpu,time=240, nodelist=a[1-3],b,gres=gpu:a100:2,setup=module load cuda"
    found = {"partition": "gpu", "time": 240, "nodelist": "a[1-3],b", "gres": "gpu:a100:2"}
    assert parameters(text) == found | {"setup": ["module load cuda"]}
    assert parameters("") == {}


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Jobs as processes of this machine, as submitit has them."""
    pytest.importorskip("submitit", reason="submitit is not installed").core.core.Job._results_timeout_s = 1
    monkeypatch.chdir(tmp_path)
    with slurm({"time": 60}, jobs=2) as executor:
        yield executor


@pytest.mark.slow
def test_slurm_does_with_commands_what_others_do(queue, tmp_path):
    Path("log").write_text("before\n")
    talking, failing, missing = (
        queue.submit(command, Path(log))
        for command, log in [(python(TALK), "log"), (python(EXITS[1]), "other"), (["no-such-program"], "other")]
    )
    assert (talking.result(60), failing.result(60)) == (0, 3)
    assert Path("log").read_text() == f"before\nout ['--device', 'cpu'] ''\nerr {tmp_path}\n"
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        missing.result(60)


def task(executor: Slurm):
    """The process of the last job in which submitit runs what it was given."""
    psutil = pytest.importorskip("psutil", reason="psutil is not installed")
    return psutil.Process(int(executor._started[-1]._job.job_id)).children()[0]


@pytest.mark.slow
def test_a_job_that_dies_takes_its_command_along_and_says_where_to_look(queue, tmp_path):
    path = tmp_path / "lock"
    future = hold(queue, path, "family")
    task(queue).kill()
    assert future.result(30) == -9
    until(lambda: free(path), 10)
    assert re.fullmatch(r"job \d+ ended: FINISHED, see .*/jobs/\d+_0_log.err\n", path.with_suffix(".log").read_text())


@pytest.mark.slow
def test_a_job_that_is_warned_goes_on_under_its_number(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.chdir(tmp_path)
    code = """
import os, pathlib, time
again = pathlib.Path("begun").exists()
pathlib.Path("begun").write_text(str(os.getpid()))
time.sleep(0 if again else 60)
print("again" if again else "to the end", flush=True)
"""
    with slurm({"time": 1}, jobs=1) as executor:  # so short that a warning means that the time is over
        future = executor.submit(python(code), tmp_path / "log")
        until(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text())
        command = int((tmp_path / "begun").read_text())
        os.kill(command, signal.SIGUSR2)  # Slurm warns all processes of a job
        time.sleep(0.5)
        os.kill(command, 0)  # and it is still there
        task(executor).send_signal(signal.SIGUSR2)
        assert future.result(60) == 0
    assert (tmp_path / "log").read_text() == "again\n"


@pytest.mark.slow
def test_leaving_cancels_jobs(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lock"
    with slurm({"time": 60}, jobs=1) as executor:
        future = hold(executor, path, "family")
        waiting = executor.submit(python(""), tmp_path / "log")
        assert not free(path)
    assert future.result(0) == -15
    assert waiting.cancelled()
    until(lambda: free(path), 10)


# The programs of Slurm, as far as submitit calls them: a job is a process, and its state is what a file says.
PROGRAMS = {
    "sbatch": """
if grep -q partition=no "$1"; then echo "sbatch: error: invalid partition specified: no" >&2; exit 1; fi
cp "$1" "$SLURM_FAKE/script"
SLURM_JOB_ID=$$ bash "$1" >/dev/null 2>&1 &
echo "Submitted batch job $$"
""",
    "srun": 'while [ "$1" != -u ]; do last=$1; shift; done; exec "$last" "$@"',
    "sacct": """
echo "JobID|State|NodeList"
while [ $# -gt 0 ]; do [ "$1" = -j ] && echo "$2|$(cat "$SLURM_FAKE/state")|here"; shift; done
""",
    "squeue": 'if [ "$(cat "$SLURM_FAKE/state")" = RUNNING ]; then echo here; fi',
    "scancel": 'echo "$@" >> "$SLURM_FAKE/cancelled"',
}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder with a fake Slurm, on the path."""
    pytest.importorskip("submitit", reason="submitit is not installed").core.core.Job._results_timeout_s = 1
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_FAKE", str(tmp_path))
    (tmp_path / "state").write_text("RUNNING")
    return tmp_path


@pytest.mark.slow
def test_slurm_is_asked_for_what_was_given(fake):
    given = parameters("partition=gpu,time=240,account=x,cpus_per_task=8")
    with Slurm(fake / "jobs", given, jobs=1, gpus=2) as executor:
        assert executor.submit(python(TALK), fake / "log").result(60) == 0
    assert "out ['--device', '0,1']" in (fake / "log").read_text()
    lines = set((fake / "script").read_text().splitlines())
    asked = {"partition=gpu", "time=240", "account=x", "cpus-per-task=8", "gpus-per-node=2", "job-name=foveal"}
    assert {f"#SBATCH --{each}" for each in asked} <= lines
    assert not (fake / "cancelled").exists(), "what has ended is not cancelled"
    with Slurm(fake / "jobs", {**given, "gres": "gpu:a100:2"}, jobs=1, gpus=2) as executor:
        executor.submit(python(TALK), fake / "log").result(60)
    assert "gpus-per-node" not in (fake / "script").read_text()
    assert "#SBATCH --gres=gpu:a100:2" in (fake / "script").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("told", ["", "slurm_load_jobs error: Invalid job id specified", "no controller"])
def test_a_job_of_which_slurm_keeps_no_book_is_missed(told, fake, monkeypatch):
    (fake / "srun").write_text("#!/bin/bash\nsleep 60\n")
    (fake / "sacct").write_text("#!/bin/bash\necho Slurm accounting storage is disabled >&2; exit 1\n")
    monkeypatch.setattr(slurms, "ASK", 0.1)
    monkeypatch.setattr(slurms, "POLL", 0.1)
    with Slurm(fake / "jobs", {"time": 5}, jobs=1) as executor:
        future = executor.submit(python(""), fake / "log")
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(1)
        (fake / "state").write_text("gone")
        if told:
            (fake / "squeue").write_text(f"#!/bin/bash\necho {told} >&2; exit 1\n")
        if told == "no controller":
            with pytest.raises(concurrent.futures.TimeoutError):
                future.result(1)
        else:
            assert future.result(30) == -9


@pytest.mark.slow
def test_a_job_that_slurm_ends_or_refuses_is_told_of(fake):
    (fake / "srun").write_text("#!/bin/bash\nsleep 60\n")
    (fake / "state").write_text("NODE_FAIL")
    with Slurm(fake / "jobs", {"time": 5}, jobs=1) as executor:
        assert executor.submit(python(""), fake / "log").result(60) == -9
    said = rf"job (\d+) ended: NODE_FAIL, see {re.escape(str(fake / 'jobs'))}/\1_0_log.err\n"
    assert re.fullmatch(said, (fake / "log").read_text())
    with pytest.raises(UserError, match=r"submitit refuses \{'setup': 'x', 'time': 5\}: .*; partition=gpu,time=240"):
        Slurm(fake / "jobs", {"time": 5, "setup": "x"})
    with Slurm(fake / "jobs", {"time": 5, "partition": "no"}, jobs=1) as executor:
        with pytest.raises(OSError, match="invalid partition specified: no"):
            executor.submit(python(""), fake / "log").result(60)
    assert not (fake / "cancelled").exists()
    (fake / "state").write_text("RUNNING")
    with Slurm(fake / "jobs", {"time": 5}, jobs=1) as executor:
        future = executor.submit(python(""), fake / "log")
        until(lambda: executor._started)
        job = executor._started[0]._job.job_id
    assert future.result(0) == -15
    assert (fake / "cancelled").read_text() == f"{job}\n", "once"
