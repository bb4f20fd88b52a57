"""Has the data set changed? A digest of every image and label file, and which of them differ."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from . import yolo as host
from .errors import UserError
from .files import write_whole

SPLITS = ("train", "val", "test")


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
    described = host.data_file(data)
    root = Path(described["path"]).resolve()
    known = _load(cache)
    files, times, splits = {}, {}, {}
    try:
        for split in SPLITS:
            pictures = host.images(data, split) if described.get(split) else []
            splits[split] = sorted(os.path.relpath(picture, root) for picture in pictures)
            for path in (*pictures, *host.labels(pictures)):
                name = os.path.relpath(path, root)
                if not path.exists():  # an image without objects may have no label file
                    files[name] = ""
                    continue
                found = path.stat()
                stamp = [found.st_size, found.st_mtime_ns]
                old = known.get(name)
                files[name], times[name] = old[2] if old and old[:2] == stamp else _digest(path), stamp
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the data set {data!r} cannot be read: {error}", "check the paths in it") from None
    stored = {name: [*times[name], digest] for name, digest in files.items() if name in times}
    if stored != known:
        write_whole(cache, lambda part: part.write_text(json.dumps(stored)))
    whole = {"names": list(described["names"].values()), "splits": splits, "files": sorted(files.items())}
    return Contents(hashlib.blake2b(json.dumps(whole).encode(), digest_size=16).hexdigest(), files)


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def _load(cache: Path) -> dict[str, list]:
    """What an earlier call kept; nothing where that is not what it wrote."""
    try:
        kept = json.loads(cache.read_text())
        return kept if all(isinstance(of[2], str) and len(of) == 3 for of in kept.values()) else {}
    except (OSError, ValueError, AttributeError, IndexError, KeyError, TypeError):
        return {}
