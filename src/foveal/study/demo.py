"""A study on images that are drawn on the spot: nothing is downloaded, and it ends in a report within minutes."""

from pathlib import Path

import numpy as np

from .loop import Study

SHAPES = ("disc", "square", "cross")
COLOURS = np.array([[220, 70, 60], [60, 190, 80], [70, 90, 220]])
IMAGE_SIZE = 96

# The smallest that shows every part of a report; two seeds can prove nothing, and the verdict says so. The images are
# learned from nothing in so few epochs only without augmentation by scale.
PLAN = {
    "model": "yolo11n.yaml",
    "data": "data/data.yaml",
    "arms": ["ema@neck", "placebo", "A/A"],
    "seeds": 2,
    "train": {
        "epochs": 7,
        "imgsz": IMAGE_SIZE,
        "batch": 8,
        "nbs": 8,
        "lr0": 0.004,
        "warmup_epochs": 1,
        "mosaic": 0.0,
        "scale": 0.0,
        "verbose": False,
    },
}


def prepare(folder: Path) -> Study:
    """Draw the images and write the plan of a study into a folder; a study there already goes on."""
    if not (folder / "data" / "data.yaml").exists():
        draw_data(folder / "data")
    return Study.prepare(PLAN, folder, folder)


def draw_data(folder: Path, train: int = 192, val: int = 48) -> Path:
    """Draw a detection data set of small objects, the same on every machine.

    Each image is 96 x 96 with up to 6 shapes 11 to 19 pixels wide on a patchy, noisy ground.

    Args:
        folder: gets `images/`, `labels/` and `data.yaml`.
        train: number of training images.
        val: number of validation images.

    Returns:
        The path of `data.yaml`.
    """
    from PIL import Image

    generator = np.random.RandomState(0)  # its stream is frozen across NumPy releases
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels, boxes = _draw_image(generator)
            Image.fromarray(pixels).save(folder / "images" / split / f"{index:04}.png")
            lines = [f"{label} " + " ".join(f"{value:.6f}" for value in box) for label, *box in boxes]
            (folder / "labels" / split / f"{index:04}.txt").write_text("\n".join(lines) + "\n")
    data = folder / "data.yaml"
    data.write_text(f"train: images/train\nval: images/val\nnames: [{', '.join(SHAPES)}]\n")
    return data


def _draw_image(generator: np.random.RandomState) -> tuple[np.ndarray, list[tuple]]:
    """Pixels (H, W, 3) and boxes (label, x, y, width, height), relative to the image."""
    size = IMAGE_SIZE
    patches = generator.uniform(90, 160, (4, 4, 3)).repeat(size // 4, 0).repeat(size // 4, 1)
    pixels = patches + generator.normal(0, 12, (size, size, 3))
    rows, columns = np.mgrid[:size, :size]
    taken, boxes = np.zeros((size, size), bool), []
    for _ in range(generator.randint(3, 7)):
        radius = generator.randint(5, 10)
        x, y = generator.randint(radius + 1, size - radius - 1, 2)
        away, down = np.abs(columns - x), np.abs(rows - y)
        square = np.maximum(away, down) <= radius
        label = generator.randint(len(SHAPES))
        mask = (away**2 + down**2 <= radius**2, square, square & (np.minimum(away, down) <= radius // 3))[label]
        colour = COLOURS[label] + generator.uniform(-60, 60, 3)
        if taken[square].any():
            continue
        taken |= square
        pixels[mask] = colour + generator.normal(0, 6, (mask.sum(), 3))
        width = (2 * radius + 1) / size
        boxes.append((label, (x + 0.5) / size, (y + 0.5) / size, width, width))
    return pixels.clip(0, 255).astype(np.uint8), boxes
