"""Files from elsewhere: nothing of them runs unless a user says so, and every file of a known kind is let in."""

import argparse
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import detectors
import foveal
from foveal import UserError
from foveal.audit import comparison
from foveal.checkpoints import Unwanted, require_harmless
from foveal.explain import explanation
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics.models import PHOTOGRAPH
from foveal.hosts.ultralytics.recorder import RESUME, resumable
from helpers import Calls, swept

pytestmark = pytest.mark.host

CANARY = Path("canary")  # a folder that must not come to be


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    detectors.small_images(monkeypatch)


def checkpoint(extra: object = None, name: str = "evil.pt", **settings: object) -> Path:
    """A small detector with an attention, and with one thing more that loading it runs."""
    model = host.load("yolo11n.yaml").model
    cfg = dict(model.yaml, nc=2)
    cfg["head"] = [[*row[:2], f"{row[2]}+ema" if row[2] == "C3k2" else row[2], *row[3:]] for row in cfg["head"]]
    model = host.rebuild(model, cfg)
    model.names, model.args = {0: "a", 1: "b"}, {"imgsz": 64}
    model.extra = extra
    model.yaml |= settings
    torch.save({"epoch": -1, "model": model, "ema": None, "train_args": {"task": "detect", "imgsz": 64}}, name)
    return Path(name)


def run(weights: Path) -> Path:
    """As much of a training's folder as an audit reads."""
    folder = Path(f"run-{weights.stem}")
    (folder / "weights").mkdir(parents=True)
    weights.rename(folder / "weights" / "best.pt")
    (folder / "args.yaml").write_text(yaml.safe_dump({"task": "detect", "mode": "train", "epochs": 1, "patience": 1}))
    return folder


def use(command: str, weights: Path, trust: bool) -> str:
    """Call what loads a model; what was refused."""
    try:
        if command == "add":
            foveal.add(weights, "se", output="out.pt", force=True, trust=trust)
        elif command == "export":
            foveal.export(weights, format="torchscript", imgsz=64, trust=trust)
        elif command == "explain":
            explanation.explain(weights, [PHOTOGRAPH], output="explained", imgsz=64, trust=trust)
        else:
            folders = run(weights), run(checkpoint(name="plain.pt"))
            found = comparison.audit(*folders, evaluate=False, trust=trust)
            return next(finding.detail for finding in found.findings if finding.check == "complete")
    except UserError as error:
        return f"{error.message}; {error.hint}"
    return ""


@pytest.mark.parametrize("command", ["add", "export", "explain", "audit"])
@pytest.mark.seldom
def test_a_file_that_runs_something_is_loaded_only_where_it_is_trusted(command):
    said = use(command, checkpoint(Calls(os.mkdir, str(CANARY))), trust=False)
    assert "evil.pt' is not loaded: the file calls " in said or "best.pt' is not loaded: the file calls " in said
    assert f"{os.mkdir.__module__}.mkdir" in said
    assert "--trust" in said
    assert not CANARY.exists()
    for folder in Path().glob("run-*"):
        (folder / "weights/best.pt").unlink()
        os.rename(folder, f"old-{folder}")
    said = use(command, checkpoint(Calls(os.mkdir, str(CANARY))), trust=True)
    assert "not loaded" not in said
    assert "is not read" not in said
    assert CANARY.is_dir(), "the file of this test runs nothing"


def dotted() -> bytes:
    """A pickle that reaches through a layer for a function."""
    return b"\x80\x04\x8c\x15torch.nn.modules.conv\x8c\x0fConv2d.__init__\x93)R."


ATTACKS = {
    "of the host's": (
        lambda: Calls(host.ultralytics.utils.downloads.safe_download, "http://localhost/a"),
        "calls ultr",
    ),
    "of torch's": (lambda: Calls(torch.load, "other.pt"), "calls torch.serialization.load"),
    "getattr": (lambda: Calls(getattr, nn.Conv2d, "forward"), "calls builtins.getattr"),
    "getattr of a layer's": (lambda: Calls(getattr, nn.Conv2d(1, 1, 1), "__init__"), "calls builtins.getattr"),
    "eval": (lambda: Calls(eval, "1"), "calls builtins.eval"),
    "no layer": (argparse.Namespace, "names argparse.Namespace, whose code would run"),
    "a function": (lambda: os.system, f"names {os.system.__module__}.system, whose code would run"),
    "a function of the host's": (lambda: host.tasks.torch_safe_load, "names ultralytics.nn.tasks.torch_safe_load"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_refused_is_named(attack):
    make, said = ATTACKS[attack]
    with pytest.raises(Unwanted, match=said):
        host.load(checkpoint(make()))
    assert not CANARY.exists()


def test_the_forwards_that_a_fused_model_keeps_are_harmless():
    assert require_harmless(checkpoint(Calls(getattr, nn.Conv2d(1, 1, 1), "forward"), "fused.pt")) is None


def test_a_module_that_would_be_imported_is_refused_and_not_imported(monkeypatch):
    Path("evil_layers.py").write_text("import os\nfrom torch import nn\nclass Gate(nn.Identity): pass\n")
    monkeypatch.syspath_prepend(Path.cwd())
    import evil_layers

    checkpoint(evil_layers.Gate())
    Path("evil_layers.py").write_text("import os\nos.mkdir('canary')\n")
    monkeypatch.delitem(sys.modules, "evil_layers")
    with pytest.raises(Unwanted, match=r"names evil_layers\.Gate, whose code would run"):
        host.load("evil.pt")
    Path("evil_layers.py").unlink()
    with pytest.raises(Unwanted, match=r"needs evil_layers\.Gate, which is not installed here; .*foveal convert"):
        host.load("evil.pt")
    assert not CANARY.exists()


def test_what_cannot_be_read_without_running_it_is_refused():
    saved = {"epoch": -1, "model": Calls(os.mkdir, str(CANARY)), "ema": None, "train_args": {}}
    torch.save(saved, "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="not in the zip format"):
        host.load("old.pt")
    with zipfile.ZipFile("dotted.pt", "w") as archive:
        archive.writestr("dotted/data.pkl", dotted())
    with pytest.raises(Unwanted, match=r"calls torch\.nn\.modules\.conv\.Conv2d\.__init__"):
        host.load("dotted.pt")
    with zipfile.ZipFile("main.pt", "w") as archive:
        archive.writestr("main/data.pkl", pickle.dumps(None)[:-2] + b"cfoveal.__main__\nmain\n.")
    with pytest.raises(Unwanted, match=r"names foveal\.__main__\.main"):
        host.load("main.pt")
    assert not CANARY.exists()


def test_a_training_that_goes_on_is_screened():
    saved = torch.load(checkpoint(), weights_only=False)
    saved["train_args"]["save_dir"] = str(Path.cwd())
    torch.save(saved, RESUME)
    assert resumable(Path.cwd())["epoch"] == -1
    saved["record"] = Calls(os.mkdir, str(CANARY))
    torch.save(saved, RESUME)
    with pytest.raises(Unwanted, match="calls"):
        resumable(Path.cwd())
    assert not CANARY.exists()
    Path(RESUME).write_bytes(Path(RESUME).read_bytes()[:1000])
    assert resumable(Path.cwd()) is None


CHANGES = [
    {"activation": "__import__('os').mkdir('canary')"},
    {"activation": "nn.SiLU(__import__('os').mkdir('canary'))"},
    {"activation": ["nn.SiLU()"]},
    {"row": ["torch_safe_load", ["evil.pt"]]},
    {"row": ["deepcopy", [[1]]]},
    {"row": ["__builtins__", []]},
    {"row": ["nn.init", []]},
]


@pytest.mark.parametrize("where", ["file", "checkpoint"])
@pytest.mark.parametrize("change", swept(CHANGES, *map(str, CHANGES[1:4])))
@pytest.mark.seldom
def test_rows_and_settings_run_layers_only(where, change):
    cfg = host.load("yolo11n.yaml").model.yaml
    if row := change.get("row"):
        cfg["head"][0][2:] = row
        said = repr(row[0])
    else:
        cfg |= change
        said = "activation is .*which the host would execute"
    if where == "file":
        Path("evil.yaml").write_text(yaml.safe_dump(cfg))
        source = "evil.yaml"
    else:
        source = checkpoint(**{"head": cfg["head"]} if row else change)
    with pytest.raises(UserError, match=said):
        foveal.add(source, "se", output=f"out{Path(source).suffix}")
    assert not CANARY.exists()


ACTIVATIONS = ["nn.SiLU()", "torch.nn.LeakyReLU(0.1, inplace=True)", "nn.modules.activation.ReLU()"]


@pytest.mark.parametrize("activation", swept(ACTIVATIONS, ACTIVATIONS[1]))
def test_activations_that_are_layers_pass(activation):
    """And a model built afterwards has the usual one; older hosts leave it the last model's."""
    usual = host.load("yolo11n.yaml").model
    Path("fine.yaml").write_text(yaml.safe_dump(usual.yaml | {"activation": activation}))
    assert foveal.add("fine.yaml", "se", output="out.yaml").tensors[0]
    assert type(host.load("out.yaml").model.model[0].act).__name__ in activation
    assert type(host.load("yolo11n.yaml").model.model[0].act) is type(usual.model[0].act) is nn.SiLU


def test_layers_of_known_packages_pass():
    import torchvision

    checkpoint(nn.ModuleList([torchvision.ops.SqueezeExcitation(8, 2), nn.Transformer(8, 2, 1, 1), foveal.ECA(8)]))
    require_harmless(Path("evil.pt"))
    assert host.load("evil.pt").task == "detect"
