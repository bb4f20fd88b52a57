"""Models of images with another number of channels than three: what is measured and drawn has as many as they read."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from ultralytics.nn.tasks import DetectionModel

import foveal
from foveal.bench import detectors
from foveal.deploy import checked_export
from foveal.explain import explanation
from foveal.hosts import ultralytics as host
from foveal.results import costs
from foveal.study import Arm, Plan, hours
from foveal.surgery import Spec
from helpers import swept

CHANNELS = (1, 4, 10)
CFG = {"nc": 1, "backbone": [[-1, 1, "Conv", [16, 3, 8]], [-1, 1, "C2f", [16]]], "head": [[[1], 1, "Detect", ["nc"]]]}


def model_file(folder: Path, channels: int) -> Path:
    """A small detector of images with so many channels, as the host saves it."""
    torch.manual_seed(0)
    model = DetectionModel(copy.deepcopy(CFG), ch=channels, nc=1, verbose=False)
    model.names, model.task, model.args = {0: "a"}, "detect", {"imgsz": 64, "task": "detect", "model": "a.yaml"}
    torch.save(host.checkpoint(model.eval(), {"train_args": model.args}), folder / f"of{channels}.pt")
    return folder / f"of{channels}.pt"


@pytest.fixture(params=swept(CHANNELS, "4"))
def channels(request) -> int:
    return request.param


@pytest.fixture
def attended(tmp_path, channels) -> Path:
    """With an attention, which `add` puts in without a difference."""
    added = foveal.add(model_file(tmp_path, channels), "se", at="1", output=tmp_path / "attended.pt")
    assert added.difference == 0
    assert host.channels(host.load(tmp_path / "attended.pt").model) == channels
    return tmp_path / "attended.pt"


def test_what_an_arm_costs_is_of_an_image_that_its_model_reads(attended, channels):
    baseline = Arm("baseline", "baseline", str(attended))
    plan = Plan(str(attended), "data.yaml", (baseline,), (0,), settings={"imgsz": 64})
    found = costs._Models(plan, {"baseline": attended}, {}).timed()["baseline"]
    assert found.milliseconds[0] > 0
    three = costs._Models(plan, {"baseline": model_file(attended.parent, 3)}, {}).counted()["baseline"]
    first = 2 * 16 * 9 * 8 * 8  # a multiply-accumulate of 16 filters of 3 x 3 at 8 x 8 places, for each channel
    assert abs(found.flops - three.flops - first * (channels - 3)) <= 2000  # of the attention


def test_a_busy_machine_gives_no_ratio():
    steady = {"baseline": [1.0, 1.1, 0.9, 1.0], "ema": [1.1, 1.2, 1.0, 1.1], costs.AGAIN: [1.0, 1.0, 1.0, 1.0]}
    assert costs._ratios(steady)["ema"][1] == pytest.approx(1.1, abs=0.02)
    # Its spread is a part of itself.
    assert "ema" not in costs._ratios(steady | {"ema": [1.0, 3.5, 5.0, 0.9]})
    assert "baseline" in costs._ratios(steady | {"ema": [1.0, 3.5, 5.0, 0.9]})
    # The baseline seems faster than itself.
    assert costs._ratios(steady | {costs.AGAIN: [0.8, 0.8, 0.8, 0.8]}) == {}
    assert costs._ratios({}) == {}


def test_whole_models_are_timed_on_images_that_they_read(attended, channels, monkeypatch):
    monkeypatch.setattr(detectors, "IMAGE_SIZE", 64)
    settings = {"dtype": ["float32"], "passes": ["forward", "train"], "rounds": 1, "seed": 0}
    rows = detectors.measure([str(attended)], [Spec.parse("se@1")], settings, torch.device("cpu"), lambda _: None)
    assert {row.mode for row in rows if row.milliseconds} == {"forward", "train"}


def test_a_forecast_takes_a_step_on_images_that_the_model_reads(attended):
    arm = SimpleNamespace(model=str(attended), spec=None, train={})
    settings = host.train_arguments({"imgsz": 64, "batch": 2})
    plan = Plan(str(attended), "data.yaml", (arm,), (0,), settings=settings)
    assert min(hours._seconds_an_image(plan, arm, torch.device("cpu"))) > 0


def test_an_export_is_compared_on_images_that_the_model_reads(attended, channels):
    found = checked_export.export(attended, format="torchscript", imgsz=64)
    assert found.cases
    assert not found.wrong


@pytest.mark.parametrize("channels", swept(CHANNELS, "1", "4"), indirect=True)
def test_attentions_are_explained_on_images_of_the_data(attended, channels, tmp_path):
    cv2 = pytest.importorskip("cv2")
    for kind in ("images", "labels"):
        (tmp_path / kind / "val").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, channels)).astype(np.uint8)
    planes = [np.ascontiguousarray(pixels[..., channel]) for channel in range(channels)]
    if channels == 1:
        Image.fromarray(planes[0]).save(tmp_path / "images/val/a.png")
    else:
        cv2.imwritemulti(str(tmp_path / "images/val/a.tiff"), planes)
    (tmp_path / "labels/val/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    data = {"path": str(tmp_path), "train": "images/val", "val": "images/val", "names": ["a"], "channels": channels}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    explanation.explain(attended, data=tmp_path / "data.yaml", output=tmp_path / "explained", imgsz=64)
    manifest = json.loads((tmp_path / "explained/manifest.json").read_text())
    assert manifest["images"][0]["width"] == 96
    assert manifest["ablation"]["rows"]
