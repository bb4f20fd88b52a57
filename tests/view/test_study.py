"""A study on the local page: its runs, its images, its classifiers, its gates."""

import io
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("starlette", reason="Starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

from PIL import Image

from foveal.evidence import Answers, Detections
from foveal.results import gates as study_gates
from foveal.study import Study, folder
from foveal.study.cell import FAILURE, RESULT, locked
from foveal.study.demo import IMAGE_SIZE
from views import CLASSES, IMAGES, client, explained, progress, tree

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
    assert found["stale"] == 6


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
