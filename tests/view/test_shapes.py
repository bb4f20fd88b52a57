"""Masks, key points and rotated boxes on the local page."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("starlette", reason="Starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")


import data as drawings
from foveal.study import Study
from views import PLAN, client, finish, shapes

MODELS = {"segment": "yolo11n-seg.yaml", "pose": "yolo11n-pose.yaml", "obb": "yolo11n-obb.yaml"}
WORDS = {"segment": "masks", "pose": "key points", "obb": "rotated boxes"}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A finished study of each task, whose second arm finds one thing more."""
    made: dict[str, Path] = {}

    def of(task: str) -> Path:
        if task not in made:
            made[task] = folder = tmp_path_factory.mktemp(task)
            drawings.draw_things(folder / "data", task, 2, 2)
            study = Study.prepare({**PLAN, "model": MODELS[task], "arms": ["ema@neck"]}, folder, folder)
            for cell in study.cells:
                shapes(task, cell.arm.name == "ema@neck").save(finish(study, cell) / "best.npz")
        return made[task]

    return of


@pytest.mark.parametrize("task", MODELS)
def test_shapes_are_told_with_what_they_find(task, studies):
    asked = client(studies(task))
    listed = asked.get("/data/images/1").json()["images"]
    assert listed[0] == {"image": 0, "name": "000.png", "difference": pytest.approx(4 / 5 - 2 / 4)}
    found = asked.get("/data/image/1/0/0").json()
    assert [[one["object"] for one in side["boxes"]] for side in found["sides"]] == [[0, -1], [0, -1, 1]]
    drawn = [found["true"], found["sides"][1]["boxes"]]
    if task == "pose":
        assert [[len(one["points"]) for one in each] for each in drawn] == [[2, 2], [2, 2, 2]]
        assert found["true"][1]["points"][0] == [60, 60, 1]
    else:
        lines = [[1, 1], [2, 2, 1]] if task == "segment" else [[1, 1], [1, 1, 1]]
        assert [[len(one["lines"]) for one in each] for each in drawn] == lines
        assert {len(line) for one in found["true"] for line in one["lines"]} == {4}
    for one in found["true"]:
        left, top, right, bottom = one["box"]
        places = np.concatenate([*one.get("lines", []), one.get("points", np.zeros((0, 2)))][:1])[:, :2]
        assert ((places >= (left - 0.1, top - 0.1)) & (places <= (right + 0.1, bottom + 0.1))).all()
    page = asked.get("/").text
    assert f"True {WORDS[task]}" in page
    assert asked.get("/data/progress").json()["score"].startswith("F1 of " if task != "obb" else "F1 at IoU")


@pytest.mark.slow
@pytest.mark.parametrize("task", MODELS)
def test_shapes_are_drawn_over_the_image(task, studies, visit):
    page = visit(studies(task))
    shape = "rect" if task == "pose" else "path"
    ours = page.locator("figure").nth(1)
    assert ours.locator(f"{shape}.found").count() == 2
    assert ours.locator(f"{shape}.wrong").count() == 1
    assert page.locator("figure").nth(0).locator(f"{shape}.missed").count() == 1
    assert ours.locator("circle.found").count() == (4 if task == "pose" else 0)
    assert ours.locator(".filled").count() == (5 if task == "segment" else 0)
    assert page.inner_text("figure:nth-child(2) figcaption span").startswith("2 found, 1 wrong, 0 missed; F1 0.80")
    page.uncheck("#truth")
    assert page.locator(".missed").count() == 0
