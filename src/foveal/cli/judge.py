"""The command `foveal judge`."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .printing import Json, Trust, load_host, only_talk, print_json, print_table, say

if TYPE_CHECKING:
    from ..judging import Bin, Judgement, PartOfMetric


def judge(
    models: Annotated[list[str], typer.Argument(help="best.pt, best.onnx, best_openvino_model ...")],
    data: Annotated[str, typer.Option(help="Data file, a folder for classification.")],
    split: Annotated[str, typer.Option(help="train, val or test. [default: test if it has labels, else val]")] = "",
    reference: Annotated[str, typer.Option(help="The model that others are compared with. [default: the first]")] = "",
    metric: Annotated[str, typer.Option(help="Of segment and pose: mask, keypoints or box. [default: not box]")] = "",
    imgsz: Annotated[int | None, typer.Option(help="Side in pixels. [default: as trained or exported]")] = None,
    batch: Annotated[int, typer.Option(help="Of the evaluations.")] = 16,
    device: Annotated[str, typer.Option(help="As Ultralytics takes it.")] = "cpu",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File for the JSON, beside the tables.")] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Models that exist, on one split: what is their mAP worth, and do they differ?

    An interval over images for each average and each difference, by class and by size, whether confidences mean what
    they say, the surest false positives and the objects that most models miss. The seed is not in it: for that there is
    foveal study.
    """
    load_host()
    from ..files import require_free, write_text
    from ..judging import judge as call

    if output:
        require_free(output, force=True)
    with only_talk():
        found = call(
            models,
            data=data,
            split=split or None,
            reference=reference or None,
            metric=metric or None,
            imgsz=imgsz,
            batch=batch,
            device=device,
            trust=trust,
        )
    written = dataclasses.asdict(found)
    if output:
        write_text(output, json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    if as_json:
        print_json(written)
    else:
        _print(found)
    if output:
        say(f"written  {output}")


def _print(found: "Judgement") -> None:
    from ..judging import letters

    named = dict(zip((model.model for model in found.models), letters(len(found.models)), strict=True))
    _print_models(found, named)
    for title, parts in (("size", found.sizes), ("class", found.classes)):
        if parts:
            print()
            print_table((title, "objects", *named.values()), map(_part, parts))
    if found.models[1:]:
        print(f"\n* differs from {named[found.reference]} by more than the choice of images makes, not adjusted for so")
        print("  many rows")
    _print_claims(found, named)
    print()
    for sentence in found.sentences:
        print(sentence)


def _print_claims(found: "Judgement", named: dict[str, str]) -> None:
    bins = zip(*(model.calibration.bins for model in found.models), strict=True)
    right = [(f"{of[0].low:.1f} to {of[0].high:.1f}", *map(_right, of)) for of in bins if any(one.count for one in of)]
    wrong = [
        (named[model.model], one.image, _said(one.label, one.true), f"{one.confidence:.2f}", _corners(one.box))
        for model in found.models
        for one in model.wrong
    ]
    missed = [
        (
            *(",".join(named[name] for name in one.missed_by), one.image, one.label),
            f"{one.confidence:.2f}",
            _corners(one.box),
        )
        for one in found.missed
    ]
    for heads, rows in (
        (("confidence", *(f"right in {letter}" for letter in named.values())), right),
        (("wrong in", "image", "said", "confidence", "box"), wrong),
        (("missed by", "image", "class", "confidence", "box"), missed),
    ):
        if rows:  # a map of pixels claims nothing of objects
            print()
            print_table(heads, rows)


def _print_models(found: "Judgement", named: dict[str, str]) -> None:
    from ..judging import bounded

    rows = []
    for model in found.models:
        difference, error = model.difference, model.calibration.error
        p = "" if difference is None or difference.p is None else f"{difference.p:.3g}"
        averages = [bounded(each, ".4f") for each in (model.average, model.second, *model.beside)]
        less = bounded(difference, "+.4f") if difference else ""
        told = (*averages, less, p, "" if error is None else f"{error:.3f}")
        rows.append((named[model.model], model.model, model.form, model.size, *told))
    heads = (found.metric, found.second, *found.beside, f"less {named[found.reference]}", "p", "calibration error")
    print_table(("", "model", "form", "size", *heads), rows)


def _part(part: "PartOfMetric") -> tuple[str, ...]:
    """The row of a class or size."""
    from ..judging import bounded

    marks = [" *" * bool(difference and difference.excludes_zero) for difference in part.differences]
    averages = [f"{bounded(each, '.3f')}{mark}" for each, mark in zip(part.averages, marks, strict=True)]
    return (part.name, str(part.objects), *averages)


def _right(one: "Bin") -> str:
    return f"{one.right:.2f} of {one.count}" if one.right is not None else ""


def _said(label: str, true: str | None) -> str:
    return label if true is None else f"{label}, is {true}"


def _corners(box: tuple[float, ...] | None) -> str:
    return "" if box is None else " ".join(f"{side:.0f}" for side in box)
