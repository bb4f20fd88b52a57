"""What an attention adds to a whole detector: the host's model with it and without it, in turns.

The models are fresh, because times do not depend on what was learned. In forward passes they are fused, as the host
deploys them; a training step is the host's own loss of drawn labels, and every gradient.
"""

import copy
import gc
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from .. import evidence
from ..attention import Attention, forms
from ..errors import UserError
from ..surgery import Spec
from . import rivals, timing
from .agreement import Evaluation, Tolerance, drawn
from .timing import Quartiles

IMAGE_SIZE = 640
PATIENCE, MOST = 150_000.0, 200  # milliseconds that the rounds of one comparison fill, and how many they are at most
TRAIN_BATCH = 4  # images in a training step where none are asked for


@dataclass(frozen=True)
class ModelRow:
    """One model in one mode. Spreads are (lower quartile, median, upper quartile) of the rounds.

    Attributes:
        model: its name.
        attention: name, arguments, start and places.
        contender: a form or "article"; "plain" without the attention, and "plain again" the same once more, which says
            what differences mean nothing.
        mode: "forward" (one image, evaluation, fused) or "train" (the host's loss and every gradient).
        batch: images.
        image_size: their side in pixels.
        dtype: of autocast unless it is float32.
        why_not: why it was not run, or "".
        milliseconds: of one call.
        added: per cent of the plain model's time, differences within rounds.
        resolution: half the width of a 95 % interval of the median of `added`, in points: 1.57 interquartile ranges
            over the root of the rounds. Smaller differences are not seen.
        rounds: how often its turn came.
    """

    model: str
    attention: str
    contender: str
    mode: str
    batch: int
    image_size: int
    dtype: str
    why_not: str = ""
    milliseconds: Quartiles | None = None
    added: Quartiles | None = None
    resolution: float | None = None
    rounds: int = 0


def measure(
    models: Sequence[str], specs: Sequence[Spec], settings: dict, device: torch.device, tell: Callable[[str], object]
) -> tuple[ModelRow, ...]:
    """Rows of each model with each attention.

    Attentions stand at their own places or at the neck, bare unless a start is given: what is measured is then the
    attention alone. A form that disagrees with the reference on inputs of its place is not timed.

    Args:
        models: names that the host knows, "yolo11n" or, for training steps of so many images, "yolo11x:1".
        specs: the attentions.
        settings: those of `bench.bench`; `dtype`, `passes`, `rounds` and `seed` are used.
        device: to run on.
        tell: is told what is measured next.

    Raises:
        UserError: no such model, or no such place in it.
    """
    # All are built before any is timed, so that a mistake in the last one shows at once.
    built = []
    for text in models:
        name, _, images = text.partition(":")
        if images and not (images.isdecimal() and int(images)):
            raise UserError(f"cannot read {text!r} as a model", "write yolo11n, or yolo11n:4 for steps of four images")
        built += [(name, int(images or TRAIN_BATCH), spec, *_with_and_without(name, spec)) for spec in specs]
    rows = []
    for name, batch, spec, plain, attended in built:
        for dtype in settings["dtype"]:
            for mode in settings["passes"]:
                tell(f"{name} with {spec}, {mode}, {dtype}")
                row = ModelRow(name, str(spec), "", mode, batch if mode == "train" else 1, IMAGE_SIZE, dtype)
                rows += _measure(row, plain, attended, settings["rounds"], settings["seed"], device)
                gc.collect()
    return tuple(rows)


def _with_and_without(name: str, spec: Spec) -> tuple[nn.Module, nn.Module]:
    from ..hosts import ultralytics as host
    from ..hosts.ultralytics import adding

    source = name if name.endswith((".yaml", ".yml", ".pt")) else f"{name}.yaml"
    spec = replace(spec, start=spec.start or "paper")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"{Path(source).stem}-attended{Path(source).suffix}"
        adding.add(source, spec, output=target)
        attended = host.load(target).model
    plain = host.load(source).model
    for model in (plain, attended):
        model.args = SimpleNamespace(**host.train_arguments({}))  # its loss reads its weights there
    return plain, attended


def _measure(
    row: ModelRow, plain: nn.Module, attended: nn.Module, rounds: int | None, seed: int, device: torch.device
) -> list[ModelRow]:
    """The rows of one model in one mode."""
    training, dtype = row.mode == "train", getattr(torch, row.dtype)
    reasons = _reasons(attended, training, dtype, seed, device)
    contenders = {"plain": plain, "plain again": plain}
    contenders |= {name: _in_form(attended, name) for name, reason in reasons.items() if not reason}
    from ..hosts.ultralytics import steps

    drawn = (row.batch, IMAGE_SIZE, seed, _channels(plain))
    batch = steps.labelled(evidence.TASKS["detect"], *drawn) if training else {}
    calls = {}
    for name, model in contenders.items():
        model = copy.deepcopy(model).to(device)
        calls[name] = steps.step(model, batch, dtype, device) if training else _pass(model, dtype, device)
        calls[name]()
    times, _ = timing.interleaved(calls, device, rounds, PATIENCE, MOST)
    rows = []
    for name in (*contenders, *(name for name in reasons if name not in contenders)):
        done = replace(row, contender=name, why_not=reasons.get(name, ""))
        if name in times:
            added = timing.quartiles(100 * (np.divide(times[name], times["plain"]) - 1))
            done = replace(done, milliseconds=timing.quartiles(times[name]), rounds=len(times[name]))
            done = replace(done, added=added, resolution=1.57 * (added[2] - added[0]) / len(times[name]) ** 0.5)
        rows.append(done)
    return rows


def _pass(model: nn.Module, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A forward pass of one image."""
    model = model.eval().fuse(verbose=False)  # type: ignore[operator]  # a model of the host has it
    image = torch.zeros(1, _channels(model), IMAGE_SIZE, IMAGE_SIZE, device=device)

    @torch.inference_mode()
    def call() -> object:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            return model(image)

    return call


def _channels(model: nn.Module) -> int:
    from ..hosts import ultralytics as host

    return host.channels(model)


def _attentions(model: nn.Module) -> list[Attention]:
    return [module for module in model.modules() if isinstance(module, Attention)]


def _in_form(model: nn.Module, name: str) -> nn.Module:
    """A copy whose attentions run in one form, or in the article's formulation."""
    model = copy.deepcopy(model)
    if name != "article":
        for attention in _attentions(model):
            attention.form = name
        return model
    for parent in [*model.modules()]:
        for child, module in parent.named_children():
            if isinstance(module, Attention):
                setattr(parent, child, rivals.article(module))
    return model


def _reasons(model: nn.Module, training: bool, dtype: torch.dtype, seed: int, device: torch.device) -> dict[str, str]:
    """Each contender, and why it is not run or "": it cannot run, or disagrees, on what an attention here receives."""
    seen: list[tuple[Attention, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, _: seen.append((module, inputs[0])))
        for module in _attentions(model)
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, _channels(model), IMAGE_SIZE, IMAGE_SIZE))
    for hook in hooks:
        hook.remove()

    reasons: dict[str, str] = {}
    for attention, received in seen:
        module, x, dy = drawn(attention, received.shape[1:], 1, dtype, device, seed)
        with torch.inference_mode(not training):
            tolerance = Tolerance(module, x, dy, training)
            for name in ("article", *forms(type(module))):
                own = rivals.article(module) if name == "article" else copy.deepcopy(module)
                if own is None:
                    continue
                reasons.setdefault(name, "")
                reason = ""
                if isinstance(own, Attention):
                    own.form = name
                    reason = own.train(training).why_not(x) if name == "kernel" else ""
                reasons[name] = reasons[name] or reason or tolerance.judge(Evaluation(own, x, dy, training)())[0]
    return reasons
