"""How a class of somebody else is built at a width, and whether what was built maps (B, C, H, W) to the same.

Its constructor says by its names where the width goes: `channels`, `dim`, `in_planes`, `c1` and `c2`, or nowhere.
"""

import copy
import functools
import inspect
import traceback
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import UserError
from ..tensors import sides
from ._sources import Source

# What constructors call the width of the map that comes in, and of the one that goes out.
READ = {"c", "c1", "c_in", "cin", "ch", "ch_in", "channel", "channels", "d_model", "dim", "dims", "embed_dim"}
READ |= {"embed_dims", "feat_dim", "features", "gate_channels", "in_c", "in_ch", "in_channel", "in_channels", "in_chs"}
READ |= {"in_dim", "in_features", "in_planes", "inc", "inp", "inplanes", "input_channel", "input_channels", "input_dim"}
READ |= {"n_channels", "n_feat", "n_feats", "nc", "nf", "num_channels", "num_feat", "num_features", "op_channel"}
READ |= {"planes"}
RETURNED = {"c2", "c_out", "cout", "ch_out", "out_c", "out_ch", "out_channel", "out_channels", "out_chs", "out_dim"}
RETURNED |= {"oup", "ouc", "outc", "out_features", "out_planes", "outp", "outplanes", "output_channels", "output_dim"}
# What they call the size of a map, which a network changes with the size of its images.
SIZES = {"feat_size", "feature_size", "fmap_size", "h", "height", "input_resolution", "input_size", "resolution", "w"}

# What a library's own networks give where its class has no default.
_USUAL: dict[str, dict[str, Callable[[int], int]]] = {
    "torchvision:SqueezeExcitation": {"squeeze_channels": lambda channels: max(1, channels // 4)},
}

_GIVEN = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
SQUARE, ODD = (16, 16), (15, 20)  # maps that it is tried on; images of 480 x 640 pixels have the second at stride 32


def arguments(source: Source) -> dict[str, Parameter]:
    """The parameters that a user may give, by name: all but the widths."""
    return {name: each for name, each in _parameters(source).items() if name not in widths(source)}


def widths(source: Source) -> tuple[str, ...]:
    """The parameters that take the width, in order; none where its constructor takes no width."""
    found = _parameters(source)
    first = next((name for name in found if name.casefold() in READ), None)

    def is_width(name: str) -> bool:
        required = found[name].default is Parameter.empty
        return name == first or name.casefold() in RETURNED or (required and name.casefold() in READ)

    return tuple(filter(is_width, found))


@functools.lru_cache(maxsize=256)
def _parameters(source: Source) -> dict[str, Parameter]:
    try:
        found = inspect.signature(source.make).parameters
    except (TypeError, ValueError):
        raise UserError(f"{source.address}: its constructor has no signature", "write one in Python") from None
    return {
        name: each for name, each in found.items() if each.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    }


def build(source: Source, channels: int, given: Mapping[str, Any]) -> nn.Module:
    """The module at a width, tried on two maps.

    Raises:
        UserError: it needs what was not given, cannot be built, or does not map (B, C, H, W) to the same.
    """
    called = _call(source, channels, given)
    text = f"{source.name}({', '.join(f'{name}={value!r}' for name, value in called.items())})"
    try:
        module = source.make(**called)
    except Exception as error:  # which is the class's own, whatever it is
        raise UserError(f"{source.address}: {text} cannot be built: {_said(error)}", _arguments_hint(source)) from error
    if any(is_lazy(parameter) for parameter in module.parameters()):  # its first map says how wide its layers are
        with torch.no_grad():
            module.eval()(torch.zeros(1, channels, *SQUARE))
        module.train()
    if (key := (source, text)) not in _TRIED:
        _try(module, source, text, channels)
        _TRIED.add(key)
    return module


_TRIED: set[tuple[Source, str]] = set()


def _call(source: Source, channels: int, given: Mapping[str, Any]) -> dict[str, Any]:
    usual = {name: of(channels) for name, of in _USUAL.get(source.address, {}).items()}
    called = {**dict.fromkeys(widths(source), channels), **usual, **given}
    lacking = [n for n, each in _parameters(source).items() if each.default is Parameter.empty and n not in called]
    if sizes := [name for name in lacking if name.casefold() in SIZES]:
        raise UserError(
            f"{source.address} is built for one size of the map, {' and '.join(sizes)}, and a network's maps have many",
            "read the size in its forward: B, C, H, W = x.shape",
        )
    if lacking and not widths(source):
        raise UserError(
            f"{source.address} takes {', '.join(lacking)}, none of which foveal knows for a width",
            f"call the width channels, as in def __init__(self, channels): ..., or give {_example(source, lacking)}",
        )
    if lacking:
        raise UserError(
            f"{source.address} needs {', '.join(lacking)}", f"write for example {_example(source, lacking)}"
        )
    return called


def _example(source: Source, names: list[str]) -> str:
    return f"{source.address}({', '.join(f'{name}=4' for name in names)})"


def _arguments_hint(source: Source) -> str:
    names = [*arguments(source)]
    if sizes := [name for name in names if name.casefold() in SIZES]:
        return f"if it needs {sizes[0]}, it is built for one size of the map, and a network's maps have many"
    return f"its arguments are {', '.join(names)}" if names else "its constructor must take the widths 64, 128 and 256"


@torch.no_grad()
def _try(module: nn.Module, source: Source, text: str, channels: int) -> None:
    """Run it once on each of two maps."""
    parameters = inspect.signature(module.forward).parameters
    takes = [name for name, each in parameters.items() if each.default is Parameter.empty and each.kind in _GIVEN]
    if len(takes) != 1 and not any(each.kind is Parameter.VAR_POSITIONAL for each in parameters.values()):
        raise UserError(
            f"{source.address}: its forward takes {', '.join(takes) or 'nothing'}, and is given the map alone",
            "write def forward(self, x), and read the size from it: B, C, H, W = x.shape",
        )
    like = next((each for each in module.parameters() if each.is_floating_point()), torch.zeros(()))
    if like.is_meta:
        return
    copied = _copy(module, source).eval()
    generator = torch.Generator().manual_seed(0)
    for size in (SQUARE, ODD):
        x = torch.randn(1, channels, *size, generator=generator).to(like)
        shape, before = sides(x.shape), x.clone()
        try:
            out = copied(x)
        except Exception as error:  # which is the class's own, whatever it is
            if size == ODD:
                raise UserError(
                    f"{source.address}: {text} runs on a map of 16 x 16 and fails on one of 15 x 20, such as images of "
                    f"480 x 640 pixels have: {_said(error)}",
                    "in its forward, pad the map to the size that it needs, and cut the result to H and W",
                ) from error
            raise UserError(
                f"{source.address}: {text} fails on a map of {shape}: {_said(error)}",
                "it must take (B, C, H, W) and return the same; tokens are x.flatten(2).transpose(1, 2)",
            ) from error
        _require_map(out, x, source, text)
        if not torch.equal(x, before):
            raise UserError(
                f"{source.address}: {text} changes the map that it reads, which other layers read, too",
                "write x = x * gate instead of x *= gate, and inplace=False where a layer works on x itself",
            )


def _copy(module: nn.Module, source: Source) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # which is the class's own, whatever it is
        raise UserError(
            f"{source.address}: its modules cannot be copied, as every training does: {_said(error)}",
            "keep only modules, tensors and plain values on self, and make the rest in forward",
        ) from error


def _require_map(out: object, x: Tensor, source: Source, text: str) -> None:
    if isinstance(out, tuple | list):
        raise UserError(
            f"{source.address}: {text} returns a {type(out).__name__} of {len(out)} instead of one map",
            "return the map alone",
        )
    if not isinstance(out, Tensor):
        raise UserError(f"{source.address}: {text} returns a {type(out).__name__} instead of a map", "return a tensor")
    if out.shape != x.shape:
        raise UserError(
            f"{source.address}: {text} makes {tuple(out.shape)} of {tuple(x.shape)}, and an attention keeps the shape",
            "return (B, C, H, W) as it came in: weigh the map by its gates, and give convolutions padding and stride 1",
        )
    if not out.isfinite().all():
        raise UserError(f"{source.address}: {text} returns values that are not finite", "start it with smaller weights")


def _said(error: Exception) -> str:
    """What somebody's code raises; an assertion without a text is told by its line."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame.line for frame in frames if f"{torch.__name__}/" not in frame.filename.replace("\\", "/")]
    said = str(error) or (theirs[-1] if theirs else "")
    return " ".join(f"{type(error).__name__}: {said}".split())[:300].rstrip(".")
