"""A data set as Ultralytics reads it: its images, labels and splits. And has it changed?

`data` is a data file for detectors, or a folder for classifiers with a folder for each split and in those one for each
class. The host knows some of both by name.
"""

import contextlib
import copy
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from ... import files
from ...errors import UserError, endless
from ...files import digest, write_text
from . import models as host  # before Ultralytics itself, because it says if that is missing or too old

# isort: split
from ultralytics.data.dataset import ClassificationDataset, YOLODataset
from ultralytics.data.utils import (
    IMG_FORMATS,
    check_cls_dataset,
    check_det_dataset,
    img2label_paths,
    load_dataset_cache_file,
)
from ultralytics.utils import DATASETS_DIR, DEFAULT_CFG

SPLITS = ("train", "val", "test")


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
        with host.unsaid(""):
            found = check_cls_dataset(data)
    except host.UNREADABLE as error:
        raise _refused(f"folder {data!r}", error) from None
    names = list(found["names"].values())
    for split in ("val", "test"):  # older hosts number the classes of each split by its own folders
        if found.get(split) and sorted(place.name for place in found[split].iterdir() if place.is_dir()) != names:
            said = f"the folder {data!r} cannot be used: {split} has other classes than train"
            raise UserError(said, "give each split a folder for every class, and none besides")
    return {**found, "path": found["train"].parent}


def images(data: str, split: str) -> list[Path]:
    """The images of one split, of a data file those of the folders or lists of files that it names."""
    if is_classified(data):
        return classified_images(data, split)
    named = data_file(data)[split]
    found = []
    for place in map(Path, named if isinstance(named, list) else [named]):
        if place.is_dir():
            found += _below(place)
        else:
            found += [place.parent / line for line in place.read_text().splitlines() if line]
    return found


class Photographs:
    """The images of a split by their number in what is stored of a judgement, which has their names only.

    Attributes:
        files: in that order.
    """

    def __init__(self, data: str, split: str):
        self.files = sorted(images(data, split), key=str)
        self._parts = 2 if is_classified(data) else 1
        found = [self.name(file) for file in self.files]
        often = Counter(found)
        self._ordered = np.array(found)
        self._numbers = {name: number for number, name in enumerate(found) if often[name] == 1}

    def name(self, file: Path) -> str:
        """That of an image's file, with its class before it where images lie in folders by class."""
        return "/".join(file.parts[-self._parts :])

    def number(self, names: NDArray, image: int) -> int | None:
        """Which file a judged image is; by name where the host left some out. None if it is not there."""
        same = np.array_equal(names, self._ordered)
        number = image if same else self._numbers.get(str(names[image]))
        return number if number is not None and self.files[number].is_file() else None


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
        found = check_det_dataset(data, autodownload=download)
    except UserError:
        raise
    except host.UNREADABLE as error:
        raise _refused(f"data file {data!r}", error) from None
    named = found.get("test") or []
    missing = [place for place in ([named] if isinstance(named, str) else named) if not Path(place).exists()]
    return {**found, "test": None, "absent": missing[0]} if missing else found


def absent_test(data: str) -> str | None:
    """The test split that a data file names and that is not there; None if there is none such, or no data here."""
    try:
        return described(data).get("absent")
    except UserError:
        return None


def _require_end(file: Path) -> None:
    """Refuse aliases that the host would write out until the memory is full."""
    text = file.read_text(encoding="utf-8", errors="ignore") if file.is_file() else ""
    if "&" in text and "*" in text and endless(yaml.safe_load(text)):
        raise UserError(
            f"the data file {str(file)!r} repeats its own parts without end", "write them out, without & and *"
        )


def has_labels(data: str, split: str) -> bool:
    """Whether there are labels of a split: published data files often name a test whose labels never were."""
    if not described(data).get(split):
        return False
    if is_classified(data):
        return True
    try:
        return any(file.exists() for file in labels(images(data, split)))
    except OSError:
        return False


@dataclass(frozen=True)
class Refused:
    """Images of a split that the host leaves out of trainings and evaluations.

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


def scan(data: str, splits: Iterable[str] = SPLITS, single_cls: bool = False) -> dict[str, Refused]:
    """Let the host verify all images and labels once, as training does; it keeps caches of that beside the labels.

    Args:
        data: a data file or a folder for classifiers.
        splits: those that are verified if they are there.
        single_cls: as in the training.

    Returns:
        What the host leaves out, by split.

    Raises:
        UserError: of a split no image is left.
    """
    found, refused = described(data), {}
    for split in SPLITS:
        if split not in splits or not found.get(split):
            continue
        with host.unsaid(""):  # which has a line for each of them
            noted = _verified_classes(found, split) if is_classified(data) else _verified(found, split, single_cls)
        if noted and noted.count == noted.of:
            raise UserError(
                f"no image of {split} in {data} is usable: Ultralytics refuses all {noted.of}, {noted.first} for "
                f"example: {noted.reason}",
                "mend them; a line of a label is: class x y width height, the class from 0, the others from 0 to 1",
            )
        if noted:
            refused[split] = noted
    return refused


class _Verified(YOLODataset):
    """The host's data set, which keeps what it noted of images and label files that it leaves out."""

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


def _verified(found: dict, split: str, single_cls: bool) -> Refused | None:
    settings = {"data": found, "task": "detect", "augment": split == "train", "hyp": copy.copy(DEFAULT_CFG)}
    try:
        return _Verified(found[split], single_cls=single_cls, **settings).refused
    except host.UNREADABLE as error:  # no labels at all, say
        raise _refused(f"split {split!r} of {found['path']}", error) from None


def _verified_classes(found: dict, split: str) -> Refused | None:
    folder = Path(found[split])
    try:
        left = ClassificationDataset(str(folder), DEFAULT_CFG, prefix=split).samples
        notes = load_dataset_cache_file(folder.with_suffix(".cache"))["msgs"]
    except host.UNREADABLE as error:
        raise _refused(f"split {split!r} of {found['path']}", error) from None
    return _refused_of([str(file) for file in _below(folder)], {str(sample[0]) for sample in left}, notes)


def _refused_of(whole: list[str], left: set[str], notes: list[str]) -> Refused | None:
    """The host's notes name the file, say that it is ignored, and why."""
    out = [file for file in whole if file not in left]
    if not out:
        return None
    note = next((note for note in notes if out[0] in note), "")
    reason = note.partition(out[0])[2].strip(": ") or "no reason given"
    return Refused(len(out), len(whole), Path(out[0]).name, " ".join(reason.split())[:200])


def classified_images(folder: str, split: str) -> list[Path]:
    """The images of one split of a folder for classification, one sub-folder a class.

    Raises:
        UserError: the host does not accept the folder, or has no such split in it.
    """
    found = described(folder)
    if not found.get(split):
        raise UserError(f"{folder!r} has no {split!r} folder", "choose another with --split")
    return _below(Path(found[split]))


def _below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix[1:].lower() in IMG_FORMATS)


def _refused(what: str, error: Exception) -> UserError:
    said = " ".join(str(error).split()).rstrip(".")
    hint = "check the paths in it"
    if isinstance(error, FileNotFoundError):
        hint += "; foveal study run also downloads what it says how to"
    return UserError(f"the {what} cannot be used: {said}", hint)


# Has it changed? -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contents:
    """What a data set holds.

    Attributes:
        digest: of names, splits and files.
        files: a digest of each file, by its path below the root.
        stamp: of sizes and times of the files, which change when one is written again, with whatever content.
    """

    digest: str
    files: dict[str, str]
    stamp: str = field(default="", compare=False)

    def difference(self, earlier: "Contents") -> str:
        """Which files differ, in words; empty if none."""
        changed = [name for name in {**earlier.files, **self.files} if earlier.files.get(name) != self.files.get(name)]
        if not changed:
            return "" if self.digest == earlier.digest else "the classes or splits"
        return min(changed) + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")


def contents(data: str, cache: Path) -> Contents:
    """What there is, now.

    Args:
        data: a data file or a folder for classifiers.
        cache: a JSON file that keeps digests, so that only files with another size or time are read again.

    Raises:
        UserError: a data file, a folder or a file that cannot be read.
    """
    found = described(data)
    root = Path(found["path"]).resolve()
    known = _load(cache)
    files, times, splits = {}, {}, {}
    try:
        for split in SPLITS:
            pictures = images(data, split) if found.get(split) else []
            splits[split] = sorted(os.path.relpath(picture, root) for picture in pictures)
            for path in (*pictures, *(() if is_classified(data) else labels(pictures))):
                name = os.path.relpath(path, root)
                if not path.exists():  # an image without objects may have no label file
                    files[name] = ""
                    continue
                status = path.stat()
                stamp = [status.st_size, status.st_mtime_ns]
                old = known.get(name)
                files[name], times[name] = old[2] if old and old[:2] == stamp else digest(path, 8), stamp
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the data set {data!r} cannot be read: {error}", "check the paths in it") from None
    stored = {name: [*times[name], digest] for name, digest in files.items() if name in times}
    if stored != known:
        write_text(cache, json.dumps(stored))
    whole = {"names": list(found["names"].values()), "splits": splits, "files": sorted(files.items())}
    return Contents(_digest(whole), files, _digest(sorted(times.items())))


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _load(cache: Path) -> dict[str, list]:
    """What an earlier call kept; nothing where that is not what it wrote."""
    try:
        kept = json.loads(cache.read_text())
        return kept if all(isinstance(of[2], str) and len(of) == 3 for of in kept.values()) else {}
    except (OSError, ValueError, AttributeError, LookupError, RecursionError, TypeError):
        return {}
