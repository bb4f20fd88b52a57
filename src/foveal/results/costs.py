"""What an attention costs beside what it brings: parameters, FLOPs, milliseconds, memory, time of training."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ..bench import timing
from ..files import write_text
from ..study import Plan, Result, Study

FILE = "costs.json"
AGAIN = "baseline again"  # against which its first time shows how steady the machine is
STEADY = 0.25  # distance of the quartiles of a ratio, over its median, beyond which it says nothing
ITSELF = 0.1  # by which the baseline may seem slower or faster than itself
NOTHING = dict.fromkeys(("flops", "image_size", "milliseconds", "latency_ratio", "runtime"))


def costs(study: Study, found: Mapping[tuple[str, int], Result], measure: bool = False) -> dict[str, dict[str, object]]:
    """What each arm costs, by name.

    Parameters, memory and time of training are its cells'. FLOPs of one image, and the milliseconds it takes, are of
    one trained model of each arm and kept in a file, because times need a machine that does nothing else.

    Args:
        study: whose folder keeps the file.
        found: its finished cells.
        measure: take the times now, unless they are there.
    """
    size = int(study.plan.settings["imgsz"])
    weights: dict[str, Path] = {}
    for cell in study.cells:
        if (cell.arm.name, cell.pair) in found:
            weights.setdefault(cell.arm.name, study.path(cell) / "weights" / "best.pt")
    kept = _kept_costs(study.folder / FILE)
    if set(kept) != set(weights) or (measure and any(cost["milliseconds"] is None for cost in kept.values())):
        kept = _measure(study.plan, weights, size, device_of(found), measure)
        text = json.dumps(kept, indent=1) + "\n"
        write_text(study.folder / FILE, text)
    table = {}
    for arm in study.plan.arms:
        mine = [result for (name, _), result in found.items() if name == arm.name]
        peaks = [result.peak_bytes for result in mine if result.peak_bytes]
        table[arm.name] = {
            "parameters": mine[0].parameters if mine else None,
            **kept.get(arm.name, {**NOTHING, "image_size": size}),
            "peak_bytes": max(peaks, default=None),
            "train_seconds": [result.seconds for result in mine],
        }
    return table


def _kept_costs(path: Path) -> dict[str, dict]:
    """What an earlier call kept; nothing where that is not what it wrote."""
    try:
        kept = json.loads(path.read_text())
        return kept if all(_is_cost(cost) for cost in kept.values()) else {}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _is_cost(cost: object) -> bool:
    if not isinstance(cost, dict) or set(cost) != set(NOTHING):
        return False
    spreads = [cost[key] for key in ("milliseconds", "latency_ratio")]
    numbers = [
        cost["flops"],
        cost["image_size"],
        *(n for spread in spreads if isinstance(spread, list) for n in spread),
    ]
    return (
        all(type(number) in (int, float) for number in numbers)
        and all(spread is None or (isinstance(spread, list) and len(spread) == 3) for spread in spreads)
        and (cost["runtime"] is None or isinstance(cost["runtime"], str))
    )


@torch.inference_mode()
def _measure(plan: Plan, weights: dict[str, Path], size: int, device: str, timed: bool) -> dict[str, dict[str, object]]:
    """FLOPs of one image, and the milliseconds it takes, the models in turns and as the host deploys them."""
    host, fused = plan.host, all(plan.host.fuses(arm.model) for arm in plan.arms)
    models = {arm: host.network(path).to(device).eval().requires_grad_(False) for arm, path in weights.items()}
    images = {arm: torch.zeros(1, host.channels(model), size, size, device=device) for arm, model in models.items()}
    flops = {}
    for arm, model in models.items():
        with FlopCounterMode(display=False) as counter:
            model(images[arm])
        flops[arm] = counter.get_total_flops()
    times = {}
    if timed:
        deployed = {arm: host.deployed(model) for arm, model in models.items()}
        calls = {arm: lambda model=model, image=images[arm]: model(image) for arm, model in deployed.items()}
        again = {AGAIN: calls["baseline"]} if "baseline" in calls else {}
        times, _ = timing.interleaved(calls | again, torch.device(device), None)
    ratios = _ratios(times)
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    runtime = f"torch {torch.__version__}, {device}{threads}, batch 1{', fused' if fused else ''}"
    return {
        arm: {
            "flops": flops[arm],
            "image_size": size,
            "milliseconds": list(timing.quartiles(times[arm])) if timed else None,
            "latency_ratio": ratios.get(arm),
            "runtime": runtime if timed else None,
        }
        for arm in models
    }


def _ratios(times: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Quartiles of the time over the baseline's, by arm, of those that a busy machine leaves something to say of."""
    found = {arm: timing.quartiles(np.divide(of, times["baseline"])) for arm, of in times.items() if AGAIN in times}
    if not found or abs(found[AGAIN][1] - 1) > ITSELF:
        return {}
    return {arm: list(of) for arm, of in found.items() if arm != AGAIN and of[2] - of[0] <= STEADY * of[1]}


def device_of(found: Mapping[tuple[str, int], Result]) -> str:
    """Where the finished cells ran, if this machine has it, too: "cuda" or "cpu"."""
    return "cuda" if torch.cuda.is_available() and any(result.device != "cpu" for result in found.values()) else "cpu"
