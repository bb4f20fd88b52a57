"""EMA's C++ kernel, called with tensors of torch."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from . import library

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
STATS = 4  # numbers saved of each channel of each sample
MAP = 0.25  # the map is saved for the backward pass if it takes at most so much of the input's bytes

_Pointer = ctypes.c_void_p


def why_not(x: Tensor) -> str:
    """Why the kernel cannot run on `x`, in one sentence, or ""."""
    if _LIBRARY is None:
        return library.NOT_BUILT
    if x.dtype not in DTYPES:
        return f"the kernel takes float32, bfloat16 and float16, but x is {str(x.dtype).removeprefix('torch.')}"
    return ""


def saved_numel(x: Tensor, groups: int) -> int:
    """How many fp32 numbers `forward` saves for `backward`."""
    batch, channels, height, width = x.shape
    return batch * (STATS * channels + (groups * height * width if _keeps_map(x, groups) else 0))


def forward(
    x: Tensor, weights: Sequence[Tensor], gain: Tensor | None, groups: int, eps: float, save: bool
) -> tuple[Tensor, Tensor]:
    """The output, in the memory format of x, and what `backward` needs beside x.

    Args:
        x: (B, C, H, W), of any strides.
        weights: conv1x1 and its bias, gn and its bias, conv3x3 and its bias, of any dtype.
        gain: (C,), for x + gain * (EMA of x - x).
        groups: that share the weights.
        eps: of the norm.
        save: False gives an empty second tensor.
    """
    y = torch.empty_like(x)
    saved = torch.empty(saved_numel(x, groups) if save else 0, dtype=torch.float32)
    if x.numel():
        assert _LIBRARY  # or `why_not` had something to say
        stats, map_ = _saved(x, saved, groups) if save else (None, None)
        _kept, *pointers = _parameters(weights, gain)
        places = *_place(x), *_place(y)
        _check(_LIBRARY.foveal_ema_forward(*_problem(x, groups), *places, *pointers, eps, stats, map_))
    return y, saved


def backward(
    dy: Tensor, x: Tensor, saved: Tensor, weights: Sequence[Tensor], gain: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, ...]:
    """Gradients of x, in its memory format, of each of the six weights, and of the gain, in their dtypes."""
    dx = torch.empty_like(x)
    like = [*weights, x.new_empty(0) if gain is None else gain]
    gradients = [torch.zeros(tensor.shape, dtype=torch.float32) for tensor in like]
    if x.numel():
        _kept, *pointers = _parameters(weights, gain)
        arrays = (_Pointer * 7)(*(g.data_ptr() for g in gradients))
        places = *_place(x), *_place(dy), *_place(dx)
        stored = _saved(x, saved, groups)
        assert _LIBRARY
        _check(_LIBRARY.foveal_ema_backward(*_problem(x, groups), *places, *pointers, eps, *stored, arrays))
    return dx, *(g.to(tensor.dtype) for g, tensor in zip(gradients, like, strict=True))


# Loaded with this module: what torch.compile traces must find it there.
_LIBRARY = library.load()
_INSTRUCTIONS = _LIBRARY.foveal_ema_instructions() if _LIBRARY else 0


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("EMA's kernel could not get memory for its copy of a group of channels")


def _problem(x: Tensor, groups: int) -> tuple[int, int, int, ctypes.Array[ctypes.c_int64]]:
    batch, channels, height, width = x.shape
    sizes = (ctypes.c_int64 * 5)(batch, groups, channels // groups, height, width)
    return DTYPES[x.dtype], _INSTRUCTIONS, torch.get_num_threads(), sizes


def _place(x: Tensor) -> tuple[int, ctypes.Array[ctypes.c_int64]]:
    return x.data_ptr(), (ctypes.c_int64 * 4)(*x.stride())


def _parameters(
    weights: Sequence[Tensor], gain: Tensor | None
) -> tuple[list[Tensor], ctypes.Array[ctypes.c_void_p], int | None]:
    """Weights and gain in fp32, to be kept alive, and their addresses."""
    given = weights if gain is None else [*weights, gain]
    kept = [t if t.dtype is torch.float32 and t.is_contiguous() else t.float().contiguous() for t in given]
    return kept, (_Pointer * 6)(*(t.data_ptr() for t in kept[:6])), None if gain is None else kept[6].data_ptr()


def _keeps_map(x: Tensor, groups: int) -> bool:
    return 4 * groups <= MAP * x.element_size() * x.shape[1]


def _saved(x: Tensor, saved: Tensor, groups: int) -> tuple[int, int | None]:
    """Addresses of the statistics and of the map in what is saved."""
    stats = saved.data_ptr()
    return stats, stats + 4 * STATS * x.shape[0] * x.shape[1] if _keeps_map(x, groups) else None
