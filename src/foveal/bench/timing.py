"""Clocks and meters: calls timed in turns, peak memory, what is kept for the backward pass, and on which machine.

A machine's moods are larger than most differences, so calls take turns (A B C A B C ...) and are compared within
rounds, whose samples met the same mood. Milliseconds of two runs are not comparable.
"""

import ctypes
import gc
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

import foveal

from ..errors import UserError

SAMPLE = 5.0  # milliseconds that a sample lasts at least, far above the grain of clock and interpreter
PATIENCE, FEWEST, MOST = 1500.0, 5, 50  # the rounds fill so many milliseconds, within these bounds
SLOW = 100.0  # milliseconds above which one call tells enough about what a call takes
LEAST_SPREAD = 0.10  # a ratio whose quartiles are closer than this is never refused
PROC = Path("/proc/self")

Step = Callable[[], object]
Quartiles = tuple[float, float, float]


def interleaved(
    calls: Mapping[str, Step],
    device: torch.device,
    rounds: int | None,
    patience: float | None = None,
    most: int | None = None,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Milliseconds of a call in each round, and how many calls make a sample.

    Args:
        calls: by name; they should have run before.
        device: whose work is waited for.
        rounds: by default what fits into `patience`, from `FEWEST` to `most`.
        patience: milliseconds, by default `PATIENCE`.
        most: by default `MOST`.
    """
    repeats, lasts = {}, 0.0
    for name, call in calls.items():
        fastest = _fastest(call, device)
        repeats[name] = math.ceil(SAMPLE / fastest)
        lasts += fastest * repeats[name]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds or int(min(most or MOST, max(FEWEST, (patience or PATIENCE) / lasts)))):
        for name, call in calls.items():
            times[name].append(_sample(call, repeats[name], device))
    return times, repeats


def _fastest(call: Step, device: torch.device) -> float:
    """Milliseconds of the fastest of a few calls, because a disturbed one seems long; of one if it is slow anyway."""
    fastest = _sample(call, 1, device)
    if fastest > SLOW:
        return fastest
    return min(fastest, *(_sample(call, 1, device) for _ in range(FEWEST - 1)))


def _sample(call: Step, repeats: int, device: torch.device) -> float:
    """Milliseconds of one call, the mean of `repeats` in a row."""
    gc.disable()
    try:
        if device.type == "cuda":
            stream = torch.cuda.current_stream(device)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(device)
            start.record(stream)
            for _ in range(repeats):
                call()
            end.record(stream)
            end.synchronize()
            return start.elapsed_time(end) / repeats
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        return 1000 * (time.perf_counter() - began) / repeats
    finally:
        gc.enable()


def quartiles(values: ArrayLike) -> Quartiles:
    """First quartile, median and third quartile."""
    low, median, high = np.percentile(np.asarray(values, float), (25, 50, 75)).tolist()
    return low, median, high


def resolved(ratio: Quartiles) -> bool:
    """Whether a ratio says anything: its spread must not exceed its distance from 1, nor `LEAST_SPREAD`.

    Both are taken on a logarithmic scale, on which twice as fast and half as fast are equally far from 1. A ratio of 1
    is as good a finding as another, as long as its quartiles are near.
    """
    low, median, high = ratio
    return math.log(high / low) <= max(abs(math.log(median)), math.log1p(LEAST_SPREAD))


def peak(call: Step, device: torch.device) -> int | None:
    """Bytes by which one call raises the memory in use; None where that cannot be measured.

    On the CPU it is the process's resident memory, and below a megabyte it says little.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed blocks, and a call that finds them raises nothing
        (PROC / "clear_refs").write_text("5")  # the high-water mark starts anew
    except (OSError, AttributeError, TypeError):  # not Linux with glibc
        return None
    before = _kilobytes("VmRSS")
    call()
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(key: str) -> int:
    return int((PROC / "status").read_text().partition(f"{key}:")[2].split()[0])


class Saved:
    """A context that counts what autograd keeps for the backward pass, each storage once.

    Args:
        known: tensors that are there anyway: the input and the parameters.

    Attributes:
        bytes: of the storages kept, those of `known` left out.
    """

    def __init__(self, known: Iterable[Tensor]):
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._kept: dict[int, Tensor] = {}  # alive until counted, or a second storage could get the address of a first
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept)
        self.bytes = 0

    def __enter__(self) -> "Saved":
        self._hooks.__enter__()
        return self

    def __exit__(self, *failure) -> None:
        self._hooks.__exit__(*failure)
        self.bytes = sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())
        self._kept.clear()

    def _keep(self, tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        tensor = tensor.detach()  # or an output that its own graph keeps would keep that graph alive
        if address not in self._known:
            self._kept.setdefault(address, tensor)
        return tensor


def device_named(name: str) -> torch.device:
    """The device called "cpu", "cuda" or "cuda:1".

    Raises:
        UserError: another name, or no such device here.
    """
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if not match:
        raise UserError(f"cannot measure on device {name!r}", "devices: cpu, cuda, cuda:1")
    if name != "cpu" and int(match[1] or 0) >= torch.cuda.device_count():
        raise UserError(f"torch sees no device {name!r}", "device cpu is always there")
    return torch.device(name)


def environment(device: torch.device) -> dict[str, object]:
    """What a measurement was made with and on."""
    cpu = PROC.parent / "cpuinfo"
    model = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else None
    return {
        "foveal": foveal.__version__,
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
