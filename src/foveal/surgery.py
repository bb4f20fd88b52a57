"""Attaching an attention to a layer of any torch model.

The layer's class is swapped for a subclass whose `__call__` passes the layer's output through the attention. A hook
would get lost: hook ids restart at 0 in every process, so another tool's hook can replace it. An overridden `forward`
would be bypassed by exporters that assign their own. `isinstance(layer, C3k2)` stays true, and so does every name in
the state dict.
"""

import functools

import torch
from torch import Tensor, fx, nn

from .attention import ATTENTIONS, PARTS, Attention, find
from .errors import UserError
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


def build(spec: Spec, channels: int) -> nn.Module:
    """The module that `spec` asks for at a width of `channels`; places and a missing start are the caller's."""
    attention = find(spec.name)(channels, **spec.arguments)
    return IdentityStart(attention, channels) if spec.start == "identity" else attention


def attach(layer: nn.Module, attention: nn.Module) -> nn.Module:
    """Make `layer` pass its output through `attention`; returns the layer that now does, ready to pickle.

    Of a `Sequential` that is the last module, which gives the same function. A second attention comes after the first.
    Attentions sit in `layer.attention`, in order; no other name of the state dict changes.

    Raises:
        UserError: the layer is a container without a call of its own, or uses the name `attention` itself.
    """
    layer = end(layer)
    if not attended(layer):
        layer.attention = nn.Sequential()
        layer.__class__ = _attended_class(type(layer))
    layer.attention.append(attention)
    layer.attention.train(layer.training)
    return layer


def end(layer: nn.Module) -> nn.Module:
    """The layer that carries what is attached to a layer: of a `Sequential` its last, else the layer itself.

    Raises:
        UserError: it is a container without a call of its own, or uses the name `attention` itself.
    """
    while isinstance(layer, nn.Sequential) and not attended(layer):
        if not len(layer):
            raise UserError("an empty Sequential has no output to attend", "attach to the layer before it")
        layer = layer[-1]
    if isinstance(layer, _CONTAINERS):
        raise UserError(
            f"a {type(layer).__name__} is never called, so it has no output to attend", "attach to a member"
        )
    if hasattr(layer, "attention") and not attended(layer):
        raise UserError(f"{type(layer).__name__} already has an attribute 'attention'", "attach to another layer")
    return layer


def detach(layer: nn.Module) -> None:
    """Make an attended layer what it was before its first attention."""
    layer.__class__ = type(layer)._attended_base
    del layer.attention


def kind(layer: nn.Module) -> str:
    """Name of a layer's class without attentions."""
    return getattr(type(layer), "_attended_base", type(layer)).__name__


def attended(layer: nn.Module) -> bool:
    """Whether something is attached to a layer; it is in `layer.attention`."""
    return hasattr(type(layer), "_attended_base")


def attached(layer: nn.Module) -> list[nn.Module]:
    """What is attached to a layer, in order; of a `Sequential` to its last module."""
    while isinstance(layer, nn.Sequential) and not attended(layer) and len(layer):
        layer = layer[-1]
    return list(layer.attention) if attended(layer) else []


@functools.cache
def _attended_class(base: type[nn.Module]) -> type[nn.Module]:
    # `base` is closed over: super(type(self), self) would recurse in a subclass.
    def __call__(self, *args, **kwargs):
        out = base.__call__(self, *args, **kwargs)
        return _traced(self, out) if isinstance(out, fx.Proxy) else self.attention(out)

    def __reduce_ex__(self, protocol):
        _, _, *state = base.__reduce_ex__(self, protocol)
        return _restore, (base,), *state

    # With the module of `base`, by which tracers of torch.fx tell what not to look into, such as a batch norm.
    body = {"__call__": __call__, "__reduce_ex__": __reduce_ex__, "__module__": base.__module__, "_attended_base": base}
    cls = type(f"Attended{base.__name__}", (base,), body)
    torch.serialization.add_safe_globals([cls])
    return cls


def _traced(layer: nn.Module, out: fx.Proxy) -> fx.Proxy:
    """What torch.fx sees: the layer as a whole, if the tracer does not look into it, else its attention as a whole."""
    node, tracer = out.node, out.tracer
    if node.op == "call_module" and tracer.root.get_submodule(node.target) is layer:
        return out
    return tracer.create_proxy("call_module", tracer.path_of_module(layer.attention), (out,), {})


def _restore(base: type[nn.Module]) -> nn.Module:
    """What a pickle calls: an attended layer of class `base`, its state still to be filled in."""
    cls = _attended_class(base)
    return cls.__new__(cls)


torch.serialization.add_safe_globals([*ATTENTIONS.values(), *PARTS, IdentityStart, _restore])
