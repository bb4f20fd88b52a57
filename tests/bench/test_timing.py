"""Clocks and meters: turns are taken, ratios are paired, and what is measured is what is said."""

import itertools
import sys

import pytest
import torch

from foveal import UserError
from foveal.bench import timing

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Sets how long a call takes that is told by its number, counted over all calls."""

    def make(milliseconds):
        numbers = itertools.count()
        monkeypatch.setattr(timing, "_sample", lambda call, repeats, device: milliseconds(next(numbers), repeats))

    return make


def test_ratios_are_paired_within_rounds(clock):
    # A machine that slows down all the time: each call's times spread, their ratio does not.
    calibration = 2 * timing.FEWEST
    clock(lambda n, _: 20 + (n - calibration) // 2 if n % 2 else 2 * (20 + (n - calibration) // 2))
    times, _ = timing.interleaved({"slow": None, "fast": None}, CPU, 9)
    assert times["slow"] == [2 * value for value in times["fast"]]
    assert times["fast"] == [*range(20, 29)]


@pytest.mark.parametrize(("lasts", "rounds"), [(0.1, 50), (25, 40), (3000, 5)])
def test_rounds_fill_the_time_given(lasts, rounds, clock):
    clock(lambda n, repeats: lasts / repeats if repeats > 1 else lasts)
    times, _ = timing.interleaved({"reference": None, "fast": None}, CPU, None, 2000.0)
    assert [len(values) for values in times.values()] == [rounds] * 2


def test_a_quick_call_is_repeated_and_a_slow_one_is_called_once_before_its_turn(clock):
    asked = []
    clock(lambda n, repeats: (asked.append(repeats), 0.5)[1])
    _, repeats = timing.interleaved({"quick": None}, CPU, 1)
    assert (repeats, asked) == ({"quick": 10}, [1] * timing.FEWEST + [10])
    asked.clear()
    clock(lambda n, repeats: (asked.append(repeats), 2 * timing.SLOW)[1])
    _, repeats = timing.interleaved({"slow": None}, CPU, 1)
    assert (repeats, asked) == ({"slow": 1}, [1, 1])


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        ((1.0, 1.0, 1.0), True),
        ((0.98, 1.0, 1.03), True),  # alike within 5 per cent is a finding
        ((0.9, 1.0, 1.1), False),
        ((1.1, 1.3, 1.5), False),  # off 1 throughout, but by less than it spreads
        ((1.2, 1.3, 1.4), True),
        ((6.0, 8.0, 11.0), True),
        ((1 / 11, 1 / 8, 1 / 6), True),  # and the other way round
        ((1 / 1.5, 1 / 1.3, 1 / 1.1), False),
    ],
)
def test_a_ratio_is_refused_when_its_spread_exceeds_it(ratio, says):
    assert timing.resolved(ratio) is says


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("blocks", [1, 1024], ids=["one block", "small blocks, which glibc keeps"])
def test_peak_memory_is_what_a_call_takes(blocks):
    def large():
        return [torch.ones(2**24 // blocks) for _ in range(blocks)]  # 64 MiB

    assert 62 * 2**20 < timing.peak(large, CPU) < 70 * 2**20
    assert 0 <= timing.peak(lambda: torch.ones(4), CPU) < 4 * 2**20


def test_peak_memory_is_unknown_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "PROC", tmp_path / "proc" / "self")
    assert timing.peak(lambda: None, CPU) is None


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
    assert timing._sample(lambda: log.append("call"), 2, device) == 3.0
    assert log == ["wait for device", "record on stream", "call", "call", "record on stream", "wait for event"]
    log.clear()
    assert timing.peak(lambda: log.append("call"), device) == 250
    assert log == ["reset", "call"]


class Keeps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, *kept):
        ctx.save_for_backward(x, *kept)
        return x * 2

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy + 0 * ctx.saved_tensors[0], *[None] * (len(ctx.saved_tensors) - 1)


def test_what_is_saved_counts_once_and_what_was_there_does_not():
    x = torch.randn(10, requires_grad=True)
    other = torch.randn(100)
    with timing.Saved([x]) as saved:
        out = Keeps.apply(x, other, other[:50], torch.randn(25))
    assert saved.bytes == 4 * (100 + 25)  # a part of a storage keeps the whole
    assert torch.autograd.grad(out.sum(), x)[0].tolist() == [2.0] * 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpu", "cannot measure on device 'tpu'; devices: cpu"),
        ("cuda:99", "torch sees no device 'cuda:99'; device cpu is always there"),
    ],
)
def test_devices_that_are_not_there(name, message):
    with pytest.raises(UserError, match=message):
        timing.device_named(name)
