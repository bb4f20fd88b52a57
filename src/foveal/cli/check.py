"""The command `foveal check`."""

import dataclasses
from typing import Annotated

import typer

from .printing import Json, print_json, print_table


def check(
    attention: Annotated[str, typer.Argument(help='my_attention.py:MyAttention, "timm:eca", or one of foveal list.')],
    as_json: Json = False,
) -> None:
    """Does an attention keep the contract of foveal's own? Takes half a minute.

    It is built, and tried alone: shapes, types, batches, gradients, determinism, copies, mixed precision, a trace and
    an ONNX file at a second size, and what it costs beside foveal's. Its file is run for that. The exit code is 1 if a
    rule fails.
    """
    from ..contract import check as call

    examined = call(attention)
    if as_json:
        print_json({**dataclasses.asdict(examined), "keeps": examined.keeps})
    else:
        print_table(("", "rule", "what was found"), [(f.state, f.rule, f.said) for f in examined.findings])
        print()
        for sentence in examined.takes:
            print(f"{examined.spec} {sentence}" if sentence.startswith("takes") else sentence)
        for finding in examined.findings:
            if finding.matters or finding.hint:
                print(f"{finding.rule}: " + ". ".join(part for part in (finding.matters, finding.hint) if part))
        print(f"\n{examined.spec} {'keeps the contract' if examined.keeps else 'breaks the contract'}")
    if not examined.keeps:
        raise typer.Exit(1)
