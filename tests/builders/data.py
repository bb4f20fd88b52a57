"""The real data, where it exists, and images that are drawn for every task with objects."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHARED = Path(__file__).parents[3] / "shared" / "data"


def unpack_cifar100(target: Path, classes: int = 100, each: int = 100) -> Path:
    """The slice of CIFAR-100 as a folder for classifiers, with so many classes and images of each in each split."""
    for split in ("train", "test"):
        for mosaic in sorted((SHARED / "cifar100_subset" / split).glob("*.webp"))[:classes]:
            folder = target / split / mosaic.stem
            folder.mkdir(parents=True)
            with Image.open(mosaic) as tiles:
                for tile in range(each):
                    row, column = divmod(tile, 10)
                    place = (32 * column, 32 * row, 32 * column + 32, 32 * row + 32)
                    tiles.crop(place).save(folder / f"{tile:02}.png")
    return target


# Outlines of things that are turned by any angle, of half the length 1; the first two corners are key points.
THINGS = {"bar": [(1, 0.4), (1, -0.4), (-1, -0.4), (-1, 0.4)], "wedge": [(1, 0), (-1, -0.7), (-1, 0.7)]}
SIDE = 96  # of an image, in pixels
EDGE = 3  # rows above that have no class in a mask


def draw_things(folder: Path, task: str, train: int = 48, val: int = 12) -> Path:
    """Bars and wedges on a noisy ground, labelled as models of a task read it; the data file.

    Lengths are from 20 to 32 pixels; the last image of val has no thing. The corners of an `obb` are those of the box
    around a thing that is turned with it. In masks the ground is a class, too, and the upper edge has none.
    """
    labels = "masks" if task == "semantic" else "labels"
    generator = np.random.RandomState(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", labels):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            mask = Image.new("L", (SIDE, SIDE))
            pixels = generator.normal(120, 15, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
            image, lines = Image.fromarray(pixels), []
            for corner in (0, SIDE // 2) if index < count - 1 or split == "train" else ():
                label, half, angle = generator.randint(2), generator.uniform(10, 16), generator.uniform(0, np.pi)
                turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
                middle = corner + SIDE / 4 + generator.uniform(-3, 3, 2)
                outline = np.array([*THINGS.values()][label]) * half @ turn + middle
                around = np.array([(1, 0.7), (1, -0.7), (-1, -0.7), (-1, 0.7)]) * half @ turn + middle
                ImageDraw.Draw(image).polygon([*map(tuple, outline)], fill=((230, 60, 50), (50, 80, 220))[label])
                ImageDraw.Draw(mask).polygon([*map(tuple, outline)], fill=1 + label)
                lines.append(" ".join(map(str, [label, *_label(task, outline, around)])))
            image.save(folder / "images" / split / f"{index:03}.png")
            if task == "semantic":
                ImageDraw.Draw(mask).rectangle((0, 0, SIDE, EDGE - 1), fill=255)
                mask.save(folder / labels / split / f"{index:03}.png")
            else:
                (folder / labels / split / f"{index:03}.txt").write_text("\n".join(lines))
    more = "kpt_shape: [2, 3]\nflip_idx: [0, 1]\n" if task == "pose" else ""
    names = ("ground", *THINGS) if task == "semantic" else THINGS
    more += "masks_dir: masks\n" if task == "semantic" else ""
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [{', '.join(names)}]\n{more}")
    return data


def _label(task: str, outline: np.ndarray, around: np.ndarray) -> list[float]:
    outline, around = (points.clip(0, SIDE - 1) / SIDE for points in (outline, around))
    if task in ("segment", "obb"):
        return [*(outline if task == "segment" else around).ravel().round(5)]
    low, high = outline.min(0), outline.max(0)
    box = [*((low + high) / 2).round(5), *(high - low).round(5)]
    points = [value for x, y in outline[:2].round(5) for value in (x, y, 2)] if task == "pose" else []
    return [*box, *points]
