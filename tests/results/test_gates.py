"""The gates of a study: drawn for what was won and lost, once, and linked from the report."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")

import foveal
from foveal.evidence import Detections
from foveal.hosts import ultralytics as host
from foveal.results import Images, entries
from foveal.results import gates as study_gates
from foveal.study import Study
from foveal.study.demo import draw_data
from studies import PLAN, fake

ARM = "ema@neck"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A finished study whose arm finds less in every other image, and more in the others."""
    folder = tmp_path_factory.mktemp("template")
    draw_data(folder / "data", train=4, val=4)
    (folder / "data/images/val/0003.png").rename(folder / "data/images/val/the last one.png")
    (folder / "data/labels/val/0003.txt").rename(folder / "data/labels/val/the last one.txt")
    study = Study.prepare({**PLAN, "split": "val"}, folder, folder)
    files = sorted((folder / "data/images/val").iterdir())
    for cell in study.cells:
        fake(study, cell)
        boxes = np.array([[10, 10, 30, 30]] * 4, np.float32)
        found = boxes + np.array([[60 * (index % 2 == (cell.arm.name == ARM))] for index in range(4)], np.float32)
        hits = np.zeros((4, 10), bool)
        truth = np.arange(4), boxes, np.zeros(4, np.int32)
        values = np.arange(4), found, np.full(4, 0.9, np.float32), np.zeros(4, np.int32), hits, *truth
        Detections(np.array([file.name for file in files]), *values).save(study.path(cell) / "best.npz")
        (study.path(cell) / "weights").mkdir()
        model = host.load("yolo11n.yaml")
        model.model.names, model.model.args = {0: "disc", 1: "square", 2: "cross"}, {"imgsz": 96}
        like = {"train_args": {"imgsz": 96, "task": "detect"}}
        torch.save(host.checkpoint(model.model, like), study.path(cell) / "weights/plain.pt")
        if cell.arm.spec:
            foveal.add(study.path(cell) / "weights/plain.pt", "ema", output=study.path(cell) / "weights/best.pt")
        else:
            shutil.copyfile(study.path(cell) / "weights/plain.pt", study.path(cell) / "weights/best.pt")
    return folder


@pytest.fixture
def study(template, tmp_path) -> Study:
    return Study(Path(shutil.copytree(template, tmp_path / "study")))


def drawn(study: Study, draw: bool = True) -> Images:
    """What the results say of images, with links."""
    folders = {(cell.arm.name, cell.pair): study.path(cell) for cell in study.cells}

    def judged(arm: str, pair: int) -> Detections:
        return Detections.load(folders[arm, pair] / "best.npz")

    gallery = study_gates.Gallery(study, next(arm for arm in study.plan.arms if arm.name == ARM), 0)
    images = entries.won_and_lost(ARM, [0, 1], judged, study.numbers)
    return gallery.draw(images) if draw else gallery.linked(images)


def links(images: Images) -> list[str | None]:
    return [image.gates for image in (*images.won, *images.lost)]


def test_every_image_won_or_lost_leads_to_its_gates(study):
    assert links(drawn(study, draw=False)) == [None] * 4
    found = drawn(study)
    assert (found.better, found.worse, found.no_gates) == (2, 2, "")
    for image in (*found.won, *found.lost):
        file, place = image.gates.split("#")
        assert file == f"gates/{ARM}/index.html"
        page = (study.folder / file).read_text(encoding="utf-8")
        heading = re.search(rf'id="{place}">\s*<h2>(.*)</h2>', page)[1]
        assert re.sub("<[^>]+>", "", heading) == image.name
    manifest = json.loads((study.folder / f"gates/{ARM}/manifest.json").read_text())
    assert manifest["imgsz"] == 96, "the size that the model was trained at"


def test_images_of_one_name_or_none_lead_nowhere(study):
    folder = study.folder / "data/images/val"
    (folder / "0002.png").unlink()
    for cell in study.cells:
        found = Detections.load(study.path(cell) / "best.npz")
        name = np.where(found.name == "0001.png", "0000.png", found.name)
        Detections(**{**vars(found), "name": name}).save(study.path(cell) / "best.npz")
    images = drawn(study)
    named = {image.name: image.gates for image in (*images.won, *images.lost)}
    assert named.keys() == {"0000.png", "0002.png", "the last one.png"}
    assert [name for name, gates in named.items() if gates] == ["the last one.png"]


def test_gates_are_drawn_again_only_for_other_weights_or_images(study):
    drawn(study)
    manifest = study_gates.gates_folder(study.folder, ARM) / "manifest.json"
    before = manifest.read_text()
    assert None not in links(drawn(study, draw=False))
    drawn(study)
    assert manifest.read_text() == before
    first = next(cell for cell in study.cells if cell.arm.name == ARM)
    weights = study.path(first) / "weights/best.pt"
    foveal.add(weights.with_name("plain.pt"), "ema(groups=16)", output=weights, force=True)
    assert links(drawn(study, draw=False)) == [None] * 4, "of other weights"
    assert None not in links(drawn(study))
    manifest.write_text(manifest.read_text().replace("0001.png", "9.png"))
    assert links(drawn(study, draw=False)).count(None) == 1, "of another image"
    assert None not in links(drawn(study))


def test_what_cannot_be_drawn_is_said_and_leads_nowhere(study, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        found = drawn(study)
    assert found.no_gates.startswith("activation maps need grad-cam, which is not installed; pip install")
    assert links(found) == [None] * 4
    mine = study_gates.gates_folder(study.folder, ARM)
    mine.mkdir()
    (mine / "manifest.json").write_text("[]")
    assert "exists and is no explanation" in drawn(study).no_gates
    assert (mine / "manifest.json").read_text() == "[]"


def test_names_of_arms_become_names_of_folders():
    folder = Path("study")
    assert study_gates.gates_folder(folder, "ema(groups=8)@P3,P4") == folder / "gates/ema(groups=8)@P3,P4"
    assert study_gates.gates_folder(folder, "../../x.pt").parent == folder / "gates"
