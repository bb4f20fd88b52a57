"""How long a study will take, from one step of each arm: to be read before the hours are spent."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..bench import timing
from ..errors import UserError
from .arms import Arm
from .plan import Plan

STRIDE = 32
FEW = 2  # images in a measured step on a CPU, where one more costs as much as the one before
CALLS = 2  # of which the faster counts, because others may use the machine


@dataclass(frozen=True)
class Forecast:
    """What the models of a study take; what loads and augments their images comes on top.

    Attributes:
        seconds: of one training of each arm, judging included.
        hours: of all trainings, one after the other.
        images: in an epoch.
        device: that was measured.
        most: whether arms may have their word before the last look, and take less.
    """

    seconds: dict[str, float]
    hours: float
    images: int
    device: str
    most: bool = False

    def __str__(self) -> str:
        time = _rounded(self.hours, "CPU" if self.device == "cpu" else "GPU")
        said = f"{'at most' if self.most else 'about'} {time} by a measured step of each arm"
        return f"{said}, {self.images:,} images in an epoch; loading them comes on top"


def forecast(plan: Plan, device: str, tell: Callable[[str], object] = lambda _: None) -> Forecast | None:
    """Measure a step of each arm; None where the number of images is unknown, or the device is elsewhere or full.

    Args:
        plan: whose data may be elsewhere, if its `paper` says how many images that has.
        device: as the host takes it; of several, the first.
        tell: is told what is measured next.

    Raises:
        UserError: an arm that cannot take a step.
    """
    images = counted(plan)
    chosen_on = next((images[split] for split in ("val", "test") if split in images), None)
    place = _place(device.partition(",")[0])
    if "train" not in images or chosen_on is None or place is None:
        return None
    seconds = {}
    for arm in plan.arms:
        tell(f"measuring a step of {arm.name}")
        epochs, measured = plan.epochs(arm), _seconds_an_image(plan, arm, place)
        if measured is None:
            return None
        training, judging = measured
        judged = chosen_on * (epochs + 1) + 2 * images.get(plan.split, chosen_on)
        seconds[arm.name] = training * images["train"] * epochs + judging * judged
    hours = sum(seconds.values()) * len(plan.seeds) / 3600
    return Forecast(seconds, hours, images["train"], place.type, len(plan.looks) > 1)


def _place(device: str) -> torch.device | None:
    if device.isdecimal():
        return torch.device("cuda", int(device)) if int(device) < torch.cuda.device_count() else None
    return torch.device("cpu") if device == "cpu" else None


def counted(plan: Plan) -> Mapping[str, int]:
    """Images in each split, of the data if they are here, else as the paper has them; with folds those of a pair."""
    try:
        images: Mapping[str, int] = {split: len(plan.dataset.images(split)) for split in plan.dataset.splits}
    except UserError:
        images = plan.paper.images if plan.paper else {}
    return plan.folds.shares(images) if plan.folds else images


def _seconds_an_image(plan: Plan, arm: Arm, device: torch.device) -> tuple[float, float] | None:
    """Seconds that an image takes in training, and in a forward pass; None where the device has too little memory."""
    settings = plan.complete(arm)
    count = min(settings["batch"], FEW) if device.type == "cpu" else settings["batch"] // plan.devices_per_cell
    size = STRIDE * math.ceil(settings["imgsz"] / STRIDE)  # as the host rounds it
    step, forward = plan.host.step(arm.model, arm.spec, plan.task, settings, count, size, device)
    try:
        return _fastest(step, device) / count, _fastest(forward, device) / count
    except torch.OutOfMemoryError:  # the host would go on with smaller batches
        return None


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    times, _ = timing.interleaved({"": call}, device, CALLS)
    return min(times[""]) / 1000


def _rounded(hours: float, device: str) -> str:
    if hours < 0.1:
        return f"{60 * hours:.2g} {device} minutes" if hours > 1 / 60 else f"{3600 * hours:.2g} {device} seconds"
    return (f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}") + f" {device} hours"
