"""Checkpoints made with pasted code in, checkpoints of foveal out; the pasted code is neither needed nor run unasked.

`unpickling` reads the file without building anything, `recognition` finds the attentions in what it read, and
`choosing` settles what is not certain. Here the host builds the model anew from its own rows, with foveal's attention
in place of the pasted one, and every tensor must find its place: names, shapes and the settings of all layers are
compared. That is as much as a file tells. Where a user allows the old code to be run, `oldcode` compares outputs, too.

Rows are a program as well: the host calls whatever a row names, and evaluates the text of `activation`. Here rows may
name layers only, and that text must be a layer with plain arguments.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints import UNREADABLE_PICKLE, Contents, Node, foreign, read
from ..errors import UserError, one_line
from ..files import require_free, write_whole
from ..hosts import ultralytics as host
from ..surgery import model_yaml
from . import oldcode
from .choosing import Chooser, described
from .recognition import Pasted, Said, candidates, without_doubt
from .transplant import (
    OURS,
    Part,
    build,
    carry_over,
    is_known,
    plain_data,
    require_layer,
    require_same,
    require_same_outputs,
)

_KINDS = (
    *("DetectionModel", "SegmentationModel", "PoseModel", "OBBModel", "ClassificationModel"),
    "RTDETRDetectionModel",
)
_SEQUENTIAL = "torch.nn.modules.container.Sequential"


@dataclass(frozen=True)
class Replaced:
    """One pasted attention.

    Attributes:
        row: its number.
        was: the class it was pickled as.
        spec: what it is in foveal's terms.
        assumed: what the file cannot tell about it and was taken for granted; nothing where outputs were compared.
    """

    row: int
    was: str
    spec: str
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """What `convert` did.

    Attributes:
        source: the file that was read.
        output: the file that was written.
        attentions: what was replaced.
        tensors: how many tensors of the old model are in the new one, and how many the old one has: all, or nothing is
            written. Each has the old one's values.
        shifted: statistics of batch norms that took up the difference between the host's eps and the paper's, or a
            bias in front of the norm.
        added: tensors that the copies have not, with values that change nothing.
        weights: "ema", the host's weight average, or "model" where the file has none.
        apart: the largest relative difference between outputs of the old code and ours; None where it was not run.
        untested: why it was not run, or not all of it; "" where it was.
    """

    source: str
    output: str
    attentions: tuple[Replaced, ...]
    tensors: tuple[int, int]
    shifted: tuple[str, ...]
    added: tuple[str, ...]
    weights: str
    apart: float | None
    untested: str


def convert(
    source: str | os.PathLike,
    *,
    output: str | os.PathLike | None = None,
    force: bool = False,
    trust: bool = False,
    said: Mapping[str, str] | None = None,
) -> Converted:
    """Write a foveal checkpoint with the weights and outputs of one that was trained with pasted attentions.

    Args:
        source: a .pt file of Ultralytics, from code that need not be there any more and is not run if it is.
        output: by default in the current directory, named after `source`, as in best-foveal.pt.
        force: overwrite `output`.
        trust: run the old code, if its modules can be imported, and refuse where its outputs are not ours.
        said: what a row or a class is, where the file cannot tell: {"10": "simam"}, {"Attn": "cbam(first=max)"}.

    Raises:
        UserError: a file that is damaged, that names what no checkpoint needs, that has no pasted attention or one that
            foveal cannot take over exactly; nothing is written then.
    """
    source = Path(source)
    target = _target(source, output, force)
    told = {str(key): Said.parse(text) for key, text in (said or {}).items()}
    contents = read(source)
    with _refusing(source):
        which, model = _model(contents, source)
        old, untested = _old(source, which, trust)
        chooser = Chooser(told, old, is_known, untested)
        parts, cfg = _plan(model, source, chooser)
        _require_known(contents, parts)
        built = build(model, cfg)
        tensors, shifted, added = carry_over(parts, built, model)
        like = {key: plain_data(contents.saved[key]) for key in host.SAID if key in contents.saved}
        saved = host.checkpoint(built, like)

    def check(part: Path) -> None:
        read_back = torch.load(part, map_location="cpu", weights_only=False)["model"]
        require_same(target, built, read_back)
        if old is not None:
            require_same_outputs(chooser, read_back, cfg, rounded=bool(shifted or added))

    write_whole(target, lambda path: torch.save(saved, path), check)
    return Converted(
        source=str(source),
        output=str(target),
        attentions=tuple(_replaced(part.before, part.pasted) for part in parts if part.pasted),
        tensors=tensors,
        shifted=shifted,
        added=added,
        weights=which,
        apart=None if old is None else chooser.apart,
        untested=chooser.untested,
    )


@contextlib.contextmanager
def _refusing(source: Path) -> Iterator[None]:
    """Say of a checkpoint that it cannot be rebuilt, whatever is wrong with what it holds."""
    try:
        yield
    except UserError:
        raise
    except UNREADABLE_PICKLE as error:
        raise UserError(
            f"{str(source)!r} cannot be rebuilt ({one_line(error, named=True)})",
            "give a checkpoint that Ultralytics wrote, such as best.pt",
        ) from None


def _replaced(before: str, pasted: Pasted) -> Replaced:
    return Replaced(int(before.split(".")[1]), pasted.path, str(pasted.spec), pasted.assumed)


def _target(source: Path, output: str | os.PathLike | None, force: bool) -> Path:
    target = Path(output) if output else Path(f"{source.stem}-foveal.pt")
    if target.suffix != ".pt":
        raise UserError(f"{target} is no name for a checkpoint", f"write to {target.with_suffix('.pt')}")
    require_free(target, force)
    return target


# Reading ---------------------------------------------------------------------------------------------------------


def _model(contents: Contents, source: Path) -> tuple[str, Node]:
    """The model that the host would take, and where it stood; nothing but modules may have unknown names."""
    for name in sorted(contents.names - contents.modules):
        if not is_known(name):
            raise _unwanted(name)
    saved = contents.saved
    for which in ("ema", "model"):
        model = saved.get(which) if isinstance(saved, dict) else None
        if isinstance(model, Node) and model.is_module:
            kinds = [f"ultralytics.nn.tasks.{kind}" for kind in _KINDS]
            if model.path not in kinds:
                raise UserError(
                    f"the model in {str(source)!r} is a {model.path}, not one of {', '.join(_KINDS)}",
                    "give a checkpoint that Ultralytics' own trainer wrote",
                )
            return which, model
    raise UserError(
        f"{str(source)!r} holds no model but a {saved.path if isinstance(saved, Node) else type(saved).__name__}",
        "give a checkpoint such as best.pt; tensors alone do not say which rows they belong to",
    )


def _unwanted(name: str) -> UserError:
    return UserError(
        f"the file names {name}, which is no part of a model that foveal knows: nothing of it was executed",
        "convert only files from people you trust; a pasted attention must be a layer of the model",
    )


def _require_known(contents: Contents, parts: list[Part]) -> None:
    """All classes of modules are known, or belong to an attention that was recognised."""
    taken = {node.path for part in parts if part.pasted for _, node in part.node.walk()}
    for name in sorted(contents.modules - taken):
        if not is_known(name):
            raise _unwanted(name)


# Recognising -----------------------------------------------------------------------------------------------------


def _plan(model: Node, source: Path, chooser: Chooser) -> tuple[list[Part], dict]:
    """The layers' parts, and the model's rows with foveal's attentions in them."""
    cfg: Any = plain_data(model.state["yaml"])
    rows = model_yaml.rows(cfg)
    layers = model.children["model"].children
    if list(layers) != [str(index) for index in range(len(rows))]:
        raise ValueError(f"{len(layers)} layers, but {len(rows)} rows")
    parts = []
    for index, (layer, row) in enumerate(zip(layers.values(), rows, strict=True)):
        mine = _parts(index, layer, chooser)
        parts += mine
        specs = [part.pasted.spec for part in mine if part.pasted]
        if mine[0].pasted:
            row[2:] = specs[0].name, [specs[0].arguments] if specs[0].arguments else []
        else:
            row[2] += "".join(f"+{spec}" for spec in specs)
        require_layer(index, row[2], layer)
    chooser.require_used()
    host.parser.require_activation(cfg)
    if not any(part.pasted for part in parts):
        if elsewhere := foreign.diagnosed(model, source=source):
            raise elsewhere
        ours = any(node.path in OURS for _, node in model.walk())
        raise UserError(
            f"{str(source)!r} " + ("is a foveal checkpoint already" if ours else "has no pasted attention in it"),
            "use it as it is" if ours else "use it as it is, or put an attention in with foveal add",
        )
    return parts, cfg


def _parts(index: int, layer: Node, chooser: Chooser) -> list[Part]:
    """One layer, taken apart where pasted attentions stand in it.

    Raises:
        UserError: it is, or has within, a module that is neither the host's nor an attention in a place of its own.
    """
    name = f"model.{index}."
    if found := _chosen(index, name, layer, chooser):
        return [Part(layer, name, name, found)]
    if layer.path == _SEQUENTIAL and layer.children:
        children = list(layer.children.values())
        each = [_chosen(index, f"{name}{k}.", child, chooser) for k, child in enumerate(children)]
        there = [one for one in each if one]
        if len(there) == len(each) and all(one.spec == there[0].spec for one in there):  # a row with repeats
            return [
                Part(c, f"{name}{k}.", f"{name}{k}.", f) for k, (c, f) in enumerate(zip(children, there, strict=True))
            ]
        if len(each) > 1 and not each[0] and len(there) == len(each) - 1:  # put behind a layer by hand
            behind = zip(children[1:], there, strict=True)
            return [
                *(Part(part.node, part.before, name) for part in _whole(index, children[0], f"{name}0.")),
                *(Part(c, f"{name}{k + 1}.", f"{name}attention.{k}.", f) for k, (c, f) in enumerate(behind)),
            ]
    return _whole(index, layer, name)


def _whole(index: int, layer: Node, name: str) -> list[Part]:
    for path, node in layer.walk():
        for found in without_doubt(candidates(node)) if path and not _is_base(node) else ():
            raise UserError(
                f"row {index} is a {layer.path} with {found.spec.name} inside it ({path}, a {found.path}); where in it "
                "that acts stands in code that the file does not hold, and no row can say it",
                f"train a model with the attention behind that row: foveal add MODEL.pt {found.spec.name} --at {index}",
            )
    for path, node in layer.walk():
        if not is_known(node.path):
            raise UserError(
                f"row {index}{f' ({path})' if path else ''} is a {node.path}, which is none of foveal's attentions by "
                f"what it stores: {described(node)}",
                "foveal list names the attentions; a copy that differs from its paper cannot be taken over",
            )
    return [Part(layer, name, name)]


def _chosen(index: int, name: str, node: Node, chooser: Chooser) -> Pasted | None:
    return None if _is_base(node) else chooser.choose(index, name.rstrip("."), node)


def _is_base(node: Node) -> bool:
    """Whether a module is torch's or ours, and so nothing that was pasted."""
    return node.path in OURS or node.path.startswith("torch.")


def _old(source: Path, which: str, trust: bool) -> tuple[nn.Module | None, str]:
    """The old model where it may be run and can be, else why not."""
    if not trust:
        return None, "the old code was not run, which --trust allows"
    try:
        return oldcode.model(source, which), ""
    except oldcode.CannotRunError as error:
        return None, f"the old code is not there: {error}"
