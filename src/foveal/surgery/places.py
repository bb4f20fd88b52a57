"""Places in any torch model, by name: which of its modules they mean.

A place is a glob over the names of modules, part by part (`layer*.*.bn3`; `**` stands for any number of parts), or one
of these rules, read off one traced forward:

    before_residual    the end of each branch that is added to its block's input, before the sum
    after_depthwise    behind each depthwise convolution and its norm and activation, where SE sits in a MobileNet
    blocks             the output of each residual block (of torchvision, timm)
    stages             that of the last block of each size
    paper              where EMA's authors put it: before_residual in a ResNet; in a MobileNet or EfficientNet
                       after_depthwise where there are more than 144 channels

In Ultralytics' models, rows and their names (`neck`, `backbone.P4`, `16`) as `foveal add` takes them, and places inside
them (`neck.bottleneck`, `16.m.*.cv2`), see `inside`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn

from ..attention import find
from ..errors import UserError
from . import attachment, inside, model_yaml
from .tracing import Call, Trace

_BLOCKS = {"BasicBlock", "Bottleneck", "CNBlock", "ConvNeXtBlock", "DepthwiseSeparableConv", "EdgeResidual"}
_BLOCKS |= {"FusedMBConv", "InvertedResidual", "MBConv", "UniversalInvertedResidual"}
_MOBILE = ("EfficientNet", "MobileNetV2", "MobileNetV3")
_WIDE = 144  # channels; EMA's authors leave narrower layers of a MobileNet alone


def named(model: nn.Module, wanted: Sequence[str], traced: Trace, attention: str) -> list[str]:
    """Names of the modules that places mean, in the model's order.

    Args:
        model: that was traced.
        wanted: places.
        traced: one forward of it.
        attention: short name; its card says what `paper` is in Ultralytics' models.

    Raises:
        UserError: a place that means no module.
    """
    rows = _rows(model, traced)
    found = set()
    for place in wanted:
        if rows is not None and model_yaml.is_place(place, rows):
            paper, layers = find(attention).card.paper_place, [*model.get_submodule("model").children()]
            for index, within in model_yaml.resolve([place], rows, paper, len(layers)):
                parts = inside.named(layers[index], within) if within else [""]
                found |= {f"model.{index}.{part}".rstrip(".") for part in parts}
        elif place in _RULES:
            found |= {owner for name in _RULES[place](model, traced) if (owner := inside.owner(model, name))}
        else:
            found |= _matching(model, place, [*(rows or ())])
    return [name for name, _ in model.named_modules() if name in found]


def has_rows(model: object) -> bool:
    """Whether a model is one of Ultralytics', built from rows."""
    return isinstance(getattr(model, "yaml", None), dict) and isinstance(getattr(model, "model", None), nn.Sequential)


def _rows(model: nn.Module, traced: Trace) -> Mapping[str, tuple[int, ...]] | None:
    """The places of an Ultralytics model by row, None for any other."""
    if not has_rows(model):
        return None
    cfg, layers = cast(dict[str, Any], model.yaml), cast(nn.Sequential, model.model)
    size = next((call.read.shape[2] for call in traced.calls if call.name == "model.0"), 0)
    heights = {call.name: call.returned.shape[2] for call in traced.calls if call.returned.dim() == 4}
    rows = [heights.get(f"model.{index}") for index in range(len(layers))]
    return model_yaml.places(cfg, [size / height if height else None for height in rows])


def _matching(model: nn.Module, pattern: str, rows: Sequence[str]) -> set[str]:
    names = [name for name, _ in model.named_modules() if name and inside.owner(model, name) == name]
    found = {name for name in names if inside.fits(name.split("."), pattern.split("."))}
    if not names:
        kind = type(model).__name__
        raise UserError(
            f"{kind} has no modules of its own, so none is called {pattern!r}", f"at='0' in nn.Sequential({kind}(...))"
        )
    if not found:
        last = [name for name in names if name.count(".") == max(n.count(".") for n in names)][-1]
        raise UserError(
            f"no module of {type(model).__name__} is called {pattern!r}",
            f"a name or pattern such as {last}, or one of {', '.join([*rows, *_RULES])}",
        )
    return found


# Rules ---------------------------------------------------------------------------------------------------------------


def _before_residual(model: nn.Module, traced: Trace) -> list[str]:
    modules, found = dict(model.named_modules()), []
    for each in traced.sums:
        ends = [call for call in traced.calls[: each.after] if call.returned is each.branch]
        # What drops a branch at random, or does nothing, stays behind the attention.
        real = [call for call in ends if not _idle(modules[call.name])] or ends
        if real:
            found.append(real[-1].name)
    return _required(found, model, "adds a branch to its input")


def _after_depthwise(model: nn.Module, traced: Trace, above: int = 0) -> list[str]:
    modules, found = dict(model.named_modules()), []
    for index, call in enumerate(traced.calls):
        if _depthwise(modules[call.name]) and call.returned.shape[1] > above:
            found.append(_end(call, traced.calls[index + 1 :], modules))
    return _required(found, model, f"has a depthwise convolution{f' of more than {above} channels' if above else ''}")


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels and max(module.kernel_size) > 1


def _end(start: Call, later: Sequence[Call], modules: Mapping[str, nn.Module]) -> str:
    """Behind what works on each channel by itself, and in the outermost module that ends there."""
    end, tensor = start.name, start.returned
    for call in later:
        if start.name.startswith(f"{call.name}."):
            if call.returned is tensor:
                end = call.name
            else:
                break
        elif call.read is tensor:
            module, changed = modules[call.name], call.returned.shape != tensor.shape
            if changed or _idle(module) or any(parameter.dim() > 1 for parameter in module.parameters()):
                break
            end, tensor = call.name, call.returned
    return end


def _idle(module: nn.Module) -> bool:
    """Whether a module does nothing at inference."""
    kind = type(module).__name__.lower()
    return isinstance(module, nn.Identity) or "drop" in kind or "stochasticdepth" in kind


def _blocks(model: nn.Module, traced: Trace) -> list[str]:
    names = [name for name, module in model.named_modules() if attachment.class_name(module) in _BLOCKS]
    return _required(names, model, "has a block that is known by name")


def _stages(model: nn.Module, traced: Trace) -> list[str]:
    last = {_size(traced, name): name for name in _blocks(model, traced)}
    return list(last.values())


def _paper(model: nn.Module, traced: Trace) -> list[str]:
    kind = attachment.class_name(model)
    if kind == "ResNet":
        return _before_residual(model, traced)
    if kind in _MOBILE:
        return _after_depthwise(model, traced, _WIDE)
    raise UserError(f"no paper says where in {kind}", "at='before_residual', or a name of a module")


def _size(traced: Trace, name: str) -> tuple[int, ...] | None:
    call = traced.of(name)
    return tuple(call.returned.shape[2:]) if call else None


def _required(found: list[str], model: nn.Module, what: str) -> list[str]:
    if not found:
        raise UserError(f"nothing in {type(model).__name__} {what}", "give a name of a module")
    return found


_RULES = {
    "before_residual": _before_residual,
    "after_depthwise": _after_depthwise,
    "blocks": _blocks,
    "stages": _stages,
    "paper": _paper,
}
