"""Ultralytics' predictor and validator, run on a copy of a network and without talk."""

import contextlib
import copy
import operator
from collections.abc import Callable, Iterator
from os import PathLike

from torch import nn

from ...errors import UserError, one_line
from ...evidence import Says, Task
from . import models as host  # before Ultralytics itself, because it says if that is missing or too old

# isort: split
from ultralytics.models.rtdetr import RTDETRPredictor
from ultralytics.utils import LOGGER


def predictor(model: host.YOLO | host.RTDETR, **settings):
    """The host's predictor for a model, ready to run on a copy of it: `model` stays as it is.

    Args:
        model: a loaded model.
        settings: `imgsz`, `device`, `conf`, ...

    Raises:
        UserError: the host refuses the settings, such as a device that is not there.
    """
    defaults = {"mode": "predict", "task": model.task, "rect": True, "batch": 1, "save": False, "verbose": False}
    with _refusing():
        made = model.task_map[model.task]["predictor"](overrides={**defaults, **settings})
        made.setup_model(copy.deepcopy(model.model), verbose=False)
    return made


def predict(predictor, image: PathLike):
    """The host's result for one image.

    Raises:
        UserError: the host cannot, for example because its images are too small for the model.
    """
    with _refusing():
        (result,) = predictor(source=str(image))
    return result


def stretches(predictor) -> bool:
    """Whether a predictor brings images to its size without keeping their proportions."""
    return isinstance(predictor, RTDETRPredictor) or getattr(predictor, "scale_fill", False)


def evaluate(
    model: host.YOLO | host.RTDETR, network: nn.Module, before_batch: Callable[[], None] | None = None, **settings
) -> float:
    """The host's verdict on a network: mAP50-95 of its boxes, or the `figure` of another task.

    Args:
        model: which task it has.
        network: judged; the host fuses it, so give a copy.
        before_batch: called before each batch.
        settings: `data`, `split`, `imgsz`, `batch`, `device`, `project`, ...

    Raises:
        UserError: the host refuses the settings or the data.
    """
    task = Task.of(model.task)
    quiet = {"plots": False, "save_json": False, "verbose": False}
    defaults = {"mode": "val", "task": task.name, "rect": task.says is not Says.CLASS, **quiet}
    with _refusing(), _without_talk():
        validator = model.task_map[model.task]["validator"](args={**defaults, **settings})
        if before_batch:
            validator.add_callback("on_val_batch_start", lambda _: before_batch())
        validator(model=network)
    return float(operator.attrgetter(task.figure[1])(validator.metrics))


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Say what the host says of data, settings or images that it cannot use."""
    try:
        yield
    except host.UNREADABLE as error:
        said = f"Ultralytics refuses: {one_line(error)}"
        raise UserError(said, "try the same with foveal yolo predict or val") from None


@contextlib.contextmanager
def _without_talk() -> Iterator[None]:
    """The host's log and progress bars say nothing but warnings."""
    level = LOGGER.level
    LOGGER.setLevel("WARNING")
    try:
        yield
    finally:
        LOGGER.setLevel(level)
