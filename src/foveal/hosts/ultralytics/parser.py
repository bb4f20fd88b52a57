"""The host's model parser, with attentions: what importing foveal.yolo registers in Ultralytics.

`ultralytics.nn.tasks.parse_model` is wrapped by a function that takes the attentions out of the rows, lets the original
build the rest, and attaches them. A class that the host's namespace has under one of our names stays the host's, since
the user put it there: ours is then called `foveal.ema`.
"""

import contextlib
import copy
import difflib
import functools
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ...attention import ATTENTIONS, find, known
from ...errors import REFUSALS, UserError, one_line, shown
from ...kernels.ema import flops
from ...surgery import Spec, attachment, has_rows, inside, model_yaml
from ...tensors import count
from .installed import ultralytics

# isort: split
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER

Network = Any  # a model of the host: a module with `model` (its rows' layers), `yaml`, `names`, `stride`, ...
Mixed: Any = object  # base of what is mixed into the host's classes, and has all that they have

_ACTIVATION = re.compile(r"(torch\.)?nn\.(modules\.activation\.)?[A-Z]\w*\([\w=., -]*\)")


class Registered:
    """Named by every checkpoint with an attention, so that loading one imports `foveal.yolo`."""


Registered.__module__ = "foveal.yolo"
torch.serialization.add_safe_globals([Registered])


class _Widths(nn.Module):
    """A last row that receives the parser's own list of widths."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.widths = list(widths)


def register() -> None:
    """Wrap the host's parser and its loader of weights, once.

    Raises:
        UserError: this release has another parser.
    """
    original = getattr(tasks, "parse_model", None)
    if original is None or list(inspect.signature(original).parameters)[:2] != ["d", "ch"]:
        raise _parser_changed()
    from ultralytics.engine import model as engine  # which such a release may lack

    with contextlib.suppress(ImportError):  # older hosts count modules only
        from thop.profile import functional_hooks

        functional_hooks[torch.ops.foveal.ema.default] = lambda args, _, out: flops(args[0].shape, args[1].shape) // 2
    tasks.FovealWidths = _Widths
    tasks.parse_model = functools.wraps(original)(functools.partial(_parse_model, original))
    tasks.BaseModel.load = _refusing_other_classes(tasks.BaseModel.load)
    engine.guess_model_task = tasks.guess_model_task = _guessing_of_plain_heads(tasks.guess_model_task)


def _guessing_of_plain_heads(original: Callable) -> Callable:
    @functools.wraps(original)
    def guess_model_task(model):
        """The host's guess, which older ones make of the last row's whole text, so without the attentions in it."""
        if isinstance(model, dict):
            with contextlib.suppress(LookupError, TypeError, ValueError):  # no model: the host says so
                *others, (*source, _, arguments) = model["head"]
                model = {**model, "head": [*others, [*source, model_yaml.base_module(model["head"][-1]), arguments]]}
        return original(model)

    return guess_model_task


def counts_kernel() -> bool | None:
    """Whether the GFLOPs that the host prints count EMA's kernel; None where its thop counts modules only."""
    try:
        from thop.profile import functional_hooks
    except ImportError:
        return None
    return torch.ops.foveal.ema.default in functional_hooks


def split(cfg: Mapping) -> tuple[dict, dict[int, model_yaml.RowAttentions]]:
    """As `model_yaml.split`, where classes in the host's namespace keep their names."""
    return model_yaml.split(cfg, vars(tasks).keys())


# Building --------------------------------------------------------------------------------------------------------


def _parse_model(original: Callable, d: dict, ch: int, verbose: bool = True):
    """Build a model's rows with the host's parser, then attach the attentions that stand in them."""
    require_activation(d)
    cfg, placed = split(d)
    _require_known(model_yaml.rows(cfg), model_yaml.rows(d))
    if not placed:
        return _built(original, d, ch, verbose)
    cfg["head"].append([-1, 1, "FovealWidths", ["ch"]])
    with without_lines(_Widths.__name__):
        layers, save = _built(original, cfg, ch, verbose)
    *layers, last = layers
    if not isinstance(last, _Widths) or len(last.widths) != len(layers):
        raise _parser_changed()
    together = model_yaml.rows(d)
    for index, specs in _specs(placed, last.widths, d).items():
        read = [ch if source < 0 else last.widths[source] for source in model_yaml.sources(together[index], index)]
        try:
            layers[index] = _place(layers[index], specs, placed[index].own_row, read, last.widths[index], verbose)
        except UserError as error:
            raise UserError(f"row {index}, {shown(together[index])}: {error.message}", error.hint) from error
        if verbose and placed[index].published:
            said = f"{attachment.class_name(layers[index])}+{specs[0]}"
            LOGGER.info(f"{index:>3}  {placed[index].published} is built as {said}")
    return nn.Sequential(*layers), save


def require_activation(cfg: Mapping) -> None:
    """The text of `activation`, which the host evaluates, is a layer of torch's with plain arguments.

    Raises:
        UserError: it is something else.
    """
    text = cfg.get("activation")
    if text and not (isinstance(text, str) and _ACTIVATION.fullmatch(text)):
        raise UserError(
            f"the model's activation is {shown(text)}, which the host would execute", "write for example nn.SiLU()"
        )


def _require_known(together: list[list], written: list[list]) -> None:
    """Every row names a module that is there; the host would call whatever else a name stands for.

    Raises:
        UserError: the first that does not; the hint is the nearest thing that works.
    """
    for index, row in enumerate(together):
        name = row[2]
        home, _, last = name.rpartition(".")
        found = getattr(nn, last, None) if home == "nn" else getattr(tasks, name, None)
        if home == "torchvision.ops" or (isinstance(found, type) and issubclass(found, nn.Module)):
            continue
        raise UserError(
            f"row {index}, {shown(written[index])}, names {name!r}, which neither Ultralytics "
            f"{ultralytics.__version__} nor foveal knows",
            _near(name),
        )


def _near(name: str) -> str:
    block, _, attention = name.replace("-", "_").rpartition("_")
    if known(attention) and hasattr(tasks, block):
        short = find(attention).card.name
        return f"write {block}_{attention} for {short} inside a {block}, or {block}+{short} for {short} behind it"
    layers = [key for key, value in vars(tasks).items() if isinstance(value, type) and issubclass(value, nn.Module)]
    ours = {alias: cls.card.name for cls in ATTENTIONS.values() for alias in (cls.card.name, *cls.card.aliases)}
    by_folded = {key.casefold(): key for key in layers} | {key.casefold(): ours[key] for key in ours}
    near = difflib.get_close_matches(name.casefold().removesuffix("_module"), by_folded, n=1)
    if near:
        return f"did you mean {by_folded[near[0]]}?"
    return f"put the class into ultralytics.nn.tasks as {name}, or write one of those that foveal list names"


def _built(original: Callable, cfg: dict, ch: int, verbose: bool):
    """What the host's parser builds.

    Raises:
        UserError: a row whose layer cannot be built; it is named.
    """
    written = copy.deepcopy(model_yaml.rows(cfg))  # the host fills in arguments
    activation = tasks.Conv.default_act  # older hosts leave the activation of one model to those built after it
    try:
        return original(cfg, ch, verbose)
    except REFUSALS as error:
        index = _row_of(error)
        if index is None:
            raise
        row = written[index]
        said = f"row {index}, {shown(row)}, cannot be built: {one_line(error, named=True)}"
        raise UserError(said, _buildable(row)) from error
    finally:
        tasks.Conv.default_act = activation


def _buildable(row: list) -> str:
    """What to write instead of a row that cannot be built."""
    if "anchors" in row[3]:  # of YOLOv5's own repository
        return f"write {[each for each in row[3] if each != 'anchors']}: Ultralytics' heads have no anchors"
    if "DEFAULT" in row[3]:
        return (
            f"write {[None if each == 'DEFAULT' else each for each in row[3]]} for a layer without downloaded weights"
        )
    return "compare the row with one of Ultralytics' own YAMLs, such as yolo11.yaml"


def _row_of(error: BaseException) -> int | None:
    """The number of the row that the host's parser was at; None where it was at none."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "parse_model" and frame.f_globals is vars(tasks):
            found = frame.f_locals.get("i")
    return found


def silent() -> contextlib.AbstractContextManager:
    """Keep the host from logging anything."""
    return without_lines("")


@contextlib.contextmanager
def without_lines(word: str) -> Iterator[None]:
    """Keep the host from logging lines with a word in them, because it names what no user has seen."""

    def is_other(record) -> bool:
        return word not in record.getMessage()

    LOGGER.addFilter(is_other)
    try:
        yield
    finally:
        LOGGER.removeFilter(is_other)


def _specs(placed: Mapping[int, model_yaml.RowAttentions], widths: list[int], d: dict) -> dict[int, tuple]:
    """The attentions of each row, their arguments complete.

    Raises:
        UserError: rows whose numbers do not fit, all in one message.
    """
    found, wrong = {}, {}
    for index, at_row in placed.items():
        try:
            found[index] = at_row.read(widths[index], model_yaml.scaled(d))
        except UserError as error:
            wrong[index] = error
    if wrong:
        said = [f"row {index} ({placed[index].specs[0].name}) {error.message}" for index, error in wrong.items()]
        scale = f" at scale {d['scale']!r}" if d.get("scale") else ""
        raise UserError("; ".join(said) + scale, " and ".join(dict.fromkeys(error.hint for error in wrong.values())))
    return found


def _place(
    layer: Network, specs: tuple[Spec, ...], own_row: bool, read: list[int], width: int, verbose: bool
) -> nn.Module:
    """The row's layer with its attentions, carrying what the host keeps on every layer.

    Args:
        layer: that the host has built.
        specs: of its attentions.
        own_row: whether they stand for the layer.
        read: channels of the maps that the row reads.
        width: of the map that it returns.
        verbose: whether they are listed.
    """
    repeats = len(layer) if own_row and isinstance(layer, nn.Sequential) else 1
    sites = [site for spec in specs * repeats for site in _sites(layer, spec, read, width)]
    with torch.random.fork_rng(devices=[]):  # what the host draws later must be what it draws for the plain model
        attentions = [attachment.build(spec, width) for spec, _, width in sites]
    if own_row:
        placed = attentions[0] if repeats == 1 else nn.Sequential(*attentions)
        vars(placed).update(i=layer.i, f=layer.f, type=specs[0].row)
    else:
        placed = layer
        for (spec, part, _), attention in zip(sites, attentions, strict=True):
            if spec.replace:
                inside.replace(layer, part, attention)
            else:
                attachment.attach(layer.get_submodule(part), attention)
    vars(placed).update(foveal=Registered, np=count(placed))
    if verbose:  # lines under the host's table, in its columns
        for (spec, part, width), module in zip(sites, attentions, strict=True):
            said = f"{spec} ({part})" if part else str(spec)
            LOGGER.info(f"{layer.i:>3}{'attention':>20}{1:>3}{count(module):10.0f}  {spec.row:<45}[{width}] {said}")
    return placed


def _sites(layer: Network, spec: Spec, read: list[int], width: int) -> list[tuple[Spec, str, int]]:
    """Where an attention of a row goes: the part of the layer, "" for its output, and the channels of its map."""
    if not spec.places:
        return [(spec, "", width)]
    parts = inside.named(layer, spec.places)
    # The class names that an open vocabulary is told of, as numbers of a text encoder.
    told = [torch.zeros(1, 1, layer.attn.gl.in_features)] if isinstance(layer, tasks.C2fAttn) else []
    return [(spec, part, width) for part, width in zip(parts, inside.widths(layer, parts, read, *told), strict=True)]


def _parser_changed() -> UserError:
    return UserError(
        f"the model parser of Ultralytics {ultralytics.__version__} is not the one foveal knows",
        "install the release that foveal's constraints.txt names",
    )


# Weights -----------------------------------------------------------------------------------------------------------


def _refusing_other_classes(original: Callable) -> Callable:
    @functools.wraps(original)
    def load(self, weights, *args, **kwargs):
        """Load weights, unless a row means another class in them than in this model, or an attention is in no row."""
        source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        require_same_classes(source, self)
        require_in_rows(source, self)
        return original(self, weights, *args, **kwargs)

    return load


def require_same_classes(source: Network, model: Network) -> None:
    """Check that rows which two models share are the same attention in both, where they are ours in the second.

    Raises:
        UserError: such a row; weights loaded across would train another module in silence.
    """
    if _has_rows(source) and _has_rows(model):
        rows = [each.yaml["backbone"] + each.yaml["head"] for each in (source, model)]
        for index, (theirs, ours, there, here) in enumerate(zip(*rows, source.model, model.model, strict=False)):
            if theirs[2] == ours[2]:
                require_same_class(index, ours, there, here)


def require_same_class(index: int, row: list, there: nn.Module, here: nn.Module) -> None:
    """Check that a row which is an attention of ours in one model was one in another.

    Raises:
        UserError: it is a class of somebody else there.
    """
    if _is_attention(here) and not _is_attention(there):
        name = model_yaml.base_module(row)
        raise UserError(
            f"row {index}, {shown(row)}, is {described(there)} in the file, and its row builds foveal's {name}, which "
            "is another module",
            f"put that class into ultralytics.nn.tasks as {name}; foveal's is always called foveal.{name.lower()}",
        )


def require_in_rows(source: Network, model: Network | None = None) -> None:
    """Check that the attentions of a model stand in its rows, from which training builds it anew.

    Args:
        source: of whatever kind.
        model: one that was built anew, to be given the source's weights; none of other rows needs its attentions.

    Raises:
        UserError: some were attached in memory.
    """
    if not _has_rows(source) or (model is not None and not _same_rows(source, model)):
        return
    placed = {*split(source.yaml)[1], *(_attended(model) if model is not None else ())}
    found = [f"model.{index}" for index in _attended(source) if index not in placed]
    if found:
        raise UserError(
            f"attentions were attached to {', '.join(found)} in memory and stand in no row of the model: what is built "
            "from its rows, as for training, is without them",
            "foveal.add, or the command foveal add, writes them into the rows",
        )


def _attended(model: Network) -> list[int]:
    """The numbers of layers that are attentions or have some."""
    return [index for index, layer in enumerate(model.model) if any(map(attachment.is_attention, layer.modules()))]


def _same_rows(one: Network, other: Network) -> bool:
    if not _has_rows(other):
        return False
    mine, theirs = ([row[2] for row in model_yaml.rows(each.yaml)] for each in (one, other))
    return mine == theirs


def _is_attention(layer: nn.Module) -> bool:
    while isinstance(layer, nn.Sequential) and len(layer):
        layer = layer[0]
    return attachment.is_attention(layer)


def _has_rows(model: Network) -> bool:
    return has_rows(model) and "backbone" in model.yaml


def described(layer: nn.Module) -> str:
    """Module and name of a layer's class, without attentions."""
    cls = attachment.base(layer)
    return f"{cls.__module__}.{cls.__qualname__}"
