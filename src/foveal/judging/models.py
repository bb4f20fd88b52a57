"""`foveal.judge`: models that exist, on one split, with an interval over images for all that is said."""

import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from ..checks import require_positive
from ..errors import UserError
from ..evidence import Arrays, Evidence, Metric, Says, Task, averages, over_classes
from ..files import named
from ..hosts import split_to_judge
from ..hosts.ultralytics import dataset, modelfile
from ..tensors import require_device
from ..verdict import FEWEST, LEVEL, Estimate, Floats, Ints, differences_of, estimate
from . import confidences
from .evaluation import evaluated, images_only
from .records import JudgedModel, Judgement, PartOfMetric

BATCH = 16  # the host's own for evaluations
ONE_CLASS = ("item",)  # what the host calls the only class of a model that was trained with single_cls


def judge(
    models: str | PathLike[str] | Iterable[str | PathLike[str]],
    *,
    data: str | PathLike[str],
    split: str | None = None,
    reference: str | PathLike[str] | None = None,
    metric: str | None = None,
    imgsz: int | None = None,
    batch: int = BATCH,
    device: str = "cpu",
    trust: bool = False,
) -> Judgement:
    """Judge models that exist on the same images, and compare them with one of them.

    Each is judged by Ultralytics' own validator, a .pt file at the size that it was trained at and an export at the one
    that it was exported at. Only the choice of images is in the intervals: what another seed would give is not.
    Ultralytics keeps caches beside the labels it reads.

    Args:
        models: .pt files and exports of one task and the same classes; one, or several.
        data: a data file; for classifiers a folder.
        split: "train", "val" or "test"; test if it has labels and nothing is said, else val.
        reference: the one of `models` that the others are compared with, the first if nothing is said.
        metric: which of the task's, the first if nothing is said: "mask" or "box" of segmentation, "keypoints" or "box"
            of poses.
        imgsz: side in pixels for all of them, which a file that was exported at another fixed one refuses.
        batch: of the evaluations; an export of a fixed batch has its own.
        device: as Ultralytics takes it.
        trust: load .pt files that name more than layers of known packages, and run what they name.

    Raises:
        UserError: files that cannot be read or are named twice, of other classes than the data, or of several tasks; a
            task that cannot be judged from what it says of each image; data or a split that are not there.
    """
    given = [models] if isinstance(models, str | PathLike) else models
    names, data = [str(named(model, "a model")) for model in given], str(named(data, "data"))
    against = str(reference) if reference is not None else next(iter(names), "")
    _require_names(names, against)
    require_positive(imgsz=imgsz, batch=batch)
    require_device(device)
    files = [modelfile.opened(Path(name), trust) for name in names]
    ground = Ground.of(files, data, split, metric, imgsz)
    with tempfile.TemporaryDirectory(prefix="foveal-judge-") as place:
        settings: dict[str, Any] = {"folder": Path(place), "batch": batch, "device": device}
        said = []
        for index, file in enumerate(files):
            said.append(ground.evaluated(file, imgsz=imgsz or file.size, **settings))
            files[index] = replace(file, network=str(file.path))  # which leaves the device to the next one
    for name, (found, _) in zip(names, said, strict=True):
        if not found.same_images(said[0][0]):
            raise UserError(f"{name} was judged on other images than {names[0]}", "judge each alone")
    return _judgement(files, said, _Asked(data, ground.split, ground.task, names, against, imgsz, ground.names))


@dataclass(frozen=True)
class Ground:
    """One split of some data, on which files of one task and the same classes are judged.

    Attributes:
        data: as given.
        split: of it.
        task: of the files, judged by the metric that was asked for.
        names: of the classes.
        one_class: whether the files know one class only, whatever the data says.
    """

    data: str
    split: str
    task: Task
    names: dict[int, str]
    one_class: bool

    @classmethod
    def of(
        cls,
        files: Sequence[modelfile.ModelFile],
        data: str,
        split: str | None = None,
        metric: str | None = None,
        imgsz: int | None = None,
    ) -> "Ground":
        """What files can be judged on.

        Raises:
            UserError: they cannot, for what `judge` refuses.
        """
        task = _require_one_task(files, metric)
        described = dataset.Data(data, task=task.name)
        for file in files:
            _require_fit(file, files[0], described, imgsz)
        chosen = split or split_to_judge(described)
        if not described.has_labels(chosen):
            raise UserError(f"{data} has no split {chosen!r} with labels", "name another one with split")
        one_class = files[0].classes == ONE_CLASS
        return cls(data, chosen, task, {0: ONE_CLASS[0]} if one_class else described.names, one_class)

    def evaluated(self, file: modelfile.ModelFile, folder: Path, **settings: Any) -> tuple[Evidence, float]:
        """As the function of this name, which has the rest of the arguments."""
        settings |= {"single_cls": True} if self.one_class else {}
        return evaluated(file, self.data, self.split, folder, **settings)


@dataclass(frozen=True)
class _Asked:
    """What was asked, checked: models by name, and the names of classes."""

    data: str
    split: str
    task: Task
    named: list[str]
    reference: str
    imgsz: int | None
    names: dict[int, str]


def _judgement(
    files: Sequence[modelfile.ModelFile], said: Sequence[tuple[Evidence, float]], asked: _Asked
) -> Judgement:
    found, metric = [one for one, _ in said], asked.task.metric
    table = _Table.of(found, metric, asked.named.index(asked.reference))
    claims = {name: one.claims(metric.of) for name, one in zip(asked.named, found, strict=True)}
    there, images = claims[asked.named[0]].true_label, found[0].name
    models = tuple(
        JudgedModel(
            model=name,
            form=file.form,
            size=asked.imgsz or file.size,
            average=table.average(index, "overall"),
            second=table.average(index, "second"),
            beside=tuple(table.average(index, f"overall_{other.key}") for other in asked.task.metrics[1:]),
            difference=difference,
            disagreement=disagreement,
            calibration=confidences.calibration(claims[name]),
            wrong=confidences.wrong(claims[name], images, asked.names),
        )
        for index, (name, file, difference, (_, disagreement)) in enumerate(
            zip(asked.named, files, table.adjusted(), said, strict=True)
        )
    )
    judged = Judgement(
        data=asked.data,
        split=asked.split,
        task=asked.task.name,
        images=table.images,
        objects=len(there),
        metric=metric.name,
        second=metric.second,
        beside=tuple(other.name for other in asked.task.metrics[1:]),
        reference=asked.reference,
        level=LEVEL,
        resamples=averages.RESAMPLES,
        models=models,
        classes=table.classes(asked.names, there, claims[asked.named[0]].true_image),
        sizes=table.sizes(found[0].objects()),
        missed=() if asked.task.says is Says.MAP else confidences.missed(claims, images, asked.names),
    )
    return replace(judged, sentences=_sentences(judged))


# What is refused -----------------------------------------------------------------------------------------------------


def _require_names(named: Sequence[str], reference: str) -> None:
    if not named:
        raise UserError("there is no model to judge", "name one such as runs/detect/train/weights/best.pt")
    places = [Path(name).resolve() for name in named]
    if twice := next((name for name, place in zip(named, places, strict=True) if places.count(place) > 1), None):
        raise UserError(f"{twice} is named twice", "name each file once")
    if reference not in named:
        raise UserError(f"the reference {reference} is not among the models", f"name one of them, such as {named[0]}")


def _require_one_task(files: Sequence[modelfile.ModelFile], metric: str | None) -> Task:
    first = files[0]
    for file in files:
        if file.task != first.task:
            said = f"{file.path} is a model of task {file.task.name!r}, and {first.path} of {first.task.name!r}"
            raise UserError(said, "judge models of one task")
    if first.task.evidence is None:
        said = f"{first.path} is a model of task {first.task.name!r}, of which nothing is kept for each image"
        raise UserError(said, "foveal yolo val judges it, without an interval")
    return first.task.judged(metric) if metric else first.task


def _require_fit(file: modelfile.ModelFile, first: modelfile.ModelFile, data: dataset.Data, imgsz: int | None) -> None:
    """Whether a file can be judged on the data, which must have its classes by name and not only as many."""
    if (file.task.says is Says.CLASS) != data.classified:
        wanted = "a folder with one for each class" if file.task.says is Says.CLASS else "a data file"
        raise UserError(
            f"{file.path} is a model of task {file.task.name!r}, and {data.name} is not for it", f"give {wanted}"
        )
    there = ONE_CLASS if first.classes == ONE_CLASS else tuple(map(str, data.names.values()))
    if file.classes != there:
        pairs = zip(file.classes, there, strict=False)
        number = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(file.classes), len(there)))
        its, the = (repr(names[number]) if number < len(names) else "none" for names in (file.classes, there))
        raise UserError(
            f"{file.path} has other classes than {data.name}: class {number} is {its} and {the} there "
            f"({len(file.classes)} and {len(there)} in all)",
            "judge it on data with its own classes",
        )
    if imgsz and file.fixed and imgsz != file.size:
        raise UserError(f"{file.path} was exported for images of {file.size} pixels, not {imgsz}", f"imgsz={file.size}")


# Averages ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """Averages of each model on all images and on resampled ones, the same draws for all.

    Attributes:
        found: of each model, as `Evidence.averages` has them.
        key: under which those of classes stand.
        images: how many there are.
        reference: which model the others are compared with.
    """

    found: tuple[Arrays, ...]
    key: str
    images: int
    reference: int

    @classmethod
    def of(cls, said: Sequence[Evidence], metric: Metric, reference: int) -> "_Table":
        counts = averages.image_counts(len(said[0].name))
        with ThreadPoolExecutor(averages.AT_ONCE) as pool:
            found = tuple(pool.map(lambda one: one.averages(counts, True, metric.of), said))
        return cls(found, metric.key, len(said[0].name), reference)

    def average(self, model: int, key: str) -> Estimate:
        return estimate(self.found[model][key], self.images)

    def adjusted(self) -> list[Estimate | None]:
        """Differences of the metric to the reference, None for itself, all of them together at `LEVEL`."""
        base = self.found[self.reference]["overall"]
        others = [index for index in range(len(self.found)) if index != self.reference]
        made: dict[int, Estimate] = dict(
            zip(others, differences_of([self.found[i]["overall"] - base for i in others], self.images), strict=True)
        )
        return [made.get(index) for index in range(len(self.found))]

    def classes(self, names: dict[int, str], true_label: Ints, true_image: Ints) -> tuple[PartOfMetric, ...]:
        shown = self.found[0]["classes"].tolist()
        columns = [[one[self.key][:, column] for one in self.found] for column in range(len(shown))]
        images = [true_image[true_label == label] for label in shown]
        return tuple(
            self._part(names[label], len(of), each, len(set(of.tolist())) >= FEWEST)
            for label, of, each in zip(shown, images, columns, strict=True)
        )

    def sizes(self, objects: dict[str, int]) -> tuple[PartOfMetric, ...]:
        return tuple(
            self._part(size, count, [over_classes(one[size]) for one in self.found], count >= FEWEST)
            for size, count in objects.items()
        )

    def _part(self, name: str, objects: int, each: Sequence[Floats], bounded: bool) -> PartOfMetric:
        """A part, without intervals where it is seen on too few images to know how they vary."""
        images = self.images if bounded else 1
        base = each[self.reference]
        differences = tuple(
            None if index == self.reference else differences_of([one - base], images)[0]
            for index, one in enumerate(each)
        )
        return PartOfMetric(name, objects, tuple(estimate(one, images) for one in each), differences)


# The outcome ---------------------------------------------------------------------------------------------------------


def _sentences(judged: Judgement) -> tuple[str, ...]:
    said = [
        f"{judged.metric} of {model.model} less that of {judged.reference} is {bounded(model.difference, '+.4f')}, "
        f"{images_only(model.difference)}."
        for model in judged.models
        if model.difference
    ]
    if not said:
        (model,) = judged.models
        said = [f"{judged.metric} of {model.model} is {bounded(model.average, '.4f')}."]
    said[0] = f"On {judged.images} images of {judged.split} and, in brackets, on others like them: {said[0]}"
    if few := sum(part.averages[0].low is None for part in judged.classes):
        said.append(
            f"{few} of {len(judged.classes)} classes have no interval, most of them because they are on fewer than "
            f"{FEWEST} images; where there are few classes, these make the average's too narrow."
        )
    for model in judged.models:
        if model.disagreement > averages.AGREEMENT:
            said.append(f"BROKEN: averages of {model.model} are {model.disagreement:.0e} apart from Ultralytics' own.")
    said.append("The seed is not in it: an interval over images says nothing about a training repeated.")
    if judged.split == "val":
        said.append("A best.pt that was chosen on val is judged too well there.")
    return tuple(said)


def bounded(found: Estimate, form: str) -> str:
    """An estimate with its bounds in brackets, as far as they are known."""
    if found.value is None:
        return "unknown"
    if found.low is None or found.high is None:
        return f"{found.value:{form}}"
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"
