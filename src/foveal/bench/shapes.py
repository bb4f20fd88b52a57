"""The inputs that benchmarks are made on, by name: what the heads of YOLO11 read of an image of 640 x 640."""

import re

from ..errors import UserError

# Widths at P3, P4 and P5; a test holds them against the host.
NECKS = {
    "yolo11n": (64, 128, 256),
    "yolo11s": (128, 256, 512),
    "yolo11m": (256, 512, 512),
    "yolo11l": (256, 512, 512),
    "yolo11x": (384, 768, 768),
}
LEVELS = {"P3": 80, "P4": 40, "P5": 20}  # sides of the maps

Shape = tuple[int, int, int]


def read(text: str) -> list[Shape]:
    """The shapes (C, H, W) that "256x40x40", "yolo11x" or "yolo11x:P3" stands for.

    Raises:
        UserError: the text is none of these.
    """
    if match := re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})x([1-9]\d{0,4})", text):
        channels, height, width = map(int, match.groups())
        return [(channels, height, width)]
    model, _, level = text.partition(":")
    if model not in NECKS or level not in (*LEVELS, ""):
        hint = f"write 256x40x40 for channels x height x width, or yolo11x, or yolo11x:P3 ({', '.join(NECKS)})"
        raise UserError(f"cannot read {text!r} as a shape", hint)
    found = zip(LEVELS.items(), NECKS[model], strict=True)
    return [(channels, side, side) for (name, side), channels in found if level in ("", name)]


def name(shape: Shape) -> str:
    """Where a shape is met, as in "yolo11x:P3"; "" if no neck has it, and the smallest model if several have."""
    for model, widths in NECKS.items():
        for (level, side), width in zip(LEVELS.items(), widths, strict=True):
            if tuple(shape) == (width, side, side):
                return f"{model}:{level}"
    return ""
