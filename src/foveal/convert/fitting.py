"""Layers of a copy in the places of an attention's own, by what they are instead of by what they are called.

Copies name their layers as they like, build a linear layer as a convolution of one pixel or the other way round, and
leave out biases and norms. As long as the same function comes out, foveal's module can hold them: a bias that is not
there is 0, a norm that is not there has the statistics with which it changes nothing, a bias in front of a norm goes
into the norm, a smaller kernel has zeros around it. Layers of one shape are told apart by the authors' names where a
copy has them, and else by the order in which they were made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import Node

_TORCH = "torch.nn.modules."
_FREE = {"momentum", "inplace", "training"}  # settings that outputs of a model in eval mode do not depend on
_MATRICES, _CONVOLUTIONS = ("Linear", "Conv2d"), ("Conv1d", "Conv2d")


@dataclass(frozen=True)
class Unit:
    """A layer of torch that holds tensors, or a parameter that stands by itself.

    Attributes:
        name: dotted.
        kind: name of torch's class, "" for a parameter.
        tensors: by their last name, "" for a parameter.
        settings: everything else that the layer stores.
    """

    name: str
    kind: str
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]

    @property
    def weight(self) -> Tensor:
        """Or what there is, where nothing is called so."""
        return self.tensors.get("weight", next(iter(self.tensors.values())))

    @property
    def matrix(self) -> tuple[int, int] | None:
        """(outputs, inputs) of a linear layer, or of a convolution of one pixel."""
        plain = self.kind == "Linear" or (self.kind in _CONVOLUTIONS and self.weight[0, 0].numel() == 1)
        return (*self.weight.shape[:2],) if plain and self.settings.get("groups", 1) == 1 else None


@dataclass(frozen=True)
class Fitted:
    """Tensors in foveal's names and shapes.

    Attributes:
        state: of the whole attention.
        added: names of tensors that the copy has not.
        shifted: names of those whose values are others, so that outputs are the same.
        against: how settings of the copy's layers differ.
        by_order: pairs of places that could as well hold each other's layer.
        named: whether every layer has the authors' name.
        places: the copy's layers by foveal's names.
    """

    state: dict[str, Tensor]
    added: tuple[str, ...]
    shifted: tuple[str, ...]
    against: tuple[str, ...]
    by_order: tuple[str, ...]
    named: bool
    places: dict[str, str]


def stored_units(node: Node) -> list[Unit]:
    """The units of a stored module, in the order in which they were made."""
    found = []
    for path, part in node.walk():
        tensors = part.own_tensors()
        if tensors and path and part.path.startswith(_TORCH):
            found.append(Unit(path, part.path.rpartition(".")[2], tensors, part.state))
        else:
            found += [Unit(f"{path}.{name}".lstrip("."), "", {"": tensor}, {}) for name, tensor in tensors.items()]
    return found


def own_units(module: nn.Module, renamed: Mapping[str, str]) -> list[Unit]:
    """The units of foveal's module, in the authors' order."""
    found = []
    for path, layer in module.named_modules():
        tensors = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))
        cls = next((base for base in type(layer).__mro__ if base.__module__.startswith(_TORCH)), nn.Module)
        if tensors and cls is not nn.Module:
            found.append(Unit(path, cls.__name__, tensors, vars(layer)))
        else:
            found += [Unit(f"{path}.{name}".lstrip("."), "", {"": tensor}, {}) for name, tensor in tensors.items()]
    order = list(dict.fromkeys(renamed.values()))

    def place(unit: Unit) -> int:
        return next((i for i, name in enumerate(order) if f"{unit.name}.".startswith(f"{name}.")), len(order))

    return sorted(found, key=place)


def fitted(
    ours: Sequence[Unit],
    stored: Sequence[Unit],
    official: Callable[[str], str],
) -> Iterator[Fitted]:
    """Every way in which all of `stored` find a place; the likeliest first.

    Args:
        ours: see `own_units`.
        stored: see `stored_units`.
        official: foveal's name for a tensor under the authors'.
    """
    for places in _placed(list(ours), list(stored), official):
        yield _carried(ours, places, official)


def _placed(ours: list[Unit], stored: list[Unit], official: Callable[[str], str]) -> Iterator[dict[str, Unit | None]]:
    if not ours:
        if not stored:
            yield {}
        return
    mine, *others = ours
    fitting = [unit for unit in stored if _fits(mine, unit)]
    fitting.sort(key=lambda unit: (not _is_named(mine, unit, official), len(unlike(mine, unit))))  # else as made
    for unit in [*fitting, *([None] if _is_optional(mine) else [])]:
        for rest in _placed(others, [other for other in stored if other is not unit], official):
            yield {mine.name: unit, **rest}


def _is_named(mine: Unit, unit: Unit, official: Callable[[str], str]) -> bool:
    last = next(iter(unit.tensors))
    return official(f"{unit.name}.{last}".rstrip(".")) == f"{mine.name}.{last}".rstrip(".")


def _is_optional(mine: Unit) -> bool:
    """A norm behind a convolution, which can be one that changes nothing."""
    return mine.kind == "BatchNorm2d" and mine.name.endswith(".norm")


def _fits(mine: Unit, unit: Unit) -> bool:
    if mine.kind in _MATRICES and mine.matrix:
        return mine.matrix == unit.matrix
    if mine.kind != unit.kind:
        return False
    return mine.weight.shape == unit.weight.shape or _is_smaller_map(mine, unit)


def _is_smaller_map(mine: Unit, unit: Unit) -> bool:
    """A kernel from two maps to one that fits into ours with zeros around it."""
    if mine.kind != "Conv2d" or not mine.weight.shape[:2] == unit.weight.shape[:2] == (1, 2):
        return False
    size, whole = unit.weight.shape[2:], mine.weight.shape[2:]
    return size[0] == size[1] < whole[0] and size[0] % 2 == 1


def unlike(mine: Unit, unit: Unit) -> list[str]:
    """How the settings of a stored layer differ from ours, of those that outputs depend on."""
    if not mine.kind:
        return []
    wanted = dict(mine.settings)
    if mine.kind != unit.kind:  # a convolution of one pixel in the place of a linear layer, or the other way round
        wanted = {"stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1}
    elif mine.weight.shape != unit.weight.shape:  # a smaller kernel
        size = unit.weight.shape[2:]
        wanted |= {"kernel_size": tuple(size), "padding": tuple(side // 2 for side in size)}
    else:
        wanted.pop("eps", None) if mine.kind == "BatchNorm2d" else None  # goes into the variance
    return differing(unit.settings, wanted, unit.name)


def differing(stored: Mapping[str, object], wanted: Mapping[str, object], name: str) -> list[str]:
    """Plain values that both have and that are not the same, as sentences about `name`."""
    return [
        f"{name} has {key}={value!r} instead of {wanted[key]!r}"
        for key, value in stored.items()
        if key in wanted and key not in _FREE and not key.startswith("_")
        if is_plain(value) and is_plain(wanted[key]) and _even(value) != _even(wanted[key])
    ]


def is_plain(value: object) -> bool:
    """A number, a text, or several of them."""
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _even(value: object) -> object:
    """One spelling for 1, (1,) and (1, 1)."""
    if isinstance(value, list | tuple):
        items = tuple(_even(item) for item in value)
        return items[0] if items and all(item == items[0] for item in items) else items
    return value


def _carried(
    ours: Sequence[Unit],
    places: Mapping[str, Unit | None],
    official: Callable[[str], str],
) -> Fitted:
    state: dict[str, Tensor] = {}
    added: list[str] = []
    shifted: list[str] = []
    against: list[str] = []
    by_order: list[str] = []
    biases: dict[str, Tensor] = {}  # of convolutions, for the norm behind them
    for place, mine in enumerate(ours):
        unit = places[mine.name]
        if mine.kind == "BatchNorm2d":
            new, moved = _norm(mine, unit, biases.get(mine.name))
            state |= new
            shifted += moved
            added += [] if unit else new
        elif not mine.kind:
            assert unit  # only a norm may be missing
            state[mine.name] = unit.weight
        else:
            assert unit
            state[f"{mine.name}.weight"] = _weight(mine, unit.tensors["weight"])
            bias = unit.tensors.get("bias")
            if "bias" in mine.tensors:
                added += [f"{mine.name}.bias"] * (bias is None)
                state[f"{mine.name}.bias"] = unit.weight.new_zeros(len(unit.weight)) if bias is None else bias
            elif bias is not None:
                biases[f"{mine.name.removesuffix('conv')}norm"] = bias
        if unit is None:
            continue
        against += unlike(mine, unit)
        rivals = [other for other in ours[place + 1 :] if _could_swap(mine, other, places, official)]
        theirs = [(there, other) for other in rivals if (there := places[other.name])]
        by_order += [f"{unit.name} is {mine.name} and {there.name} is {other.name}" for there, other in theirs]
    if left := set(biases) - {mine.name for mine in ours}:
        against += [f"{name} has a bias" for name in left]
    named = all(unit is None or _is_named(mine, unit, official) for mine in ours for unit in [places[mine.name]])
    held = {name: unit.name for name, unit in places.items() if unit}
    return Fitted(state, tuple(added), tuple(shifted), tuple(against), tuple(by_order), named, held)


def _could_swap(mine: Unit, other: Unit, places: Mapping, official: Callable[[str], str]) -> bool:
    """Whether two places could hold each other's layers, and neither layer has the authors' name."""
    here, there = places[mine.name], places[other.name]
    if here is None or there is None or not (_fits(mine, there) and _fits(other, here)):
        return False
    if _is_named(mine, here, official) and _is_named(other, there, official):
        return False
    return len(unlike(mine, there)) + len(unlike(other, here)) <= len(unlike(mine, here)) + len(unlike(other, there))


def _weight(mine: Unit, weight: Tensor) -> Tensor:
    shape = mine.weight.shape
    if mine.matrix:
        return weight.reshape(shape)
    if weight.shape != shape:
        margin = (shape[2] - weight.shape[2]) // 2
        weight = nn.functional.pad(weight, (margin,) * 4)
    return weight


def _norm(mine: Unit, unit: Unit | None, bias: Tensor | None) -> tuple[dict[str, Tensor], list[str]]:
    """A norm's tensors with the bias of the convolution before it taken up, and the names of those that changed."""
    eps, name = mine.settings["eps"], mine.name
    if unit is None:
        width = len(mine.weight)
        one = torch.ones(width, dtype=torch.float64)
        tensors = {"weight": one, "bias": 0 * one if bias is None else bias, "running_mean": 0 * one}
        tensors |= {"running_var": one - eps, "num_batches_tracked": torch.tensor(0)}
        return {f"{name}.{key}": tensor for key, tensor in tensors.items()}, []
    tensors, moved = dict(unit.tensors), []
    if unit.settings["eps"] != eps:
        # The host sets its own eps on all batch norms. Outputs depend on its sum with the variance.
        tensors["running_var"] = tensors["running_var"].double() + (unit.settings["eps"] - eps)
        moved.append("running_var")
    if bias is not None:
        tensors["running_mean"] = tensors["running_mean"].double() - bias.double()
        moved.append("running_mean")
    return {f"{name}.{key}": tensor for key, tensor in tensors.items()}, [f"{name}.{key}" for key in moved]
