"""How much of a model's score do the maps of its attentions carry? A gate that is frozen to its mean has no map.

An attention that multiplies, `out = x * f(x)`, keeps the mean of f for each channel. Whether it multiplies is found by
trying: what is zero in the input must then be zero in the output, whatever else the input holds; the channels of the
output may be in another order. Any other attention keeps the mean of what it adds, `attention(x) - x`. The gain of an
identity start stays as it was trained in both cases.
"""

import copy
import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attention import Attention
from ..evidence import Task
from ..hosts import ultralytics as host
from ..hosts.ultralytics import evaluate


@dataclass(frozen=True)
class Frozen:
    """What stands for an attention's map.

    Attributes:
        source: (C,), the input channel that each output channel multiplies; None for an attention that adds.
        mean: (C,), of the factor, or of what is added.
    """

    source: Tensor | None
    mean: Tensor

    @property
    def kind(self) -> str:
        """Either "multiplied" or "added"."""
        return "added" if self.source is None else "multiplied"

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) as the attention would leave it if its map were flat."""
        mean = self.mean.to(x.device, x.dtype).view(-1, 1, 1)
        return x + mean if self.source is None else x[:, self.source.to(x.device)] * mean


def attentions(network: host.Network) -> list[Attention]:
    """All attentions of a network in order; one that is part of another is not one of its own."""
    return [attention for row in network.model for attention in inside(row)]


def inside(module: nn.Module) -> list[Attention]:
    """All attentions in a module, in order."""
    if isinstance(module, Attention):
        return [module]
    return [attention for child in module.children() for attention in inside(child)]


@torch.no_grad()
def multiplied(attention: Attention, size: tuple[int, int]) -> Tensor | None:
    """Which input channel each output channel is a multiple of, (C,); None if the attention does not multiply.

    Args:
        attention: in evaluation mode; stays as it is.
        size: height and width of the map to try it on.
    """
    like = next(attention.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, attention.channels, *size, generator=generator).to(like)
    numbers = torch.arange(1, attention.channels + 1, device=x.device)
    found = torch.zeros_like(numbers)
    for bit in range(attention.channels.bit_length()):  # switch off the channels whose number has this bit
        out = attention(x * ((numbers >> bit) & 1 == 0).view(-1, 1, 1))
        found += (out == 0).all(0).all(1).all(1).long() << bit
    if not torch.equal(found.sort().values, numbers):
        return None
    kept = (torch.rand(x.shape, generator=generator) < 0.9).to(x.device)
    out = attention(x * kept)
    return None if out[~kept[:, found - 1]].any() else found - 1


def factor(attention: Attention, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """What the attention multiplies `x` by, (B, C, H, W) in fp64, and where `x` is not zero, so that this is known."""
    read = x[:, source].double()
    known = read != 0
    return attention.forward(x).double() / torch.where(known, read, 1.0), known


class _Means:
    """Means over all images and positions, for each attention of a network and each of its channels."""

    def __init__(self, network: nn.Module):
        self.found = attentions(network)
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, Tensor] = {}
        self.sources: dict[int, Tensor | None] = {}
        self.open = False  # the host runs a network once before it evaluates it
        for index, attention in enumerate(self.found):
            attention.register_forward_pre_hook(self._hook(index))

    def _hook(self, index: int) -> Callable[[Attention, tuple], None]:
        # A function, which is the same in a copy of the network: the host evaluates one.
        return lambda attention, arguments: self._add(index, attention, arguments[0])

    def start(self) -> None:
        """What comes from now on is data."""
        self.open = True

    def _add(self, index: int, attention: Attention, x: Tensor) -> None:
        if not self.open:
            return
        if index not in self.sources:
            self.open = False  # what is tried out now is no data
            self.sources[index] = multiplied(attention, (x.shape[2], x.shape[3]))
            self.open = True
        if (source := self.sources[index]) is None:
            value, known = attention.forward(x).double() - x.double(), torch.ones_like(x, dtype=torch.bool)
        else:
            value, known = factor(attention, x, source)
        total, count = (value * known).sum((0, 2, 3)).cpu(), known.sum((0, 2, 3)).cpu()
        self.sums[index] = self.sums.get(index, 0) + total
        self.counts[index] = self.counts.get(index, 0) + count

    def frozen(self) -> list[Frozen]:
        """What each attention is replaced by; a factor that was never seen is 1."""
        results = []
        for index in range(len(self.found)):
            source, count = self.sources[index], self.counts[index]
            mean = torch.where(count > 0, self.sums[index] / count.clamp(min=1), 0.0 if source is None else 1.0)
            results.append(Frozen(source if source is None else source.cpu(), mean))
        return results


def _forward(replacement: Callable[[Tensor], Tensor], x: Tensor, gain: Tensor | None = None) -> Tensor:
    out = replacement(x)
    return out if gain is None else x + gain.view(-1, 1, 1).to(x.dtype) * (out - x)


def replaced(network: nn.Module, replacements: dict[int, Callable[[Tensor], Tensor]]) -> nn.Module:
    """A copy of a network in which some attentions, by their place in the network, do something else."""
    network = copy.deepcopy(network)
    for index, attention in enumerate(attentions(network)):
        if index in replacements:  # on the object, so that whatever surrounds the attention stays
            vars(attention)["forward"] = functools.partial(_forward, replacements[index])
    return network


def _identity(x: Tensor) -> Tensor:
    return x


def ablate(model: host.YOLO | host.RTDETR, ids: Sequence[str], data: str, split: str, **settings) -> dict:
    """Evaluate a model, and again with the gate of each attention frozen, and with the attention taken out.

    Args:
        model: stays as it is.
        ids: a name for each attention, in order.
        data: a data file, or a folder for classification.
        split: of it.
        settings: for the host's validator: `imgsz`, `batch`, `device`.

    Returns:
        "metric" and its value "trained", and for each attention, and for "all" at once, what is left when its gate is
        "frozen" to the mean over this data and when it is "removed"; as fractions.

    Raises:
        UserError: data that the host refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings |= {"data": data, "split": split, "project": folder, "name": "val", "exist_ok": True}
        network = copy.deepcopy(model.model)
        means = _Means(network)
        trained = evaluate(model, network, means.start, **settings)
        frozen = means.frozen()

        def score(replacements: dict) -> float:
            return evaluate(model, replaced(model.model, replacements), **settings)

        rows = []
        for index, each in enumerate(frozen):
            scores = {"frozen": score({index: each}), "removed": score({index: _identity})}
            rows.append({"attention": ids[index], "kind": each.kind, **scores})
        everywhere = {key: rows[0][key] for key in ("frozen", "removed")}
        if len(rows) > 1:
            everywhere = {
                "frozen": score(dict(enumerate(frozen))),
                "removed": score(dict.fromkeys(range(len(frozen)), _identity)),
            }
    return {
        "data": data,
        "split": split,
        "metric": Task.of(model.task).figure[0],
        "trained": trained,
        "rows": rows,
        "all": everywhere,
    }
