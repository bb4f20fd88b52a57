"""Attentions in any torch model: exact at the start, in every copy and trace, and out again bit for bit."""

import copy
import dataclasses
import io
import json
import pickle
import sys

import pytest
import torch
from torch import nn

import foveal
from foveal import IdentityStart, UserError
from foveal.cli import app
from foveal.hosts import zoo
from helpers import in_fork, run_forked, swept

ultralytics = pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("timm", reason="timm is not installed")

MODELS = {  # place and attention of each, and how many there are then
    "timm:resnet50": ("paper", "ema", 16),
    "timm:mobilenetv2_100": ("paper", "ema", 13),
    "timm:convnext_atto": ("before_residual", "ema(groups=8)", 12),
    "timm:efficientnet_b0": ("after_depthwise", "ema(groups=8)", 16),
    "torchvision:resnet18": ("stages", "coord", 4),
    "yolo11n.yaml": ("neck", "ema", 3),
}


TRACED = ["torchvision:resnet18", "timm:mobilenetv2_100", "timm:convnext_atto", "yolo11n.yaml"]


def load(name: str) -> nn.Module:
    torch.manual_seed(0)
    if ":" in name:
        model = zoo.load(name).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # timm starts the last of a block at 0, so that its branch is silent
                nn.init.ones_(module.weight)
        return model
    host = pytest.importorskip("foveal.yolo", reason="Ultralytics is not installed")
    return host.load(name).model.eval()


def call(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out = model(x)
    return out if isinstance(out, torch.Tensor) else out[0]


def switched_on(model: nn.Module) -> nn.Module:
    """With gains at which the attentions count."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, IdentityStart):
            module.gain.data = 0.3 + 0.5 * torch.rand(module.gain.shape, generator=generator)
    return model


def attended(name: str) -> tuple[nn.Module, list]:
    model = load(name)
    at, spec, _ = MODELS[name]
    return model, foveal.attach(model, spec, at=at)


@pytest.mark.parametrize("name", MODELS)
def test_in_and_out_again(name):
    model = load(name)
    x = torch.randn(2, 3, 96, 64)
    at, spec, count = MODELS[name]
    with torch.no_grad():
        before = call(model, x)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        rows = foveal.attach(model, spec, at=at)
        assert len(rows) == count
        assert torch.equal(call(model, x), before), "the identity start is exact"
        assert not torch.equal(call(switched_on(model), x), before)
        named = dict(model.named_modules())
        for row in rows:
            attention = named[row.name].attention[0]
            assert attention.attention.channels == row.channels
            assert row.layer == type(named[row.name])._attended_base.__name__
            assert row.parameters == sum(parameter.numel() for parameter in attention.parameters())
        own = {key: value for key, value in model.state_dict().items() if ".attention." not in key or key in state}
        assert own.keys() == state.keys()
        assert all(torch.equal(own[key], state[key]) for key in state)
        assert not any(module.training for module in model.modules())
        assert foveal.detach(model) == [row.name for row in rows]
        assert list(model.state_dict()) == list(state)
        assert torch.equal(call(model, x), before)
        assert foveal.detach(model) == []


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step(name):
    model, rows = attended(name)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    outputs = model(torch.randn(2, 3, 64, 64))
    tensors = outputs.values() if isinstance(outputs, dict) else outputs if isinstance(outputs, list) else [outputs]
    sum(out.square().mean() for out in tensors if isinstance(out, torch.Tensor)).backward()
    named = dict(model.named_modules())
    gains = [named[row.name].attention[0].gain for row in rows]
    assert all(bool(gain.grad.abs().max() > 0) for gain in gains)
    optimizer.step()
    assert all(bool(gain.any()) for gain in gains)


@pytest.mark.parametrize("name", swept(TRACED, "torchvision:resnet18"))
def test_copies_traces_and_formats_keep_it(name):
    model, _ = attended(name)
    switched_on(model)
    x = torch.randn(2, 3, 96, 64)
    free = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    ways = {
        "deepcopy": copy.deepcopy,
        "pickle": lambda of: pickle.loads(pickle.dumps(of)),
        "channels_last": lambda of: copy.deepcopy(of).to(memory_format=torch.channels_last),
        "export": lambda of: torch.export.export(of, (x,), dynamic_shapes=(free,)).module(),
    }
    if not name.startswith("yolo"):  # whose forward fx cannot trace, with or without attentions
        ways["fx"] = torch.fx.symbolic_trace
    if name in ("torchvision:resnet18", "timm:mobilenetv2_100"):  # the others take long and show nothing new
        ways["compile"] = lambda of: torch.compile(of, backend="aot_eager")
    with torch.no_grad():
        expected = call(model, x)
        for way, made in ways.items():
            assert torch.allclose(call(made(model), x), expected, rtol=1e-4, atol=1e-5), way


@pytest.mark.slow
@pytest.mark.parametrize("name", swept(MODELS, "torchvision:resnet18", "yolo11n.yaml"))
def test_onnx_at_another_size(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, _ = attended(name)
    switched_on(model)
    if name.startswith("yolo"):  # as the host's exporter asks of its head
        model.model[-1].export = model.model[-1].dynamic = True
    file = tmp_path / "model.onnx"
    axes = {"x": {0: "b", 2: "h", 3: "w"}}
    torch.onnx.export(model, torch.randn(1, 3, 64, 64), str(file), input_names=["x"], dynamic_axes=axes, dynamo=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 64, 64), (2, 3, 128, 96)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = call(model, x)
        (out, *_) = session.run(None, {"x": x.numpy()})
        assert torch.allclose(torch.from_numpy(out), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_two_processes_of_ddp_agree(tmp_path):
    code = """
import torch, torch.distributed as dist, torch.multiprocessing as mp, foveal
from foveal.hosts import zoo

def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = zoo.load("torchvision:resnet18")
    foveal.attach(model, "ema", at="paper")
    model = torch.nn.parallel.DistributedDataParallel(model)
    torch.manual_seed(rank)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    grad = model.module.layer4[1].bn2.attention[0].gain.grad
    both = [torch.zeros_like(grad) for _ in range(2)]
    dist.all_gather(both, grad)
    if rank == 0:
        print(bool(torch.equal(*both)) and bool(grad.any()))

if __name__ == "__main__":
    import sys
    mp.start_processes(work, (sys.argv[1],), 2, start_method="fork")
"""
    (tmp_path / "work.py").write_text(code)
    command = [sys.executable, "work.py", str(tmp_path)]
    assert run_forked(command, tmp_path, OMP_NUM_THREADS="1").strip() == "True"


# Known answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at", "parameters"),
    [
        ("timm:resnet50", "layer*.*.bn3", 198_368),
        ("torchvision:resnet50", "paper", 198_368),
        ("torchvision:resnet101", "paper", 374_624),
        ("timm:mobilenetv2_100", "paper", 44_400),
        ("torchvision:mobilenet_v2", "paper", 44_400),
    ],
)
def test_parameters_are_those_of_the_authors_networks(name, at, parameters):
    rows = foveal.attach(load(name), "ema(start=paper)", at=at)
    assert sum(row.parameters for row in rows) == parameters


def test_yolov5s_of_the_paper():
    rows = [foveal.EMAttention(channels) for channels in (256, 512)]
    assert sum(p.numel() for module in rows for p in module.parameters()) == 3_296


def test_an_attended_resnet_is_one_built_by_hand():
    class ByHand(nn.Module):
        def __init__(self, block: nn.Module, attention: nn.Module):
            super().__init__()
            self.block, self.attention = block, attention

        def forward(self, x):
            b = self.block
            out = b.relu(b.bn2(b.conv2(b.relu(b.bn1(b.conv1(x))))))
            out = self.attention(b.bn3(b.conv3(out)))
            return b.relu(out + (b.downsample(x) if b.downsample is not None else x))

    model = load("torchvision:resnet50").double()
    hand = copy.deepcopy(model)
    foveal.attach(model, "ema(start=paper)", at="paper")
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for index, block in enumerate(getattr(model, stage)):
            attention = copy.deepcopy(block.bn3.attention[0])
            getattr(hand, stage)[index] = ByHand(getattr(hand, stage)[index], attention)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(model(x), hand(x))


# Places --------------------------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """Two residual blocks, with what confuses a search: an activation in place, dropout, an activation used twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.SiLU(inplace=True))
        self.point = nn.Conv2d(8, 8, 1)
        self.drop = nn.Dropout2d(0.5)
        self.way = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2))
        self.short = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2)  # not depthwise
        self.mix = nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1))
        self.unused = nn.Conv2d(8, 8, 1)
        self.flat = nn.Flatten(2)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = x + self.drop(self.point(self.deep(x)))
        y = self.mix(self.way(x))
        y += self.short(x)
        return self.flat(self.act(y))


def places(at: str) -> list[str]:
    return [row.name for row in foveal.attach(Blocks(), "ema(groups=2)", at=at)]


def test_rules_find_the_ends_of_branches_and_depthwise_convolutions():
    assert places("before_residual") == ["point", "mix.1"], "the longer way is the branch, and dropout comes behind"
    assert places("after_depthwise") == ["deep.2"]
    assert places("deep") == ["deep.2"]
    assert places("deep,deep.2,**.1") == ["deep.1", "deep.2", "mix.1"], "each once, in the model's order"
    assert places("s[th]*") == ["stem", "short"]
    with pytest.raises(UserError, match="nothing in Blocks has a block that is known by name"):
        places("stages")
    with pytest.raises(UserError, match=r"no paper says where in Blocks; at='before_residual'"):
        places("paper")


def test_a_depthwise_convolution_ends_before_what_squeezes_it():
    rows = foveal.attach(load("torchvision:mobilenet_v3_small"), "ema(groups=8)", at="after_depthwise")
    assert [row.name for row in rows[:2]] == ["features.1.block.0.2", "features.2.block.1.2"], "and not SE's pooling"
    assert len(rows) == 11


def test_a_second_attention_goes_to_the_same_places():
    model = Blocks()
    first = foveal.attach(model, "cbam(reduction=2)", at="before_residual,stem")
    assert [row.name for row in foveal.attach(model, "ema(groups=2)", at="before_residual")] == ["point", "mix.1"]
    assert len(model.point.attention) == 2
    assert foveal.detach(model) == ["stem", "point", "mix.1"]
    assert [row.name for row in first] == ["stem", "point", "mix.1"]


def test_modules_of_the_model_that_are_called_attention_are_its_own():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())

        def forward(self, x):
            return self.attention(x)

    model = nn.Sequential(nn.Conv2d(3, 3, 1), Own())
    with pytest.raises(UserError, match="Own already has an attribute 'attention'"):
        foveal.attach(model, "se(reduction=1)", at="*")
    assert foveal.detach(model) == [], "all or none"
    model = Own()
    for at, names in (("attention.*", ["attention.0", "attention.1"]), ("attention.0", ["attention.0"])):
        assert [row.name for row in foveal.attach(model, "ema(groups=2)", at=at)] == names
    assert foveal.detach(model) == ["attention.0", "attention.1"]


def test_ultralytics_names_and_rows_work_on_its_models():
    def rows(at: str) -> list[str]:
        return [row.name for row in foveal.attach(load("yolo11n.yaml"), "ema(groups=8)", at=at)]

    assert rows("neck") == ["model.16", "model.19", "model.22"]
    assert rows("paper") == rows("backbone.P4,8") == ["model.6", "model.8"]
    assert rows("model.2.m.*.cv2") == ["model.2.m.0.cv2"]
    with pytest.raises(UserError, match=r"no module of DetectionModel is called 'nek'.*neck, P3"):
        rows("nek")


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("act", r"act (ReLU) is called 2 times in one forward; choose a module that is called once"),
        ("unused", "unused (Conv2d) is called never in one forward; choose a module that is called once"),
        ("flat", "flat (Flatten) returns (1, 16, 12544), and an attention reads (B, C, H, W); choose a module that"),
        ("none", "no module of Blocks is called 'none'; a name or pattern such as mix.1, or one of before_residual"),
        ("", "no place is given for ema; at='before_residual', or a name such as layer4.2.bn3"),
        ("stem,flat", "flat (Flatten) returns"),
    ],
)
def test_what_cannot_be_attended_is_said_and_nothing_is_changed(at, said):
    model = Blocks()
    names = list(model.state_dict())
    with pytest.raises(UserError) as refusal:
        foveal.attach(model, "ema(groups=2)" if at else "ema", at=at)
    assert str(refusal.value).startswith(said)
    assert list(model.state_dict()) == names
    assert all(module.training and not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (None, "an object of the class NoneType is no torch module; load the model first"),
        (
            "yolo11n.pt",
            "an object of the class str is no torch module; load the model first; foveal.add takes",
        ),
        (lambda: ultralytics.YOLO("yolo11n.yaml"), "YOLO holds a network, and the places are the network's; give the"),
    ],
)
def test_what_is_no_model_by_itself_is_refused(model, said):
    with pytest.raises(UserError, match=f"^{said}"):
        foveal.attach(model() if callable(model) else model, "ema", at="neck")


def test_a_layer_by_itself_has_no_places():
    with pytest.raises(UserError, match=r"^Conv2d has no modules of its own.*; at='0' in nn.Sequential\(Conv2d"):
        foveal.attach(torch.nn.Conv2d(3, 8, 3), "ema(groups=2)", at="conv")


def test_widths_that_do_not_fit_change_nothing():
    model = load("timm:efficientnet_b0")
    with pytest.raises(UserError, match=r"channels=144, groups=32"):
        foveal.attach(model, "ema", at="after_depthwise")
    assert not [module for module in model.modules() if hasattr(type(module), "_attended_base")]


def test_models_of_tokens_are_refused():
    with pytest.raises(UserError, match=r"blocks.0 \(Block\) returns \(1, 197, 192\), and an attention reads"):
        foveal.attach(load("timm:vit_tiny_patch16_224"), "ema", at="blocks.0")
    with pytest.raises(UserError, match=r"returns \(1, 56, 56, 96\), and an attention reads \(B, C, H, W\)"):
        foveal.attach(load("torchvision:swin_t"), "ema", at="features.1.0")
    with pytest.raises(UserError, match="Linear has no convolution, and so no map"):
        foveal.attach(nn.Linear(2, 2), "ema", at="*")


def test_an_example_replaces_the_usual_image():
    class Wants(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(5, 8, 1)

        def forward(self, x):
            assert x.shape[2:] == (6, 7), "six by seven, please"
            return self.conv(x)

    model = Wants()
    with pytest.raises(UserError, match=r"cannot run on zeros of the shape \(1, 5, 224, 224\): six by seven, please"):
        foveal.attach(model, "ema(groups=2)", at="conv")
    assert foveal.attach(model, "ema(groups=2)", at="conv", example=torch.zeros(1, 5, 6, 7))[0].channels == 8
    with pytest.raises(AssertionError, match="six by seven"):
        foveal.attach(model, "ema(groups=2)", at="conv", example=torch.zeros(1, 5, 6, 6))


def test_what_is_drawn_later_and_the_kind_of_numbers_stay():
    model = Blocks().bfloat16()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    foveal.attach(model, "coord", at="stem")
    assert torch.equal(torch.rand(3), expected)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_rows_print_and_are_json():
    model = Blocks()
    (row,) = foveal.attach(model, "ema(groups=2)@stem")
    assert str(row) == "stem (Conv2d, 8): ema(groups=2, start=identity), 184 parameters"
    assert json.loads(json.dumps(dataclasses.asdict(row)))["channels"] == 8
    with pytest.raises(UserError, match="two places are given"):
        foveal.attach(model, "ema@stem", at="point")
    again = foveal.attach(model, "se(reduction=4)", at="stem")
    assert again[0].layer == "Conv2d"
    assert len(model.stem.attention) == 2
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    other = Blocks()
    foveal.attach(other, "ema(groups=2)", at="stem")
    foveal.attach(other, "se(reduction=4)", at="stem")
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer))


# Zoos ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet5o", "timm has no 'resnet5o'; for example timm:resnet50"),
        ("timm:resnet50.b1_in1k", "timm has no 'resnet50.b1_in1k'; for example timm:resnet50.b1k_in1k"),
        ("torchvision:resnet49", "torchvision has no 'resnet49'; for example torchvision:resnet"),
        ("torchvision:resnet50.V1", "torchvision has no 'resnet50.V1'; for example torchvision:resnet50.IMAGENET1K_V"),
    ],
)
def test_unknown_models_are_refused_with_the_nearest(name, said):
    with pytest.raises(UserError) as refusal:
        zoo.load(name)
    assert str(refusal.value).startswith(said)


def test_weights_that_cannot_be_downloaded_are_a_sentence(monkeypatch):
    from torchvision import models

    def no_network(*_, **__):
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(models, "get_model", no_network)
    with pytest.raises(
        UserError, match=r"the weights of torchvision:resnet18.IMAGENET1K_V1 cannot be had: <urlopen"
    ) as no:
        zoo.load("torchvision:resnet18.IMAGENET1K_V1")
    assert no.value.hint == "for fresh ones write torchvision:resnet18"


def test_a_missing_zoo_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="timm:resnet18 needs timm, which is not installed; pip install timm"):
        zoo.load("timm:resnet18")


def test_the_command_writes_a_model_that_any_process_loads(tmp_path):
    command = [sys.executable, "-m", "foveal", "add", "timm:resnet18", "ema(groups=8)", "--at", "layer*.*.bn2"]
    printed = run_forked(command, tmp_path)
    assert "layer4.1.bn2  BatchNorm2d" in printed
    assert "difference    0 between the outputs before and after, on noise" in printed
    code = "import torch; print(type(torch.load('resnet18-ema.pt', weights_only=False).layer4[1].bn2).__name__)"
    assert in_fork(code, tmp_path).strip() == "AttendedBatchNorm2d"
    with pytest.raises(UserError, match=r"resnet18-ema.pt exists; choose another name with -o"):
        zoo.add("timm:resnet18", "ema", at="paper", output=str(tmp_path / "resnet18-ema.pt"))
    grown = zoo.add("torchvision:resnet18", "se", at="stages", start="paper", output=str(tmp_path / "b.pt"))
    assert grown.spec == "se(start=paper)@stages"
    assert grown.difference > 0
    assert grown.parameters[1] - grown.parameters[0] == sum(row.parameters for row in grown.rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("timm:resnet18", "ema"), "no place is given for ema"),
        (("timm:resnet18", "ema", "--own-row"), "timm:resnet18 has no rows"),
        (("timm:resnet18", "ema", "--at", "layer9"), "no module of ResNet is called 'layer9'"),
        (("timm:resnet18", "ema@paper", "-o", "x.onnx"), "x.onnx is no name for a checkpoint"),
        (("timm:resnet18", "ema(start=paper)@paper", "--start", "identity"), "two starts are given"),
        (("torchvision:resnet", "ema@paper"), "torchvision has no 'resnet'"),
    ],
)
def test_mistakes_of_the_command_end_in_a_sentence(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["foveal", "add", *words])
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert not list(tmp_path.iterdir())
