"""Attentions inside unmodified Ultralytics: what is registered there, its trainers, its model files.

Importing this module registers them in the host's parser, see `parser`. Nothing of Ultralytics is copied or rewritten,
so a YAML or a checkpoint with attentions then works with `from ultralytics import YOLO`, and the loader that brings
over pretrained weights finds every tensor under its old name.

Every layer with an attention holds a reference to `Registered`. A checkpoint names it, so loading the checkpoint
imports this module: training, resuming and tuning such a file work in a process that never heard of foveal.
"""

import contextlib
import copy
import pickle
import struct
import traceback
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import torch
import yaml
from torch import nn

from ...checkpoints import foreign, require_harmless, unpickling
from ...errors import REFUSALS, UserError, one_line
from ...evidence import CLASSIFY, Task
from ...files import named, write_whole
from ...tensors import digests
from . import parser
from .installed import ultralytics
from .parser import Network, Registered, silent, split, without_lines  # noqa: F401  (`Registered` by checkpoints)

parser.register()  # whose refusal of another parser comes before all that such a host may lack

from ultralytics.models import yolo  # noqa: E402
from ultralytics.models.rtdetr.val import RTDETRValidator  # noqa: E402, F401
from ultralytics.models.yolo.classify import ClassificationValidator  # noqa: E402, F401
from ultralytics.models.yolo.detect import DetectionValidator  # noqa: E402, F401
from ultralytics.models.yolo.obb import OBBValidator  # noqa: E402, F401
from ultralytics.models.yolo.pose import PoseValidator  # noqa: E402, F401
from ultralytics.models.yolo.segment import SegmentationValidator  # noqa: E402, F401
from ultralytics.nn import tasks  # noqa: E402  (for rooms that have no other door to the host)
from ultralytics.utils import ASSETS  # noqa: E402

from .trainers import *  # noqa: E402, F403  (the host's trainers by name, and its models that have trainers)
from .trainers import (  # noqa: E402, F401
    RTDETR,
    YOLO,
    ClassificationTrainer,
    DetectionTrainer,
    OBBTrainer,
    PoseTrainer,
    RTDETRTrainer,
    SegmentationTrainer,
)

if hasattr(yolo, "semantic"):  # which older hosts lack
    SemanticSegmentationValidator = yolo.semantic.SemanticSegmentationValidator

PHOTOGRAPH = ASSETS / "bus.jpg"
SAID = ("train_args", "license", "docs")  # what a checkpoint says besides, and one that is made of it says again
# What a model has besides what its rows say.
SETTINGS = ("names", "args", "task", "nc", "kpt_shape", "kpt_names")

# What releases of the host raise for a model or data that they cannot read: a file that is cut short or something else,
# code that is not there, parts that do not fit.
UNREADABLE = (
    *(*REFUSALS, EOFError, ImportError, MemoryError, SyntaxError, pickle.UnpicklingError, struct.error, yaml.YAMLError),
)


def load(source: str | PathLike, trust: bool = False) -> YOLO | RTDETR:
    """The model in a .pt file, or one built from a model YAML or its name.

    Args:
        source: the file, or a name that the host knows.
        trust: a .pt file whatever it runs when it is loaded; else one that names more than layers is refused.

    Raises:
        UserError: no such file, or not one of a model, or one that is refused.
    """
    source = str(named(source, "a model"))
    if not source.endswith((".pt", ".yaml", ".yml")):
        raise UserError(f"{source!r} is neither a .pt file nor a model YAML", "give one such as yolo11n.pt")
    if source.endswith(".pt") and Path(source).is_file() and not trust:
        require_harmless(Path(source))
    cls = RTDETR if is_rtdetr(source) else YOLO
    with refusing(source, "loaded"):
        try:
            loaded = cls(source)
            if type(loaded.model) is nn.Sequential:  # what the host takes out of a model that is in no checkpoint
                said = f"{source!r} holds a model by itself, as torch.save(model) writes it, and not its checkpoint"
                raise UserError(said, 'save it with YOLO(...).save("model.pt")')
            return loaded
        except OSError:
            if Path(source).exists():
                raise
        # the host looked for it on the network, too
        raise UserError(f"there is no file {source!r}", "the host also knows names such as yolo11n.yaml")


@contextlib.contextmanager
def refusing(source: object, done: str = "used") -> Iterator[None]:
    """Say of a model file that it cannot be loaded or used, where the host fails on what is in it; not where we do.

    Raises:
        UserError: for whatever a model raises whose parts are missing, of other kinds or do not fit.
    """
    try:
        yield
    except UserError:
        raise
    except UNREADABLE as error:
        if _is_ours(error):
            raise
        if elsewhere := foreign.diagnosed(str(source), error):
            raise elsewhere from None
        reason = one_line(error, named=not isinstance(error, OSError))  # a KeyError says no more than the key
        said = f"{str(source)!r} cannot be {done} as a model: {reason}"
        raise UserError(said, "give one such as yolo11n.pt") from None


def _is_ours(error: Exception) -> bool:
    """Whether foveal's own code raised an error, which then is a fault of foveal's and not of the user's file."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]


def is_rtdetr(source: str) -> bool:
    """Whether a file or name is one of RT-DETR's: by its name, as the host tells it, or by the rows of a YAML."""
    path = Path(source)
    if "rtdetr" in path.stem.lower():
        return True
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.suffix != ".pt" and "RTDETRDecoder" in path.read_text(encoding="utf-8")
    return False


# How the names of models that the host knows end, by task.
_ENDINGS = {"cls": CLASSIFY, "seg": "segment", "pose": "pose", "obb": "obb", "sem": "semantic", "depth": "depth"}


def task(source: str) -> Task:
    """What the model in a file is for, of which nothing is run or built.

    By its name where there is no such file yet, or none that can be read: whoever loads it says what is wrong with it.

    Raises:
        UserError: rows of a YAML that are no model's.
    """
    path, rows = Path(source), None
    if path.suffix != ".pt":
        with contextlib.suppress(*UNREADABLE):
            rows = tasks.yaml_model_load(source)
    elif path.is_file():
        with contextlib.suppress(UserError), refusing(source):
            model = unpickling.read(path, tensors=False).model
            rows = model and model.state.get("yaml")
    if rows:
        with refusing(source):
            return Task.of(tasks.guess_model_task(rows) or "detect")
    return Task.of(next((of for end, of in _ENDINGS.items() if f"-{end}" in path.stem), "detect"))


def rebuild(model: nn.Module, cfg: dict, width: int | None = None) -> nn.Module:
    """A new model of the same kind from other rows, with fresh weights and the names and settings of `model`.

    Args:
        model: like which it is.
        cfg: the rows.
        width: of the branches for classes in the head of `model`, where it has no layers that tell. By rows it depends
            on the number of classes, but recent hosts keep the width of the weights that a training starts from.
    """
    channels = cfg.get("channels", 3)
    built: Network = type(model)(copy.deepcopy(cfg), ch=channels, nc=cfg["nc"], verbose=False)
    width = width or class_width(model)
    if width and class_width(built) not in (None, width):
        with silent():  # a host that keeps widths takes them from any weights
            built.load(type(model)(copy.deepcopy(cfg), ch=channels, nc=width, verbose=False), verbose=False)
    for name in SETTINGS:
        if hasattr(model, name):
            setattr(built, name, copy.deepcopy(getattr(model, name)))
    return built


def class_width(model: Network) -> int | None:
    """Channels that the last convolutions of the head's branches for classes read; None for a head without them."""
    layers = vars(model).get("_modules", {}).get("model")
    branches = getattr(layers[-1], "cv3", None) if layers else None
    last = branches[0][-1] if branches else None
    return last.in_channels if isinstance(last, nn.Conv2d) else None


def channels(model: Network) -> int:
    """How many an image must have that the model reads: as many as the data that it was trained on."""
    return model.yaml.get("channels", 3)


def blocks(channels: int) -> dict[str, tuple[nn.Module, int]]:
    """The host's own attention blocks by name, and how many heads attend from every position to every other."""
    from ultralytics.nn.modules import block, conv

    heads = max(1, channels // 64)  # as its PSA block chooses them
    return {"CBAM": (conv.CBAM(channels), 0), "PSA's Attention": (block.Attention(channels, num_heads=heads), heads)}


def save(model: nn.Module, like: dict, target: Path) -> None:
    """Write a checkpoint of a model, with the training arguments of another, and compare its tensors when read back.

    Raises:
        UserError: it cannot be written.
    """
    written = digests(model)

    def check(part: Path) -> None:
        if digests(load(part).model) != written:
            raise UserError(f"{target} was read back as another model than was written", "try another disk")

    write_whole(target, lambda part: torch.save(checkpoint(model, like), part), check)


def checkpoint(model: nn.Module, like: dict) -> dict:
    """What the host's loader expects in a .pt file: `model`, with the training arguments of the checkpoint `like`."""
    fresh = dict.fromkeys(("best_fitness", "ema", "updates", "optimizer"))
    said = {key: like[key] for key in SAID if key in like}
    return {"epoch": -1, **fresh, **said, "model": model, "version": ultralytics.__version__}
