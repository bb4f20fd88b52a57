"""Exports: what is wrong is found and named, what is right passes, and only that gets its name."""

import copy
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import foveal
from foveal import ATTENTIONS, IdentityStart, UserError
from foveal.cli import app
from foveal.deploy import checked_export, parity
from foveal.deploy.parity import Difference, Differences
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import Kind, exporter, runtime
from foveal.surgery import attachment
from helpers import filled, fitting, swept

SMALL = {"imgsz": 96, "device": "cpu"}


@pytest.fixture(scope="module")
def attended(weights, tmp_path_factory) -> Path:
    """Trained weights with EMA at the neck, and gains and parameters that make a difference."""
    file = tmp_path_factory.mktemp("attended") / "model.pt"
    foveal.add(weights, "ema", at="neck", output=file)
    model = host.load(file)
    generator = torch.Generator().manual_seed(0)
    for start in model.model.modules():
        if isinstance(start, IdentityStart):
            filled(start.attention)
            start.gain.data = 0.2 + 0.6 * torch.rand(start.gain.shape, generator=generator)
    torch.save(host.checkpoint(model.model, model.ckpt), file)
    return file


class Frozen(nn.Module):
    """Attentions as they circulate, each of which knows only the size at which it was traced."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how

    def forward(self, x):
        height = int(x.shape[2])
        if self.how == "pool":
            return x * nn.AdaptiveAvgPool2d((None, 1))(x).sigmoid()
        if self.how == "reshape":
            return x * x.mean(3).reshape(x.shape[0], x.shape[1], height, 1).sigmoid()
        return x * x[:, :, : height // 2].mean((2, 3), keepdim=True).sigmoid()


def frozen(how: str, weights: Path, folder: Path) -> Path:
    model = host.load(weights)
    attachment.attach(model.model.model[16], Frozen(how)).foveal = host.Registered
    torch.save(host.checkpoint(model.model, model.ckpt), folder / "frozen.pt")
    return folder / "frozen.pt"


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["foveal", *map(str, arguments)])
    code = 0
    try:
        app.main()
    except SystemExit as end:
        code = end.code or 0
    return code, *capsys.readouterr()


# Folding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [None, 0.0, 1.0, "drawn"])
def test_emas_folded_form_is_the_same_function(gain):
    attention = filled(foveal.EMAttention(64, groups=8).double())
    module = attention if gain is None else IdentityStart(attention, 64).double()
    if gain is not None:
        module.gain.data = torch.rand(64).double() if gain == "drawn" else torch.full((64,), gain).double()
    before = copy.deepcopy(module.state_dict())
    folded = foveal.fuse(nn.Sequential(module).eval())
    assert type(folded[0]) is (nn.Identity if gain == 0 else type(attention.folded()))
    traced = torch.jit.trace(folded, torch.randn(1, 64, 8, 8).double(), check_trace=False)
    for shape in ((1, 64, 8, 8), (3, 64, 5, 11), (2, 64, 1, 3)):
        x = torch.randn(shape).double()
        for run in (folded, traced):
            torch.testing.assert_close(run(x), module(x), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_folded_graph_computes_nothing_from_parameters_alone():
    folded = foveal.fuse(nn.Sequential(foveal.EMAttention(64, groups=8)).eval())
    graph = torch.jit.trace(folded, torch.randn(1, 64, 8, 8), check_trace=False).inlined_graph
    softmaxes = [node for node in graph.nodes() if node.kind() == "aten::softmax"]
    assert len(softmaxes) == 1  # that of the means, which depends on the input


def test_a_folded_graph_leaves_whole_maps_in_the_layout_of_convolutions():
    folded = foveal.fuse(nn.Sequential(foveal.EMAttention(64, groups=8)).eval())
    graph = torch.jit.trace(folded, torch.randn(1, 64, 8, 8), check_trace=False).inlined_graph
    maps = {node.kind() for node in graph.nodes() if node.output().isCompleteTensor() and _pixels(node.output()) == 64}
    maps -= {"aten::slice"}  # of everything, which the indexing of a border writes down
    assert maps == {"aten::_convolution", "aten::instance_norm", "aten::mul", "aten::add", "aten::sigmoid"}


def _pixels(value: torch.Value) -> int:
    return math.prod(value.type().sizes()[2:])


def test_a_fused_model_from_before_the_exported_form_had_constants_exports():
    folded = filled(foveal.EMAttention(64, groups=8)).double().folded(torch.rand(64).double())
    state = dict(vars(folded))
    kept = {"mixed_kernel", "offset", "gain"}
    old = type(folded).__new__(type(folded))
    old.__setstate__({**state, "_buffers": {name: state["_buffers"][name] for name in kept}})
    x = torch.randn(1, 64, 5, 7).double()
    traced = torch.jit.trace(old, x, check_trace=False)
    torch.testing.assert_close(traced(x), folded(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cls", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize("gain", [0.0, 0.4, 1.0])
def test_every_attention_is_deployed_as_the_function_it_was(cls, gain):
    start = IdentityStart(filled(fitting(cls, 64)), 64)
    start.gain.data.fill_(gain)
    model = nn.Sequential(nn.Conv2d(3, 64, 1), start).eval()
    deployed = checked_export.deployed(model)
    x = torch.randn(2, 3, 12, 9)
    expected = model(x)
    torch.testing.assert_close(deployed(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert isinstance(deployed[1], nn.Identity) is (gain == 0)
    assert not [m for m in deployed.modules() if isinstance(m, nn.BatchNorm2d)] or not _conv_norms(cls)
    assert model[1] is start


@pytest.mark.parametrize("cls", ATTENTIONS.values(), ids=ATTENTIONS)
@pytest.mark.parametrize("start", [False, True], ids=["bare", "identity"])
def test_every_attention_is_written_down_as_the_function_it_is(cls, start):
    module = filled(fitting(cls, 64)).double().eval()
    if start:
        module = IdentityStart(module, 64).double().eval()
        module.gain.data = torch.rand(64).double()
    traced = torch.jit.trace(module, torch.randn(1, 64, 16, 16).double(), check_trace=False)
    for shape in ((1, 64, 16, 16), (2, 64, 12, 9), (3, 64, 1, 4), (1, 64, 23, 17)):
        x = torch.randn(shape).double()
        torch.testing.assert_close(traced(x), module(x), rtol=1e-6, atol=1e-6)  # tracers keep scales in 32 bits


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("se", ["mul"]),
        ("eca", ["mul"]),
        ("mlca", ["matmul", "mul"]),
        ("sa", ["instance_norm", "sigmoid", "mul", "mul", "reshape", "mul", "add"]),
    ],
)
def test_what_an_exported_attention_with_its_gain_does_to_whole_maps(name, kinds):
    module = IdentityStart(filled(fitting(ATTENTIONS[name], 64)), 64).eval()
    module.gain.data.fill_(0.5)
    graph = torch.jit.trace(module, torch.randn(1, 64, 16, 16), check_trace=False).inlined_graph
    maps = [node.kind() for node in graph.nodes() if node.outputsSize() == 1 and _is_map(node.output())]
    assert [kind for kind in maps if kind not in ("aten::slice", "aten::to")] == [f"aten::{kind}" for kind in kinds]


def _is_map(value: torch.Value) -> bool:
    return value.isCompleteTensor() and value.type().sizes() == [1, 64, 16, 16]


@pytest.mark.parametrize("name", ["se", "mlca"])
def test_a_form_of_a_subclass_is_not_replaced_by_what_its_parent_exports(name):
    parent = ATTENTIONS[name]
    own = type("Own", (parent,), {"fast": lambda self, x: 2 * parent.reference(self, x)})
    module = IdentityStart(fitting(own, 64), 64).eval()
    module.gain.data.fill_(0.5)
    x = torch.randn(1, 64, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(module, x, check_trace=False)(x), module(x))


def _conv_norms(cls) -> bool:
    return any(type(module).__name__ == "ConvNorm" for module in fitting(cls, 64).modules())


# Comparing ---------------------------------------------------------------------------------------------------------


DETECT = Kind("detect", 2, rows=False, unit=False)
SIZE = (64, 96)


def raw(*boxes: tuple[float, ...], more: int = 0) -> torch.Tensor:
    """(1, 4 + 2 + more, boxes) as a detector's: centre, width, height, confidences of two classes."""
    return torch.tensor([[*box, *[0.5] * more] for box in boxes]).T[None].contiguous()


FOUND = raw((20, 20, 10, 10, 0.9, 0.1), (60, 40, 20, 8, 0.2, 0.7), (10, 50, 6, 6, 0.05, 0.01))


def test_equal_outputs_are_not_apart():
    found = parity.compare([FOUND], [FOUND.clone()], DETECT, SIZE)
    assert found == Differences(Difference(0, 0), Difference(0, 0), None, 2, 0, 0, 0)


def test_differences_are_measured_before_and_after_suppression():
    other = FOUND.clone()
    other[0, 0, 0] += 0.5
    other[0, 4, 0] -= 0.1
    other[0, 1, 2] += 3  # of a box that nobody keeps
    found = parity.compare([FOUND], [other], DETECT, SIZE)
    assert (found.boxes.largest, found.boxes.rms) == (3, pytest.approx(math.sqrt((0.25 + 9) / 12)))
    assert found.scores.largest == pytest.approx(0.1)
    assert (found.kept, found.unmatched, found.kept_boxes) == (2, 0, 0.5)
    assert found.kept_scores == pytest.approx(0.1)


def test_boxes_that_only_one_finds_are_counted():
    other = FOUND.clone()
    other[0, 5, 1] = 0.1  # no longer above the threshold, by more than it differs elsewhere
    found = parity.compare([FOUND], [other], DETECT, SIZE)
    assert (found.kept, found.unmatched) == (2, 0)  # twice the difference excuses it
    moved = FOUND.clone()
    moved[0, 0, 1] -= 30
    assert parity.compare([FOUND], [moved], DETECT, SIZE).unmatched == 2
    turned = FOUND.clone()
    turned[0, [4, 5], 0] = turned[0, [5, 4], 0]
    assert parity.compare([FOUND], [turned], DETECT, SIZE).kept_boxes == 0


def test_what_is_no_number_is_infinitely_wrong():
    other = FOUND.clone()
    other[0, 2, 1] = math.nan
    assert parity.compare([FOUND], [other], DETECT, SIZE).boxes.largest == math.inf
    rows = torch.tensor([[[0, 0, 9, 9, 0.9, 1], [5, 5, 20, 30, 0.6, 0]]])
    broken = rows.clone()
    broken[0, 0, 2] = math.nan
    found = parity.compare([rows], [broken], Kind("detect", 2, rows=True, unit=False), SIZE)
    assert found.boxes.largest > 9


def test_masks_and_key_points_are_measured_by_their_size():
    true, got = raw((20, 20, 10, 10, 0.9, 0.1), more=3), raw((20, 20, 10, 10, 0.9, 0.1), more=3)
    got[0, 7] += 0.1
    masks = torch.full((1, 2, 4, 4), 8.0)
    found = parity.compare([true, masks], [got, masks + 4], Kind("segment", 2, rows=False, unit=False), SIZE)
    assert found.rest.largest == pytest.approx(0.5)
    assert parity.compare([true, masks], [got, masks], DETECT, SIZE).rest.largest == pytest.approx(0.2)


DEPTH, SEMANTIC = (Kind(task, 3, rows=False, unit=False) for task in ("depth", "semantic"))


def test_maps_are_measured_by_their_size():
    depths = torch.full((1, 1, 4, 4), 8.0)
    assert parity.compare([depths], [depths + 2], DEPTH, SIZE) == Differences(rest=Difference(0.25, 0.25))
    assert parity.compare([depths], [depths], DEPTH, SIZE) == Differences(rest=Difference(0, 0))
    said = "outputs have the shapes [(1, 1, 2, 2)], not [(1, 1, 4, 4)]"
    assert parity.compare([depths], [depths[..., :2, :2]], DEPTH, SIZE) == said


def test_maps_of_classes_are_measured_by_what_the_classes_scored():
    scores = torch.zeros(2, 3, 4, 4)
    scores[:, 1], scores[:, 2] = 10.0, 9.9999
    best = torch.ones(2, 4, 4, dtype=torch.uint8)
    assert parity.compare([scores], [best], SEMANTIC, SIZE) == Differences(rest=Difference(0, 0))
    assert parity.compare([scores], [best.float()], SEMANTIC, SIZE) == Differences(rest=Difference(0, 0))
    tie, wrong, none = best.clone(), best.clone(), best.clone()
    tie[0, 0, 0], wrong[0, 0, 0], none[0, 0, 0] = 2, 0, 3
    assert parity.compare([scores], [tie], SEMANTIC, SIZE).rest.largest == pytest.approx(1e-5, rel=0.1)
    assert parity.compare([scores], [wrong], SEMANTIC, SIZE).rest.largest == 1
    assert parity.compare([scores], [none], SEMANTIC, SIZE).rest.largest == math.inf
    assert parity.compare([scores], [scores], SEMANTIC, SIZE) == Differences(
        rest=Difference(0, 0)
    )  # some formats write scores
    said = "outputs have the shapes [(2, 3, 4)], not [(2, 4, 4)]"
    assert parity.compare([scores], [best[:, :3]], SEMANTIC, SIZE) == said


def test_one_score_is_for_or_against_its_class():
    score = torch.tensor([2.0, -1.0, 1e-6]).view(1, 1, 1, 3)
    for classes, largest in (([1, 0, 1], 0), ([1, 0, 0], 5e-7), ([1, 1, 1], 0.5), ([0, 0, 1], 1)):
        found = parity.compare([score], [torch.tensor([[classes]])], SEMANTIC, SIZE)
        assert found.rest.largest == pytest.approx(largest), classes


def test_rows_are_found_in_any_order():
    rows = torch.tensor([[[0, 0, 9, 9, 0.9, 1], [5, 5, 20, 30, 0.6, 0], [1, 1, 2, 2, 0.001, 0]]])
    kind = Kind("detect", 2, rows=True, unit=False)
    shuffled = rows[:, [1, 0, 2]].clone()
    shuffled[0, 2, :4] += 40  # too faint to tell
    found = parity.compare([rows], [shuffled], kind, SIZE)
    assert (found.boxes.largest, found.scores.largest, found.kept, found.unmatched) == (0, 0, 2, 0)
    shuffled[0, 0, 0] += 2
    assert parity.compare([rows], [shuffled], kind, SIZE).boxes.largest == 2


@pytest.mark.parametrize("unit", [False, True])
def test_of_a_model_that_is_sure_of_nothing_the_clearer_rows_are_compared(unit):
    kind = Kind("detect", 2, rows=True, unit=unit)
    rows = torch.tensor([[[10.0, 10, 20, 30, 6e-4, 0], [0, 0, 9, 9, 5e-4, 0], [5, 5, 20, 30, 1e-4, 0]]])
    other = rows[:, [1, 0, 2]].clone()
    found = parity.compare([rows], [other], kind, SIZE)
    assert (found.boxes.largest, found.scores.largest, found.kept, found.empty) == (0, 0, 0, False)
    other[0, 2, :4] += 40  # the faintest may be another one
    assert parity.compare([rows], [other], kind, SIZE).boxes.largest == 0
    other[0, 0, 0] += 2
    assert parity.compare([rows], [other], kind, SIZE).boxes.largest == (2 * SIZE[1] if unit else 2)


@pytest.mark.parametrize("masks", [[], [torch.ones(1, 2, 4, 4)]], ids=["boxes", "masks"])
def test_rows_without_a_box_are_no_comparison(masks):
    kind = Kind("segment" if masks else "detect", 2, rows=True, unit=False)
    none, equal = torch.zeros(1, 3, 6), torch.tensor([[[0.0, 0, 9, 9, 0.9, 1]] * 3])
    for rows in (none, equal):
        found = parity.compare([rows, *masks], [rows.clone(), *masks], kind, SIZE)
        assert (found.boxes, found.scores, found.empty) == (None, None, True)
        assert parity.worst([found]).empty
    assert not parity.compare([torch.ones(1, 5)], [torch.ones(1, 5)], Kind("classify", 5, False, False), SIZE).empty
    assert not parity.compare([FOUND], [FOUND], DETECT, SIZE).empty


def test_fractions_of_the_image_become_pixels():
    rows = torch.tensor([[[0.5, 0.5, 0.2, 0.2, 0.9, 0.0], [0.2, 0.3, 0.1, 0.1, 0.1, 0.0]]])
    other = rows.clone()
    other[0, 0, 0] += 0.01
    found = parity.compare([rows], [other], Kind("detect", 2, rows=True, unit=True, chosen=False), SIZE)
    assert found.boxes.largest == pytest.approx(0.96, rel=1e-4)  # of 96 columns
    assert found.kept_boxes == pytest.approx(0.96, rel=1e-4)


def test_rows_of_rt_detr_are_read_as_their_release_writes_them():
    # The newer ones choose: a confidence and its class. In the older ones the confidences of all classes follow.
    size, box = (100, 100), [0.5, 0.5, 0.2, 0.2]
    faint = [0.2, 0.2, 0.1, 0.1, 0.001, 0.0]
    chosen, older = torch.tensor([[[*box, 0.4, 1.0], faint]]), torch.tensor([[[*box, 0.1, 0.4], faint]])
    for rows, kind in (
        (chosen, Kind("detect", 2, rows=True, unit=True)),
        (older, Kind("detect", 2, rows=True, unit=True, chosen=False)),
    ):
        (found,) = exporter.final_boxes([rows], kind, size)
        assert found.tolist() == [pytest.approx([40, 40, 60, 60, 0.4, 1])]
        other = rows.clone()
        other[:, 0, 4] += 0.35  # another confidence, and with the older ones another class
        assert parity.compare([rows], [other], kind, size).scores.largest == pytest.approx(
            0.35 if kind.chosen else 0.05
        )


def test_other_shapes_are_said():
    assert "(1, 6, 2)" in parity.compare([FOUND], [FOUND[..., :2]], DETECT, SIZE)
    assert parity.compare([torch.ones(1, 5)], [torch.ones(1, 5)], Kind("classify", 5, False, False), SIZE).boxes is None


def difference(largest: float, rms: float) -> Differences:
    return Differences(boxes=Difference(largest, rms), scores=Difference(0, 0), kept=3, unmatched=0)


@pytest.mark.parametrize(
    ("differences", "effect", "plain", "wrong"),
    [
        (difference(9e-4, 1e-5), None, None, ""),
        (difference(2e-3, 1e-4), None, None, "boxes differ by up to 0.002 pixels, rms 0.0001"),
        (difference(2e-3, 1e-4), difference(3.0, 0.2), None, ""),  # a thousandth of what the attentions change
        (difference(2e-3, 1e-4), difference(3.0, 0.05), None, "boxes differ by up to 0.002 pixels"),
        (difference(8.0, 0.5), difference(9.0, 1.0), difference(2.0, 0.3), ""),  # on the whole no more than the format
        (difference(2.0, 0.7), difference(9.0, 1.0), difference(8.0, 0.3), "rms 0.7; without attention 8, 0.3"),
        (difference(math.inf, math.inf), difference(math.inf, math.inf), difference(8.0, 0.3), "inf"),
        (Differences(scores=Difference(1e-3, 1e-3)), None, None, "confidences differ by up to 0.001, rms 0.001"),
    ],
)
def test_what_passes(differences, effect, plain, wrong):
    case = checked_export.Case((64, 64), 1, True, differences, "")
    said = checked_export._wrong(case, effect, plain)
    assert wrong in said
    assert bool(said) == bool(wrong)


def test_boxes_found_by_one_only_fail():
    differences = Differences(boxes=Difference(0, 0), scores=Difference(0, 0), kept=3, unmatched=1)
    assert "1 boxes are found by only one" in checked_export._wrong(
        checked_export.Case((64, 64), 1, True, differences, ""), None, None
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 640), [(640, 640), (832, 832), (320, 640)]), ((32, 32), [(32, 32), (64, 64), (32, 64)])],
)
def test_dynamic_files_are_run_at_three_sizes(size, expected, attended):
    written = exporter.Written(Path(), size, 1, True, 32, 3, None, None, None, None, DETECT)
    assert checked_export._sizes(written) == expected
    assert any(height != width for height, width in expected)


# Whole exports -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("onnx", {"dynamic": True}),
        ("openvino", {}),
        ("torchscript", {}),
        ("ncnn", {}),
        pytest.param("openvino", {"dynamic": True}, marks=pytest.mark.sweep),
    ],
)
def test_a_model_with_attention_passes(form, mode, attended, tmp_path, monkeypatch, capsys):
    for package in exporter.PACKAGES[form]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    file = tmp_path / "best.pt"
    shutil.copy(attended, file)
    settings = [f"{key}={value}" for key, value in {"format": form, **mode, **SMALL}.items()]
    code, out, err = command(monkeypatch, capsys, "export", file, *settings, "--json")
    found = json.loads(out)
    assert (code, found["wrong"]) == (0, ""), err
    assert any(not case["exact"] for case in found["cases"]) == (form == "openvino")  # once more as the host runs it
    assert {(*case["size"], case["batch"]) for case in found["cases"] if case["exact"]} == (
        {(*size, batch) for size in ((96, 96), (128, 128), (32, 96)) for batch in (1, 4)} if mode else {(96, 96, 1)}
    )
    assert Path(found["output"]).exists()
    assert json.loads(Path(found["output"] + ".parity.json").read_text()) == found
    assert ".foveal-" not in err
    assert {path.name for path in tmp_path.iterdir()} == {
        file.name,
        Path(found["output"]).name,
        Path(found["output"]).name + ".parity.json",
    }
    again = host.YOLO(found["output"], task="detect").predict(exporter.PICTURES[0], imgsz=96, verbose=False)
    assert len(again) == 1


@pytest.mark.parametrize(
    ("how", "form", "size", "layer"),
    [
        ("pool", "onnx", "any size but 96 x 96", ""),
        ("reshape", "onnx", "at 128 x 128 pixels, batch 1: the file does not run", "the attention of row 16, C3k2"),
        pytest.param(
            *("slice", "onnx", "at 128 x 128 pixels, batch 1: boxes differ by", "the attention of row 16, C3k2"),
            marks=pytest.mark.sweep,
        ),
        pytest.param(
            *("slice", "torchscript", "at 128 x 128 pixels, batch 1: boxes differ by", ""), marks=pytest.mark.sweep
        ),
    ],
)
def test_a_size_that_is_frozen_is_named(how, form, size, layer, weights, tmp_path, monkeypatch, capsys):
    file = frozen(how, weights, tmp_path)
    (tmp_path / f"frozen.{form}").write_text("an earlier one")
    code, out, _ = command(monkeypatch, capsys, "export", file, f"format={form}", "dynamic=True", "imgsz=96", "--trust")
    assert code == 1
    assert size in out
    assert layer in out
    assert (tmp_path / f"frozen.{form}").read_text() == "an earlier one"
    assert size in json.loads((tmp_path / f"frozen.{form}.parity.json").read_text())["wrong"]


def test_an_attention_left_out_would_be_noticed(attended, tmp_path, monkeypatch):
    monkeypatch.setattr(checked_export, "deployed", checked_export.without_attentions)
    file = tmp_path / "best.pt"
    shutil.copy(attended, file)
    found = foveal.export(file, format="torchscript", **SMALL)
    assert "boxes differ" in found.wrong
    assert not (tmp_path / "best.torchscript").exists()


def damage(monkeypatch) -> None:
    """Whatever is exported but for the model without attention is another model."""
    write = exporter.write

    def damaged(model, weights, folder, name, given):
        if name != "plain":
            weights = copy.deepcopy(weights)
            for parameter in weights.model[5].parameters():
                parameter.data *= 1.5
        return write(model, weights, folder, name, given)

    monkeypatch.setattr(exporter, "write", damaged)


@pytest.mark.parametrize("broken", swept([False, True], "True"))
@pytest.mark.sweep
def test_a_file_that_finds_no_box_is_compared_without_its_suppression(broken, attended, tmp_path, monkeypatch, capsys):
    if broken:
        damage(monkeypatch)
    shutil.copy(attended, tmp_path / "best.pt")
    words = ["format=torchscript", "nms", "conf=0.99", "imgsz=96", "device=cpu"]
    code, out, err = command(monkeypatch, capsys, "export", tmp_path / "best.pt", *words)
    assert "no box" in out
    assert "96 x 96, without nms" in out
    assert code == broken
    assert (tmp_path / "best.torchscript").exists() is not broken
    assert ("without nms: boxes differ" in out) is broken
    assert ("data=my.yaml compares boxes, too" in err) is not broken


@pytest.mark.parametrize(
    ("faint", "broken", "said"),
    [
        pytest.param(True, False, "", marks=pytest.mark.sweep),
        (True, True, "boxes differ"),
        (False, False, "no box was found that could be compared"),
    ],
)
def test_rows_of_an_end2end_head_below_the_threshold(faint, broken, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not hasattr(host.tasks.DetectionModel, "end2end"):
        pytest.skip("this release has no head of which `nms` chooses")
    model = host.load("yolo26n.yaml")
    for norm in model.model.modules():
        if isinstance(norm, nn.BatchNorm2d) and faint:  # else all confidences are equal
            norm.running_var.fill_(0.3)
            norm.bias.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    torch.save(host.checkpoint(model.model, {}), "fresh.pt")
    if broken:
        damage(monkeypatch)
    found = foveal.export("fresh.pt", format="torchscript", nms=False, **SMALL)
    assert said in found.wrong
    assert bool(found.wrong) is bool(said)
    assert found.cases[0].differences.kept == 0
    assert Path("fresh.torchscript").exists() is not bool(said)


@pytest.mark.slow
@pytest.mark.parametrize("name", swept(["yolov8n-rtdetr.yaml", "rtdetr-l.yaml"]))
def test_another_rt_detr_is_noticed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = host.load(name)
    generator = torch.Generator().manual_seed(0)
    for norm in model.model.modules():
        if isinstance(norm, nn.BatchNorm2d):  # else its outputs hardly depend on its image
            norm.running_var.fill_(0.3)
            norm.bias.data.normal_(0, 0.3, generator=generator)
    for parameter in model.model.model[-1].parameters():
        if not parameter.any():
            parameter.data.normal_(0, 0.05, generator=generator)
    torch.save(host.checkpoint(model.model, {}), "fresh.pt")
    damage(monkeypatch)
    found = foveal.export("fresh.pt", format="torchscript", **SMALL)
    assert "boxes differ" in found.wrong
    assert not Path("fresh.torchscript").exists()
    assert 0 < found.cases[0].differences.scores.largest <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form", "settings"),
    [
        ("yolo11n-seg.yaml", "onnx", {}),
        ("yolo11n-obb.yaml", "torchscript", {}),
        ("yolo11n-cls.yaml", "onnx", {}),
        ("yolo26n-sem.yaml", "torchscript", {}),
        pytest.param("yolo26n.yaml", "onnx", {"dynamic": True}, marks=pytest.mark.sweep),
        pytest.param("yolo11n-seg.yaml", "onnx", {"dynamic": True}, marks=pytest.mark.sweep),
        pytest.param("yolo11n.yaml", "torchscript", {"nms": True}, marks=pytest.mark.sweep),
        pytest.param("yolo26n-sem.yaml", "onnx", {"dynamic": True}, marks=pytest.mark.sweep),
        pytest.param("yolo11n-pose.yaml", "torchscript", {}, marks=pytest.mark.sweep),
        pytest.param("rtdetr-l.yaml", "torchscript", {}, marks=pytest.mark.sweep),
        pytest.param("yolo11n.yaml", "onnx", {"dynamic": True, "half": True}, marks=pytest.mark.sweep),
        pytest.param("yolo26n-depth.yaml", "onnx", {"dynamic": True}, marks=pytest.mark.sweep),
        pytest.param("yolov8n-worldv2.yaml", "torchscript", {}, marks=pytest.mark.sweep),
        pytest.param("yoloe-11n-seg.yaml", "onnx", {}, marks=pytest.mark.sweep),
    ],
)
def test_every_task_and_kind_of_output(name, form, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    foveal.add(name, "ema", at="backbone.P4", output=name)
    found = foveal.export(name, format=form, **SMALL, **settings)
    assert not found.wrong
    assert found.cases
    assert Path(found.output).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=onyx"], "there is no export format 'onyx'"),
        (["format=onnx", "int8=True"], "int8 needs images to calibrate on"),
        (["format=onnx", "dynamo=True"], "dynamo"),
        (["onnx"], "cannot read 'onnx'"),
        (["format=onnx", "data=nowhere.yaml", "imgsz=96"], "nowhere.yaml"),
    ],
)
def test_what_cannot_be_exported(arguments, message, attended, tmp_path, monkeypatch, capsys):
    file = tmp_path / "best.pt"
    shutil.copy(attended, file)
    code, out, err = command(monkeypatch, capsys, "export", file, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not out
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for the interpreter")
@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("kill -ABRT $$", r"its runtime ended the process \(SIGABRT\)"),
        ("exit 3", r"its runtime ended the process \(exit code 3\)"),
        ("printf 'no such layer' > $5/wrong.txt", "no such layer"),
    ],
)
def test_a_runtime_that_ends_its_process_is_survived(does, said, tmp_path, monkeypatch):
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\n{does}\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    run = runtime.start(tmp_path / "model_ncnn_model", "cpu")
    with pytest.raises(runtime.CannotRunError, match=said):
        run([torch.zeros(1, 3, 32, 32)])


@pytest.mark.sweep
def test_batches_come_back_from_another_process_in_order(tmp_path, monkeypatch):
    pytest.importorskip("ncnn", reason="ncnn is not installed")
    monkeypatch.chdir(tmp_path)
    model = host.load("yolo11n-cls.yaml")
    # An untrained classifier says a thousandth of every class, whatever it sees; this one tells images apart.
    torch.nn.init.normal_(model.model.model[-1].linear.weight)
    written = Path(model.export(format="ncnn", **SMALL)).resolve()
    batches = exporter.pictures(exporter.PICTURES, (96, 96), 2).split(1)
    both = runtime.start(written, "cpu")(batches)
    for images, outputs in zip(batches, both, strict=True):
        (alone,) = runtime.start(written, "cpu")([images])
        assert all(torch.equal(a, b) for a, b in zip(alone, outputs, strict=True))
    assert not torch.equal(both[0][0], both[1][0])


def test_a_runtime_that_is_missing_is_named(attended, monkeypatch):
    monkeypatch.setitem(exporter.PACKAGES, "onnx", ("nowhere_to_be_found",))
    with pytest.raises(UserError, match="format=onnx needs nowhere_to_be_found"):
        foveal.export(attended, format="onnx")


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        foveal.export(tmp_path / "no.pt", format="onnx")
    assert not [*tmp_path.iterdir()]
