"""What the host's validators keep of masks, key points and rotated boxes: its own averages, areas, outlines, places.

What a model says is told here: the truth, moved a little, so that hits are of every kind and nothing must be trained.
"""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import torch
from PIL import Image

import data as drawings
from foveal import UserError
from foveal.evidence import DRAWN, TASKS, THRESHOLDS, Masks, Poses, Rotated, iou
from foveal.hosts.ultralytics import dataset, matching, modelfile, models, validators
from helpers import swept

pytestmark = pytest.mark.host

ENDS = {"segment": "-seg", "pose": "-pose", "obb": "-obb", "detect": ""}
TIMES = 3  # detections to an object
IMAGES = 7


def built(task: str, folder: Path) -> Path:
    """A fresh model of two classes, in a file."""
    more = {"data_kpt_shape": (2, 3)} if task == "pose" else {}
    kind = type(models.load(f"yolo11n{ENDS[task]}.yaml").model)
    model = kind(f"yolo11n{ENDS[task]}.yaml", nc=2, verbose=False, **more)
    model.names, model.task, model.args = dict(enumerate(drawings.THINGS)), task, {"task": task}
    torch.save(models.checkpoint(model, {"train_args": {"task": task}}), folder / "model.pt")
    return folder / "model.pt"


def telling(validator: type) -> type:
    """The validator whose model says the truth, each object several times, moved and sometimes called another thing."""
    random = np.random.default_rng(0)

    def moved(tensor: torch.Tensor, by: float) -> torch.Tensor:
        return tensor + torch.from_numpy(random.normal(0, by, tuple(tensor.shape))).to(tensor)

    class Telling(validator):
        def preprocess(self, batch):
            self.batch = super().preprocess(batch)
            return self.batch

        def postprocess(self, preds):
            return [self.told(index) for index in range(len(self.batch["im_file"]))]

        def told(self, index):
            copies = {key: of.clone() if isinstance(of, torch.Tensor) else of for key, of in self.batch.items()}
            true = self._prepare_batch(index, copies)
            again = [number for number in range(len(true["cls"])) for _ in range(TIMES)]
            boxes = moved(true["bboxes"][again], 2)
            if boxes.shape[1:] == (5,):
                boxes[:, 4] = moved(true["bboxes"][again][:, 4], 0.1)
            other = torch.from_numpy(random.random(len(again)) < 0.2)
            labels = torch.where(other, 1 - true["cls"][again], true["cls"][again])
            confidence = torch.from_numpy(random.choice([0.001, 0.04, 0.3, 0.6, 0.6, 0.9], len(again))).float()
            found = {"bboxes": boxes, "conf": confidence, "cls": labels}
            if "keypoints" in true:
                found["keypoints"] = moved(true["keypoints"][again], 6)
            if "masks" in true:
                moves = random.integers(-2, 3, (len(again), 2)).tolist()
                rolled = [true["masks"][number].roll(move, (0, 1)) for number, move in zip(again, moves, strict=True)]
                found["masks"] = torch.stack(rolled).float() if rolled else true["masks"][again].float()
            return found

    return Telling


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """What is kept of each task, and the host's averages; images are letterboxed and a batch is not full."""
    kept = {}

    def of(task: str):
        if task not in kept:
            folder = tmp_path_factory.mktemp(task)
            data = drawings.draw_things(folder / "data", task, 2, IMAGES)
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(validators._VALIDATORS, task, telling(validators._VALIDATORS[task]))
                settings = {"imgsz": 160, "batch": 3, "device": "cpu", "workers": 0}
                file = modelfile.opened(built(task, folder))
                kept[task] = validators.evaluate(file, str(data), "val", folder / "out", **settings)
        return kept[task]

    return of


@pytest.mark.parametrize("model", swept(["yolov8n-rtdetr.yaml", "yolo11n.yaml"], "yolov8n-rtdetr.yaml"))
def test_boxes_are_kept_in_pixels_of_an_image_that_is_no_square(model, tmp_path):
    data = drawings.draw_things(tmp_path / "data", "detect", 2, 2)
    for image in (tmp_path / "data/images/val").iterdir():
        Image.open(image).resize((200, 100)).save(image)
    file = tmp_path / model.replace(".yaml", ".pt")
    torch.save(models.checkpoint(models.load(model).model, {}), file)
    settings = {"imgsz": 160, "batch": 2, "device": "cpu", "workers": 0, "conf": 1e-9}
    found, _ = validators.evaluate(modelfile.opened(file), str(data), "val", tmp_path / "out", **settings)
    lines = (tmp_path / "data/labels/val/000.txt").read_text().splitlines()
    x, y, width, height = np.array([line.split()[1:] for line in lines], float).T
    edges = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1) * (200, 100, 200, 100)
    assert np.abs(found.true_box - edges).max() < 0.01
    assert found.box[:, [0, 2]].max() > 101  # what lies beyond the height of an image
    assert found.box[:, [1, 3]].max() <= 100


@pytest.mark.parametrize("task", ENDS)
def test_averages_of_what_is_kept_are_the_hosts(judged, task, tmp_path):
    found, theirs = judged(task)
    assert type(found) is TASKS[task].evidence
    assert found.is_whole()
    keys = {key for metric in TASKS[task].metrics for key in (metric.key, metric.second_key)}
    assert theirs.keys() == found.figures().keys() == keys
    assert max(abs(theirs[key] - ours) for key, ours in found.figures().items()) <= 1e-9
    assert len({round(value, 4) for value in theirs.values()}) > 1, "each is another"
    assert all(0.05 < value < 0.95 for value in theirs.values()), theirs
    found.save(tmp_path / "best.npz")
    again = type(found).load(tmp_path / "best.npz")
    assert again.figures() == found.figures()
    counts = np.ones((1, IMAGES), int)
    for metric in TASKS[task].metrics:
        averages = again.averages(counts, True, metric.of)
        assert averages["overall"][0] == pytest.approx(theirs[metric.key], abs=1e-9)
        others = [one.key for one in TASKS[task].metrics if one is not metric]
        assert [averages[f"overall_{key}"][0] for key in others] == pytest.approx([theirs[key] for key in others])


@pytest.mark.parametrize("task", ENDS)
def test_detections_fall_in_confidence_and_know_their_image(judged, task):
    found, _ = judged(task)
    assert (np.diff(found.confidence) <= 0).all()
    assert found.name.tolist() == [f"{index:03}.png" for index in range(IMAGES)]
    assert np.bincount(found.true_image, minlength=IMAGES).tolist() == [2] * (IMAGES - 1) + [0]
    assert np.bincount(found.image, minlength=IMAGES).tolist() == [2 * TIMES] * (IMAGES - 1) + [0]


@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_what_the_host_measured_finds_what_it_finds(judged, task):
    """The best of the host's hits at 0.5 is one of ours, and overlaps join things of one image and class."""
    found, _ = judged(task)
    of = found.matched_by[0]
    detections, things = found.pair.T
    assert (found.image[detections] == found.true_image[things]).all()
    assert (found.label[detections] == found.true_label[things]).all()
    assert (found.overlap >= THRESHOLDS[0]).all()
    for place, threshold in enumerate(THRESHOLDS):
        hits = np.flatnonzero(found.hits(of)[:, place])
        reached = {*detections[found.overlap >= threshold - 1e-6]}
        assert {*hits} <= reached
        assert {*found.true_image[things[np.isin(detections, hits)]]} <= {*found.image[hits]}
    taken = found.taken(np.arange(len(found.image)), of)
    assert (taken >= 0).any()
    assert (found.true_image[taken[taken >= 0]] == found.image[taken >= 0]).all()


def test_masks_have_areas_and_outlines_in_pixels_of_the_image(judged):
    found, _ = judged("segment")
    assert isinstance(found, Masks)
    # Corners of what is drawn are not on the grid: a mask may miss a cell, of 2.4 pixels, at each side.
    for thing in range(len(found.true_image)):
        (line,) = found.true_drawn(thing)["lines"]
        line = np.array(line)
        edges = np.array([*line.min(0), *line.max(0)])
        assert np.abs(edges - found.true_box[thing]).max() < 5
        x, y = line.T
        inside = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        assert inside == pytest.approx(found.true_area[thing], rel=0.25)
    sure = np.flatnonzero(found.confidence >= DRAWN)
    assert {*found.owner} == {*sure}, "faint ones are not drawn"
    assert found.area[sure] == pytest.approx([abs(_area(found.drawn(int(one))["lines"])) for one in sure], rel=0.4)
    assert found.objects() == {"small": 2 * (IMAGES - 1), "medium": 0, "large": 0}


def _area(lines: list) -> float:
    x, y = np.array(lines[0]).T
    return (np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_a_mask_with_a_hole_has_two_lines():
    mask = np.zeros((20, 30), bool)
    mask[3:15, 5:25] = True
    mask[6:12, 10:20] = False
    lines = matching._lines(mask)
    bounds = sorted([*line.min(0), *line.max(0)] for line in lines)
    assert np.abs(np.array(bounds) - [(5, 3, 25, 15), (10, 6, 20, 12)]).max() <= 0.25
    assert matching._lines(np.zeros((4, 4), bool)) == []


def test_key_points_are_places_in_the_image(judged, tmp_path):
    found, _ = judged("pose")
    assert isinstance(found, Poses)
    data = drawings.draw_things(tmp_path / "data", "pose", 2, IMAGES)
    written = [
        np.array(line.split(), float)
        for index in range(IMAGES)
        for line in (data.parent / f"labels/val/{index:03}.txt").read_text().splitlines()
    ]
    expected = np.array([line[5:].reshape(2, 3) * (drawings.SIDE, drawings.SIDE, 1) for line in written])
    order = np.lexsort((found.true_keypoint[:, 0, 0], found.true_image))
    mine = np.lexsort((expected[:, 0, 0], np.repeat(np.arange(IMAGES - 1), 2)))
    assert found.true_keypoint[order] == pytest.approx(expected[mine], abs=0.01)
    assert len(found.keypoint) == (found.confidence >= DRAWN).sum()
    near = [thing for thing in found.taken(np.arange(len(found.keypoint)), "keypoints")]
    apart = [
        np.abs(points[:, :2] - found.true_keypoint[thing][:, :2]).max()
        for points, thing in zip(found.keypoint, near, strict=True)
        if thing >= 0
    ]
    assert len(apart) > 5
    assert max(apart) < 20, "each has the points of its own detection"


def test_rotated_boxes_are_where_they_were_written(judged, tmp_path):
    found, _ = judged("obb")
    assert isinstance(found, Rotated)
    data = drawings.draw_things(tmp_path / "data", "obb", 2, IMAGES)
    for thing, image in enumerate(found.true_image):
        lines = (data.parent / f"labels/val/{image:03}.txt").read_text().splitlines()
        written = [np.array(line.split()[1:], float).reshape(4, 2) * drawings.SIDE for line in lines]
        (mine,) = found.true_drawn(thing)["lines"]
        apart = [max(np.abs(np.array(mine) - corner).max(1).min() for corner in one) for one in written]
        assert min(apart) < 0.1
    around = found.upright(found.true_box)
    assert np.diag(iou(around, around)) == pytest.approx(1)
    assert around.min() > -8


# Tasks and data ------------------------------------------------------------------------------------------------------


NAMES = [f"{name}{end}" for name in ("yolo11n", "yolov8n") for end in ("", *ENDS.values(), "-cls")]


@pytest.mark.parametrize("name", swept(dict.fromkeys(NAMES), "yolo11n-obb", "yolo11n-cls"))
def test_a_models_task_is_known_without_building_it(name, tmp_path):
    expected = models.load(f"{name}.yaml").task
    assert models.task(f"{name}.yaml").name == models.task(f"{name}.pt").name == expected
    torch.save(models.checkpoint(models.load(f"{name}.yaml").model, {}), tmp_path / "mine.pt")
    assert models.task(str(tmp_path / "mine.pt")).name == expected
    torch.save({"epoch": 1}, tmp_path / f"{name}.pt")
    assert models.task(str(tmp_path / f"{name}.pt")).name == expected, "by its name, where it holds no model"


@pytest.mark.parametrize("task", ["segment", "obb"])
def test_labels_that_are_boxes_are_refused_for_tasks_with_outlines(task, tmp_path):
    data = str(drawings.draw_things(tmp_path / "data", "detect", 2, 2))
    with pytest.raises(UserError, match=f"train of .* cannot be used for {task}: not every label of it is"):
        dataset.Data(data, task=task).scan(("train",))
    assert dataset.Data(data).scan(("train",)) == {}


def test_data_without_key_points_are_refused_for_poses(tmp_path):
    data = str(drawings.draw_things(tmp_path / "data", "detect", 2, 2))
    with pytest.raises(UserError, match=r"has no key points: .* how many an object has; kpt_shape: \[17, 3\]"):
        dataset.Data(data, task="pose").scan(("train",))
    data = str(drawings.draw_things(tmp_path / "poses", "pose", 2, 2))
    assert dataset.Data(data, task="pose").scan(("train", "val")) == {}
    assert dataset.Data(data).more == {"channels": 3, "kpt_shape": [2, 3], "flip_idx": [0, 1]}


def test_what_nothing_is_kept_of_is_refused(tmp_path):
    if not hasattr(models.tasks, "DepthModel"):
        pytest.skip("this release of Ultralytics has no models for depth")
    model = models.load("yolo26n-depth.yaml").model
    torch.save(models.checkpoint(model, {"train_args": {"task": "depth"}}), tmp_path / "depth.pt")
    with pytest.raises(UserError, match="what a model for depth says is not judged here; judge it with yolo depth val"):
        validators.evaluate(modelfile.opened(tmp_path / "depth.pt"), "data.yaml", "val", tmp_path)
