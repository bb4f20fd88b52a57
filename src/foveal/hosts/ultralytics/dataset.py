"""A data set as Ultralytics reads it: its images, labels and splits, and what of it is refused.

`data` is a data file for detectors, or a folder for classifiers with a folder for each split and in those one for each
class. The host knows some of both by name.
"""

import contextlib
import copy
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from ... import files
from ...checks import endless
from ...errors import UserError, one_line
from .. import SPLITS, Photographs, Refused
from . import listing, masks
from . import models as host  # before Ultralytics itself, because it says if that is missing or too old

# isort: split
from ultralytics.data import dataset as kinds
from ultralytics.data.dataset import ClassificationDataset, YOLODataset
from ultralytics.data.utils import (
    check_cls_dataset,
    check_det_dataset,
    img2label_paths,
    load_dataset_cache_file,
)
from ultralytics.utils import DATASETS_DIR, DEFAULT_CFG

_SemanticDataset: Any = getattr(kinds, "SemanticDataset", YOLODataset)  # which older hosts lack, and its models
# Keys of a data file that change what is read, beside its splits and names.
READ = ("channels", "kpt_shape", "flip_idx", "kpt_names", "kpt_oks_sigmas")
OUTLINED = {
    "segment": "an outline",
    "obb": "the corners of a box",
    "semantic": "an outline",
}  # tasks whose labels are no boxes, and what they are


def is_classified(data: str) -> bool:
    """Whether `data` is for classifiers: no data file."""
    return not data.endswith((".yaml", ".yml"))


def beside(data: str, folder: Path) -> str:
    """The data file or folder of images in a folder if it is there, else the name as it stands.

    Raises:
        UserError: it cannot be the name of a file.
    """
    found = Path(files.beside(data, folder))
    if is_classified(data):
        return str(found) if (found / "train").is_dir() else data  # a study's folder may be called like its data
    plan = found.is_file() and re.search(r"^arms:", found.read_text(encoding="utf-8", errors="ignore"), re.MULTILINE)
    return data if plan else str(found)  # and so may a plan


def described(data: str, download: bool = False) -> dict:
    """Splits with absolute paths or None, `names`, and `path`, which all of it is below; of a data file `absent`, too.

    Args:
        data: a data file or a folder for classifiers.
        download: what is not there, if the host knows from where or the file says it; that may run code of the file,
            so only commands that train or judge on it do. Else it is an error.

    Raises:
        UserError: it is not there, or the host refuses it.
    """
    if not is_classified(data):
        return data_file(data, download)
    here = next((place for place in (Path(data), DATASETS_DIR / data) if place.is_dir()), None)
    if not (here / "train").is_dir() if here else not download:  # the host would make splits of its own
        said = f"the folder {data!r} cannot be used: it has no folder 'train' with one for each class in it"
        raise UserError(said, "name a folder with train and val or test")
    try:
        with host.silent():
            found = check_cls_dataset(data)
    except host.UNREADABLE as error:
        raise _refused(f"folder {data!r}", error) from None
    names = list(found["names"].values())
    for split in ("val", "test"):  # older hosts number the classes of each split by its own folders
        if found.get(split) and sorted(place.name for place in found[split].iterdir() if place.is_dir()) != names:
            said = f"the folder {data!r} cannot be used: {split} has other classes than train"
            raise UserError(said, "give each split a folder for every class, and none besides")
    return {**found, "path": found["train"].parent}


class Data:
    """A data set, described once; see `interface.Data`.

    Args:
        name: a data file, or a folder for classifiers.
        download: what is not there, see `described`.
        task: of the models, by which the host chooses what labels are.

    Raises:
        UserError: it is not there, or the host refuses it.
    """

    def __init__(self, name: str, download: bool = False, task: str = "detect"):
        self.name, self.classified, self.task = name, is_classified(name), task
        self._found = described(name, download)
        self.root, self.names, self.absent = Path(self._found["path"]), self._found["names"], self._found.get("absent")
        self.splits = tuple(split for split in SPLITS if self._found.get(split))
        read = (*READ, masks.FOLDER, masks.MAPPING) if task == "semantic" else READ
        self.more = {key: self._found[key] for key in read if key in self._found}
        self.label_folder = self.more.get(masks.FOLDER, "labels")
        if task == "semantic" and masks.FOLDER not in self.more and len(self.names) > 1:
            self.more["names"] = self.names  # in a data file: what outlines leave the host makes a class of by itself
            self.names = {**self.names, len(self.names): "background"}

    def images(self, split: str) -> list[Path]:
        """The files of a split, as they are now; of a data file those of the folders or lists of files that it names.

        Raises:
            UserError: there is no such split.
        """
        named = self._found.get(split)
        if not named:
            folder, file = (
                f"{self.name!r} has no {split!r} folder",
                f"the data file {self.name!r} has no split {split!r}",
            )
            raise UserError(folder if self.classified else file, "choose another with --split")
        found = []
        for place in map(Path, named if isinstance(named, list) else [named]):
            if place.is_dir():
                found += listing.below(place)
            else:
                found += listing.listed(place)
        return found

    def labels(self, images: list[Path]) -> list[Path]:
        """The label file of each image, whether it exists or not; none where folders are the labels."""
        if self.classified:
            return []
        return masks.files(images, self.more[masks.FOLDER]) if masks.FOLDER in self.more else labels(images)

    def classes(self, images: list[Path]) -> list[set[int]]:
        """The classes in each image, by index; of a label file that the host refuses those that can be read.

        Raises:
            UserError: folders by class cannot be split anew unless images are copied.
        """
        if self.classified:
            said = f"the folders of {self.name!r} cannot be split anew: classifiers read whole folders"
            raise UserError(said, "leave out folds, or give a data file of a detector")
        if masks.FOLDER not in self.more:
            return [_classes(label) for label in labels(images)]
        return [masks.classes(file, self.names, self.more.get(masks.MAPPING)) for file in self.labels(images)]

    def has_labels(self, split: str) -> bool:
        """Whether there are labels of a split: published data files often name a test whose labels never were."""
        if split not in self.splits or self.classified:
            return split in self.splits
        try:
            return any(file.exists() for file in self.labels(self.images(split)))
        except OSError:
            return False

    def photographs(self, images: list[Path]) -> Photographs:
        """Images that are judged together, by the numbers that they have in evidence."""
        return Photographs(images, folders=int(self.classified))

    def scan(self, splits: Collection[str] = SPLITS, single_cls: bool = False) -> dict[str, Refused]:
        """Let the host verify all images and labels once, as training does; it keeps caches beside the labels.

        Args:
            splits: those that are verified if they are there.
            single_cls: as in the training.

        Returns:
            What the host leaves out, by split.

        Raises:
            UserError: of a split no image is left, or its labels are for another task.
        """
        if self.task == "semantic" and single_cls:
            raise UserError("single_cls cannot make one class of those of masks", "leave it out")
        if self.task == "pose" and "kpt_shape" not in self.more:
            said = f"{self.name} has no key points: the data file does not say how many an object has"
            raise UserError(said, "kpt_shape: [17, 3]")
        refused = {}
        for split in self.splits:
            if split not in splits:
                continue
            with host.silent():  # which has a line for each of them
                noted = (
                    _verified_classes(self._found, split)
                    if self.classified
                    else _verified(self._found, split, single_cls, self.task)
                )
            if noted and noted.count == noted.of:
                line = "a line of a label is: class x y width height, the class from 0, the others from 0 to 1"
                if masks.FOLDER in self.more:
                    line = "a mask has the size of its image, and in each pixel the number of a class, or 255 for none"
                raise UserError(
                    f"no image of {split} in {self.name} is usable: Ultralytics refuses all {noted.of}, {noted.first} "
                    f"for example: {noted.reason}",
                    f"mend them; {line}",
                )
            if noted:
                refused[split] = noted
        return refused


def absent_test(name: str) -> str | None:
    """The test split that data name and that is not there; None if there is none such, or no data here."""
    try:
        return Data(name).absent
    except UserError:
        return None


def divided(data: Data, splits: Mapping[str, list[Path]], folder: Path) -> str:
    """A data file of other splits, written into a folder, with lists of images and links to the folders they lie in.

    The host finds labels by the path of an image and keeps what it verified beside them. Through the links that is
    here, for each split by itself, and not beside labels that several folds read at once.

    Raises:
        UserError: it cannot be written.
    """
    try:
        for split, images in splits.items():
            places: dict[Path, str] = {}
            for image, label in zip(images, data.labels(images), strict=True):
                if image.parent not in places:
                    places[image.parent] = f"{len(places):03}"
                    for kind, file in (("images", image), (data.label_folder, label)):
                        _link(folder / split / kind / places[image.parent], file.parent)
            listed = "".join(f"./{split}/images/{places[image.parent]}/{image.name}\n" for image in images)
            _write(folder / f"{split}.txt", listed)
    except OSError as error:
        said = f"folds link to the folders of the images, and no link can be made in {folder}: {error}"
        raise UserError(said, "choose another folder with -o") from None
    told = {**{split: f"{split}.txt" for split in splits}, "names": data.names, **data.more}
    _write(folder / "data.yaml", yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
    return str(folder / "data.yaml")


def _write(file: Path, text: str) -> None:
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        files.write_text(file, text)


def _link(link: Path, place: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(place.resolve(), link.parent.resolve())  # so that a study moves together with its data
    if link.is_symlink() and os.readlink(link) != target:
        link.unlink()
    if not link.is_symlink():
        link.symlink_to(target, target_is_directory=True)


def labels(pictures: list[Path]) -> list[Path]:
    """The label file of each image, whether it exists or not."""
    return [Path(path) for path in img2label_paths([str(picture) for picture in pictures])]


def data_file(data: str, download: bool = False) -> dict:
    """A data file as the host reads it: splits with absolute paths, `names`, `path`.

    What is not there is downloaded if that is asked for, as in `described`. A test split that is named and not there is
    none, as in trainings of the host, and `absent` holds its path.

    Raises:
        UserError: no such file, or one the host refuses.
    """
    try:
        _require_end(Path(data))
        with contextlib.nullcontext() if download else host.silent():  # which has an empty line for what is missing
            found = check_det_dataset(data, autodownload=download)
    except UserError:
        raise
    except host.UNREADABLE as error:
        raise _refused(f"data file {data!r}", error, Path(data)) from None
    named = found.get("test") or []
    missing = [place for place in ([named] if isinstance(named, str) else named) if not Path(place).exists()]
    return {**found, "test": None, "absent": missing[0]} if missing else found


def _require_end(file: Path) -> None:
    """Refuse aliases that the host would write out until the memory is full."""
    text = file.read_text(encoding="utf-8", errors="ignore") if file.is_file() else ""
    if "&" in text and "*" in text and endless(yaml.safe_load(text)):
        raise UserError(
            f"the data file {str(file)!r} repeats its own parts without end", "write them out, without & and *"
        )


def _classes(label: Path) -> set[int]:
    lines = label.read_text(encoding="utf-8", errors="ignore").splitlines() if label.is_file() else []
    return {int(float(line.split()[0])) for line in lines if re.match(r"\s*\d+(\.0*)?\s", line)}


def _refused(what: str, error: Exception, file: Path | None = None) -> UserError:
    """What the host said of data that it does not take; of a data file with what may be wrong about its paths."""
    said = one_line(error).partition(" Note dataset")[0]
    hint = "check the paths in it"
    if file and not file.exists():
        hint = "give the path of one, such as my.yaml"
    elif isinstance(error, FileNotFoundError) and file and file.is_file():
        told = yaml.safe_load(file.read_text(encoding="utf-8", errors="ignore"))
        root = told.get("path") if isinstance(told, dict) else None
        if root and not Path(str(root)).is_absolute():
            hint = (
                f"path: {root} in it is meant from the current folder, or else from {DATASETS_DIR}; without that line "
            )
            hint += "all paths are meant from the file's own folder"
        if isinstance(told, dict) and told.get("download"):
            hint += "; foveal study run also downloads what it says how to"
    return UserError(f"the {what} cannot be used: {said}", hint)


class _Noting(host.parser.Mixed):
    """Mixed into a data set of the host: keeps what that noted of images and label files that it leaves out."""

    def cache_labels(self, path: Path) -> dict:
        """Verify all; what is returned is emptied by its reader."""
        self.noted = super().cache_labels(path)
        return dict(self.noted)

    def get_labels(self) -> list[dict]:
        """Those that are left, also if none are."""
        self.noted, whole = None, list(self.im_files)
        with contextlib.suppress(RuntimeError):  # the host's word for none
            super().get_labels()
        self.noted = self.noted or load_dataset_cache_file(Path(self.label_files[0]).parent.with_suffix(".cache"))
        labels = self.noted["labels"]
        self.refused = _refused_of(whole, {label["im_file"] for label in labels}, self.noted["msgs"])
        return labels


class _Verified(_Noting, YOLODataset):
    pass


class _VerifiedMasks(_Noting, _SemanticDataset):
    def get_label_files(self) -> list[str]:
        """The masks of all images, where the host keeps those of the ones that are left."""
        self.label_files = list(super().get_label_files())
        return self.label_files


def _verified(found: dict, split: str, single_cls: bool, task: str) -> Refused | None:
    kind = "pose" if task == "pose" else "detect"  # the host reads no other label in another way
    settings = {"data": found, "task": kind, "augment": split == "train", "hyp": copy.copy(DEFAULT_CFG)}
    masked = task == "semantic" and masks.FOLDER in found
    try:
        verified = (_VerifiedMasks if masked else _Verified)(found[split], single_cls=single_cls, **settings)
    except host.UNREADABLE as error:  # no labels at all, say
        raise _refused(f"split {split!r} of {found['path']}", error) from None
    if not masked and not any(len(label["cls"]) for label in verified.labels) and verified.labels:
        said = f"no image of {split} in {found['path']} has an object, and nothing can be learned or judged without one"
        raise UserError(said, f"label images of {split}, or name another folder as {split} in the data file")
    if task in OUTLINED and not masked and not any(len(label["segments"]) for label in verified.labels):
        if any(len(label["cls"]) for label in verified.labels):
            said = f"{split} of {found['path']} cannot be used for {task}: not every label of it is {OUTLINED[task]}"
            raise UserError(said, "a line of a label is: class x1 y1 x2 y2 x3 y3 and so on, from 0 to 1")
    return verified.refused


def _verified_classes(found: dict, split: str) -> Refused | None:
    folder = Path(found[split])
    try:
        left = ClassificationDataset(str(folder), DEFAULT_CFG, prefix=split).samples
        notes = load_dataset_cache_file(folder.with_suffix(".cache"))["msgs"]
    except host.UNREADABLE as error:
        raise _refused(f"split {split!r} of {found['path']}", error) from None
    return _refused_of([str(file) for file in listing.below(folder)], {str(sample[0]) for sample in left}, notes)


def _refused_of(whole: list[str], left: set[str], notes: list[str]) -> Refused | None:
    """The host's notes name the file, say that it is ignored, and why."""
    out = [file for file in whole if file not in left]
    if not out:
        return None
    note = next((note for note in notes if out[0] in note), "")
    reason = note.partition(out[0])[2].strip(": ") or "no reason given"
    return Refused(len(out), len(whole), Path(out[0]).name, " ".join(reason.split())[:200])
