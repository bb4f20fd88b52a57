"""What INT8 costs: files of one model judged on the same images, and which layers of its attentions need float.

    cost    of float less of INT8
    rest    of float less of INT8 with all attentions left in float
    share   of INT8 with all attentions left in float less of INT8: what quantizing the attentions costs

All files hold the trained model. One whose attentions are taken out would say nothing of that: it was not trained
without them. What INT8 costs a model that was trained without attention is what `foveal export` says of that one.

Where the share is more than the choice of images makes, parts are left in float one after the other, each in a file of
its own: single attentions, the best ones together, then the layers of one kind of these. A part is named only if INT8
with it in float is better than without by more than the choice of images makes, and not worse than with all attentions
in float by as much.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evidence import Evidence, Task, averages
from ..hosts import ultralytics as host
from ..hosts.ultralytics import CannotExportError, Written, dataset, modelfile
from ..judging import BATCH, Ground, bounded, images_only
from ..verdict import Estimate, Floats, differences_of, estimate
from .quantizers import Noted, Part

# Exports a model into the folder of this name, with these settings, with these parts in float.
Write = Callable[[str, dict[str, Any], Collection[Part]], tuple[Written, Noted]]


@dataclass(frozen=True)
class Tried:
    """An INT8 file with parts of its attentions in float.

    Attributes:
        kept: these parts.
        average: of the file.
        cost: of float less of the file.
        enough: whether it is the file that has in float what needs it.
    """

    kept: tuple[str, ...]
    average: Estimate
    cost: Estimate
    enough: bool


@dataclass(frozen=True)
class Quantization:
    """What INT8 costs a model. Averages are fractions; differences are paired over the images.

    Attributes:
        data: as given.
        split: that files were judged on.
        images: in it.
        calibrated: the split that ranges were taken from.
        metric: by which files were judged.
        in_float: the average of the file without quantization.
        int8: that of the file with it.
        kept: that of the file with it and all attentions in float; None where there is no such file.
        cost: see above; this and the two below share the 5 % that their intervals leave, after Holm.
        rest: see above; None without `kept`.
        share: see above; None without `kept`.
        rounded: the attentions' layers that are quantized, by their names in the graph.
        tried: more files, where the share is more than the choice of images makes.
        needs_float: the parts of attentions that need float, as far as files showed it.
        nodes: their layers, by their names in the graph.
        sentences: the outcome in words.
    """

    data: str
    split: str
    images: int
    calibrated: str
    metric: str
    in_float: Estimate
    int8: Estimate
    kept: Estimate | None
    cost: Estimate
    rest: Estimate | None
    share: Estimate | None
    rounded: tuple[str, ...]
    tried: tuple[Tried, ...]
    needs_float: tuple[str, ...]
    nodes: tuple[str, ...]
    sentences: tuple[str, ...] = ()


def ground(model: host.YOLO, source: Path, given: dict[str, Any]) -> Ground | None:
    """The images that files of a model will be judged on; None for a task of which nothing is kept for each image.

    Raises:
        UserError: they do not fit, or there is none to calibrate on.
    """
    task, data, calibrated = Task.of(model.task), str(given["data"]), _calibrated(given)
    if not dataset.Data(data, task=task.name).images(calibrated):
        raise UserError(f"{data} has no image in {calibrated} to calibrate on", "give data with images there")
    if task.evidence is None:
        return None
    classes = tuple(map(str, model.model.names.values()))
    rtdetr = isinstance(model, host.RTDETR)
    file = modelfile.ModelFile(source, modelfile.TRAINED, task, classes, 0, False, rtdetr, model.model)
    return Ground.of([file], data)


def _calibrated(given: dict[str, Any]) -> str:
    return str(given.get("split") or "val")  # as the host's exporter has it


class CannotJudgeError(Exception):
    """There is nothing to compare an INT8 file with."""


@dataclass(frozen=True)
class _File:
    """A file that was judged: what of the attentions is in float, and its average on all images and on drawn ones."""

    parts: tuple[Part, ...]
    written: Written
    noted: Noted
    draws: Floats


class _Judge:
    """Exports a model, and judges each file on the same images."""

    plain: Floats  # of the file without INT8
    quantized: Floats  # of the file with it

    def __init__(self, on: Ground, write: Write, folder: Path, given: dict[str, Any]):
        self.on, self.write, self.folder, self.given = on, write, folder, given
        self.images, self.disagreement, self.count = 0, 0.0, 0
        self._first: Evidence | None = None

    def in_float(self) -> Floats:
        given = {key: value for key, value in self.given.items() if key not in ("int8", "quantize")}
        written = self._again("without INT8", given, ())[0]
        if written.eight_bits:
            raise CannotJudgeError("the model was trained for INT8, and its export has no other form to compare with")
        return self.draws(written)

    def keeping(self, *parts: Part) -> _File:
        written, noted = self._again(f"with {' and '.join(map(str, parts))} in float", self.given, parts)
        return _File(parts, written, noted, self.draws(written))

    def _again(self, how: str, given: dict[str, Any], parts: Collection[Part]) -> tuple[Written, Noted]:
        self.count += 1
        try:
            return self.write(f"again-{self.count}", given, parts)
        except CannotExportError as error:
            raise CannotJudgeError(f"{how} it cannot be exported: {error}") from error

    def draws(self, written: Written) -> Floats:
        settings = {"batch": BATCH, "device": str(self.given.get("device") or "cpu"), "imgsz": max(written.size)}
        found, disagreement = self.on.evaluated(modelfile.opened(written.path), self.folder / "judged", **settings)
        self._first = self._first or found
        if not found.same_images(self._first):
            raise CannotJudgeError("its files were judged on other images each")
        self.images, self.disagreement = len(found.name), max(self.disagreement, disagreement)
        metric = self.on.task.metric
        return found.averages(averages.image_counts(self.images), False, metric.of)["overall"]

    def average(self, draws: Floats) -> Estimate:
        return estimate(draws, self.images)

    def difference(self, one: Floats, other: Floats) -> Estimate:
        return differences_of([one - other], self.images)[0]

    def cost(self, one: _File) -> Estimate:
        return self.difference(self.plain, one.draws)

    def losses(self, whole: _File | None) -> list[Estimate]:
        """What INT8 costs, and if there is a file to tell, of that the rest and the attentions."""
        found = [self.plain - self.quantized]
        found += [self.plain - whole.draws, whole.draws - self.quantized] if whole else []
        return differences_of(found, self.images)


def judged(
    on: Ground, int8: tuple[Written, Noted], attended: bool, write: Write, folder: Path, given: dict[str, Any]
) -> tuple[Quantization, Written | None]:
    """Judge an INT8 file, and the same with attentions in float.

    Args:
        on: the images.
        int8: the file, and what was noted when it was quantized.
        attended: whether the model has attentions.
        write: exports the model again into a folder of its own.
        folder: for that and for what the host writes.
        given: settings of the export.

    Returns:
        What was found, and the file whose attentions are in float as far as they need it, where they do.

    Raises:
        CannotJudgeError: the model has no form in float, or cannot be exported again with other layers in float.
    """
    judge, noted = _Judge(on, write, folder, given), int8[1]
    judge.plain, judge.quantized = judge.in_float(), judge.draws(int8[0])
    attentions = sorted({layer.attention for layer in noted.rounded})
    whole = judge.keeping(*map(Part, attentions)) if attentions else None
    losses, tried, best = judge.losses(whole), list[_File](), None
    if whole and _is_loss(losses[-1]):
        tried, best = _search(judge, noted, whole)
    found = _found(judge, noted, whole, losses, tried, best)
    said = _sentences(found, noted.told, attended, judge.cost(best) if best else None)
    if judge.disagreement > averages.AGREEMENT:
        said.append(f"BROKEN: averages are {judge.disagreement:.0e} apart from Ultralytics' own.")
    return replace(found, sentences=tuple(said)), best.written if best else None


def _found(
    judge: _Judge,
    noted: Noted,
    whole: _File | None,
    losses: Sequence[Estimate],
    tried: Sequence[_File],
    best: _File | None,
) -> Quantization:
    cost, (rest, share) = losses[0], losses[1:] or (None, None)
    return Quantization(
        data=judge.on.data,
        split=judge.on.split,
        images=judge.images,
        calibrated=_calibrated(judge.given),
        metric=judge.on.task.metric.name,
        in_float=judge.average(judge.plain),
        int8=judge.average(judge.quantized),
        kept=judge.average(whole.draws) if whole else None,
        cost=cost,
        rest=rest,
        share=share,
        rounded=tuple(layer.name for layer in noted.rounded),
        tried=tuple(
            Tried(tuple(map(str, one.parts)), judge.average(one.draws), judge.cost(one), one is best) for one in tried
        ),
        needs_float=tuple(map(str, best.parts)) if best else (),
        nodes=tuple(layer.name for layer in best.noted.kept) if best else (),
    )


def _is_loss(difference: Estimate) -> bool:
    return difference.excludes_zero and (difference.value or 0) > 0


def _search(judge: _Judge, noted: Noted, whole: _File) -> tuple[list[_File], _File]:
    """Files with less and less of the attentions in float, and the one that has enough of them so."""

    def enough(one: _File) -> bool:
        gained, missing = judge.difference(one.draws, judge.quantized), judge.difference(whole.draws, one.draws)
        return _is_loss(gained) and not _is_loss(missing)

    best, tried = whole, list[_File]()
    if len(whole.parts) > 1:
        tried += sorted((judge.keeping(part) for part in whole.parts), key=lambda one: -one.draws[0])
        parts = [part for one in tried for part in one.parts]
        for count in range(1, len(parts)):
            if count > 1:
                tried.append(judge.keeping(*parts[:count]))
            if enough(one := tried[0 if count == 1 else -1]):
                best = one
                break
    kinds = sorted({layer.kind for layer in noted.rounded if any(layer in part for part in best.parts)})
    if len(kinds) > 1:
        finer = [judge.keeping(*(Part(part.attention, kind) for part in best.parts)) for kind in kinds]
        tried += finer
        best = max(filter(enough, finer), key=lambda one: one.draws[0], default=best)
    return tried, best


def _sentences(found: Quantization, told: bool, attended: bool, cost: Estimate | None) -> list[str]:
    where = f"{found.images} images of {found.split}"
    if not found.in_float.value:
        return [f"Without INT8 the file finds nothing right on {where}, so they do not tell what INT8 costs."]
    said = [f"On {where} INT8 costs {points(found.cost)} points of {found.metric}, {images_only(found.cost)}."]
    if attended and not told:
        said.append(
            "What of it the attention costs is not known: this quantizer cannot be told what to leave in float."
        )
    elif attended and found.share is None:
        said.append("No layer of the attention is quantized.")
    elif found.share:
        its = f"Of it the attention costs {points(found.share)}, {images_only(found.share)}"
        if cost is None:
            said.append(f"{its}: no layer of it is shown to need float.")
        else:
            said.append(f"{its}. With {' and '.join(found.needs_float)} in float, INT8 costs {points(cost)}.")
    if found.split == found.calibrated:
        said.append("The ranges of INT8 were taken from the same images.")
    return said


def points(found: Estimate | None) -> str:
    """A difference in hundredths, with its bounds in brackets as far as they are known."""
    if found is None:
        return ""
    value, low, high = (None if of is None else 100 * of + 0.0 for of in (found.value, found.low, found.high))
    return bounded(replace(found, value=value, low=low, high=high), ".2f")
