"""`foveal.add`: what it writes, what it says, what it refuses, and that it never leaves half a file."""

import dataclasses
import os
import types

import pytest
import torch

from helpers import in_fork, swept

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import detectors
import foveal
from foveal import EMAttention, IdentityStart, UserError
from foveal.evidence import Task
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import adding, models

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("own_folder")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A .pt file with names, arguments and weights that are not the defaults."""
    torch.manual_seed(3)
    model = host.YOLO("yolo11n.yaml").model
    model.names = {i: f"thing {i}" for i in range(80)}
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("trained") / "trained.pt"
    torch.save(host.checkpoint(model, {"train_args": {"imgsz": 320, "task": "detect"}}), path)
    return path


WRITTEN = ["yolo11s.yaml", "yolov8n-seg.yaml", "yolo11n-cls.yaml", "yolov8n-rtdetr.yaml"]


@pytest.fixture(autouse=True)
def full_images(monkeypatch):
    """Outputs are compared on images of a sixteenth of the pixels, but where this function is called."""
    detectors.small_images(monkeypatch)
    return lambda: monkeypatch.setattr(adding, "Task", Task)


class Doubled(host.tasks.Conv):
    """A convolution that another code made of the host's, with the same tensors."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice the host's."""
        return 2 * super().forward(x)


def attentions(path) -> list:
    return [module for module in host.load(str(path)).model.modules() if isinstance(module, EMAttention)]


@pytest.mark.parametrize("own_row", [False, True], ids=["suffix", "row"])
@pytest.mark.parametrize("at", swept(["neck", "paper", "backbone", ["sppf", "psa"], "16,3"], "neck"))
def test_identity_start_keeps_tensors_and_outputs(trained, at, own_row):
    added = foveal.add(str(trained), "ema", at=at, own_row=own_row)
    assert added.output == "trained-ema.pt"
    assert added.tensors == (499, 499)
    assert added.difference == 0
    assert added.parameters[1] > added.parameters[0] == 2_624_080
    assert added.flops[1] > added.flops[0] > 4e8
    assert len(attentions(added.output)) == sum(change.after.count("ema") for change in added.changes)


def test_what_is_written_is_a_checkpoint_like_the_source(trained):
    foveal.add(str(trained), "ema", at="neck", output="x.pt")
    written, source = host.load("x.pt"), host.load(str(trained))
    assert written.names == source.names
    assert written.overrides["imgsz"] == source.overrides["imgsz"] == 320
    assert written.task == "detect"
    new, old = written.model.state_dict(), source.model.state_dict()
    assert all(torch.equal(new[name], old[name]) for name in old)
    assert written.model.yaml["head"][5][2] == "C3k2+ema"


def test_the_report_names_the_rows(trained, full_images):
    full_images()
    added = foveal.add(str(trained), "ema(groups=8)", at="P3")
    assert added.spec == "ema(groups=8, start=identity)@P3"
    assert added.changes == (
        adding.Change(16, "[-1, 2, C3k2, [256, false]]", "[-1, 2, C3k2+ema(groups=8), [256, false]]"),
    )
    assert dataclasses.asdict(added)["image_size"] == 640
    assert added.flops[0] > 6.5e9


def test_paper_start_is_the_bare_module_and_changes_the_output(trained):
    added = foveal.add(str(trained), "ema", at="neck", start="paper")
    assert added.difference > 0
    assert not any(isinstance(module, IdentityStart) for module in host.load(added.output).model.modules())


@pytest.mark.seldom
def test_a_second_attention_keeps_the_first(trained):
    foveal.add(str(trained), "ema", at="neck", output="once.pt")
    once = host.load("once.pt").model.state_dict()
    added = foveal.add("once.pt", "ema(groups=8)", at="neck,backbone.P4", output="twice.pt")
    assert added.tensors == (len(once), len(once))
    assert added.difference == 0
    twice = host.load("twice.pt").model.state_dict()
    assert all(torch.equal(twice[name], once[name]) for name in once)
    assert len(attentions("twice.pt")) == 3 + 4


@pytest.mark.parametrize("own_row", [False, True], ids=["suffix", "row"])
@pytest.mark.parametrize("name", swept([*WRITTEN, "rtdetr-l.yaml"], *WRITTEN[2:]))
def test_a_yaml_comes_back_as_a_yaml_that_builds_the_same_model(name, own_row):
    added = foveal.add(name, "ema", at="neck", own_row=own_row, output="mine.yaml")  # a name that says no scale
    cls = host.RTDETR if "rtdetr" in name else host.YOLO
    built = cls("mine.yaml").model
    assert sum(p.numel() for p in built.parameters()) == added.parameters[1]


@pytest.mark.seldom
def test_a_yaml_with_all_its_scales_keeps_them():
    foveal.add("yolo11.yaml", "ema", at="neck", output="yolo11-mine.yaml")
    widths = [attentions(f"yolo11{scale}-mine.yaml")[-1].channels for scale in "nsx"]
    assert widths == [256, 512, 768]


@pytest.mark.seldom
def test_nothing_is_overwritten_unless_forced(trained):
    foveal.add(str(trained), "ema", output="x.pt")
    before = os.stat("x.pt").st_mtime_ns
    with pytest.raises(UserError, match=r"x.pt exists; choose another name with -o, or overwrite it with --force"):
        foveal.add(str(trained), "ema(groups=8)", output="x.pt")
    assert os.stat("x.pt").st_mtime_ns == before
    foveal.add(str(trained), "ema(groups=8)", output="x.pt", force=True)
    assert attentions("x.pt")[0].groups == 8


def test_the_source_can_be_replaced_by_its_own_result(trained):
    os.link(trained, "same.pt")
    foveal.add("same.pt", "ema", output="same.pt", force=True)
    assert len(attentions("same.pt")) == 3
    assert not attentions(trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spec": "emma"}, "no attention is named 'emma'; did you mean 'ema'"),
        ({"spec": "ema", "at": "nekc"}, "no place 'nekc'; did you mean 'neck'"),
        ({"spec": "ema", "at": "23"}, "there is no row 23 to attach to; rows 0 to 22"),
        ({"spec": "ema", "at": 23}, "there is no row 23 to attach to; rows 0 to 22"),
        ({"spec": "ema", "at": ["P3", 23]}, "there is no row 23 to attach to; rows 0 to 22"),
        ({"spec": "ema", "at": "0"}, r"channels=16, groups=32\): .*; groups=16 fits"),
        ({"spec": "ema", "start": "warm"}, "start='warm' is not a way to start"),
        ({"spec": "ema@neck", "at": "P3"}, "two places are given, 'ema@neck' and 'P3'"),
        ({"spec": "ema(start=paper)", "start": "identity"}, "two starts are given"),
        ({"spec": "ema", "output": "no/such/x.pt"}, "there is no folder 'no/such' to write to"),
        ({"spec": "ema", "output": "x.yaml"}, r"is a .pt file, so x.yaml cannot be a .yaml; write to x.pt"),
        ({"spec": "ema", "output": "x"}, r"x cannot be a file without suffix"),
    ],
    ids=str,
)
def test_what_cannot_work_is_explained_and_nothing_is_written(trained, arguments, message):
    with pytest.raises(UserError, match=message):
        foveal.add(str(trained), **arguments)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pt", None, "there is no file 'missing.pt'"),
        ("missing.yaml", None, "there is no file 'missing.yaml'"),
        ("model.onnx", b"", "'model.onnx' is neither a .pt file nor a model YAML"),
        ("empty.pt", b"", "'empty.pt' is empty; copy or download the checkpoint"),
        ("page.pt", b"<!DOCTYPE html>\n", r"'page.pt' is text, and begins with '<!DOCTYPE html>'; copy or"),
        ("garbage.pt", b"no\0checkpoint", "'garbage.pt' is not in the zip format that torch has"),
        ("empty.yaml", b"", "'empty.yaml' cannot be loaded as a model"),
        ("broken.yaml", b"backbone: [", "'broken.yaml' cannot be loaded as a model"),
        ("data.yaml", b"names: [a]\n", "'data.yaml' cannot be loaded as a model"),
    ],
)
def test_missing_and_broken_files_are_explained(name, content, message):
    if content is not None:
        with open(name, "wb") as file:
            file.write(content)
    with pytest.raises(UserError, match=message):
        foveal.add(name, "ema", output="x" + name[name.rindex(".") :])
    assert os.listdir() == ([name] if content is not None else [])


def test_a_file_whose_layers_were_changed_by_hand_is_refused(trained):
    model = host.load(str(trained))
    model.model.model[4].cv1 = torch.nn.Conv2d(64, 64, 1)
    torch.save(host.checkpoint(model.model, {}), "edited.pt")
    with pytest.raises(UserError, match=r"model.4.cv1.weight is 64 x 64 x 1 x 1 in .*; only 51\d of 51\d tensors"):
        foveal.add("edited.pt", "ema", output="x.pt")


def test_a_fine_tuned_model_keeps_the_width_of_the_head_that_it_started_from(trained):
    """Recent hosts carry it over from other classes, though rows would build another."""
    network = host.load(str(trained)).model
    tuned = host.rebuild(network, {**network.yaml, "nc": 3}, width=64)
    tuned.load(network, verbose=False)
    tuned.names = {0: "a", 1: "b", 2: "c"}
    width = tuned.model[-1].cv3[0][-1].in_channels
    assert (models.class_width(network), models.class_width(tuned)) == (80, width)
    torch.save(host.checkpoint(tuned, {}), "tuned.pt")
    assert foveal.add("tuned.pt", "ema", output="x.pt").tensors == (499, 499)
    again = host.rebuild(tuned, {**tuned.yaml, "nc": 5})
    assert (models.class_width(again), again.yaml["nc"]) == (width, 5)
    assert again.model[-1].cv3[0][-1].out_channels == 5


@pytest.mark.seldom
def test_models_that_rows_do_not_build_are_named(trained):
    torch.save(host.load(str(trained)).model, "bare.pt")
    with pytest.raises(UserError, match=r"'bare.pt' holds a model by itself, .*; save it with YOLO\(\.\.\.\)\.save"):
        foveal.add("bare.pt", "ema", output="x.pt")
    host.YOLO(trained).save("whole.pt")
    fused = host.YOLO("whole.pt")
    fused.fuse()
    fused.save("fused.pt")
    with pytest.raises(UserError, match=r"the model is fused for inference: .*; give the file of its training"):
        foveal.add("fused.pt", "ema", output="x.pt")
    held = host.YOLO("whole.pt")
    foveal.attach(held.model, "ema", at="P3")
    held.save("held.pt")
    lost = r"attentions were attached to model.16 in memory and stand in no row .*; foveal.add, or the command"
    with pytest.raises(UserError, match=lost):
        foveal.add("held.pt", "coord", output="x.pt")
    for trained_on in (held.model, host.YOLO("held.pt").model):
        with pytest.raises(UserError, match=lost):  # as a trainer does, which would train without it
            host.rebuild(trained_on, trained_on.yaml).load(trained_on)
    host.YOLO("yolov8n.yaml").model.load(held.model)  # other weights that one may ask for
    for model in (held, held.model):
        with pytest.raises(UserError, match=r"a model is named by the path of its file, and this is an object of the"):
            foveal.add(model, "ema", output="x.pt")


def test_a_failed_write_leaves_nothing(trained, monkeypatch):
    def full_disk(_saved, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match=r"cannot write x.pt: .*No space left"):
        foveal.add(str(trained), "ema", output="x.pt")
    assert os.listdir() == []


@pytest.mark.seldom
def test_real_weights_keep_every_box(weights, tmp_path, full_images):
    full_images()
    added = foveal.add(str(weights), "ema", at="neck", output="x.pt")
    assert added.tensors == (499, 499)
    assert added.difference == 0
    code = """
from ultralytics import ASSETS, YOLO
import sys, torch
first, second = (YOLO(p).predict(ASSETS / "bus.jpg", device="cpu", verbose=False)[0].boxes.data for p in sys.argv[1:])
print(torch.equal(first, second), len(first))
""".replace("sys.argv[1:]", repr([str(weights), "x.pt"]))
    assert in_fork(code, tmp_path).split()[-2:] == ["True", "5"]


@pytest.mark.seldom
def test_a_name_that_hides_what_the_model_is_is_refused():
    with pytest.raises(UserError, match=r"tells a YOLOWorld by its file's name, and x.yaml .*yolov8n-worldv2-ema.yaml"):
        foveal.add("yolov8n-worldv2.yaml", "ema", output="x.yaml")
    assert os.listdir() == []
    foveal.add("yolov8n-worldv2.yaml", "ema")  # its own name says it


@pytest.mark.seldom
def test_what_a_model_keeps_beside_its_tensors_stays():
    model = host.tasks.WorldModel("yolov8n-worldv2.yaml", nc=80, verbose=False)
    model.txt_feats = torch.nn.functional.normalize(torch.randn(1, 3, 512), dim=-1)
    model.model[-1].nc, model.names = 3, {0: "a", 1: "b", 2: "c"}  # as `set_classes` leaves it
    model.model[9].cv1.act = torch.nn.ReLU()
    torch.save(host.checkpoint(model, {}), "world.pt")
    added = foveal.add("world.pt", "ema", output="grown.pt")
    assert added.difference == 0
    assert {"txt_feats", "model.9.cv1.act"} <= {*added.carried}
    grown = host.load("grown.pt").model
    assert torch.equal(grown.txt_feats, model.txt_feats)
    assert isinstance(grown.model[9].cv1.act, torch.nn.ReLU)
    assert grown.names == model.names


@pytest.mark.seldom
def test_rows_that_build_another_model_are_refused(trained):
    model = host.load(str(trained)).model
    model.model[4].cv1.__class__ = Doubled
    torch.save(host.checkpoint(model, {}), "edited.pt")
    with pytest.raises(UserError, match=r"builds another model from this one's rows: row 4 \(C3k2\) is the first"):
        foveal.add("edited.pt", "ema", start="paper", output="x.pt", trust=True)
    assert not os.path.exists("x.pt")


def test_a_fault_of_ours_is_not_blamed_on_the_file(trained, monkeypatch):
    def broken(model):
        raise TypeError("there is no such thing")

    monkeypatch.setattr(adding, "measured_strides", broken)  # as code that belongs to the model
    with pytest.raises(UserError, match="cannot be used as a model: TypeError: there is no such thing"):
        foveal.add(str(trained), "ema", output="x.pt")
    monkeypatch.setattr(adding, "measured_strides", types.FunctionType(broken.__code__, vars(adding)))
    with pytest.raises(TypeError, match="there is no such thing"):
        foveal.add(str(trained), "ema", output="x.pt")
    assert not os.path.exists("x.pt")
