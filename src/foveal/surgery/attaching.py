"""`foveal.attach` and `foveal.detach`: attentions in any torch model, and out of it again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..errors import REFUSALS, UserError, one_line
from ..tensors import count
from . import attachment
from .places import has_rows, named
from .spec import Spec, read
from .tracing import Trace, trace

SIZE = 224  # of the image that a model is traced with, if none is given


@dataclass(frozen=True)
class Row:
    """One attention that was attached.

    Attributes:
        name: of the module whose output it reads, in the model.
        layer: class of that module.
        channels: of the map.
        attention: as text.
        parameters: of it, its start included.
    """

    name: str
    layer: str
    channels: int
    attention: str
    parameters: int

    def __str__(self) -> str:
        return f"{self.name} ({self.layer}, {self.channels}): {self.attention}, {self.parameters:,} parameters"


def attach(
    model: nn.Module,
    spec: str | Spec | type[nn.Module],
    *,
    at: str | int | Sequence[str | int] = (),
    example: Tensor | None = None,
) -> list[Row]:
    """Put an attention behind modules of a model, in place.

    No tensor of the model's state dict changes its name or value; each attention adds `NAME.attention.*`. It starts as
    the identity unless the spec says `start=paper`, so that outputs stay what they were. Copies, pickles, DDP,
    `torch.compile`, `torch.export` and `torch.fx` keep it. An Ultralytics trainer builds its model anew from a YAML:
    for that one use `foveal.add`.

    Args:
        model: in any mode, on any device.
        spec: the attention, e.g. "ema", "ema(groups=8)", "ema@layer*.*.bn3", "my_attention.py:BiFormer", or a class.
        at: globs over names of modules, or rules: see `foveal.surgery.places`. Several are separated by commas.
        example: an input to find widths with, such as (1, 3, 224, 224); by default zeros of that size, with the number
            of channels that the first convolution reads.

    Returns:
        What was attached, a row each, in the model's order.

    Raises:
        UserError: no module, or one that only holds a model; a place that means no module, or a module with no
            (B, C, H, W) output of one width, that is called more than once or never. The model is left as it was.
    """
    spec = read(spec, portable=False).given(at)
    if not spec.places:
        raise UserError(f"no place is given for {spec}", "at='before_residual', or a name such as layer4.2.bn3")
    if not isinstance(model, nn.Module):
        said = f"an object of the class {type(model).__name__} is no torch module"
        raise UserError(said, "load the model first; foveal.add takes the path of a file")
    if has_rows(getattr(model, "model", None)):  # of which Ultralytics' `YOLO` is the shell
        kind = type(model).__name__
        raise UserError(f"{kind} holds a network, and the places are the network's", f"give the {kind}'s own .model")
    traced = _traced(model, example)
    names = named(model, spec.places, traced, spec.name)
    if spec.replace:
        raise UserError(f"foveal.attach puts {spec.name} behind parts, and replaces none", "use foveal.add for that")
    return _attached(model, replace(spec.started("identity"), places=()), names, traced)


def detach(model: nn.Module) -> list[str]:
    """Take every attached attention out again; the model is then, bit for bit, what it was without them.

    Returns:
        Names of the modules that carried one.
    """
    names = [name for name, module in model.named_modules() if attachment.attended(module)]
    for name in names:
        attachment.detach(model.get_submodule(name))
    return names


def _traced(model: nn.Module, example: Tensor | None) -> Trace:
    if example is not None:
        return trace(model, example)
    zeros = example_input(model)
    try:
        return trace(model, zeros)
    except REFUSALS as error:
        raise UserError(
            f"{type(model).__name__} cannot run on zeros of the shape {tuple(zeros.shape)}: {one_line(error)}",
            "give an input that it takes, as in example=torch.zeros(1, 3, 384, 384)",
        ) from None


def example_input(model: nn.Module) -> Tensor:
    """Zeros of the shape that a model takes, as far as it tells.

    Raises:
        UserError: it has no convolution.
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise UserError(f"{type(model).__name__} has no convolution, and so no map", "choose another model")
    known = getattr(model, "pretrained_cfg", None) or {}  # of timm's models
    size = known.get("input_size") or (first.in_channels, SIZE, SIZE)
    return torch.zeros(1, first.in_channels, *size[1:], device=first.weight.device, dtype=first.weight.dtype)


def _attached(model: nn.Module, spec: Spec, names: Sequence[str], traced: Trace) -> list[Row]:
    """All of them, or none."""
    made, called = {}, {module: name for name, module in model.named_modules()}
    for name in names:
        layer = attachment.carrier(model.get_submodule(name))
        if (end := called[layer]) not in made:
            like = _map(end, layer, traced)
            with torch.random.fork_rng(devices=[]):  # what is drawn later must be what it is without attentions
                made[end] = layer, like, attachment.build(spec, like.shape[1])
    rows = []
    for name in [name for name, _ in model.named_modules() if name in made]:
        layer, like, attention = made[name]
        kind = attachment.class_name(layer)
        attachment.attach(layer, attention.to(like.device, like.dtype))
        rows.append(Row(name, kind, like.shape[1], str(spec), count(attention)))
    return rows


def _map(name: str, layer: nn.Module, traced: Trace) -> Tensor:
    """The one map that a module returns in a forward.

    Raises:
        UserError: it returns something else, or not once.
    """
    count, call, kind = traced.counts[name], traced.of(name), type(layer).__name__
    if count != 1:
        times = f"{count} times" if count else "never"
        raise UserError(f"{name} ({kind}) is called {times} in one forward", "choose a module that is called once")
    if call is None:
        raise UserError(f"{name} ({kind}) does not make one tensor of one tensor", "choose a module inside it")
    shape = tuple(call.returned.shape)
    norms = {m.normalized_shape for m in layer.modules() if type(m) is nn.LayerNorm}
    if len(shape) != 4 or ((shape[-1],) in norms and shape[1] != shape[-1]):
        raise UserError(
            f"{name} ({kind}) returns {shape}, and an attention reads (B, C, H, W)",
            "choose a module that returns a map with channels first; a model of tokens has none",
        )
    return call.returned
