"""The manifest of a folder of `foveal explain`, read as one that somebody else may have made."""

import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, one_line
from ..files import MALFORMED, inside, stamp

MANIFEST = "manifest.json"
NUMBERS = ("mean", "deviation", "low", "high", "initial", "inside", "outside")


@dataclass(frozen=True)
class Album:
    """A folder of `foveal explain`, read.

    Attributes:
        about: the model, its task, and what was found by its ablation.
        images: with their boxes or answers, and maps; pictures by number, None for one that is not there.
        pictures: files, all in the folder.
    """

    about: dict[str, object]
    images: list[dict]
    pictures: tuple[Path, ...]


def album(folder: Path) -> Album:
    """Read the manifest of a folder of `foveal explain`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return _album(folder, stamp(folder / MANIFEST))


@functools.lru_cache(16)
def _album(folder: Path, _: object) -> Album:
    pictures: list[Path] = []

    def number(name: object) -> int | None:
        if (path := inside(folder, name)) is None:
            return None
        pictures.append(path)
        return len(pictures) - 1

    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["kind"] != "explain":
            raise ValueError(f"its kind is {manifest['kind']!r}")
        where = {str(one["id"]): one for one in manifest["attentions"]}
        images = [
            {
                "name": str(image["name"]),
                "picture": number(image["picture"]),
                "width": _sure(image["width"]),
                "height": _sure(image["height"]),
                "boxes": [_box(box) for box in image["boxes"]],
                "true_boxes": [_box(box) for box in image["true_boxes"] or ()],
                "answers": [
                    {"label": str(answer["label"]), "confidence": _sure(answer["confidence"])}
                    for answer in image.get("classes", ())
                ],
                "maps": _maps(image, where, number),
            }
            for image in manifest["images"]
        ]
        about: dict[str, object] = {
            "model": str(manifest["model"]),
            "task": str(manifest["task"]),
            "ablation": _ablation(manifest.get("ablation")),
        }
    except MALFORMED as error:
        said = f"{folder / MANIFEST} cannot be read: {one_line(error, named=True)}"
        raise UserError(said, "make it again with foveal explain") from None
    return Album(about, images, tuple(pictures))


def _maps(image: dict, where: dict[str, dict], number: Callable[[object], int | None]) -> list[dict]:
    """All pictures of an image, those of one attention together."""
    maps: dict[str, list[dict]] = {attention: [] for attention in where}
    for key, read in (("gates", _gate), ("cams", _cam)):
        for found in image[key]:
            attention = str(found["attention"])
            maps[attention] += read(found, where[attention], number)
    return [one for each in maps.values() for one in each]


def _box(found: dict) -> dict[str, object]:
    confidence = found.get("confidence")
    return {
        "box": [_sure(side) for side in found["box"]],
        "label": str(found["label"]),
        "confidence": None if confidence is None else _sure(confidence),
    }


def _gate(found: dict, attention: dict, number: Callable[[object], int | None]) -> Iterator[dict]:
    """A gate has one picture, and may have others beside it."""
    numbers = {key: value for key in NUMBERS if (value := _finite(found.get(key))) is not None}
    for key, value in found.items():
        if key == "picture" or (isinstance(value, str) and value.startswith("pictures/")):
            title = f"{found['gate']}" if key == "picture" else f"{found['gate']}, {key.replace('_', ' ')}"
            one = {"title": title, "where": _named(attention), "picture": number(value), "numbers": numbers}
            yield one | {"apart": key == "strip"}  # its groups side by side cannot lie on the photograph


def _cam(found: dict, attention: dict, number: Callable[[object], int | None]) -> Iterator[dict]:
    for key in ("before", "after"):
        title = f"{found['method']} {key}"
        yield {"title": title, "where": _named(attention), "picture": number(found[key])} | {
            "numbers": {},
            "apart": False,
        }


def _named(attention: dict) -> str:
    name = f"{attention['name']} in row {attention['row']}, {attention['layer']}"
    if (gain := attention.get("gain")) is None:
        return name
    mean, low, high = (float(gain[key]) for key in ("mean", "low", "high"))
    said = f"{name}, gain {mean:.3f} ({low:.3f} to {high:.3f})".replace("-", "−")
    return said  # else a gate of 0.5 would be taken for halving


def _ablation(found: dict | None) -> dict[str, object] | None:
    if found is None:
        return None
    rows = [{"attention": str(row["attention"])} | _frozen(row) for row in found["rows"]]
    return {"metric": str(found["metric"]), "trained": _finite(found["trained"]), "rows": rows}


def _frozen(row: dict) -> dict[str, float | None]:
    return {key: _finite(row.get(key)) for key in ("frozen", "removed")}


def _sure(value: object) -> float:
    if (number := _finite(value)) is None:
        raise ValueError(f"{value!r} is no number")
    return number


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)
