"""The old code itself, where it can still be imported: run beside what was made of its weights.

This is the one place where a file's own classes are built and called, and only where a user asked for that.
"""

import contextlib
import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import MOVED
from ..errors import one_line
from ..hosts import ultralytics as host
from ..hosts.ultralytics import tensors
from .recognition import Pasted

_SIZES = ((8, 8), (13, 7), (20, 12))  # rows and columns of the maps
_IMAGES = ((160, 192), (192, 160))  # with more positions than the 300 queries of RT-DETR
ROUNDING = 1e-9  # of two orders of summation in double precision, with much to spare


class CannotRunError(Exception):
    """The old code is not there, or fails."""


def model(source: Path, which: str) -> nn.Module:
    """The model in a checkpoint, made of the classes that it names, which are looked for in the current folder, too.

    Raises:
        CannotRunError: a class is not there, or its module fails.
    """
    with _importable(os.getcwd()), host.tasks.temporary_modules(modules=MOVED), _foreign():
        return torch.load(source, map_location="cpu", weights_only=False)[which].double().eval()


@contextlib.contextmanager
def _importable(folder: str) -> Iterator[None]:
    before = list(sys.path)
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _foreign() -> Iterator[None]:
    """Turn whatever the old code raises into one error; nothing of ours may run inside."""
    try:
        yield
    except Exception as error:
        raise CannotRunError(one_line(error, named=True)) from error


@torch.no_grad()
def apart(old: nn.Module, found: Pasted) -> float:
    """Largest difference of the old layer's outputs and ours, relative to the largest output; infinite at other shapes.

    Raises:
        CannotRunError: the old code accepts none of the sizes that are tried.
    """
    new, failed, largest = found.build(), None, None
    fixed = found.spec.arguments.get("size")  # of attentions with a table of positions
    sizes = [*_SIZES, *([] if fixed is None else [(fixed, fixed) if isinstance(fixed, int) else tuple(fixed)])]
    for seed, size in enumerate(sizes):
        x = _drawn(seed, 2, found.channels, *size)
        try:
            with _foreign():
                there = copy.deepcopy(old)(x.clone())
        except CannotRunError as error:
            failed = error
            continue
        largest = max(largest or 0.0, _difference([there], [new(x)]))
    if failed and largest is None:
        raise failed
    return largest or 0.0


@torch.no_grad()
def whole_apart(old: nn.Module, new: nn.Module, channels: int) -> tuple[float, float]:
    """How far apart two models' outputs on drawn images are, and how far the old one's in single precision are.

    Both are the largest difference in double precision, relative to the largest value of each output.

    Raises:
        CannotRunError: the old model as a whole does not run in this release.
    """
    new, single = copy.deepcopy(new).double().eval(), copy.deepcopy(old).float()
    largest = rounding = 0.0
    for number in range(len(_IMAGES)):
        x = image(channels, number)
        with _foreign():
            there, rounded = old(x), single(x.float())
        largest = max(largest, _difference(tensors(there), tensors(new(x))))
        rounding = max(rounding, _difference(tensors(there), tensors(rounded)))
    return largest, rounding


def image(channels: int, number: int = 0) -> Tensor:
    """A drawn image (1, channels, rows, columns) with values in 0..1, in double precision."""
    return _drawn(number, 1, channels, *_IMAGES[number]).sigmoid()


def _drawn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.3 * torch.randn(*shape, generator=generator, dtype=torch.float64) + 0.4


def _difference(old: list[Any], new: list[Tensor]) -> float:
    """Largest difference, relative to the largest value of each tensor; infinite where shapes or numbers are none."""
    if [getattr(tensor, "shape", None) for tensor in old] != [tensor.shape for tensor in new]:
        return float("inf")
    each = [
        float((a.double() - b.double()).abs().max() / a.abs().max().clamp(min=1e-300))
        for a, b in zip(old, new, strict=True)
    ]
    return max((difference if difference == difference else float("inf") for difference in each), default=float("inf"))
