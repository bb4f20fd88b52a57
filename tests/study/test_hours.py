"""How long a study takes, said before."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from foveal import UserError
from foveal.hosts.ultralytics import dataset, load, steps
from foveal.hosts.ultralytics.arguments import TEACHERS
from foveal.study import Plan, hours
from foveal.study.demo import draw_data

P2 = Path(__file__).parents[2] / "studies" / "paper" / "yolo11n-p2.yaml"
PAPER = {"source": "a title", "figures": {"baseline": 70}, "images": {"train": 1000, "val": 100, "test": 10}}


@pytest.fixture
def measured(monkeypatch) -> list:
    """Arms that were measured; a step takes twice as long with an attention."""
    arms = []

    def seconds(plan, arm, device):
        arms.append(arm.name)
        return (2.0, 0.5) if arm.spec else (1.0, 0.25)

    monkeypatch.setattr(hours, "_seconds_an_image", seconds)
    return arms


def planned(data, folder, **changes) -> Plan:
    written = {"model": "yolo11n.yaml", "data": str(data), "arms": ["ema@neck"], "seeds": 3, "split": "val"}
    return Plan.of({**written, "train": {"epochs": 5, "imgsz": 64}, **changes}, folder, look=False)


def test_hours_are_images_times_epochs_times_seeds(tmp_path, measured):
    data = draw_data(tmp_path / "data", train=40, val=8)
    found = hours.forecast(planned(data, tmp_path), "cpu")
    # Val is judged after each epoch, by best.pt in the end, and for the verdict by both files.
    assert found.seconds == {"baseline": 40 * 5 + 0.25 * 8 * 8, "ema@neck": 2 * (40 * 5 + 0.25 * 8 * 8)}
    assert found.hours == pytest.approx(3 * sum(found.seconds.values()) / 3600)
    assert str(found).startswith("about 0.54 CPU hours by a measured step of each arm, 40 images in an epoch")
    assert measured == ["baseline", "ema@neck"]
    assert str(hours.forecast(planned(data, tmp_path, seeds="6..12"), "cpu")).startswith("at most 2.2 CPU hours")


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (12, "12 GPU hours"),
        (1.26, "1.3 GPU hours"),
        (0.1, "0.1 GPU hours"),
        (0.05, "3 GPU minutes"),
        (0.01, "36 GPU s"),
    ],
)
def test_short_times_are_minutes_and_seconds(of, said):
    assert str(hours.Forecast({}, of, 5, "cuda")).startswith(f"about {said}")


def test_images_that_are_not_here_are_counted_by_the_paper(tmp_path, measured, monkeypatch):
    asked = []
    for name in ("data.utils.safe_download", "data.utils.download", "utils.downloads.download"):
        monkeypatch.setattr(f"ultralytics.{name}", lambda *args, **_: asked.append(args))
    for room in (dataset, sys.modules["ultralytics.data.utils"]):
        monkeypatch.setattr(room, "DATASETS_DIR", tmp_path)
    for data in ("coco.yaml", "imagenet"):
        assert hours.forecast(planned(data, tmp_path), "cpu") is None
        found = hours.forecast(planned(data, tmp_path, paper=PAPER), "cpu")
        assert found.images == 1000
        assert found.seconds["baseline"] == 1000 * 5 + 0.25 * 100 * 8
    assert not asked
    dataset.described("coco.yaml", download=True)
    assert asked, "this would not have seen a download"


def test_a_device_that_is_elsewhere_is_not_measured(tmp_path, measured):
    data = draw_data(tmp_path / "data", train=4, val=2)
    assert hours.forecast(planned(data, tmp_path), "99") is None
    assert hours.forecast(planned(data, tmp_path), "mps") is None
    assert hours.forecast(planned(data, tmp_path), "cpu,cpu") is not None


def test_a_step_and_a_pass_are_measured(tmp_path, monkeypatch):
    """Real ones, and no file is left."""
    data = draw_data(tmp_path / "data", train=4, val=2)
    plan = planned(data, tmp_path)
    told = []
    found = hours.forecast(plan, "cpu", told.append)
    assert told == ["measuring a step of baseline", "measuring a step of ema@neck"]
    assert all(0.01 < seconds < 600 for seconds in found.seconds.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.skipif(not TEACHERS, reason="this release of Ultralytics has no teachers")
def test_a_step_of_a_taught_model_is_one_with_its_teacher(tmp_path, monkeypatch):
    data = draw_data(tmp_path / "data", train=4, val=2)
    for name, source in (("teacher", "yolo11n.yaml"), ("deeper", str(P2))):
        load(source).save(tmp_path / f"{name}.pt")
    arms = [{TEACHERS[0]: f"{name}.pt"} for name in ("teacher", "deeper")]
    plan = planned(data, tmp_path, arms=arms)
    baseline, taught, refused = (
        lambda arm=arm: plan.host.step(arm.model, None, plan.task, plan.complete(arm), 1, 64, torch.device("cpu"))
        for arm in plan.arms
    )
    passes = []
    predict = steps.models.tasks.DetectionModel.predict
    monkeypatch.setattr(
        steps.models.tasks.DetectionModel, "predict", lambda *given: passes.append(1) or predict(*given)
    )
    for one, models in ((baseline, 1), (taught, 2)):
        train, forward = one()
        for call, expected in ((train, models), (forward, 1)):  # judging needs the student alone
            passes.clear()
            call()
            assert len(passes) == expected
    with pytest.raises(UserError, match=r"deeper\.pt' cannot be used as a model: .* number of feature levels"):
        refused()
