"""Every model YAML that the installed host ships: attentions at every place, both ways of writing them."""

import ast
import re
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import ultralytics

import detectors
import foveal
from foveal import IdentityStart, UserError
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import adding, rebuilding
from foveal.surgery import model_yaml
from helpers import swept

NAMES = sorted(path.name for path in (Path(ultralytics.__file__).parent / "cfg/models").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _small_images(monkeypatch, tmp_path):
    detectors.small_images(monkeypatch, 128)
    monkeypatch.chdir(tmp_path)


def added(name: str, own_row: bool) -> adding.Added:
    """EMA at all places of a model; where that is refused, the hint is followed."""
    arguments = {"at": "neck,paper,backbone", "own_row": own_row, "output": name.replace(".yaml", f"-{own_row}.yaml")}
    attention = "ema"
    while True:
        try:
            return foveal.add(name, attention, **arguments)
        except UserError as refusal:
            hint = refusal.hint
        if "without downloaded weights" in hint:
            cfg = host.tasks.yaml_model_load(name)
            cfg["backbone"][0][3] = ast.literal_eval(hint.removeprefix("write ").partition("]")[0] + "]")
            kept = {key: cfg[key] for key in ("nc", "backbone", "head")}
            Path(name).write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
        elif fits := re.fullmatch(r"(groups=\d+) fits", hint):  # 240 channels do not make 32 groups
            attention = f"ema({fits[1]})"
        else:  # a network in one row has one stage, and the paper asks for two
            assert "did you mean 'backbone.P5'" in hint, hint
            arguments["at"] = "neck,backbone.P5"


# A model of each kind of layers that attentions find their places by; the others are swept.
KEPT = "yolov3-tiny yolov8-rtdetr yolo11-cls-resnet18 yolo12 yolo26-depth"


@pytest.mark.parametrize("name", swept(NAMES, *(name for name in NAMES if name.removesuffix(".yaml") in KEPT.split())))
def test_both_ways_to_write_it_keep_the_model_and_train(name):
    for own_row in (False, True):
        found = added(name, own_row)
        assert found.difference == 0
        assert found.tensors[0] == found.tensors[1] > 0
        cfg = yaml.safe_load(Path(found.output).read_text())
        attended = [row for row in model_yaml.rows(cfg) if re.search(r"[+.]ema\b", row[2])]
        assert len(attended) == len([change for change in found.changes if re.search(r"[+.]ema\b", change.after)])
    model = host.load(found.output).model.train()
    starts = [module for module in model.modules() if isinstance(module, IdentityStart)]
    assert len(starts) == len(attended)
    # Two maps at least at the last level, so that norms over positions leave a gradient.
    outputs = rebuilding.tensors(model(torch.rand(2, cfg.get("channels", 3), 128, 128)))
    sum(out.square().sum() for out in outputs if out.requires_grad).backward()
    assert all(start.gain.grad is not None and bool(start.gain.grad.any()) for start in starts)
