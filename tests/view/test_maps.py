"""Classes of pixels on the local page."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("starlette", reason="Starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

import data as drawings
from foveal.study import Study
from pixels import counted
from views import PLAN, client, finish

TRUE = np.repeat([[255, 0, 1, 2]], 2, 0).repeat(2, 1)  # columns of cells, two of each


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A finished study, whose second arm says a column more of the first image as it is."""
    folder = tmp_path_factory.mktemp("semantic")
    drawings.draw_things(folder / "data", "semantic", 2, 2)
    study = Study.prepare({**PLAN, "model": "yolo26n-sem.yaml", "arms": ["ema@neck"]}, folder, folder)
    for cell in study.cells:
        said = [TRUE % 255, TRUE % 255]
        said[0] = np.where(np.arange(8) < (7 if cell.arm.name == "ema@neck" else 6), said[0], 0)
        counted(said, [TRUE, TRUE], 3).save(finish(study, cell) / "best.npz")
    return folder


@pytest.mark.newest
def test_classes_are_told_cell_by_cell(study):
    asked = client(study)
    listed = asked.get("/data/images/1").json()["images"]
    # Of the ground, the bar and the wedge: of 4 cells and of 4 said to be, and so on, in each of two rows.
    ours, theirs = (2 / 3 + 1 + 1 / 2) / 3, (2 / 4 + 1 + 0) / 3
    assert listed[0] == {"image": 0, "name": "000.png", "difference": pytest.approx(ours - theirs)}
    assert listed[1]["difference"] == 0
    found = asked.get("/data/image/1/0/0").json()
    assert found["true"] == {"rows": 2, "columns": 8, "runs": [[-2, 2], [0, 2], [1, 2], [2, 2]] * 2}
    assert found["sides"][1]["runs"] == [[0, 4], [1, 2], [2, 1], [0, 5], [1, 2], [2, 1], [0, 1]]
    assert found["sides"][0]["classes"][2] == {"class": 2, "label": "wedge", "share": pytest.approx(1 / 3), "iou": 0.0}
    assert [side["score"] for side in found["sides"]] == pytest.approx([theirs, ours])
    assert asked.get("/data/progress").json()["score"] == "mean IoU of the classes in it"
    page = asked.get("/").text
    assert "Overlay" in page
    assert "Confidence" not in page


@pytest.mark.newest
@pytest.mark.slow
def test_classes_are_drawn_over_the_image(study, visit):
    page = visit(study)
    painted = """(all, side) => {
        const {width, height} = all[side], pen = new OffscreenCanvas(width, height).getContext("2d");
        pen.drawImage(all[side], 0, 0);
        const values = pen.getImageData(0, 0, width, height).data;
        return [width, height, values.filter((value, i) => i % 4 === 3 && value).length];
    }"""

    def cells(side: int) -> list[int]:
        return page.locator("#sides canvas").evaluate_all(painted, side)

    assert cells(0) == cells(1) == [8, 2, 16]
    page.select_option("#overlay", "wrong")
    assert (cells(0)[2], cells(1)[2]) == (4, 2), "nothing is wrong where no class is true"
    page.locator("#stage").focus()
    page.keyboard.press("o")
    assert page.input_value("#overlay") == "true"
    assert cells(1)[2] == 12
    page.keyboard.press("o")
    assert cells(1)[2] == 0
    assert page.inner_text("figure:nth-child(2) figcaption span") == "mean IoU 0.72 with seed 0"
    assert page.locator("figure:nth-child(1) .classes li").all_inner_texts() == [
        "ground IoU 0.50, 33.3 % of the labelled pixels",
        "bar IoU 1.00, 33.3 % of the labelled pixels",
        "wedge IoU 0.00, 33.3 % of the labelled pixels",
    ]
