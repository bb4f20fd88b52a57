"""Charts of a study's report: numbers in, inline SVG out.

Across, positions are per cent of the width, and down they are pixels: a chart fills a phone, a screen and a sheet of
paper with letters of the same size. Colours are the page's, by class. No element refers to another by `url(...)`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Number:
    """A value of the results as the page shows it.

    Attributes:
        path: where it stands in the results: "arms.2.verdict.mean".
        form: how it is written: "signed-points".
        text: the outcome.
    """

    path: str
    form: str
    text: str


@dataclass(frozen=True)
class Effect:
    """One arm of a forest plot or a cost-benefit plot; what is not known is None.

    Attributes:
        name: of the arm.
        kind: class of its marks: "baseline", "treatment" or "control".
        mean: difference to the baseline.
        low: lower bound of its interval.
        high: upper bound.
        seeds: difference at each seed.
        label: words and numbers that stand at the end of its line.
        cost: what it costs: median, or lower quartile, median and upper quartile.
    """

    name: str
    kind: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: Sequence[float] = ()
    label: Sequence[str | Number] = ()
    cost: Sequence[float] = ()


@dataclass(frozen=True)
class Curve:
    """One line of a learning curve, and the band around it, each (epochs,)."""

    name: str
    kind: str
    epochs: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Scale:
    """Maps low..high to first..last."""

    low: float
    high: float
    first: float = 4.0
    last: float = 96.0

    def __call__(self, value: float) -> float:
        """Position of a value; those beyond an end are held there."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.first + (self.last - self.first) * min(max(share, 0.0), 1.0)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Round values from low to high, at most so many, and how they are written."""
        if not self.high > self.low:
            return [(self.low, f"{self.low:.4g}")]
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(i * step, f"{i * step:.{digits}f}".replace("-", "−")) for i in range(first, last + 1)]


def forest(
    effects: Sequence[Effect],
    margin: float,
    noise: tuple[float, float] | None,
    title: str,
    ends: tuple[str, str],
    axis: str,
) -> str:
    """Forest plot: of each arm the mean, its interval and each seed's difference.

    Args:
        effects: the arms, in the unit of the axis.
        margin: of no practical matter are differences within -margin..margin.
        noise: interval of the A/A arm.
        title: what is read out instead of the picture.
        ends: words at the axis for worse and better.
        axis: its label.
    """
    row, top = 58, 8
    bottom = top + row * len(effects)
    middle = [margin, *(abs(d) for e in effects for d in (*e.seeds, e.mean) if d is not None)]
    # One interval of two seeds would otherwise press all others into a line. It ends in an arrow instead.
    limit = 2.5 * max(middle)
    bounds = [abs(bound) for e in effects for bound in (e.low, e.high) if bound is not None]
    reach = max(max(middle) * 1.05, min(limit, max(bounds, default=0.0)))
    x = Scale(-reach, reach)
    left, right = x(-margin), x(margin)
    parts = [_tag("rect", x=_per(left), y=top, width=_per(right - left), height=bottom - top, class_="margin")]
    rules = [(value, "zero" if value == 0 else "grid") for value, _ in x.ticks(8)]
    rules += [(bound, "noise") for bound in noise or () if abs(bound) <= reach]
    for value, written in x.ticks(8):
        sign = "+" if value > 0 else ""
        parts.append(_text(x(value), bottom + 16, sign + written, class_="tick", anchor="middle"))
    for index, effect in enumerate(effects):
        y = top + row * index
        parts += [_rule(x(value), y + 23, y + row - 4, kind) for value, kind in rules]  # not through the words
        parts.append(_text(0, y + 17, _short(effect.name, 26), class_="name", dx=4, full=effect.name))
        parts.append(_text(100, y + 17, *effect.label, class_="value", anchor="end", dx=-4))
        if effect.low is not None and effect.high is not None:
            parts.append(_line(x(effect.low), y + 33, x(effect.high), y + 33, f"interval {effect.kind}"))
            parts += [
                _shape(
                    x(bound), y + 33, "M-6 -5 L0 0 L-6 5" if bound > 0 else "M6 -5 L0 0 L6 5", f"arrow {effect.kind}"
                )
                for bound in (effect.low, effect.high)
                if abs(bound) > reach
            ]
        parts += [_circle(x(seed), y + 46, 3, f"seed {effect.kind}") for seed in effect.seeds]
        if effect.mean is not None:
            parts.append(_shape(x(effect.mean), y + 33, "M-7 0 L0 -7 L7 0 L0 7 Z", f"mean {effect.kind}"))
    parts.append(_text(0, bottom + 34, f"← {ends[0]}", class_="tick", dx=4))
    parts.append(_text(50, bottom + 34, axis, class_="tick", anchor="middle"))
    parts.append(_text(100, bottom + 34, f"{ends[1]} →", class_="tick", anchor="end", dx=-4))
    return _svg(bottom + 42, title, parts)


def cost_benefit(effects: Sequence[Effect], margin: float, title: str, down: str, across: str, unit: str = "") -> str:
    """Difference to the baseline, upwards, against cost, to the right; the lines of a cross are intervals.

    Args:
        effects: the arms that have a mean and a cost, and the baseline at a difference of 0.
        margin: as in `forest`.
        title: what is read out instead of the picture.
        down: label of the vertical axis.
        across: label of the horizontal one.
        unit: put behind the numbers of the horizontal axis.
    """
    height, top = 300, 36
    points = [(e.mean, e) for e in effects if e.mean is not None]
    middle = [margin, *(abs(mean) for mean, _ in points)]
    bounds = [abs(bound) for e in effects for bound in (e.low, e.high) if bound is not None]
    reach = max(1.15 * max(middle), min(3 * max(middle), 1.05 * max(bounds, default=0.0)))
    y = Scale(-reach, reach, height, top)
    costs = [cost for e in effects for cost in e.cost]
    spread = max(max(costs) - min(costs), 0.01 * max(costs))
    x = Scale(min(costs) - 0.12 * spread, max(costs) + 0.12 * spread, 7, 93)
    parts = [_tag("rect", x="0%", y=y(margin), width="100%", height=y(-margin) - y(margin), class_="margin")]
    for value, written in y.ticks(6):
        parts.append(_line(0, y(value), 100, y(value), "zero" if value == 0 else "grid"))
        parts.append(_text(0, y(value) - 4, ("+" if value > 0 else "") + written, class_="tick"))
    for value, written in x.ticks(5):
        parts.append(_rule(x(value), height, height + 5, "grid"))
        parts.append(_text(x(value), height + 18, written + unit, class_="tick", anchor="middle"))
    names: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for mean, effect in sorted(points, key=lambda point: y(point[0])):
        cost = effect.cost[len(effect.cost) // 2]
        across_at, down_at = x(cost), y(mean)
        if effect.low is not None and effect.high is not None:
            parts.append(_line(across_at, y(effect.high), across_at, y(effect.low), f"interval {effect.kind}"))
        if len(effect.cost) == 3:
            parts.append(_line(x(effect.cost[0]), down_at, x(effect.cost[2]), down_at, f"interval {effect.kind}"))
        shape = "M-5 -5 H5 V5 H-5 Z" if effect.kind == "baseline" else "M-7 0 L0 -7 L7 0 L0 7 Z"
        parts.append(_shape(across_at, down_at, shape, f"mean {effect.kind}"))
        anchor = "start" if across_at < 55 else "end"
        name, line = _short(effect.name, 17), down_at - 9
        width = 2.5 * len(name) + 3  # per cent of a phone's width
        left = across_at if anchor == "start" else across_at - width
        while any(abs(line - other) < 14 and abs(left - at) < max(width, wide) for at, other, wide in taken):
            line += 5
        taken.append((left, line, width))
        offset = 11 if anchor == "start" else -11
        names.append(_text(across_at, line, name, class_="name", anchor=anchor, dx=offset, full=effect.name))
    parts += names
    parts.append(_text(0, 12, f"↑ {down}", class_="tick"))
    parts.append(_text(100, height + 36, f"{across} →", class_="tick", anchor="end"))
    return _svg(height + 44, title, parts)


def learning(curves: Sequence[Curve], title: str, axis: str, height: int) -> str:
    """Means over seeds against the epoch, with bands; of a curve of kind "baseline" the mean alone, dashed.

    Args:
        curves: one at least.
        title: what is read out instead of the picture.
        axis: label of the vertical axis.
        height: of the plot, in pixels.
    """
    low = min(value for curve in curves for value in curve.low)
    high = max(value for curve in curves for value in curve.high)
    y = Scale(low, high, height - 4, 22)
    first, last = min(curve.epochs[0] for curve in curves), max(curve.epochs[-1] for curve in curves)
    x = Scale(first, last, 0, 100)
    parts = [_line(0, y(value), 100, y(value), "grid") for value, _ in y.ticks(4)]
    paths = []
    for curve in curves:
        across = [x(epoch) for epoch in curve.epochs]
        if curve.kind != "baseline" or len(curves) == 1:
            edge = [*zip(across, map(y, curve.high), strict=True)]
            edge += reversed([*zip(across, map(y, curve.low), strict=True)])
            paths.append(_tag("path", d=f"{_path(edge)} Z", class_=f"band {curve.kind}"))
    for curve in curves:
        points = [*zip(map(x, curve.epochs), map(y, curve.mean), strict=True)]
        # A line to itself is a dot, where there is one epoch only.
        paths.append(_tag("path", d=_path(points if points[1:] else points * 2), class_=f"curve {curve.kind}"))
    # Only paths are stretched; their lines keep their width, see the style.
    parts.append(
        _tag("svg", *paths, width="100%", height=height, viewBox=f"0 0 100 {height}", preserveAspectRatio="none")
    )
    falls = curves[-1].mean[0] > curves[-1].mean[-1]  # the numbers stand where the curve is not
    place, anchor = (100, "end") if falls else (0, "start")
    parts += [_text(place, y(value) - 3, written, class_="tick", anchor=anchor) for value, written in y.ticks(4)]
    parts.append(_text(0, 10, axis, class_="tick"))
    parts.append(_text(0, height + 14, f"{first:g}", class_="tick"))
    if last > first:
        parts.append(_text(100, height + 14, f"{last:g}", class_="tick", anchor="end"))
    return _svg(height + 20, title, parts)


def glyph(mean: float, low: float | None, high: float | None, reach: float) -> str:
    """A mean and its interval on -reach..reach, small enough for a cell of a table. The cells beside it say it all."""
    x = Scale(-reach, reach, 3, 97)
    parts = [_rule(x(0), 1, 15, "zero")]
    if low is not None and high is not None:
        parts.append(_line(x(low), 8, x(high), 8, "interval treatment"))
    parts.append(_circle(x(mean), 8, 3, "point treatment"))
    return _tag("svg", *parts, width="100%", height=16, class_="glyph", aria_hidden="true")


def _svg(height: float, title: str, parts: Iterable[str]) -> str:
    return _tag("svg", _tag("title", escape(title)), *parts, width="100%", height=height, role="img", class_="chart")


def _tag(name: str, *children: str, **attributes: object) -> str:
    """An element; the children are markup already."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    written = "".join(
        f' {names[key]}="{round(value, 2) if isinstance(value, float) else escape(str(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{''.join(children)}</{name}>"


def _text(
    x: float, y: float, *words: str | Number, class_: str, anchor: str = "start", dx: float = 0, full: str = ""
) -> str:
    parts = [
        escape(word)
        if isinstance(word, str)
        else _tag("tspan", escape(word.text), data_path=word.path, data_format=word.form)
        for word in words
    ]
    if full:
        parts.append(_tag("title", escape(full)))
    own = {"translate": "no"} if class_ == "name" else {}
    return _tag("text", *parts, x=_per(x), y=y, dx=dx, text_anchor=anchor, class_=class_, **own)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return _tag("line", x1=_per(x1), y1=y1, x2=_per(x2), y2=y2, class_=kind)


def _rule(x: float, top: float, bottom: float, kind: str) -> str:
    return _line(x, top, x, bottom, kind)


def _circle(x: float, y: float, radius: float, kind: str) -> str:
    return _tag("circle", cx=_per(x), cy=y, r=radius, class_=kind)


def _shape(x: float, y: float, path: str, kind: str) -> str:
    """A path in pixels around a point whose place across is in per cent."""
    return _tag("svg", _tag("path", d=path, class_=kind), x=_per(x), y=y, overflow="visible")


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.2f} {y:.2f}" for x, y in points)


def _per(value: float) -> str:
    return f"{value:.2f}%"


def _short(name: str, most: int) -> str:
    """A name with dots in its middle, because arms differ at both ends."""
    tail = min(8, most // 2 - 1)
    return name if len(name) <= most else f"{name[: most - tail - 1]}…{name[-tail:]}"
