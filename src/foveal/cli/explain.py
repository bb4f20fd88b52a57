"""The command `foveal explain`."""

from pathlib import Path
from typing import Annotated

import typer

from .printing import Trust, load_host, print_json, print_table, say


def explain(
    model: Annotated[str, typer.Argument(help="A .pt file with attentions.")],
    images: Annotated[
        list[str] | None, typer.Argument(help="Images, and folders of them. [default: the first 8 of the split]")
    ] = None,
    data: Annotated[
        str, typer.Option(help="Data file (a folder for classification) to evaluate on with frozen gates.")
    ] = "",
    split: Annotated[str, typer.Option(help="Of the data: train, val or test.")] = "val",
    imgsz: Annotated[int | None, typer.Option(help="Side in pixels. [default: as trained]")] = None,
    batch: Annotated[int, typer.Option(help="Of the evaluation.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")] = Path("explained"),
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """What a model's attentions do: their gates, drawn and measured.

    Writes a folder with index.html, which is one page on its own, manifest.json with all numbers, and the pictures:
    each attention's gates on an absolute scale, trained minus initial, inside and outside labelled boxes, and
    activation maps before and after the attention. With --data the model is evaluated again with each gate frozen to
    its mean, which says how much the map itself carries.
    """
    load_host()
    from ..explain import explain as call

    explained = call(
        model,
        images or (),
        output=output,
        data=data or None,
        split=split,
        imgsz=imgsz,
        batch=batch,
        device=device,
        tell=say,
        trust=trust,
    )
    if as_json:
        return print_json(explained.manifest)
    manifest = explained.manifest
    rows = [(each, gate) for each in manifest["attentions"] for gate in each["gates"]]
    heads = ("row", "attention", "gate", "mean", "deviation", "initial", "inside", "outside", "features changed by")
    keys = ("mean", "deviation", "initial", "inside", "outside")
    print_table(
        heads,
        [
            (each["id"], each["spec"], gate["name"], *(_number(gate[key]) for key in keys), _change(each))
            for each, gate in rows
        ],
    )
    if found := manifest["ablation"]:
        print()
        frozen = [*found["rows"], {"attention": "all", **found["all"]}]
        scores = [(row["attention"], *(f"{100 * row[key]:.2f}" for key in ("frozen", "removed"))) for row in frozen]
        trained = f"{100 * found['trained']:.2f}"
        print_table((f"row ({found['metric']} is {trained})", "gate frozen", "attention removed"), scores)
    print(f"\nwritten       {explained.folder}/index.html")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _change(attention: dict) -> str:
    change = attention["effect"]["change"]
    return "" if change is None else f"{100 * change:.2g} %"
