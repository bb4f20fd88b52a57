"""What a rule of the contract says when it is tried, and on what it is tried."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from ..attention import Attention, find
from ..errors import UserError, one_line
from ..surgery import Spec

WIDTH = 64  # channels at which most rules are tried; a YOLO of scale n has such rows at P3


class State(str, Enum):
    """How a rule fared."""

    OK = "ok"
    NOTE = "note"  # worth knowing; nothing breaks
    FAILS = "fails"
    UNTRIED = "not tried"

    __str__ = str.__str__  # in a sentence it is its word, in every release of Python


@dataclass(frozen=True)
class Finding:
    """What one rule found.

    Attributes:
        rule: its name.
        state: how it fared.
        said: what was seen.
        matters: what goes wrong because of it, and for whom; "" where nothing does.
        hint: what to change; "" where there is nothing.
    """

    rule: str
    state: State
    said: str
    matters: str = ""
    hint: str = ""


@dataclass
class Subject:
    """An attention under examination.

    Attributes:
        spec: of it.
        width: at which it is built.
        made: its class.
    """

    spec: Spec
    width: int = WIDTH
    made: type[Attention] = field(init=False)

    def __post_init__(self) -> None:
        self.made = find(self.spec.name)

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float64, width: int = 0) -> Attention:
        """A module in evaluation mode, its weights drawn from a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.made(width or self.width, **self.spec.arguments).eval().to(dtype)
            for parameter in module.parameters():  # what starts at 0 or 1 would hide what it multiplies
                parameter.data += 0.1 * torch.randn(parameter.shape, dtype=dtype)
        return module

    def draw(self, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """A map, the same in each process."""
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (1.3 * x + 0.4).to(dtype)


Rule = Callable[[Subject], Finding]


class Broken(Exception):
    """The class's own forward raised something, in words."""


def run(module: Attention, x: Tensor) -> Tensor:
    """What a module makes of a map.

    Raises:
        Broken: it raised something.
    """
    out: Tensor
    out, said = tried(module, x)
    if said:
        raise Broken(said)
    return out


def tried(call: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a call into somebody's class returns, and what it raises, in words; "" where it raises nothing."""
    try:
        return call(*arguments), ""
    except UserError as error:
        return None, error.message
    except Exception as error:  # which is the class's own, whatever it is
        return None, re.split(r"\.\.|\. ", one_line(error, named=True))[0]


def apart(some: Tensor, others: Tensor) -> float:
    """Largest difference between two maps, relative to the largest value of the second; infinite for other shapes."""
    if some.shape != others.shape:
        return float("inf")
    if not some.numel():
        return 0.0
    largest = float((some.detach().double() - others.detach().double()).abs().max())
    return largest / max(1.0, float(others.detach().double().abs().max()))
