"""Files that people have, as commit 0590590 wrote them: each loads, goes on, is reported and is shown."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import forks
from foveal.cli import study as cli_study
from foveal.evidence import error_types
from foveal.study import Study
from helpers import GOLDEN, last_json, run

OLD = GOLDEN / "commit-0590590"
ARM = "ema(groups=4)@neck"
MISSING = "a-1001-"  # how the name of the cell begins that is to be trained
Ask = Callable[..., tuple[int, str, str]]

# Commands, a line each, in one process that has imported nothing before the first.
COMMANDS = """
import contextlib, io, json, sys
from foveal import cli
for line in sys.stdin:
    sys.argv[1:] = json.loads(line)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""

MODELS = """
import json, sys
import foveal.yolo
from foveal import EMAttention
from ultralytics import YOLO
table, weights, *images = sys.argv[1:]
count = lambda model: sum(isinstance(module, EMAttention) for module in model.model.modules())
numbers = lambda model: sum(parameter.numel() for parameter in model.model.parameters())
models = [YOLO(table), YOLO(weights)]
found = models[1].predict(images, imgsz=64, conf=0.25, verbose=False)
boxes = [of.boxes.xyxy.tolist() for of in found]
print(json.dumps([[[count(model), numbers(model)] for model in models], boxes]))
"""


def written(name: str) -> dict:
    """A JSON file of those that are kept here."""
    return json.loads((OLD / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ask(tmp_path_factory) -> Iterator[Ask]:
    """A function that gives a command to one fresh process; its exit code and what it printed and said."""
    place, pipe = tmp_path_factory.mktemp("asked"), subprocess.PIPE
    command = [sys.executable, "-c", COMMANDS]
    with subprocess.Popen(command, cwd=place, stdin=pipe, stdout=pipe, text=True) as running:

        def ask(*words: object) -> tuple[int, str, str]:
            running.stdin.write(json.dumps([str(word) for word in words]) + "\n")
            running.stdin.flush()
            return tuple(json.loads(running.stdout.readline()))

        yield ask
        running.stdin.close()


def listed(ask: Ask, folder: Path) -> list[str]:
    """The names of cells that are missing."""
    code, out, err = ask("study", "cells", folder)
    assert code == 0, err
    return [line.split()[-1] for line in out.splitlines()]


@pytest.fixture(scope="module")
def counted(ask, tmp_path_factory) -> Path:
    """A copy of the study whose finished cells count, also where other versions are installed than trained them."""
    folder = shutil.copytree(OLD / "study", tmp_path_factory.mktemp("counted") / "study")
    for key in listed(ask, folder):
        for cell in folder.glob(f"cells/{key.rpartition('-')[0]}-*"):
            cell.rename(cell.with_name(key))
    return folder


@pytest.fixture
def study(counted, tmp_path) -> Path:
    """A copy of that."""
    return shutil.copytree(counted, tmp_path / "study")


# The study -----------------------------------------------------------------------------------------------------------


def test_finished_cells_count_with_the_versions_that_trained_them(ask, tmp_path):
    trained = json.loads(next(OLD.glob("study/cells/*/result.json")).read_text())["versions"]
    here = {name: version(name) for name in ("ultralytics", "torch", "numpy")}
    here |= {"python": ".".join(map(str, sys.version_info[:3])), "foveal": trained["foveal"]}
    if here != trained:
        pytest.skip(f"they were trained with {trained}")
    (key,) = listed(ask, shutil.copytree(OLD / "study", tmp_path / "study"))
    assert key.startswith(MISSING)


def test_a_study_of_other_data_is_refused_in_a_sentence(ask, study):
    """The same sentence as with other versions, which a test cannot install."""
    (study / "data/labels/train/0.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    said = "5 finished cells are of other data, versions or arguments: kept, and not counted"
    code, out, err = ask("study", "status", study)
    assert (code, out.splitlines()[-1]) == (0, "0 of 6 finished")
    assert f"the data set is another than when this study last ran: labels/train/0.txt\n{said}; 0 of this" in err
    code, _, err = ask("study", "report", study)
    assert code == 2
    assert f"no run of the baseline is finished in {study}: {said}" in err


def test_a_study_reports_what_it_did(ask, study):
    code, out, err = ask("study", "report", study)
    assert code == 0, err
    assert out.startswith(f"{ARM}: inconclusive. mAP50-95 changed by −3.7 points")
    now, then = json.loads((study / "results.json").read_text(encoding="utf-8")), written("study/results.json")
    assert now["cells"] == {"planned": 6, "finished": 5, "failed": []}
    assert then["cells"]["finished"] == 6
    for mine, theirs in zip(now["arms"], then["arms"], strict=True):
        finished = len(mine["seeds"])
        assert mine["seeds"] == theirs["seeds"][:finished]
        for key, scores in mine["scores"].items():
            assert scores == pytest.approx(theirs[key][:finished])
        for key in ("flops", "parameters", "latency_ratio"):
            assert mine["cost"][key] == theirs["cost"][key]
    mine, theirs = now["arms"][1], then["arms"][1]
    assert mine["verdict"]["differences"] == pytest.approx(theirs["verdict"]["differences"])
    assert mine["images"] == theirs["images"]
    assert {image["gates"].partition("#")[0] for image in mine["images"]["won"]} == {f"gates/{ARM}/index.html"}
    broken = [finding["check"] for finding in now["fairness"] if finding["ok"] is False]
    assert not broken
    if importlib.util.find_spec("hotcoco"):
        assert "hotcoco" not in err
        assert [one["name"] for one in now["arms"][0]["errors"]] == [*error_types.TYPES]
        for arm in now["arms"]:
            pairs = 0 if arm["role"] == "baseline" else len(arm["seeds"])
            assert {(len(one["costs"]), len(one["differences"])) for one in arm["errors"]} == {
                (len(arm["seeds"]), pairs)
            }
        one, theirs = (now["arms"][index]["errors"][0] for index in (1, 0))
        assert one["differences"] == pytest.approx(np.subtract(one["costs"], theirs["costs"][: len(one["costs"])]))


def test_a_report_says_what_it_does_without(study, monkeypatch, capsys):
    monkeypatch.setattr(error_types, "is_known", lambda: False)
    cli_study._report(Study(study), "en", measure=False)
    said = "what errors cost is not in the report: hotcoco is not installed; pip install 'foveal[study]'"
    assert said in capsys.readouterr().err
    assert {len(arm["errors"]) for arm in json.loads((study / "results.json").read_text())["arms"]} == {0}


@pytest.mark.slow
@pytest.mark.sweep
def test_a_study_goes_on_with_the_cell_that_is_missing(ask, study):
    code, out, err = ask("study", "run", study)
    assert code == 0, err
    assert len(re.findall(r"^\[\d/6\] ", err, re.MULTILINE)) == 1
    assert "[6/6] A/A, seed 1: mAP50-95 0." in err
    assert f"\n{ARM}: inconclusive. mAP50-95 changed by −3.7 points" in out
    found = json.loads((study / "results.json").read_text(encoding="utf-8"))
    assert found["complete"]
    again = next(arm for arm in found["arms"] if arm["name"] == "A/A")
    assert len(again["scores"]["map"]) == len(again["curves"]["metric"]) == 2


# Pages ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def shown(folder: Path) -> Iterator[Callable[[str], bytes]]:
    """A function that asks a fresh `foveal view` of a folder for a path."""
    source, target = os.pipe()
    with os.fdopen(source) as said, os.fdopen(target, "w") as told:
        command = [sys.executable, "-m", "foveal", "view", str(folder)]
        running = forks.start(command, folder.parent, os.environ, told, sys.__stderr__)
        told.close()  # or a line that never comes would be waited for
        try:
            address = said.readline().strip()
            assert address.startswith("http://127.0.0.1:")

            def ask(path: str) -> bytes:
                with urllib.request.urlopen(address + path, timeout=20) as answer:
                    return answer.read()

            yield ask
        finally:
            running.kill()
            running.wait()


def pictures(image: dict) -> list:
    """What the page names the pictures of an image's gates."""
    return [one["picture"] for one in image["maps"]]


def test_a_study_is_shown_with_its_old_results(study):
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    with shown(study) as page:
        assert b"<title>" in page("")
        progress = json.loads(page("data/progress"))
        states = [cell["state"] for cell in progress["cells"]]
        assert states == ["finished"] * 5 + ["waiting"]
        assert progress["verdict"]["problem"] == ""
        assert progress["verdict"]["sentence"].startswith(f"{ARM}: inconclusive. mAP50-95 changed by −3.7 points")
        images = json.loads(page("data/images/1"))
        assert images["seeds"] == [0, 1]
        image = json.loads(page(f"data/image/1/0/{images['images'][0]['image']}"))
        assert len(image["true"]) == 2
        assert image["sides"][1]["boxes"]
        for picture in [image["photo"], *pictures(image)]:
            assert page(picture)[:3] in (b"\x89PN", b"\xff\xd8\xff")
        assert pictures(image)
        assert page("report.html") == (OLD / "study/report.html").read_bytes()
        assert b"<html" in page(f"gates/{ARM}/index.html")


def test_an_explanation_is_shown(tmp_path):
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    with shown(shutil.copytree(OLD / "explained", tmp_path / "explained")) as page:
        found = json.loads(page("data/album"))
        assert (found["model"], found["task"]) == ("best.pt", "detect")
        assert [one["name"] for one in found["images"]] == ["0.png", "1.png"]
        for image in found["images"]:
            assert pictures(image)
            for number in pictures(image):
                assert page(f"picture/map/{number}").startswith(b"\x89PNG")
        assert page("index.html") == (OLD / "explained/index.html").read_bytes()


# Models --------------------------------------------------------------------------------------------------------------


def test_the_model_yaml_and_the_weights_load_with_their_attentions_also_in_restricted_loading(tmp_path):
    (weights,) = OLD.glob("study/cells/*/weights/best.pt")
    images = [OLD / f"study/data/images/val/{index}.png" for index in (0, 1)]
    command = [sys.executable, "-c", MODELS, str(OLD / "attended.yaml"), str(weights), *map(str, images)]
    built, boxes = last_json(run(command, tmp_path, ULTRALYTICS_SAFE_LOAD="1"))
    assert built == [[3, 2_625_424], [1, 14_774]]
    for now, then in zip(boxes, written("explained/manifest.json")["images"], strict=True):
        assert np.array(now) == pytest.approx(np.array([one["box"] for one in then["boxes"]]), abs=0.01)
