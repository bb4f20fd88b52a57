"""Semantic models that exist, judged: an interval for each average, and nothing of what is not kept."""

import json

import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import torch
from typer.testing import CliRunner

import data as drawings
import foveal
from foveal import UserError
from foveal.cli.app import app
from foveal.evidence.averages import AGREEMENT
from foveal.hosts.ultralytics import models

pytestmark = pytest.mark.newest  # older hosts have no such models
NAMES = ("ground", *drawings.THINGS)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[list[str], str]:
    """Two fresh models that were trained at two sizes, as they say, and a data file."""
    folder = tmp_path_factory.mktemp("semantic")
    kind = type(models.load("yolo26n-sem.yaml").model)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = kind("yolo26n-sem.yaml", nc=len(NAMES), verbose=False)
        args = {"task": "semantic", "imgsz": 64 + 32 * seed}
        model.names, model.task, model.args = dict(enumerate(NAMES)), "semantic", args
        torch.save(models.checkpoint(model, {"train_args": args}), folder / f"{name}.pt")
    data = drawings.draw_things(folder / "data", "semantic", 2, 12)
    return [str(folder / f"{name}.pt") for name in "ab"], str(data)


def test_semantic_models_are_judged_by_their_pixels(files, tmp_path):
    models_, data = files
    done = CliRunner().invoke(app, ["judge", *models_, "--data", data, "-o", str(tmp_path / "judged.json")])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "judged.json").read_text())
    assert (found["task"], found["metric"], found["second"]) == ("semantic", "mIoU", "pixel accuracy")
    assert (found["images"], found["sizes"], found["missed"]) == (12, [], [])
    assert [one["name"] for one in found["classes"]] == [*NAMES]
    assert found["classes"][0]["objects"] == 12, "images that have it"
    for one in found["models"]:
        assert one["disagreement"] <= AGREEMENT
        assert one["average"]["low"] < one["average"]["value"] < one["average"]["high"]
        assert (one["calibration"]["error"], one["wrong"]) == (None, [])
    assert [one["size"] for one in found["models"]] == [64, 96]
    assert found["models"][1]["difference"]["low"] is not None
    for heading in ("wrong in", "missed by", "right in"):
        assert heading not in done.output


def test_data_without_a_labelled_pixel_are_refused(files, tmp_path):
    from PIL import Image

    data = drawings.draw_things(tmp_path / "data", "semantic", 2, 2)
    for file in tmp_path.glob("data/masks/val/*.png"):
        Image.new("L", (drawings.SIDE, drawings.SIDE), 255).save(file)
    with pytest.raises(UserError, match=r"no pixel of val in .* has a class; give data with masks"):
        foveal.judge(files[0][:1], data=str(data))
