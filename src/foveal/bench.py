"""Time and peak memory of the forms of an attention; a form that disagrees with the reference is not timed.

A machine's moods are larger than most differences, so the forms take turns (A B A B ...) and a speed-up is the median
of the ratios within rounds, whose samples met the same mood. Milliseconds of two runs are not comparable.
"""

import copy
import ctypes
import gc
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import foveal

from .attention import ATTENTIONS, find, forms
from .errors import UserError
from .files import write_whole
from .spec import Spec

DTYPES = ("float32", "bfloat16", "float16")
SAMPLE = 5.0  # milliseconds that a sample lasts at least, far above the grain of clock and interpreter
PATIENCE, FEWEST, MOST = 2000.0, 5, 50  # the rounds fill so many milliseconds, within these bounds
NUDGES = 8  # of the input, to see how large the rounding errors of the reference can be
PROC = Path("/proc/self")

_Call = Callable[[], tuple[Tensor, ...]]
_Quartiles = tuple[float, float, float]


@dataclass(frozen=True)
class Timing:
    """One form of one attention in one mode. Spreads are (lower quartile, median, upper quartile) of the rounds.

    Attributes:
        attention: name and arguments.
        mode: "forward" (evaluation, inference mode) or "train" (output and every gradient, from a random one).
        form: one of `foveal.attention.FORMS`.
        disagreement: which result is wrong and by how much, or "". A form that disagrees is not timed.
        error: largest error of the output against the reference in fp64, relative to the largest value of the output
            or its gradient; None if not finite.
        gradient_error: likewise, the largest over the input and all parameters; None in mode "forward".
        milliseconds: of one call.
        speedup: the reference's time over this form's, within rounds: above 1 is faster.
        peak_bytes: how far one call raises the memory in use; None where that cannot be measured. On the CPU it is the
            process's resident memory, and below a megabyte it says little.
        rounds: how often the form's turn came.
        repeats: calls in a turn.
    """

    attention: str
    mode: str
    form: str
    disagreement: str
    error: float | None
    gradient_error: float | None
    milliseconds: _Quartiles | None = None
    speedup: _Quartiles | None = None
    peak_bytes: int | None = None
    rounds: int = 0
    repeats: int = 0


@dataclass(frozen=True)
class Benchmark:
    """Where and with which settings what was measured."""

    environment: dict[str, object]
    settings: dict[str, object]
    rows: tuple[Timing, ...]


def bench(
    names: str | Sequence[str] = (),
    *,
    channels: int = 256,
    size: int | str = 40,
    batch: int = 1,
    dtype: str = "float32",
    device: str = "cpu",
    threads: int | None = None,
    train: bool | None = None,
    rounds: int | None = None,
    seed: int = 0,
    output: str | os.PathLike | None = None,
) -> Benchmark:
    """Compare each form of the attentions with the reference, and time those that agree.

    Args:
        names: such as "ema" or "ema(groups=8)", places and start ignored; by default all that have a fast form.
        channels: of the input.
        size: of the input, 40 or "40x60" (height x width).
        batch: of the input.
        dtype: one of `DTYPES`.
        device: "cpu", "cuda" or "cuda:1".
        threads: of the CPU; torch's choice by default.
        train: True for training steps only, False for forward passes only.
        rounds: by default what fits into two seconds, from 5 to 50.
        seed: of parameters, input and output gradient.
        output: JSON file to write or replace.

    Raises:
        UserError: anything given that cannot work; nothing is written then.
    """
    height, width = _height_and_width(size)
    for name, value in {"batch": batch, "threads": threads, "rounds": rounds}.items():
        if value is not None and value < 1:
            raise UserError(f"{name}={value} is too small", f"{name}=1 is the least")
    if train is not False and batch * height * width == 1:
        raise UserError("a batch norm cannot train on one value per channel", "give batch=2 or size=2")
    if dtype not in DTYPES:
        raise UserError(f"cannot measure in dtype {dtype!r}", f"dtypes: {', '.join(DTYPES)}")
    place, target = _device(device), output and _target(Path(output))
    names = [names] if isinstance(names, str) else names
    names = names or [name for name, cls in ATTENTIONS.items() if "fast" in forms(cls)]
    specs = [Spec(spec.name, spec.arguments) for spec in map(Spec.parse, names)]
    # All are built before any is timed, so that a mistake in the last one shows at once.
    modules = {str(spec): find(spec.name)(channels, **spec.arguments) for spec in specs}
    settings = {"attentions": [*modules], "channels": channels, "size": [height, width], "batch": batch}
    settings |= {"dtype": dtype, "device": device, "train": train, "rounds": rounds, "seed": seed}

    rows: list[Timing] = []
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or threads_before)
    try:
        for title, module in modules.items():
            drawn = _draw(module, (batch, channels, height, width), getattr(torch, dtype), place, seed)
            for training in (False, True) if train is None else (train,):
                with torch.inference_mode(not training):
                    rows += _measure(title, *drawn, training, rounds)
        result = Benchmark(environment(place), settings, tuple(rows))
    finally:
        torch.set_num_threads(threads_before)
    if target:
        text = json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n"
        write_whole(target, lambda path: path.write_text(text, encoding="utf-8"))
    return result


def _draw(
    module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int
) -> tuple[nn.Module, Tensor, Tensor]:
    """The module with other parameters, an input and an output gradient, the same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    x, dy = both = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    module.double().train().form = "reference"
    with torch.no_grad():
        # At initial zeros and ones wrong forms can agree. Running statistics leave theirs with a pass in training.
        for p in module.parameters():
            spread = 0.7 / (p[0].numel() if p.dim() > 1 else 1) ** 0.5
            p.copy_(spread * torch.randn(p.shape, generator=generator, dtype=torch.float64))
        module(both.flatten(0, 1))
    return module.to(device, dtype), (1.3 * x + 0.4).to(device, dtype), dy.to(device, dtype)


def _measure(title: str, module: nn.Module, x: Tensor, dy: Tensor, training: bool, rounds: int | None) -> list[Timing]:
    verdicts = _compare(module, forms(type(module)), x, dy, training)
    agreeing = {form: _call(module, form, x, dy, training) for form, (wrong, *_) in verdicts.items() if not wrong}
    gc.collect()  # memory of the dead that is freed during a call would be missing from its peak
    peaks = {form: [_peak(call, x.device) for _ in range(3)] for form, call in agreeing.items()}
    times, repeats = interleaved(agreeing, x.device, rounds) if agreeing else ({}, {})
    rows = []
    for form, verdict in verdicts.items():
        row = Timing(title, "train" if training else "forward", form, *verdict)
        if form in agreeing:  # and so the reference is timed, too
            row = replace(
                row,
                milliseconds=quartiles(times[form]),
                speedup=quartiles(np.divide(times["reference"], times[form])),
                peak_bytes=None if None in peaks[form] else sorted(peaks[form])[1],
                rounds=len(times[form]),
                repeats=repeats[form],
            )
        rows.append(row)
    return rows


def _call(module: nn.Module, form: str, x: Tensor, dy: Tensor, training: bool) -> _Call:
    """What is compared and timed: the output and, in training, gradients of the input and of each parameter."""
    module = copy.deepcopy(module).train(training)
    module.form = form
    x = x.clone().requires_grad_(training)
    leaves = [x, *module.parameters()]

    def call() -> tuple[Tensor, ...]:
        out = module(x)
        return (out.detach(), *torch.autograd.grad(out, leaves, dy, materialize_grads=True)) if training else (out,)

    return call


def _compare(
    module: nn.Module, own_forms: Sequence[str], x: Tensor, dy: Tensor, training: bool
) -> dict[str, tuple[str, float | None, float | None]]:
    """For each form: what disagrees, the error of the output, the largest error of a gradient."""
    eps = torch.finfo(x.dtype).eps
    true = _call(copy.deepcopy(module).double(), "reference", x.double(), dy.double(), training)()
    scales = [max(float(t.abs().max()), float(dy.abs().max())) for t in true]

    def errors(form: str, x: Tensor) -> np.ndarray:
        pairs = zip(_call(module, form, x, dy, training)(), true, scales, strict=True)
        return np.array([float((got - t).abs().max()) / scale for got, t, scale in pairs])

    found = {form: errors(form, x) for form in own_forms}
    # As in tests/test_contract.py: twice the reference's own rounding error, and a few roundings. Its error is the
    # largest of several, each with the input a rounding off, because in a single run errors can cancel by chance.
    own = [errors("reference", x * (1 + eps * dy.roll(shift, 1).sign())) for shift in range(NUDGES)]
    allowed = 2 * np.max([found["reference"], *own], 0) + 8 * eps
    names = ["output", *(f"gradient of {name}" for name in ("input", *dict(module.named_parameters())))]
    verdicts = {}
    for form, error in found.items():
        wrong = [i for i in range(len(error)) if not error[i] <= allowed[i]]  # a NaN is wrong, too
        words = [
            f"{names[i]} is off by {error[i]:.1e}, allowed {allowed[i]:.1e}"
            if np.isfinite(error[i])
            else f"{names[i]} is not finite"
            for i in wrong[:1]
        ]
        largest = error[0], error[1:].max() if training else np.nan
        verdicts[form] = ("".join(words), *(float(e) if np.isfinite(e) else None for e in largest))
    return verdicts


def interleaved(
    calls: dict[str, _Call], device: torch.device, rounds: int | None
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Milliseconds of a call in each round, and how many calls make a sample."""
    repeats = {}
    for form, call in calls.items():
        fastest = min(_sample(call, 1, device) for _ in range(FEWEST))  # a disturbed one seems long enough
        repeats[form] = math.ceil(SAMPLE / fastest)
    # One round more, which warms up and says how long a round takes.
    lasts = sum(_sample(call, repeats[form], device) * repeats[form] for form, call in calls.items())
    times = {form: [] for form in calls}
    for _ in range(rounds or int(min(MOST, max(FEWEST, PATIENCE / lasts)))):
        for form, call in calls.items():
            times[form].append(_sample(call, repeats[form], device))
    return times, repeats


def _sample(call: _Call, repeats: int, device: torch.device) -> float:
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


def _peak(call: _Call, device: torch.device) -> int | None:
    """By how many bytes one call raises the memory in use."""
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
    return int(re.search(rf"{key}:\s+(\d+)", (PROC / "status").read_text())[1])


def quartiles(values: Sequence[float]) -> _Quartiles:
    """First quartile, median and third quartile."""
    return tuple(np.percentile(values, (25, 50, 75)).tolist())


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


def _height_and_width(size: int | str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", str(size))
    if not match:
        raise UserError(f"cannot read {size!r} as a size", "write 40, or 40x60 for height x width")
    return int(match[1]), int(match[2] or match[1])


def _device(name: str) -> torch.device:
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if not match:
        raise UserError(f"cannot measure on device {name!r}", "devices: cpu, cuda, cuda:1")
    if name != "cpu" and int(match[1] or 0) >= torch.cuda.device_count():
        raise UserError(f"torch sees no device {name!r}", "device cpu is always there")
    return torch.device(name)


def _target(path: Path) -> Path:
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {str(path)!r}", "name a file in a folder that exists and can be written to")
    return path
