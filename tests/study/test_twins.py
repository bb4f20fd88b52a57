"""Near twins: which images are taken for the same, of which splits and groups, and that each is read once."""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import SHARED
from foveal import UserError
from foveal.cli.study import _Asked, _forecast_only, _run
from foveal.hosts import known
from foveal.study import Plan, Study, near_twins, twins
from helpers import swept

PLAN = {"model": "net.toy", "data": "pictures", "arms": ["se(reduction=2)"], "split": "val", "seeds": 10}


@pytest.fixture(autouse=True)
def _only_the_toy(monkeypatch):
    monkeypatch.setattr(known, "HOSTS", ["toyhost"])


def scene(number: int) -> Image.Image:
    """A patchy ground, 120 x 90 pixels, as different from others as photographs are."""
    patches = np.random.RandomState(number).randint(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(patches).resize((120, 90), Image.Resampling.BICUBIC)


def again(image: Image.Image) -> Image.Image:
    """The same from a little farther to the side, brighter and smaller."""
    return image.crop((2, 1, 118, 89)).point(lambda value: min(255, int(1.1 * value + 8))).resize((96, 72))


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Five scenes in train and three in val, the first of which is the second of train again."""
    for split, scenes in (("train", range(5)), ("val", (1, 5, 6))):
        for number, of in enumerate(scenes):
            file = tmp_path / "pictures" / split / "red" / f"{split}{of}_{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            (again(scene(of)) if (split, of) == ("val", 1) else scene(of)).save(file)
    return tmp_path / "pictures"


def said(folder: Path, **changes: object) -> str:
    return near_twins(Plan.of({**PLAN, **changes}, folder), folder)


def test_images_of_val_that_train_holds_too_are_told(pictures, tmp_path):
    told = "1 of 3 images of val has a near twin in train, which flatters every arm (val1_0.png and train1_1.png)"
    assert said(tmp_path) == told
    again(scene(3)).convert("L").save(pictures / "val/red/val5_1.png")
    assert said(tmp_path).startswith("2 of 3 images of val have a near twin in train")
    for number in range(3):
        (pictures / f"val/red/val{(1, 5, 6)[number]}_{number}.png").unlink()
        scene(20 + number).save(pictures / f"val/red/{number}.png")
    assert said(tmp_path) == ""


def test_with_folds_twins_of_one_group_are_none(pictures, tmp_path):
    told = "2 of 8 images of train and val have a near twin in another group, and folds tear them apart: group them"
    assert said(tmp_path, folds=2).startswith(told)
    apart = {"number": 2, "group": "([a-z]*).*"}
    assert said(tmp_path, folds=apart).startswith(told)
    assert said(tmp_path, folds={"number": 2, "group": "[a-z]*([0-9]).*"}) == ""


def test_each_image_is_read_once_and_again_when_it_is_written(pictures, tmp_path, monkeypatch):
    read = []
    real = twins._hash
    monkeypatch.setattr(twins, "_hash", lambda name: read.append(Path(name).name) or real(name))
    first = said(tmp_path)
    assert sorted(read) == sorted(file.name for file in pictures.rglob("*.png"))
    read.clear()
    assert said(tmp_path) == first
    assert read == []
    scene(30).save(pictures / "val/red/val1_0.png")
    assert said(tmp_path) == ""
    assert read == ["val1_0.png"]
    read.clear()
    (tmp_path / twins.HASHES).write_text("{")
    assert said(tmp_path) == ""
    assert len(read) == 8


def test_what_is_no_image_has_no_twin(pictures, tmp_path):
    for split in ("train", "val"):
        (pictures / split / "red" / "broken.png").write_text("no image")
    assert said(tmp_path).startswith("1 of 4 images of val has")
    assert said(tmp_path).startswith("1 of 4 images of val has")  # from what was kept, too
    assert near_twins(Plan.of({**PLAN, "data": "elsewhere"}, tmp_path, look=False)) == ""


def test_they_are_told_before_anything_is_trained(pictures, tmp_path, monkeypatch, capsys):
    _forecast_only(_Asked({**PLAN, "train": {"epochs": 1}}, tmp_path, tmp_path / "study"), "cpu")
    assert "\n1 of 3 images of val has a near twin in train" in capsys.readouterr().out
    assert not (tmp_path / "study").exists()
    study = Study.prepare(PLAN, tmp_path, tmp_path / "study")
    monkeypatch.setattr(Study, "run", lambda *given: print("trained", file=sys.stderr))
    with pytest.raises(UserError, match="no run of the baseline is finished"):
        _run(study, contextlib.nullcontext())
    told, trained, _ = capsys.readouterr().err.partition("trained")
    assert trained
    assert "\n1 of 3 images of val has a near twin in train" in told
    assert (tmp_path / "study" / twins.HASHES).is_file()


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize(
    ("name", "alike"), swept([("bccd", 2), ("hit_uav", 76), ("coco256", 0)], "bccd", ids=lambda of: of[0])
)
def test_of_photographs_only_those_of_one_scene_are_near(name, alike):
    files = sorted((SHARED / name / "images").rglob("*.jpg"))
    found = twins.nearest(files, files, groups=[str(file) for file in files])
    assert len(found) == alike
    if name == "bccd":  # the same cells, in train and in val
        assert [file.name for file, _ in found] == ["BloodImage_00038.jpg", "BloodImage_00037.jpg"]
