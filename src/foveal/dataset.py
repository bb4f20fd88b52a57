"""A data set as Ultralytics reads it: its images, labels and splits. And has it changed?"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from . import yolo as host  # before Ultralytics itself, because it says if that is missing or too old
from .errors import UserError, endless
from .files import digest, write_whole

# isort: split
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import IMG_FORMATS, check_cls_dataset, check_det_dataset, img2label_paths

SPLITS = ("train", "val", "test")


def images(data: str, split: str) -> list[Path]:
    """The images of one split of a data file, which names folders or lists of files, one or several."""
    named = data_file(data)[split]
    found = []
    for place in map(Path, named if isinstance(named, list) else [named]):
        if place.is_dir():
            found += _below(place)
        else:
            found += [place.parent / line for line in place.read_text().splitlines() if line]
    return found


class Photographs:
    """The images of a split by their number in `Detections`, which has their names only.

    Attributes:
        files: in that order.
    """

    def __init__(self, data: str, split: str):
        self.files = sorted(images(data, split), key=str)
        found = [file.name for file in self.files]
        often = Counter(found)
        self._ordered = np.array(found)
        self._numbers = {name: number for number, name in enumerate(found) if often[name] == 1}

    def number(self, names: NDArray, image: int) -> int | None:
        """Which file a judged image is; by name where the host left some out. None if it is not there."""
        same = np.array_equal(names, self._ordered)
        number = image if same else self._numbers.get(str(names[image]))
        return number if number is not None and self.files[number].is_file() else None


def labels(pictures: list[Path]) -> list[Path]:
    """The label file of each image, whether it exists or not."""
    return [Path(path) for path in img2label_paths([str(picture) for picture in pictures])]


def data_file(data: str) -> dict:
    """A data file as the host reads it: splits with absolute paths, `names`, `path`.

    What is not there is downloaded, if the file says from where.

    Raises:
        UserError: no such file, or one the host refuses.
    """
    try:
        _require_end(Path(data))
        return check_det_dataset(data)
    except UserError:
        raise
    except host.UNREADABLE as error:
        raise _refused(f"data file {data!r}", error) from None


def _require_end(file: Path) -> None:
    """Refuse aliases that the host would write out until the memory is full."""
    text = file.read_text(encoding="utf-8", errors="ignore") if file.is_file() else ""
    if "&" in text and "*" in text and endless(yaml.safe_load(text)):
        raise UserError(
            f"the data file {str(file)!r} repeats its own parts without end", "write them out, without & and *"
        )


def has_labels(data: str, split: str) -> bool:
    """Whether a data file has labels of a split: published ones often name a test whose labels never were."""
    if not data_file(data).get(split):
        return False
    try:
        return any(file.exists() for file in labels(images(data, split)))
    except OSError:
        return False


def scan(data: str) -> None:
    """Read all labels once, as training does, so that the host's caches beside them are there."""
    described = data_file(data)
    for split in SPLITS:
        if described.get(split):
            YOLODataset(described[split], data=described, task="detect", augment=False)


def classified_images(folder: str, split: str) -> list[Path]:
    """The images of one split of a folder for classification, one sub-folder a class.

    Raises:
        UserError: the host does not accept the folder, or has no such split in it.
    """
    try:
        found = check_cls_dataset(folder, split)
    except host.UNREADABLE as error:
        raise _refused(f"folder {folder!r}", error) from None
    if not found.get(split):
        raise UserError(f"{folder!r} has no {split!r} folder", "choose another with --split")
    return _below(Path(found[split]))


def _below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix[1:].lower() in IMG_FORMATS)


def _refused(what: str, error: Exception) -> UserError:
    said = " ".join(str(error).split()).rstrip(".")
    return UserError(f"the {what} cannot be used: {said}", "check the paths in it")


# Has it changed? -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contents:
    """Digest of a data set, and of each of its files by path below its root."""

    digest: str
    files: dict[str, str]

    def difference(self, earlier: "Contents") -> str:
        """Which files differ, in words; empty if none."""
        changed = [name for name in {**earlier.files, **self.files} if earlier.files.get(name) != self.files.get(name)]
        if not changed:
            return "" if self.digest == earlier.digest else "the classes or splits"
        return min(changed) + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")


def contents(data: str, cache: Path) -> Contents:
    """What a data file names, now.

    Args:
        data: a data file.
        cache: a JSON file that keeps digests, so that only files with another size or time are read again.

    Raises:
        UserError: a data file, a folder or a file that cannot be read.
    """
    described = data_file(data)
    root = Path(described["path"]).resolve()
    known = _load(cache)
    files, times, splits = {}, {}, {}
    try:
        for split in SPLITS:
            pictures = images(data, split) if described.get(split) else []
            splits[split] = sorted(os.path.relpath(picture, root) for picture in pictures)
            for path in (*pictures, *labels(pictures)):
                name = os.path.relpath(path, root)
                if not path.exists():  # an image without objects may have no label file
                    files[name] = ""
                    continue
                found = path.stat()
                stamp = [found.st_size, found.st_mtime_ns]
                old = known.get(name)
                files[name], times[name] = old[2] if old and old[:2] == stamp else digest(path, 8), stamp
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the data set {data!r} cannot be read: {error}", "check the paths in it") from None
    stored = {name: [*times[name], digest] for name, digest in files.items() if name in times}
    if stored != known:
        write_whole(cache, lambda part: part.write_text(json.dumps(stored)))
    whole = {"names": list(described["names"].values()), "splits": splits, "files": sorted(files.items())}
    return Contents(hashlib.blake2b(json.dumps(whole).encode(), digest_size=16).hexdigest(), files)


def _load(cache: Path) -> dict[str, list]:
    """What an earlier call kept; nothing where that is not what it wrote."""
    try:
        kept = json.loads(cache.read_text())
        return kept if all(isinstance(of[2], str) and len(of) == 3 for of in kept.values()) else {}
    except (OSError, ValueError, AttributeError, LookupError, RecursionError, TypeError):
        return {}
