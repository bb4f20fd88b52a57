"""The gates of a network's attentions on one image: taken, measured and drawn."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention import Attention, find
from ..hosts import ultralytics as host
from ..hosts.ultralytics import prediction
from ..surgery import Spec, attachment, model_yaml
from . import ablation, pictures
from .cam import METHOD, Pair
from .pictures import Frame

DRAWS = 4  # fresh modules over which "initial" is a mean
AXES = {"columns": 0, "rows": 1}  # of a photograph: x, y


@dataclass(frozen=True)
class Site:
    """An attention of a network.

    Attributes:
        id: row of the model, and number within the row: "16.0".
        row: of the model.
        layer: class of the row's layer without attentions.
        attention: the module.
        outer: the module with its identity start, or the attention itself.
        spec: its text in the model's rows; None if it was attached by hand.
        fresh: attentions of the same text with weights of their own.
        source: as of `ablation.multiplied`, found on a small map.
    """

    id: str
    row: int
    layer: str
    attention: Attention
    outer: nn.Module
    spec: Spec | None
    fresh: tuple[Attention, ...]
    source: Tensor | None

    @property
    def gain(self) -> Tensor | None:
        """(C,), of an identity start."""
        return self.outer.gain.detach() if isinstance(self.outer, attachment.IdentityStart) else None


def sites(network: host.Network) -> list[Site]:
    """All attentions of a network, in evaluation mode."""
    written = host.split(network.yaml)[1]
    found = []
    for row, layer in enumerate(network.model):
        inside = ablation.inside(layer)
        specs = written[row].read(inside[0].channels, model_yaml.scaled(network.yaml)) if row in written else ()
        specs = specs * (len(inside) // len(specs)) if specs else ()
        starts = {
            module.attention: module for module in layer.modules() if isinstance(module, attachment.IdentityStart)
        }
        base = attachment.class_name(layer)
        for number, attention in enumerate(inside):
            spec = specs[number] if len(specs) == len(inside) else None
            spec = spec if spec and isinstance(attention, find(spec.name)) else None
            fresh = tuple(_fresh(attention, spec, seed) for seed in range(DRAWS)) if spec else ()
            source, outer = ablation.multiplied(attention, (8, 8)), starts.get(attention, attention)
            found.append(Site(f"{row}.{number}", row, base, attention, outer, spec, fresh, source))
    return found


def _fresh(attention: Attention, spec: Spec, seed: int) -> Attention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = type(attention)(attention.channels, **spec.arguments).eval()
    like = next(attention.parameters(), None)
    return made if like is None else made.to(like)


def features(predictor, attentions: Sequence[Site], file: Path) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """Let the host predict on an image.

    Returns:
        The host's result, the (1, 3, H, W) that the network read, and by id the (1, C, H, W) that each attention read.
    """
    read = {}

    def keep(name: str):
        return lambda _, arguments: read.update({name: arguments[0].detach()})

    network = predictor.model.model
    hooks = [each.attention.register_forward_pre_hook(keep(each.id)) for each in attentions]
    hooks.append(network.register_forward_pre_hook(keep("image")))
    try:
        result = prediction.predict(predictor, file)
    finally:
        for hook in hooks:
            hook.remove()
    read = {name: tensor.clone() for name, tensor in read.items()}  # out of the host's inference mode
    return result, read.pop("image"), read


# Numbers -------------------------------------------------------------------------------------------------------------


@dataclass
class Pool:
    """Mean, variance and extremes of all values that were given in turn, and the mean of fresh ones."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean
    low: float = np.inf
    high: float = -np.inf
    initial: float = 0.0

    def add(self, values: np.ndarray, initial: float | None) -> None:
        """Take in values of any shape, and the mean of as many fresh ones."""
        size, mean = values.size, float(values.mean())
        whole, apart = self.count + size, mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + apart**2 * self.count * size / whole
        self.mean += apart * size / whole
        self.initial += ((np.nan if initial is None else initial) - self.initial) * size / whole
        self.count, self.low, self.high = whole, min(self.low, values.min()), max(self.high, values.max())

    def numbers(self) -> dict[str, float | None]:
        """As they stand in the manifest."""
        deviation = (self.squares / self.count) ** 0.5 if self.count else None
        found = {"mean": self.mean, "deviation": deviation, "low": self.low, "high": self.high, "initial": self.initial}
        return {key: number(value) for key, value in found.items()}


def number(value: float | None) -> float | None:
    """As JSON knows it: one that is not finite is missing."""
    return float(value) if value is not None and math.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[float | None]:
    return [number(value) for value in values.tolist()]


def inside(outlines: Sequence[Sequence[Sequence[float]]], frame: Frame, cells: tuple[int, int]) -> np.ndarray:
    """Which cells of a map have their centre in an outline, (rows, columns) of bool.

    Args:
        outlines: convex, each [(x, y), ...] in pixels of the photograph.
        frame: of the photograph.
        cells: of the map, across and down.
    """
    x, y = np.meshgrid(*frame.centres(cells))
    found = np.zeros(x.shape, bool)
    for points in outlines:
        # On one side of all edges; a centre on an edge is inside.
        sides = [
            (bx - ax) * (y - ay) - (by - ay) * (x - ax)
            for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True)
        ]
        found |= np.all([side >= 0 for side in sides], 0) | np.all([side <= 0 for side in sides], 0)
    return found


def compare(values: np.ndarray, outlines: Sequence, frame: Frame) -> dict[str, float | None]:
    """Mean of a map (H, W) over cells in the outlines and over the photograph's other cells; None where there is none.

    Cells in the padding around the photograph count for neither.
    """
    cells = values.shape[::-1]
    within = inside(outlines, frame, cells)
    width, height = frame.size
    seen = inside([[(0, 0), (width, 0), (width, height), (0, height)]], frame, cells)
    parts = {"inside": values[within & seen], "outside": values[~within & seen]}
    return {key: number(part.mean()) if part.size else None for key, part in parts.items()}


# One image -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawing:
    """What all pictures of one image share.

    Attributes:
        folder: of the explanation.
        index: of the image.
        frame: of the photograph.
        pixels: (H, W, 3), the photograph.
        outlines: of the true boxes, or of the ones found.
        labelled: whether they are the true ones.
    """

    folder: Path
    index: int
    frame: Frame
    pixels: np.ndarray
    outlines: Sequence
    labelled: bool

    def _file(self, attention: str, what: str, kind: str = "png") -> str:
        return f"pictures/{self.index:03}-{attention}-{what}.{kind}"

    def _heat(self, values: np.ndarray, scale: str, attention: str, what: str) -> str:
        name = self._file(attention, what)
        pictures.heat(values, scale, self.frame, self.outlines, self.folder / name)
        return name

    def _compared(self, values: np.ndarray) -> dict[str, float | None]:
        return compare(values, self.outlines, self.frame) if self.labelled else {"inside": None, "outside": None}

    def gates(self, site: Site, x: Tensor, pools: dict) -> Iterator[dict]:
        """An entry for each gate; its numbers are added to `pools`."""
        for name, values, initial in _gates(site, x):
            start = None if initial is None else float(initial.mean())
            pool = Pool()
            for each in (pool, pools.setdefault((site.id, name), Pool())):
                each.add(values, start)
            entry = {"attention": site.id, "gate": name, **pool.numbers(), "inside": None, "outside": None}
            if name == "channel":
                entry |= self._channels(site.id, values, initial)
            elif name in AXES:
                entry |= self._profile(site.id, name, values, initial)
            else:
                entry |= self._map(site.id, name, values, initial)
            yield entry

    def _channels(self, attention: str, values: np.ndarray, initial: np.ndarray | None) -> dict:
        picture = self._file(attention, "channel")
        trained, fresh = _numbers(values), None if initial is None else _numbers(initial)
        pictures.channels(trained, fresh, self.folder / picture)
        return {"picture": picture, "values": trained, "initial_values": fresh}

    def _profile(self, attention: str, name: str, values: np.ndarray, initial: np.ndarray | None) -> dict:
        lines = {"mean": values.mean(0), "low": values.min(0), "high": values.max(0)}
        lines["initial"] = None if initial is None else initial.mean(0)
        picture = self._file(attention, name, "jpg")
        pictures.profile(self.pixels, self.frame, AXES[name], lines, self.folder / picture)
        lists = {key: None if line is None else _numbers(line) for key, line in lines.items()}
        return {"picture": picture, "profile": lists}

    def _map(self, attention: str, name: str, values: np.ndarray, initial: np.ndarray | None) -> dict:
        scale, spread, difference = pictures.GATES[name]
        mean = values.mean(0)
        entry = {"picture": self._heat(mean, scale, attention, name), "groups": len(values), **self._compared(mean)}
        if len(values) > 1:
            entry["spread"] = self._heat(values.std(0), spread, attention, f"{name}-spread")
        if initial is not None:
            entry["difference"] = self._heat(mean - initial.mean(0), difference, attention, f"{name}-difference")
        if name in ("spatial", "received") and len(values) > 1:
            strip = self._file(attention, f"{name}-groups")
            entry |= {"strip": strip, "strip_groups": pictures.strip(values, scale, self.frame, self.folder / strip)}
        return entry

    @torch.no_grad()
    def effect(self, site: Site, x: Tensor, pools: dict) -> dict:
        """What the attention does to its input, gain and all."""
        out = site.outer(x)
        change = number(float((out - x).double().norm() / x.double().norm()))
        kind = "added" if site.source is None else "multiplied"
        entry = {"attention": site.id, "kind": kind, "change": change, "picture": None}
        if site.source is not None and (site.gain is None or bool((site.source.diff() == 1).all())):
            factor, known = (part[0].cpu() for part in ablation.factor(site.attention, x, site.source))
            if site.gain is not None:
                factor = 1 + site.gain.cpu().double().view(-1, 1, 1) * (factor - 1)
            if known.any():
                pool = Pool()
                for each in (pool, pools.setdefault((site.id, "effect"), Pool())):
                    each.add(factor[known].numpy(), None)
                entry |= {key: pool.numbers()[key] for key in ("mean", "low", "high")}
                mean = factor.where(known, torch.nan).nanmean(0).numpy()
                compared = self._compared(np.where(np.isfinite(mean), mean, 1))
                entry |= {"picture": self._heat(mean, "factor", site.id, "effect"), **compared}
        return entry

    def cam(self, site: Site, pair: Pair) -> dict:
        """Both activation maps on the scale of the greater."""
        top = float(max(pair.before.max(), pair.after.max()))
        drawn = {
            when: self._heat(values / top if top > 0 else values, "cam", site.id, f"cam-{when}")
            for when, values in (("before", pair.before), ("after", pair.after))
        }
        about = {"method": METHOD, "target": pair.target, "score": number(pair.score), "greatest": number(top)}
        return {"attention": site.id, **drawn, **about}


@torch.no_grad()
def _gates(site: Site, x: Tensor) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Name, values and the mean of fresh ones, without the batch; shares in units of an even one."""
    fresh = [module.gates(x) for module in site.fresh]
    for name, tensor in site.attention.gates(x).items():
        even = x.shape[2] * x.shape[3] if name == "received" else 1
        initial = torch.stack([each[name][0].double() for each in fresh]).mean(0).cpu().numpy() if fresh else None
        yield name, tensor[0].double().cpu().numpy() * even, None if initial is None else initial * even


def summary(site: Site, pools: dict, images: Sequence[dict]) -> dict:
    """An attention's entry in the manifest."""
    gain = site.gain
    found = []
    for (attention, name), pool in pools.items():
        if attention == site.id and name != "effect":
            entries = [
                e for image in images for e in image["gates"] if (e["attention"], e["gate"]) == (attention, name)
            ]
            sides = {side: _mean([entry[side] for entry in entries]) for side in ("inside", "outside")}
            found.append({"name": name, **pool.numbers(), **sides})
    effects = [entry for image in images for entry in image["effects"] if entry["attention"] == site.id]
    effect = {"kind": effects[0]["kind"], "change": _mean([entry["change"] for entry in effects])}
    if pool := pools.get((site.id, "effect")):
        effect |= {key: pool.numbers()[key] for key in ("mean", "low", "high")}
    return {
        "id": site.id,
        "row": site.row,
        "layer": site.layer,
        "name": site.attention.card.name,
        "spec": str(site.spec or site.attention.card.name),
        "channels": site.attention.channels,
        "gain": None
        if gain is None
        else {"mean": float(gain.mean()), "low": float(gain.min()), "high": float(gain.max())},
        "effect": effect,
        "gates": found,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
