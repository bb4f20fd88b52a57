"""`foveal convert` where a file tells too little: the old code run beside ours, a person's word, what is said else."""

import sys
import types
from pathlib import Path

import pytest
import torch
import typer
from torch import nn

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from ultralytics.nn.modules import conv

import pasted_copies
from foveal import UserError
from foveal.cli import deploy
from foveal.convert import conversion as room
from foveal.convert import convert
from foveal.hosts import ultralytics as host
from helpers import filled, swept

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("own_folder")]


def checkpoint(cls: type, monkeypatch, arguments=None, name: str = "") -> nn.Module:
    """Writes old.pt: a small detector with a pasted class of 32 channels in row 2; returns the model."""
    name = name or cls.__name__
    monkeypatch.setattr(host.tasks, name, cls, raising=False)
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, name, [32]]]
    cfg = {"nc": 2, "backbone": [*rows, [-1, 1, "Conv", [32, 3, 2]]], "head": [[[2, 3], 1, "Detect", ["nc"]]]}
    model = host.tasks.DetectionModel(cfg, verbose=False).eval()
    with torch.no_grad():
        filled(model.model[2])
    model.names, model.args = {0: "a", 1: "b"}, {"imgsz": 64} if arguments is None else arguments
    torch.save({"epoch": -1, "model": model, "ema": None, "train_args": {"imgsz": 64}}, "old.pt")
    return model


@torch.no_grad()
def apart(model: nn.Module, path: str = "new.pt") -> float:
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)).double()
    new = host.load(path).model.double().eval()
    return float((new(image)[0] - model.double()(image)[0]).abs().max())


def refusal(**given) -> UserError:
    with pytest.raises(UserError) as refused:
        convert("old.pt", output="new.pt", **given)
    assert not Path("new.pt").exists()
    assert not list(Path().glob(".*"))
    return refused.value


# Outputs -----------------------------------------------------------------------------------------------------------


OLD = ["Energy", "EnergyOfEps", "EnergyAsReleased", "MaximumFirstUnseen", "SidesInOtherOrder", "SlabsFlat", "Squeeze"]


@pytest.mark.parametrize("name", swept(OLD, "EnergyOfEps", "SidesInOtherOrder", "Squeeze"))
@pytest.mark.seldom
def test_the_old_code_settles_what_the_file_cannot(name, monkeypatch):
    model = checkpoint(getattr(pasted_copies, name), monkeypatch)
    converted = convert("old.pt", output="new.pt", trust=True)
    assert converted.untested == ""
    assert converted.apart < 1e-6
    assert converted.attentions[0].assumed == ()
    assert apart(model) < 1e-4


@pytest.mark.parametrize("name", ["NoEnergy", "TwoGatesAndInput", "SlabsOverAll"])
def test_another_function_is_refused_when_the_old_code_runs(name, monkeypatch):
    checkpoint(getattr(pasted_copies, name), monkeypatch)
    assert "computes something else" in refusal(trust=True).message


def test_the_whole_model_is_compared_too(monkeypatch):
    checkpoint(pasted_copies.Squeeze, monkeypatch)
    true = conv.Conv.forward
    monkeypatch.setattr(room.oldcode, "model", lambda *_: _louder(torch.load("old.pt", weights_only=False)["model"]))
    assert "the new model as a whole" in refusal(trust=True).message
    assert conv.Conv.forward is true


def _louder(model: nn.Module) -> nn.Module:
    model = model.double().eval()
    with torch.no_grad():
        model.model[0].conv.weight.mul_(1.001)
    return model


def test_code_that_is_not_there_is_said(monkeypatch):
    model = checkpoint(pasted_copies.TwoGates, monkeypatch)
    monkeypatch.setitem(sys.modules, "pasted_copies", None)
    converted = convert("old.pt", output="new.pt", trust=True)
    assert "the old code is not there: ModuleNotFoundError" in converted.untested
    assert converted.apart is None
    assert converted.attentions[0].assumed == ("its kernel takes the mean over channels first",)
    assert apart(model) < 1e-4


def test_code_that_fails_is_said(monkeypatch):
    checkpoint(pasted_copies.Squeeze, monkeypatch)

    def fails(*_):
        raise SystemError("of another age")

    monkeypatch.setattr(pasted_copies.Squeeze, "forward", fails)
    assert "SystemError: of another age" in convert("old.pt", output="new.pt", trust=True).untested


def test_a_module_in_the_current_folder_is_found(monkeypatch):
    Path("here.py").write_text("import pasted_copies\n\n\nclass Mine(pasted_copies.Energy):\n    pass\n")
    before = list(sys.path)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(".")
        import here
    checkpoint(here.Mine, monkeypatch)
    monkeypatch.delitem(sys.modules, "here")
    monkeypatch.setattr(sys, "path", before)
    assert convert("old.pt", output="new.pt", trust=True).untested == ""
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "here")


# A person's word -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["2", "Energy", "pasted_copies.Energy"])
def test_a_row_or_a_class_can_be_said(key, monkeypatch):
    model = checkpoint(pasted_copies.Energy, monkeypatch)
    refused = refusal()
    assert "nothing but lambda_val=0.001" in refused.message
    assert "--as 2=simam" in refused.hint
    assert "--trust" in refused.hint
    converted = convert("old.pt", output="new.pt", said={key: "simam"})
    assert converted.attentions[0].spec == "simam(e_lambda=0.001, start=paper)"
    assert apart(model) < 1e-4


def test_what_does_not_fit_or_is_about_nothing_is_refused(monkeypatch):
    checkpoint(pasted_copies.Squeeze, monkeypatch)
    assert "does not fit cbam" in refusal(said={"2": "cbam"}).message
    assert "row or class '7'" in refusal(said={"7": "se"}).message
    assert "row or class 'Energy'" in refusal(said={"Energy": "simam"}).message


def test_a_contradiction_is_refused_with_what_contradicts(monkeypatch):
    checkpoint(pasted_copies.SlabsOverAll, monkeypatch)
    assert "weigh has dim=1 instead of -1" in refusal().message
    refused = refusal(said={"2": "ema"})
    assert "with the tensors of ema, but weigh has dim=1" in refused.message


# What the command says -------------------------------------------------------------------------------------------


def command(*arguments: str) -> None:
    app = typer.Typer()
    app.command()(deploy.convert)
    app(["old.pt", "-o", "new.pt", *arguments], standalone_mode=False)


def test_the_command_says_what_was_not_compared(monkeypatch, capsys):
    checkpoint(pasted_copies.NoEnergy, monkeypatch)
    command()
    said = capsys.readouterr().err.strip().splitlines()
    assert "Only stored values were compared, not outputs: the old code was not run, which --trust allows" in said[-2]
    assert "out + x" in said[-2]
    assert said[-1].startswith("Warning: row 2 was taken for simam(e_lambda=0.001, start=paper)")
    assert "other functions have stored the same" in said[-1]


def test_the_command_says_what_was_compared(monkeypatch, capsys):
    checkpoint(pasted_copies.MaximumFirstUnseen, monkeypatch)
    command("--trust")
    printed = capsys.readouterr()
    assert "outputs       of the old code and of ours are" in printed.out
    assert "added         7 tensors that change nothing" in printed.out
    assert "Only stored values" not in printed.err
    assert "Warning" not in printed.err


def test_the_command_takes_what_a_person_says(monkeypatch, capsys):
    checkpoint(pasted_copies.EnergyOfEps, monkeypatch)
    command("--as", "2=simam(e_lambda=0.001)")
    assert "simam(e_lambda=0.001, start=paper)" in capsys.readouterr().out
    with pytest.raises(UserError, match="cannot read --as 'simam'"):
        command("--force", "--as", "simam")


# Other files -----------------------------------------------------------------------------------------------------


class _Settings(types.SimpleNamespace):
    """What 8.0.0 to 8.0.135 kept arguments in."""


def test_files_of_8_0_are_read(monkeypatch):
    for name in ("ultralytics.yolo", "ultralytics.yolo.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    _Settings.__module__, _Settings.__qualname__ = "ultralytics.yolo.utils", "IterableSimpleNamespace"
    sys.modules["ultralytics.yolo.utils"].IterableSimpleNamespace = _Settings
    with monkeypatch.context() as patch:  # whose layers were in one file
        for cls in (conv.Conv, host.tasks.Detect):
            patch.setattr(cls, "__module__", "ultralytics.nn.modules")
        model = checkpoint(pasted_copies.Squeeze, monkeypatch, _Settings(imgsz=64, save_dir=Path("runs")))
    monkeypatch.delitem(sys.modules, "ultralytics.yolo.utils")
    converted = convert("old.pt", output="new.pt")
    assert converted.attentions[0].spec == "se(reduction=4, bias=False, start=paper)"
    written = torch.load("new.pt", weights_only=False)["model"]
    assert written.args == {"imgsz": 64, "save_dir": "runs"}
    assert apart(model) < 1e-4
    assert convert("old.pt", output="again.pt", trust=True).untested == ""


def test_ultralytics_own_cbam_is_left_alone(monkeypatch):
    for cls, also in ((conv.CBAM, ", another module than foveal's cbam"), (conv.ChannelAttention, "")):
        model = checkpoint(cls, monkeypatch, name="Tutorial")
        model.yaml["backbone"][2][2] = cls.__name__
        torch.save({"epoch": -1, "model": model, "ema": None}, "old.pt")
        refused = refusal()
        assert refused.message.startswith(
            f"row 2 is Ultralytics' own {cls.__name__} (ultralytics.nn.modules.conv){also}:"
        )
        assert "predicts as it is" in refused.hint
        assert f"ultralytics.nn.tasks.{cls.__name__} = ultralytics.nn.modules.conv.{cls.__name__}" in refused.hint


def another_tensor(saved):
    saved["model"].model[2].fc1.weight.data[0, 0] += 1e-3


def another_row(saved):
    saved["model"].yaml["backbone"][0][3][0] = 24


def another_activation(saved):
    saved["model"].model[0].act = nn.ReLU()


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (another_tensor, "what is read back differs in model.2"),
        (another_row, "is 16 x 3 x 3 x 3 in the file and 24 x 3 x 3 x 3 as its row says"),
        (another_activation, "what is read back differs in its outputs"),
    ],
)
def test_what_is_written_is_read_back_and_built_anew(damage, part, monkeypatch):
    checkpoint(pasted_copies.Squeeze, monkeypatch)
    save = torch.save

    def damaged(saved, path):
        save(saved, path)
        there = torch.load(path, weights_only=False)
        damage(there)
        save(there, path)

    monkeypatch.setattr(torch, "save", damaged)
    assert part in refusal().message
