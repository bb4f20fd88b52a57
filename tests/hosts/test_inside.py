"""Attentions inside the layers of every family and task that the host ships: tensors kept, outputs unchanged."""

import re
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import ultralytics

import detectors
import foveal
from foveal import UserError
from foveal.attention import ATTENTIONS
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import adding, rebuilding
from foveal.surgery import attachment, inside, model_yaml
from helpers import swept

pytestmark = pytest.mark.host

SHIPPED = sorted(path.name for path in (Path(ultralytics.__file__).parent / "cfg/models").rglob("*.yaml"))
# At their smallest scale, where they have scales; but for one whose weights are downloaded.
NAMES = [re.sub(r"^(yolo(?:e-)?v?\d+)(?=[-.])", r"\1n", name) for name in SHIPPED if "resnet18" not in name]
PLACES = ("neck.bottleneck", "backbone.bottleneck", "psa.attention", "head.box", "head.cls")
# Families that differ in their blocks, and kinds of heads.
KEPT = "yolov8n yolo11n-seg yolo12n yolo26n-pose yolo11n-cls rtdetr-resnet50".split()


@pytest.fixture(autouse=True)
def _small_images(monkeypatch, tmp_path):
    detectors.small_images(monkeypatch, 64)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", swept(NAMES, *(name for name in NAMES if name.removesuffix(".yaml") in KEPT)))
def test_places_inside_keep_every_tensor_and_output_or_are_said_not_to_be_there(name, monkeypatch):
    if "rtdetr" in name:  # older ones take 300 queries from the cells of an image, however few
        detectors.small_images(monkeypatch)
    model = host.load(name).model.eval()
    layers = [*model.model]
    available = model_yaml.places(model.yaml, adding.measured_strides(model))
    there = []
    for place in PLACES:
        outer, _, inner = place.rpartition(".")
        indices = available.get(outer, ()) if outer != "head" else (len(layers) - 1,)
        if not any(inside.RULES[inner](layers[index]) for index in indices):
            kind = type(layers[indices[0]]).__name__ if indices else ""
            said = f"a {kind} has no '{inner}' inside it" if kind else f"this model has no place '{place}'"
            with pytest.raises(UserError, match=said):
                foveal.add(name, "eca", at=place, output=f"x-{name}")
        else:
            there.append(place)
    kinds = {type(layer).__name__ for layer in layers}
    assert ("backbone.bottleneck" in there) or not {"C3k2", "C2f", "ResNetLayer"} & kinds
    assert ("psa.attention" in there) == bool({"C2PSA", "PSA", "C2fPSA"} & kinds)
    assert ("head.box" in there) == ("head.cls" in there) == isinstance(layers[-1], host.tasks.Detect)
    if not there:
        return
    added = foveal.add(name, "eca", at=there, output=f"x-{name}")
    assert added.difference == 0
    assert added.tensors[0] == added.tensors[1] > 0
    grown = host.load(added.output).model
    assert added.changes
    for change in added.changes:
        plain, new = layers[change.row], grown.model[change.row]
        parts = [part for part, _ in inside.additions(new, plain)]
        wanted = inside.named(plain, re.findall(r"@(\w+)", change.after))
        # Of a sequence its last layer carries the attention.
        assert all(f"{part}.".startswith(f"{name}.") for part, name in zip(parts, wanted, strict=True))
        assert all(attachment.attended(new.get_submodule(part)) for part in parts)


def test_every_branch_of_a_bottleneck_ends_where_the_host_adds_it(tmp_path):
    """What is attached inside is weighed before the shortcut is added: with a gate of 0 only the shortcut is left."""
    from ultralytics.nn.modules import block

    x = torch.rand(1, 16, 8, 8)
    for layer in (block.Bottleneck(16, 16), block.CIB(16, 16), block.GhostBottleneck(16, 16)):
        (part,) = inside.named(layer.eval(), ["bottleneck"])
        gate = torch.nn.Conv2d(16, 16, 1)
        torch.nn.init.zeros_(gate.weight)
        torch.nn.init.zeros_(gate.bias)
        attachment.attach(layer.get_submodule(part), gate)
        assert torch.equal(layer(x), x)


def test_replaced_attention():
    added = foveal.add("yolo11n.yaml", "mhsa(replace=True)", at="psa.attention", output="x.yaml")
    kept, total = added.tensors
    plain = host.load("yolo11n.yaml").model
    lost = [name for name in plain.state_dict() if ".attn." in name]
    assert kept == total - len(lost)
    grown = host.load("x.yaml").model
    assert type(grown.model[10].m[0].attn) is foveal.MHSA
    assert "C2PSA+mhsa(replace=True)@attention" in Path("x.yaml").read_text()
    with pytest.raises(UserError, match="cannot replace a part and start as the identity"):
        foveal.add("yolo11n.yaml", "mhsa(replace=True)", at="psa.attention", start="identity", output="y.yaml")
    with pytest.raises(UserError, match=r"replaces a part of a layer, and names none; --at psa\.attention"):
        foveal.add("yolo11n.yaml", "mhsa(replace=True)", at="neck", output="y.yaml")


def test_a_second_attention_inside_and_one_behind(tmp_path):
    torch.save(host.checkpoint(host.YOLO("yolo11n.yaml").model, {}), "plain.pt")
    foveal.add("plain.pt", "eca", at="16.m.*.cv2", output="one.pt")
    foveal.add("one.pt", "simam", at="neck.bottleneck", output="two.pt")
    added = foveal.add("two.pt", "ema", at="16", output="three.pt")
    assert added.difference == 0
    row = host.load("three.pt").model.model[16]
    assert [type(start.attention).__name__ for start in attachment.attached(row.m[0].cv2)] == ["ECA", "SimAM"]
    assert [type(start.attention).__name__ for start in attachment.attached(row)] == ["EMAttention"]
    assert added.changes[0].after == "[-1, 2, C3k2+eca@m.*.cv2+simam@bottleneck+ema, [256, false]]"


def test_attached_in_memory_and_taken_out_again():
    model = host.YOLO("yolo11n.yaml").model.eval()
    x = torch.rand(1, 3, 64, 64)
    before, names = rebuilding.run(model, x), [*model.state_dict()]
    found = foveal.attach(model, "eca", at="neck.bottleneck,psa.attention,head.box", example=x)
    parts = [f"model.{row}.{part}" for row in (16, 19, 22) for part in inside.named(model.model[row], ["bottleneck"])]
    boxes = [f"model.23.cv2.{level}.1" for level in range(3)]
    assert [row.name for row in found] == sorted([*parts, "model.10.m.0.attn", *boxes], key=names_in(model).index)
    assert rebuilding.same(rebuilding.run(model, x), before)
    foveal.detach(model)
    assert [*model.state_dict()] == names


def names_in(model) -> list[str]:
    return [name for name, _ in model.named_modules()]


def test_a_place_that_is_not_there():
    for at, said in {
        "16.bottlenek": r"a C3k2 has no 'bottlenek' inside it; places inside it: bottleneck, cv1",
        "sppf.bottleneck": "a SPPF has no 'bottleneck' inside it",
        "nekc.bottleneck": "this model has no place 'nekc.bottleneck'; did you mean 'neck'",
        "99.bottleneck": "there is no row 99",
    }.items():
        with pytest.raises(UserError, match=said):
            foveal.add("yolo11n.yaml", "eca", at=at, output="x.yaml")


def published(block: str, attention: str) -> tuple[str, str]:
    """A YAML in which the rows of a block carry a published name, and what it is built as."""
    cfg = host.tasks.yaml_model_load("yolo11n.yaml")
    for row in model_yaml.rows(cfg):
        if row[2] == block:
            row[2] = f"{block}_{attention}"
    kept = {key: cfg[key] for key in ("nc", "scales", "backbone", "head")}
    Path("x.yaml").write_text(yaml.safe_dump({**kept, "scales": {"n": cfg["scales"]["n"]}}))
    return "x.yaml", f"{block}_{attention}"


@pytest.mark.parametrize(
    ("block", "attention", "meant"),
    [
        ("C3k2", "EMA", "C3k2+ema(groups=8, start=paper)@bottleneck"),
        ("C3k2", "CBAM", "C3k2+cbam(start=paper)@bottleneck"),
        ("C2PSA", "EMA", "C2PSA+ema(groups=8, replace=True)@attention"),
        ("Detect", "SimAM", "Detect+simam(start=paper)@box,cls"),
    ],
)
def test_published_names_are_built_as_what_they_mean(block, attention, meant, caplog):
    file, name = published(block, attention)
    host.tasks.LOGGER.propagate = True
    try:
        with caplog.at_level("INFO", host.tasks.LOGGER.name):
            built = host.load(file).model
            host.tasks.DetectionModel(file, verbose=True)
    finally:
        host.tasks.LOGGER.propagate = False
    assert f"{name} is built as {meant}" in caplog.text
    plain = host.load("yolo11n.yaml").model
    # The host tells its own blocks by their names: renamed, all of them would make another head.
    theirs = {key for key in plain.state_dict() if block != "C2PSA" or ".attn." not in key}
    assert theirs <= built.state_dict().keys()
    found = [module for module in built.modules() if attachment.is_attention(module)]
    assert found
    assert {module.card.name for module in found} == {attention.lower()}
    text = f"[-1, 1, C3k2_{attention}]"
    assert model_yaml.split(built.yaml, vars(host.tasks))[1], text
    image = torch.rand(1, 3, 64, 64)
    again = host.rebuild(built, built.yaml).eval()
    again.load_state_dict(built.state_dict())
    assert rebuilding.same(rebuilding.run(again, image), rebuilding.run(built.eval(), image))


def test_any_of_ours_stands_behind_the_underscore():
    for alias in [cls.__name__ for cls in ATTENTIONS.values()] + [*ATTENTIONS]:
        cfg = {"backbone": [[-1, 1, f"C2f_{alias}", [64]]], "head": [[[0], 1, "Detect", ["nc"]]]}
        plain, placed = model_yaml.split(cfg, {"C2f", "Detect"})
        assert plain["backbone"][0][2] == "C2f"
        assert placed[0].specs[0].places == ("bottleneck",)
    own = {"backbone": [[-1, 1, "C2f_EMA", [64]]], "head": [[[0], 1, "Detect", ["nc"]]]}
    assert model_yaml.split(own, {"C2f", "C2f_EMA", "Detect"})[1] == {}  # a class that the user has put there
