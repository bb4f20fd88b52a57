"""What a file of a model says of itself, trained (.pt) or exported, so that the host's validators can judge it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...errors import UserError, one_line, require_installed
from ...evidence import Task
from . import models as host  # before Ultralytics itself, because it says if that is missing or too old
from .exporter import PACKAGES
from .runtime import own_errors

# isort: split
from ultralytics.engine.exporter import export_formats
from ultralytics.nn.autobackend import AutoBackend

TRAINED = "pt"


@dataclass(frozen=True)
class ModelFile:
    """A model as its file describes it.

    Attributes:
        path: of the file, or of the folder that an export is.
        form: "pt", or the host's word for the format of an export.
        task: what the model is for.
        classes: their names, by index.
        size: side of images in pixels, of its last training or of its export; the longer one where it has two.
        fixed: whether it takes images of no other size.
        is_rtdetr: whether the host's validator of RT-DETR judges it.
        network: what the host's validators are given to run: a network, or the path of an export.
    """

    path: Path
    form: str
    task: Task
    classes: tuple[str, ...]
    size: int
    fixed: bool
    is_rtdetr: bool
    network: host.Network | str = field(repr=False, compare=False)


def opened(path: Path, trust: bool = False) -> ModelFile:
    """A file, with what it says of its model.

    Args:
        path: a .pt file, or whatever `foveal export` and the host's own export wrote.
        trust: a .pt file whatever it runs when it is loaded.

    Raises:
        UserError: no such file, not one of a model, a package that runs it is missing, or an export that does not say
            what it is for, as others than the host's may not.
    """
    form = _form(path)
    return _trained(path, trust) if form == TRAINED else _exported(path, form)


def _trained(path: Path, trust: bool) -> ModelFile:
    model = host.load(path, trust)
    task = Task.of(model.task)
    size = dict(model.ckpt.get("train_args") or {}).get("imgsz") or task.image_size
    classes = tuple(map(str, model.model.names.values()))
    return ModelFile(path, TRAINED, task, classes, _longer(size), False, isinstance(model, host.RTDETR), model.model)


def _exported(path: Path, form: str) -> ModelFile:
    require_installed(str(path), PACKAGES.get(form, ()), "'foveal[export]'")
    with refusing(path, "loaded"), host.silent():
        backend = AutoBackend(str(path), device=torch.device("cpu"))
    said: dict[str, Any] = dict(backend.metadata or {})
    if not {"task", "names", "imgsz"} <= said.keys():
        raise UserError(
            f"{path} does not say its task, its classes and its size, as exports of Ultralytics do",
            "export it anew: foveal export MODEL.pt format=onnx",
        )
    told = f"{said.get('head')} {said.get('description')}".lower()  # recent releases say which head it has
    return ModelFile(
        path=path,
        form=form,
        task=Task.of(backend.task),
        classes=tuple(map(str, backend.names.values())),
        size=_longer(backend.imgsz),
        fixed=not backend.dynamic,
        is_rtdetr="rtdetr" in told or host.is_rtdetr(str(path)),
        network=str(path),
    )


@contextlib.contextmanager
def refusing(path: Path, done: str = "used") -> Iterator[None]:
    """Say of a file that it cannot be loaded or used, also where a runtime has exceptions of its own.

    Raises:
        UserError: for whatever the host or a runtime raises for a file that is damaged or does not fit its input.
    """
    try:
        with host.refusing(path, done):
            yield
    except own_errors() as error:
        said = f"{str(path)!r} cannot be {done} as a model: {one_line(error)}"
        raise UserError(said, "export it anew") from None


def _form(path: Path) -> str:
    """The format of a file, by the end of its name as the host tells them.

    Raises:
        UserError: it is none of the host's, or is not there.
    """
    formats = export_formats()
    ends = {suffix: form for suffix, form in zip(formats["Suffix"], formats["Argument"], strict=True)}
    name = path.name.lower()
    form = ends.get(max((end for end in ends if name.endswith(end)), key=len, default=""))
    if form is None:
        raise UserError(f"{path} is neither a .pt file nor a model that was exported", "give one such as best.onnx")
    if not path.exists():
        raise UserError(f"there is no file {str(path)!r}", "give one such as runs/detect/train/weights/best.pt")
    return TRAINED if form == "-" else form


def _longer(size: Any) -> int:
    return max(map(int, size if isinstance(size, list | tuple) else [size]))
