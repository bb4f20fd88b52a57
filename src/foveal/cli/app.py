"""The command `foveal`: each sub-command parses, makes one call and prints what came back.

Data goes to stdout and talk to stderr. Exit codes: 0 done, 1 the answer is no, 2 the user's mistake, 3 there is
no answer. Heavy imports stand inside the commands, so that `foveal --help` is instant.
"""

import dataclasses
import io
import os
import sys
from typing import Annotated, NoReturn

import typer

import foveal

from ..errors import UserError
from . import bench, cards, check, deploy, explain, judge, study, view
from .printing import Json, Trust, load_host, only_talk, print_json, print_table

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"foveal {foveal.__version__}")
        raise typer.Exit


@app.callback()
def _foveal(
    version: Annotated[
        bool, typer.Option("--version", help="Print which release this is.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Attention for YOLO that keeps your weights."""


app.command("list")(cards.list_attentions)
app.command()(cards.show)


@app.command()
def add(
    model: Annotated[str, typer.Argument(help="A .pt file, a model YAML or its name, timm:NAME or torchvision:NAME.")],
    spec: Annotated[
        str, typer.Argument(help='The attention: ema, "ema(groups=8)", ema@neck, my_attention.py:BiFormer, timm:eca.')
    ],
    at: Annotated[
        str,
        typer.Option(
            help="neck, P3, backbone, backbone.P4, sppf, psa, paper or row numbers; inside layers neck.bottleneck, "
            "psa.attention, head.box, head.cls, 16.m.*.cv2. [default: neck] Elsewhere than in YOLO: before_residual, "
            "after_depthwise, blocks, stages, paper or names of modules."
        ),
    ] = "",
    start: Annotated[str, typer.Option(help="identity or paper (the bare module). [default: identity]")] = "",
    output: Annotated[str, typer.Option("-o", "--output", help="[default: as in yolo11n-ema.pt]")] = "",
    own_row: Annotated[bool, typer.Option("--own-row", help="Rows of its own, as published YAMLs have it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Put an attention into a model and keep its weights.

    Prints the rows that changed, the tensors kept, parameters and FLOPs before and after, and how far the outputs of
    the two models are apart: by nothing, unless --start paper.
    """
    from ..hosts import zoo

    if zoo.is_name(model):
        return _add_to_zoo(model, spec, at, start, output, own_row, force, as_json)
    load_host()
    from ..hosts.ultralytics import add as call

    flags = {"own_row": own_row, "force": force, "trust": trust}
    added = call(model, spec, at=at, start=start or None, output=output or None, **flags)
    if as_json:
        return print_json(dataclasses.asdict(added))
    print_table(("row", "before", "after"), [(c.row, c.before or "(new)", c.after) for c in added.changes])
    kept, total = added.tensors
    (params, params_after), (flops, flops_after) = added.parameters, added.flops
    print()
    print(f"tensors kept  {kept}/{total}" + ("" if model.endswith(".pt") else " (fresh weights: the source is a YAML)"))
    print(f"parameters    {params:,} -> {params_after:,}")
    print(f"GFLOPs        {flops / 1e9:.3f} -> {flops_after / 1e9:.3f} at {added.image_size} x {added.image_size}")
    print(f"difference    {added.difference:g} between the outputs before and after, on a photograph")
    if added.width:
        print(f"class         {added.width}")
    if added.carried:
        print(f"carried       {', '.join(added.carried)}: this Ultralytics builds it otherwise when it trains")
    print(f"written       {added.output}")


def _add_to_zoo(
    model: str, spec: str, at: str, start: str, output: str, own_row: bool, force: bool, as_json: bool
) -> None:
    from ..hosts import zoo

    if own_row:
        raise UserError(f"{model} has no rows: --own-row is for YOLO's model files", "leave it out")
    grown = zoo.add(model, spec, at=at, start=start or None, output=output or None, force=force)
    if as_json:
        return print_json(dataclasses.asdict(grown))
    print_table(
        ("module", "class", "channels", "parameters"), [(r.name, r.layer, r.channels, r.parameters) for r in grown.rows]
    )
    before, after = grown.parameters
    print()
    print(f"attached      {grown.spec}")
    print(f"parameters    {before:,} -> {after:,}")
    print(f"difference    {grown.difference:g} between the outputs before and after, on noise")
    print(f"written       {grown.output}")


app.command()(bench.bench)
app.command()(check.check)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def yolo(context: typer.Context) -> None:
    """The stock yolo command (and tune), attentions known.

    foveal yolo train model=yolo11n-ema.pt data=my.yaml epochs=100
    """
    from ..hosts.ultralytics import command

    command(context.args)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is installed here, and does it work? Takes about ten seconds.

    Each line is ok, missing (not installed: what it would add) or broken. Nothing is downloaded. Exit code 1 if
    something is broken.
    """
    os.environ |= {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0"}  # read when the host is imported
    from .doctor import BROKEN, examine

    found, looking = [], examine()
    while True:
        with only_talk():
            finding = next(looking, None)
        if finding is None:
            break
        found.append(finding)
        if not as_json:
            print(f"{finding.state:<8} {finding.what:<14} {finding.said}", flush=True)
    broken = [finding.what for finding in found if finding.state == BROKEN]
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in found])
    else:
        print(f"\n{'broken: ' + ', '.join(broken) if broken else 'everything that is installed works'}")
    raise typer.Exit(bool(broken))


app.command()(deploy.convert)
app.command()(deploy.export)
app.command()(deploy.sources)
app.command()(explain.explain)
app.command()(judge.judge)
app.add_typer(study.app, name="study")
app.command()(study.audit)
app.command()(study.demo)
app.command()(view.view)


def main() -> None:
    """Entry point: a user's mistake becomes two lines and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal or a file has no letters for is written as numbers
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except UserError as error:
        _mistaken(error.message, error.hint)
    except OSError as error:  # a name that is too long, a folder that may not be read
        if error.filename is None:
            raise
        _mistaken(f"cannot use {str(error.filename)!r}: {error.strerror}", "check the path, and who may read it")


def _mistaken(message: str, hint: str) -> NoReturn:
    error, hint = (" ".join(text.splitlines()) for text in (message, hint))
    print(f"error: {error}\n\nhint: {hint}", file=sys.stderr)
    sys.exit(2)
