"""Attaching an attention to a layer of any torch model.

The layer's class is swapped for a subclass whose `forward` passes the layer's output through the attention, so that
whoever looks at the layer by a hook sees the map behind it. The attention itself is no hook, which would get lost: hook
ids restart at 0 in every process, so another tool's hook can replace it. A `forward` that is assigned to the layer, as
exporters and fusing hosts do, is called in the place of the layer's own, and the attention still follows it.
`isinstance(layer, C3k2)` stays true, and so does every name in the state dict.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..attention import ATTENTIONS, PARTS, Attention, find
from ..errors import UserError
from .spec import Spec

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class IdentityStart(nn.Module):
    """`x + gain * (attention(x) - x)` with a learned gain per channel that starts at 0.

    A fresh gate is about 0.5: put bare into a trained network it halves the features that the next layers know. Started
    so, the first step computes exactly what the network computed before. At a gain of 1 it is the bare attention.

    Args:
        attention: whose `forward` takes the gain, so that a kernel can blend while it writes.
        channels: C.
    """

    def __init__(self, attention: Attention, channels: int):
        super().__init__()
        self.attention = attention
        self.gain = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Blend the input with the attended input."""
        return self.attention(x, self.gain)

    def folded(self) -> nn.Module | None:
        """What computes the same at inference for less work: nothing at all where the gain is 0; None if nothing."""
        if not self.gain.any():
            return nn.Identity()
        if bool((self.gain == 1).all()):
            return self.attention.folded() or self.attention
        return self.attention.folded(self.gain)


IdentityStart.__module__ = "foveal"


def opened(model: nn.Module) -> float | None:
    """Largest absolute gain of the identity starts in a model, which is 0 at their start; None where there is none."""
    gains = [float(start.gain.detach().abs().max()) for start in model.modules() if isinstance(start, IdentityStart)]
    return max(gains, default=None)


def build(spec: Spec, channels: int) -> nn.Module:
    """The module that `spec` asks for at a width of `channels`; places and a missing start are the caller's."""
    attention = find(spec.name)(channels, **spec.arguments)
    attention.placed = True
    return IdentityStart(attention, channels) if spec.start == "identity" else attention


def attach(layer: nn.Module, attention: nn.Module) -> nn.Module:
    """Make `layer` pass its output through `attention`; returns the layer that now does, ready to pickle.

    Of a `Sequential` that is the last module, which gives the same function. A second attention comes after the first.
    Attentions sit in `layer.attention`, in order; no other name of the state dict changes.

    Raises:
        UserError: the layer is a container without a call of its own, or an attention, or uses the name `attention`.
    """
    layer = carrier(layer)
    if not attended(layer):
        layer.attention = nn.Sequential()
        layer.__class__ = _attended_class(type(layer))  # type: ignore[arg-type]  # a class has a hash
        _take_over(layer)
    _chain(layer).append(attention).train(layer.training)
    return layer


def carrier(layer: nn.Module) -> nn.Module:
    """The layer that carries what is attached to a layer: of a `Sequential` its last, else the layer itself.

    Raises:
        UserError: it is a container without a call of its own, or an attention, or uses the name `attention` itself.
    """
    while isinstance(layer, nn.Sequential) and not attended(layer):
        if not len(layer):
            raise UserError("an empty Sequential has no output to attend", "attach to the layer before it")
        layer = layer[-1]
    if isinstance(layer, _CONTAINERS):
        raise UserError(
            f"a {type(layer).__name__} is never called, so it has no output to attend", "attach to a member"
        )
    if is_attention(layer):
        raise UserError(f"{type(layer).__name__} is an attention, which carries no other", "give it a row of its own")
    if hasattr(layer, "attention") and not attended(layer):
        raise UserError(f"{type(layer).__name__} already has an attribute 'attention'", "attach to another layer")
    return layer


def detach(layer: nn.Module) -> None:
    """Make an attended layer what it was before its first attention."""
    assigned = vars(layer).pop("forward", None)
    layer.__class__ = base(layer)
    del layer.attention
    if assigned:
        layer.forward = assigned.forward


def is_attention(module: nn.Module) -> bool:
    """Whether a module is an attention, with its start or without."""
    return isinstance(module, Attention | IdentityStart)


def class_name(layer: nn.Module) -> str:
    """Its name."""
    return base(layer).__name__


def base(layer: nn.Module) -> type[nn.Module]:
    """A layer's class without attentions."""
    return getattr(type(layer), "_attended_base", type(layer))


def attended(layer: nn.Module) -> bool:
    """Whether something is attached to a layer; it is in `layer.attention`."""
    return hasattr(type(layer), "_attended_base")


def attached(layer: nn.Module) -> list[nn.Module]:
    """What is attached to a layer, in order; of a `Sequential` to its last module."""
    while isinstance(layer, nn.Sequential) and not attended(layer) and len(layer):
        layer = layer[-1]
    return list(_chain(layer)) if attended(layer) else []


def _chain(layer: nn.Module) -> nn.Sequential:
    return layer.attention  # type: ignore[return-value]  # of a layer that is attended


class AssignedForward:
    """A forward that was assigned to an attended layer, with the layer's attentions behind it.

    What is assigned often calls the forward that the layer had before, attentions and all. So the attentions follow the
    newest forward only: one that has been replaced returns what it computes without them.

    Args:
        layer: that is attended.
        forward: that was assigned.
    """

    def __init__(self, layer: nn.Module, forward: Callable[..., Any]):
        self.layer, self.forward = layer, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What was assigned, and then the attentions if it is the layer's newest forward."""
        out = self.forward(*args, **kwargs)
        return _attend(self.layer, out) if self.layer.__dict__.get("forward") is self else out


@functools.cache
def _attended_class(base: type[nn.Module]) -> type[nn.Module]:
    # `base` is closed over: super(type(self), self) would recurse in a subclass.
    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        out = base.forward(self, *args, **kwargs)
        return out if "forward" in self.__dict__ else _attend(self, out)

    def __setattr__(self: nn.Module, name: str, value: Any) -> None:
        if name == "forward" and not (isinstance(value, AssignedForward) and value.layer is self):
            value = AssignedForward(self, value)
        base.__setattr__(self, name, value)

    def __setstate__(self: nn.Module, state: dict[str, Any]) -> None:
        base.__setstate__(self, state)
        _take_over(self)

    def __reduce_ex__(self: nn.Module, protocol: int) -> tuple[Any, ...]:
        _, _, *state = base.__reduce_ex__(self, protocol)  # type: ignore[str-unpack]  # no module's is a string
        return _restore, (base,), *state

    methods = (forward, __setattr__, __setstate__, __reduce_ex__)
    # With the module of `base`, by which tracers of torch.fx tell what not to look into, such as a batch norm.
    body = {"__module__": base.__module__, "_attended_base": base} | {method.__name__: method for method in methods}
    cls = type(f"Attended{base.__name__}", (base,), body)
    torch.serialization.add_safe_globals([cls])
    return cls


def _take_over(layer: nn.Module) -> None:
    """Put the attentions behind a forward that was assigned before the layer was attended, or by an older release."""
    if "forward" in vars(layer):
        layer.forward = vars(layer)["forward"]


def _attend(layer: nn.Module, out: Tensor | fx.Proxy) -> Tensor | fx.Proxy:
    """The attentions of a layer, of which torch.fx sees one node."""
    if isinstance(out, fx.Proxy):
        path = out.tracer.path_of_module(_chain(layer))  # type: ignore[attr-defined]  # a tracer of modules has it
        return out.tracer.create_proxy("call_module", path, (out,), {})
    return _chain(layer)(out)


def _restore(base: type[nn.Module]) -> nn.Module:
    """What a pickle calls: an attended layer of class `base`, its state still to be filled in."""
    cls = _attended_class(base)  # type: ignore[arg-type]  # a class has a hash
    return cls.__new__(cls)


_restore.__module__ = AssignedForward.__module__ = "foveal.surgery"  # as files name them
torch.serialization.add_safe_globals([*ATTENTIONS.values(), *PARTS, IdentityStart, AssignedForward, _restore])
