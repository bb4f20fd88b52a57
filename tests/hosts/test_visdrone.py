"""VisDrone by Ultralytics' own converter: what a study is judged on, and what is left out of it."""

import csv
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ultralytics = pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from data import SHARED  # noqa: E402

VAL = SHARED / "visdrone" / "val_annotations_only"


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """The folder that the host's converter makes of the annotations of val, over images of the true sizes."""
    if not VAL.is_dir():
        pytest.skip(f"no annotations of VisDrone at {VAL}")
    described = yaml.safe_load((Path(ultralytics.__file__).parent / "cfg/datasets/VisDrone.yaml").read_text("utf-8"))
    script, _, _ = described["download"].partition("# Download")  # what comes before defines the converter
    names: dict = {}
    exec(compile(textwrap.dedent(script), "VisDrone.yaml", "exec"), names)
    folder = tmp_path_factory.mktemp("visdrone")
    source = folder / "VisDrone2019-DET-val"
    for part in ("images", "annotations"):
        (source / part).mkdir(parents=True)
    with (VAL / "image_sizes.csv").open() as file:
        for row in csv.DictReader(file):
            size = int(row["width"]), int(row["height"])
            Image.new("L", size).save(source / "images" / f"{row['image']}.jpg", quality=1)
    for file in (VAL / "annotations").iterdir():
        (source / "annotations" / file.name).write_bytes(file.read_bytes())
    names["visdrone2yolo"](folder, "val")
    return folder


def table(file: Path) -> np.ndarray:
    return np.array([line.split() for line in file.read_text().splitlines()], float).reshape(-1, 5)


def test_the_hosts_labels_are_those_of_another_converter(converted):
    files = sorted((VAL / "reference_yolo_labels").iterdir())
    assert len(files) == 548
    for file in files:
        ours, theirs = table(converted / "labels/val" / file.name), table(file)
        assert ours.shape == theirs.shape, file.name
        assert np.abs(ours - theirs).max(initial=0) <= 6e-7, file.name  # six decimals


def test_what_is_left_out_is_what_the_pages_say(converted):
    shares, regions, lost = [], 0, 0
    with (VAL / "image_sizes.csv").open() as file:
        sizes = {row["image"]: (int(row["width"]), int(row["height"])) for row in csv.DictReader(file)}
    for file in sorted((VAL / "annotations").iterdir()):
        rows = np.array([line.strip(",").split(",") for line in file.read_text().split()], int)
        ignored = np.zeros(sizes[file.stem][::-1], bool)
        for x, y, width, height in rows[rows[:, 4] == 0, :4]:
            ignored[y : y + height, x : x + width] = True
        shares.append(ignored.mean())
        regions += bool(ignored.any())
        lost += len(rows) - (rows[:, 4] == 0).sum() - len(table(converted / "labels/val" / file.name))
    assert lost == 0, "only rows with score 0 are dropped"
    said = f"ignored regions are in {regions} of {len(shares)} images of val and cover {100 * np.mean(shares):.1f} %"
    assert said in " ".join((Path(__file__).parents[2] / "docs" / "studies.md").read_text().split())
