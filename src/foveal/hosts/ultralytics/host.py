"""Ultralytics as a host of studies: what `interface.Host` asks for."""

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ...checkpoints import unpickling
from ...errors import UserError
from ...evidence import CLASSIFY, TASKS, Evidence, Says, Task
from ...files import digest, write_text
from ...surgery import Spec
from ...tensors import digests
from .. import Host, Record, Training, zoo
from . import arguments, bound, classifier, dataset, inheriting, modelfile, models, recorder, steps, validators
from .adding import add

SCALES = "nsmlx"


def _owns(model: str) -> bool:
    return model.endswith((".pt", ".yaml", ".yml")) or zoo.is_name(model)


def _places(model: str) -> tuple[str, ...]:
    return ("paper",) if zoo.is_name(model) else ("neck",)


def _larger(model: str) -> str | None:
    stem, suffix = os.path.splitext(model)
    match = re.fullmatch(rf"(.*\d)([{SCALES[:-1]}])((?:-\w+)?)", stem)
    if not match or zoo.is_name(model):
        return None
    larger = f"{match[1]}{SCALES[SCALES.index(match[2]) + 1]}{match[3]}{suffix}"
    # The host knows it by name; a path that does not exist would end up in the keys of cells.
    return Path(larger).name if suffix == ".pt" and not Path(larger).is_file() else larger


def _task(model: str, data: str) -> Task:
    if dataset.is_classified(data):
        return TASKS[CLASSIFY]
    found = TASKS[CLASSIFY] if zoo.is_name(model) else models.task(model)
    return TASKS["detect"] if found.says is Says.CLASS else found  # which no classifier fits


def _made_for(model: str, data: dataset.Data) -> str:
    if not zoo.is_name(model):
        return models.load(model).task
    if data.classified:
        zoo.load(model, len(data.names))  # whether there is one
    return CLASSIFY


def _identity(model: str) -> str:
    if zoo.is_name(model):
        return f"{model} {version(model.partition(':')[0])}"
    path = Path(model)
    return digest(path) if path.is_file() else model


def _digests(model: str) -> dict[str, str]:
    if model.endswith(".pt"):
        return digests(models.load(model).model)
    return classifier.digests(model) if zoo.is_name(model) else {}


# Training and judging ------------------------------------------------------------------------------------------------


def _train(asked: Training) -> Record:
    folder = asked.folder
    digest, stamp = asked.contents.digest, asked.contents.stamp
    task = _task(asked.model, asked.data.name)
    bound.Bound(asked.data.name, str(asked.cache.resolve()), digest, stamp, task.name).save(folder)
    write_text(folder / recorder.PERIOD, str(asked.resume_period))
    checkpoint = recorder.resumable(folder)
    if checkpoint and checkpoint["foveal"]["record"].get("data") != digest:
        checkpoint = None  # it read other data, or nobody knows what
    epochs = asked.settings["epochs"]
    if checkpoint and checkpoint["epoch"] + 1 >= epochs and _whole(folder):
        return _record(checkpoint)
    if checkpoint and checkpoint["epoch"] + 1 < epochs:
        settings: dict[str, Any] = {"resume": str(folder / recorder.RESUME), "device": asked.device}
    else:
        settings = _from_the_start(asked)
    trainer = recorder.trainer(asked.model, task)
    trainer(overrides={**settings, "data": asked.data.name}).train()
    return _record(recorder.resumable(folder))


def _record(checkpoint: dict | None) -> Record:
    assert checkpoint  # the training is done
    noted = {key: value for key, value in checkpoint["foveal"]["record"].items() if key != "data"}
    return Record(**noted)


def _from_the_start(asked: Training) -> dict[str, Any]:
    """Arguments of a training in a folder that holds nothing of an earlier one."""
    folder = asked.folder
    for path in folder.iterdir():
        if path.name not in (*asked.kept, bound.FILE, recorder.PERIOD):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    asked.recipe.save(folder)
    settings = {**asked.arguments, "seed": asked.seed, "device": asked.device}
    settings["model"] = start(asked.model, asked.spec, asked.seed, folder, asked.data.names, asked.weights)
    # Old hosts never close mosaics that should be closed before the first epoch, unless they resume.
    settings["close_mosaic"] = min(asked.settings["close_mosaic"], asked.settings["epochs"])
    return settings | {"project": str(folder.resolve().parent), "name": folder.name, "exist_ok": True}


def start(
    model: str, spec: Spec | None, seed: int, folder: Path, names: dict[int, str], weights: str | None = None
) -> str:
    """The file that a training starts from, written into a folder; a model as it is keeps its own.

    Args:
        model: a file or a name.
        spec: the attention that is put into it, or None.
        seed: of the weights that are drawn here.
        folder: where the file is written.
        names: of the classes, which a model of a zoo is built for.
        weights: a file whose weights a model YAML starts from, as far as they fit.

    Raises:
        UserError: the attention or the weights do not fit the model.
    """
    torch.manual_seed(seed)
    if weights:
        found = inheriting.write(model, weights, folder / "start.weights.pt")
        print(f"{model}: {found}", file=sys.stderr)
        model = str(folder / "start.weights.pt")
    if zoo.is_name(model):
        classifier.write(model, spec, names, folder / "start.pt")
        return str(folder / "start.pt")
    if spec is None:
        return model
    target = folder / f"start{Path(model).suffix}"
    added = add(model, spec, output=target, force=True)
    print(f"{spec}: {added.tensors[0]}/{added.tensors[1]} tensors kept", file=sys.stderr)
    return str(target)


def _whole(folder: Path) -> bool:
    """Whether both trained models can be read: the host does not write them in one step."""
    try:
        for kind in ("best", "last"):
            unpickling.read(folder / "weights" / f"{kind}.pt")
        return True
    except UserError:
        return False


def _judge(
    weights: Path, data: str, split: str, folder: Path, settings: Mapping[str, Any]
) -> tuple[Evidence, dict[str, float]]:
    return validators.evaluate(modelfile.opened(weights), data, split, folder, **settings)


# Measuring -----------------------------------------------------------------------------------------------------------


def _network(weights: Path) -> nn.Module:
    return models.load(weights).model


def _deployed(network: models.Network) -> nn.Module:
    return network.fuse(verbose=False)


def _step(
    model: str, spec: Spec | None, task: Task, settings: Mapping[str, Any], images: int, size: int, device: torch.device
) -> tuple[Callable[[], object], Callable[[], object]]:
    names = dict(enumerate(map(str, range(100))))  # of classes, whose number hardly changes what a step takes
    dtype = torch.float16 if settings["amp"] and device.type == "cuda" else torch.float32
    quiet = contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, quiet, models.silent():
        network = models.load(start(model, spec, 0, Path(folder), names)).model.to(device)
    network.args = SimpleNamespace(**settings)  # its loss reads its weights there
    network.nc = network.yaml["nc"]  # and RT-DETR's the number of classes here, which a trainer sets
    points = network.yaml.get("kpt_shape", (0, 0))
    batch = steps.labelled(task, images, size, 0, models.channels(network), points)
    for teacher in filter(None, map(settings.get, arguments.TEACHERS)):
        network = steps.taught(network, teacher)
    train, image = steps.step(network, batch, dtype, device), batch["img"].to(device)

    def training() -> None:
        with models.refusing(model):
            train()

    def forward() -> None:
        network.eval()
        with (
            models.refusing(model),
            torch.inference_mode(),
            torch.autocast(device.type, dtype, enabled=dtype is torch.float16),
        ):
            network(image)

    return training, forward


HOST = Host(
    owns=_owns,
    settings=arguments.train_arguments,
    teachers=arguments.TEACHERS,
    beside=dataset.beside,
    task=_task,
    data=dataset.Data,
    divided=dataset.divided,  # type: ignore[arg-type]  # likewise
    made_for=_made_for,  # type: ignore[arg-type]  # it is given what `data` made
    places=_places,
    larger=_larger,
    identity=_identity,
    digests=_digests,
    inherited=inheriting.inherited,
    train=_train,
    leftovers=(recorder.RESUME, "start.*"),
    judge=_judge,
    network=_network,
    deployed=_deployed,
    fuses=lambda model: not zoo.is_name(model),  # only the host's own layers
    channels=models.channels,
    step=_step,
)
