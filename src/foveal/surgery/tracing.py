"""One traced forward of any torch model: which module returned what, in which order, and what was added to what."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_ADDITIONS = (torch.add, Tensor.add, Tensor.add_)  # the operators + and += are the latter two


@dataclass(frozen=True)
class Call:
    """One call of a module that took a tensor and returned one.

    Attributes:
        name: of the module in the model.
        read: what it was given.
        returned: what it returned; the same object if it works in place or does nothing.
    """

    name: str
    read: Tensor
    returned: Tensor


@dataclass(frozen=True)
class Sum:
    """Two maps of equal shape that were added.

    Attributes:
        branch: the one that more operations led to, None where both took equally many.
        after: how many calls had returned by then.
    """

    branch: Tensor | None
    after: int


@dataclass(frozen=True)
class Trace:
    """What one forward did.

    Attributes:
        calls: in the order in which they returned.
        sums: in order.
        counts: how often each module was called, by name.
    """

    calls: list[Call] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def of(self, name: str) -> Call | None:
        """The last call of a module; None if it was not called, or not with one tensor for another."""
        return next((call for call in reversed(self.calls) if call.name == name), None)


class _Operations(TorchFunctionMode):
    """Notes how many operations led to each tensor, and which were added."""

    def __init__(self, found: Trace):
        super().__init__()
        self.found = found
        self.depths: dict[int, int] = {}
        self.kept: list[Tensor] = []

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        operands = [arg for arg in args if isinstance(arg, Tensor)]
        depths = [self.depths.get(id(operand), 0) for operand in operands]
        if function in _ADDITIONS and len(operands) == 2 and _are_maps(*operands):
            deeper = None if depths[0] == depths[1] else operands[depths[1] > depths[0]]
            self.found.sums.append(Sum(deeper, len(self.found.calls)))
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.depths[id(out)] = 1 + max(depths, default=-1)
            self.kept.append(out)  # so that no other tensor gets its id
        return out


def _are_maps(one: Tensor, other: Tensor) -> bool:
    return one.dim() == 4 and one.shape == other.shape


@torch.no_grad()
def trace(model: nn.Module, *inputs: object, as_training: bool = False) -> Trace:
    """Run a model once, in eval mode and without gradients; it is left as it was.

    Args:
        model: any.
        inputs: of its forward, whose exceptions are passed on.
        as_training: whether the model itself is told that it trains, and none of its parts.
    """
    found = Trace()
    training = [module for module in model.modules() if module.training]
    hooks = [module.register_forward_hook(_note(name, found)) for name, module in model.named_modules()]
    try:
        model.eval()
        model.training = as_training
        with _Operations(found):
            model(*inputs)
    finally:
        model.training = False
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return found


def _note(name: str, found: Trace) -> Callable[[nn.Module, tuple[object, ...], object], None]:
    def hook(_module: nn.Module, args: tuple[object, ...], out: object) -> None:
        found.counts[name] += 1
        if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
            found.calls.append(Call(name, args[0], out))

    return hook
