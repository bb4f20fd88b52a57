"""What a study needs of whoever trains its models, and the records that pass between the two.

A host is a plain record of functions. Ultralytics is one, in `hosts.ultralytics.host`; `tests/builders/toyhost.py` is
another, in some sixty lines. Studies, results, reports and the viewer know no more of it than stands here.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..evidence import Evidence, Task
from ..surgery import Spec
from .changes import Contents
from .recipe import Recipe


@dataclass(frozen=True)
class Refused:
    """Images of a split that a host leaves out of trainings and evaluations.

    Attributes:
        count: of them.
        of: images in the split.
        first: one of them.
        reason: what the host says of it.
    """

    count: int
    of: int
    first: str
    reason: str

    def __str__(self) -> str:
        return f"{self.count} of {self.of} images, {self.first} for example: {self.reason}"


class Photographs:
    """The images of a split by their number in what is stored of a judgement, which has their names only.

    Args:
        files: of the split.
        folders: how many folders above a file belong to its name, as where images lie in folders by class.

    Attributes:
        files: in the order of their numbers.
    """

    def __init__(self, files: Collection[Path], folders: int = 0):
        self.files = sorted(files, key=str)
        self._parts = 1 + folders
        found = [self.name(file) for file in self.files]
        often = Counter(found)
        self._ordered = np.array(found)
        self._numbers = {name: number for number, name in enumerate(found) if often[name] == 1}

    def name(self, file: Path) -> str:
        """That of an image's file, with the folders that belong to it."""
        return "/".join(file.parts[-self._parts :])

    def numbers(self, names: NDArray) -> list[int | None]:
        """Which file each judged image is; by name where the host left some out. None for a name that tells no file."""
        if np.array_equal(names, self._ordered):
            return [*range(len(names))]
        return [self._numbers.get(name) for name in names.tolist()]

    def number(self, names: NDArray, image: int) -> int | None:
        """The same of one of them; None, too, if it is not there."""
        number = self.numbers(names)[image]
        return number if number is not None and self.files[number].is_file() else None


class Data(Protocol):
    """A data set, described once.

    Attributes:
        name: as a plan names it.
        root: below which all of it lies.
        names: of the classes, by index.
        splits: those of train, val and test that are there.
        absent: the test split that is named and not there; None if there is none such.
        more: what else of it a training reads, by the keys of a data file.
        label_folder: that stands in paths of labels where those of their images have `images`.
    """

    name: str
    root: Path
    names: dict[int, str]
    splits: tuple[str, ...]
    absent: str | None
    more: dict[str, Any]
    label_folder: str

    def images(self, split: str) -> list[Path]:
        """The files of a split, as they are now."""

    def labels(self, images: list[Path]) -> list[Path]:
        """The label file of each image, whether it exists or not; none where folders are the labels."""

    def classes(self, images: list[Path]) -> list[set[int]]:
        """The classes in each image, by index, to spread images over folds.

        Raises:
            UserError: data of this kind cannot be split anew.
        """

    def has_labels(self, split: str) -> bool:
        """Whether there are labels of a split."""

    def photographs(self, images: list[Path]) -> Photographs:
        """Images that are judged together, by the numbers that they have in evidence."""

    def scan(self, splits: Collection[str], single_cls: bool = False) -> dict[str, Refused]:
        """Verify all images and labels of some splits; what is left out, by split.

        Raises:
            UserError: of a split no image is left, or its labels are for another task.
        """


def split_to_judge(data: Data) -> str:
    """The split that models are judged on if nobody says it: test if it has labels, which chose nothing, else val."""
    return "test" if data.has_labels("test") else "val"


@dataclass(frozen=True)
class Training:
    """One training, as a cell asks for it.

    Attributes:
        model: a file or a name that the host owns.
        weights: a file whose weights it starts from as far as they fit; None for its own.
        spec: the attention that is put into it; None for the model as it is.
        seed: of all that is drawn.
        arguments: those that the plan and the arm give.
        settings: all arguments, the host's own where none is given.
        data: what is trained on.
        contents: what the data held before.
        cache: the file that keeps digests of its files.
        recipe: what the arguments cannot say.
        resume_period: epochs from one state, from which a killed training goes on exactly, to the next.
        folder: of the cell, in which `weights/best.pt`, `weights/last.pt`, `args.yaml` and `results.csv` are written.
        kept: names of files in it that are not the training's.
        device: on which.
    """

    model: str
    weights: str | None
    spec: Spec | None
    seed: int
    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Data
    contents: Contents
    cache: Path
    recipe: Recipe
    resume_period: int
    folder: Path
    kept: Collection[str]
    device: str


@dataclass(frozen=True)
class Record:
    """What a trainer noted.

    Attributes:
        start: a digest of each tensor before training, by name.
        batches: a digest of all batches, for each epoch.
        batch: images in a batch, which the host may have lowered for want of memory.
        seconds: of each epoch, its evaluation included.
        peak_bytes: most memory used; of the GPU if there was one, else of the process.
        resumed: how often it was interrupted and went on.
    """

    start: dict[str, str]
    batches: list[str]
    batch: int
    seconds: list[float]
    peak_bytes: int | None
    resumed: int


@dataclass(frozen=True)
class Inherited:
    """What a model that is built anew has of the weights of a file.

    Attributes:
        weights: name of the file.
        tensors: how many of the file's the model has, and of how many.
        parameters: likewise.
        fresh: how many tensors of the model are drawn, and of how many.
        rows: of the file by rows of the model, where both mean the same.
        names: of the file's tensors by those of the model that have them.
        digests: of these tensors, by their names in the model.
    """

    weights: str
    tensors: tuple[int, int]
    parameters: tuple[int, int]
    fresh: tuple[int, int]
    rows: tuple[tuple[int, int], ...]
    names: dict[str, str]
    digests: dict[str, str]

    def __str__(self) -> str:
        runs: list[list[tuple[int, int]]] = []
        for old, new in self.rows:
            if runs and runs[-1][-1] == (old - 1, new - 1):
                runs[-1].append((old, new))
            else:
                runs.append([(old, new)])
        moved = (
            f"{_numbers(old)} {'stay' if old == new else f'become {_numbers(new)}'}"
            for old, new in (zip(*run, strict=True) for run in runs)
        )
        return (
            f"{self.tensors[0]} of {self.tensors[1]} tensors of {self.weights} are carried, {self.parameters[0]:,} of "
            f"{self.parameters[1]:,} parameters: of its rows {', '.join(moved)}; "
            f"{self.fresh[0]} of {self.fresh[1]} tensors start fresh"
        )


def _numbers(run: tuple[int, ...]) -> str:
    return str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}"


@dataclass(frozen=True)
class Host:
    """Whoever trains models.

    Models go by the name of a file or a name that the host knows.

    Attributes:
        owns: whether a name has the form of a model's of this host.
        places: where an attention goes in a model if a plan does not say it.
        larger: the name of the model one size up; None if there is none.
        identity: a digest of a model's file, or its name if it is known by that.
        digests: a digest of each tensor that a model starts from, by name; none for a model without weights.
        inherited: what a model would start from that is given the weights of a file. Raises a UserError if that is
            nothing.
        made_for: the name of the task of a model that is to be trained on some data. Raises a UserError if there is no
            such model.
        beside: the path of data in a folder if it lies there, else the name as it stands.
        task: what is asked of a model on some data, by the names of both.
        data: a data set by its name, described for models of a task, the third argument by name; the second allows to
            download it.
        divided: other splits of the images of some data, which are not copied, written into a folder; the name of that
            data set. It is given the images of each split, and may find there what it wrote earlier.
        settings: all training arguments, the host's own where none is given. Raises a UserError for one that it does
            not know.
        teachers: names of those arguments that name another model, which then decides the result, too.
        train: a training from its beginning, or from where it was killed; one that is done is only read.
        leftovers: patterns of files in a cell's folder that nobody needs once it is judged.
        judge: what a file of weights says of a split of some data, and the host's own averages of it, by their keys.
            The last two arguments are a folder for what the host writes, and further settings.
        network: the model in a file of weights.
        deployed: a network as it is deployed, with what can be fused fused.
        fuses: whether that fuses anything in a model of this name.
        channels: the number of channels of the images that a network reads.
        step: a training step and a forward pass on drawn images, to be timed. The arguments are a model, the attention
            that is put into it or None, a task, all settings, the number of images, their side in pixels, and a device.
    """

    owns: Callable[[str], bool]
    places: Callable[[str], tuple[str, ...]]
    larger: Callable[[str], str | None]
    identity: Callable[[str], str]
    digests: Callable[[str], dict[str, str]]
    inherited: Callable[[str, str], Inherited]
    made_for: Callable[[str, Data], str]

    beside: Callable[[str, Path], str]
    task: Callable[[str, str], Task]
    data: Callable[[str, bool, str], Data]
    divided: Callable[[Data, Mapping[str, list[Path]], Path], str]

    settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    teachers: tuple[str, ...]
    train: Callable[[Training], Record]
    leftovers: tuple[str, ...]
    judge: Callable[[Path, str, str, Path, Mapping[str, Any]], tuple[Evidence, dict[str, float]]]

    network: Callable[[Path], nn.Module]
    deployed: Callable[[nn.Module], nn.Module]
    fuses: Callable[[str], bool]
    channels: Callable[[nn.Module], int]
    step: Callable[
        [str, Spec | None, Task, Mapping[str, Any], int, int, torch.device],
        tuple[Callable[[], object], Callable[[], object]],
    ]
