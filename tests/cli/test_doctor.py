"""`foveal doctor`: what is missing is no fault, what is broken is one, and both are said."""

import base64
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foveal import UserError
from foveal.cli import doctor
from foveal.cli.doctor import BROKEN, MISSING, OK, Finding
from foveal.hosts.ultralytics import NEWEST, OLDEST
from foveal.kernels.ema import cpu as ema_cpu
from foveal.kernels.ema import library
from helpers import swept

ROOT = Path(__file__).parents[2]
START = "import sys; sys.argv[:] = ['foveal', 'doctor']\n"
RUN = "\nfrom foveal.cli import main\nmain()"


def in_child(code: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    """`foveal doctor` in a process in which something happened before."""
    return subprocess.run(
        [sys.executable, "-c", START + code + RUN],
        cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def lines(done: subprocess.CompletedProcess, what: str) -> list[str]:
    """States and sentences of one thing."""
    assert "Traceback" not in done.stderr, done.stderr
    return re.findall(rf"^((?:ok|missing|broken) +){what} +(.*)$", done.stdout, re.MULTILINE)


# All of it -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.host
@pytest.mark.seldom
def test_a_whole_examination(tmp_path):
    ultralytics = pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    command = str(Path(sys.executable).with_name("foveal"))
    done = subprocess.run([command, "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    found = [Finding(**each) for each in json.loads(done.stdout)]
    broken = {finding.what for finding in found if finding.state == BROKEN}
    assert done.returncode == bool(broken)
    # The exporter of the oldest asks recent torch for a package that it does not name.
    assert broken <= (set() if ultralytics.__version__ == NEWEST else {"test: export"}), found
    said = {finding.what: finding.said for finding in found}
    assert said["Ultralytics"].startswith(f"Release {ultralytics.__version__} was run, ")
    assert said["test: add"].endswith("499 of 499 tensors kept, outputs differ by 0.")
    assert "3 of 3 attentions" in said["test: train"]
    assert (
        re.search(r"boxes differ by .* pixels", said["test: export"])
        or broken
        or "not installed" in said["test: export"]
    )
    assert all(re.fullmatch(r"[A-Z0-9a-z].*\.", finding.said) for finding in found)
    assert os.listdir(tmp_path) == []


def test_without_ultralytics_it_is_missing_and_nothing_is_broken(tmp_path):
    done = in_child("sys.modules['ultralytics'] = None", tmp_path)
    assert lines(done, "Ultralytics") == [
        ("missing  ", "It cannot be used: Ultralytics is not installed; pip install 'foveal[yolo]'.")
    ]
    assert done.returncode == 0
    assert done.stdout.endswith("\neverything that is installed works\n")
    assert "test: " not in done.stdout


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("__version__ = '8.2.103'", "Ultralytics 8.2.103 is older than foveal can work with; pip install"),
        pytest.param(
            "raise ImportError('libGL.so.1: cannot open shared object file')",
            "ImportError: libGL.so.1: cannot open shared",
            marks=pytest.mark.sweep,
        ),
    ],
)
def test_an_ultralytics_that_cannot_be_used_is_broken(tmp_path, package, said):
    (tmp_path / "ultralytics").mkdir()
    (tmp_path / "ultralytics" / "__init__.py").write_text(package)
    done = in_child("sys.path.insert(0, '.')", tmp_path)
    ((state, sentence),) = lines(done, "Ultralytics")
    assert state.strip() == BROKEN
    assert said in sentence
    assert done.returncode == 1
    assert done.stdout.endswith("\nbroken: Ultralytics\n")


@pytest.mark.host
@pytest.mark.sweep
def test_a_fork_with_another_parser_is_broken(tmp_path):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    done = in_child("from ultralytics.nn import tasks\ntasks.parse_model = lambda cfg, ch=3: None", tmp_path)
    ((state, sentence),) = lines(done, "Ultralytics")
    assert state.strip() == BROKEN
    assert "is not the one foveal knows" in sentence
    assert done.returncode == 1


# Kernels and packages ----------------------------------------------------------------------------------------------


def kernel() -> Finding:
    return next(finding for finding in doctor._kernels() if finding.what == "C++ kernel")


def test_a_kernel_that_was_not_built_is_missing_and_one_that_does_not_load_is_broken(monkeypatch, tmp_path):
    monkeypatch.setattr(ema_cpu, "_LIBRARY", None)
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "libema_cpu.so")
    assert kernel().state == MISSING
    assert "installed without a C++ compiler" in kernel().said
    library.LIBRARY.write_bytes(b"of another machine")
    assert kernel().state == BROKEN
    assert "install foveal again with a C++ compiler" in kernel().said


def test_a_kernel_that_computes_something_else_is_broken(monkeypatch):
    if ema_cpu.why_not(torch.zeros(1)):
        pytest.skip("the kernel is not built")
    assert kernel().state == OK
    true = ema_cpu.forward
    monkeypatch.setattr(ema_cpu, "forward", lambda *given: (lambda y, saved: (y * 1.001, saved))(*true(*given)))
    assert kernel().state == BROKEN
    assert "output is off by" in kernel().said


def test_every_extra_has_a_use():
    extras = re.search(r"optional-dependencies\]\n(.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    named = re.findall(r"^(\w+) = \[", extras, re.MULTILINE)
    assert {*doctor.ENABLES} == {*named} - {"all", "dev"}


def test_packages_of_an_extra_that_are_missing_or_too_old(monkeypatch):
    true = importlib.metadata.version

    def version(name: str) -> str:
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"timm": "0.9.16", "onnx": "1.18rc1"}.get(name) or true(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {finding.what: finding for finding in doctor._extras()}
    assert found["extra study"].state == MISSING
    assert re.search(r"pip install 'foveal\[study\]' adds .*scipy.* for foveal study", found["extra study"].said)
    assert found["extra timm"].state == BROKEN
    assert "timm 0.9.16 is older than 1.0" in found["extra timm"].said
    assert found["extra export"].state != BROKEN


# The host ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (OLDEST, f"Release {OLDEST} was run, "),
        (NEWEST, f"Release {NEWEST} was run, "),
        ("8.4.61", "Release 8.4.61 is in the range that was run, "),
        ("99.0", f"Release 99.0 is newer than {NEWEST}, the newest that was run."),
        (f"{NEWEST}+mine", f"{NEWEST}+mine is no release, so nothing is known of it; "),
        ("main", "main is no release, so nothing is known of it; "),
    ],
)
def test_whether_a_release_was_run(version, said):
    assert doctor._release(version).startswith(said)


def test_steps_that_failed_on_a_release_are_named(monkeypatch):
    steps = [{"step": "predict", "state": "passed", "said": ""}, {"step": "resume", "state": "failed", "said": "no"}]
    monkeypatch.setitem(doctor.RUN, "8.4.61", {"steps": steps})
    assert "2 steps of a model's life, and 1 failed: resume;" in doctor._release("8.4.61")


def test_files_that_were_edited_added_or_deleted_are_named(tmp_path, monkeypatch):
    folder = tmp_path / "somehost"
    contents = {"__init__.py": "", "tasks.py": "a = 1", "block.py": "b = 1"}
    record = []
    for name, text in contents.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record.append(f"somehost/{name},sha256={digest},{len(text)}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert doctor._files(folder) == f"They are read from {folder}, which is no installed release, and may be anything."
    info = tmp_path / "somehost-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somehost\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join([*record, "somehost-1.0.dist-info/RECORD,,"]))
    assert doctor._files(folder) == "All 3 Python files are those of the release."
    (folder / "tasks.py").write_text("a = 2")
    (folder / "ema.py").write_text("")
    (folder / "block.py").unlink()
    said = doctor._files(folder)
    assert said.endswith("another program than was run: somehost/block.py, somehost/ema.py, somehost/tasks.py.")


@pytest.mark.host
def test_what_is_recognised_of_the_host(monkeypatch):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    from ultralytics.nn import tasks

    from foveal.hosts import ultralytics as host

    found = {}
    for finding in doctor._host():
        found.setdefault(finding.what, []).append(finding)
    assert [finding.state for finding in found["its parser"]] == [OK]
    trained = {finding.said.split()[0]: finding for finding in found["its tasks"]}
    assert {"YOLO", "RTDETR"} <= trained.keys()
    for cls in (host.YOLO, host.RTDETR):
        assert all(task in trained[cls.__name__].said for task in cls.__new__(cls).task_map) or (
            trained[cls.__name__].state == MISSING
        )
    assert len(found["FLOPs"]) == len(found["AP"]) == 1

    class CBAM(torch.nn.Module):
        pass

    monkeypatch.setattr(tasks, "CBAM", CBAM, raising=False)
    monkeypatch.setattr(tasks, "parse_model", inspect.unwrap(tasks.parse_model))
    found = {(finding.what, finding.state): finding.said for finding in doctor._host()}
    assert ("its parser", BROKEN) in found
    assert found["names", OK].startswith(f"A row named CBAM builds {__name__}.")
    assert found["names", OK].endswith("; ours is named foveal.cbam.")


def test_without_onnx_its_export_is_missing_and_nothing_is_broken(monkeypatch, tmp_path):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    true = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else true(name))
    state, said = doctor._export(tmp_path)
    assert state == MISSING
    assert said == "onnxruntime not installed, so no ONNX file is written: pip install 'foveal[export]'"


FAULTS = [dict(difference=1e-6), dict(tensors=(498, 499)), UserError("a b", "c"), KeyError("x")]


@pytest.mark.parametrize("fault", swept(FAULTS, *map(str, FAULTS[1:3])))
def test_the_self_test_stops_at_what_is_broken(monkeypatch, fault):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    from foveal.hosts.ultralytics import adding

    true = adding.add

    def add(*given, **named):
        if isinstance(fault, Exception):
            raise fault
        return dataclasses.replace(true(*given, **named), **fault)

    monkeypatch.setattr(adding, "add", add)
    (finding,) = doctor._self_test()
    assert (finding.what, finding.state) == ("test: add", BROKEN)
    if isinstance(fault, Exception):
        assert finding.said == {UserError: "a b; c.", KeyError: "KeyError: 'x'."}[type(fault)]
