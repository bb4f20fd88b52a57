"""The commands as a shell sees them: what they print where, and their exit codes."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import forks
from foveal import ATTENTIONS, __version__
from foveal.cli import app, printing
from helpers import GOLDEN, last_json

FOVEAL = str(Path(sys.executable).with_name("foveal"))


def foveal(*arguments: str, cwd=None) -> subprocess.CompletedProcess:
    return forks.run([FOVEAL, *arguments], cwd, COLUMNS="100")


def from_nothing(*arguments: str, cwd=None, **env: str) -> subprocess.CompletedProcess:
    """The same in a process that has imported nothing."""
    return subprocess.run(
        [FOVEAL, *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **env},
        capture_output=True,
        text=True,
        check=False,
    )


STUDY = ["study", *(f"study {verb}" for verb in ("run", "status", "cells", "cell", "report"))]


OTHERS = "list show add bench check sources audit judge demo doctor".split()


@pytest.mark.parametrize("command", ["", *OTHERS, *STUDY])
def test_help_is_frozen(command):
    # Commands and flags are promises: adding one is a decision that shows in this file's diff.
    done = foveal(*command.split(), "--help")
    golden = GOLDEN / "help" / f"{command.replace(' ', '-') or 'foveal'}.txt"
    if os.environ.get("GOLDEN") == "update":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(done.stdout)
    assert (done.returncode, done.stdout) == (0, golden.read_text())


def test_the_release_is_told():
    done = foveal("--version")
    assert (done.returncode, done.stdout) == (0, f"foveal {__version__}\n")


def test_help_is_instant():
    times = []
    for _ in range(5):
        began = core_seconds()
        from_nothing("--help")
        times.append(core_seconds() - began)
    assert min(times) < 0.5


def core_seconds() -> float:
    """Of children that have ended, because a busy machine is no failure; Windows does not count them."""
    return time.perf_counter() if sys.platform == "win32" else sum(os.times()[2:4])


def test_list_and_show():
    listed = {entry["name"]: entry for entry in json.loads(foveal("list", "--json").stdout)}
    assert [*listed] == [*ATTENTIONS]
    assert (listed["ema"]["parameters"], listed["ema"]["flops_reference"]) == (672, 60_948_480)
    assert listed["ema"]["places"] == ["backbone.P4", "backbone.P5"]
    assert (listed["ema"]["forms"], listed["eca"]["forms"]) == (["reference", "fast", "kernel"], ["reference"])
    assert (listed["lsk"]["licence"], listed["coord"]["licence"]) == ("CC-BY-NC-4.0", "MIT")
    table = foveal("list").stdout
    assert "60.9" in table
    assert "CC-BY-NC-4.0" in table
    shown = foveal("show", "EMA").stdout
    assert "softmax(mean(y1)) . y2" in shown
    assert "https://arxiv.org/abs/2305.13563" in shown
    (kernel,) = re.findall(r"^kernel +(.*)", shown, re.MULTILINE)
    (auto,) = re.findall(r"^auto +(\w+) on the CPU here", shown, re.MULTILINE)
    assert (kernel, auto) == ("fused; runs on the CPU here", "kernel") or ("was not built" in kernel and auto == "fast")
    assert json.loads(foveal("show", "ema", "--json").stdout)["paper_place"] == "backbone.P4,backbone.P5"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["show", "emma"], "error: no attention is named 'emma'\n\nhint: did you mean 'ema'? (foveal list)\n"),
        (["add", "x.txt", "ema"], "error: 'x.txt' is neither a .pt file nor a model YAML\n\nhint: give one such as"),
        (["study", "run"], "error: the plan does not say 'model'\n\nhint: model: FILE\n"),
        (["study", "run", "none.yaml", "epochs=3"], "error: cannot read the plan none.yaml: No such file"),
        (["study", "run", "--slurm", "time=5"], "error: --slurm is for jobs of Slurm, and the executor is local\n"),
        (["study", "status", "."], "error: there is no study in .: it has no plan.yaml\n\nhint: start one with"),
        (["study", "report", "none", "--lang", "zh"], "error: there is no study in none"),
        (["audit", ".", "."], "error: . and . are the same folder\n\nhint: name the folders of two runs\n"),
    ],
)
def test_mistakes_are_two_lines_and_exit_code_2(arguments, error, tmp_path):
    done = foveal(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("\n")
    assert error in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_wrong_usage_is_exit_code_2():
    done = foveal("add", "yolo11n.yaml")
    assert done.returncode == 2
    assert "Missing argument 'spec'" in done.stderr


def test_add_prints_the_proof(tmp_path):
    done = foveal("add", "yolo11n.yaml", "ema", "--at", "neck", "-o", "x.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (GOLDEN / "add.txt").read_text()
    again = foveal("add", "yolo11n.yaml", "ema", "-o", "x.yaml", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert "error: x.yaml exists" in again.stderr


def test_add_json_has_stdout_to_itself(tmp_path):
    # As for a user of the first day: the host then tells of the settings file it makes.
    (tmp_path / "new").mkdir()
    first_day = {"YOLO_CONFIG_DIR": str(tmp_path / "new"), "PYTHONPROFILEIMPORTTIME": "1"}
    done = from_nothing("add", "yolo11n.yaml", "ema(groups=8)", "--own-row", "--json", cwd=tmp_path, **first_day)
    assert "Ultralytics Settings" in done.stderr
    added = json.loads(done.stdout)
    assert added["output"] == "yolo11n-ema.yaml"
    assert added["tensors"] == [499, 499]
    assert {change["after"] for change in added["changes"]} >= {"[-1, 1, foveal.ema, [{groups: 8, start: identity}]]"}
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "torch" in loaded
    assert not loaded & {"torch._dynamo", "torch.onnx", "sympy"}, "seconds for nothing"


def test_yolo_hands_over_to_the_stock_grammar(tmp_path):
    foveal("add", "yolo11n.yaml", "ema", "-o", "x.yaml", cwd=tmp_path)
    code = "from ultralytics import YOLO; YOLO('x.yaml').save('x.pt')"
    assert forks.run([sys.executable, "-c", "import foveal.yolo; " + code], tmp_path).returncode == 0
    done = foveal("yolo", "predict", "model=x.pt", "imgsz=64", "device=cpu", "save=False", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bus.jpg" in done.stdout
    assert foveal("yolo", "version").stdout.strip().count(".") == 2


def test_yolo_explains_a_missing_file(tmp_path):
    done = foveal("yolo", "val", "model=none.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argument", ["attention=ema", "epoch=3"])
def test_yolo_explains_unknown_keys(argument, tmp_path):
    done = foveal("yolo", "train", "model=yolo11n.yaml", argument, cwd=tmp_path)
    assert done.returncode == 2
    assert f"'{argument.partition('=')[0]}' is not a valid YOLO argument" in done.stderr
    assert "hint: an attention is no argument here" in done.stderr
    assert "Traceback" not in done.stderr


def test_commands_need_ultralytics_only_where_they_use_it(tmp_path):
    code = "import sys; sys.modules['ultralytics'] = None; sys.argv[0] = 'foveal'; from foveal.cli import main; main()"
    hidden = "import sys; [sys.modules.pop(name) for name in [*sys.modules] if name.startswith('ultralytics')]\n"

    def without(*arguments):
        return forks.run([sys.executable, "-c", hidden + code, *arguments])

    assert last_json(without("show", "ema", "--json").stdout.replace("\n", ""))["name"] == "ema"
    for command in (["add", "yolo11n.yaml", "ema"], ["yolo", "version"], ["demo", "-o", str(tmp_path / "d")]):
        done = without(*command)
        assert done.returncode == 2
        assert done.stderr == "error: Ultralytics is not installed\n\nhint: pip install 'foveal[yolo]'\n"


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_letters_that_an_output_has_not_are_numbers(encoding, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", out)
    table = [("红细胞", "é"), ("cell", "b")]

    def command():
        printing.print_json({"name": "é细胞🙂"})
        printing.print_table(("class", "n"), table)

    monkeypatch.setattr(app, "app", command)
    app.main()
    out.flush()
    *data, _head, first, second = out.buffer.getvalue().decode(encoding).splitlines()
    assert json.loads("".join(data)) == {"name": "é细胞🙂"}
    numbered = "红细胞".encode(encoding, "backslashreplace").decode(encoding)
    assert (first, second) == (f"{numbered}  " + "é".encode(encoding, "backslashreplace").decode(encoding), "cell    b")
