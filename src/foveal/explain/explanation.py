"""What the attentions of a model do: their own gates on given images, drawn and measured, and what the gates carry.

Gates are taken where they work: of the features that reach an attention when the host predicts on the image. Nothing is
measured on the model that is given, only on copies.
"""

import datetime
import json
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import foveal

from ..checks import require_positive
from ..errors import UserError, one_line
from ..evidence import Says, Task
from ..files import MALFORMED, digest, require_free, write_text
from ..hosts import ultralytics as host
from ..hosts.ultralytics import dataset, listing, prediction
from ..tensors import is_finite, require_device
from . import ablation, cam, gates, pictures
from .manifest import MANIFEST
from .pictures import Frame

FEW = 8  # images of a data file, if none are named
CONFIDENCE = 0.25


@dataclass(frozen=True)
class Explained:
    """What `explain` wrote.

    Attributes:
        folder: with `manifest.json`, `index.html` and `pictures`.
        manifest: all numbers.
    """

    folder: str
    manifest: dict


def explain(
    model: str | os.PathLike | host.YOLO | host.RTDETR,
    images: Sequence[str | os.PathLike] = (),
    *,
    output: str | os.PathLike = "explained",
    data: str | os.PathLike | None = None,
    split: str = "val",
    imgsz: int | None = None,
    batch: int = 16,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda _: None,
    trust: bool = False,
) -> Explained:
    """Draw and measure the gates of a model's attentions, and write a folder with a page.

    Args:
        model: a .pt file, or a loaded model, which stays as it is.
        images: files and folders of images; by default the first few of the split. Labels are read from where the host
            looks for them.
        output: folder to write. One that exists is replaced if it is an explanation.
        data: data file (or folder, for classification) on whose split the model is evaluated again with frozen gates;
            without it that is left out.
        split: "train", "val" or "test".
        imgsz: side in pixels to which the host brings images; the model's own by default.
        batch: of the evaluation.
        device: "cpu", "cuda" or "cuda:1".
        tell: called with a line whenever something begins.
        trust: load a .pt file that names more than layers of known packages, and run what it names.

    Raises:
        UserError: anything given that cannot work; nothing is written then.
    """
    cam.require()
    require_positive(imgsz=imgsz, batch=batch)
    require_device(device)
    target, data = Path(output), None if data is None else str(data)
    _check_target(target)
    name, loaded = _with_attentions(model, trust)
    files = _files(images) if images else _some(loaded, data, split)
    if data is not None:
        _check_classes(loaded, data, split)
    imgsz = _size(imgsz, loaded)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        (part / "pictures").mkdir(parents=True)
        manifest = _manifest(loaded, name, files, part, imgsz, device, tell)
        if data is not None:
            tell(f"evaluating with frozen gates on {split} of {data}")
            ids = [each["id"] for each in manifest["attentions"]]
            manifest["ablation"] = ablation.ablate(loaded, ids, data, split, imgsz=imgsz, batch=batch, device=device)
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(part / "index.html", pictures.Page(manifest, part).render())
        write_text(part / MANIFEST, text)
        _put(part, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error}", "choose another folder with -o") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Explained(str(target), manifest)


def _manifest(
    loaded: host.YOLO | host.RTDETR,
    name: str,
    files: Sequence[Path],
    part: Path,
    imgsz: int,
    device: str | None,
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """What is found in each image, whose pictures are drawn into a folder, and in all of them together."""
    settings = {"conf": CONFIDENCE, "imgsz": imgsz, "device": device, "project": str(part.resolve())}
    predictor = prediction.predictor(loaded, **settings)
    with host.refusing(name):
        sites = gates.sites(predictor.model.model)
    images: list[dict] = []
    pools: dict = {}
    for index, file in enumerate(files):
        tell(f"{file.name} ({index + 1} of {len(files)})")
        images.append(_image(predictor, sites, file, index, part, pools))
    return {
        "foveal": foveal.__version__,
        "kind": "explain",
        "model": name,
        "weights": digest(weights) if (weights := Path(loaded.ckpt_path or "")).is_file() else None,
        "task": loaded.task,
        "imgsz": max(predictor.imgsz),  # as the host has rounded it
        "confidence": CONFIDENCE,
        "versions": {each: version(each) for each in ("torch", "ultralytics", "grad-cam")},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "images": images,
        "attentions": [gates.summary(each, pools, images) for each in sites],
        "ablation": None,
    }


# What is given -------------------------------------------------------------------------------------------------------


def _with_attentions(
    model: str | os.PathLike | host.YOLO | host.RTDETR, trust: bool
) -> tuple[str, host.YOLO | host.RTDETR]:
    """The model and its name; a UserError for one that has nothing to explain."""
    if isinstance(model, (str, os.PathLike)):
        name, loaded = Path(model).name, host.load(model, trust)
    else:
        name, loaded = Path(model.ckpt_path or "model").name, model
    with host.refusing(name):  # a file can hold anything
        found = ablation.attentions(loaded.model)
    if not found:
        raise UserError(f"{name} has no attention to explain", f"put one in: foveal add {name} ema")
    if not is_finite(loaded.model):
        raise UserError(f"{name} has weights that are not finite", "give a file of a training that went well")
    return name, loaded


def _check_target(target: Path) -> None:
    require_free(target, force=True)
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir() or (any(target.iterdir()) and not _is_ours(target)):
        raise UserError(f"{target} exists and is no explanation of foveal's", "choose another folder with -o")


def _is_ours(folder: Path) -> bool:
    try:
        return json.loads((folder / MANIFEST).read_text("utf-8"))["kind"] == "explain"
    except MALFORMED:
        return False


def _put(part: Path, target: Path) -> None:
    """Move what was made to its place; the manifest, which says that all is there, comes last."""
    target.mkdir(exist_ok=True)
    (target / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(target / "pictures", ignore_errors=True)
    for name in ("pictures", "index.html", MANIFEST):
        os.replace(part / name, target / name)


def _files(images: Sequence[str | os.PathLike]) -> list[Path]:
    """All images that are named, and those in folders that are."""
    images = [images] if isinstance(images, (str, os.PathLike)) else images
    found = []
    for place in map(Path, images):
        if place.is_dir():
            inside = sorted(file for file in place.iterdir() if file.suffix[1:].lower() in listing.IMG_FORMATS)
            if not inside:
                raise UserError(f"there is no image in the folder {str(place)!r}", "give images, or a folder of them")
            found += inside
        elif not place.is_file():
            raise UserError(f"there is no file {str(place)!r}", "give images, or a folder of them")
        else:
            found.append(place)
    for file in found:
        _check_image(file)
    return found


def _check_image(file: Path) -> None:
    if file.suffix[1:].lower() not in listing.IMG_FORMATS:
        raise UserError(f"{str(file)!r} is no image that Ultralytics reads", "give one such as photo.jpg")
    try:
        with Image.open(file) as image:
            image.load()
    except (OSError, ImportError, SyntaxError, ValueError, Image.DecompressionBombError, struct.error) as error:
        # An ImportError is the host's, which tries whether what PIL does not know is HEIF.
        said = f"{str(file)!r} cannot be read as an image: {one_line(error)}"
        raise UserError(said, "open it in a viewer, save it anew") from None


def _some(model: host.YOLO | host.RTDETR, data: str | None, split: str) -> list[Path]:
    """The first images of a split."""
    if data is None:
        raise UserError("neither images nor data are given", "give images, or --data my.yaml")
    found = dataset.Data(data).images(split)
    if Task.of(model.task).says is Says.CLASS:
        found = found[:: max(1, len(found) // FEW)]  # they are sorted by class
    if not found:
        raise UserError(f"there is no image in the split {split!r} of {data!r}", "choose another with --split")
    return _files(found[:FEW])


def _size(imgsz: int | None, model: host.YOLO | host.RTDETR) -> int:
    """What is asked for, or what the model was trained at."""
    if imgsz is None:
        own = model.overrides.get("imgsz") or Task.of(model.task).image_size
        return own if isinstance(own, int) else max(own)
    if imgsz < 32:
        raise UserError(f"imgsz={imgsz} is too small: a detector's coarsest cells have 32 pixels", "imgsz=640")
    return imgsz


def _check_classes(model: host.YOLO | host.RTDETR, data: str, split: str) -> None:
    """Before the host fails on it in the middle of an evaluation."""
    if Task.of(model.task).says is not Says.BOXES:  # their labels are no boxes
        return
    described = dataset.Data(data)
    count, own = len(described.names), len(model.names)
    if count != own:
        raise UserError(f"{data!r} has {count} classes, but the model {own}", "give the data that it was trained on")
    if not described.has_labels(split):
        raise UserError(f"the split {split!r} of {data!r} has no labels", "choose another with --split")


# An image ------------------------------------------------------------------------------------------------------------


def frame(task: str, stretched: bool, size: tuple[int, int], tensor: tuple[int, int], imgsz: Sequence[int]) -> Frame:
    """Where the host puts a photograph in the tensor.

    Args:
        task: of the model; a classifier sees the middle of the photograph.
        stretched: whether the host brings the photograph to the size without keeping its proportions, as for RT-DETR.
        size: width and height of the photograph.
        tensor: width and height of the tensor.
        imgsz: height and width asked for.
    """
    if stretched:
        return Frame(size, tensor, (tensor[0] / size[0], tensor[1] / size[1]), (0.0, 0.0))
    if Task.of(task).says is Says.CLASS:
        resized = [int(tensor[0] * side / min(size)) for side in size]
        offset = [-round((whole - side) / 2) for whole, side in zip(resized, tensor, strict=True)]
    else:
        ratio = min(imgsz[0] / size[1], imgsz[1] / size[0])
        resized = [round(side * ratio) for side in size]
        offset = [round((whole - side) / 2 - 0.1) for whole, side in zip(tensor, resized, strict=True)]
    across, down = (after / before for after, before in zip(resized, size, strict=True))
    left, top = map(float, offset)
    return Frame(size, tensor, (across, down), (left, top))


def _image(predictor, sites: list[gates.Site], file: Path, index: int, folder: Path, pools: dict) -> dict:
    """One image's entry in the manifest; the numbers over all images grow in `pools`."""
    result, tensor, read = gates.features(predictor, sites, file)
    pixels = result.orig_img if result.orig_img.shape[2] == 3 else np.repeat(result.orig_img[..., :1], 3, 2)
    pixels = np.ascontiguousarray(pixels[..., ::-1])  # the host has blue first
    height, width = pixels.shape[:2]
    size, task = (width, height), predictor.args.task
    whole = Task.of(task).says is Says.CLASS
    where = frame(task, prediction.stretches(predictor), size, (tensor.shape[3], tensor.shape[2]), predictor.imgsz)
    found = _detections(result)
    true = None if whole else true_boxes(file, task, size, result.names)
    guessed, known = ([outline(box) for box in boxes or ()] for boxes in (found, true))
    picture = f"pictures/{index:03}.jpg"
    pictures.photograph(pixels, where, guessed, known, folder / picture)
    name = "/".join(file.parts[-2:]) if whole else file.name  # a class names its images anew
    entry = {"name": name, "picture": picture, "width": size[0], "height": size[1], "boxes": found}
    entry |= {"true_boxes": true, "gates": [], "effects": [], "cams": []}
    if result.probs is not None:
        scores = result.probs.data.tolist()
        entry["classes"] = [{"label": result.names[best], "confidence": scores[best]} for best in result.probs.top5]
    drawing = gates.Drawing(folder, index, where, pixels, guessed if true is None else known, true is not None)
    for each in sites:
        x = read[each.id]
        entry["gates"] += drawing.gates(each, x, pools)
        entry["effects"].append(drawing.effect(each, x, pools))
        entry["cams"].append(drawing.cam(each, cam.pair(predictor, each.outer, tensor, result.orig_img)))
    return entry


def outline(box: dict) -> list[list[float]]:
    """Corners of a box, in pixels of the photograph."""
    left, top, right, bottom = box["box"]
    return box.get("corners") or [[left, top], [right, top], [right, bottom], [left, bottom]]


def _detections(result) -> list[dict]:
    """What the host found, by falling confidence."""
    found = result.obb if result.obb is not None else result.boxes
    if found is None:
        return []
    boxes = [
        {"box": box, "label": result.names[int(label)], "confidence": confidence}
        for box, label, confidence in zip(found.xyxy.tolist(), found.cls.tolist(), found.conf.tolist(), strict=True)
    ]
    if result.obb is not None:
        for box, corners in zip(boxes, found.xyxyxyxy.tolist(), strict=True):
            box["corners"] = corners
    return boxes


def true_boxes(file: Path, task: str, size: tuple[int, int], names: dict[int, str]) -> list[dict] | None:
    """The boxes in the label file of an image, in pixels; None where there is no such file.

    Raises:
        UserError: a line of it cannot be read.
    """
    (label_file,) = dataset.labels([file.resolve()])
    if not label_file.is_file():
        return None
    boxes = []
    for number, line in enumerate(label_file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            kind, *values = map(float, line.split())
        except ValueError:
            kind, values = 0.0, []
        if len(values) < 4 or not np.isfinite([kind, *values]).all():
            raise UserError(
                f"line {number} of {label_file} is no label: {line[:80]!r}", "write: class x y width height"
            )
        box: dict[str, Any] = {"label": names.get(int(kind), str(int(kind)))}
        if task != "pose" and len(values) >= 6:  # a polygon
            points = np.array(values[: len(values) // 2 * 2]).reshape(-1, 2) * size
            box |= {"corners": points.tolist()} if task == "obb" else {}
            box["box"] = [*points.min(0).tolist(), *points.max(0).tolist()]
        else:
            x, y, width, height = (value * side for value, side in zip(values[:4], (*size, *size), strict=True))
            box["box"] = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        boxes.append(box)
    return boxes
