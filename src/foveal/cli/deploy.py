"""The commands about what comes in from elsewhere and what goes out: `foveal convert`, `sources` and `export`."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .printing import Json, Trust, load_host, only_talk, print_json, print_table, say, writes_all_letters

if TYPE_CHECKING:
    from ..deploy import Exported, Quantization


def convert(
    model: Annotated[str, typer.Argument(help="A checkpoint trained with a pasted attention.")],
    output: Annotated[str, typer.Option("-o", "--output", help="[default: as in OLD-foveal.pt]")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    said: Annotated[
        list[str] | None,
        typer.Option(
            "--as", metavar="ROW=SPEC", help="What a row or a class is, as in 10=simam or MyGate=cbam(first=max)."
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the old code, which must be importable, and compare outputs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """A checkpoint trained with a pasted attention, as one of foveal.

    The pasted code need not be there, and is not run if it is, unless --trust says so: the file is read without
    executing anything it names. Compared is then what the file stores, and no file stores whether its code adds the
    input to the output.
    """
    load_host()
    from ..convert import convert as call

    done = call(model, output=output or None, force=force, trust=trust, said=_told(said or []))
    if as_json:
        return print_json(dataclasses.asdict(done))
    print_table(("row", "was", "is"), [(each.row, each.was, each.spec) for each in done.attentions])
    kept, total = done.tensors
    print()
    print(f"tensors kept  {kept}/{total}, with equal values (from the checkpoint's {done.weights!r})")
    for name in done.shifted:
        print(f"shifted       {name}: takes up what the old layer has and ours has not, so that outputs stay")
    if done.added:
        print(
            f"added         {len(done.added)} tensors that change nothing, for biases and norms that the copy has not"
        )
    if done.apart is not None:
        print(f"outputs       of the old code and of ours are {done.apart:.1g} of the largest apart")
    print(f"written       {done.output}")
    if done.untested:
        say(
            f"Only stored values were compared, not outputs: {done.untested}. No file tells whether its code adds the "
            "input to the output (out + x), which this model does not."
        )
    for each in done.attentions:
        for assumed in each.assumed:
            say(
                f"Warning: row {each.row} was taken for {each.spec}, which the file alone cannot tell: {assumed}. "
                "Say what it is with --as, or have outputs compared with --trust."
            )


def _told(said: list[str]) -> dict[str, str]:
    """`10=simam` as a key and a value."""
    pairs = [text.partition("=") for text in said]
    if wrong := next((text for text, (key, _, value) in zip(said, pairs, strict=True) if not (key and value)), None):
        raise UserError(f"cannot read --as {wrong!r}", "write for example --as 10=simam")
    return {key.strip(): value for key, _, value in pairs}


def sources(
    model: Annotated[str, typer.Argument(help="A .pt file.")],
    output: Annotated[str, typer.Option("-o", "--output", help="The folder to write them into, instead.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite files.")] = False,
) -> None:
    """The code of your own attentions that a checkpoint carries.

    It is as it was when the model was saved; it is printed, or written into a folder, and not run. What that code
    imports from other files is not carried.
    """
    from ..checkpoints import read
    from ..files import require_free, write_text

    carried = {Path(each["file"]).name: each for each in read(Path(model), tensors=False).sources if each["text"]}
    if not carried:
        raise UserError(f"{model} carries no attention of your own", "foveal add MODEL.pt my_attention.py:MyAttention")
    folder = Path(output)
    for name in carried if output else ():
        require_free(folder / name, force)
    if not output and not writes_all_letters() and not all(each["text"].isascii() for each in carried.values()):
        raise UserError(f"the code has letters that are not in {sys.stdout.encoding}", "give a folder with -o")
    for name, each in carried.items():
        if output:
            write_text(folder / name, each["text"])
            say(f"written  {folder / name}, for {each['address']}")
        else:
            say(f"{name}, for {each['address']}:")
            print(each["text"], end="")


def export(
    model: Annotated[str, typer.Argument(help="A .pt file, or a model YAML or its name.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE|FLAG]...", help="As for yolo export: format=onnx dynamic.")
    ] = None,
    keep_float: Annotated[
        bool,
        typer.Option("--keep-float", help="Of INT8, write the file that keeps float where the attention needs it."),
    ] = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Ultralytics' exporter, then the file is run and compared with PyTorch.

    foveal export yolo11n-ema.pt format=onnx dynamic imgsz=640

    With dynamic at three sizes, on one image and on four. Boxes are in pixels. A file that differs from PyTorch by
    more than rounding, and by more than the same model without attention does in that format, does not get its name:
    the exit code is then 1. What was found is written beside it, as yolo11n-ema.onnx.parity.json.

    foveal export yolo11n-ema.pt format=openvino int8 data=my.yaml

    INT8 is also judged on test of the data if it has labels, else on val: what quantization costs, what of that the
    attention costs, each with an interval over the images, and which of its layers need float.
    """
    load_host()
    from ..deploy import export as call
    from ..hosts.ultralytics import key_values

    with only_talk():
        found = call(model, trust=trust, keep_float=keep_float, **key_values(arguments or []))
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        _print_cases(found)
        if found.quantization:
            _print_quantization(found.quantization, keep_float)
        if found.unjudged:
            print(f"\nNot known what INT8 costs: {found.unjudged}.")
        print(f"\n{found.wrong or 'the file computes what the model computes'}")
    if found.wrong:
        raise typer.Exit(1)
    if any(case.raw for case in found.cases):
        say("No box was found, so what was compared is the model without nms; data=my.yaml compares boxes, too.")
    say(f"written  {found.output}")


def _print_cases(found: "Exported") -> None:
    from ..tensors import sides

    heads = ("size", "batch", "boxes (rms)", "confidences (rms)", "rest (rms)", "boxes found", "unmatched", "")
    rows = [
        (
            f"{sides(case.size)}{_rounded(case.exact)}{', without nms' * case.raw}",
            case.batch,
            *_numbers(case.differences),
            case.wrong or ("no box" if case.differences and case.differences.empty else "agrees"),
        )
        for case in found.cases
    ]
    if found.effect:
        rows.append(("what attentions change", "", *_numbers(found.effect), "for comparison"))
    for exact, apart in found.plain.items():
        rows.append((f"without attention{_rounded(exact)}", "", *_numbers(apart), "for comparison"))
    if rows:
        print_table(heads, rows)


def _print_quantization(found: "Quantization", kept_float: bool) -> None:
    from ..deploy import points
    from ..judging import bounded

    rows = [("float", bounded(found.in_float, ".4f"), ""), ("INT8", bounded(found.int8, ".4f"), points(found.cost))]
    if found.kept:
        rows.append(("INT8, attention in float", bounded(found.kept, ".4f"), points(found.rest)))
    rows += [
        (f"INT8, {' and '.join(one.kept)} in float", bounded(one.average, ".4f"), points(one.cost))
        for one in found.tried
    ]
    print()
    print_table(("file", found.metric, "costs, points"), rows)
    print()
    for sentence in found.sentences:
        print(sentence)
    if found.needs_float and not kept_float:
        print("--keep-float writes that file.")


def _rounded(exact: bool) -> str:
    return "" if exact else ", rounding"


def _numbers(apart) -> list[str]:
    if apart is None:
        return [""] * 5
    pairs = [f"{d.largest:.1e} ({d.rms:.1e})" if d else "" for d in (apart.boxes, apart.scores, apart.rest)]
    return [*pairs, *("" if count is None else str(count) for count in (apart.kept, apart.unmatched))]
