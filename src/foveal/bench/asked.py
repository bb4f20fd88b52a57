"""What a benchmark is asked for: read, completed and checked before anything runs."""

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..attention import ATTENTIONS, forms
from ..errors import UserError
from ..surgery import Spec
from .shapes import Shape, read

LARGEST = 4e9  # values of an input: beyond, times of pages that come and go
DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = ("forward", "train")
SHAPES = "256x40x40"


def specs(names: str | Sequence[str], models: str | Sequence[str]) -> list[Spec]:
    """The attentions that are named; by default all that have a form to compare, and "ema" in whole models."""
    whole = bool(_items(models))
    names = [names] if isinstance(names, str) else list(names)
    names = names or (["ema"] if whole else [name for name, cls in ATTENTIONS.items() if forms(cls)[1:]])
    return [Spec.parse(name) for name in names]


def cases(settings: dict) -> list[Shape]:
    """The shapes of inputs; a UserError for one that cannot be measured."""
    found = [shape for text in settings["shapes"] for shape in read(text)]
    if "train" in settings["passes"] and any(b * h * w == 1 for b in settings["batch"] for _, h, w in found):
        raise UserError("a batch norm cannot train on one value per channel", "give batch=2 or a larger map")
    for number, (c, h, w) in itertools.product(settings["batch"], found):
        if number * c * h * w > LARGEST:
            raise UserError(f"batch={number} of {c}x{h}x{w} has more than {LARGEST:.0e} values", "batch=1 of 256x40x40")
    return found


def settings(specs: Sequence[Spec], given: Mapping) -> dict:
    """What was given by name, lists as sequences or text with commas, with all that is said by leaving it out.

    Raises:
        UserError: anything that cannot be measured.
    """
    for name in ("threads", "rounds"):
        if given[name] is not None:
            _at_least_1(name, given[name])
    models = _items(given["models"])
    return {
        "attentions": [str(spec) for spec in specs],
        "shapes": _items(given["shapes"]) or ([] if models else [SHAPES]),
        "batch": [_at_least_1("batch", size) for size in _items(given["batch"])] or [1],
        "dtype": _known("dtype", given["dtype"], DTYPES),
        "layout": _known("layout", given["layout"], LAYOUTS),
        "passes": _known("passes", given["passes"], PASSES),
        "models": models,
        **{name: given[name] for name in ("rivals", "device", "threads", "rounds", "seed", "base")},
    }


def arguments(settings: dict) -> list[str]:
    """The settings as the command line takes them."""
    lists = ("shapes", "batch", "dtype", "layout", "passes", "models")
    words = [*settings["attentions"]]
    words += [f"--{name}={','.join(map(str, settings[name]))}" for name in lists if settings[name]]
    words += [f"--{name}={settings[name]}" for name in ("device", "threads", "rounds") if settings[name] is not None]
    return words + ["--rivals"] * settings["rivals"]


def target(path: Path) -> Path:
    """A file that can be written; a UserError for another."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {str(path)!r}", "name a file in a folder that exists and can be written to")
    return path


def _items(value: object) -> list:
    """A list given as a sequence, as text with commas, or as a single item."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return list(value) if isinstance(value, Sequence) else [value]


def _at_least_1(name: str, value: object) -> int:
    text = str(value)
    if not text.isdecimal():
        raise UserError(f"cannot read {name}={text!r} as a number", f"write {name}=1")
    if len(text) > 9 or int(text) < 1:
        small = not int(text)
        raise UserError(f"{name}={text} is too {'small' if small else 'large'}", f"{name}=1 is the least")
    return int(text)


def _known(name: str, given: object, known: Sequence[str] | dict) -> list[str]:
    items = _items(given)
    for item in items:
        if item not in known:
            raise UserError(f"cannot measure with {name}={item!r}", f"{name}: some of {','.join(known)}")
    if not items:
        raise UserError(f"no {name} is given", f"{name}: some of {','.join(known)}")
    return items
