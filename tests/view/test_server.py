"""The page over a folder: what it answers, what it refuses, and what a browser makes of it."""

import contextlib
import html
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("starlette", reason="Starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from foveal import UserError
from foveal.evidence import THRESHOLDS, Answers, Detections
from foveal.results import gates as study_gates
from foveal.study import Study, folder
from foveal.study.cell import FAILURE, RESULT, locked
from foveal.study.demo import IMAGE_SIZE, draw_data
from foveal.view import server as view
from foveal.view import study as view_study

PUBLISHED = Path(__file__).parents[2] / "studies/bccd-smoke"  # a real study's results and report
PLAN = {
    "model": "yolo11n.yaml",
    "data": "data/data.yaml",
    "arms": ["ema@neck", "A/A"],
    "seeds": 2,
    "train": {"epochs": 4, "imgsz": 64, "batch": 4},
}
CLASSES = ("apple", "fig", "kiwi", "pear", "plum", "quince")
IMAGES = 6
HOST = "http://127.0.0.1"


# Folders -------------------------------------------------------------------------------------------------------------


def finish(study: Study, cell, score: float = 0.5, epochs: int = 4) -> Path:
    """A cell as if it had been trained."""
    metric = study.plan.metric
    scores = {metric.key: score, metric.second_key: 0.6, metric.last: 0.5, f"{metric.second_key}_last": 0.6}
    values = dict(arm=cell.arm.name, pair=cell.pair, seed=cell.seed, scores=scores, disagreement=0.0, epochs=4)
    values |= dict(batch=4, batches=["a"], start={}, finite=True, parameters=1, resumed=0)
    values |= dict(seconds=60.0, peak_bytes=1, device="cpu", data="", versions={}, finished="")
    progress(study, cell, [score * (epoch + 1) / epochs for epoch in range(epochs)])
    (study.path(cell) / RESULT).write_text(json.dumps(values))
    return study.path(cell)


def progress(study: Study, cell, curve: list[float]) -> None:
    """A cell's table after so many epochs."""
    study.path(cell).mkdir(parents=True, exist_ok=True)
    lines = [f"{epoch + 1},{15 * (epoch + 1)},{value}\n" for epoch, value in enumerate(curve)]
    heads = f"epoch,time,{study.plan.metric.column}\n"
    (study.path(cell) / "results.csv").write_text(heads + "".join(lines))


def detections(folder: Path, finds: list[bool], seed: int) -> Detections:
    """Every object of the images of which `finds` says so, and some things that are not there."""
    random = np.random.default_rng(seed)
    true_image, true_box, true_label, image, box, label, confidence = [], [], [], [], [], [], []
    for index in range(IMAGES):
        for line in (folder / f"data/labels/val/{index:04}.txt").read_text().splitlines():
            name, x, y, width, height = (float(value) for value in line.split())
            corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]) * IMAGE_SIZE
            true_image.append(index), true_box.append(corners), true_label.append(int(name))
            if finds[index]:
                image.append(index), label.append(int(name)), confidence.append(random.uniform(0.3, 0.9))
                box.append(corners + random.uniform(-1, 1, 4))
        corner = random.uniform(0, 60, 2)
        image.append(index), label.append(0), confidence.append(random.uniform(0.03, 0.9))
        box.append([*corner, *corner + random.uniform(10, 30, 2)])
    order = np.argsort(-np.array(confidence))
    return Detections(
        name=np.array([f"{index:04}.png" for index in range(IMAGES)]),
        image=np.array(image)[order],
        box=np.array(box, np.float32)[order],
        confidence=np.array(confidence, np.float32)[order],
        label=np.array(label, np.int32)[order],
        hit=np.zeros((len(image), len(THRESHOLDS)), bool),
        true_image=np.array(true_image),
        true_box=np.array(true_box, np.float32),
        true_label=np.array(true_label, np.int32),
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A finished study: `ema@neck` wins image 0 and loses image 5, the others are as they fall."""
    folder = tmp_path_factory.mktemp("view") / "small"
    draw_data(folder / "data", train=4, val=IMAGES)
    study = Study.prepare(PLAN, folder, folder)
    for place, cell in enumerate(study.cells):
        mine = finish(study, cell, 0.4 + 0.02 * place)
        better = cell.arm.name == "ema@neck"
        finds = [better, True, True, True, True, not better]
        detections(folder, finds, place).save(mine / "best.npz")
    for name in ("results.json", "report.html"):
        shutil.copyfile(PUBLISHED / name, folder / name)
    return folder


@pytest.fixture
def small(template, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(template, tmp_path / "small")


def answers(right: list[bool], seed: int) -> Answers:
    """Right first answers where `right` says so; else the true class is the third or not among the five."""
    ranked = []
    for index in range(IMAGES):
        others = [label for label in range(len(CLASSES)) if label != index]
        others = others[seed:] + others[:seed]
        place = 0 if right[index] else 2 if index % 2 else 5
        ranked.append([*others[:place], index, *others[place:]][:5])
    name = np.array([f"{label}/0.png" for label in CLASSES])
    return Answers(name=name, ranked=np.array(ranked), label=np.arange(IMAGES))


@pytest.fixture(scope="module")
def classified_template(tmp_path_factory) -> Path:
    """A finished study of classifiers: `ema@backbone` wins apple and loses quince, fig is won with one seed of two."""
    folder = tmp_path_factory.mktemp("view") / "fruit"
    for split in ("train", "val"):
        for number, label in enumerate(CLASSES):
            (folder / "data" / split / label).mkdir(parents=True)
            Image.new("RGB", (48, 36), (40 * number, 200, 90)).save(folder / "data" / split / label / "0.png")
    plan = {**PLAN, "model": "yolo11n-cls.yaml", "data": "data", "arms": ["ema@backbone", "A/A"]}
    study = Study.prepare(plan, folder, folder)
    for cell in study.cells:
        mine = finish(study, cell, 0.8)
        better = cell.arm.name == "ema@backbone"
        right = [better, better and cell.pair == 0, True, True, True, not better]
        answers(right, cell.pair).save(mine / "best.npz")
    return folder


@pytest.fixture
def classified(classified_template, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(classified_template, tmp_path / "fruit")


def explained(folder: Path, names: list[str], **changes: object) -> dict:
    """A folder as `foveal explain` writes it, with a map and bars for each image."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    images = []
    for number, name in enumerate(names):
        Image.new("RGB", (96, 72), (90, 120, 150)).save(folder / f"pictures/{number}.jpg")
        slope = np.linspace(0, 255, 96).astype(np.uint8)[None].repeat(72, 0)
        Image.fromarray(slope).save(folder / f"pictures/{number}-spatial.png")
        Image.new("RGB", (120, 30), (200, 80, 40)).save(folder / f"pictures/{number}-channel.png")
        gate = {"attention": "16.0", "mean": 0.51, "deviation": 0.1, "low": 0.2, "high": 0.8, "initial": 0.5}
        spatial = {**gate, "gate": "spatial", "picture": f"pictures/{number}-spatial.png"}
        spatial |= {"inside": 0.6, "outside": 0.4}
        channel = {**gate, "gate": "channel", "picture": f"pictures/{number}-channel.png", "inside": None}
        cams = {"attention": "16.0", "before": spatial["picture"], "after": spatial["picture"], "method": "LayerCAM"}
        box = {"box": [10, 10, 40, 50], "label": "disc"}
        images.append({"name": name, "picture": f"pictures/{number}.jpg", "width": 192, "height": 144})
        images[-1] |= {"boxes": [{**box, "confidence": 0.8}], "true_boxes": [box]}
        images[-1] |= {"gates": [spatial, channel], "cams": [cams]}
    attention = {"id": "16.0", "row": 16, "layer": "C3k2", "name": "ema", "spec": "ema(groups=8)", "channels": 64}
    rows = [{"attention": "16.0", "kind": "multiplied", "frozen": 0.39, "removed": 0.31}]
    manifest = {"foveal": "0.1.0", "kind": "explain", "model": "best.pt", "task": "detect", "imgsz": 96}
    manifest |= {"attentions": [{**attention, "gain": None, "gates": []}], "images": images}
    manifest |= {"ablation": {"metric": "mAP50-95", "trained": 0.4, "rows": rows}, **changes}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def client(folder: Path, **more: object) -> TestClient:
    return TestClient(view.application(folder), base_url=HOST, **more)


def tree(folder: Path) -> dict[str, tuple]:
    """Everything below a folder, with time and content."""
    paths = [folder, *folder.rglob("*")]
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in paths}


# Runs ----------------------------------------------------------------------------------------------------------------


def test_every_state_and_the_curves_are_told_and_follow_the_files(small):
    study = Study(small)
    second, third, *rest = study.cells[1:]
    for cell in (second, third, *rest):
        shutil.rmtree(study.path(cell))
    progress(study, second, [0.1, float("nan")])
    progress(study, third, [0.2])
    (study.path(third) / FAILURE).write_text(json.dumps({"reason": "ValueError: no"}))
    asked = client(small)
    with locked(study.path(second)):
        found = asked.get("/data/progress").json()
    states = {(cell["arm"], cell["seed"]): cell for cell in found["cells"]}
    words = [states[cell.arm.name, cell.pair]["state"] for cell in study.cells]
    assert words == ["finished", "running", "failed", "waiting", "waiting", "waiting"]
    assert states["ema@neck", 0]["curve"] == [0.1, None]
    assert states["baseline", 0]["curve"] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert states["baseline", 0]["score"] == pytest.approx(0.4)
    assert states["A/A", 0]["reason"] == "ValueError: no"
    assert {cell["planned"] for cell in found["cells"]} == {4}
    assert (found["seeds"], found["split"]) == ([0, 1], "val")
    assert found["left"] == "4 min"  # 60 s for a run; half of one, three quarters of another and three are missing
    assert found["command"] == f"foveal study run {small}"
    progress(study, second, [0.1, 0.2, 0.3])
    found = asked.get("/data/progress").json()
    assert next(cell for cell in found["cells"] if cell["arm"] == "ema@neck")["epochs"] == 3
    assert next(cell for cell in found["cells"] if cell["arm"] == "ema@neck")["state"] == "interrupted"


def test_the_verdict_is_that_of_the_report(small):
    found = client(small).get("/data/progress").json()
    assert found["page"] is True
    assert found["verdict"]["sentence"].startswith("ema@neck: equivalent within ±1.0 points. mAP50-95 changed by")
    assert found["verdict"]["complete"] is True
    (small / "results.json").unlink()
    (small / "report.html").unlink()
    found = client(small).get("/data/progress").json()
    assert (found["verdict"], found["page"]) == (None, False)


def test_runs_of_other_data_are_counted_apart(small):
    image = small / "data/images/train/0000.png"
    image.write_bytes(image.read_bytes() + b"more")
    found = client(small).get("/data/progress").json()
    assert {cell["state"] for cell in found["cells"]} == {"waiting"}
    assert found["left_over"] == 6


def test_looking_writes_nothing(small):
    (small / "data.json").unlink()
    study = Study(small)
    shutil.rmtree(study.path(study.cells[-1]))
    (study.path(study.cells[-1])).mkdir()
    (small / "data.json").unlink()
    explained(study_gates.gates_folder(small, "ema@neck"), ["0000.png"])
    before = tree(small)
    asked = client(small)
    for path in ("", "data/progress", "data/images/1", "data/image/1/0/0", "picture/photo/0", "picture/map/1/0"):
        assert asked.get(f"/{path}").status_code == 200, path
    assert asked.get("/report.html").status_code == 200
    assert tree(small) == before


def test_the_data_set_is_looked_at_when_the_plan_changes_and_not_at_every_poll(small, monkeypatch):
    calls = []
    real = folder.contents
    monkeypatch.setattr(folder, "contents", lambda *given: calls.append(given) or real(*given))
    asked = client(small)
    for _ in range(5):
        asked.get("/data/progress")
    assert len(calls) == 1
    plan = small / "plan.yaml"
    plan.write_text(plan.read_text().replace("seeds: 2", "seeds: 3"))
    assert asked.get("/data/progress").json()["seeds"] == [0, 1, 2]
    assert len(calls) == 2


# Images --------------------------------------------------------------------------------------------------------------


def test_images_are_ordered_by_what_the_arm_wins_on_average(small):
    study = Study(small)
    found = client(small).get("/data/images/1").json()
    scores = {name: [] for name in ("baseline", "ema@neck")}
    for cell in study.cells:
        if cell.arm.name in scores:
            scores[cell.arm.name].append(Detections.load(study.path(cell) / "best.npz").scores())
    difference = np.mean(scores["ema@neck"], 0) - np.mean(scores["baseline"], 0)
    by_image = {one["image"]: one["difference"] for one in found["images"]}
    assert [by_image[i] for i in range(IMAGES)] == pytest.approx(difference)
    shown = [one["difference"] for one in found["images"]]
    assert shown == sorted(shown, reverse=True)
    assert (found["images"][0]["name"], found["images"][-1]["name"]) == ("0000.png", "0005.png")
    assert found["seeds"] == [0, 1]


def crowded(found: Detections, seed: int) -> Detections:
    """Four boxes for each one, near it and of any confidence, in no order: several are good enough for one object."""
    random = np.random.default_rng(seed)
    order = random.permutation(np.repeat(np.arange(len(found.image)), 4))
    values = {key: getattr(found, key)[order] for key in ("image", "box", "label", "hit")}
    values["box"] = values["box"] + random.uniform(-3, 3, values["box"].shape).astype(np.float32)
    return Detections(**{**vars(found), **values, "confidence": random.uniform(0, 1, len(order)).astype(np.float32)})


def test_counting_boxes_on_the_page_gives_the_scores_of_the_report_at_every_confidence(small):
    study = Study(small)
    for place, cell in enumerate(study.cells):
        path = study.path(cell) / "best.npz"
        crowded(Detections.load(path), place).save(path)
    asked = client(small)
    for place, name in enumerate(("baseline", "ema@neck")):
        stored = Detections.load(study.path(next(c for c in study.cells if c.arm.name == name)) / "best.npz")
        answers = [asked.get(f"/data/image/1/0/{image}").json() for image in range(IMAGES)]
        for confidence in np.arange(1, 20) * 0.05:
            expected = stored.scores(confidence)
            for image, found in enumerate(answers):
                kept = [box for box in found["sides"][place]["boxes"] if box["confidence"] >= confidence]
                taken = [box["object"] for box in kept if box["object"] >= 0]
                assert len(set(taken)) == len(taken)
                hits = len(taken)
                both = len(kept) + len(found["true"])
                assert expected[image] == pytest.approx(2 * hits / both if both else 1)


def test_photographs_are_those_of_the_split_and_true_boxes_lie_on_them(small):
    asked = client(small)
    found = asked.get("/data/image/1/1/3").json()
    answer = asked.get(f"/{found['photo']}")
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == (small / "data/images/val/0003.png").read_bytes()
    label, x, *_ = (small / "data/labels/val/0003.txt").read_text().split("\n")[0].split()
    left, _, right, _ = found["true"][0]["box"]
    assert (left + right) / 2 == pytest.approx(float(x) * IMAGE_SIZE, abs=0.01)
    assert found["true"][0]["label"] == ("disc", "square", "cross")[int(label)]


def test_images_that_the_host_left_out_shift_no_photograph(small):
    """A broken image is in the folder and not among those judged."""
    study = Study(small)
    for cell in study.cells:
        path = study.path(cell) / "best.npz"
        values = vars(Detections.load(path))
        name = np.array(["0001.png" if n == "0000.png" else n for n in values["name"]])
        name[1] = "0000.png"
        Detections(**{**values, "name": name}).save(path)
    asked = client(small)
    for image, name in ((0, "0001.png"), (1, "0000.png"), (2, "0002.png")):
        found = asked.get(f"/data/image/1/0/{image}").json()
        assert found["name"] == name
        assert asked.get(f"/{found['photo']}").content == (small / "data/images/val" / name).read_bytes()
    (small / "data/images/val/0002.png").rename(small / "data/gone.png")
    assert asked.get("/data/image/1/0/2").json()["photo"] is None


def test_an_unfinished_pair_is_no_error(small):
    study = Study(small)
    (study.path(study.cells[0]) / RESULT).unlink()
    asked = client(small)
    assert asked.get("/data/images/1").json()["seeds"] == [1]
    assert asked.get("/data/image/1/0/0").status_code == 404
    for cell in study.cells:
        (study.path(cell) / RESULT).unlink(missing_ok=True)
    assert asked.get("/data/images/1").json() == {"seeds": [], "notes": [], "images": []}


def test_a_format_that_browsers_do_not_know_is_converted(small):
    path = small / "data/images/val/0000.png"
    content = Image.open(path).convert("RGB")
    content.save(path, "TIFF")  # the content says what a file is, not its name
    answer = client(small).get("/picture/photo/0")
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(content))


@pytest.mark.parametrize(("suffix", "kind"), [("JPEG", "jpeg"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp")])
def test_what_browsers_know_is_sent_as_it_is_under_its_real_type(tmp_path, suffix, kind):
    explained(tmp_path, ["a.png"])
    picture = tmp_path / "pictures/0.jpg"
    Image.new("RGB", (9, 9)).save(picture, suffix)
    answer = client(tmp_path).get("/picture/map/0")
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.content == picture.read_bytes()


# Classifiers ---------------------------------------------------------------------------------------------------------


def test_classifiers_are_told_in_their_own_metric(classified):
    found = client(classified).get("/data/progress").json()
    assert found["metric"] == "top-1 accuracy"
    assert {cell["state"] for cell in found["cells"]} == {"finished"}
    assert found["cells"][0]["score"] == pytest.approx(0.8)
    assert found["cells"][0]["curve"] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    page = client(classified).get("/").text
    assert 'data-says="class"' in page
    assert not re.search("boxes|Confidence|mAP", page)


def test_images_of_classifiers_are_ordered_by_the_share_of_seeds_that_get_them_right(classified):
    found = client(classified).get("/data/images/1").json()
    shown = [(one["name"], one["difference"]) for one in found["images"]]
    assert shown[:2] == [("apple/0.png", 1), ("fig/0.png", 0.5)]
    assert shown[-1] == ("quince/0.png", -1)
    assert {difference for _, difference in shown[2:-1]} == {0}
    assert found["seeds"] == [0, 1]


def test_answers_of_both_arms_stand_beside_the_true_class(classified):
    asked = client(classified)
    found = asked.get("/data/image/1/1/1").json()
    assert (found["name"], found["true"]) == ("fig/0.png", "fig")
    theirs, ours = ([one["label"] for one in side["answers"]] for side in found["sides"])
    assert theirs == ours == ["kiwi", "pear", "fig", "plum", "quince"]
    assert [one["right"] for one in found["sides"][0]["answers"]] == [False, False, True, False, False]
    answer = asked.get(f"/{found['photo']}")
    assert answer.content == (classified / "data/val/fig/0.png").read_bytes()
    first = asked.get("/data/image/1/0/0").json()
    assert not any(one["right"] for one in first["sides"][0]["answers"])
    assert first["sides"][1]["answers"][0] == {"label": "apple", "right": True}


def test_gates_of_classifiers_are_found_by_class_and_name(classified):
    asked = client(classified)
    command = asked.get("/data/image/1/0/1").json()["command"].split()
    assert command[3] == str(classified / "data/val/fig/0.png")
    assert len(command) == len(["foveal", "explain", "WEIGHTS", *CLASSES, "-o", "FOLDER"])
    names = [str(classified / f"data/val/{label}/0.png") for label in ("pear", "fig")]
    explained(study_gates.gates_folder(classified, "ema@backbone"), names)
    found = asked.get("/data/image/1/0/1").json()
    assert [one["title"] for one in found["maps"]] == ["spatial", "channel", "LayerCAM before", "LayerCAM after"]
    answer = asked.get(f"/{found['maps'][0]['picture']}")
    assert answer.content == (classified / "gates/ema@backbone/pictures/1-spatial.png").read_bytes()
    assert "are not of this image" in asked.get("/data/image/1/0/2").json()["why"]


def test_answers_that_are_none_give_a_sentence_and_the_rest_is_shown(classified):
    study, asked = Study(classified), client(classified)
    path = study.path(next(c for c in study.cells if (c.arm.name, c.pair) == ("ema@backbone", 0))) / "best.npz"
    values = vars(Answers.load(path))
    for changes in (
        {"name": np.array("one")},
        {"ranked": values["ranked"][:-1]},
        {"ranked": values["ranked"][:, :0]},
        {"ranked": values["ranked"][0]},
        {"ranked": values["ranked"].astype(float)},
        {"label": values["label"][:-1]},
        {"label": values["label"].astype(str)},
    ):
        Answers(**{**values, **changes}).save(path)
        os.utime(path, ns=(time.time_ns(), time.time_ns()))
        answer = asked.get("/data/image/1/0/1")
        assert answer.status_code == 409, changes
        assert answer.json()["message"].endswith("best.npz holds no answers")
        assert asked.get("/data/images/1").json()["seeds"] == [1]
    result = path.parent / RESULT
    written = json.loads(result.read_text())
    result.write_text(json.dumps({**written, "scores": {"map": 0.5}}))  # of detectors
    states = {(cell["arm"], cell["seed"]): cell for cell in asked.get("/data/progress").json()["cells"]}
    assert states["ema@backbone", 0]["state"] == "failed"
    assert states["ema@backbone", 1]["state"] == "finished"


# Gates ---------------------------------------------------------------------------------------------------------------


def test_gates_in_the_study_are_found_by_arm_and_image(small):
    explained(study_gates.gates_folder(small, "ema@neck"), ["0004.png", "0001.png"])
    asked = client(small)
    found = asked.get("/data/image/1/0/1").json()
    assert [one["title"] for one in found["maps"]] == ["spatial", "channel", "LayerCAM before", "LayerCAM after"]
    assert found["maps"][0]["where"] == "ema in row 16, C3k2"
    assert found["maps"][0]["numbers"] == {
        **{"mean": 0.51, "deviation": 0.1, "low": 0.2, "high": 0.8, "initial": 0.5},
        **{"inside": 0.6, "outside": 0.4},
    }
    answer = asked.get(f"/{found['maps'][0]['picture']}")
    assert answer.content == (small / "gates/ema@neck/pictures/1-spatial.png").read_bytes()
    other = asked.get("/data/image/1/0/2").json()
    assert other["why"] == f"The gates in {small / 'gates/ema@neck'} are not of this image."
    assert asked.get("/data/image/2/0/1").json()["why"] == "A/A has no attention of foveal, and so no gates."


def test_without_gates_the_page_has_the_command_that_makes_them(small):
    study = Study(small)
    found = client(small).get("/data/image/1/1/2").json()
    assert found["why"] == "Nobody has asked for the gates of this arm yet."
    mine = next(study.path(cell) for cell in study.cells if (cell.arm.name, cell.pair) == ("ema@neck", 1))
    words = found["command"].split()
    assert words[:3] == ["foveal", "explain", str(mine / "weights/best.pt")]
    assert words[3] == str(small / "data/images/val/0002.png")  # the one in question before those won and lost
    assert {Path(word).name for word in words[3:-2]} == {f"{index:04}.png" for index in range(IMAGES)}
    assert words[-2:] == ["-o", str(small / "gates/ema@neck")]


def test_more_pictures_of_a_gate_are_shown_too(tmp_path):
    manifest = explained(tmp_path, ["a.jpg"])
    manifest["images"][0]["gates"][0]["minus_initial"] = "pictures/0-channel.png"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    maps = client(tmp_path).get("/data/album").json()["images"][0]["maps"]
    assert [one["title"] for one in maps][:2] == ["spatial", "spatial, minus initial"]


def test_an_album_follows_its_manifest(tmp_path):
    explained(tmp_path, ["a.jpg"])
    asked = client(tmp_path)
    (row,) = asked.get("/data/album").json()["ablation"]["rows"]
    assert row == {"attention": "16.0", "frozen": 0.39, "removed": 0.31}
    explained(tmp_path, ["a.jpg", "b.jpg"], ablation=None)
    found = asked.get("/data/album").json()
    assert [image["name"] for image in found["images"]] == ["a.jpg", "b.jpg"]
    assert found["ablation"] is None
    picture = found["images"][1]["picture"]
    assert asked.get(f"/picture/map/{picture}").content == (tmp_path / "pictures/1.jpg").read_bytes()


# What is refused -----------------------------------------------------------------------------------------------------

NASTY = [
    *("/../plan.yaml", "/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"),
    *("/etc/passwd", "/plan.yaml", "/results.json", "/cells", "/data.json", "/data/../plan.yaml", "/data/data.yaml"),
    *("/picture/../plan.yaml", "/picture/..%2f..%2fplan.yaml", "/picture/photo/../../plan.yaml", "/picture/photo//0"),
    *("/picture/photo/%2e%2e%2fplan.yaml", "/picture/photo/..%5c..%5cplan.yaml", "/picture/photo/%00"),
    *("/picture/photo/-1", "/picture/photo/0%00.png", "/picture/photo/+0", "/picture/photo/0x0", "/picture/photo/1e0"),
    *(
        "/picture/photo/٠",
        "/picture/photo/²",
        "/picture/photo/" + "9" * 5000,
        "/picture/photo/99",
        "/picture/photo/0/",
        "/picture/photo/",
    ),
    *("/picture/map/1/0", "/picture/map/1/..%2f..%2fplan.yaml", "/picture/map/0/0", "/picture/map/..%2f/0"),
    *("/picture/file:%2f%2f%2fetc%2fpasswd", "/picture/%2fetc%2fpasswd", "/data/%2fetc%2fpasswd", "/data/image/1/0/99"),
    *("/data/image/1/9/0", "/data/image/0/0/0", "/data/image/1/0", "/data/images/-1", "/data/images/1/../1/x"),
    *("/data/progress/..", "/report.html/..%2fplan.yaml", "/report.html/", "/%252e%252e%252fplan.yaml", "/view.py"),
    *("/static/../view.py", "/templates/view.html", "/.%00./plan.yaml", "/C:%5cwindows%5cwin.ini", "/data/_now"),
]


def test_no_path_leads_out_of_what_is_offered(small):
    with serving(small) as address:
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        for path in NASTY:
            # By hand: every client of comfort tidies such paths before it sends them.
            with socket.create_connection((host, int(port)), timeout=10) as line:
                line.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda line=line: line.recv(65536), b""))
            status, _, body = answer.partition(b"\r\n\r\n")
            assert status.split()[1] in (b"404", b"400"), (path, status)
            assert len(body) < 100, (path, body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_nothing_but_reading_is_answered(template, method):
    asked = client(template)
    for path in ("/", "/data/progress", "/picture/photo/0", "/report.html"):
        assert asked.request(method, path).status_code == 405
    assert asked.head("/picture/photo/0").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "10.0.0.1"])
def test_other_names_than_this_machine_are_refused(template, host):
    asked = client(template)
    answer = asked.get("/data/progress", headers={"host": host})
    assert answer.status_code == 400
    assert "arms" not in answer.text
    for name in ("localhost", "127.0.0.1", "localhost:8123"):
        assert asked.get("/data/progress", headers={"host": name}).status_code == 200


def test_every_answer_carries_the_headers(small):
    (small / "cells").rename(small / "elsewhere")
    asked = client(small, raise_server_exceptions=False)
    answers = [asked.get(path) for path in ("/", "/view.js", "/view.css", "/data/progress", "/picture/photo/0", "/no")]
    answers += [asked.post("/"), asked.get("/", headers={"host": "evil.example"}), asked.get("/data/image/1/0/0")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith(
            "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; connect-src 'self'"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
    policy = asked.get("/report.html").headers.get_list("content-security-policy")
    assert len(policy) == 1
    assert "script" not in policy[0]
    assert "sandbox" in policy[0]


def test_the_report_and_the_gates_it_leads_to_are_served_and_no_other_file(small):
    asked = client(small)
    gates = study_gates.gates_folder(small, "ema@neck")
    address = "/gates/ema%40neck/index.html"
    assert asked.get(address).status_code == 404
    explained(gates, ["0001.png"])
    (gates / "index.html").write_text("<p>gates")
    for path, text in ((address, "<p>gates"), ("/report.html", (small / "report.html").read_text())):
        answer = asked.get(path)
        assert (answer.status_code, answer.text) == (200, text)
        assert answer.headers["content-security-policy"] == view.PAGE_POLICY
    (gates / "other.html").write_text("other")
    others = ["plan.yaml", "results.json", "gates/ema@neck", "gates/ema@neck/other.html"]
    others += ["gates/ema@neck/manifest.json", "gates/baseline/index.html", "gates/x/%2e%2e/ema@neck/index.html"]
    for name in [*others, "%2e%2e/plan.yaml", "//plan.yaml"]:
        assert asked.get(f"/{name}").status_code == 404, name
    (gates / "index.html").unlink()
    (gates / "index.html").symlink_to("/etc/hostname")
    assert asked.get(address).status_code == 404


def test_links_out_of_the_folder_and_files_that_are_no_pictures_are_not_served(small, tmp_path):
    asked = client(small)
    assert asked.get("/data/progress").json()["page"] is True
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    picture = tmp_path / "outside.png"
    Image.new("RGB", (8, 8)).save(picture)
    (small / "report.html").unlink()
    (small / "report.html").symlink_to(secret)
    (small / "data/images/val/0000.png").unlink()
    (small / "data/images/val/0000.png").symlink_to(secret)
    gates = study_gates.gates_folder(small, "ema@neck")
    manifest = explained(gates, ["0001.png"])
    (gates / "pictures/link.png").symlink_to(picture)
    (gates / "pictures/note.png").write_text("secret")
    wanted = ("../../plan.yaml", str(picture), "pictures/link.png", "pictures/../../../x", "pictures/\0", 7, None, "")
    like = manifest["images"][0]["gates"][0]
    manifest["images"][0]["gates"] = [{**like, "picture": one} for one in (*wanted, "pictures/note.png")]
    (gates / "manifest.json").write_text(json.dumps(manifest))
    assert asked.get("/report.html").status_code == 404
    assert asked.get("/data/progress").json()["page"] is False
    maps = asked.get("/data/image/1/0/1").json()["maps"]
    assert [one["picture"] for one in maps[: len(wanted)]] == [None] * len(wanted)
    for path in (maps[len(wanted)]["picture"], "picture/photo/0"):
        answer = asked.get(f"/{path}")
        assert answer.status_code == 409
        assert answer.json()["message"].endswith("is no picture that a browser can show")
        assert "secret" not in answer.text
    gates.rename(tmp_path / "gates")
    gates.symlink_to(tmp_path / "gates")
    assert asked.get("/data/image/1/0/1").json()["maps"] == []
    assert asked.get("/picture/map/1/0").status_code == 404


# Damage --------------------------------------------------------------------------------------------------------------


def test_a_folder_with_nothing_to_show_is_refused_at_the_start(tmp_path, small):
    with pytest.raises(UserError, match=r"neither plan.yaml nor manifest.json"):
        view.application(tmp_path)
    with pytest.raises(UserError, match=r"neither plan.yaml nor manifest.json"):
        view.application(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text('{"kind": "expl')
    with pytest.raises(UserError, match=r"manifest.json cannot be read: JSONDecodeError"):
        view.application(tmp_path)
    shutil.rmtree(small / "data/images/val")
    with pytest.raises(UserError, match=r"data file .* cannot be used"):
        view.application(small)
    (small / "plan.yaml").write_text("model: [")
    with pytest.raises(UserError, match=r"the plan .* is not YAML"):
        view.application(small)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"images": 5},
        {"images": [5]},
        {"attentions": []},
        {"attentions": None},
        {"ablation": {"rows": 3}},
        {"images": [{"name": "a", "picture": None, "width": "wide", "height": 3}]},
        {"images": [{"name": "a", "picture": None, "width": float("nan"), "height": 3}]},
    ],
    ids=str,
)
def test_a_manifest_that_is_none_is_named(tmp_path, changes):
    explained(tmp_path, ["a.jpg"])
    asked = client(tmp_path)
    explained(tmp_path, ["a.jpg"], **changes)
    answer = asked.get("/data/album")
    assert answer.status_code == 409
    assert answer.json()["message"].startswith(f"{tmp_path / 'manifest.json'} cannot be read: ")
    explained(tmp_path, ["a.jpg"])
    assert asked.get("/data/album").status_code == 200


def test_damaged_files_give_a_sentence_and_the_rest_is_shown(small):
    study = Study(small)
    asked = client(small)
    paths = {(cell.arm.name, cell.pair): study.path(cell) for cell in study.cells}
    broken = paths["ema@neck", 0] / "best.npz"
    broken.write_bytes(broken.read_bytes()[:200])
    found = asked.get("/data/images/1").json()
    assert found["seeds"] == [1]
    assert found["notes"][0].startswith(f"cannot read detections from {broken}")
    assert asked.get("/data/image/1/0/0").json()["message"].startswith(f"cannot read detections from {broken}")
    assert asked.get("/data/image/1/1/0").status_code == 200

    values = vars(Detections.load(paths["ema@neck", 1] / "best.npz"))
    for changes in (
        {"image": values["image"] + 100},
        {"box": values["box"][:, :3]},
        {"true_label": values["true_label"][:-1]},
        {"confidence": values["confidence"] * np.nan},
        {"name": np.array("one")},
        {"image": values["image"].astype(float)},
    ):
        Detections(**{**values, **changes}).save(paths["ema@neck", 1] / "best.npz")
        os.utime(paths["ema@neck", 1] / "best.npz", ns=(time.time_ns(), time.time_ns()))
        answer = asked.get("/data/image/1/1/0")
        assert answer.status_code == 409, changes
        assert answer.json()["message"].endswith("best.npz holds no detections")

    (paths["A/A", 0] / RESULT).write_text('{"arm": ')
    (paths["A/A", 0] / "results.csv").write_bytes(b"\xff\x00\xfe" * 50)
    half = json.loads((paths["A/A", 1] / RESULT).read_text())
    (paths["A/A", 1] / RESULT).write_text(json.dumps({**half, "scores": {"map": "high"}, "seconds": None}))
    (small / "results.json").write_text((small / "results.json").read_text()[:3000])
    found = asked.get("/data/progress").json()
    states = {(cell["arm"], cell["seed"]): cell for cell in found["cells"]}
    for where in (("A/A", 0), ("A/A", 1)):
        assert states[where]["state"] == "failed"
        assert states[where]["reason"].startswith(f"files in {paths[where]} cannot be read: ")
    assert states["baseline", 0]["state"] == "finished"
    assert found["verdict"]["problem"].startswith(f"{small / 'results.json'} cannot be read: JSONDecodeError")
    (small / "results.json").write_text("{}")
    assert "KeyError" in asked.get("/data/progress").json()["verdict"]["problem"]


def test_a_plan_that_breaks_meanwhile_gives_a_sentence_until_it_is_whole(small):
    asked = client(small)
    plan = (small / "plan.yaml").read_text()
    (small / "plan.yaml").unlink()
    assert "it has no plan.yaml" in asked.get("/data/progress").json()["message"]
    (small / "plan.yaml").write_text("arms: {")
    answer = asked.get("/data/progress")
    assert answer.status_code == 409
    assert answer.json()["hint"] == "write for example 'model: yolo11n.pt'"
    (small / "plan.yaml").write_text(plan)
    assert asked.get("/data/progress").status_code == 200


def test_a_fault_of_ours_is_one_line_and_the_server_goes_on(template, monkeypatch, capsys):
    asked = client(template, raise_server_exceptions=False)
    with monkeypatch.context() as patch:
        patch.setattr(view_study.Watched, "_progress", lambda *_: 1 / 0)
        answer = asked.get("/data/progress")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert capsys.readouterr().err == "/data/progress: ZeroDivisionError: division by zero\n"
    assert asked.get("/data/progress").status_code == 200


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_its_address_and_ctrl_c_is_no_failure(tmp_path):
    explained(tmp_path, ["a.jpg"])
    code = "import typer; from foveal.cli.view import view; app = typer.Typer(); app.command()(view); app()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            address = running.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address), running.stderr.read()
            host, port = address.removeprefix("http://").rstrip("/").split(":")
            with socket.create_connection((host, int(port)), timeout=10) as line:
                line.sendall(f"GET /data/album HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert line.recv(100).startswith(b"HTTP/1.1 200")
                with pytest.raises(UserError, match=f"cannot listen on port {port}: Address already in use"):
                    view.serve(tmp_path, int(port), print)
                running.send_signal(signal.SIGINT)  # while a browser still holds a line
                said = running.communicate(timeout=20)
        finally:
            running.kill()
    assert (running.returncode, *said) == (0, "", "")


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    from foveal.cli import view as cli_view

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else True)
    with pytest.raises(UserError, match="the page needs uvicorn, which is not installed") as refusal:
        cli_view.view(tmp_path)
    assert refusal.value.hint == "pip install 'foveal[view]'"


def test_the_page_names_no_other_place():
    for path in view.STATIC.glob("view.*"):
        assert set(re.findall(r"\w+://[^\s\"']+", path.read_text())) <= {"http://www.w3.org/2000/svg"}, path


# In a browser --------------------------------------------------------------------------------------------------------

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
OPTIONS += ["--disable-sync", "--no-first-run"]


@contextlib.contextmanager
def serving(folder: Path):
    """The page's address while a server runs in this process."""
    with view._listening(0) as door:
        config = uvicorn.Config(view.application(folder), log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield f"{HOST}:{door.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=OPTIONS)
        yield running
        running.close()


@pytest.fixture
def visit(browser):
    """A function that opens the page of a folder; afterwards only this machine was asked and nothing complained."""
    with contextlib.ExitStack() as servers:
        requests, complaints, addresses = [], [], []

        def visit(folder, width=1280, **more):
            addresses.append(servers.enter_context(serving(folder)))
            page = browser.new_page(viewport={"width": width, "height": 900}, **more)
            servers.callback(page.close)
            page.set_default_timeout(10_000)
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("dialog", lambda dialog: complaints.append(dialog.message))
            page.goto(addresses[-1])
            page.wait_for_selector("#sides figure")
            return page

        yield visit
        assert complaints == []
        assert requests
        for url in requests:
            assert url.startswith((*addresses, "data:")), url


def until(page, condition: str) -> None:
    """Wait for it in here: in the page, its policy forbids Playwright to."""
    end = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def chosen(page) -> str:
    return page.inner_text("#list [aria-current] span")


@pytest.mark.slow
def test_clicking_through_a_study(visit, small):
    page = visit(small)
    assert page.inner_text("#lead").startswith("ema@neck: equivalent within ±1.0 points.")
    assert page.inner_text("#summary") == "6 of 6 runs finished."
    assert page.locator("#runs tbody tr").count() == 3
    assert page.locator("#runs tbody td svg polyline").count() == 6
    assert page.inner_text("#count").startswith("6 images of val: ema@neck does better than the baseline on ")
    assert chosen(page) == "0000.png"
    captions = page.locator("figcaption").all_inner_texts()
    assert [caption.split()[0] for caption in captions] == ["baseline", "ema@neck"]
    assert page.locator("figure").nth(0).locator("rect.missed").count() > 0
    assert page.locator("figure").nth(1).locator("rect.missed").count() == 0
    assert page.locator("figure").nth(1).locator("rect.found").count() > 0
    # A confidence at which nothing is left.
    page.fill("#confidence", "0.95")
    assert page.locator("rect.found, rect.wrong").count() == 0
    assert page.inner_text("output") == "0.95"
    page.fill("#confidence", "0.25")
    page.uncheck("#truth")
    assert page.locator("rect.missed, rect.true").count() == 0
    page.check("#names")
    assert page.locator(".frame text").count() > 0
    # Another arm, seed and image.
    page.select_option("#seed", label="1")
    until(page, "document.querySelector('figcaption').textContent.includes('seed 1')")
    page.select_option("#arm", label="A/A")
    until(page, "document.querySelectorAll('figcaption')[1].textContent.startsWith('A/A')")
    assert "A/A has no attention" in page.inner_text(".maps")
    page.click("#list li:nth-child(3) button")
    until(page, "document.querySelector('#list li:nth-child(3) button').hasAttribute('aria-current')")
    page.click("text=The whole report")
    page.wait_for_url("**/report.html")
    assert page.locator("h1").inner_text().startswith("ema@neck")
    assert page.evaluate("getComputedStyle(document.querySelector('main')).maxWidth") != "none"  # its style is applied


@pytest.mark.slow
def test_keys_and_the_focus(visit, small):
    explained(study_gates.gates_folder(small, "ema@neck"), [f"{index:04}.png" for index in range(IMAGES)])
    page = visit(small)
    names = page.locator("#list button span:first-child").all_inner_texts()
    pressed = ("j", "ArrowDown", "ArrowRight", "k", "ArrowUp", "ArrowLeft", "k")
    for key, place in zip(pressed, (1, 2, 3, 2, 1, 0, 0), strict=True):
        page.keyboard.press(key)
        until(page, f"document.querySelector('#title').textContent.startsWith({json.dumps(names[place])})")
        assert chosen(page) == names[place]
    page.keyboard.press("a")
    assert [text.split()[0] for text in page.locator("figcaption").all_inner_texts()] == ["baseline"]
    page.keyboard.press("b")
    assert [text.split()[0] for text in page.locator("figcaption").all_inner_texts()] == ["ema@neck"]
    page.keyboard.press("b")
    assert page.locator("figure").count() == 2
    page.keyboard.press("s")
    until(page, "document.querySelector('figcaption').textContent.includes('seed 1')")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("j")  # not while the keys are read
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    assert chosen(page) == names[0]
    # Gates: g one after the other, then none; hover; focus.
    page.keyboard.press("g")
    assert page.locator(".frame .map").get_attribute("alt") == "spatial, ema in row 16, C3k2"
    assert "mean0.510" in page.inner_text(".numbers").replace("\n", "").replace(" ", "")
    for _ in range(4):
        page.keyboard.press("g")
    assert page.locator(".frame .map").count() == 0
    page.hover("figure:last-child .frame")
    assert page.locator(".frame .map").count() == 1
    page.hover("h1")
    assert page.locator(".frame .map").count() == 0
    page.focus("[data-map='1']")
    page.wait_for_selector(".frame .map.apart")  # bars are not laid over the photograph
    page.keyboard.press("Enter")
    assert page.get_attribute("[data-map='1']", "aria-pressed") == "true"
    # Tab reaches every control in order, and what has the focus can be seen.
    page.evaluate("document.activeElement.blur()")
    page.focus("#arm")
    page.keyboard.press("ArrowDown")  # changes the arm, not the image
    until(page, "document.querySelectorAll('figcaption')[1].textContent.startsWith('A/A')")
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", seen
    assert seen == ["seed", "confidence", "truth", "names", "help", "BUTTON"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_clicking_through_a_study_of_classifiers(visit, classified, width):
    labels = [str(classified / f"data/val/{label}/0.png") for label in CLASSES]
    explained(study_gates.gates_folder(classified, "ema@backbone"), labels)
    page = visit(classified, width=width)
    assert page.inner_text("#measure").startswith("The lines are top-1 accuracy by epoch")
    assert page.locator("#runs tbody td .state").all_inner_texts() == ["0.800"] * 6
    assert "By whether the first answer is right, averaged over 2 seeds" in page.inner_text("#count")
    assert page.inner_text("#title") == "apple/0.png: +1.00"
    assert page.inner_text("#class") == "True class: apple"
    captions = page.locator("figcaption span").all_inner_texts()
    assert captions == ["wrong, the true class is not among the first 5; with seed 0", "right; with seed 0"]
    assert page.locator("figure:last-child .answers li").all_inner_texts()[0] == "apple true class"
    assert page.locator(".answers li").count() == 10
    assert page.locator(".answers .right").count() == 1
    page.keyboard.press("j")
    until(page, "document.querySelector('#title').textContent === 'fig/0.png: +0.50'")
    page.keyboard.press("s")
    until(page, "document.querySelector('figcaption span').textContent.endsWith('with seed 1')")
    captions = page.locator("figcaption span").all_inner_texts()
    assert captions == ["wrong, the true class is answer 3; with seed 1"] * 2
    for key in ("t", "n"):  # there are no boxes
        page.keyboard.press(key)
    page.keyboard.press("g")
    until(page, "document.querySelector('.frame .map').naturalWidth === 96")
    page.keyboard.press("a")
    assert page.locator("figure").count() == 1
    assert page.locator("#tools input, .legend, .frame svg").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.slow
def test_an_explained_classifier_has_answers_instead_of_boxes(visit, tmp_path):
    manifest = explained(tmp_path / "one", ["a.jpg"], task="classify")
    given = [{"label": "<i>apple", "confidence": 0.75}, {"label": "pear", "confidence": 0.125}]
    manifest["images"][0] |= {"classes": given, "boxes": [], "true_boxes": None}
    (tmp_path / "one/manifest.json").write_text(json.dumps(manifest))
    page = visit(tmp_path / "one")
    assert page.locator(".answers li").all_inner_texts() == ["<i>apple 0.75", "pear 0.13"]
    assert page.locator("#tools input, .legend, .frame svg").count() == 0
    page.keyboard.press("g")
    until(page, "document.querySelector('.frame .map').naturalWidth === 96")


@pytest.mark.slow
def test_a_study_under_way_goes_on_without_a_reload(visit, small):
    study = Study(small)
    cell = study.cells[-1]
    kept = small.parent / "kept"
    shutil.move(study.path(cell), kept)
    progress(study, cell, [0.1])
    with locked(study.path(cell)):
        page = visit(small)
        assert page.inner_text("#summary") == "5 of 6 runs finished: 1 running, about 45 s left."
        assert page.inner_text("td.running .state") == "running 1/4"
        assert page.inner_text("#lead").startswith("So far: ema@neck: equivalent within ±1.0 points.")
        page.evaluate("window.kept = true")
        progress(study, cell, [0.1, 0.2, 0.3])
        until(page, "document.querySelector('td.running .state').textContent === 'running 3/4'")
        assert page.get_attribute("td.running svg", "aria-label") == "mAP50-95 after 3 epochs: 0.300"
    shutil.rmtree(study.path(cell))
    shutil.move(kept, study.path(cell))
    until(page, "document.querySelector('#summary').textContent === '6 of 6 runs finished.'")
    assert page.evaluate("window.kept")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_an_explained_folder_with_evil_names_on_a_narrow_and_a_wide_screen(visit, tmp_path, width):
    evil = "<img src=x onerror=alert(1)>.jpg"
    folder = tmp_path / "explained <b>"
    explained(folder, [evil, "b" * 200 + ".jpg"], model="<script>alert(1)</script>")
    page = visit(folder, width=width, color_scheme="dark")
    assert page.inner_text("h1") == "explained <b>"
    assert html.escape(evil) in page.inner_html("#list")
    assert page.inner_text("#lead") == "Gates of <script>alert(1)</script>."
    assert page.locator("#ablation td").all_inner_texts() == ["0.4000", "0.3900", "0.3100"]
    assert page.locator(".maps button").count() == 4
    page.focus("[data-map='0']")
    until(page, "document.querySelector('.frame .map').naturalWidth === 96")
    frame, box = (page.locator(name).first.bounding_box() for name in (".frame", ".frame rect.found"))
    assert box["x"] - frame["x"] == pytest.approx(frame["width"] * 10 / 192, abs=2)
    page.keyboard.press("j")
    until(page, "document.querySelector('#title').textContent.startsWith('bbb')")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(21, 24, 27)"
