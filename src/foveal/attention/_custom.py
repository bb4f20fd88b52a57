"""Attentions of other people as attentions of ours: any module that maps (B, C, H, W) to the same, wrapped in one."""

import functools
import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import _building, _sources
from ._base import Attention, Card
from ._sources import Source


class Custom(Attention):
    """A class of somebody else's making, as `_sources` names it.

    Pickles name the class's source before its state, so that a process that loads one has the module by then.

    Args:
        channels: width of the input; it is given to the class's constructor where that has a parameter for it.
        arguments: the constructor's others.

    Attributes:
        source: of the class.
        module: made by it; its tensors are `module.*` in the state dict.

    Raises:
        UserError: it cannot be built so, or does not keep a map's shape.
    """

    source: ClassVar[Source]
    module: nn.Module

    def __init__(self, channels: int, **arguments: Any):
        super().__init__(channels)
        self.module = _building.build(self.source, channels, arguments)

    def reference(self, x: Tensor) -> Tensor:
        """The class's own forward."""
        return self.module(x)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """The class's own `gates`; where it has none, `factor` (B, C, H, W): its output over its input."""
        theirs = getattr(self.module, "gates", None)
        if callable(theirs):
            return theirs(x)
        known = x != 0
        return {"factor": torch.where(known, self.module(x) / torch.where(known, x, 1.0), 1.0)}

    def _check(self, x: Tensor, gain: Tensor | None) -> None:
        """Refuse an input of another shape; pruning changes the gain, and what is inside the class is its own."""
        expected = self.channels if gain is None else len(gain)
        if x.dim() != 4 or x.shape[1] != expected:
            raise self._wrong_shape(x, expected)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        _, _, *state = super().__reduce_ex__(protocol)  # type: ignore[str-unpack]  # no module's is a string
        return _restore, (self.source.stored(),), *state


def custom(address: str) -> type[Custom]:
    """The attention that the class at an address is.

    Raises:
        UserError: there is none, or it has a parameter that is not understood.
    """
    return _class(_sources.load(address))


def of_class(cls: type[nn.Module], portable: bool = True) -> type[Custom]:
    """The attention that a class of this process is.

    Args:
        cls: below `nn.Module`.
        portable: whether other processes must find it.

    Raises:
        UserError: they would not.
    """
    return _class(_sources.of_class(cls, portable=portable))


@functools.lru_cache(maxsize=256)
def _class(source: Source) -> type[Custom]:
    card = Card(
        name=source.address,
        title=source.name,
        paper="",
        year=0,
        source="",
        licence="",
        kind="as its class computes",
        paper_place="neck",
        avoid="",
        constraints=(_takes(source),),
    )
    keywords = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=inspect.Parameter.empty)
        for each in _building.arguments(source).values()
    ]
    channels = inspect.Parameter("channels", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=int)
    body = {"card": card, "source": source, "__signature__": inspect.Signature([channels, *keywords])}
    return type(source.name, (Custom,), {**body, "__module__": Custom.__module__, "__doc__": source.make.__doc__})


def _takes(source: Source) -> str:
    widths = _building.widths(source)
    return f"takes its width as {' and '.join(widths)}" if widths else "takes no width"


def _restore(stored: dict[str, str]) -> Custom:
    """What a pickle calls: an attention of the class that it names, its state still to be filled in."""
    cls = _class(_sources.restored(stored))
    return cls.__new__(cls)


_restore.__module__ = "foveal.attention"  # as files name it; not a safe global, because it imports what a file names
