"""The command `foveal bench`."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from .printing import Json, print_json, print_table, say


def bench(
    specs: Annotated[
        list[str] | None,
        typer.Argument(help='Such as ema or "ema(groups=8)". [default: all with a form besides reference]'),
    ] = None,
    shapes: Annotated[
        str,
        typer.Option(help="C x H x W as 256x40x40, or yolo11n, or yolo11x:P3: what its head reads at 640."),
    ] = "",
    batch: Annotated[str, typer.Option(help="Sizes of the batch: 1,8,16.")] = "1",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16.")] = "float32",
    layout: Annotated[str, typer.Option(help="contiguous, channels_last.")] = "contiguous",
    passes: Annotated[str, typer.Option(help="forward (evaluation), train (forward and backward).")] = "forward,train",
    models: Annotated[
        str, typer.Option(help="Whole models with and without: yolo11n, or yolo11x:1 to train on one image, not four.")
    ] = "",
    rivals: Annotated[
        bool, typer.Option("--rivals", help="Also torch.compile of the yardstick and Ultralytics' own blocks.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Of the CPU. [default: torch's choice]")] = None,
    rounds: Annotated[int | None, typer.Option(help="[default: what 1.5 seconds hold, 5 to 50]")] = None,
    base: Annotated[str, typer.Option(metavar="REV", help="Another commit to run in turns with this one.")] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write or replace.")] = None,
    as_json: Json = False,
) -> None:
    """Time, memory and bytes of each form of an attention, and of what it is up against.

    Options in the plural, and batch, dtype and layout, take lists with commas. Without --shapes that is 256x40x40, or
    whole models only if some are named.

    All take turns. A form that disagrees with the reference is not timed, and the exit code is then 1. Numbers in
    brackets are quartiles; a speed-up above 1 is faster than the yardstick: the article's formulation of EMA, the
    reference of others. "noise" stands for a ratio whose spread exceeds it. An asterisk marks the form that runs by
    default; "of copying" is the time to copy what must move at least over the time taken, and "saved/x" what is kept
    for the backward pass in units of the input.
    """
    from ..bench import bench as call

    measured = call(
        specs or (),
        shapes=shapes,
        batch=batch,
        dtype=dtype,
        layout=layout,
        passes=passes,
        models=models,
        with_rivals=rivals,
        device=device,
        threads=threads,
        rounds=rounds,
        base=base or None,
        output=output,
        tell=say,
    )
    if as_json:
        print_json(dataclasses.asdict(measured))
    else:
        _print(measured)
    raise typer.Exit(_say_what_disagrees(measured))


def _say_what_disagrees(measured) -> bool:
    """Whether any form does."""
    wrong = [row for row in measured.rows if row.disagreement]
    for row in wrong:
        say(f"{row.attention}, {row.mode}, {row.contender}: {row.disagreement}")
    return bool(wrong)


def _print(measured) -> None:
    """A table of each kind of row that there is."""
    tables: list[tuple[Sequence[str], Iterable[Sequence[object]]]] = []
    heads: Sequence[str]
    if measured.rows:
        heads = ("attention", "case", "mode", "contender", "milliseconds", "speed-up", "of copying", "saved/x")
        tables.append(((*heads, "peak MB", "MFLOPs", "error", "of gradients"), map(_row, measured.rows)))
    if measured.models:
        heads = ("model", "attention", "mode", "batch", "contender", "milliseconds", "added %", "resolution")
        tables.append((heads, map(_model_row, measured.models)))
    if measured.base:
        heads = ("attention", "case", "mode", "contender", "base ms", "ms", "speed-up")
        tables.append((heads, map(_base_row, measured.base)))
    for index, (heads, body) in enumerate(tables):
        print(end="\n" if index else "")
        print_table(heads, body)


def _row(row) -> tuple[str, ...]:
    case = f"{row.batch}x{'x'.join(map(str, row.shape))} {row.dtype} {row.layout}"
    start = (row.attention, case, row.mode, row.contender + "*" * row.picked)
    if row.milliseconds is None:
        reason = f"not run: {row.why_not}" if row.why_not else "not timed"
        return *start, reason, *[""] * 5, *_errors(row)
    return (
        *start,
        _spread(row.milliseconds, 3),
        _ratio(row),
        f"{100 * row.copy_share[1]:.0f}%",
        "" if row.saved_bytes is None else f"{row.saved_bytes / row.input_bytes:.2f}",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}",
        "" if row.flops is None else f"{row.flops / 1e6:.1f}",
        *_errors(row),
    )


def _errors(row) -> tuple[str, ...]:
    return tuple("" if error is None else f"{error:.0e}" for error in (row.error, row.gradient_error))


def _model_row(row) -> tuple[object, ...]:
    start = (row.model, row.attention, row.mode, row.batch, row.contender)
    if row.milliseconds is None:
        return *start, f"not run: {row.why_not}", "", ""
    return *start, _spread(row.milliseconds, 1), _spread(row.added, 1), f"{row.resolution:.1f} points"


def _base_row(row) -> tuple[str, ...]:
    times = ("not timed" if ms is None else _spread(ms, 3) for ms in (row.base_milliseconds, row.milliseconds))
    return row.attention, row.case, row.mode, row.contender, *times, _ratio(row)


def _ratio(row) -> str:
    if row.speedup:
        return _spread(row.speedup, 2)
    return "" if row.spread is None else "noise"


def _spread(quartiles: Sequence[float], digits: int) -> str:
    low, median, high = (f"{value:.{digits}f}" for value in quartiles)
    return f"{median} ({low} to {high})"
