"""INT8: what it costs is paired over images, and only what a file showed is said to need float."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import foveal
from data import SHARED, draw_things
from foveal import UserError
from foveal.cli.app import app
from foveal.deploy import quantization, quantizers
from foveal.deploy.quantizers import Layer, Noted, Part
from foveal.evidence import TASKS, Answers, averages
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import CannotExportError, Written, modelfile, validators
from foveal.judging import Ground
from foveal.surgery import attachment
from helpers import swept

IMAGES = 60
ON = Ground("data", "test", TASKS["classify"], {0: "a", 1: "b", 2: "c"}, False)
GIVEN = {"format": "onnx", "int8": True, "data": "data", "device": "cpu"}


def answered(wrong: int, lucky: int = 0) -> Answers:
    """A classifier's answers, wrong on the first images but for the very first of them."""
    label = (np.arange(IMAGES) % 3).astype(np.int32)
    first = np.where(np.arange(IMAGES) < wrong, (label + 1) % 3, label)
    first[:lucky] = label[:lucky]
    ranked = np.stack([first, (first + 1) % 3, (first + 2) % 3], 1)
    names = np.array([f"{index:03}.png" for index in range(IMAGES)])
    return Answers(names, ranked, label, np.full(IMAGES, 0.9, np.float32))


class Exports:
    """Stands in for exports: what files answer by what of the attentions they have in float."""

    def __init__(self, answers, layers: list[Layer], monkeypatch):
        self.answers, self.layers, self.made = answers, layers, {"int8": frozenset()}
        monkeypatch.setattr(validators, "evaluate", self.evaluate)
        monkeypatch.setattr(modelfile, "opened", lambda path: SimpleNamespace(path=path))
        monkeypatch.setattr(averages, "RESAMPLES", 300)

    def write(self, place, settings, parts):
        kept = [layer for layer in self.layers if any(layer in part for part in parts)]
        self.made[place] = frozenset(kept) if "int8" in settings else None
        return written(place), Noted(True, kept, [layer for layer in self.layers if layer not in kept])

    def evaluate(self, file, data, split, folder, **settings):
        assert (data, split, settings["imgsz"]) == ("data", "test", 64)
        found = self.answers(self.made[file.path.name])
        return found, found.figures()


def written(name: str, eight_bits: bool = False) -> Written:
    return Written(Path(name), (64, 64), 1, False, 32, 3, None, None, None, None, None, eight_bits)


def layers(*names: str) -> list[Layer]:
    """`a.MatMul` is a layer of the attention `a`."""
    return [Layer(*name.split("."), f"/{name}") for name in names]


def judged(exports: Exports, tmp_path: Path, told: bool = True, attended: bool = True):
    noted = Noted(told, [], exports.layers if told else [])
    return quantization.judged(ON, (written("int8"), noted), attended, exports.write, tmp_path, GIVEN)


def wrongs(of: dict, whole: int):
    """Answers by how many are wrong where these layers are not in float, and where nothing is quantized."""

    def answers(kept):
        if kept is None:
            return answered(0)
        return answered(whole + sum(count for name, count in of.items() if f"/{name}" not in {k.name for k in kept}))

    return answers


def test_cost_and_share_are_paired_differences(tmp_path, monkeypatch):
    exports = Exports(wrongs({"a.MatMul": 1}, 6), layers("a.MatMul", "a.Conv", "b.Conv"), monkeypatch)
    found, kept = judged(exports, tmp_path)
    assert (found.in_float.value, found.int8.value, found.kept.value) == (1, pytest.approx(53 / 60), pytest.approx(0.9))
    assert (found.cost.value, found.rest.value) == (pytest.approx(7 / 60), pytest.approx(0.1))
    assert found.share.value == pytest.approx(1 / 60)  # one image of sixty, which another choice may not hold
    assert found.cost.excludes_zero
    assert not found.share.excludes_zero
    assert (found.tried, found.needs_float, found.nodes, kept) == ((), (), (), None)
    assert found.rounded == ("/a.MatMul", "/a.Conv", "/b.Conv")
    assert exports.made["again-2"] == {*exports.layers}
    assert found.sentences[0].startswith("On 60 images of test INT8 costs 11.67 (")
    assert "Of it the attention costs 1.67 (" in found.sentences[1]
    assert "no more than the choice of images can make: no layer of it is shown to need float." in found.sentences[1]
    assert len(found.sentences) == 2  # ranges are val's
    pairs = quantization._Judge(ON, exports.write, tmp_path, GIVEN)
    pairs.images = IMAGES
    one, other = (np.r_[0.5, np.linspace(0, 1, 9)], np.r_[0.25, np.linspace(0, 1, 9) - 0.25])
    assert pairs.difference(one, other).low == pytest.approx(0.25)  # what draws share cancels


@pytest.mark.parametrize(
    ("wrong", "names", "files", "needs"),
    [
        ({"a.MatMul": 20}, ["a.MatMul"], 3, ["a"]),
        ({"a.MatMul": 20}, ["a.MatMul", "a.Conv"], 5, ["MatMul of a"]),
        ({"b.MatMul": 20}, ["a.MatMul", "a.Conv", "b.MatMul", "b.Conv"], 7, ["MatMul of b"]),
        ({"b.MatMul": 14, "b.Conv": 12}, ["a.MatMul", "b.MatMul", "b.Conv"], 7, ["b"]),
        ({"a.Conv": 16, "c.Conv": 14}, ["a.Conv", "b.Conv", "c.Conv"], 7, ["a", "c"]),
        ({"a.Conv": 16, "c.Conv": 14}, ["a.Conv", "c.Conv"], 5, ["a", "c"]),
        ({"a.Conv": 3, "b.Conv": 3}, ["a.Conv", "b.Conv"], 5, ["a", "b"]),  # neither alone is more than chance
    ],
)
def test_what_needs_float_is_found_by_files_that_show_it(wrong, names, files, needs, tmp_path, monkeypatch):
    exports = Exports(wrongs(wrong, 2), layers(*names), monkeypatch)
    found, kept = judged(exports, tmp_path)
    assert list(found.needs_float) == needs
    assert len(exports.made) == files  # no more than it takes, INT8 and float among them
    enough = exports.made[kept.path.name]
    assert {*found.nodes} == {layer.name for layer in enough} >= {f"/{name}" for name in wrong}
    assert f"With {' and '.join(needs)} in float, INT8 costs 3.33 (" in found.sentences[1]
    assert sum(one.enough for one in found.tried) == (kept.path.name != "again-2")
    assert all(one.cost.value >= 2 / 60 - 1e-9 for one in found.tried)


@pytest.mark.parametrize(
    ("told", "attended", "names", "says"),
    [
        (False, True, [], "What of it the attention costs is not known"),
        (True, True, [], "No layer of the attention is quantized."),
        (True, False, [], None),
    ],
)
def test_what_is_not_known_of_the_attention_is_said(told, attended, names, says, tmp_path, monkeypatch):
    found, _ = judged(Exports(wrongs({}, 6), layers(*names), monkeypatch), tmp_path, told, attended)
    assert (found.rest, found.share, found.kept) == (None, None, None)
    assert [sentence.startswith(says) for sentence in found.sentences[1:]] == ([True] if says else [])


def test_a_model_without_a_form_in_float_and_one_that_finds_nothing(tmp_path, monkeypatch):
    exports = Exports(lambda kept: answered(IMAGES), layers("a.Conv"), monkeypatch)
    found, _ = judged(exports, tmp_path)
    assert "do not tell what INT8 costs" in found.sentences[0]
    exports.write = lambda place, settings, parts: (written(place, eight_bits=True), Noted())
    with pytest.raises(quantization.CannotJudgeError, match="trained for INT8"):
        judged(exports, tmp_path)

    def stops(place, settings, parts):
        raise CannotExportError("no such layer", (64, 64))

    exports.write = stops
    with pytest.raises(quantization.CannotJudgeError, match="without INT8 it cannot be exported: no such layer"):
        judged(exports, tmp_path)


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.evidence is None])
def test_a_task_of_which_nothing_is_kept_is_not_judged(task, folder):
    model = SimpleNamespace(task=task)
    assert quantization.ground(model, Path("model.pt"), {"data": str(folder / "data")}) is None


# Quantizers ----------------------------------------------------------------------------------------------------------

ATTENTIONS = ["model.16.attention.0", "model.2.m.1.cv2.attention.0", "model.22"]


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("__module.model.16.attention.0/aten::matmul/MatMul_1", "model.16.attention.0"),
        ("__module.model.16.attention.0.conv/aten::_convolution/Convolution", "model.16.attention.0"),
        ("__module.model.model.16.attention.0/aten::add/Add", "model.16.attention.0"),  # inside of a suppression
        ("__module.model.16.cv2.conv/aten::_convolution/Convolution", None),
        ("__module.model.2.m.1.cv2.attention.0/aten::mul/Multiply", "model.2.m.1.cv2.attention.0"),
        ("/model.16/attention/attention.0/MatMul", "model.16.attention.0"),
        ("/model/model.16/attention/attention.0/MatMul", "model.16.attention.0"),
        ("/model.2/m/m.1/cv2/attention/attention.0/gate/Conv", "model.2.m.1.cv2.attention.0"),
        ("/model.2/m/m.11/cv2/attention/attention.0/gate/Conv", None),
        ("/model.22/MatMul", "model.22"),
        ("/model.2/cv1/conv/Conv", None),
        ("Constant_7", None),
    ],
)
def test_layers_are_known_by_the_names_of_their_modules(name, whose):
    assert quantizers.owner(name, ATTENTIONS) == whose


@pytest.mark.parametrize(
    ("form", "home", "function", "written_to"),
    [
        ("onnx", "onnxruntime.quantization", "quantize_static", {"target": "out.onnx"}),
        ("engine", "modelopt.onnx.quantization", "quantize", {"output_path": "out.onnx"}),
    ],
)
def test_quantizers_are_told_besides_what_they_were_told(form, home, function, written_to, monkeypatch):
    calls = []
    for name in ("modelopt", "modelopt.onnx", "onnxruntime", home):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[home], function, lambda *_, **given: calls.append(given), raising=False)
    original = getattr(sys.modules[home], function)
    nodes = [
        quantizers._Node("rounded", "DequantizeLinear", ()),
        quantizers._Node("/model.22/Reshape", "Reshape", ("rounded",)),
        quantizers._Node("/model.22/Conv", "Conv", ("/model.22/Reshape",)),
        quantizers._Node("/model.22/Softmax", "Softmax", ("rounded",)),
        quantizers._Node("/model.22/Mul", "Mul", ("/model.22/Conv",)),
        quantizers._Node("/model.2/Conv", "Conv", ("rounded",)),
    ]
    monkeypatch.setattr(quantizers, "_onnx_nodes", lambda file: nodes)

    def noted(*parts):
        with quantizers.keeping(form, ATTENTIONS, parts) as seen:
            words = [".*Softmax"] if form == "engine" else ["/model.22/Softmax"]
            getattr(sys.modules[home], function)("in.onnx", **written_to, nodes_to_exclude=words)
        return seen, [re.fullmatch(word, "/model.22/Conv") is not None for word in calls[-1]["nodes_to_exclude"]]

    seen, told = noted()
    assert (seen.told, seen.kept, told) == (True, [], [False])
    assert "/model.22/Conv" in {layer.name for layer in seen.rounded}
    assert not {"/model.22/Reshape", "/model.22/Mul", "/model.2/Conv"} & {layer.name for layer in seen.rounded}
    assert ("/model.22/Softmax" in {layer.name for layer in seen.rounded}) is (form == "engine")  # told by a pattern
    seen, told = noted(Part("model.22", "Conv"))
    assert ([layer.name for layer in seen.kept], told) == (["/model.22/Conv"], [False, True])
    assert "/model.22/Conv" not in {layer.name for layer in seen.rounded}
    assert getattr(sys.modules[home], function) is original
    with quantizers.keeping("ncnn", ATTENTIONS) as seen:
        assert not seen.told


class Uneven(nn.Module):
    """The identity, by way of channels one of which is so large that eight bits leave nothing of the others."""

    def __init__(self, channels: int):
        super().__init__()
        self.out, self.back = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))
        scale = torch.ones(channels)
        scale[0] = 20000.0
        self.out.weight.data = torch.diag(scale)[..., None, None]
        self.back.weight.data = torch.diag(1 / scale)[..., None, None]

    def forward(self, x):
        return self.back(self.out(x))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three colours to be told apart, and `uneven.pt`, whose small classifier does so and has `Uneven` inside."""
    from PIL import Image

    root = tmp_path_factory.mktemp("int8")
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 12)):
        for number, name in enumerate("abc"):
            (place := root / "data" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(60, 120, (32, 32, 3))
                pixels[..., number] += generator.integers(20, 90)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [128, 3, 2]]]
    (root / "small-cls.yaml").write_text(f"nc: 3\nbackbone: {json.dumps(rows)}\nhead: [[-1, 1, Classify, [3]]]\n")
    torch.manual_seed(0)
    model = host.YOLO(root / "small-cls.yaml", task="classify")
    network = model.model.eval()
    files = sorted((root / "data/train").rglob("*.png"))
    images = torch.tensor(np.array([np.array(Image.open(file)) for file in files])).permute(0, 3, 1, 2) / 255
    seen: list[torch.Tensor] = []
    linear = network.model[-1].linear
    hook = linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
        hook.remove()
        mean = seen[0].mean(0)
        wanted = 6 * torch.eye(3).repeat_interleave(8, 0)
        linear.weight.copy_(torch.linalg.lstsq(seen[0] - mean, wanted - wanted.mean(0)).solution.T)
        linear.bias.copy_(-linear.weight @ mean)
    network.names = dict(enumerate("abc"))
    attachment.attach(network.model[1], Uneven(128)).foveal = host.Registered
    torch.save(host.checkpoint(network, {"train_args": {"imgsz": 32, "task": "classify"}}), root / "uneven.pt")
    return root


def export(folder: Path, *words: str):
    arguments = ["export", str(folder / "uneven.pt"), "--trust", f"data={folder / 'data'}", "imgsz=32", "device=cpu"]
    return CliRunner().invoke(app, [*arguments, *words])


NEEDS = {"onnx": ("onnx", "onnxruntime", "onnxslim"), "openvino": ("openvino", "nncf")}


@pytest.mark.parametrize("form", swept(NEEDS, "onnx"))
def test_an_attention_that_eight_bits_break_is_left_in_float_on_request(form, folder, tmp_path, monkeypatch):
    for package in NEEDS[form]:
        pytest.importorskip(package)
    monkeypatch.setattr(averages, "RESAMPLES", 200)
    shutil.copyfile(folder / "uneven.pt", tmp_path / "uneven.pt")
    (tmp_path / "data").symlink_to(folder / "data")
    done = export(tmp_path, f"format={form}", "int8", "--keep-float")
    assert done.exit_code == 0, done.output
    (output,) = (path for path in tmp_path.iterdir() if path.name.startswith("uneven_int8") and path.suffix != ".json")
    report = json.loads((tmp_path / f"{output.name}.parity.json").read_text())
    found = report["quantization"]
    assert found["in_float"]["value"] > 0.9
    assert found["share"]["low"] > 0.2
    assert found["needs_float"]
    assert found["cost"]["value"] == pytest.approx(found["in_float"]["value"] - found["int8"]["value"])
    assert "model.1.attention.0" in found["needs_float"][0]
    assert f"With {found['needs_float'][0]} in float, INT8 costs" in done.stdout
    again = foveal.judge([output], data=str(folder / "data"))  # what was written is what was judged
    best = [one["average"]["value"] for one in found["tried"] if one["enough"]] or [found["kept"]["value"]]
    assert again.models[0].average.value == pytest.approx(best[0])
    assert again.models[0].average.value > found["int8"]["value"] + 0.2


@pytest.mark.sweep
@pytest.mark.parametrize("form", NEEDS)
def test_ema_in_a_trained_detector_costs_little_in_eight_bits(form, weights, tmp_path):
    """Its products with a vector, and with the weight on the left, are left in float, or NNCF stops at them."""
    for package in NEEDS[form]:
        pytest.importorskip(package)
    foveal.add(weights, "ema", at="neck", output=tmp_path / "ema.pt")
    model = host.load(tmp_path / "ema.pt")
    for start in model.model.modules():
        if isinstance(start, foveal.IdentityStart):
            start.gain.data.fill_(0.1)
    torch.save(host.checkpoint(model.model, model.ckpt), tmp_path / "ema.pt")
    if not (SHARED / "coco256").is_dir():
        pytest.skip(f"no COCO images at {SHARED / 'coco256'}")
    for part, suffix in (("images", "jpg"), ("labels", "txt")):
        (tmp_path / part / "val").mkdir(parents=True)
        for source in sorted((SHARED / "coco256/images/val2017").iterdir())[:40]:
            file = SHARED / f"coco256/{part}/val2017/{source.stem}.{suffix}"
            if file.exists():  # an image without objects has no labels
                shutil.copyfile(file, tmp_path / part / "val" / file.name)
    data = tmp_path / "data.yaml"
    names = json.dumps(dict(enumerate(model.model.names.values())))
    data.write_text(f"path: {tmp_path}\ntrain: images/val\nval: images/val\nnames: {names}\n")
    done = foveal.export(tmp_path / "ema.pt", format=form, int8=True, data=str(data), imgsz=160, device="cpu")
    found = done.quantization
    assert not done.wrong
    assert found.in_float.value > 0.2
    assert abs(found.share.value) < 0.05
    assert found.calibrated == found.split == "val"
    assert found.sentences[-1] == "The ranges of INT8 were taken from the same images."
    assert {f"model.{row}.attention.0" for row in (16, 19, 22)} == {
        quantizers.owner(name, [f"model.{row}.attention.0" for row in (16, 19, 22)]) for name in found.rounded
    }


@pytest.mark.sweep
@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_other_tasks_come_to_a_verdict_too(task, tmp_path):
    data = draw_things(tmp_path / "data", task, train=2, val=6)
    torch.manual_seed(0)
    model = host.load(f"yolo11n-{'seg' if task == 'segment' else task}.yaml")
    network = host.rebuild(model.model, {**model.model.yaml, "nc": 2, "kpt_shape": [2, 3]})
    network.names = {0: "bar", 1: "wedge"}
    torch.save(host.checkpoint(network, {"train_args": {"imgsz": 64, "task": task}}), tmp_path / "model.pt")
    done = foveal.export(tmp_path / "model.pt", format="onnx", int8=True, data=str(data), imgsz=64, device="cpu")
    found = done.quantization
    assert (found.metric, found.split, found.images) == (TASKS[task].metric.name, "val", 6)
    assert "6 images of val" in found.sentences[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["format=onnx", "--keep-float"], "only of INT8 can layers be kept in float"),
        (["format=onnx", "int8", "data=empty"], "has no image in val to calibrate on"),
        (["format=onnx", "int8", "data=other"], "has other classes than"),
        (["format=onnx", "int8", "data=untrue"], "untrue"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_written(words, message, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for name in "abc":
            (tmp_path / "empty" / split / name).mkdir(parents=True)
            (tmp_path / "other" / split / f"{name}{name}").mkdir(parents=True)
            for place in (f"empty/train/{name}", f"other/{split}/{name}{name}"):
                shutil.copyfile(folder / "data/val" / name / "0.png", tmp_path / place / "0.png")
    shutil.copyfile(folder / "uneven.pt", tmp_path / "uneven.pt")
    done = CliRunner().invoke(app, ["export", "uneven.pt", "--trust", "imgsz=32", *words])
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "other", "uneven.pt"]
