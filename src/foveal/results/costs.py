"""What an attention costs beside what it brings: parameters, FLOPs, milliseconds, memory, time of training."""

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn

from ..bench import timing
from ..files import MALFORMED, write_text
from ..study import Plan, Result, Study
from ..tensors import counted
from .schema import Cost

FILE = "costs.json"
AGAIN = "baseline again"  # against which its first time shows how steady the machine is
STEADY = 0.25  # distance of the quartiles of a ratio, over its median, beyond which it says nothing
ITSELF = 0.1  # by which the baseline may seem slower or faster than itself


@dataclass(frozen=True)
class Deployed:
    """What one trained model of an arm costs where it is used; the fields are those of `Cost`."""

    flops: int | None
    image_size: int
    milliseconds: timing.Quartiles | None = None
    latency_ratio: timing.Quartiles | None = None
    runtime: str | None = None


def costs(study: Study, found: Mapping[tuple[str, int], Result]) -> dict[str, Cost]:
    """What each arm costs, by name.

    Parameters, memory and time of training are its cells'. The rest is of one trained model of each arm: what `timed`
    kept, or else the FLOPs of one image, which are counted now.

    Args:
        study: whose folder keeps times.
        found: its finished cells.
    """
    weights = _weights(study, found)
    kept = _kept(study.folder / FILE)
    return _table(study, found, kept if set(kept) == set(weights) else _Models(study.plan, weights, found).counted())


def timed(study: Study) -> dict[str, Cost]:
    """The same with the milliseconds that one image takes, which are kept in a file unless they are there.

    Times need a machine that does nothing else.
    """
    found = study.results()
    weights, kept = _weights(study, found), _kept(study.folder / FILE)
    if set(kept) != set(weights) or any(cost.milliseconds is None for cost in kept.values()):
        kept = _Models(study.plan, weights, found).timed()
        write_text(study.folder / FILE, json.dumps({arm: asdict(cost) for arm, cost in kept.items()}, indent=1) + "\n")
    return _table(study, found, kept)


def _table(study: Study, found: Mapping[tuple[str, int], Result], kept: Mapping[str, Deployed]) -> dict[str, Cost]:
    table = {}
    for arm in study.plan.arms:
        mine = [result for (name, _), result in found.items() if name == arm.name]
        deployed = kept.get(arm.name) or Deployed(None, int(study.plan.complete(arm)["imgsz"]))
        table[arm.name] = Cost(
            **asdict(deployed),
            parameters=mine[0].parameters if mine else None,
            peak_bytes=max((result.peak_bytes for result in mine if result.peak_bytes), default=None),
            train_seconds=tuple(result.seconds for result in mine),
        )
    return table


def _weights(study: Study, found: Mapping[tuple[str, int], Result]) -> dict[str, Path]:
    """The best weights of each arm's first finished cell."""
    weights: dict[str, Path] = {}
    for cell in study.cells:
        if (cell.arm.name, cell.pair) in found:
            weights.setdefault(cell.arm.name, study.path(cell) / "weights" / "best.pt")
    return weights


def _kept(path: Path) -> dict[str, Deployed]:
    """What an earlier call kept; nothing where that is not what it wrote."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Deployed])
    except MALFORMED:
        return {}


class _Models:
    """One trained model of each arm, to be measured on one image."""

    def __init__(self, plan: Plan, weights: Mapping[str, Path], found: Mapping[tuple[str, int], Result]):
        host, self._plan, self._device = plan.host, plan, device_of(found)
        self._sizes = {arm.name: int(plan.complete(arm)["imgsz"]) for arm in plan.arms}
        self._models: dict[str, nn.Module] = {
            arm: host.network(path).to(self._device).eval().requires_grad_(False) for arm, path in weights.items()
        }
        self._images = {
            arm: torch.zeros(1, host.channels(model), *2 * (self._sizes[arm],), device=self._device)
            for arm, model in self._models.items()
        }

    def counted(self) -> dict[str, Deployed]:
        """FLOPs of one image, by arm."""
        flops = {}
        for arm, model in self._models.items():
            _, count = counted(functools.partial(model, self._images[arm]))
            flops[arm] = Deployed(count, self._sizes[arm])
        return flops

    def timed(self) -> dict[str, Deployed]:
        """The same and the milliseconds one image takes, the models in turns and as the host deploys them."""
        costs, host = self.counted(), self._plan.host
        deployed = {arm: host.deployed(model) for arm, model in self._models.items()}
        calls = {arm: lambda model=model, image=self._images[arm]: model(image) for arm, model in deployed.items()}
        again = {AGAIN: calls["baseline"]} if "baseline" in calls else {}
        with torch.inference_mode():
            times, _ = timing.interleaved(calls | again, torch.device(self._device), None)
        ratios, fused = _ratios(times), all(host.fuses(arm.model) for arm in self._plan.arms)
        threads = f", {torch.get_num_threads()} threads" if self._device == "cpu" else ""
        runtime = f"torch {torch.__version__}, {self._device}{threads}, batch 1{', fused' if fused else ''}"
        return {
            arm: Deployed(cost.flops, self._sizes[arm], timing.quartiles(times[arm]), ratios.get(arm), runtime)
            for arm, cost in costs.items()
        }


def _ratios(times: Mapping[str, list[float]]) -> dict[str, timing.Quartiles]:
    """Quartiles of the time over the baseline's, by arm, of those that a busy machine leaves something to say of."""
    found = {arm: timing.quartiles(np.divide(of, times["baseline"])) for arm, of in times.items() if AGAIN in times}
    if not found or abs(found[AGAIN][1] - 1) > ITSELF:
        return {}
    return {arm: of for arm, of in found.items() if arm != AGAIN and of[2] - of[0] <= STEADY * of[1]}


def device_of(found: Mapping[tuple[str, int], Result]) -> str:
    """Where the finished cells ran, if this machine has it, too: "cuda" or "cpu"."""
    return "cuda" if torch.cuda.is_available() and any(result.device != "cpu" for result in found.values()) else "cpu"
