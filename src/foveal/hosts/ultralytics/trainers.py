"""Ultralytics' trainers, so that attentions train and that workers of a multi-GPU run find them.

For every trainer of the installed Ultralytics there is one of the same name here, and for every class of models that
trains, one of the same name with these trainers. They call `foveal.yolo` their home: a worker imports its trainer by
name, and with it whatever is registered there. Only `foveal.yolo` imports from here, after it has seen that the
installed Ultralytics fits.
"""

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from ...surgery import attachment
from . import parser  # before Ultralytics itself, because it says if that is missing or too old
from .carrying import carry_modules

# isort: split
from ultralytics import models
from ultralytics.engine.model import Model
from ultralytics.engine.trainer import BaseTrainer

if TYPE_CHECKING:  # ours, which are made below, have the same names
    from ultralytics import RTDETR as RTDETR
    from ultralytics import YOLO as YOLO
    from ultralytics.models.rtdetr import RTDETRTrainer as RTDETRTrainer
    from ultralytics.models.yolo.classify import ClassificationTrainer as ClassificationTrainer
    from ultralytics.models.yolo.detect import DetectionTrainer as DetectionTrainer
    from ultralytics.models.yolo.obb import OBBTrainer as OBBTrainer
    from ultralytics.models.yolo.pose import PoseTrainer as PoseTrainer
    from ultralytics.models.yolo.segment import SegmentationTrainer as SegmentationTrainer

_HOME = "foveal.yolo"


class _Rows(dict):
    """Rows of a model, also for trainers that take of them the name of their file, and read that without attentions."""

    def __getitem__(self, key):
        return dict(self) if key == "yaml_file" else super().__getitem__(key)


def _with_all_rows(get_model: Callable) -> Callable:
    """How a trainer of the host's builds a model, but with the attentions that stand in the rows it is given."""

    @functools.wraps(get_model)
    def built(self, cfg=None, weights=None, verbose=True):
        if not isinstance(cfg, dict) or not parser.split(cfg)[1]:
            return get_model(self, cfg, weights, verbose)
        model = get_model(self, _Rows(cfg), weights, verbose)
        model.yaml = dict(model.yaml)
        return model

    return built


# What of a model YAML decides the layers of its rows.
_BUILD = ("backbone", "head", "activation", "scales", "scale", "depth_multiple", "width_multiple")


class _TrainsAttention(parser.Mixed):
    """A stock trainer that leaves attentions trainable inside frozen layers."""

    def get_model(self, cfg=None, weights=None, verbose=True):
        """The host's; where the weights are a model of the same rows, with the activations that it was trained with.

        Some releases build SPPF with another activation than the release that trained the weights.
        """
        model = super().get_model(cfg=cfg, weights=weights, verbose=verbose)
        rows = [getattr(each, "yaml", {}) for each in (weights, model)]
        if isinstance(weights, nn.Module) and all(rows[0].get(key) == rows[1].get(key) for key in _BUILD):
            carry_modules(weights, model)
        return model

    def set_model_attributes(self):
        """The host's hook between building the model and freezing layers by name."""
        super().set_model_attributes()
        student = getattr(self.model, "student_model", self.model)  # of a distillation that is resumed
        self.args.freeze = spare_attentions(student, self.args.freeze)


def spare_attentions(model: parser.Network, freeze: int | list[int | str] | None) -> int | list[int | str] | None:
    """`freeze` with each layer that carries an attention replaced by its other parts (16 by "16.cv1", ...)."""
    if not freeze:
        return freeze
    layers: dict[int | str, nn.Module] = dict(enumerate(model.model))
    entries = range(freeze) if isinstance(freeze, int) else freeze
    return [part for entry in entries for part in _without_attentions(entry, layers.get(entry))]


def _without_attentions(name: int | str, layer: nn.Module | None) -> list[int | str]:
    """The layer's own name if no attention is in it, else the names of its parts that are none."""
    if layer is None or not any(map(attachment.is_attention, layer.modules())):
        return [name]
    if attachment.is_attention(layer):
        return []
    return [part for child, module in layer.named_children() for part in _without_attentions(f"{name}.{child}", module)]


class _WithOurTrainers(parser.Mixed):
    """A stock class of models with our trainers in the places of the host's."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # The host gives an object the class that its file or its head asks for.
        self.__class__ = MODELS.get(type(self), type(self))

    @property
    def task_map(self) -> dict:
        """Classes by task."""
        return {
            task: {key: TRAINERS.get(cls, cls) for key, cls in classes.items()}
            for task, classes in super().task_map.items()
        }

    def train(self, trainer=None, **kwargs):
        """The host's; of a trainer of the host's that is given, ours is taken."""
        return super().train(trainer=TRAINERS.get(trainer, trainer), **kwargs)


def _below(cls: type[Any]) -> Iterator[type[Any]]:
    for each in cls.__subclasses__():
        yield each
        yield from _below(each)


def _trains(cls: object) -> bool:
    """Whether an object is one of the host's classes of models, and its package has trainers."""
    if not isinstance(cls, type) or not issubclass(cls, Model):
        return False
    package = cls.__module__.rpartition(".")[0]
    return any(trainer.__module__.startswith(f"{package}.") for trainer in TRAINERS)


def _ours(mixin: type, stock: type) -> type:
    return type(stock.__name__, (mixin, stock), {"__module__": _HOME, "__doc__": mixin.__doc__})


# Each from the host's class of the same name.
TRAINERS: dict[Any, Any] = {
    stock: _ours(_TrainsAttention, stock)
    for stock in dict.fromkeys(_below(BaseTrainer))
    if stock.__module__.startswith("ultralytics.models.")
}
MODELS = {stock: _ours(_WithOurTrainers, stock) for stock in filter(_trains, vars(models).values())}

# In the host's own classes, because a checkpoint with attentions is also trained by who never heard of foveal.
for _stock in TRAINERS:
    if "get_model" in vars(_stock):
        _stock.get_model = _with_all_rows(_stock.get_model)

_PUBLIC = {ours.__name__: ours for ours in (*TRAINERS.values(), *MODELS.values())}
globals().update(_PUBLIC)
__all__ = list(_PUBLIC)
