"""Studies of semantic models: a real training to its report, what names its cells, and one that is killed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import yaml
from PIL import Image

import data as drawings
from foveal import report, results
from foveal.evidence.averages import AGREEMENT
from foveal.study import Plan, Study, forecast, run
from studies import kill_in_a_loop, values

pytestmark = pytest.mark.newest  # older hosts have no such models
TRAIN = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "verbose": False}
PLAN = {"model": "yolo26n-sem.yaml", "data": "data/data.yaml", "arms": ["ema@neck"], "seeds": 1, "train": TRAIN}


@pytest.mark.slow
def test_a_study_from_training_to_its_report(tmp_path):
    drawings.draw_things(tmp_path / "data", "semantic", 4, 3)
    study = Study.prepare(PLAN, tmp_path, tmp_path)
    for cell in study.cells:
        assert run(tmp_path, cell.key)
    study = Study(tmp_path)
    for result in study.results().values():
        assert result.scores.keys() == {"miou", "miou_last", "pixel_accuracy", "pixel_accuracy_last"}
        assert result.disagreement <= AGREEMENT
    found = results.assemble(study)
    assert (found.task, found.statistics.metric, found.statistics.second) == ("semantic", "mIoU", "pixel accuracy")
    told = {one.check: one.ok for one in found.fairness}
    assert (told["batches"], told["start"], told["agreement"], told["evaluator"]) == (True,) * 4
    assert [part.name for part in found.baseline.classes] == ["ground", *drawings.THINGS]
    assert (found.baseline.sizes, found.data.objects, found.baseline.mcnemar) == ((), None, None)
    assert all(arm.curves.metric for arm in found.arms)
    page = report.write(found, tmp_path)[0].read_text(encoding="utf-8")
    assert "Pixel accuracy" in page
    assert "the mean IoU of the classes in it" in page
    assert "confidence" not in page.partition("<h2>Images won and lost")[2].partition("<h2>")[0]
    assert results.load(results.write(found, tmp_path)) == found


def test_masks_and_what_they_mean_name_a_cell(tmp_path):
    drawings.draw_things(tmp_path / "data", "semantic", 4, 3)

    before = {cell.key for cell in Study.prepare(PLAN, tmp_path, tmp_path).cells}
    mask = tmp_path / "data/masks/val/001.png"
    pixels = np.array(Image.open(mask))
    pixels[50, 50] = 2 - pixels[50, 50]
    Image.fromarray(pixels).save(mask)
    after = {cell.key for cell in Study(tmp_path).cells}
    assert not before & after
    data = tmp_path / "data/data.yaml"
    data.write_text(data.read_text() + "label_mapping: {2: 1}\n")
    assert not after & {cell.key for cell in Study(tmp_path).cells}


def test_a_rehearsal_copies_masks(tmp_path):
    from foveal.study.rehearsal import reduced

    drawings.draw_things(tmp_path / "data", "semantic", 9, 9)
    small = Path(reduced({**PLAN, "train": {**TRAIN, "epochs": 4}}, tmp_path, tmp_path / "small", 0.5)["data"])
    assert yaml.safe_load(small.read_text())["masks_dir"] == "masks"
    assert len([*small.parent.glob("masks/train/*.png")]) == 8
    drawings.draw_things(tmp_path / "outlined/data", "segment", 9, 9)
    small = Path(reduced(PLAN, tmp_path / "outlined", tmp_path / "smaller", 0.5)["data"])
    assert [*yaml.safe_load(small.read_text())["names"].values()] == [*drawings.THINGS], "the host adds the background"


@pytest.mark.sweep
def test_the_hours_are_measured(tmp_path):
    drawings.draw_things(tmp_path / "data", "semantic", 4, 3)
    found = forecast(Plan.of({**PLAN, "train": {**TRAIN, "imgsz": 160}}, tmp_path), "cpu")
    assert all(value > 0 for value in found.seconds.values())


def runner(study: Study) -> subprocess.Popen:
    words = [sys.executable, "-m", "foveal", "study", "run", str(study.folder)]
    with (study.folder / "runner.txt").open("a") as log:
        return subprocess.Popen(words, start_new_session=True, stdout=log, stderr=log)


@pytest.mark.sweep
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_killed_in_a_loop_it_ends_where_an_undisturbed_study_does(tmp_path):
    drawings.draw_things(tmp_path / "data", "semantic", 8, 3)
    plan = {**PLAN, "data": str(tmp_path / "data/data.yaml"), "train": {**TRAIN, "epochs": 3}}
    killed, undisturbed = (Study.prepare(plan, tmp_path / name, tmp_path) for name in ("killed", "undisturbed"))
    kill_in_a_loop(killed, runner, rounds=1, longest=2)
    assert any(result.resumed for result in killed.results().values())
    assert runner(undisturbed).wait(600) == 0
    assert values(killed) == values(undisturbed)
    assert (killed.folder / "report.html").is_file()
