"""The report of a study: its results in, a page, a table for a paper and a table for pandas out.

The page is one file that asks the network for nothing. Each number on it that comes from the results stands in an
element that says from where and how it is written: `data-path="arms.2.verdict.mean" data-format="signed-points"`.
"""

import functools
import json
import math
import statistics
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path

from markupsafe import Markup, escape

from ..errors import UserError
from ..files import named, write_text
from ..pages import Number, charts, html, look_up, shown
from ..results import ArmResults, ArmVerdict, ImageScores, Part, StudyResults
from ..verdict import Outcome
from . import tables

TEMPLATES = Path(__file__).with_name("templates")
LANGUAGES = ("en", "zh")


def write(results: StudyResults, folder: str | PathLike[str], language: str = "en") -> list[Path]:
    """Write `report.html`, `table.md` and `table.csv` into a folder, and return their paths.

    Args:
        results: of a study, as they are assembled or loaded.
        folder: that exists.
        language: of the page, "en" or "zh"; the tables are in English.

    Raises:
        UserError: there is no such language, or a file cannot be written.
    """
    if language not in LANGUAGES:
        raise UserError(f"no report in language {language!r}", f"languages: {', '.join(LANGUAGES)}")
    texts = {
        "report.html": Page(results, language).render(),
        "table.md": tables.for_a_paper(results),
        "table.csv": tables.for_pandas(results),
    }
    written = {named(folder, "a folder") / name: text for name, text in texts.items()}
    for target, text in written.items():
        write_text(target, text)
    return [*written]


def sentence(results: StudyResults, language: str = "en") -> str:
    """The verdict in one line, as the page begins; of a rehearsal that is no verdict, and says so."""
    page = Page(results, language)
    rehearsal = [page.rehearsal()] if results.scale else []
    between = " " if language == "en" else ""  # Chinese sentences end in a stop that has its space
    return between.join(part.striptags() for part in (*rehearsal, *page.verdict()))


class Page:
    """What the template asks for.

    Args:
        results: of a study.
        language: one of `LANGUAGES`.
    """

    def __init__(self, results: StudyResults, language: str):
        phrases = json.loads((TEMPLATES / "phrases.json").read_text(encoding="utf-8"))
        self.phrases = {key: pair[language] for key, pair in phrases.items()}
        self.results, self.arms, self.language = results, results.arms, language
        self.task, self.metrics = results.task, results.metrics
        self.metric = self.metrics[0]
        self.baseline = self.arms.index(results.baseline)
        # Many names would cover each other in a chart: numbers stand for them.
        self.keys = [str(1 + index) if len(self.arms) > 5 else "" for index in range(len(self.arms))]
        again = [index for index, arm in enumerate(self.arms) if arm.control == "A/A"]
        self.noise = next((index for index in again if look_up(self.arms[index], "verdict.low") is not None), None)

    def render(self) -> str:
        """The page."""
        return (
            html.environment(TEMPLATES)
            .get_template("report.html")
            .render(page=self, results=self.results, n=self.number, t=self.say, name=self.name)
        )

    def value(self, path: str, form: str) -> Number:
        """What stands in the results at a path."""
        return Number(path, form, shown(look_up(self.results, path), form))

    def number(self, path: str, form: str) -> Markup:
        """The same as an element of the page."""
        return html.number(path, form, self.value(path, form).text)

    def name(self, text: object) -> Markup:
        """Something that is the same in every language."""
        return Markup('<span class="name" translate="no">{}</span>').format(html.breaking(text))

    @staticmethod
    def gates(image: ImageScores) -> str:
        """Where the gates of an image are, as a link from the page; "" if they were not drawn."""
        file, _, place = (image.gates or "").partition("#")
        return file and f"{urllib.parse.quote(file)}#{urllib.parse.quote(place)}"

    @property
    def unsteady(self) -> bool:
        """Whether times were taken of which no ratio can be given."""
        costs = [arm.cost for arm in self.arms if arm.cost]
        return any(cost.milliseconds and not cost.latency_ratio for cost in costs)

    @property
    def linked(self) -> bool:
        """Whether gates were drawn of any image."""
        each = [arm.images for arm in self.arms if arm.images]
        return any(image.gates for images in each for image in (*images.won, *images.lost))

    def say(self, key: str, **parts: object) -> Markup:
        """A phrase in the page's language, its blanks filled."""
        return Markup(escape(self.phrases[key])).format(**parts)

    def known(self, prefix: str, key: str) -> Markup:
        """The phrase of a word of the results, or the word itself where there is none."""
        known = f"{prefix}_{key}" in self.phrases
        return self.say(f"{prefix}_{key}", part=self.part) if known else self.name(key)

    @property
    def part(self) -> Markup:
        """What the metric is called for one class."""
        return self.say(f"part_{self.metric.part}")

    @property
    def kind(self) -> str:
        """By what detections are matched; "class" where nothing is, as of answers and maps."""
        return self.metric.of or "class"

    def average(self, name: str) -> Markup:
        """The name of an average, as a heading."""
        return self.say(f"metric_{name}", name=name).strip()

    def judged(self) -> Markup:
        """The name of the average that decides, within a sentence."""
        return self.say(f"metric_{self.metric.name}", name=self.number("statistics.metric", "text"))

    def rehearsal(self) -> Markup:
        """What a reader of a rehearsal must know first."""
        return self.say("rehearsal", scale=self.number("scale", "per-cent"))

    def outcome(self, outcome: Outcome) -> Markup:
        """The outcome of a verdict, in a few words."""
        margin = self.number("statistics.margin", "points")
        return self.say(f"outcome_{outcome.replace(' ', '_')}", margin=margin)

    def verdict(self) -> tuple[Markup, Markup]:
        """The sentence that says it all: the outcome, and the numbers."""
        judged = {arm.name: (index, arm.verdict) for index, arm in enumerate(self.arms) if arm.verdict}
        if not self.results.verdict:
            return self.say("verdict_missing"), self.say("verdict_missing_why")
        index, found = judged[self.results.verdict.arm]
        at, end = f"arms.{index}.verdict", self.end(index, found)
        numbers = "verdict_numbers_alone" if found.low is None else "verdict_numbers"
        margin, name = self.number("statistics.margin", "points"), self.name(self.arms[index].name)
        return self.say(f"verdict_{found.outcome.replace(' ', '_')}", arm=name, margin=margin), self.say(
            numbers,
            metric=self.judged(),
            **{key: self.number(f"{at}.{key}", "signed-points") for key in ("mean", "low", "high")},
            coverage=self.number("statistics.level", "coverage"),
            p=self.number(f"{at}.p", "p-relation"),
            seeds=self.number(f"{at}.seeds", "integer"),
            end=self.say("verdict_end", end=end) if end else self.say("verdict_end_stop"),
        )

    def end(self, index: int, found: ArmVerdict) -> Markup:
        """What a reader of an arm's outcome must know beside it; empty where that is nothing."""
        at = f"arms.{index}.verdict"
        end = found.outcome.replace(" ", "_")
        if found.outcome.is_claim:
            if abs(found.mean) >= self.results.statistics.margin:
                return Markup("")
            end = "below_margin"
        elif found.outcome is Outcome.INCONCLUSIVE:
            known = {"seeds": found.needed, "images": found.more_images}.get(found.reason, 1)
            end = found.reason if known else "unknown"
            if found.reason == "images" and self.results.plan.get("folds"):
                end = "folds"
        parts = {
            "margin": self.number("statistics.margin", "points"),
            "each": self.number("statistics.level", "half-per-cent"),
            "learned": self.number("statistics.learned", "points"),
            "needed": self.number(f"{at}.needed", "integer"),
            "more": self.number(f"{at}.more_images", "times"),
            "next": self.number(f"{at}.next", "integer"),
        }
        said = self.say(f"end_{end}", **parts)
        early = not found.final and found.outcome is not Outcome.PRELIMINARY
        return said + self.say("end_next", **parts) if early else said

    def others(self) -> Iterator[tuple[int, ArmResults]]:
        """All arms but the baseline, and their places."""
        return ((index, arm) for index, arm in enumerate(self.arms) if index != self.baseline)

    def having(self, key: str) -> list[tuple[int, ArmResults]]:
        """The arms that have what not every study has, and their places."""
        return [(index, arm) for index, arm in enumerate(self.arms) if getattr(arm, key) not in (None, ())]

    def beside(self, group: str, index: int, place: int) -> int | None:
        """Where the baseline has the class or size that an arm has at a place."""
        name = getattr(self.arms[index], group)[place].name
        names = [part.name for part in getattr(self.results.baseline, group)]
        return names.index(name) if name in names else None

    def forest(self) -> Markup:
        """Each arm's difference."""
        effects = []
        for index, arm in self.others():
            at, found = f"arms.{index}.verdict", arm.verdict
            seeds = found.differences if found else tables.paired(arm, self.results.baseline, self.metric.key).values()
            low, high = (self.value(f"{at}.{bound}", "signed-points") for bound in ("low", "high"))
            bounded = found is not None and found.low is not None
            label = [self.value(f"{at}.mean", "signed-points"), *((" [", low, ", ", high, "]") if bounded else ())]
            dots = [100 * difference for difference in seeds]
            effects.append(charts.Effect(arm.name, arm.role, *_interval(found), dots, label))
        again = None if self.noise is None else self.arms[self.noise].verdict
        noise = None
        if again and again.low is not None and again.high is not None:
            noise = 100 * again.low, 100 * again.high
        ends = (self.phrases["worse"], self.phrases["better"])
        margin = 100 * self.results.statistics.margin
        return Markup(
            charts.forest(effects, margin, noise, self.phrases["forest_title"], ends, self.phrases["points_unit"])
        )

    def cost_benefit(self) -> tuple[Markup, str] | None:
        """Difference against latency where all arms have one, otherwise against FLOPs; and which."""
        effects: dict[str, list[charts.Effect]] = {"latency_ratio": [], "flops": []}
        judged = [
            (arm, key, arm.cost)
            for index, (arm, key) in enumerate(zip(self.arms, self.keys, strict=True))
            if arm.cost and (arm.verdict or index == self.baseline)
        ]
        for arm, key, cost in judged:
            interval = _interval(arm.verdict) if arm.verdict else (0.0, None, None)
            effect = charts.Effect(key or arm.name, arm.role, *interval)
            if cost.latency_ratio:
                effects["latency_ratio"].append(replace(effect, cost=cost.latency_ratio))
            if cost.flops:
                effects["flops"].append(replace(effect, cost=[cost.flops / 1e9]))
        margin = 100 * self.results.statistics.margin
        for kind, unit in (("latency_ratio", "×"), ("flops", "")):
            if len(effects[kind]) == len(judged) > 1:
                title, down, across = (self.phrases[f"cost_{word}"] for word in ("title", "down", kind))
                return Markup(charts.cost_benefit(effects[kind], margin, title, down, across, unit)), kind
        return None

    def learning(self) -> list[tuple[str, list[Markup]]]:
        """For each arm its name and two charts, with the baseline for comparison."""
        panels = []
        baseline = self.results.baseline
        for arm in [arm for _, arm in self.others()] or [baseline]:
            drawn = []
            plots = (("metric", "learning_metric", 100, 170), ("loss", "learning_loss", 1, 110))
            for key, phrase, factor, height in plots:
                axis = self.say(phrase, metric=self.average(self.metric.name)).unescape()
                pair = [baseline, *([arm] if arm is not baseline else [])]
                curves = [curve for each in pair if (curve := _curve(each, key, factor))]
                if any(curve.name == arm.name for curve in curves):
                    drawn.append(Markup(charts.learning(curves, f"{arm.name}: {axis}", axis, height)))
            if drawn:
                panels.append((arm.name, drawn))
        return panels

    @functools.cached_property
    def reach(self) -> float:
        """Ends of the scale on which all classes, sizes and slices are drawn."""
        parts = [part for _, arm in self.others() for part in (*arm.classes, *arm.sizes, *arm.slices)]
        differences = [abs(part.difference) for part in parts if part.difference is not None]
        bounds = [abs(bound) for part in parts for bound in (part.low, part.high) if bound is not None]
        most = max(differences, default=0.0)
        return max(most, min(2.5 * most, max(bounds, default=0.0))) or 1.0

    def glyph(self, part: Part) -> Markup:
        """The difference of one class, size or slice."""
        if part.difference is None:
            return Markup("")
        return Markup(charts.glyph(part.difference, part.low, part.high, self.reach))


def _interval(found: ArmVerdict | None) -> tuple[float | None, float | None, float | None]:
    """A mean and its bounds in points; None for what is not known."""
    if found is None:
        return None, None, None
    low, high = (None if bound is None else 100 * bound for bound in (found.low, found.high))
    return 100 * found.mean, low, high


def _curve(arm: ArmResults, key: str, factor: float) -> charts.Curve | None:
    """Mean, least and most over seeds at each epoch; None where nothing is known."""
    if not arm.curves or not getattr(arm.curves, key):
        return None
    columns = zip(arm.curves.epochs, zip(*getattr(arm.curves, key), strict=False), strict=False)
    points = []
    for epoch, values in columns:  # as far as all seeds go; a loss that is not a number is missing
        if known := [factor * value for value in values if value is not None and math.isfinite(value)]:
            points.append((epoch, statistics.fmean(known), min(known), max(known)))
    return charts.Curve(arm.name, arm.role, *zip(*points, strict=True)) if points else None
