"""What a model keeps outside its state dict: the vocabulary of YOLO-World, an activation that another release chose.

It is found by comparing the attributes of all modules, so no list of names can be too short.
"""

import copy

import torch
from torch import Tensor, nn

# Exporters set `forward`, bound to the module it came from, and no output depends on `inplace`.
_NOT_CARRIED = {*vars(nn.Module()), "forward", "inplace"}
_ROWS_OWN = ("i", "f", "np", "type")  # what the host keeps on a row's layer for itself


def carry(source: nn.Module, target: nn.Module) -> tuple[str, ...]:
    """Give a model what another of the same layers keeps outside its state dict.

    Returns:
        Names of what differed and can change outputs: modules, tensors and numbers.
    """
    carried = list(carry_modules(source, target))
    theirs = _modules(target)
    for name, module in _modules(source).items():
        for key, value in vars(module).items() if name in theirs else ():
            known = key in _NOT_CARRIED or key in _ROWS_OWN
            known |= isinstance(getattr(type(theirs[name]), key, None), property)  # which hides what is stored under it
            if not known and not _equal(value, vars(theirs[name]).get(key)):
                setattr(theirs[name], key, copy.deepcopy(value))
                carried += [f"{name}.{key}".lstrip(".")] if isinstance(value, Tensor | int | float) else []
    return tuple(carried)


def carry_modules(source: nn.Module, target: nn.Module) -> tuple[str, ...]:
    """Give a model those modules of another that have no tensors and are of another class, such as activations.

    Returns:
        Their names.
    """
    theirs, carried = _modules(target), []
    for name, module in _modules(source).items():
        other = theirs.get(name)
        if other is not None and type(module) is not type(other) and not (module.state_dict() or other.state_dict()):
            target.set_submodule(name, copy.deepcopy(module))
            carried.append(name)
    return tuple(carried)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by name; the host's layers share one activation, which has a name in each."""
    return dict(model.named_modules(remove_duplicate=False))


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other or (type(one) is type(other) and bool(one == other))
