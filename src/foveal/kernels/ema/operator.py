"""EMA as an operator of torch, `torch.ops.foveal.ema`: what runs on which device, its gradient, shapes and FLOPs.

An operator and not a plain function, because a compiler must not look inside, a tracer must know its shapes, and a
counter its cost. Its weights are conv1x1 and its bias, gn and its bias, conv3x3 and its bias. With a gain per channel
it is x + gain * (EMA of x - x).
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ...errors import UserError
from ...tensors import memory_format
from . import cpu

_PARAMETERS = (
    "Tensor conv1x1, Tensor conv1x1_bias, Tensor gn, Tensor gn_bias, Tensor conv3x3, Tensor conv3x3_bias, Tensor? gain"
)
_library = torch.library.Library("foveal", "DEF")
# `save`: the second result is what `ema_backward` needs beside x; otherwise it is empty.
_library.define(f"ema(Tensor x, {_PARAMETERS}, int groups, float eps, bool save) -> (Tensor, Tensor)")
_library.define(
    f"ema_backward(Tensor dy, Tensor x, Tensor saved, {_PARAMETERS}, int groups, float eps) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def transformed() -> bool:
    """Whether this runs inside a transform of torch.func, which passes by what registers a gradient."""
    return torch._C._are_functorch_transforms_active()


def ema(x: Tensor, weights: tuple[Tensor, ...], gain: Tensor | None, groups: int, eps: float) -> Tensor:
    """EMA of x (B, C, H, W), or with a gain (C,) what lies that far from x to it, differentiable in all of them."""
    return torch.ops.foveal.ema.default(x, *weights, gain, groups, eps, False)[0]


def why_not(x: Tensor, groups: int) -> str:
    """Why no kernel can run on `x`, in one sentence, or ""."""
    if transformed():
        return "the kernel does not run inside the transforms of torch.func"
    if x.device.type == "cpu":
        return cpu.why_not(x)
    if x.device.type != "cuda":
        return f"there are kernels for cpu and cuda, but x is on {x.device.type}"
    try:
        return _cuda().why_not(x, groups)
    except ImportError as error:
        return f"the kernel for GPUs needs Triton, which cannot be imported: {error}"


def _cuda() -> ModuleType:
    from . import cuda

    return cuda


# `rest` is what the operator takes after its tensors: weights, a gain or None, groups, eps, save.


def _cpu_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *weights, gain, groups, eps, save = rest
    return cpu.forward(x, weights, gain, groups, eps, save)


def _cpu_backward(dy: Tensor, x: Tensor, saved: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *weights, gain, groups, eps = rest
    return cpu.backward(dy, x, saved, weights, gain, groups, eps)


def _cuda_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *weights, gain, groups, eps, save = rest
    return _cuda().forward(x.contiguous(memory_format=memory_format(x)), weights, gain, groups, eps, save)


def _cuda_backward(dy: Tensor, x: Tensor, saved: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *weights, gain, groups, eps = rest
    x = x.contiguous(memory_format=memory_format(x))
    if dy.stride() != x.stride():
        dy = torch.empty_like(x).copy_(dy)
    return _cuda().backward(dy, x, saved, weights, gain, groups, eps)


def _saved_numel(x: Tensor, groups: int) -> int:
    return cpu.saved_numel(x, groups) if x.device.type == "cpu" else _cuda().saved_numel(*x.shape, groups)


def _fake_like(x: Tensor) -> Tensor:
    # Kernels for CPUs take every stride, those for GPUs two memory formats; a compiler relies on what comes out.
    return torch.empty_like(x if x.device.type == "cpu" else x.contiguous(memory_format=memory_format(x)))


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, groups, _eps, save = rest
    return _fake_like(x), x.new_empty(_saved_numel(x, groups) if save else 0, dtype=torch.float32)


def _fake_backward(dy: Tensor, x: Tensor, saved: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *weights, gain, _groups, _eps = rest
    like = [*weights, x.new_empty(0) if gain is None else gain]
    return _fake_like(x), *(tensor.new_empty(tensor.shape) for tensor in like)


class _Differentiable(torch.autograd.Function):
    # By hand, because what `torch.library.register_autograd` makes takes longer than the kernel on a small map.
    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        *parameters, ctx.groups, ctx.eps, _ = rest
        with torch._C._AutoDispatchBelowAutograd():
            y, saved = torch.ops.foveal.ema.default(x, *parameters, ctx.groups, ctx.eps, True)
        ctx.save_for_backward(x, saved, *parameters)
        ctx.mark_non_differentiable(saved)
        return y, saved

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, saved, *parameters = ctx.saved_tensors
        *gradients, dgain = torch.ops.foveal.ema_backward.default(dy, x, saved, *parameters, ctx.groups, ctx.eps)
        return *gradients, None if parameters[-1] is None else dgain, None, None, None


def _autograd(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (x, *rest)):
        return _Differentiable.apply(x, *rest)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.foveal.ema.default(x, *rest)


def _autograd_backward(dy: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (dy, *rest)):
        raise UserError(
            "EMA's kernel has no second derivative", 'set form="reference" on the attention, which has every one'
        )
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.foveal.ema_backward.default(dy, *rest)


def flops(x: Sequence[int], conv1x1: Sequence[int], *_: object, **__: object) -> int:
    """What torch counts of `fast` for these shapes: products and convolutions, a multiply-accumulate as two."""
    batch, channels, height, width = x
    per_group = conv1x1[0]
    slabs = batch * channels // per_group
    strips = slabs * per_group**2 * (height + width)
    pooled = 9 * per_group**2 * (slabs + 1)
    return 2 * (strips + pooled + 9 * batch * channels * height * width)


def _flops_backward(
    dy: Sequence[int], x: Sequence[int], saved: Sequence[int], conv1x1: Sequence[int], *_: object, **__: object
) -> int:
    return 2 * flops(x, conv1x1)  # of a product two gradients are taken, each as much work


_library.impl("ema", _cpu_forward, "CPU")
_library.impl("ema", _cuda_forward, "CUDA")
_library.impl("ema_backward", _cpu_backward, "CPU")
_library.impl("ema_backward", _cuda_backward, "CUDA")
_library.impl("ema", _autograd, "Autograd")
_library.impl("ema_backward", _autograd_backward, "Autograd")
torch.library.register_fake("foveal::ema", _fake_forward, lib=_library)
torch.library.register_fake("foveal::ema_backward", _fake_backward, lib=_library)
register_flop_formula(torch.ops.foveal.ema)(flops)
register_flop_formula(torch.ops.foveal.ema_backward)(_flops_backward)
