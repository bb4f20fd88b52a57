"""`foveal.export`: Ultralytics' exporter, and then the proof that the file computes what the model computes.

The file is written into a folder of its own, run by its own runtime at the size it was traced at and, if its sizes are
meant to be dynamic, at a larger one and one that is not square, on one image at a time and on four; raw outputs and
boxes are compared with PyTorch. Only a file that passes gets its name.

What a format loses anyway is no fault of an attention. Where a difference exceeds rounding, and a thousandth of what
the attentions change at all, the same model without them is exported, too, and twice the root mean square of what it
loses at the traced size is allowed. (Not its largest difference, which of thousands of background boxes is a matter of
chance; and not at other sizes, where a fault of the model itself would excuse itself.) OpenVINO rounds to 16 bits on
some CPUs unless told not to, and that hides faults: its files are judged in full precision, and once more at the traced
size as `yolo predict` runs them.

What INT8 costs is said besides, in what the model is judged by: see `quantization`.

A file with suppression in it that finds no box shows nothing. The same model is then exported without suppression, too,
and its raw outputs are compared.
"""

import copy
import dataclasses
import importlib.metadata
import json
import math
import os
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import foveal

from ..attention import Attention
from ..errors import UserError
from ..files import named, write_text
from ..hosts import ultralytics as host
from ..hosts.ultralytics import CannotExportError, Written, dataset, exporter, runtime
from ..surgery import IdentityStart, attended
from ..tensors import sides
from . import first_difference, parity, quantization, quantizers
from .fusion import fuse
from .parity import Differences
from .quantization import Quantization
from .quantizers import Noted, Part

ROUNDING = {"boxes": 1e-3, "scores": 1e-5, "rest": 1e-4}  # largest differences that pass in any format
SHARE = 1e-3  # of what the attentions change, as root mean squares, is rounding, too
FACTOR = 2.0  # and otherwise the rms difference may be so many times that of the plain model
NAMES = {
    "boxes": ("boxes", " pixels"),
    "scores": ("confidences", ""),
    "rest": ("masks, key points, angles, depths or scores of pixels", " of the largest"),
}
BATCHES = (1, 4)
NOTHING = "no box was found that could be compared: give data=my.yaml with images on which the model finds something"


@dataclass(frozen=True)
class Case:
    """One size and batch at which a file was run.

    Attributes:
        size: rows and columns.
        batch: images at a time.
        exact: whether the runtime was told to keep full precision, where it has that choice.
        differences: between both, None where it did not run.
        wrong: what is wrong, in words, or "".
        raw: whether what was run is the model exported without its suppression, because with it no box was found.
    """

    size: tuple[int, int]
    batch: int
    exact: bool
    differences: Differences | None
    wrong: str
    raw: bool = False


@dataclass(frozen=True)
class Exported:
    """What `export` found.

    Attributes:
        source: the model file.
        output: the file or folder; it is there only if everything is right.
        settings: as they were given.
        versions: of what wrote and ran it.
        cases: everything that was run.
        effect: how far the model is from itself without attentions, both in PyTorch; None where nobody asked.
        plain: what the same model loses without attentions, by whether it ran exactly; empty where nobody asked.
        wrong: what is wrong in one sentence, or "".
        quantization: what INT8 costs; None without INT8, of a file that does not run, and where `unjudged`.
        unjudged: why it is not known what INT8 costs, or "".
    """

    source: str
    output: str
    settings: dict[str, Any]
    versions: dict[str, str]
    cases: tuple[Case, ...]
    effect: Differences | None
    plain: dict[bool, Differences]
    wrong: str
    quantization: Quantization | None = None
    unjudged: str = ""


def export(model: str | os.PathLike, *, trust: bool = False, keep_float: bool = False, **settings: object) -> Exported:
    """Export a model and compare the file with it.

    The file stands beside the model and has the host's name for it; what was found is written beside it, as
    `yolo11n-ema.onnx.parity.json`.

    Args:
        model: a .pt file, or a model YAML or its name.
        trust: load a .pt file that names more than layers of known packages, and run what it names.
        keep_float: of INT8, write the file that has in float what of the attentions is found to need it.
        settings: as Ultralytics takes them: format, imgsz, dynamic, half, int8, data, batch, nms, ...

    Raises:
        UserError: no such model, or settings that cannot work. Nothing is written then.
    """
    source, given = named(model, "a model"), exporter.settings(settings)
    if keep_float and not exporter.eight_bits(given):
        raise UserError("only of INT8 can layers be kept in float", "add int8=True data=my.yaml")
    loaded = host.load(source, trust)
    if source.suffix != ".pt":
        source = Path.cwd() / source.name
    try:
        folder = tempfile.TemporaryDirectory(dir=source.parent, prefix=".foveal-")
    except OSError as error:
        raise UserError(f"cannot write beside {source}: {error}", "copy the model elsewhere") from None
    with folder, host.without_lines(folder.name):
        exported, written = _tried(loaded, source, Path(folder.name), given, keep_float)
        target = Path(exported.output)
        if written and not exported.wrong:
            _move(written, target)
    report = target.with_name(f"{target.name}.parity.json")
    text = json.dumps(dataclasses.asdict(exported), indent=1, default=str)
    write_text(report, text)
    return exported


def _tried(
    loaded: host.YOLO, source: Path, folder: Path, given: dict[str, Any], keep_float: bool
) -> tuple[Exported, Path | None]:
    """Export into a folder and judge; the file is returned, too, if there is one."""
    attentions = [name for name, _ in _attentions(loaded.model)]
    with host.refusing(source):  # a file can hold anything
        weights = deployed(loaded.model)

    def write(place: str, settings: dict[str, Any], parts: Collection[Part]) -> tuple[Written, Noted]:
        (into := folder / place).mkdir(exist_ok=True)
        with quantizers.keeping(str(given["format"]), attentions, parts) as noted:
            return exporter.write(loaded, weights, into, source.stem, settings), noted

    on = quantization.ground(loaded, source, given) if exporter.eight_bits(given) else None
    try:
        written, noted = write("", given, ())
    except CannotExportError as error:
        where = f"{'at any size but' if given.get('dynamic') else 'at'} {sides(error.size)} pixels"
        target = source.with_name(f"{source.stem}.{given['format']}")
        wrong = f"{where} it cannot be exported: {error}"
        return Exported(str(source), str(target), given, _versions(given), (), None, {}, wrong), None
    exported = _checked(loaded, weights, written, source, folder, given)
    if not all(case.differences for case in exported.cases) or not exporter.eight_bits(given):
        return exported, written.path
    if on is None:
        unjudged = f"of task {loaded.task!r} nothing is kept for each image"
        return dataclasses.replace(exported, unjudged=unjudged), written.path
    try:
        found, kept = quantization.judged(on, (written, noted), bool(attentions), write, folder, given)
    except quantization.CannotJudgeError as error:
        return dataclasses.replace(exported, unjudged=str(error)), written.path
    if keep_float and kept:
        written, exported = kept, _checked(loaded, weights, kept, source, folder, given)
    return dataclasses.replace(exported, quantization=found), written.path


def _checked(
    loaded: host.YOLO, weights: nn.Module, written: Written, source: Path, folder: Path, given: dict[str, Any]
) -> Exported:
    """What comes of comparing a file with PyTorch."""
    files = _pictures(given)
    cases, effect, plain = _judged(loaded, written, files, folder, given)
    raw = None
    if nothing := [case for case in cases if case.differences and case.differences.empty]:
        raw = _raw(loaded, weights, folder, given)
        if raw is None:
            cases = [dataclasses.replace(case, wrong=NOTHING) if case in nothing else case for case in cases]
        else:
            more, raw_effect, raw_plain = _judged(loaded, raw, files, folder, _without_nms(given))
            cases += [dataclasses.replace(case, raw=True) for case in more]
            effect, plain = effect or raw_effect, plain or raw_plain
    wrong = ""
    if broken := next((case for case in cases if case.wrong), None):
        wrong = f"at {sides(broken.size)} pixels, batch {broken.batch}{', without nms' * broken.raw}: {broken.wrong}"
        run = raw if raw and broken.raw else written
        if given["format"] == "onnx" and broken.wrong != NOTHING:
            images = exporter.pictures(files[:1], broken.size, run.channels)
            wrong += f"; {layer}" if (layer := first_difference.first(run, images)) else ""
    output = str(source.with_name(written.path.name))
    return Exported(str(source), output, given, _versions(given), tuple(cases), effect, plain, wrong)


def _judged(
    loaded: host.YOLO, written: Written, files: list[Path], folder: Path, given: dict[str, Any]
) -> tuple[list[Case], Differences | None, dict[bool, Differences]]:
    """Everything that was run with what is wrong with it, and what was measured to tell."""
    cases, effect, plain = _run(written, files, given), None, {}
    if any(case.differences and _wrong(case, None, None) for case in cases):
        effect = _effect(written, files)
    if any(case.differences and _wrong(case, effect, None) for case in cases):
        plain = _plain(loaded, folder, files, given)
    return (
        [dataclasses.replace(case, wrong=_wrong(case, effect, plain.get(case.exact))) for case in cases],
        effect,
        plain,
    )


def _raw(loaded: host.YOLO, weights: nn.Module, folder: Path, given: dict[str, Any]) -> Written | None:
    """The same model exported without its suppression; None where it has none or cannot be exported so."""
    if not given.get("nms"):
        return None
    try:
        return exporter.write(loaded, weights, folder, "raw", _without_nms(given))
    except CannotExportError:
        return None


def _without_nms(given: dict[str, Any]) -> dict[str, Any]:
    # Without the word, because False asks for a head without suppression where a model has two.
    return {key: value for key, value in given.items() if key != "nms"}


def deployed(model: nn.Module) -> nn.Module:
    """A copy whose attentions are in their cheapest form for inference; the rest is the host's to fuse."""
    model = copy.deepcopy(model).eval()
    for name, attention in _attentions(model):
        _replace(model, name, fuse(nn.Sequential(attention).eval()).get_submodule("0"))
    return model


def without_attentions(model: nn.Module) -> nn.Module:
    """A copy with nothing in the place of each attention."""
    model = copy.deepcopy(model).eval()
    for name, _ in _attentions(model):
        _replace(model, name, nn.Identity())
    return model


def _attentions(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The attentions with their starts, by name, and whatever else is attached to a layer as one."""
    named = [
        (f"{name}.attention.{place}", attention)
        for name, layer in model.named_modules()
        if attended(layer)
        for place, attention in layer.attention.named_children()
    ]
    named += [item for item in model.named_modules() if isinstance(item[1], (IdentityStart, Attention))]
    outer: dict[str, nn.Module] = {}
    for name, module in sorted(named, key=lambda item: item[0].count(".")):
        if not any(f"{name}.".startswith(f"{other}.") for other in outer):
            outer[name] = module
    return [*outer.items()]


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    old = model.get_submodule(name)
    for key in ("i", "f", "type", "np"):  # what the host keeps on rows
        if hasattr(old, key):
            setattr(module, key, getattr(old, key))
    model.set_submodule(name, module)


def _pictures(given: dict[str, Any]) -> list[Path]:
    """Four photographs, of the data if some are given."""
    found = dataset.Data(str(given["data"])).images("val")[: BATCHES[-1]] if given.get("data") else exporter.PICTURES
    return [found[index % len(found)] for index in range(BATCHES[-1])]


def _sizes(written: Written) -> list[tuple[int, int]]:
    """The size it was traced at; where others must work, a larger one and one that is not square."""
    height, width = written.size
    if not written.dynamic:
        return [written.size]
    step = written.stride
    higher, wider = (step * (1 + side * 5 // 4 // step) for side in (height, width))
    oblong = (max(step, height // 2 // step * step), width if width > step else 2 * step)
    return list(dict.fromkeys([written.size, (higher, wider), oblong]))


def _run(written: Written, files: list[Path], given: dict[str, Any]) -> list[Case]:
    sizes = [(size, True) for size in _sizes(written)]
    if given["format"] == "openvino":
        sizes.append((written.size, False))
    cases: list[Case] = []
    runs: dict[bool, runtime.Runtime] = {}
    for size, exact in sizes:
        try:
            runs[exact] = runs.get(exact) or runtime.start(written.path, given.get("device"), exact)
        except runtime.CannotRunError as error:
            return [Case(size, written.batch, exact, None, f"the file does not load: {error}")]
        images = exporter.pictures(files, size, written.channels)
        for batch in BATCHES if written.dynamic else (written.batch,):
            found = _compared(written, runs[exact], images, size, batch)
            wrong, differences = (found, None) if isinstance(found, str) else ("", found)
            cases.append(Case(size, batch, exact, differences, wrong))
    return cases


def _compared(
    written: Written, run: runtime.Runtime, images: Tensor, size: tuple[int, int], batch: int
) -> Differences | str:
    """All images, so many at a time."""
    images = images.repeat(-(-batch // len(images)), 1, 1, 1)
    groups = images[: len(images) // batch * batch].split(batch)
    try:
        outputs = run(groups)
    except runtime.CannotRunError as error:
        return f"the file does not run: {error}"
    found = [
        parity.compare(written.outputs(written.model, group), got, written.kind, size)
        for group, got in zip(groups, outputs, strict=True)
    ]
    wrong = next((each for each in found if isinstance(each, str)), None)
    return wrong or parity.worst(each for each in found if isinstance(each, Differences))


def _wrong(case: Case, effect: Differences | None, plain: Differences | None) -> str:
    if case.differences is None:
        return case.wrong
    for key, (name, unit) in NAMES.items():
        ours, whole, theirs = (getattr(found, key, None) for found in (case.differences, effect, plain))
        if ours is None or ours.largest <= ROUNDING[key] or (whole and ours.rms <= SHARE * whole.rms < math.inf):
            continue
        if theirs and ours.rms <= FACTOR * theirs.rms:
            continue
        besides = f"; without attention {theirs.largest:.2g}, {theirs.rms:.2g}" if theirs else ""
        return f"{name} differ by up to {ours.largest:.2g}{unit}, rms {ours.rms:.2g}{besides}"
    if case.differences.unmatched and not getattr(plain, "unmatched", 0):
        return f"{case.differences.unmatched} boxes are found by only one of the file and PyTorch"
    return ""


def _effect(written: Written, files: list[Path]) -> Differences | None:
    """What the attentions change at the traced size; None if the outputs have other shapes without them."""
    bare, images = without_attentions(written.model), exporter.pictures(files, written.size, written.channels)
    images = images.repeat(-(-written.batch // len(images)), 1, 1, 1)[: written.batch]
    attended, plain = (written.outputs(model, images) for model in (written.model, bare))
    found = parity.compare(attended, plain, written.kind, written.size)
    return found if isinstance(found, Differences) else None


def _plain(loaded: host.YOLO, folder: Path, files: list[Path], given: dict[str, Any]) -> dict[bool, Differences]:
    """What the same model loses without its attentions at the traced size, exactly run and not, as far as it runs."""
    bare = without_attentions(loaded.model)
    try:
        written = exporter.write(exporter.standing_in(loaded, bare), copy.deepcopy(bare), folder, "plain", given)
    except CannotExportError:
        return {}
    cases = _run(dataclasses.replace(written, dynamic=False), files, given)
    return {case.exact: case.differences for case in cases if case.differences}


def _move(written: Path, target: Path) -> None:
    """Put what was written in its place; a folder that is there already is another export of the same name."""
    for script in written.glob("*.py"):  # by pnnx, which notes where it wrote
        script.write_text(script.read_text().replace(str(written), str(target)))
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(written, target)


def _versions(given: dict[str, Any]) -> dict[str, str]:
    names = ("torch", "ultralytics", *exporter.packages(given))
    return {"foveal": foveal.__version__} | {name: importlib.metadata.version(name) for name in names}
