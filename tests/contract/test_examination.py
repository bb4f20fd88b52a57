"""`foveal check`: each rule finds the class that breaks it, and lets go the classes that keep it."""

import json
import re

import pytest

import foveal
from foveal.contract import State
from foveal.contract.examination import RULES
from helpers import run_forked
from own import HEAD, MY_EMA

# A rule, a body of `forward`, and what is said of it. `self.a` is a parameter, `self.conv` a convolution.
GATE = "x * (self.conv(x) * self.a).sigmoid()"
BREAKS = {
    "batches": ("return x * (x - x.mean(0)).sigmoid()", "an image alone gives something else"),
    "gradients": ("return x * x.detach().mean((2, 3), keepdim=True).sigmoid()", "^a, conv.weight, conv.bias get no"),
    "gradients of roots": (
        "return x * (self.a * (self.conv(x) - self.conv(x))).sqrt().exp().clamp(max=1)",
        "gradients of .* are not finite",
    ),
    "determinism": (f"return {GATE} + torch.rand_like(x)", "two calls .* give different"),
    "state": (f"return {GATE} + self.hidden.to(x)", "with its state dict computes"),
    "types": (f"return {GATE} + torch.zeros(1)", "in bfloat16, float16: it returns"),
    "sizes": (f"return F.avg_pool2d({GATE}, 5, 1).mean((2, 3), True) * x", "fails on maps of 1 x 9, 1 x 1"),
    "traced": (f"return {GATE} * len(x[0, 0])", "traced at 16 x 16, at 12 x 20 it differs"),
    "onnx": (f"return x * F.adaptive_avg_pool2d({GATE}, (x.shape[2], 1)).sigmoid()", "cannot be exported"),
    "widths": (f"assert x.shape[1] == 64\n        return {GATE}", "cannot be built at 16, 32"),
}

CLASS = """
class X(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.a = nn.Conv2d(channels, channels, 1), nn.Parameter(torch.ones(1))
        self.hidden = torch.randn(1)

    def forward(self, x):
        {}
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("foveal.attention._sources._LOADED", {})
    monkeypatch.setattr("foveal.contract.costs.PATIENCE", 1.0)  # milliseconds: times are not what is tested


def found(address):
    return {finding.rule: finding for finding in foveal.check(address).findings}


@pytest.mark.parametrize("title", BREAKS)
def test_each_rule_finds_who_breaks_it(title, tmp_path):
    body, said = BREAKS[title]
    (tmp_path / "mine.py").write_text(HEAD + CLASS.format(body))
    rule = title.partition(" ")[0]
    finding = found("mine.py:X")[rule]
    assert finding.state is State.FAILS or (rule == "types" and finding.state is State.NOTE)
    assert re.search(said, finding.said), finding.said
    assert finding.matters
    assert finding.hint


def test_a_class_that_keeps_the_contract_is_let_go(tmp_path):
    (tmp_path / "mine.py").write_text(HEAD + CLASS.format("return x * (self.conv(x) * self.a).sigmoid()"))
    examined = foveal.check("mine.py:X")
    assert examined.keeps
    assert {finding.state for finding in examined.findings} == {State.OK}
    assert len(examined.findings) == len(RULES)
    assert examined.takes == ("takes its width as channels",)


def test_the_pasted_ema_gets_exactly_its_findings(tmp_path):
    (tmp_path / "my_ema.py").write_text(MY_EMA)
    findings = found("my_ema.py:EMA")
    assert {rule for rule, finding in findings.items() if finding.state is State.FAILS} == {"onnx"}
    assert "pool_h, adaptive pooling to (None, 1): wrong at every exported size but one" in findings["onnx"].hint
    assert "write x.mean(3, keepdim=True); pool_w" in findings["onnx"].hint
    assert findings["widths"].state is State.NOTE
    assert "at 16 channels" in findings["widths"].said
    assert "computes what foveal's ema computes" in findings["foveal's"].said
    assert "times ema's" in findings["speed"].said
    assert findings["costs"].said.startswith("672 parameters")


@pytest.mark.parametrize("name", ["ema", "timm:gca"])
def test_ours_and_those_of_libraries_are_examined_too(name):
    assert foveal.check(name).keeps


def test_the_command(tmp_path):
    (tmp_path / "my_ema.py").write_text(MY_EMA)
    code = (
        "import sys; sys.argv[1:] = ['check', 'my_ema.py:EMA', '--json']\n"
        "import foveal.contract.costs as costs; costs.PATIENCE = 1\n"
        "from foveal.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n    print(end.code)"
    )
    printed = run_forked(["python", "-c", code], tmp_path)
    *written, code = printed.strip().splitlines()
    assert code == "1"
    assert not json.loads("\n".join(written))["keeps"]
