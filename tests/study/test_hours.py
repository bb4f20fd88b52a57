"""How long a study takes, said before."""

import sys

import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from foveal.hosts.ultralytics import dataset
from foveal.study import Plan, hours
from foveal.study.demo import draw_data

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
