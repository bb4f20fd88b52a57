"""The benchmark: wrong forms are not timed, turns are taken, and what is measured is what is said."""

import itertools
import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from foveal import Attention, UserError, attention, cli
from foveal import bench as room
from foveal.bench import bench

TINY = {"channels": 32, "size": "3x4"}


class Toy(Attention):
    """x * sigmoid(scale * x), where `scale` starts at 0 and hides what multiplies it."""

    def __init__(self, channels: int, *, power: int = 1):
        super().__init__(channels)
        self.scale = torch.nn.Parameter(torch.zeros(channels, 1, 1))
        self.power = power

    def reference(self, x):
        return x * (self.scale * x).sigmoid() ** self.power

    def fast(self, x):
        return x * torch.sigmoid(x * self.scale) ** self.power


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in {"SAMPLE": 0.5, "PATIENCE": 20.0, "MOST": 8}.items():
        monkeypatch.setattr(room, name, value)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine threads that wait for each other take most of the time
    yield
    torch.set_num_threads(before)


@pytest.fixture
def register(monkeypatch):
    """A function that makes the only attention there is: `Toy` with other forms."""
    for name in ("ATTENTIONS", "_NAMES"):
        monkeypatch.setattr(attention, name, {})
    monkeypatch.setattr(room, "ATTENTIONS", attention.ATTENTIONS)

    def make(name: str = "toy", **methods) -> None:
        cls = type("OtherToy", (Toy,), methods)
        cls.card = SimpleNamespace(name=name)  # all of the card that a benchmark may need
        attention.ATTENTIONS[name] = attention._NAMES[name] = cls

    return make


def timed(rows) -> list[tuple[str, str]]:
    return [(row.mode, row.form) for row in rows if row.milliseconds]


def foveal(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["foveal", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize("dtype", room.DTYPES)
def test_every_form_of_an_attention_is_timed_in_both_modes(dtype):
    measured = bench("ema(groups=8)@neck", **TINY, batch=2, dtype=dtype, rounds=2)
    assert timed(measured.rows) == [(mode, form) for mode in ("forward", "train") for form in attention.FORMS]
    for row in measured.rows:
        assert (row.attention, row.disagreement, row.rounds) == ("ema(groups=8)", "", 2)
        assert 0 < row.milliseconds[0] <= row.milliseconds[1] <= row.milliseconds[2]
        assert row.error < 0.02
        assert (row.gradient_error is None) == (row.mode == "forward")
        assert row.form != "reference" or row.speedup == (1, 1, 1)
    assert measured.settings["size"] == [3, 4]


def test_by_default_those_with_a_fast_form_and_by_name_any(register):
    register("first")
    register("plain", fast=Attention.fast)
    register("last")
    settings = {**TINY, "train": False, "rounds": 1}
    forms = [(row.attention, row.form) for row in bench(**settings).rows]
    assert forms == [(name, form) for name in ("first", "last") for form in attention.FORMS]
    forms = [(row.attention, row.form) for row in bench(["plain(power=2)", "last"], **settings).rows]
    assert forms == [("plain(power=2)", "reference"), *(("last", form) for form in attention.FORMS)]


def test_a_wrong_form_is_not_timed_and_the_others_are(register):
    calls = []

    def fast(self, x):
        calls.append(x)
        return self.reference(x) * 1.0001

    register(fast=fast)
    reference, wrong = bench("toy", **TINY, train=False, rounds=2).rows
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
        (lambda self, x: self.reference(x)[:, :, :1], "output is off by"),
    ],
    ids=["right for fresh parameters", "one NaN", "shape"],
)
def test_the_gate_is_hard_to_slip_through(fast, words, register):
    register(fast=fast)
    row = bench("toy", **TINY, train=False, rounds=1).rows[1]
    assert row.disagreement.startswith(words)
    assert not row.milliseconds
    json.dumps([row.error], allow_nan=False)


@pytest.mark.parametrize("seed", [8, 10, 11])
def test_rounding_is_no_disagreement(seed):
    # With these the reference's own rounding errors cancel, and twice as much would not do for a form that is right.
    (_, fast) = bench("ema", channels=64, size=1, batch=2, train=True, rounds=1, seed=seed).rows
    assert fast.disagreement == ""


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
    assert bench("toy", **TINY, train=False, rounds=1).rows[1].disagreement


def test_forms_take_turns(register):
    calls = []
    register(
        reference=lambda self, x: (calls.append("reference"), Toy.reference(self, x))[1],
        fast=lambda self, x: (calls.append("fast"), Toy.fast(self, x))[1],
    )
    reference, fast = bench("toy", **TINY, train=False, rounds=4).rows
    turns = [(form, len([*group])) for form, group in itertools.groupby(calls)]
    assert turns[-8:] == [("reference", reference.repeats), ("fast", fast.repeats)] * 4
    assert reference.repeats > 1


def test_slower_means_a_speed_up_below_1(register):
    register(fast=lambda self, x: (time.sleep(0.003), Toy.fast(self, x))[1])
    reference, slow = bench("toy", **TINY, rounds=3, train=True).rows
    assert slow.speedup[2] < 1
    assert slow.milliseconds[1] >= 3
    assert slow.repeats < reference.repeats


def test_speed_ups_are_paired_within_rounds(register, monkeypatch):
    # A machine that slows down all the time: each form's times spread, their ratio does not.
    now = itertools.count(20)
    monkeypatch.setattr(room, "_sample", lambda call, repeats, device: next(now) // 2 * (1.0 if next(turn) else 2.0))
    turn = itertools.cycle([0, 1])
    monkeypatch.setattr(room, "FEWEST", 2)  # an even number of calls before the rounds
    register()
    reference, fast = bench("toy", **TINY, train=False, rounds=9).rows
    assert fast.speedup == (2, 2, 2)
    assert reference.milliseconds == tuple(2 * value for value in fast.milliseconds)
    assert fast.milliseconds[0] < fast.milliseconds[1] < fast.milliseconds[2]


@pytest.mark.parametrize(("lasts", "rounds"), [(0.1, 50), (25, 40), (3000, 5)])
def test_rounds_fill_two_seconds(lasts, rounds, monkeypatch):
    monkeypatch.setattr(room, "PATIENCE", 2000.0)
    monkeypatch.setattr(room, "MOST", 50)
    monkeypatch.setattr(room, "_sample", lambda call, repeats, device: lasts / repeats)
    times, _ = room.interleaved({"reference": None, "fast": None}, torch.device("cpu"), None)
    assert [len(values) for values in times.values()] == [rounds] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("blocks", [1, 1024], ids=["one block", "small blocks, which glibc keeps"])
def test_peak_memory_is_what_a_form_takes(blocks, register):
    def reference(self, x):
        held = [torch.ones(2**24 // blocks) for _ in range(blocks)]  # 64 MiB
        return Toy.reference(self, x) + 0 * held[-1][0].to(x.dtype)

    register(reference=reference)
    large, small = bench("toy", **TINY, train=False, rounds=1).rows
    assert 62 * 2**20 < large.peak_bytes < 70 * 2**20
    assert 0 <= small.peak_bytes < 4 * 2**20


def test_peak_memory_is_unknown_elsewhere(register, monkeypatch, tmp_path):
    register()
    monkeypatch.setattr(room, "PROC", tmp_path / "proc" / "self")
    measured = bench("toy", **TINY, train=False, rounds=1)
    assert [row.peak_bytes for row in measured.rows] == [None, None]


def test_on_a_gpu_the_clock_stands_between_events(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            log.append(f"record on {stream}")

        def synchronize(self):
            log.append("wait for event")

        def elapsed_time(self, end):
            assert self is not end
            return 6.0

    fakes = {
        "Event": Event,
        "current_stream": lambda device: "stream",
        "synchronize": lambda device: log.append("wait for device"),
        "reset_peak_memory_stats": lambda device: log.append("reset"),
        "memory_allocated": lambda device: 100,
        "max_memory_allocated": lambda device: 350,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    device = torch.device("cuda")
    assert room._sample(lambda: log.append("call"), 2, device) == 3.0
    assert log == ["wait for device", "record on stream", "call", "call", "record on stream", "wait for event"]
    log.clear()
    assert room._peak(lambda: log.append("call"), device) == 250
    assert log == ["reset", "call"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": ["emma"]}, "no attention is named 'emma'; did you mean 'ema'"),
        ({"names": "ema(groups=5)"}, "EMAttention.channels=32, groups=5."),
        ({"size": "4y"}, "cannot read '4y' as a size; write 40, or 40x60"),
        ({"size": 0}, "cannot read 0 as a size"),
        ({"batch": 0}, "batch=0 is too small; batch=1 is the least"),
        ({"size": 1}, "a batch norm cannot train on one value per channel; give batch=2"),
        ({"threads": 0}, "threads=0 is too small"),
        ({"rounds": 0}, "rounds=0 is too small"),
        ({"dtype": "float64"}, "cannot measure in dtype 'float64'; dtypes: float32, bfloat16, float16"),
        ({"device": "tpu"}, "cannot measure on device 'tpu'; devices: cpu"),
        ({"device": "cuda:99"}, "torch sees no device 'cuda:99'; device cpu is always there"),
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
    monkeypatch.setattr(room.os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        bench("toy", **TINY, train=False, rounds=1, output=tmp_path / "x.json")
    assert [*tmp_path.iterdir()] == []


def test_threads_are_those_asked_for_and_then_those_before():
    assert bench("ema", **TINY, threads=2, train=False, rounds=1).environment["threads"] == 2
    assert torch.get_num_threads() == 1


def test_command_prints_and_writes_the_same(monkeypatch, capsys, tmp_path):
    file = tmp_path / "x.json"
    file.write_text("older")
    code, out, err = foveal(monkeypatch, capsys, "bench", "ema", "--channels", 32, "--size", 3, "-o", file, "--json")
    assert (code, err) == (0, "")
    assert file.read_text() == out
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    written = json.loads(out)
    assert {"foveal", "torch", "platform", "cpu", "cores", "threads", "gpu", "date"} == {*written["environment"]}
    assert written["settings"]["attentions"] == ["ema"]
    rows = [
        room.Timing(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
        for row in written["rows"]
    ]
    assert timed(rows) == [(mode, form) for mode in ("forward", "train") for form in attention.FORMS]


def test_command_leaves_with_1_if_a_form_disagrees(register, monkeypatch, capsys, tmp_path):
    register(fast=lambda self, x: x)
    file = tmp_path / "x.json"
    code, out, err = foveal(monkeypatch, capsys, "bench", "toy", "--channels", 4, "--size", 3, "-o", file)
    assert code == 1
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["attention", "mode", "form", "milliseconds"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["toy", mode, form] for mode in ("forward", "train") for form in attention.FORMS
    ]
    assert "not timed" in lines[2]
    assert "(1.00-1.00)" in lines[1]
    assert err.startswith("toy, forward, fast: output is off by ")
    assert json.loads(file.read_text())["rows"][1]["milliseconds"] is None


@pytest.mark.parametrize("option", [("--dtype", "int8"), ("--device", "tpu"), ("--size", "axb"), ("--threads", "0")])
def test_command_says_mistakes_in_two_lines(option, monkeypatch, capsys, tmp_path):
    code, out, err = foveal(monkeypatch, capsys, "bench", "ema", *option, "-o", tmp_path / "x.json")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "\n\nhint: " in err
    assert [*tmp_path.iterdir()] == []
