"""The benchmark: wrong forms are not timed, turns are taken, and what is measured is what is said."""

import gc
import importlib
import itertools
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from foveal import Attention, UserError, attention
from foveal.bench import asked, bench, rivals, shapes, timing
from foveal.bench import benchmark as room
from foveal.cli import app
from helpers import filled, in_fresh_process, run_form

ROOT = Path(__file__).parents[2]
TINY = {"shapes": "32x3x4"}
FORWARD = {**TINY, "passes": "forward", "rounds": 1}
EMA = ["article", *attention.forms(attention.ATTENTIONS["ema"])]


class Toy(Attention):
    """x * sigmoid(scale * x), where `scale` starts at 0 and hides what multiplies it."""

    def __init__(self, channels: int, *, power: int = 1):
        super().__init__(channels)
        self.scale = torch.nn.Parameter(torch.zeros(channels, 1, 1))
        self.power = power

    @staticmethod
    def gate(x, scale):
        return x * (scale * x).sigmoid()

    def reference(self, x):
        return self.gate(x, self.scale) * (self.scale * x).sigmoid() ** (self.power - 1)

    def fast(self, x):
        return x * torch.sigmoid(x * self.scale) ** self.power


@pytest.fixture(scope="module", autouse=True)
def _collect_only_what_is_new():
    """Before each case garbage is collected, which looks at all that torch ever made: half a second each time."""
    importlib.import_module("torch._dynamo")
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in {"SAMPLE": 0.5, "PATIENCE": 20.0, "MOST": 8}.items():
        monkeypatch.setattr(timing, name, value)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine threads that wait for each other take most of the time
    yield
    torch.set_num_threads(before)


@pytest.fixture
def register(monkeypatch):
    """A function that makes the only attention there is: `Toy` with other forms."""
    for name in ("ATTENTIONS", "_NAMES"):
        monkeypatch.setattr(attention, name, {})
    monkeypatch.setattr(asked, "ATTENTIONS", attention.ATTENTIONS)

    def make(name: str = "toy", **methods) -> None:
        cls = type("OtherToy", (Toy,), methods)
        cls.card = SimpleNamespace(name=name)  # all of the card that a benchmark may need
        attention.ATTENTIONS[name] = attention._NAMES[name] = cls

    return make


def timed(rows) -> list[tuple[str, str]]:
    return [(row.mode, row.contender) for row in rows if row.milliseconds]


def foveal(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["foveal", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        app.main()
    return left.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize("dtype", asked.DTYPES)
def test_every_form_of_an_attention_is_timed_in_both_modes(dtype):
    measured = bench("ema(groups=8)@neck", **TINY, batch=2, dtype=dtype, rounds=2)
    assert [(row.mode, row.contender) for row in measured.rows] == [(m, c) for m in asked.PASSES for c in EMA]
    for row in measured.rows:
        assert (row.attention, row.shape, row.batch, row.dtype) == ("ema(groups=8)", (32, 3, 4), 2, dtype)
        if row.why_not:
            assert row.contender == "kernel"
            continue
        assert (row.disagreement, row.rounds) == ("", 2)
        assert 0 < row.milliseconds[0] <= row.milliseconds[1] <= row.milliseconds[2]
        assert row.error < 0.02
        assert (row.gradient_error is None) == (row.saved_bytes is None) == (row.mode == "forward")
        assert row.contender != "article" or row.speedup == (1, 1, 1)
        size = 2 * 32 * 3 * 4 * getattr(torch, dtype).itemsize
        assert (row.input_bytes, row.least_bytes) == (size, size * {"forward": 2, "train": 5}[row.mode])
        assert row.copy_share[0] > 0
        assert row.copy_rate > 0
    assert sum(row.picked for row in measured.rows) == 2


def test_cases_are_all_combinations():
    lists = {
        "shapes": "8x2x3,16x2x3",
        "batch": "1,4",
        "layout": "contiguous,channels_last",
        "dtype": "float32,bfloat16",
    }
    rows = bench("se(reduction=4)", **lists, passes="forward", rounds=1).rows
    assert len({(row.shape, row.batch, row.layout, row.dtype) for row in rows}) == len(rows) == 16
    assert not any(row.disagreement for row in rows)


def test_the_layout_is_what_is_timed(register):
    seen = []

    def reference(self, x):
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return Toy.reference(self, x)

    register(reference=reference)
    bench("toy", **FORWARD, layout="channels_last")
    assert seen[-1]
    bench("toy", **FORWARD)
    assert not seen[-1]


def test_by_default_those_with_a_fast_form_and_by_name_any(register):
    register("first")
    register("plain", fast=Attention.fast)
    register("last")
    forms = [(row.attention, row.contender) for row in bench(**FORWARD).rows]
    assert forms == [(name, form) for name in ("first", "last") for form in ("reference", "fast")]
    forms = [(row.attention, row.contender) for row in bench(["plain(power=2)", "last"], **FORWARD).rows]
    assert forms == [("plain(power=2)", "reference"), ("last", "reference"), ("last", "fast")]


def test_a_wrong_form_is_not_timed_and_the_others_are(register):
    calls = []

    def fast(self, x):
        calls.append(x)
        return self.reference(x) * 1.0001

    register(fast=fast)
    reference, wrong = bench("toy", **FORWARD).rows
    assert reference.milliseconds
    assert wrong.disagreement.startswith("output is off by ")
    assert 1e-5 < wrong.error < 2e-4
    assert (wrong.milliseconds, wrong.speedup, wrong.peak_bytes, wrong.rounds) == (None, None, None, 0)
    assert len(calls) == 1


def test_a_wrong_gradient_stops_training_only(register):
    register(fast=lambda self, x: x * (self.scale * x.detach()).sigmoid())
    rows = bench("toy", **TINY, rounds=1).rows
    assert timed(rows) == [("forward", "reference"), ("forward", "fast"), ("train", "reference")]
    assert rows[-1].disagreement.startswith("gradient of input is off by ")
    assert rows[-1].error < 1e-6 < rows[-1].gradient_error


@pytest.mark.parametrize(
    ("fast", "words"),
    [
        (lambda self, x: x * 0.5, "output is off by"),  # right as long as the scale is zero
        (lambda self, x: self.reference(x) + torch.where(x == x.max(), torch.nan, 0.0), "output is not finite"),
        (lambda self, x: self.reference(x)[:, :, :1], "output has shape (32, 1, 4), not (32, 3, 4)"),
    ],
    ids=["right for fresh parameters", "one NaN", "shape"],
)
@pytest.mark.parametrize("batch", [1, 4])
def test_the_gate_is_hard_to_slip_through(fast, words, batch, register):
    register(fast=fast)
    row = bench("toy", **FORWARD, batch=batch).rows[1]
    assert row.disagreement.startswith(words)
    assert not row.milliseconds
    json.dumps([row.error], allow_nan=False)


@pytest.mark.parametrize("name", ["output", "gradient of input", "gradient of scale"])
def test_a_whole_batch_is_judged_by_a_pair(name, register):
    class Wrong(torch.autograd.Function):
        """Right in the first pair; behind it one result is wrong."""

        @staticmethod
        def forward(ctx, x, scale):
            ctx.save_for_backward(x, scale)
            out = Toy.gate(x, scale)
            if name == "output" and len(x) > 2:
                out[-1] *= 1.001
            return out

        @staticmethod
        def backward(ctx, dy):
            x, scale = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            with torch.enable_grad():
                dx, dscale = torch.autograd.grad(Toy.gate(x, scale), [x, scale], dy)
            if name == "gradient of input" and len(x) > 2:
                dx[-1] *= 1.001
            return dx, dscale * (1.001 if name == "gradient of scale" and len(x) > 2 else 1)

    register(fast=lambda self, x: Wrong.apply(x, self.scale))
    pair, many = (bench("toy", **TINY, passes="train", batch=batch, rounds=1).rows[1] for batch in (2, 8))
    assert pair.disagreement == ""
    assert many.disagreement.startswith(f"{name} is off by ")


@pytest.mark.parametrize("seed", [8, 10, 11])
def test_rounding_is_no_disagreement(seed):
    # With these the reference's own rounding errors cancel, and twice as much would not do for a form that is right.
    rows = bench("ema", shapes="64x1x1", batch=2, passes="train", rounds=1, seed=seed).rows
    # The C++ kernel rounds a one-pixel norm up to four times as coarsely, which a gate may well refuse.
    assert {row.contender: row.disagreement for row in rows if row.contender != "kernel"} == dict.fromkeys(EMA[:3], "")


@pytest.mark.parametrize("name", ["ema(groups=4)", "coord", "sa(groups=8)", "cbam"])
def test_right_forms_of_large_batches_pass(name):
    rows = bench(name, shapes="64x5x4", batch="3,16", dtype="float32,bfloat16", rounds=1).rows
    assert [row.disagreement for row in rows] == [""] * len(rows)


def test_running_statistics_count(register):
    def init(self, channels):
        Toy.__init__(self, channels)
        self.norm = torch.nn.BatchNorm2d(channels)

    register(
        __init__=init,
        reference=lambda self, x: self.norm(x),
        # Right as long as the running mean is 0 and the running variance 1.
        fast=lambda self, x: F.batch_norm(
            x, torch.zeros(32), torch.ones(32), self.norm.weight, self.norm.bias, eps=self.norm.eps
        ),
    )
    assert bench("toy", **FORWARD).rows[1].disagreement


def test_forms_take_turns(register):
    calls = []
    register(
        reference=lambda self, x: (calls.append("reference"), Toy.reference(self, x))[1],
        fast=lambda self, x: (calls.append("fast"), Toy.fast(self, x))[1],
    )
    reference, fast = bench("toy", **{**FORWARD, "rounds": 4}).rows
    turns = [(form, len([*group])) for form, group in itertools.groupby(calls)][:-2]  # the last count operations
    assert turns[-8:] == [("reference", reference.repeats), ("fast", fast.repeats)] * 4
    assert reference.repeats > 1


@pytest.fixture
def lasting(monkeypatch):
    """A function that tells a call how many milliseconds it takes, by a clock that moves on at nothing else."""
    now, grain = 0.0, 0.1

    def read():
        nonlocal now
        now += grain
        return now / 1000

    def make(call, milliseconds):
        def lasts(*args):
            nonlocal now
            now += next(milliseconds) - grain
            return call(*args)

        return lasts

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=read))
    return make


def test_slower_means_a_speed_up_below_1(register, lasting):
    register(reference=lasting(Toy.reference, itertools.repeat(1)), fast=lasting(Toy.fast, itertools.repeat(3)))
    _, slow = bench("toy", **TINY, rounds=3, passes="train").rows
    assert slow.speedup == pytest.approx([1 / 3] * 3)
    assert slow.milliseconds == pytest.approx([3] * 3)


def test_a_ratio_that_spreads_is_refused(register, lasting, monkeypatch, capsys):
    register(reference=lasting(Toy.reference, itertools.cycle([1, 4])), fast=lasting(Toy.fast, itertools.repeat(1)))
    _, row = bench("toy", **{**FORWARD, "rounds": 6}).rows
    assert row.milliseconds
    assert row.speedup is None
    assert row.spread == pytest.approx(3)
    monkeypatch.setattr(timing, "resolved", lambda ratio: False)
    _, out, _ = foveal(monkeypatch, capsys, "bench", "toy", "--shapes", "32x3x4", "--passes", "forward")
    assert "noise" in out


def test_bytes_and_operations_are_counted():
    rows = bench("ema", shapes="64x8x8", batch="1,4", rounds=1).rows
    found = {(row.contender, row.mode, row.batch): row for row in rows}
    flops = attention.costs(attention.EMAttention, 64, 8)
    for batch in (1, 4):
        assert found["reference", "forward", batch].flops == batch * flops["flops_reference"]
        assert found["fast", "forward", batch].flops == pytest.approx(batch * flops["flops_fast"], rel=0.01)
        # The backward pass is twice the forward pass, grouped convolutions included.
        assert found["article", "train", batch].flops == pytest.approx(3 * batch * flops["flops_reference"], rel=0.05)
        assert found["fast", "train", batch].flops < 5 * batch * flops["flops_fast"]
        article = found["article", "train", batch]
        assert 4 < article.saved_bytes / article.input_bytes < 5.5


# The article's formulation and other rivals ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 64, 5, 7), (1, 96, 4, 4), (3, 32, 6, 1)], ids=str)
def test_the_articles_formulation_is_the_reference(shape):
    module = filled(attention.EMAttention(shape[1]).double())
    written = rivals.article(module)
    assert dict(written.named_parameters()).keys() == dict(module.named_parameters()).keys()
    generator = torch.Generator().manual_seed(0)
    x, dy = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    expected, got = run_form(module, "reference", x, dy), run_form(written, "", x, dy)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-9)
    assert rivals.article(attention.CBAM(64)) is None


def test_a_form_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(room, "forms", lambda cls: ["reference", "kernel"])
    monkeypatch.setattr(attention.EMAttention, "why_not", lambda self, x: "no compiler was there", raising=False)
    rows = bench("ema", **FORWARD).rows
    assert [(row.contender, row.why_not) for row in rows if not row.milliseconds] == [
        ("kernel", "no compiler was there")
    ]


def test_compiled_rivals_are_judged_and_others_only_timed(monkeypatch):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    monkeypatch.setattr(rivals, "why_not_compiled", lambda device: "")
    monkeypatch.setattr(rivals, "compiled", lambda module: torch.compile(module, backend="eager", dynamic=False))
    rows = {(r.contender, r.mode): r for r in bench("ema", shapes="64x6x6", rounds=1, with_rivals=True).rows}
    for mode in asked.PASSES:
        compiled = rows["article compiled", mode]
        assert (compiled.disagreement, compiled.flops) == ("", None)
        assert compiled.error < 1e-5
        for name in ("CBAM", "PSA's Attention"):
            block = rows[f"ultralytics {name}", mode]
            assert block.milliseconds
            assert (block.error, block.disagreement) == (None, "")


def test_rivals_that_cannot_run_say_why(monkeypatch):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(rivals, "LARGEST_MATRIX", 1000)
    rows = bench("se", shapes="64x6x6", passes="forward", rounds=1, with_rivals=True).rows
    assert {row.contender: row.why_not for row in rows if not row.milliseconds} == {
        "reference compiled": "torch.compile needs a C++ compiler, and there is no no-such-compiler",
        "ultralytics PSA's Attention": "its attention matrix would take 0.0 GB",
    }


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_the_compiler_takes_part():
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    settings = {"shapes": "32x5x4,32x4x4", "passes": "forward", "rounds": 1}
    rows = bench("ema", **settings, with_rivals=True).rows
    assert [row.disagreement for row in rows if row.contender == "article compiled" and row.milliseconds] == [""] * 2


def test_ultralytics_is_loaded_only_where_it_is_needed(tmp_path):
    code = (
        "import sys; sys.modules['ultralytics'] = None; from foveal.bench import bench; "
        "print(len(bench('se', shapes='16x2x2', passes='forward', rounds=1).rows))"
    )
    assert in_fresh_process(code, tmp_path).split() == ["1"]


@pytest.mark.host
@pytest.mark.sweep
def test_named_shapes_are_the_hosts():
    host = pytest.importorskip("foveal.yolo", reason="Ultralytics is not installed")
    for name, widths in shapes.NECKS.items():
        model = host.load(f"{name}.yaml").model
        found = []
        hook = model.model[-1].register_forward_pre_hook(lambda _, inputs: found.extend(t.shape for t in inputs[0]))  # noqa: B023
        model.eval()(torch.zeros(1, 3, 64, 64))
        hook.remove()
        assert [(c, 10 * h, 10 * w) for _, c, h, w in found] == shapes.read(name), widths


# Settings ------------------------------------------------------------------------------------------------------------


def test_shapes_have_names():
    assert shapes.read("yolo11x:P4") == [(768, 40, 40)]
    assert [shapes.name(shape) for shape in shapes.read("yolo11x")] == ["yolo11x:P3", "yolo11x:P4", "yolo11x:P5"]
    assert shapes.name((5, 4, 4)) == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": ["emma"]}, "no attention is named 'emma'; did you mean 'ema'"),
        ({"names": "ema(groups=5)"}, "EMAttention.channels=32, groups=5."),
        ({"shapes": "32x4"}, "cannot read '32x4' as a shape; write 256x40x40"),
        ({"shapes": "32x0x4"}, "cannot read '32x0x4' as a shape"),
        ({"shapes": "yolo11x:P6"}, "cannot read 'yolo11x:P6' as a shape; .*yolo11x:P3"),
        ({"batch": 0}, "batch=0 is too small; batch=1 is the least"),
        ({"batch": "1,two"}, "cannot read batch='two' as a number; write batch=1"),
        ({"shapes": "32x1x1"}, "a batch norm cannot train on one value per channel; give batch=2"),
        ({"threads": 0}, "threads=0 is too small"),
        ({"rounds": 0}, "rounds=0 is too small"),
        ({"dtype": "float64"}, "cannot measure with dtype='float64'; dtype: some of float32,bfloat16,float16"),
        ({"layout": "rows"}, "cannot measure with layout='rows'; layout: some of contiguous,channels_last"),
        ({"passes": ""}, "no passes is given; passes: some of forward,train"),
        ({"device": "tpu"}, "cannot measure on device 'tpu'; devices: cpu"),
        ({"output": "none/x.json"}, "cannot write 'none/x.json'; name a file in a folder that exists"),
        ({"output": "."}, "cannot write '.'"),
    ],
    ids=str,
)
def test_mistakes_are_explained_before_anything_runs(wrong, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(room, "_measure")
    with pytest.raises(UserError, match=message):
        bench(**{"names": "ema", **TINY, "output": "x.json", **wrong})
    assert [*tmp_path.iterdir()] == []


def test_a_full_disk_leaves_no_file(register, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    register()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        bench("toy", **FORWARD, output=tmp_path / "x.json")
    assert [*tmp_path.iterdir()] == []


def test_threads_are_those_asked_for_and_then_those_before():
    assert bench("se", **FORWARD, threads=2).environment["threads"] == 2
    assert torch.get_num_threads() == 1


# The command and its reports -------------------------------------------------------------------------------------


def test_command_prints_and_writes_the_same(monkeypatch, capsys, tmp_path):
    file = tmp_path / "x.json"
    file.write_text("older")
    code, out, err = foveal(monkeypatch, capsys, "bench", "ema", "--shapes", "32x3x3", "-o", file, "--json")
    assert code == 0
    assert err.splitlines() == [f"ema {mode}, 32x3x3, batch 1, float32, contiguous" for mode in asked.PASSES]
    written = json.loads(file.read_text())
    assert written == json.loads(out)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    known = {"foveal", "commit", "torch", "platform", "cpu", "cores", "threads", "gpu", "date"}
    assert known <= {*written["environment"]}
    assert (written["schema"], written["settings"]["attentions"]) == (1, ["ema"])
    assert [(row["mode"], row["contender"]) for row in written["rows"]] == [(m, c) for m in asked.PASSES for c in EMA]
    checker = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json.loads((ROOT / "benchmarks" / "schema.json").read_text())
    checker.validate(written, schema)
    written["rows"][0]["milliseconds"] = [1.0]
    with pytest.raises(checker.ValidationError):
        checker.validate(written, schema)


def test_committed_reports_follow_the_schema():
    checker = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json.loads((ROOT / "benchmarks" / "schema.json").read_text())
    for file in (ROOT / "benchmarks" / "results").glob("*.json"):
        report = json.loads(file.read_text())
        if "schema" in report:  # older ones are kept as they were
            checker.validate(report, schema)


def test_command_leaves_with_1_if_a_form_disagrees(register, monkeypatch, capsys, tmp_path):
    register(fast=lambda self, x: x)
    file = tmp_path / "x.json"
    code, out, err = foveal(monkeypatch, capsys, "bench", "toy", "--shapes", "4x3x3", "-o", file)
    assert code == 1
    lines = out.splitlines()
    assert lines[0].split()[:5] == ["attention", "case", "mode", "contender", "milliseconds"]
    assert [(line.split()[4], line.split()[5].strip("*")) for line in lines[1:]] == [
        (mode, form) for mode in asked.PASSES for form in ("reference", "fast")
    ]
    assert "not timed" in lines[2]
    assert "(1.00 to 1.00)" in lines[1]
    assert "toy, forward, fast: output is off by " in err
    assert json.loads(file.read_text())["rows"][1]["milliseconds"] is None


@pytest.mark.parametrize(
    "option", [("--dtype", "int8"), ("--device", "tpu"), ("--shapes", "axb"), ("--threads", "0"), ("--batch", "x")]
)
def test_command_says_mistakes_in_two_lines(option, monkeypatch, capsys, tmp_path):
    code, out, err = foveal(monkeypatch, capsys, "bench", "ema", *option, "-o", tmp_path / "x.json")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "\n\nhint: " in err
    assert [*tmp_path.iterdir()] == []
