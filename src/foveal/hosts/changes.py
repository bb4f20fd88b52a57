"""Has a data set changed? A digest of its names, splits, images and labels, and of the times of its files."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import digest, remembered

if TYPE_CHECKING:
    from .interface import Data

SPLITS = ("train", "val", "test")


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

    def require_as(self, digest: str, stamp: str, earlier: "Contents | None" = None) -> None:
        """Raise if files were changed, or written again, since an earlier look.

        Args:
            digest: of what there was then.
            stamp: of the files' times then.
            earlier: what there was, to name a file that differs.

        Raises:
            UserError: they were.
        """
        if self.digest != digest:
            named = self.difference(earlier) if earlier else "other files than before"
            raise UserError(f"the data set changed while the cell was training: {named}", "run the study again")
        if self.stamp != stamp:
            said = "files of the data set were written while the cell was training, if only as they had been before"
            raise UserError(said, "run the study again: it goes on before that epoch")


def contents(data: "Data", cache: Path) -> Contents:
    """What there is, now.

    Args:
        data: the data set.
        cache: a JSON file that keeps digests, so that only files with another size or time are read again.

    Raises:
        UserError: a file that cannot be read.
    """
    root, splits = data.root.resolve(), {}
    paths: dict[str, Path] = {}
    try:
        for split in SPLITS:
            images = data.images(split) if split in data.splits else []
            splits[split] = sorted(os.path.relpath(image, root) for image in images)
            paths |= {os.path.relpath(path, root): path for path in (*images, *data.labels(images))}
        found = remembered(paths, cache, lambda fresh: [digest(path, 8) for path in fresh])
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the data set {data.name!r} cannot be read: {error}", "check the paths in it") from None
    # An image without objects may have no label file.
    files = {name: found[name][2] if name in found else "" for name in paths}
    whole = {"names": list(data.names.values()), "splits": splits, "files": sorted(files.items())}
    return Contents(_digest(whole), files, _digest(sorted((name, of[:2]) for name, of in found.items())))


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()
