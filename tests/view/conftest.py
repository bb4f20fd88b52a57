"""A study of detectors and one of classifiers, copied anew for each test."""

import contextlib
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


@pytest.fixture
def visit(browser):
    """A function that opens the page of a folder; afterwards only this machine was asked and nothing complained."""
    import views  # which skips what needs packages that are not installed

    with contextlib.ExitStack() as servers:
        requests, complaints, addresses = [], [], []

        def visit(folder, width=1280, **more):
            addresses.append(servers.enter_context(views.serving(folder)))
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
