"""Near twins: images of one split that look like an image of another, of which a model has seen too much.

Two images are near twins if their perceptual hashes (64 bits, of the low frequencies) differ in no more than `NEAR`.
On drawn pairs of real photographs (COCO) no two came nearer than 14; frames of a flight over the same place do.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import remembered
from ..hosts import SPLITS
from .plan import Plan

NEAR = 8  # of 64 bits
NAMED = 3  # pairs that a sentence names
AT_ONCE = 4  # images that are read at a time
HASHES = "hashes.json"  # of a study's images, by size and time of their files
ROWS = 256  # images that are compared with all others at a time, so that memory does not grow with the square


def near_twins(plan: Plan, folder: Path | None = None) -> str:
    """What is to be known of near twins before hours are spent, in a sentence; empty if there are none, or no data.

    Args:
        plan: whose images of val and test are compared with those of train; with folds each with those of other groups.
        folder: of the study, which keeps hashes; None if nothing is to be kept.
    """
    try:
        data = plan.dataset
    except UserError:
        return ""
    cache = folder / HASHES if folder else None
    if folds := plan.partitions:
        files, whose = folds.files, "train and val"
        found = nearest(files, files, cache, folds.groups)
        end = "in another group, and folds tear them apart: group them, as docs/studies.md says"
    else:
        judged = {split: data.images(split) for split in SPLITS[1:] if split in data.splits}
        files, whose = [file for of in judged.values() for file in of], " and ".join(judged)
        found, end = nearest(files, data.images("train"), cache), "in train, which flatters every arm"
    if not found:
        return ""
    named = [f"{file.name} and {other.name}" for file, other in found[:NAMED]] + ["..."] * bool(found[NAMED:])
    have = "has" if len(found) == 1 else "have"
    return f"{len(found)} of {len(files)} images of {whose} {have} a near twin {end} ({', '.join(named)})"


def nearest(
    files: Sequence[Path], others: Sequence[Path], cache: Path | None = None, groups: Sequence[str] | None = None
) -> list[tuple[Path, Path]]:
    """Images that have a near twin, each with its nearest one; an image that cannot be read has none.

    Args:
        files: of images.
        others: among which twins are looked for.
        cache: a JSON file that keeps hashes.
        groups: of both, which are the same then, where only twins of other groups count.
    """
    hashes = _hashes([*files, *others], cache)
    mine, theirs = _bits(hashes[: len(files)]), _bits(hashes[len(files) :])
    group = np.unique(groups, return_inverse=True)[1] if groups else None
    found = []
    for start in range(0, len(mine) if others else 0, ROWS):
        # Of vectors of -1 and 1 the product is the number of equal bits less that of others.
        far = (64 - mine[start : start + ROWS] @ theirs.T) / 2
        far[np.isnan(far)] = np.inf
        if group is not None:
            far[group[start : start + ROWS, None] == group] = np.inf
        twin = far.argmin(1)
        for row in np.flatnonzero(far[np.arange(len(far)), twin] <= NEAR).tolist():
            found.append((files[start + row], others[twin[row]]))
    return found


def _bits(hashes: Sequence[str]) -> NDArray:
    """Hashes as vectors of -1 and 1, (images, 64), single precision; nan where there is none."""
    bits = np.full((len(hashes), 64), np.nan, np.float32)
    for row, text in enumerate(hashes):
        if text:
            bits[row] = 2.0 * np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)) - 1
    return bits


def _hashes(files: Sequence[Path], cache: Path | None) -> list[str]:
    """Of each image in hexadecimal digits; "" for one that cannot be read."""
    kept = remembered({str(file): file for file in files}, cache, _hashed)
    return [kept[str(file)][2] if str(file) in kept else "" for file in files]


def _hashed(files: list[Path]) -> list[str]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(_hash, files))


def _hash(file: Path) -> str:
    import imagehash  # which loads a second long
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.draft("L", (256, 256))  # a JPEG is read at the size that is needed
            return str(imagehash.phash(image))
    except (ImportError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""  # an import fails where the host looks for a plugin of what is no image
