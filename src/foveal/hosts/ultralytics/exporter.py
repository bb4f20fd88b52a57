"""Ultralytics' exporter: what it wrote, and how the outputs are to be read."""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoints import foreign
from ...errors import UserError, one_line, require_installed
from ...tensors import require_device
from . import arguments
from . import models as host  # before Ultralytics itself, because it says if that is missing or too old
from .runtime import FAILURES, Outputs, listed

# isort: split
from ultralytics.data.augment import LetterBox
from ultralytics.engine import exporter
from ultralytics.nn.modules import RTDETRDecoder
from ultralytics.utils import ASSETS
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.patches import imread

PICTURES = [ASSETS / "bus.jpg", ASSETS / "zidane.jpg"]
CONFIDENCE = 0.25  # of boxes that are kept, the host's own for predictions
# Tested here. What other formats need is the host's to say.
PACKAGES = {
    "onnx": ("onnx", "onnxruntime", "onnxslim"),
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "mnn": ("MNN", "onnx"),
    "torchscript": (),
}
INT8_PACKAGES = {"openvino": ("nncf",)}  # and those that quantize


class CannotExportError(Exception):
    """A converter stopped.

    Args:
        said: why.
        size: rows and columns at which the model was traced.
    """

    def __init__(self, said: str, size: tuple[int, int]):
        super().__init__(said)
        self.size = size


@dataclass(frozen=True)
class Kind:
    """How outputs are to be read.

    Attributes:
        task: of the model.
        classes: how many.
        rows: whether the first output holds one box a row, in no order that matters, instead of one a column.
        unit: whether boxes are fractions of the image, as RT-DETR's, instead of pixels.
        chosen: whether a row ends in one confidence and its class, instead of the confidences of all classes.
    """

    task: str
    classes: int
    rows: bool
    unit: bool
    chosen: bool = True


@dataclass(frozen=True)
class Written:
    """A file that the exporter wrote, and what it was asked for in the end.

    Attributes:
        path: a file or a folder.
        size: rows and columns it was traced at.
        batch: images in a batch.
        dynamic: whether other sizes are meant to work.
        stride: what sizes must be multiples of.
        channels: of an image.
        opset: of an ONNX file.
        prepared: the model as it was traced.
        model: the model as it was given, with the outputs that the file should have.
        whole: what stands around a model in the file, such as suppression.
        kind: of the outputs.
        eight_bits: whether it is in INT8, which a model that was trained for it always is.
    """

    path: Path
    size: tuple[int, int]
    batch: int
    dynamic: bool
    stride: int
    channels: int
    opset: int | None
    prepared: nn.Module
    model: nn.Module
    whole: Callable[[nn.Module], nn.Module]
    kind: Kind
    eight_bits: bool = False

    @torch.no_grad()
    def outputs(self, model: nn.Module, images: Tensor) -> Outputs:
        """What PyTorch computes by `model`, or one like it, with all that stands around it."""
        return listed(self.whole(model)(images))


def settings(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an export, checked.

    Raises:
        UserError: no format, an unknown one, an unknown argument, or a package that is missing.
    """
    known = set(exporter.export_formats()["Argument"]) - {"-"}
    named = given.get("format", "torchscript")
    if named not in known:
        raise UserError(f"there is no export format {named!r}", f"formats: {', '.join(sorted(known))}")
    require_installed(f"format={named}", packages({**given, "format": named}), "'foveal[export]'")
    if eight_bits(given) and not given.get("data"):
        raise UserError("int8 needs images to calibrate on", "add data=my.yaml")
    require_device(given.get("device") or "cpu")
    arguments.train_arguments({key: value for key, value in given.items() if key not in ("half", "int8")})
    return {**given, "format": named}


def packages(given: dict[str, Any]) -> tuple[str, ...]:
    """What an export needs besides torch and Ultralytics."""
    form = given["format"]
    return (*PACKAGES.get(form, ()), *(INT8_PACKAGES.get(form, ()) if eight_bits(given) else ()))


def eight_bits(given: dict[str, Any]) -> bool:
    """Whether an export asks for INT8, in the words of any release."""
    return bool(given.get("int8")) or str(given.get("quantize")) in ("8", "int8")


def write(model: host.YOLO, weights: host.Network, folder: Path, name: str, given: dict[str, object]) -> Written:
    """Export.

    Args:
        model: as it was loaded; stays as it is.
        weights: what is written: the same model, or one that stands in for it.
        folder: for the file.
        name: of the file, without its suffix.
        given: checked by `settings`.

    Raises:
        UserError: arguments that do not go together.
        CannotExportError: the converter stopped.
    """
    if given["format"] == "mnn":
        # Its converter's log would install packages and report that it was used; without it the converter works, too.
        sys.modules.setdefault("MNN.tools.utils.log", None)  # type: ignore[arg-type]  # it is not to be imported
    started: list[exporter.Exporter] = []
    stand_in = standing_in(model, weights)
    stand_in.callbacks = {**model.callbacks, "on_export_start": [started.append]}
    weights.pt_path = folder / f"{name}.pt"
    try:
        path = stand_in.export(**given)
    except FAILURES as error:
        # Of the sentences of torch's converters the first says it, the others where to complain.
        said = one_line(error).partition(" Please feel free")[0]
        if elsewhere := foreign.diagnosed(weights, error, f"{name}.pt"):
            raise elsewhere from None
        if not started:
            raise UserError(f"Ultralytics cannot export with these arguments: {said}", "as in format=onnx") from None
        raise CannotExportError(said, tuple(started[0].imgsz)) from error
    (asked,) = started
    true, nms = _with_its_outputs(model.model, asked), bool(asked.args.nms)
    head = true.model[-1]
    unit = isinstance(head, RTDETRDecoder) and not nms
    rows = nms or unit or bool(getattr(head, "end2end", False))

    return Written(
        path=Path(path),
        size=tuple(asked.imgsz),
        batch=asked.args.batch,
        dynamic=bool(asked.args.dynamic),
        stride=int(max(true.stride)),
        channels=host.channels(true),
        opset=asked.args.opset,
        prepared=asked.model,
        model=true,
        whole=lambda network: exporter.NMSModel(network, asked.args) if nms else network,
        kind=Kind(model.task, len(true.names), rows, unit, chosen=not unit or hasattr(head, "postprocess")),
        eight_bits=eight_bits(vars(asked.args)),
    )


def standing_in(model: host.YOLO, network: nn.Module) -> host.YOLO:
    """A model that is like another but for its network."""
    other = copy.copy(model)
    other._modules = {**model._modules}  # which a copy of a torch module shares
    other.model = network
    return other


def _with_its_outputs(model: host.Network, asked: exporter.Exporter) -> host.Network:
    """A copy with the outputs that the exporter asks for, at any size."""
    model = copy.deepcopy(model).float().eval()
    for module in model.modules():
        if hasattr(type(module), "export"):  # a head
            # Some formats write the class of each pixel; what the others scored says how wrong another class is.
            module.format = None if model.task == "semantic" else asked.args.format
            module.export = module.dynamic = True
            head = asked.model.model[-1]
            module.max_det = getattr(head, "max_det", None)
            if getattr(module, "end2end", False) != (end2end := getattr(head, "end2end", False)):  # as `nms` asks for
                module.end2end = end2end
            module.xyxy = bool(asked.args.nms)
    return model


def final_boxes(outputs: Outputs, kind: Kind, size: tuple[int, int]) -> list[Tensor]:
    """Boxes of each image as users get them, (boxes, 6 or more): corners in pixels, confidence, class.

    For `obb` the first four are centre, width and height instead of corners.
    """
    first = outputs[0]
    if kind.rows:
        return [image[image[:, 4] > CONFIDENCE] for image in rows_of(first, kind, size)]
    rotated = kind.task == "obb"
    # The host's suppression gives up after a while, which differs from run to run.
    return non_max_suppression(first, CONFIDENCE, 0.7, nc=kind.classes, rotated=rotated, max_time_img=60.0)


def rows_of(first: Tensor, kind: Kind, size: tuple[int, int]) -> Tensor:
    """The first output of a model that chooses its boxes, its columns box in pixels, confidence, class and the rest."""
    if not kind.unit:
        return first
    boxes = to_corners(first[..., :4]) * first.new_tensor([*size[::-1], *size[::-1]])
    if kind.chosen:
        return torch.cat([boxes, first[..., 4:]], -1)
    scores, labels = first[..., 4:].max(-1)  # older releases leave the choice to what follows
    return torch.cat([boxes, scores[..., None], labels[..., None].float()], -1)


def to_corners(boxes: Tensor) -> Tensor:
    """Centre, width and height to left, top, right and bottom, (..., 4)."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat([centre - half, centre + half], -1)


def pictures(files: list[Path], size: tuple[int, int], channels: int) -> Tensor:
    """Photographs as the host's predictions take them, (images, channels, *size) with values in 0..1."""
    fit = LetterBox(size, auto=False)
    planes = [torch.from_numpy(fit(image=imread(str(file)))[..., ::-1].copy()).permute(2, 0, 1) for file in files]
    return torch.stack(planes)[:, torch.arange(channels) % 3].float().contiguous() / 255
