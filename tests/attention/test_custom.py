"""Attentions of other people: found by their address, built from their signature, carried by pickles."""

import importlib.metadata
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import foveal
from foveal import UserError, attention
from foveal.attention import Custom, find, known, timm_names
from foveal.surgery import Spec, read
from helpers import draw, in_fresh_process, run_form
from own import CLASSES, HEAD, MY_EMA


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with `my_ema.py` in it; what a test registers is forgotten after it."""
    (tmp_path / "my_ema.py").write_text(MY_EMA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("foveal.attention._sources._LOADED", {})
    monkeypatch.setattr("foveal.attention._sources._REGISTERED", {})
    return tmp_path


def written(folder, text, name="mine.py"):
    (folder / name).write_text(HEAD + text)
    return name


@pytest.mark.parametrize("title", CLASSES)
def test_a_class_works_or_a_sentence_says_what_to_change(title, folder):
    text, arguments, refusal = CLASSES[title]
    name = title.partition("(")[0]
    address = f"{written(folder, text)}:{name}"
    spec = Spec.parse(f"{address}({arguments})")
    if refusal:
        with pytest.raises(UserError, match=refusal) as said:
            find(spec.name)(64, **spec.arguments)
        assert said.value.message.startswith(address)
        assert said.value.hint
        return
    for channels in (64, 128):
        module = find(spec.name)(channels, **spec.arguments).eval()
        assert module(draw(0, 2, channels, 15, 20).float()).shape == (2, channels, 15, 20)
    for key, value in spec.arguments.items():
        assert repr(value) in str(spec), key


def test_a_pasted_ema_computes_what_ours_does(folder):
    theirs = find("my_ema.py:EMA")(64).double()
    ours = foveal.EMAttention(64).double()
    ours.load_state_dict(ours.from_official({k.removeprefix("module."): v for k, v in theirs.state_dict().items()}))
    x, dy = draw(0, 2, 64, 9, 12), draw(1, 2, 64, 9, 12)
    got, true = run_form(theirs, "auto", x, dy), run_form(ours, "reference", x, dy)
    for name in ("output", "input"):
        assert float((got[name] - true[name]).abs().max()) < 1e-12


def test_a_pickle_brings_the_file_along(folder, tmp_path_factory):
    module = find("my_ema.py:EMA")(64)
    torch.save(module, "m.pt")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    code = f"""
import torch, sys
module = torch.load({str(folder / "m.pt")!r}, weights_only=False)
print(type(module).__name__, module(torch.ones(1, 64, 5, 4)).sum().item())
"""
    said = in_fresh_process(code, elsewhere).split()
    assert said[0] == "EMA"
    assert float(said[1]) == pytest.approx(module(torch.ones(1, 64, 5, 4)).sum().item(), rel=1e-6)
    (folder / "my_ema.py").rename(elsewhere / "my_ema.py")  # it is found beside the process, too
    assert in_fresh_process(code, elsewhere).split() == said
    (elsewhere / "my_ema.py").unlink()
    asked = code.replace("module = ", "from foveal import UserError\ntry:\n    module = ").replace(
        "print(type", "except UserError as error:\n    print(error)\n    sys.exit()\nprint(type"
    )
    said = in_fresh_process(asked, elsewhere)
    assert "this model needs EMA of my_ema.py, and there is no" in said
    assert "foveal sources MODEL.pt -o . writes my_ema.py" in said


def test_restricted_loading_imports_nothing(folder):
    torch.save(find("my_ema.py:EMA")(64), "m.pt")
    (folder / "my_ema.py").write_text("raise SystemExit('it ran')")
    code = "import foveal.yolo, torch\ntry:\n    torch.load('m.pt', weights_only=True)\nexcept Exception as e: print(e)"
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    assert "foveal.attention._restore" in in_fresh_process(code, folder)


def test_a_changed_file_is_said_and_taken_as_it_is(folder):
    module = find("my_ema.py:EMA")(64)
    stored = pickle.dumps(module)
    changed = MY_EMA.replace("def weights(self, slabs):", "def weights(self, slabs):  # changed")
    (folder / "my_ema.py").write_text(changed)
    code = "import pickle, sys\nprint(type(pickle.loads(sys.stdin.buffer.read())).source.text.count('# changed'))"
    (folder / "run.py").write_text(f"import io, sys\nsys.stdin = io.TextIOWrapper(io.BytesIO({stored!r}))\n{code}")
    done = subprocess.run([sys.executable, "run.py"], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert "my_ema.py is not what it was when this model was saved" in done.stderr
    # In this process, which has loaded both.
    assert find("my_ema.py:EMA").source.text == changed
    assert pickle.loads(pickle.dumps(find("my_ema.py:EMA")(64))).source.text == changed


def test_two_files_of_one_name_are_two_classes(folder):
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    for name, kernel in (("a", 1), ("b", 3)):
        text = (
            f"class X(nn.Module):\n    def __init__(self, dim):\n        super().__init__()\n"
            f"        self.c = nn.Conv2d(dim, dim, {kernel}, padding={kernel // 2})\n"
            f"    def forward(self, x):\n        return x * self.c(x)\n"
        )
        written(folder / name, text)
    a, b = (find(f"{name}/mine.py:X")(32) for name in "ab")
    both = pickle.loads(pickle.dumps(nn.ModuleList([a, b])))
    assert [each.module.c.kernel_size for each in both] == [(1, 1), (3, 3)]
    assert type(both[0].module) is type(a.module)


def test_a_file_of_one_name_in_another_folder_is_not_taken_for_the_first(folder, monkeypatch):
    find("my_ema.py:EMA")
    (folder / "other").mkdir()
    (folder / "other" / "my_ema.py").write_text(MY_EMA + "\n# another\n")
    monkeypatch.chdir(folder / "other")
    with pytest.raises(UserError, match="two files of one name with different content; give one of them another name"):
        find("my_ema.py:EMA")
    (folder / "other" / "my_ema.py").unlink()
    assert find("my_ema.py:EMA").source.file == str(folder / "my_ema.py")


@pytest.mark.parametrize(
    ("text", "address", "said"),
    [
        ("x = (", "mine.py:X", r"mine.py cannot be imported, line 6: SyntaxError"),
        ("import not_there_at_all", "mine.py:X", r"ModuleNotFoundError: .*; pip install not_there_at_all"),
        ("from .conv import Conv", "mine.py:X", r"line 6: ImportError.*; write the whole name, as in from ultralytics"),
        ("1 / 0", "mine.py:X", r"mine.py cannot be imported, line 6: ZeroDivisionError"),
        (
            "class Other(nn.Module): pass",
            "mine.py:Othr",
            r"mine.py:Othr: Othr is not there; did you mean mine.py:Other\?",
        ),
        ("X = 3", "mine.py:X", r"X is no torch.nn.Module"),
        ("", "mine.py", r"'mine.py' is a file, and the class in it is not named; write mine.py:MyAttention"),
        ("", "nowhere.py:X", r"there is no file 'nowhere.py'"),
        ("", "no.such.module:X", r"Python finds no module 'no.such.module'; give a file, no/such/module.py:Class"),
        ("", "timm:ecca", r"did you mean timm:"),
        ("", "ultralytics:CBAMM", r"did you mean ultralytics:CBAM\?"),
        ("", "mine", r"no attention is named 'mine'"),
    ],
)
def test_an_address_that_leads_nowhere_says_what_does(text, address, said, folder):
    written(folder, text)
    with pytest.raises(UserError, match=said):
        find(address)


def test_a_module_of_the_current_folder_and_of_a_package(folder):
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "helpers_of_mine.py").write_text("GATE = 2.0\n")
    text = (
        "from .helpers_of_mine import GATE\nclass X(nn.Module):\n    def forward(self, x):\n        return x * GATE\n"
    )
    written(folder / "parts", text)
    module = find("parts.mine:X")(16)
    assert torch.equal(module(torch.ones(1, 16, 2, 2)), torch.full((1, 16, 2, 2), 2.0))
    torch.save(module, "m.pt")
    code = "import torch; print(type(torch.load('m.pt', weights_only=False)).__name__)"
    assert in_fresh_process(code, folder).strip() == "X"


def test_registered_names(folder):
    doubles = "class X(nn.Module):\n    def forward(self, x):\n        return x * 2\n"
    written(folder, f"import foveal\n@foveal.register('mine')\n{doubles}")
    assert not known("mine")
    module = find("mine.py:X")(16)
    assert known("mine")
    assert find("Mine")(16)(torch.ones(1, 16, 1, 1)).sum() == module(torch.ones(1, 16, 1, 1)).sum() == 32
    torch.save(find("mine")(16), "m.pt")
    code = "import torch; torch.load('m.pt', weights_only=False)\nimport foveal; print(foveal.Spec.parse('mine@neck'))"
    assert in_fresh_process(code, folder).strip() == "mine@neck"
    for name in ("ema", "no word"):
        with pytest.raises(UserError, match="cannot be registered as an attention"):
            foveal.register(name)


def test_entry_points_of_installed_packages(folder, monkeypatch):
    written(folder, "class X(nn.Module):\n    def forward(self, x):\n        return x * 3\n", "their_package.py")
    point = importlib.metadata.EntryPoint("Theirs", "their_package:X", "foveal.attentions")
    monkeypatch.setattr("foveal.attention._sources.entry_points", lambda group: [point] if group == point.group else [])
    monkeypatch.syspath_prepend(folder)
    attention._sources._installed.cache_clear()
    try:
        assert find("theirs")(8)(torch.ones(1, 8, 1, 1)).mean() == 3
        assert str(Spec.parse("theirs@neck")) == "theirs@neck"
    finally:
        attention._sources._installed.cache_clear()


def test_classes_in_python(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    import my_ema

    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU())
    x = torch.randn(1, 3, 9, 9)
    before = model(x)
    foveal.attach(model, my_ema.EMA, at="0")
    assert torch.equal(model(x), before)

    class Local(nn.Module):
        def forward(self, x):
            return x * 2

    foveal.attach(model, Local, at="1")
    assert torch.equal(model(x), before)
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    with pytest.raises(UserError, match=r"Local is defined inside .*; put it into a file"):
        foveal.add("yolo11n.yaml", Local)
    monkeypatch.delitem(sys.modules, "my_ema")


def test_a_subclass_of_ours_with_a_card_of_its_own(folder, monkeypatch):
    text = """
import dataclasses
from foveal import ECA
class Mine(ECA):
    card = dataclasses.replace(ECA.card, name="mine")
"""
    written(folder, text)
    monkeypatch.syspath_prepend(folder)
    import mine

    assert str(read(mine.Mine)) == "mine:Mine"
    assert str(read(foveal.ECA)) == "eca"
    x = draw(0, 1, 16, 4, 5).float()
    module = find("mine:Mine")(16, kernel_size=5)
    assert [*module.gates(x)] == ["channel"]
    assert module.module.conv.kernel_size == (5,)
    monkeypatch.delitem(sys.modules, "mine")


def test_a_class_with_our_base_brings_its_gates(folder):
    text = """
from foveal import Attention
class Mine(Attention):
    card = None
    def __init__(self, channels):
        super().__init__(channels)
        self.gate = nn.Conv2d(channels, channels, 1)
    def forward(self, x, gain=None):
        return x * self.gate(x).sigmoid()
    def gates(self, x):
        return {"elements": self.gate(x).sigmoid()}
class Without(nn.Module):
    def forward(self, x):
        return x * 0.5
"""
    written(folder, text)
    x = draw(0, 1, 16, 4, 5).float()
    assert [*find("mine.py:Mine")(16).gates(x)] == ["elements"]
    factor = find("mine.py:Without")(16).gates(x)["factor"]
    assert torch.allclose(factor, torch.full_like(factor, 0.5))


@pytest.mark.parametrize("name", timm_names())
def test_every_attention_of_timm_works_or_says_why_not(name):
    """Those that have a window, or are built for one size of the map, do not fit a detector."""
    refusal = None
    try:
        module = find(f"timm:{name}")(64).eval()
    except UserError as error:
        refusal = error
    if refusal:
        assert name not in ("se", "ese", "eca", "ecam", "ceca", "gc", "gca", "cbam", "lcbam", "sk", "nl")
        assert refusal.message.startswith(f"timm:{name}: ")
        assert "Error: " in refusal.message
        assert not refusal.message.endswith(": ")
        return
    x = draw(0, 2, 64, 15, 20).float()
    assert module(x).shape == x.shape
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))


@pytest.mark.parametrize("address", ["ultralytics:CBAM", "torchvision:SqueezeExcitation"])
def test_classes_of_libraries(address):
    module = find(address)(64).eval()
    assert isinstance(module, Custom)
    x = draw(0, 2, 64, 15, 20).float()
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))


def test_it_says_how_it_takes_its_width(folder):
    said = {}
    for title, (text, _, _) in CLASSES.items():
        name = title.partition("(")[0]
        with warnings.catch_warnings():
            (sentence,) = find(f"{written(folder, text, f'{name}.py')}:{name}").card.constraints
        said[name] = sentence
    assert said["Plain"] == "takes its width as c1"
    assert said["Two"] == "takes its width as c1 and c2"
    assert said["Reduced"] == "takes its width as in_planes"
    assert said["Nothing"] == "takes no width"
