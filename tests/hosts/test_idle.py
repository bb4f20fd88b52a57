"""Arguments that the host's training does not read: to change all of them at once changes nothing."""

import csv

import pytest
import torch

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import ultralytics

from foveal.audit.findings import ELSEWHERE
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import idle
from foveal.results.fairness import OWN
from foveal.study import demo
from helpers import in_fresh_process

pytestmark = pytest.mark.host

TRAIN = {
    "epochs": 1,
    "close_mosaic": 0,
    "imgsz": 64,
    "batch": 4,
    "workers": 0,
    "device": "cpu",
    "optimizer": "SGD",
    "patience": 0,
}
COLUMNS = ("epoch", "train/box_loss", "train/cls_loss", "metrics/mAP50-95(B)", "val/box_loss", "val/cls_loss")
SAMPLES = {"format": "onnx", "source": "nowhere", "tracker": "bytetrack.yaml", "embed": [3], "nms": False}
SAMPLES |= {"split": "test"}  # which older hosts read for evaluations only


def test_what_says_how_to_train_is_read_and_what_other_modes_do_is_not():
    found = idle.arguments()
    assert found < host.grammar.DEFAULT_CFG_DICT.keys()
    decide = {"lr0", "mosaic", "imgsz", "classes", "single_cls", "freeze", "close_mosaic", "conf", "iou", "amp"}
    assert not found & decide
    assert found >= {"simplify", "workspace", "opset", "tracker", "format", "nms", "line_width", "vid_stride"}
    shown_or_saved = {name for name in host.grammar.DEFAULT_CFG_DICT if name.startswith(("show", "save_"))}
    assert shown_or_saved - found == {"save_period"}


@pytest.mark.seldom
def test_arguments_are_known_where_nobody_imported_the_trainers_home(tmp_path):
    code = "from foveal.hosts.ultralytics import idle; print('tracker' in idle.arguments())"
    assert in_fresh_process(code, tmp_path).split()[-1] == "True"


def other(name: str, value: object) -> object:
    """Another value of the same kind."""
    if name in SAMPLES:
        return SAMPLES[name]
    return not value if isinstance(value, bool) else 2 if value is None else value + 1


@pytest.mark.sweep
def test_idle_arguments_leave_a_training_as_it_is(tmp_path):
    data = demo.draw_data(tmp_path / "data", train=8, val=4)
    compared = idle.arguments() - {*OWN, *ELSEWHERE, "mode"}
    changed = {name: other(name, host.grammar.DEFAULT_CFG_DICT[name]) for name in compared}
    found = []
    # The first training of a process draws otherwise than those after it in older hosts, whatever its arguments.
    for name, more in (("first", {}), ("a", {}), ("b", changed), ("c", {"mosaic": 0.0})):
        settings = {"model": "yolo11n.yaml", "data": str(data), "project": str(tmp_path), "name": name, "plots": False}
        trainer = ultralytics.models.yolo.detect.DetectionTrainer(overrides={**settings, **TRAIN, **more})
        trainer.train()
        with (tmp_path / name / "results.csv").open(newline="") as file:
            table = [[row[key] for key in COLUMNS] for row in csv.DictReader(file)]
        found.append((trainer.model.state_dict(), table))
    _, (first, table), (second, same), (third, _) = found
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert table == same
    assert not all(torch.equal(tensor, third[name]) for name, tensor in first.items())  # what is read does change it
