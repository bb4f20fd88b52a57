"""Plans made small."""

from pathlib import Path

import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from foveal import UserError
from foveal.hosts.ultralytics import dataset
from foveal.study import rehearsal
from foveal.study.demo import draw_data

TRAIN = {"epochs": 200, "imgsz": 32}
PLAN = {"model": "timm:resnet18", "data": "animals", "arms": ["ema"], "split": "test", "train": TRAIN}


@pytest.fixture
def classified(tmp_path) -> Path:
    """Thirty images of one class and ten of another in train, five of each in test."""
    for split, numbers in (("train", (30, 10)), ("test", (5, 5))):
        for name, number in zip(("cat", "dog"), numbers, strict=True):
            folder = tmp_path / "animals" / split / name
            folder.mkdir(parents=True)
            for index in range(number):
                (folder / f"{index:02}.png").write_text(f"{split} {name} {index}")
    return tmp_path


def listed(folder: Path) -> dict[str, list[str]]:
    return {
        place.relative_to(folder).as_posix(): sorted(file.name for file in place.iterdir() if file.is_file())
        for place in sorted(folder.rglob("*"))
        if place.is_dir() and any(file.is_file() for file in place.iterdir())
    }


def test_of_each_class_its_share_is_copied(classified):
    written = {**PLAN, "seeds": 9, "margin": 0.01}
    target = classified / "small"
    small = rehearsal.reduced(written, classified, target, 0.1)
    data = Path(small["data"])
    assert listed(data) == {
        "test/cat": ["00.png"],
        "test/dog": ["00.png"],
        "train/cat": ["00.png", "14.png", "29.png"],
        "train/dog": ["00.png"],
    }
    assert (data / "train/cat/14.png").read_text() == "train cat 14"
    changed = {"data": str(data), "seeds": 2, "train": {"epochs": 20, "imgsz": 32}, "rehearsal": 0.1}
    assert small == {**written, **changed}
    # Images have other names in copies, so there are no slices of them.
    assert rehearsal.reduced(written | {"slices": "images.csv"}, classified, target, 0.1) == small
    # Once copied, it stays as it is, and half a copy is made again.
    (data / "train/cat/14.png").unlink()
    rehearsal.reduced(written, classified, target, 0.1)
    assert not (data / "train/cat/14.png").exists()
    data.rename(data.with_name("data-0.1.part"))
    rehearsal.reduced(written, classified, target, 0.1)
    assert (data / "train/cat/14.png").exists()
    assert not data.with_name("data-0.1.part").exists()
    # That of other data is not.
    (classified / "animals").rename(classified / "beasts")
    (classified / "beasts/train/cat/00.png").write_text("another")
    assert rehearsal.reduced({**written, "data": "beasts"}, classified, target, 0.1)["data"] == str(data)
    assert (data / "train/cat/00.png").read_text() == "another"


def test_a_full_disk_leaves_nothing(classified, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rehearsal.shutil, "copy2", full)
    with pytest.raises(UserError, match=r"images cannot be copied to .*No space left on device"):
        rehearsal.reduced(PLAN, classified, classified / "small", 0.1)
    assert not [*(classified / "small").glob("*")]


def test_at_least_an_epoch_two_seeds_and_an_image_are_left(classified):
    written = {**PLAN, "seeds": [5, 3, 4]}
    small = rehearsal.reduced(written, classified, classified / "small", 0.001)
    assert (small["seeds"], small["train"]["epochs"]) == ([5, 3], 1)
    assert all(len(files) == 1 for files in listed(Path(small["data"])).values())


def test_detectors_keep_their_labels(tmp_path):
    data = draw_data(tmp_path / "data", train=40, val=12)
    (tmp_path / "data/labels/train/0000.txt").unlink()  # without objects
    small = rehearsal.reduced(
        {**PLAN, "model": "yolo11n.yaml", "data": str(data), "split": "val"}, tmp_path, tmp_path / "small", 0.25
    )
    file = small["data"]
    here = dataset.data_file(file)
    assert here["names"] == dataset.data_file(str(data))["names"]
    images = dataset.Data(file).images("train")
    assert len(images) == 10
    assert len(dataset.Data(file).images("val")) == rehearsal.FEWEST_IMAGES
    for image, label in zip(images, dataset.labels(images), strict=True):
        number, name = image.name.split("-")
        assert image.read_bytes() == (tmp_path / "data/images/train" / name).read_bytes()
        own = tmp_path / f"data/labels/train/{Path(name).stem}.txt"
        assert label.exists() == own.exists() == (number != "0")
        assert not label.exists() or label.read_text() == own.read_text()


@pytest.mark.parametrize(
    ("changed", "share", "said"),
    [
        ({}, 1.0, "a scale of 1 makes nothing smaller"),
        ({}, 0.0, "a scale of 0 makes nothing smaller"),
        ({}, float("nan"), "a scale of nan makes nothing smaller"),
        ({"rehearsal": 0.1}, 0.1, "the plan is a rehearsal already"),
        ({"data": None}, 0.1, "does not say 'data'"),
        ({"arms": ["emma"]}, 0.1, "no attention is named 'emma'"),
        ({"model": ["timm:resnet18", "resnet"]}, 0.1, "'resnet' is neither"),
        ({"data": "nowhere.yaml"}, 0.1, "nowhere.yaml"),
        ({"seeds": "many"}, 0.1, "seeds: 'many' is no number of seeds"),
    ],
)
def test_what_cannot_be_made_small_leaves_nothing(classified, changed, share, said):
    with pytest.raises(UserError, match=said):
        rehearsal.reduced({**PLAN, **changed}, classified, classified / "small", share)
    assert not (classified / "small").exists()
