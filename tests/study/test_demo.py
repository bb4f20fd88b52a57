import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from foveal.cli import study as cli_study
from foveal.study import demo

README = Path(__file__).parents[2] / "README.md"


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


def test_the_demo_is_a_study_that_goes_on_where_it_is(tmp_path):
    study = demo.prepare(tmp_path)
    assert [(cell.arm.name, cell.pair) for cell in study.cells[:4]] == [
        *(("baseline", 0), ("ema@neck", 0), ("placebo", 0), ("A/A", 0)),
    ]
    assert len(study.cells) == 8
    assert [arm.role for arm in study.plan.arms] == ["baseline", "treatment", "control", "control"]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.png")}
    assert [cell.key for cell in demo.prepare(tmp_path).cells] == [cell.key for cell in study.cells]
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())


@pytest.mark.parametrize("finished", [True, False])
def test_the_demo_ends_with_what_to_open_and_what_to_type(tmp_path, monkeypatch, capsys, finished):
    monkeypatch.setattr(cli_study, "_run", lambda study, executor: finished)
    monkeypatch.setattr(sys, "argv", [".venv/bin/foveal", "demo"])
    with pytest.raises(typer.Exit) as ended:
        cli_study.demo(tmp_path)
    assert ended.value.exit_code == (not finished)
    said = capsys.readouterr().err.splitlines()
    last = said[said.index(f"open     {tmp_path / 'report.html'}") + 1 :]
    if finished:  # with the command that the README explains
        assert last[0] == "next     the same on your own images:"
        assert last[1].strip().startswith(".venv/bin/foveal study run --model")
        assert last[1].strip().removeprefix(".venv/bin/") in README.read_text()
    else:
        assert last == [f"next     .venv/bin/foveal demo -o {tmp_path}   goes on with what is missing"]


@pytest.mark.parametrize(
    ("called", "found", "typed"),
    [
        ("/usr/bin/foveal", "/usr/bin/foveal", "foveal"),
        (".venv/bin/foveal", None, ".venv/bin/foveal"),
        ("venv/bin/foveal", "/usr/bin/foveal", "venv/bin/foveal"),
        ("/lib/foveal/__main__.py", None, "foveal"),
    ],
)
def test_the_program_is_named_as_this_shell_finds_it(monkeypatch, called, found, typed):
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr("shutil.which", lambda name: found)
    assert cli_study._called() == typed
