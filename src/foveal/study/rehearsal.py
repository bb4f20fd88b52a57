"""A plan made small: the same arms on a share of its images, epochs and seeds, to see that it runs to its report."""

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import UserError
from ..evidence import Says
from ..hosts import Data
from .plan import Plan, each

FEWEST_IMAGES = 8  # of a split of a detector's data
FEWEST_SEEDS = 2  # with one there is nothing to compare
ORIGIN = "origin.txt"  # where the images were copied from


def reduced(written: Mapping[str, Any], beside: Path, folder: Path, share: float) -> dict[str, Any]:
    """The same plan made small, whose data is copied into a folder; without slices, as copies have other names.

    Args:
        written: the plan's keys.
        beside: the folder from which its paths are meant.
        folder: for the copy of its data.
        share: of images (of each class, for classifiers), of epochs and of seeds that is kept; at least an epoch, two
            seeds, an image of each class or eight of a split.

    Raises:
        UserError: a share that is none, or a plan that cannot work; nothing is written then.
    """
    if not 0 < share < 1:
        raise UserError(f"a scale of {share:g} makes nothing smaller", "give one below 1, as in --scale 0.01")
    if written.get("rehearsal"):
        raise UserError("the plan is a rehearsal already", "give the plan that it is taken from")
    # What is read here is the same for every model of the file.
    plan, *_ = [Plan.of(one, beside, look=False) for one in each(written)]
    train, seeds = written.get("train") or {}, written.get("seeds")
    classified = plan.task.says is Says.CLASS
    data = _copied(plan.host.data(plan.data, True, plan.task.name), classified, folder, share)
    count = max(FEWEST_SEEDS, round(share * len(plan.seeds)))
    return {
        **{key: value for key, value in written.items() if key != "slices"},
        "data": str(data.resolve()),
        "seeds": seeds[:count] if isinstance(seeds, list) else count,
        "train": {**train, "epochs": max(1, round(share * plan.settings["epochs"]))},
        **({"folds": plan.folds.number} if plan.folds else {}),  # copies have other names, which no group knows
        "rehearsal": share,
    }


def _copied(data: Data, classified: bool, folder: Path, share: float) -> Path:
    """Evenly chosen images and their labels, copied as a whole; an earlier copy of the same is taken as it is."""
    target, origin = folder / f"data-{share:g}", str(data.root)
    result = target if classified else target / "data.yaml"
    if (target / ORIGIN).is_file() and (target / ORIGIN).read_text(encoding="utf-8") == origin:
        return result
    part = target.with_name(f"{target.name}.part")
    splits = {split: f"images/{split}" for split in data.splits}
    try:
        shutil.rmtree(part, ignore_errors=True)
        for split in splits:
            (_copy_classes if classified else _copy_labelled)(data, part, split, share)
        if not classified:
            text = yaml.safe_dump({**splits, "names": data.names, **data.more}, sort_keys=False, allow_unicode=True)
            (part / "data.yaml").write_text(text, encoding="utf-8")
        (part / ORIGIN).write_text(origin, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"images cannot be copied to {target}: {error}", "choose another folder with -o") from None
    return result


def _copy_classes(data: Data, part: Path, split: str, share: float) -> None:
    classes = defaultdict(list)
    for file in data.images(split):
        classes[file.parent.name].append(file)
    for name, its_files in classes.items():
        (part / split / name).mkdir(parents=True)
        for file in _evenly(its_files, max(1, round(share * len(its_files)))):
            shutil.copy2(file, part / split / name)


def _copy_labelled(data: Data, part: Path, split: str, share: float) -> None:
    files = data.images(split)
    for kind in ("images", data.label_folder):
        (part / kind / split).mkdir(parents=True)
    chosen = _evenly(files, max(FEWEST_IMAGES, round(share * len(files))))
    for number, (image, label) in enumerate(zip(chosen, data.labels(chosen), strict=True)):
        stem = f"{number}-{image.stem}"  # images of several folders may share a name
        shutil.copy2(image, part / "images" / split / f"{stem}{image.suffix}")
        if label.exists():
            shutil.copy2(label, part / data.label_folder / split / f"{stem}{label.suffix}")


def _evenly(files: list[Path], count: int) -> list[Path]:
    return [files[i] for i in np.linspace(0, len(files) - 1, min(count, len(files)), dtype=int)]
