"""`foveal convert`: checkpoints made with pasted code, with and without that code, and files that want to be run."""

import json
import os
import pickle
import random
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import typer
from torch import nn

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import ultralytics.nn

from foveal import ATTENTIONS, EMAttention, UserError
from foveal.checkpoints import read
from foveal.cli import deploy
from foveal.convert import conversion as room
from foveal.convert import convert
from foveal.convert.conversion import Replaced
from foveal.hosts import ultralytics as host
from helpers import Calls, in_fork, last_json, swept

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("own_folder")]

# EMA as copies have it: their names, adaptive pools, a softmax layer, an unused second argument.
PASTED = """
import torch
from torch import nn


class EMA(nn.Module):
    def __init__(self, channels, c2=None, factor=32):
        super().__init__()
        self.groups = factor
        width = channels // factor
        self.softmax = nn.Softmax(-1)
        self.agp = nn.AdaptiveAvgPool2d((1, 1))
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.gn = nn.GroupNorm(width, width)
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        batch, channels, height, width = x.shape
        slabs = x.reshape(batch * self.groups, -1, height, width)
        strip = torch.cat([self.pool_h(slabs), self.pool_w(slabs).transpose(2, 3)], 2)
        rows, columns = self.conv1x1(strip).sigmoid().split([height, width], 2)
        near = self.gn(slabs * rows * columns.transpose(2, 3))
        far = self.conv3x3(slabs)
        p, q = (self.softmax(self.agp(y).flatten(1)).unsqueeze(1) for y in (near, far))
        gate = (p @ far.flatten(2) + q @ near.flatten(2)).reshape(-1, 1, height, width).sigmoid()
        return (slabs * gate).reshape(x.shape)


class CA(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.conv1, self.bn1, self.act = nn.Conv2d(channels, 8, 1), nn.BatchNorm2d(8), nn.Hardswish()
        self.conv_h, self.conv_w = nn.Conv2d(8, channels, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x):
        y = torch.cat([self.pool_h(x), self.pool_w(x).transpose(2, 3)], 2)
        rows, columns = self.act(self.bn1(self.conv1(y))).split(list(x.shape[2:]), 2)
        return x * self.conv_h(rows).sigmoid() * self.conv_w(columns.transpose(2, 3)).sigmoid()


class Odd(EMA):
    def __init__(self, *args):
        super().__init__(*args)
        self.act = nn.SiLU()
"""

# The article's way to train: the class goes into a module of Ultralytics and into its parser's names.
ARTICLE = """
import copy, pathlib, sys, types, yaml
import torch, ultralytics
from torch import nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.modules import block

SOURCE = pathlib.Path("pasted.py").read_text()
STOCK = yaml.safe_load((pathlib.Path(ultralytics.__file__).parent / "cfg/models/11/yolo11.yaml").read_text())
IMAGE = torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))

def paste(name):
    module = sys.modules.get(name)
    if module is None:
        for parent in (name.rpartition(".")[0], name):
            if parent not in sys.modules:
                sys.modules[parent] = types.ModuleType(parent)
        module = sys.modules[name]
    exec(SOURCE, vars(module))
    for cls in ("EMA", "CA", "Odd"):
        setattr(tasks, cls, getattr(module, cls))
    return module

def model(rows, nc=3):
    cfg = copy.deepcopy(STOCK) | {"scale": "n", "nc": nc}
    there = len(cfg["backbone"])
    cfg["backbone"] += rows
    shift = lambda f: f + len(rows) if f >= there - 1 else f  # who read the backbone's end reads the new end
    for row in cfg["head"]:
        row[0] = [shift(f) for f in row[0]] if isinstance(row[0], list) else shift(row[0])
    torch.manual_seed(0)
    made = tasks.DetectionModel(cfg, verbose=False)
    made.names, made.args = {0: "a", 1: "b", 2: "c"}, {"imgsz": 96}
    return made

@torch.no_grad()
def draw(made):
    # Norms that know the image's statistics: signals neither fade away nor saturate, and outputs tell small changes.
    for module in made.modules():
        if module.__class__.__name__ in ("EMA", "CA"):
            for parameter in module.parameters():
                parameter.normal_(0, 0.5)
        if module.__class__.__name__ == "CA":
            module.conv1.weight.mul_(0.05)  # to a variance beside which eps counts
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5), norm.bias.normal_(0, 0.3)
        norm.momentum = 1
    made.train()(IMAGE)
    for norm in norms:
        norm.momentum = 0.03
    return made

@torch.no_grad()
def save(name, made, *, half=False, **more):
    if half:
        made.half()
    torch.save({"epoch": 3, "model": made, "ema": None, "train_args": {"imgsz": 96}} | more, name + ".pt")
    made.double().eval()  # to tell rounding from another function
    torch.save(made(IMAGE.double())[0], name + ".out")
"""

MAKE = """
exec(open("article.py").read())
in_package = paste("ultralytics.nn.attention.EMA_attention")
save("package", draw(model([[-1, 1, "EMA", [256]], [-1, 1, "EMA", [256, None, 8]]])), half=True)
averaged = draw(model([[-1, 1, "CA", ["c2"]]]))
save("average", averaged, ema=averaged, model=None)
repeated = model([[-1, 4, "EMA", ["c2"]]])
save("repeated", draw(repeated))
save("odd", model([[-1, 1, "Odd", [256]]]))

behind = model([])
wrapped = nn.Sequential(behind.model[16], in_package.EMA(64, None, 8))
wrapped.i, wrapped.f, wrapped.type = 16, behind.model[16].f, "Sequential"
behind.model[16] = wrapped
save("behind", draw(behind))

inside = model([])
inside.model[16].attention = in_package.EMA(64, None, 8)
save("inside", inside)

paste("ultralytics.nn.modules.block")
save("block", draw(model([[-1, 1, "EMA", [256, None, 16]]])))
paste("__main__")
tuned = model([[-1, 1, "EMA", [256]]])
tuned.load(model([[-1, 1, "EMA", [256]]], nc=80), verbose=False)  # which widens the head, in recent hosts
save("main", draw(tuned))
save("stock", model([]))
"""

WAYS = {
    "package": [
        (11, "ultralytics.nn.attention.EMA_attention.EMA", "ema(groups=32, start=paper)"),
        (12, "ultralytics.nn.attention.EMA_attention.EMA", "ema(groups=8, start=paper)"),
    ],
    "block": [(11, "ultralytics.nn.modules.block.EMA", "ema(groups=16, start=paper)")],
    "main": [(11, "__main__.EMA", "ema(groups=32, start=paper)")],
    "average": [(11, "ultralytics.nn.attention.EMA_attention.CA", "coord(reduction=32, start=paper)")],
    "repeated": [(11, "ultralytics.nn.attention.EMA_attention.EMA", "ema(groups=32, start=paper)")] * 2,
    "behind": [(16, "ultralytics.nn.attention.EMA_attention.EMA", "ema(groups=8, start=paper)")],
}


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """A folder of checkpoints made the article's way, each with its output on `image`."""
    folder = tmp_path_factory.mktemp("old")
    (folder / "pasted.py").write_text(PASTED)
    (folder / "article.py").write_text(ARTICLE)
    in_fork(MAKE, folder)
    return folder


@torch.no_grad()
def outputs(path: str | Path) -> torch.Tensor:
    image = torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(1))
    return host.load(str(path)).model.double().eval()(image.double())[0]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of two outputs (B, C, N), relative to the largest value of its channel."""
    return float(((one - other).abs().amax((0, 2)) / other.abs().amax((0, 2))).max())


# Equal outputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", swept(WAYS, "package", "main", "behind"))
def test_outputs_are_the_old_models_without_the_old_code(old, way):
    converted = convert(old / f"{way}.pt")
    assert converted.output == f"{way}-foveal.pt"
    assert converted.attentions == tuple(Replaced(*each) for each in WAYS[way])
    kept, total = converted.tensors
    assert kept == total == len(read(old / f"{way}.pt").saved[converted.weights].children["model"].tensors())
    assert converted.weights == ("ema" if way == "average" else "model")
    bound = 1e-6 if converted.shifted else 1e-12  # a shifted variance is rounded to fp32
    assert apart(outputs(converted.output), torch.load(old / f"{way}.out")) < bound

    written = torch.load(converted.output, weights_only=False)
    assert written["train_args"] == {"imgsz": 96}
    assert written["model"].names == {0: "a", 1: "b", 2: "c"}
    for module in written["model"].modules():  # what the comparison above would not notice, it does not compare
        if isinstance(module, (EMAttention, ATTENTIONS["coord"])):
            for tensor in module.state_dict().values():
                tensor.zero_()
    torch.save(written, "without.pt")
    assert apart(outputs("without.pt"), torch.load(old / f"{way}.out")) > 1e-3


def test_a_shifted_variance_is_named_and_survives_a_rebuild(old):
    converted = convert(old / "average.pt")
    assert converted.shifted == ("model.11.reduce.norm.running_var",)
    loaded = host.load(converted.output).model
    again = host.rebuild(loaded, loaded.yaml)
    again.load_state_dict(loaded.state_dict())
    torch.save(host.checkpoint(again, {}), "again.pt")
    assert apart(outputs("again.pt"), torch.load(old / "average.out")) < 1e-6


@pytest.mark.seldom
def test_old_code_that_is_there_is_not_run(old, tmp_path, monkeypatch):
    package = tmp_path / "installed/attention"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "EMA_attention.py").write_text("open('marker', 'w').close()\nraise SystemError('the old code ran')\n")
    monkeypatch.setattr(ultralytics.nn, "__path__", [*ultralytics.nn.__path__, str(package.parent)])

    class EMA(nn.Module):
        def __new__(cls, *_):
            raise SystemError("the old code ran")

        def __setstate__(self, state):
            raise SystemError("the old code ran")

    EMA.__module__ = "ultralytics.nn.modules.block"
    monkeypatch.setattr(ultralytics.nn.modules.block, "EMA", EMA, raising=False)
    monkeypatch.setattr(host.tasks, "EMA", EMA, raising=False)
    for way in ("package", "block"):
        convert(old / f"{way}.pt")
        with pytest.raises(SystemError, match="the old code ran"):  # so it would have been seen
            torch.load(old / f"{way}.pt", weights_only=False)
    assert apart(outputs("block-foveal.pt"), torch.load(old / "block.out")) < 1e-12
    Path("marker").unlink()
    convert(old / "package.pt", force=True)
    assert not Path("marker").exists()


@pytest.mark.slow
@pytest.mark.sweep
def test_the_converted_model_trains_on_and_exports(old, bccd):
    convert(old / "block.pt", output="new.pt")
    code = f"""
import json
from ultralytics import YOLO
model = YOLO("new.pt")
model.train(data={str(bccd)!r}, epochs=1, imgsz=64, batch=8, fraction=0.05, workers=0, device="cpu", plots=False)
YOLO(model.trainer.best).export(format="torchscript", imgsz=64)
print(json.dumps([repr(model.model.model[11]), model.ckpt["train_args"]["pretrained"]]))
"""
    printed = in_fork(code, Path.cwd())
    assert "Transferred 505/505" in printed
    assert last_json(printed)[0].startswith("EMAttention(\n  256, groups=16")


# Refusals --------------------------------------------------------------------------------------------------------


def refusal(path, **kwargs) -> str:
    before = set(os.listdir())
    with pytest.raises(UserError) as refused:
        convert(path, **kwargs)
    assert set(os.listdir()) == before
    assert refused.value.hint
    return refused.value.message


def test_what_is_no_row_is_refused_with_the_names(old):
    said = refusal(old / "inside.pt")
    assert "row 16" in said
    assert "ultralytics.nn.modules.block.C3k2 with ema inside it" in said
    assert "ultralytics.nn.attention.EMA_attention.EMA" in said
    said = refusal(old / "odd.pt")
    assert "row 11 is a ultralytics.nn.attention.EMA_attention.Odd" in said
    assert "with the tensors of ema, but act is a torch.nn.modules.activation.SiLU" in said


def test_nothing_to_convert_is_said(old):
    assert "has no pasted attention" in refusal(old / "stock.pt")
    convert(old / "main.pt")
    assert "is a foveal checkpoint already" in refusal("main-foveal.pt")


def test_the_output_is_looked_at_first(old):
    Path("main-foveal.pt").write_text("mine")
    assert "main-foveal.pt exists" in refusal(old / "main.pt")
    assert Path("main-foveal.pt").read_text() == "mine"
    assert "no folder" in refusal(old / "main.pt", output="nowhere/x.pt")
    assert "no name for a checkpoint" in refusal(old / "main.pt", output="x.onnx")


def test_other_files_are_refused():
    torch.save({"a": torch.zeros(3)}, "state.pt")
    assert "holds no model but a dict" in refusal("state.pt")
    torch.save(torch.zeros(3), "legacy.pt", _use_new_zipfile_serialization=False)
    assert "not in the zip format" in refusal("legacy.pt")
    torch.jit.script(nn.ReLU()).save("script.pt")
    assert "TorchScript" in refusal("script.pt")
    torch.save(nn.Sequential(), "plain.pt")
    assert "holds no model but a torch.nn.modules.container.Sequential" in refusal("plain.pt")
    assert "cannot be read" in refusal("missing.pt")
    assert "cannot be read" in refusal(".")


def test_damaged_files_are_refused_in_a_sentence(old):
    whole = (old / "main.pt").read_bytes()
    chance = random.Random(0)
    for length in (0, 3, 4, 100, len(whole) // 2, len(whole) - 1, len(whole) - 30):
        Path("damaged.pt").write_bytes(whole[:length])
        assert "\n" not in refusal("damaged.pt")
    start = whole.index(b"data.pkl")
    for _ in range(8):
        broken = bytearray(whole)
        broken[chance.randrange(start + 100, start + 100_000)] ^= 1 << chance.randrange(8)
        Path("damaged.pt").write_bytes(broken)
        assert "damaged" in refusal("damaged.pt")


def test_altered_pickles_give_a_sentence_or_a_model(old, monkeypatch):
    monkeypatch.setattr(room, "build", _no_build)
    with zipfile.ZipFile(old / "main.pt") as archive:
        program = archive.read("main/data.pkl")
    chance = random.Random(1)
    for _ in range(60):
        broken = bytearray(program)
        for _ in range(chance.randint(1, 3)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        pack(bytes(broken))
        refusal("packed.pt")


def _no_build(*_):
    raise UserError("as far as this test goes", "x")


# Files that want to be run -----------------------------------------------------------------------------------------


def pack(program: bytes, path: str = "packed.pt") -> None:
    """A file as torch writes them, with this pickle in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("packed/data.pkl", program)
        archive.writestr("packed/byteorder", sys.byteorder)


MARK = "open('marker', 'w').close()"


def _loads(name):
    module, _, function = name.rpartition(".")
    return getattr(__import__(module, fromlist=["_"]), function)


CALLS = [
    ("builtins.eval", MARK),
    ("builtins.exec", MARK),
    ("builtins.__import__", "antigravity"),
    ("builtins.getattr", Path, "touch"),
    ("builtins.open", "marker", "w"),
    ("subprocess.Popen", ["touch", "marker"]),
    ("torch.hub.load", "a/b", "c"),
    ("torch.serialization.load", "other.pt"),
    ("torch.jit._serialization.load", "other.pt"),
    ("numpy.load", "other.npy"),
    ("importlib.import_module", "antigravity"),
    ("operator.attrgetter", "system"),
    ("functools.partial", print),
    ("pickle.loads", b"x"),
    ("pathlib.Path.touch", "marker"),
    ("runpy.run_path", "other.py"),
    ("torch.nn.modules.conv.Conv2d", 1, 1, 1),
]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_calls_are_refused_by_name(call, protocol):
    name, *args = call
    if name == "pathlib.Path.touch":  # a name with dots: getattr before protocol 4
        program = pickle.dumps({"model": Calls(Path.touch, *args)}, protocol)
        expected = "Path.touch" if protocol == 4 else "builtins.getattr"
    else:
        program, expected = pickle.dumps({"model": Calls(_loads(name), *args)}, protocol), name.rpartition(".")[2]
    pack(program)
    said = refusal("packed.pt")
    assert expected in said
    assert "not executed" in said or "nothing of it was executed" in said


BY_HAND = {
    "system": [
        b"cposix\nsystem\n(S'touch marker'\ntR.",
        b"(S'touch marker'\niposix\nsystem\n.",  # INST
        b"(cposix\nsystem\nS'touch marker'\no.",  # OBJ
        b"\x80\x02cposix\nsystem\n(X\x0c\x00\x00\x00touch markert\x81.",  # NEWOBJ with arguments
        b"\x80\x02cposix\nsystem\n)\x81}b.",  # NEWOBJ and BUILD
        b"\x80\x02}X\x01\x00\x00\x00acposix\nsystem\ns.",  # named only
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch marker\x85R.",
    ],
    "os.path.os.system": [b"\x80\x04\x8c\x02os\x8c\x0epath.os.system\x93\x8c\x0ctouch marker\x85R."],
    "copyreg._reconstructor": [b"ccopy_reg\n_reconstructor\n(c__main__\nEMA\nc__builtin__\nobject\nNtR."],
    "damaged": [
        b"\x80\x02]r\xff\xff\xff\xff.",  # a memo of 64 GiB
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nEvilStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
        b"\x80\x02ccollections\nOrderedDict\nN}X\x08\x00\x00\x00__init__Nst\x86b.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x0c\x00\x00\x00__defaults__)sb.",
    ],
}


@pytest.mark.parametrize(
    ("expected", "program"), [(name, program) for name, programs in BY_HAND.items() for program in programs]
)
def test_pickles_by_hand_are_refused(expected, program):
    pack(program)
    assert expected in refusal("packed.pt")


def test_nothing_shared_is_changed_by_a_pickle():
    before = torch._utils._rebuild_tensor_v2.__defaults__
    # BUILD with a state for slots sets attributes on whatever object lies there.
    pack(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.")
    refusal("packed.pt")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_a_trojan_beside_a_good_model_is_refused(old):
    with zipfile.ZipFile(old / "main.pt") as archive, zipfile.ZipFile("trojan.pt", "w") as trojan:
        for record in archive.namelist():
            content = archive.read(record)
            if record.endswith("/data.pkl"):
                content = content[:-1] + b"X\x01\x00\x00\x00xcposix\nsystem\nX\x0c\x00\x00\x00touch marker\x85Rs."
            trojan.writestr(record, content)
    assert "posix.system" in refusal("trojan.pt")


def changed(monkeypatch, change):
    def read_changed(path):
        contents = read(path)
        change(contents.saved["model"])
        return contents

    monkeypatch.setattr(room, "read", read_changed)


@pytest.mark.parametrize(
    "module",
    ["load_checkpoint", "torch_safe_load", "DetectionModel", "TorchVision", "torchvision.ops.MLP", "nn.init", "EMA2"],
)
def test_rows_may_name_layers_only(old, monkeypatch, module):
    def change(model):
        model.state["yaml"]["backbone"][0][2] = module

    changed(monkeypatch, change)
    assert f"row 0 names {module!r}" in refusal(old / "main.pt")


@pytest.mark.parametrize(
    "activation",
    [MARK, f"nn.SiLU() if not {MARK} else 0", "nn.SiLU(__import__('os').system('touch marker'))", ["nn.SiLU()"]],
)
def test_an_activation_is_not_executed(old, monkeypatch, activation):
    def change(model):
        model.state["yaml"]["activation"] = activation

    changed(monkeypatch, change)
    assert "activation" in refusal(old / "main.pt")


def test_a_plain_activation_is_kept(old, monkeypatch):
    def change(model):
        model.state["yaml"]["activation"] = "nn.SiLU()"

    changed(monkeypatch, change)
    convert(old / "main.pt")
    assert apart(outputs("main-foveal.pt"), torch.load(old / "main.out")) < 1e-12


def another_stride(convolution):
    convolution.children["conv"].state["stride"] = (1, 1)


def another_class(convolution):
    type(convolution.children["act"]).path = "torch.nn.modules.activation.ReLU"


def another_width(convolution):
    weight = convolution.children["conv"].state["_parameters"]
    weight["weight"] = weight["weight"][:8]


def one_module_less(convolution):
    del convolution.state["_modules"]["act"]


def a_tensor_more(convolution):
    convolution.state["_buffers"]["scale"] = torch.ones(1)


@pytest.mark.parametrize("change", [another_stride, another_class, one_module_less, another_width, a_tensor_more])
def test_layers_that_are_not_as_the_rows_say_are_refused(old, monkeypatch, change):
    changed(monkeypatch, lambda model: change(model.children["model"].children["0"]))
    said = refusal(old / "main.pt")
    assert "parts of the model are not as its own rows say" in said
    assert "for example model.0" in said


# The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(deploy.convert)
    return app


def test_the_command_prints_what_it_did(old, command, capsys):
    command([str(old / "average.pt"), "-o", "new.pt"], standalone_mode=False)
    printed = capsys.readouterr()
    assert "11   ultralytics.nn.attention.EMA_attention.CA  coord(reduction=32, start=paper)" in printed.out
    assert "tensors kept  510/510, with equal values (from the checkpoint's 'ema')" in printed.out
    assert "model.11.reduce.norm.running_var" in printed.out
    assert printed.out.endswith("written       new.pt\n")
    assert "not outputs" in printed.err
    assert Path("new.pt").exists()


def test_the_command_prints_json(old, command, capsys):
    command([str(old / "main.pt"), "--json"], standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    (attention,) = printed["attentions"]
    assert attention == {"row": 11, "was": "__main__.EMA", "spec": "ema(groups=32, start=paper)", "assumed": []}
    assert printed["tensors"] == [505, 505]
    with pytest.raises(UserError, match=r"main-foveal\.pt exists"):
        command([str(old / "main.pt")], standalone_mode=False)
