"""Time, memory, bytes and operations of attentions and their rivals; a form that disagrees is not timed.

Speed-ups are medians of ratios within rounds, in which all take turns. Of EMA they are against the article's
formulation, of other attentions against the form `reference`. A ratio whose spread exceeds it is refused: see
`timing.resolved`. Beside the times stand counts that no machine changes, and the speed of copying the same input in the
same rounds, which is what a module that only moves memory could reach.
"""

import copy
import gc
import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..attention import Attention, find, forms
from ..files import write_text
from ..surgery import Spec
from . import asked, detectors, revision, rivals, timing
from .agreement import Evaluation, Tolerance, drawn
from .asked import LAYOUTS, PASSES
from .shapes import Shape
from .timing import Quartiles, environment

SCHEMA = 1
# Tensors as large as the input that must be read or written: x and y, and then x, dy and dx.
LEAST_TRAFFIC = {"forward": 2, "train": 5}


@dataclass(frozen=True)
class Row:
    """One contender in one case. Spreads are (lower quartile, median, upper quartile) of the rounds.

    Attributes:
        attention: name and arguments.
        contender: a form, or a rival such as "article".
        mode: "forward" (evaluation, inference mode) or "train" (output and every gradient, from a random one).
        shape: C, H, W.
        batch: B.
        dtype: of input and parameters.
        layout: one of `asked.LAYOUTS`.
        why_not: why it was not run, or "".
        disagreement: which result is wrong and by how much, or "". A form that disagrees is not timed.
        error: largest error of the output against the reference in fp64, relative to the largest value of the output
            or its gradient; None if not finite, or if the contender is another function.
        gradient_error: likewise, the largest over the input and all parameters; None in mode "forward".
        picked: form="auto" runs it here.
        milliseconds: of one call.
        speedup: the yardstick's time over this one's, within rounds, above 1 is faster; None if not resolved.
        spread: upper over lower quartile of that ratio, less 1, resolved or not.
        copy_share: the time to copy as many bytes as must move at least, over this one's time.
        copy_rate: bytes read and written per second by `Tensor.copy_` of the input, in the same rounds.
        input_bytes: T, of the input.
        least_bytes: that must move: 2T forward, 5T in training.
        flops: counted by torch on the smallest batch and multiplied, a multiply-accumulate as two, convolutions and
            matrix products only; None where torch sees nothing, as in compiled code.
        saved_bytes: kept for the backward pass besides input and parameters; None in mode "forward".
        peak_bytes: how far one call raises the memory in use; None where that cannot be measured.
        rounds: how often its turn came.
        repeats: calls in a turn.
    """

    attention: str
    contender: str
    mode: str
    shape: Shape
    batch: int
    dtype: str
    layout: str
    why_not: str = ""
    disagreement: str = ""
    error: float | None = None
    gradient_error: float | None = None
    picked: bool = False
    milliseconds: Quartiles | None = None
    speedup: Quartiles | None = None
    spread: float | None = None
    copy_share: Quartiles | None = None
    copy_rate: float | None = None
    input_bytes: int = 0
    least_bytes: int = 0
    flops: int | None = None
    saved_bytes: int | None = None
    peak_bytes: int | None = None
    rounds: int = 0
    repeats: int = 0


@dataclass(frozen=True)
class Benchmark:
    """Where and with which settings what was measured. `schema` rises when a name changes its meaning."""

    schema: int
    environment: dict[str, object]
    settings: dict[str, object]
    rows: tuple[Row, ...]
    models: tuple[detectors.ModelRow, ...] = ()
    base: tuple[revision.BaseRow, ...] = ()


@dataclass
class _Contender:
    """One that takes part: a module, or why it does not; `same` if it must agree with the reference."""

    name: str
    module: nn.Module | None
    why_not: str = ""
    same: bool = True
    compiled: bool = False
    picked: bool = False
    call: Evaluation | None = None
    verdict: tuple[str, float | None, float | None] = ("", None, None)
    saved: int | None = None


def bench(
    names: str | Sequence[str] = (),
    *,
    shapes: str | Sequence[str] = (),
    batch: int | str | Sequence[int] = 1,
    dtype: str | Sequence[str] = "float32",
    layout: str | Sequence[str] = "contiguous",
    passes: str | Sequence[str] = PASSES,
    models: str | Sequence[str] = (),
    with_rivals: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    rounds: int | None = None,
    seed: int = 0,
    base: str | None = None,
    output: str | os.PathLike | None = None,
    tell: Callable[[str], object] = lambda text: None,
) -> Benchmark:
    """Compare each form of the attentions with the reference, and time those that agree.

    Lists are sequences, or text with commas.

    Args:
        names: such as "ema" or "ema(groups=8)", places and start used in whole models only; by default all that have a
            form besides `reference`, and in whole models "ema".
        shapes: of inputs, such as "256x40x40" (C x H x W), "yolo11x" (what its head reads at 640) or "yolo11x:P3"; by
            default `asked.SHAPES`, and none if models are given.
        batch: sizes of the batch.
        dtype: some of `asked.DTYPES`.
        layout: some of `asked.LAYOUTS`.
        passes: some of `asked.PASSES`.
        models: whole models with and without the attentions, such as "yolo11n"; see `detectors.measure`.
        with_rivals: time compiled baselines and Ultralytics' own attention blocks, too.
        device: "cpu", "cuda" or "cuda:1".
        threads: of the CPU; torch's choice by default.
        rounds: by default what fits into `timing.PATIENCE`, from `timing.FEWEST` to `timing.MOST`.
        seed: of parameters, input and output gradient.
        base: another commit of this checkout, whose sources run the same in turns with these; see `revision.measure`.
        output: JSON file to write or replace.
        tell: is told what is measured next.

    Raises:
        UserError: anything given that cannot work; nothing is written then.
    """
    lists = {"shapes": shapes, "batch": batch, "dtype": dtype, "layout": layout, "passes": passes, "models": models}
    single = {"rivals": with_rivals, "device": device, "threads": threads, "rounds": rounds, "seed": seed, "base": base}
    specs = asked.specs(names, models)
    settings = asked.settings(specs, lists | single)
    target = output and asked.target(Path(output))
    result = _measured(specs, settings, tell)
    if target:
        text = json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n"
        write_text(target, text)
    return result


def _measured(specs: list[Spec], settings: dict, tell: Callable[[str], object]) -> Benchmark:
    """All that was asked for, with as many threads as were."""
    cases, place = asked.cases(settings), timing.device_named(settings["device"])
    # All are built before any is timed, so that a mistake in the last one shows at once.
    bare = [Spec(spec.name, spec.arguments) for spec in specs]
    modules = [(str(spec), shape, find(spec.name)(shape[0], **spec.arguments)) for spec in bare for shape in cases]
    models, base, threads_before = settings["models"], settings["base"], torch.get_num_threads()
    torch.set_num_threads(settings["threads"] or threads_before)
    try:
        where = {**environment(place), "commit": revision.here()}
        if base:
            compared = revision.measure(base, asked.arguments(settings), tell)
            return Benchmark(SCHEMA, where, settings, (), (), compared)
        rows = [row for start in modules for row in _rows(*start, settings, place, tell)]
        wholes = detectors.measure(models, specs, settings, place, tell) if models else ()
        return Benchmark(SCHEMA, where, settings, tuple(rows), wholes)
    finally:
        torch.set_num_threads(threads_before)


def _rows(
    title: str, shape: Shape, module: Attention, settings: dict, device: torch.device, tell: Callable[[str], object]
) -> list[Row]:
    """All rows of one attention at one shape."""
    rows, tolerances = [], {}
    cases = itertools.product(settings["dtype"], settings["passes"], settings["layout"], settings["batch"])
    for dtype, mode, layout, batch in cases:
        case = Row(title, "", mode, shape, batch, dtype, layout)
        tell(f"{title} {mode}, {'x'.join(map(str, shape))}, batch {batch}, {dtype}, {layout}")
        small = drawn(module, shape, batch, getattr(torch, dtype), device, settings["seed"])
        with torch.inference_mode(mode == "forward"):
            judged = dtype, mode, len(small[1])  # layouts and multiples of a batch share their judge
            if judged not in tolerances:
                tolerances[judged] = Tolerance(*small, mode == "train")
            rows += _measure(case, *small, tolerances[judged], settings["rivals"], settings["rounds"])
    return rows


def _measure(
    case: Row, module: Attention, x: Tensor, dy: Tensor, tolerance: Tolerance, with_rivals: bool, rounds: int | None
) -> list[Row]:
    """One case: a row of each contender."""
    few, training = len(x), case.mode == "train"
    x, dy = (t.repeat(case.batch // few, 1, 1, 1).contiguous(memory_format=LAYOUTS[case.layout]) for t in (x, dy))
    contenders = _contenders(module, x, training, with_rivals)
    for contender in sorted(contenders, key=lambda c: c.name != "reference"):  # by whose errors the others are judged
        if contender.module is not None:
            _run_first(contender, contender.module, tolerance, x, dy, training)
    running = {c.name: c.call for c in contenders if c.call and not c.verdict[0]}
    gc.collect()  # memory of the dead that is freed during a call would be missing from its peak
    peaks = {name: timing.peak(call, x.device) for name, call in running.items()}
    target = torch.empty_like(x)
    times, repeats = timing.interleaved({**running, "copy": lambda: target.copy_(x)}, x.device, rounds)
    if with_rivals:
        torch.compiler.reset()  # each shape is compiled anew, and torch gives up after a few

    size = x.numel() * x.element_size()
    yardstick, copying = times.get(contenders[0].name), np.array(times["copy"])
    least = LEAST_TRAFFIC[case.mode] * size
    rows = []
    for c in contenders:
        words, error, gradient_error = c.verdict
        row = replace(case, contender=c.name, why_not=c.why_not, disagreement=words, picked=c.picked)
        row = replace(row, error=error, gradient_error=gradient_error, input_bytes=size, least_bytes=least)
        if c.name in running:
            row = replace(
                row,
                milliseconds=timing.quartiles(times[c.name]),
                copy_share=timing.quartiles(copying * (least / (2 * size)) / times[c.name]),
                copy_rate=2 * size / (float(np.median(copying)) / 1000),
                flops=_flops(c, x[:few], dy[:few], training, len(x) // few),
                saved_bytes=c.saved,
                peak_bytes=peaks[c.name],
                rounds=len(times[c.name]),
                repeats=repeats[c.name],
            )
            if yardstick:
                ratio = timing.quartiles(np.divide(yardstick, times[c.name]))
                row = replace(row, speedup=ratio if timing.resolved(ratio) else None, spread=ratio[2] / ratio[0] - 1)
        rows.append(row)
    return rows


def _contenders(module: Attention, x: Tensor, training: bool, with_rivals: bool) -> list[_Contender]:
    """Who takes part, the yardstick first."""
    chosen = module.chosen(x)
    picked = chosen if chosen in forms(type(module)) else "reference"  # the form that "auto" runs
    found = []
    if (written := rivals.article(module)) is not None:
        found.append(_Contender("article", written))
    for form in forms(type(module)):
        own = copy.deepcopy(module).train(training)
        own.form = form
        reason = own.why_not(x) if form == "kernel" else ""
        found.append(_Contender(form, None if reason else own, reason, picked=form == picked))
    if with_rivals:
        yardstick = found[0]
        reason = rivals.why_not_compiled(x.device)
        made = rivals.compiled(copy.deepcopy(yardstick.module)) if yardstick.module and not reason else None
        found.append(_Contender(f"{yardstick.name} compiled", made, reason, compiled=True))
        for name, (block, reason) in rivals.blocks(x).items():
            found.append(_Contender(name, block, reason, same=False))
    return found


def _run_first(
    contender: _Contender, module: nn.Module, tolerance: Tolerance, x: Tensor, dy: Tensor, training: bool
) -> None:
    """One call, which also warms up: is it right, and what does it keep?"""
    contender.call = Evaluation(module, x, dy, training)
    if training and contender.compiled:
        results = contender.call()
    elif training:
        with timing.Saved(contender.call.known) as saved:
            results = contender.call()
        contender.saved = saved.bytes
    else:
        results = contender.call()
    if contender.name == "reference":
        tolerance.admit(results)
    if contender.same:
        contender.verdict = tolerance.judge(results)


def _flops(contender: _Contender, x: Tensor, dy: Tensor, training: bool, times: int) -> int | None:
    """Operations on `times` batches like x; None where torch cannot see them."""
    if contender.compiled or contender.module is None:
        return None
    module, x = copy.deepcopy(contender.module), x.detach().requires_grad_(training)
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        out = module(x)
        if training:
            out.backward(dy)  # the counter cannot follow `autograd.grad`
    return counter.get_total_flops() * times


def _convolution_backward(dy: Shape, x: Shape, weight: Shape, *rest, **_) -> int:
    """Each gradient of a convolution costs what the convolution does; torch's own count forgets groups."""
    transposed, wanted = rest[4], rest[7]
    return 2 * math.prod(x if transposed else dy) * math.prod(weight[1:]) * sum(wanted[:2])


_FORMULAS = {torch.ops.aten.convolution_backward: _convolution_backward}
