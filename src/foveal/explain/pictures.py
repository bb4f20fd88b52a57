"""Pictures of gates, and the page that shows them.

A colour stands for the same value in every picture: scales are absolute, and nothing is stretched between its least and
its greatest value, so a map that is constant looks constant. A cell of a map is drawn as a rectangle, since that is all
the attention knows.
"""

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw

from ..pages import NOTHING, html, look_up

TEMPLATES = Path(__file__).with_name("templates")
LONGEST = 480  # side of a picture
_SHADES = 250
_UNSEEN, _LINE = _SHADES, _SHADES + 1  # colours of what the network did not see, and of boxes
_STRIP = 64  # groups in one picture
FOUND, TRUE = (240, 120, 20), (20, 160, 110)
_DOT, _FRESH, _RULE = (45, 125, 210), (240, 120, 20), (128, 128, 128)


@dataclass(frozen=True)
class Frame:
    """Where a photograph lies in the tensor that the network reads: `tensor = photograph * scale + offset`.

    Attributes:
        size: width and height of the photograph in pixels.
        tensor: width and height of the tensor.
        scale: tensor pixels per pixel of the photograph, across and down.
        offset: of the photograph's left upper corner in the tensor, in its pixels; negative where it is cut off.
    """

    size: tuple[int, int]
    tensor: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def centres(self, cells: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Centres of the cells of a map of so many across and down, in pixels of the photograph: x, and y."""
        x, y = (
            ((np.arange(count) + 0.5) * self.tensor[axis] / count - self.offset[axis]) / self.scale[axis]
            for axis, count in enumerate(cells)
        )
        return x, y

    def cells(self, cells: tuple[int, int], picture: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Column and row of a map at each pixel across and down a picture of the photograph; -1 outside the tensor."""
        found = []
        for axis, count in enumerate(cells):
            at = (np.arange(picture[axis]) + 0.5) * self.size[axis] / picture[axis]
            cell = np.floor((at * self.scale[axis] + self.offset[axis]) / self.tensor[axis] * count).astype(int)
            found.append(np.where((cell >= 0) & (cell < count), cell, -1))
        column, row = found
        return column, row

    def picture(self, longest: int = LONGEST) -> tuple[int, int]:
        """Width and height of the photograph's copy."""
        shrunk = min(1.0, longest / max(self.size))
        width, height = (max(1, round(side * shrunk)) for side in self.size)
        return width, height


# Scales --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """How values become colours.

    Attributes:
        palette: of matplotlib.
        place: values to places on the palette, 0 to 1; what lies beyond has the colour of the end.
        ticks: place and text of what is written under the colour bar.
        line: colour of boxes, which has to stand out.
    """

    palette: str
    place: Callable[[np.ndarray], np.ndarray]
    ticks: tuple[tuple[float, str], ...]
    line: tuple[int, int, int] = (255, 255, 255)

    def colours(self, count: int = _SHADES) -> np.ndarray:
        """The palette, (count, 3) of 0 to 255."""
        from matplotlib import colormaps

        return (colormaps[self.palette](np.linspace(0, 1, count))[:, :3] * 255).round().astype(np.uint8)


def _steep(value: np.ndarray) -> np.ndarray:
    """-1 to 1 for -10 to 10: even near zero, logarithmic away from it."""
    return np.sign(value) * np.log10(1 + np.abs(value) / 0.1) / math.log10(101)


def _steep_ticks(centre: float) -> tuple[tuple[float, str], ...]:
    steps = np.array([-10, -1, 0, 1, 10])
    written = [f"{centre + step:g}".replace("-", "−") for step in steps]
    return tuple(zip((0.5 + 0.5 * _steep(steps)).tolist(), written, strict=True))


_DARK = (20, 20, 20)
SCALES = {
    "gate": Scale("viridis", lambda v: v, ((0, "0"), (0.5, "0.5"), (1, "1"))),
    "spread": Scale("magma", lambda v: v / 0.5, ((0, "0"), (0.5, "0.25"), (1, "0.5"))),
    "difference": Scale("RdBu_r", lambda v: v + 0.5, ((0, "−0.5"), (0.5, "0"), (1, "+0.5")), _DARK),
    "factor": Scale("PuOr_r", lambda v: 0.5 + 0.5 * _steep(v - 1), _steep_ticks(1), _DARK),
    "factor spread": Scale("magma", _steep, ((0, "0"), (float(_steep(np.array(1))), "1"), (1, "10"))),
    "factor difference": Scale("RdBu_r", lambda v: 0.5 + 0.5 * _steep(v), _steep_ticks(0), _DARK),
    "share": Scale(
        "PuOr_r",
        lambda v: 0.5 + np.log2(np.maximum(v, 1e-9)) / 10,
        ((0, "1/32"), (0.3, "1/4"), (0.5, "even"), (0.7, "4×"), (1, "32×")),
        _DARK,
    ),
    "cam": Scale("inferno", lambda v: v, ((0, "0"), (1, "greatest of both"))),
}

# Scales of a gate's mean over groups, its spread over them, and trained minus initial.
_BOUNDED = ("gate", "spread", "difference")
GATES = {
    "spatial": _BOUNDED,
    "elements": _BOUNDED,
    "factor": ("factor", "factor spread", "factor difference"),
    "received": ("share", "factor spread", "factor difference"),
}


# Pictures ------------------------------------------------------------------------------------------------------------


def heat(values: np.ndarray, scale: str, frame: Frame, boxes: Iterable[Sequence], file: Path) -> None:
    """Write a map (H, W) as a PNG that lies on the photograph pixel by pixel.

    Args:
        values: what is not a number is drawn like what the network did not see.
        scale: one of `SCALES`.
        frame: of the photograph.
        boxes: outlines to draw, each [(x, y), ...] in pixels of the photograph.
        file: to write.
    """
    size = frame.picture()
    columns, rows = frame.cells((values.shape[1], values.shape[0]), size)
    shades = _shades(values, SCALES[scale])[rows[:, None], columns[None]]
    shades[rows < 0], shades[:, columns < 0] = _UNSEEN, _UNSEEN
    picture = Image.fromarray(shades, "P")
    draw = ImageDraw.Draw(picture)
    for outline in boxes:
        draw.polygon(_shrunk(outline, frame, size), outline=_LINE, width=2)
    _save(picture, SCALES[scale], file)


def strip(values: np.ndarray, scale: str, frame: Frame, file: Path) -> int:
    """Write maps (G, H, W) side by side, at most 64 of them, and return how many."""
    count, across = min(len(values), _STRIP), min(8 if len(values) > 16 else 4, len(values))
    size = frame.picture(LONGEST // across - 4)
    columns, rows = frame.cells(values.shape[:0:-1], size)
    step = (size[0] + 3, size[1] + 3)
    shades = np.full((step[1] * math.ceil(count / across) - 3, step[0] * across - 3), _UNSEEN, np.uint8)
    for index, each in enumerate(values[:count]):
        small = _shades(each, SCALES[scale])[rows[:, None], columns[None]]
        small[rows < 0], small[:, columns < 0] = _UNSEEN, _UNSEEN
        top, left = (index // across) * step[1], (index % across) * step[0]
        shades[top : top + size[1], left : left + size[0]] = small
    _save(Image.fromarray(shades, "P"), SCALES[scale], file)
    return count


def _shades(values: np.ndarray, scale: Scale) -> np.ndarray:
    known = np.isfinite(values)
    places = np.clip(scale.place(np.where(known, values, 0)), 0, 1)
    return np.where(known, (places * (_SHADES - 1)).round(), _UNSEEN).astype(np.uint8)


def _save(picture: Image.Image, scale: Scale, file: Path) -> None:
    picture.putpalette([*scale.colours().ravel().tolist(), *_RULE, *scale.line])
    picture.save(file, "PNG", transparency=_UNSEEN, compress_level=9)


def _shrunk(outline: Iterable[Sequence[float]], frame: Frame, size: tuple[int, int]) -> list[tuple[float, float]]:
    across, down = (side / whole for side, whole in zip(size, frame.size, strict=True))
    return [(x * across, y * down) for x, y in outline]


def photograph(pixels: np.ndarray, frame: Frame, found: Iterable, true: Iterable, file: Path) -> None:
    """Write a small copy of a photograph (H, W, 3) with outlines of what was found and of what is there."""
    size = frame.picture()
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for outlines, colour in ((true, TRUE), (found, FOUND)):
        for outline in outlines:
            draw.polygon(_shrunk(outline, frame, size), outline=colour)
    picture.save(file, "JPEG", quality=82)


def profile(pixels: np.ndarray, frame: Frame, axis: int, values: dict[str, np.ndarray], file: Path) -> None:
    """Write a photograph with the gates of its columns (axis 0) below it or of its rows (axis 1) at its right.

    Args:
        pixels: (H, W, 3).
        frame: of the photograph.
        axis: along which `values` lie.
        values: "mean", "low", "high" and perhaps "initial", one for each column or row of the map; 0 to 1 is the panel.
        file: to write.
    """
    size, panel = frame.picture(360), 110
    whole = (size[0], size[1] + panel) if axis == 0 else (size[0] + panel, size[1])
    picture = Image.new("RGB", whole, (247, 247, 244))
    picture.paste(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(picture)
    count = len(values["mean"])
    cells = frame.cells((count, count), size)[axis]

    def point(along: int, value: float) -> tuple[float, float]:
        span = (panel - 21) * min(max(value, 0.0), 1.0)  # 0 is beside a picture's right edge, and at the bottom
        return (along, size[1] + panel - 11 - span) if axis == 0 else (size[0] + 10 + span, along)

    for along, cell in enumerate(cells):
        if cell >= 0:
            draw.line([point(along, values["low"][cell]), point(along, values["high"][cell])], fill=(200, 218, 238))
    for level in (0.0, 0.5, 1.0):
        draw.line([point(0, level), point(len(cells) - 1, level)], fill=(190, 190, 186))
    for key, colour, width in (("initial", _FRESH, 1), ("mean", _DOT, 2)):
        if values.get(key) is not None:
            points = [point(along, float(values[key][cell])) for along, cell in enumerate(cells) if cell >= 0]
            draw.line(points, fill=colour, width=width)
    picture.save(file, "JPEG", quality=85)


def channels(values: Sequence[float | None], initial: Sequence[float | None] | None, file: Path) -> None:
    """Write gates of channels as dots in the order of the channels between lines at 0, 0.5 and 1; fresh ones too."""
    width, height, edge = 2 * LONGEST, 240, 12
    picture = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)

    def down(value: float) -> float:
        return height - edge - (height - 2 * edge) * min(max(value, 0.0), 1.0)

    for level in (0.0, 0.5, 1.0):
        draw.line([(0, down(level)), (width, down(level))], fill=(*_RULE, 255), width=2)
    step = (width - 2 * edge) / len(values)
    for series, colour, radius in ((initial, _FRESH, 3), (values, _DOT, 5)):
        for index, value in enumerate(series or ()):
            if value is not None:
                x, y = edge + (index + 0.5) * step, down(value)
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(*colour, 255))
    picture.save(file, "PNG", compress_level=9)


# The page ------------------------------------------------------------------------------------------------------------


def _signed(text: str) -> str:
    return text.replace("-", "−")


FORMATS: dict[str, Callable[..., str]] = {
    "text": str,
    "integer": lambda value: f"{value:,}",
    "count": lambda values: f"{len(values):,}",
    "gate": lambda value: _signed(f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"),
    "gain": lambda value: _signed(f"{value:.4f}"),
    "score": lambda value: f"{value:.2f}",
    "percent": lambda value: f"{100 * value:.2g}" if abs(value) < 1 else f"{100 * value:.0f}",
    "points": lambda value: _signed(f"{100 * value:.2f}"),
}


class Page:
    """What the template asks for.

    Args:
        manifest: of an explanation.
        folder: that holds its pictures.
    """

    def __init__(self, manifest: dict, folder: Path):
        self.manifest, self.folder = manifest, folder

    def render(self) -> str:
        """The page."""
        return (
            html.environment(TEMPLATES).get_template("explain.html").render(page=self, m=self.manifest, n=self.number)
        )

    def number(self, path: str, form: str) -> Markup:
        """A value of the manifest as an element that says where it stands there."""
        value = look_up(self.manifest, path)
        return html.number(path, form, NOTHING if value is None else FORMATS[form](value))

    def lost(self, path: str) -> Markup:
        """How many points a score lies below the trained one's."""
        change = look_up(self.manifest, path) - self.manifest["ablation"]["trained"]
        text = _signed(f"{100 * change:+.2f}") if abs(change) >= 5e-5 else "0.00"
        return Markup('<span class="change" data-change="{}">{}</span>').format(path, text)

    def data(self, picture: str) -> str:
        """A picture of the folder, to stand in the page itself."""
        kind = "png" if picture.endswith(".png") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode((self.folder / picture).read_bytes()).decode()}"

    def bar(self, scale: str) -> Markup:
        """A colour bar with its numbers."""
        shown = SCALES[scale]
        stops = ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in shown.colours(17).tolist())
        ticks = Markup("").join(
            Markup('<span style="left: {:.1f}%"{}>{}</span>').format(
                100 * place, Markup(' class="end"') if place in (0, 1) else "", text
            )
            for place, text in shown.ticks
        )
        bar = Markup('<span class="bar" style="background: linear-gradient(90deg, {})"></span>').format(stops)
        return Markup('<span class="scale">{}<span class="ticks">{}</span></span>').format(bar, ticks)

    def scales(self, gate: str) -> tuple[str, str, str]:
        """Colour scales of a gate's mean, of its spread, and of trained minus initial."""
        return GATES[gate]

    def of(self, attention: str) -> dict:
        """The attention with this id."""
        return next(each for each in self.manifest["attentions"] if each["id"] == attention)

    breaking = staticmethod(html.breaking)
