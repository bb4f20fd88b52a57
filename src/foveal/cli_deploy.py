"""The commands about what comes in from elsewhere and what goes out: `foveal convert` and `foveal export`."""

import dataclasses
from typing import Annotated

import typer

from .printing import load_host, only_talk, print_json, print_table, say

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def convert(
    model: Annotated[str, typer.Argument(help="A checkpoint trained with a pasted attention.")],
    output: Annotated[str, typer.Option("-o", "--output", help="[default: as in OLD-foveal.pt]")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: _Json = False,
) -> None:
    """A checkpoint trained with a pasted attention, as one of foveal.

    The pasted code need not be there, and is not run if it is. The file is read without executing anything it names.
    """
    load_host()
    from .convert import convert as call

    done = call(model, output=output or None, force=force)
    if as_json:
        return print_json(dataclasses.asdict(done))
    print_table(("row", "was", "is"), [(each.row, each.was, each.spec) for each in done.attentions])
    kept, total = done.tensors
    print()
    print(f"tensors kept  {kept}/{total}, with equal values (from the checkpoint's {done.weights!r})")
    for name in done.shifted:
        print(f"shifted       {name}: takes up the eps that the host set, so that outputs stay")
    print(f"written       {done.output}")
    say("The old code was not run: what was compared is all that the two models store, not outputs.")


def export(
    model: Annotated[str, typer.Argument(help="A .pt file, or a model YAML or its name.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As for yolo export: format=onnx dynamic=True.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Ultralytics' exporter, then the file is run and compared with PyTorch.

    foveal export yolo11n-ema.pt format=onnx dynamic=True imgsz=640

    With dynamic=True at three sizes, on one image and on four. Boxes are in pixels. A file that differs from PyTorch by
    more than rounding, and by more than the same model without attention does in that format, does not get its name:
    the exit code is then 1. What was found is written beside it, as yolo11n-ema.onnx.parity.json.
    """
    load_host()
    from .deploy import by
    from .deploy import export as call
    from .yolo import key_values

    with only_talk():
        found = call(model, **key_values(arguments or []))
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        heads = ("size", "batch", "boxes (rms)", "confidences (rms)", "rest (rms)", "boxes found", "unmatched", "")
        rows = [
            (f"{by(case.size)}{_rounded(case.exact)}", case.batch, *_numbers(case.apart), case.wrong or "agrees")
            for case in found.cases
        ]
        if found.effect:
            rows.append(("what attentions change", "", *_numbers(found.effect), "for comparison"))
        for exact, apart in found.plain.items():
            rows.append((f"without attention{_rounded(exact)}", "", *_numbers(apart), "for comparison"))
        if rows:
            print_table(heads, rows)
        print(f"\n{found.wrong or 'the file computes what the model computes'}")
    if found.wrong:
        raise typer.Exit(1)
    say(f"written  {found.output}")


def _rounded(exact: bool) -> str:
    return "" if exact else ", rounding"


def _numbers(apart) -> list[str]:
    if apart is None:
        return [""] * 5
    pairs = [f"{d.largest:.1e} ({d.rms:.1e})" if d else "" for d in (apart.boxes, apart.scores, apart.rest)]
    return [*pairs, *("" if count is None else str(count) for count in (apart.kept, apart.unmatched))]
