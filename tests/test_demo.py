import json

import numpy as np
import pytest
from PIL import Image

from foveal import UserError, demo


def test_data_are_drawn_alike_everywhere(tmp_path):
    first, second = (demo.draw_data(tmp_path / name, train=4, val=2) for name in ("a", "b"))
    assert first.read_text() == second.read_text().replace(str(tmp_path / "b"), str(tmp_path / "a"))
    pictures = sorted(first.parent.rglob("*.png"))
    assert len(pictures) == 6
    for picture in pictures:
        twin = second.parent / picture.relative_to(first.parent)
        assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(twin)))
    # Frozen: NumPy keeps this generator's stream.
    assert np.asarray(Image.open(pictures[0])).astype(int).sum() == 3_526_667
    label = (first.parent / "labels/train/0000.txt").read_text().splitlines()[0]
    assert label == "0 0.598958 0.703125 0.156250 0.156250"


def test_boxes_enclose_what_was_drawn():
    generator = np.random.RandomState(1)
    for _ in range(20):
        pixels, boxes = demo._draw_image(generator)
        assert pixels.shape == (96, 96, 3)
        assert 1 <= len(boxes) <= 6
        for label, x, y, width, height in boxes:
            assert 0 <= label < len(demo.SHAPES)
            assert 11 <= round(width * 96) <= 19
            assert 0 <= x - width / 2 < x + width / 2 <= 1
            assert 0 <= y - height / 2 < y + height / 2 <= 1
            # The centre has the colour of its class.
            centre = pixels[int(y * 96), int(x * 96)].astype(int)
            assert np.abs(centre - demo.COLOURS[label]).max() < 60 + 6 * 6


def test_files_that_cannot_be_used_are_explained(tmp_path):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    with pytest.raises(UserError, match=r"there is no data file 'none.yaml'"):
        demo.run("none.yaml", "", tmp_path / "demo", 1)
    with pytest.raises(UserError, match=r"is a model for the task 'classify'; give one that detects"):
        demo.run("", "yolo11n-cls.yaml", tmp_path / "demo", 1)
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_demo_on_your_data(weights, tmp_path):
    data = demo.draw_data(tmp_path / "data", train=8, val=4)
    arms = demo.run(str(data), str(weights), tmp_path / "demo", 1, image_size=64)
    assert list(arms) == ["plain", "ema"]
    assert arms["ema"]["parameters"] > arms["plain"]["parameters"]
    assert arms["ema"]["GFLOPs at 640"] > arms["plain"]["GFLOPs at 640"]
    assert all(arm["milliseconds"] > 0 and 0 <= arm["mAP50"] <= 1 for arm in arms.values())
    assert json.loads((tmp_path / "demo" / "results.json").read_text())["arms"] == arms
    assert Image.open(tmp_path / "demo" / "predictions.png").size == (3 * 480, 2 * 480)
    assert Image.open(tmp_path / "demo" / "gates.png").width > 1000
