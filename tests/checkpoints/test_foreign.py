"""Files of another Ultralytics, told from damaged ones, and no layer of this one taken for anything else."""

import types
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import ultralytics
from ultralytics.nn.modules import block, conv

import foveal
from foveal import UserError
from foveal.checkpoints import foreign, read
from foveal.convert import convert
from foveal.convert.recognition import candidates
from foveal.hosts import ultralytics as host

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("own_folder")]


def detector(*layers: list) -> nn.Module:
    """A small detector with these rows behind its first two."""
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [64, 3, 2]], *layers]
    # Older releases build A2C2f only where the file has scales.
    cfg = {"nc": 2, "scales": {"n": [1, 1, 1024]}, "backbone": rows, "head": [[[len(rows) - 1], 1, "Detect", ["nc"]]]}
    model = host.tasks.DetectionModel(cfg, verbose=False).eval()
    model.names, model.args, model.task = {0: "a", 1: "b"}, {"imgsz": 64}, "detect"
    return model


def save(model: nn.Module) -> nn.Module:
    torch.save({"epoch": -1, "model": model, "ema": None, "train_args": {"task": "detect"}}, "fork.pt")
    return model


def split_projection(model: nn.Module) -> nn.Module:
    """As the authors of YOLO12 have it in their later weights."""
    for part in list(model.modules()):
        if isinstance(part, block.AAttn):
            width = part.qkv.conv.in_channels
            del part.qkv
            part.qk, part.v = conv.Conv(width, 2 * width, 1, act=False), conv.Conv(width, width, 1, act=False)
    return model


TURBO = [-1, 1, "A2C2f", [64, True, 1]]


def test_a_layer_with_other_parts_is_named():
    model = save(split_projection(detector(TURBO)))
    found = [foreign.diagnosed(model), foreign.diagnosed("fork.pt"), foreign.diagnosed(Path("fork.pt"))]
    for each in found:
        assert (
            "comes from another Ultralytics, such as a fork: AAttn in row 2 holds qk and v where this" in each.message
        )
        assert each.message.endswith(f"release ({ultralytics.__version__}) has qkv")
        assert each.hint == "use that Ultralytics, or the weights that were made for this release"
    assert found[1].message.startswith("'fork.pt' comes")


def test_convert_and_export_say_it():
    save(split_projection(detector(TURBO)))
    for call in (lambda: convert("fork.pt"), lambda: foveal.export("fork.pt", format="torchscript", imgsz=64)):
        with pytest.raises(UserError, match="AAttn in row 2 holds qk and v where this release") as refused:
            call()
        assert "use that Ultralytics" in refused.value.hint
    assert [path.name for path in Path().iterdir()] == ["fork.pt"]


def test_other_names_in_any_layer():
    model = detector([-1, 1, "SPPF", [64, 5]])
    layer = model.model[2]
    layer.first, layer.last = layer.cv1, layer.cv2
    del layer.cv1, layer.cv2
    assert "SPPF in row 2 holds first and last where" in foreign.diagnosed(model).message


def test_a_layer_that_lacks_a_part_is_told_of_where_the_error_is_about_that():
    model = detector(TURBO)
    lacking = next(part for part in model.modules() if isinstance(part, block.AAttn))
    del lacking.pe
    assert foreign.diagnosed(model) is None
    with pytest.raises(AttributeError) as raised:
        model(torch.zeros(1, 3, 64, 64))
    assert "AAttn in row 2 holds no pe where" in foreign.diagnosed(model, raised.value).message
    assert foreign.diagnosed(model, AttributeError("about something else")) is None


def test_fused_and_attended_models_are_this_releases():
    model = detector(TURBO)
    assert foreign.diagnosed(model) is None
    assert foreign.diagnosed(detector([-1, 1, "C2f+ema(groups=4)", [64]])) is None
    assert foreign.diagnosed(model.fuse(verbose=False)) is None


def test_what_is_no_model_gives_nothing():
    Path("broken.pt").write_bytes(b"PK")
    torch.save({"model": {}}, "state.pt")
    for path in ("broken.pt", "state.pt", "missing.pt", "yolo11n.yaml"):
        assert foreign.diagnosed(path) is None


# Every layer that the host has -----------------------------------------------------------------------------------


def test_an_object_of_no_interest_that_looks_like_a_module_is_no_layer():
    empty = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    torch.save({"model": types.SimpleNamespace(**empty)}, "fork.pt")
    assert read(Path("fork.pt")).saved["model"].is_module
    assert foreign.diagnosed("fork.pt") is None
    with pytest.raises(UserError, match=r"the model in 'fork\.pt' is a plain object, not one of"):
        convert("fork.pt")


@pytest.fixture(scope="module")
def layers() -> dict[type, nn.Module]:
    """One layer of every class in the models that the host ships, built without memory for their weights."""
    names, found = set(), {}
    for path in sorted((Path(ultralytics.__file__).parent / "cfg/models").rglob("*.yaml")):
        cfg = host.tasks.yaml_model_load(path)
        new = {row[2] for row in cfg["backbone"] + cfg["head"]} - names - {"TorchVision"}
        if not new or "TorchVision" in str(cfg):
            continue
        names |= new
        with torch.device("meta"):
            model, _ = host.tasks.parse_model(cfg, ch=3, verbose=False)
        for layer in model.modules():
            if type(layer).__module__.startswith("ultralytics."):
                found.setdefault(type(layer), layer)
    assert len(found) > 40
    return found


@pytest.mark.sweep
def test_no_layer_of_the_host_is_foreign_or_an_attention(layers):
    for cls, layer in layers.items():
        root = nn.Module()
        root.model = nn.ModuleList([layer])
        assert foreign.diagnosed(root) is None, cls
        for part in layer.to_empty(device="cpu").modules():
            vars(part).update({name: None for name, value in vars(part).items() if isinstance(value, torch.Tensor)})
        torch.save(layer, "layer.pt")
        assert not [found for found in candidates(read(Path("layer.pt")).saved) if found.certain], cls
