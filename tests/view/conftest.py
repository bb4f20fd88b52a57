"""A study of detectors and one of classifiers, copied anew for each test."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from foveal.study import Study
from foveal.study.demo import draw_data


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A finished study: `ema@neck` wins image 0 and loses image 5, the others are as they fall."""
    import views  # which skips what needs packages that are not installed

    folder = tmp_path_factory.mktemp("view") / "small"
    draw_data(folder / "data", train=4, val=views.IMAGES)
    study = Study.prepare(views.PLAN, folder, folder)
    for place, cell in enumerate(study.cells):
        mine = views.finish(study, cell, 0.4 + 0.02 * place)
        better = cell.arm.name == "ema@neck"
        finds = [better, True, True, True, True, not better]
        views.detections(folder, finds, place).save(mine / "best.npz")
    for name in ("results.json", "report.html"):
        shutil.copyfile(views.PUBLISHED / name, folder / name)
    return folder


@pytest.fixture
def small(template, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(template, tmp_path / "small")


@pytest.fixture(scope="module")
def classified_template(tmp_path_factory) -> Path:
    """A finished study of classifiers: `ema@backbone` wins apple and loses quince, fig is won with one seed of two."""
    import views  # which skips what needs packages that are not installed

    folder = tmp_path_factory.mktemp("view") / "fruit"
    for split in ("train", "val"):
        for number, label in enumerate(views.CLASSES):
            (folder / "data" / split / label).mkdir(parents=True)
            Image.new("RGB", (48, 36), (40 * number, 200, 90)).save(folder / "data" / split / label / "0.png")
    plan = {**views.PLAN, "model": "yolo11n-cls.yaml", "data": "data", "arms": ["ema@backbone", "A/A"]}
    study = Study.prepare(plan, folder, folder)
    for cell in study.cells:
        mine = views.finish(study, cell, 0.8)
        better = cell.arm.name == "ema@backbone"
        right = [better, better and cell.pair == 0, True, True, True, not better]
        views.answers(right, cell.pair).save(mine / "best.npz")
    return folder


@pytest.fixture
def classified(classified_template, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(classified_template, tmp_path / "fruit")
