"""The report of a study: its results in, a page, a table for a paper and a table for pandas out.

The page is one file that asks the network for nothing. Each number on it that comes from the results stands in an
element that says from where and how it is written: `data-path="arms.2.verdict.mean" data-format="signed-points"`.
"""

import csv
import functools
import io
import json
import math
import re
import statistics
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup, escape

from ..errors import UserError
from ..evidence import METRICS, Metric
from ..files import write_text
from ..pages import NOTHING, Number, charts, html, look_up, shown
from ..results import judged_anew

TEMPLATES = Path(__file__).with_name("templates")
LANGUAGES = ("en", "zh")


def write(results: dict, folder: Path, language: str = "en") -> list[Path]:
    """Write `report.html`, `table.md` and `table.csv` into a folder, and return their paths.

    Args:
        results: of a study, as `results.json` holds them; precisions and accuracies are fractions.
        folder: that exists.
        language: of the page, "en" or "zh"; the tables are in English.

    Raises:
        UserError: there is no such language, or a file cannot be written.
    """
    if language not in LANGUAGES:
        raise UserError(f"no report in language {language!r}", f"languages: {', '.join(LANGUAGES)}")
    results = judged_anew(results)
    texts = {
        "report.html": Page(results, language).render(),
        "table.md": paper_table(results),
        "table.csv": long_table(results),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def sentence(results: dict, language: str = "en") -> str:
    """The verdict in one line, as the page begins; of a rehearsal that is no verdict, and says so."""
    page = Page(judged_anew(results), language)
    rehearsal = [page.rehearsal()] if results.get("scale") else []
    return " ".join(part.striptags() for part in (*rehearsal, *page.verdict()))


def paired(arm: dict, baseline: dict, key: str) -> dict[int, float]:
    """Difference of an average to the baseline at each seed that both have."""
    theirs = dict(zip(baseline["seeds"], baseline[key], strict=True))
    return {seed: value - theirs[seed] for seed, value in zip(arm["seeds"], arm[key], strict=True) if seed in theirs}


def _task(results: dict) -> str:
    return results.get("task", "detect")  # the only one of older releases


def _metric(results: dict) -> Metric:
    return METRICS[_task(results)]


def _baseline(results: dict) -> int:
    return next(index for index, arm in enumerate(results["arms"]) if arm["role"] == "baseline")


# Tables --------------------------------------------------------------------------------------------------------------


def paper_table(results: dict) -> str:
    """Markdown, one row for each arm."""
    level, metric = shown(results["statistics"]["level"], "coverage"), _metric(results)
    heads = ["Arm", "Seeds", metric.name, metric.second, f"Difference [{level} % interval]", "p", "Verdict"]
    heads += ["Parameters", "GFLOPs", "Latency (ms)"]
    lines = [heads, [":--", "--:", "--:", "--:", "--:", "--:", ":--", "--:", "--:", "--:"]]
    for arm in results["arms"]:

        def cell(path: str, form: str, arm: dict = arm) -> str:
            return shown(look_up(arm, path), form)

        difference = NOTHING
        if arm["verdict"]:
            difference = cell("verdict.mean", "signed-points")
            if arm["verdict"]["low"] is not None:
                bounds = [cell(f"verdict.{bound}", "signed-points") for bound in ("low", "high")]
                difference += f" [{', '.join(bounds)}]"
        average = cell(metric.key, "mean-points")
        if arm["seeds"][1:]:
            average += f" ± {cell(metric.key, 'deviation-points')}"
        name = " ".join(arm["name"].split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
        row = [name, cell("seeds", "count"), average, cell(metric.second_key, "mean-points"), difference]
        word = cell("verdict.word", "text")
        if word == "equivalent":
            word += f" within ±{shown(results['statistics']['margin'], 'points')}"
        row += [cell("verdict.p", "p"), word, cell("cost.parameters", "integer")]
        lines.append([*row, cell("cost.flops", "giga"), cell("cost.milliseconds.1", "milliseconds")])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def long_table(results: dict) -> str:
    """CSV, one row for each arm and finished seed, all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metric = _metric(results)
    averages = (metric.key, metric.second_key, metric.last)
    writer.writerow(("arm", "role", "seed", *averages, "difference", "train_seconds"))
    baseline = results["arms"][_baseline(results)]
    for arm in results["arms"]:
        differences = {} if arm is baseline else paired(arm, baseline, metric.key)
        seconds = look_up(arm, "cost.train_seconds") or [None] * len(arm["seeds"])
        columns = (arm["seeds"], *(arm[key] for key in averages), seconds)
        for seed, *values, lasted in zip(*columns, strict=True):
            writer.writerow((arm["name"], arm["role"], seed, *values, differences.get(seed), lasted))
    return text.getvalue()


# The page ------------------------------------------------------------------------------------------------------------


class Page:
    """What the template asks for.

    Args:
        results: of a study.
        language: one of `LANGUAGES`.
    """

    def __init__(self, results: dict, language: str):
        phrases = json.loads((TEMPLATES / "phrases.json").read_text(encoding="utf-8"))
        self.phrases = {key: pair[language] for key, pair in phrases.items()}
        self.results, self.arms, self.language = results, results["arms"], language
        self.task, self.metric = _task(results), _metric(results)
        self.baseline = _baseline(results)
        # Many names would cover each other in a chart: numbers stand for them.
        self.keys = [str(1 + index) if len(self.arms) > 5 else "" for index in range(len(self.arms))]
        again = [
            index
            for index, arm in enumerate(self.arms)
            if arm["name"] == "A/A" and look_up(arm, "verdict.low") is not None
        ]
        self.noise = again[0] if again else None

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
        text = self.value(path, form).text
        return Markup('<span data-path="{}" data-format="{}">{}</span>').format(path, form, text)

    def name(self, text: object) -> Markup:
        """Something that is the same in every language."""
        breaking = Markup(re.sub("(?=[(@.])|(?<=,)", "<wbr>", escape(text)))  # long ones break where they have joints
        return Markup('<span class="name" translate="no">{}</span>').format(breaking)

    @staticmethod
    def gates(image: dict) -> str:
        """Where the gates of an image are, as a link from the page; "" if they were not drawn."""
        file, _, place = (image.get("gates") or "").partition("#")
        return file and f"{urllib.parse.quote(file)}#{urllib.parse.quote(place)}"

    @property
    def unsteady(self) -> bool:
        """Whether times were taken of which no ratio can be given."""
        costs = [arm["cost"] for arm in self.arms if arm["cost"]]
        return any(cost["milliseconds"] and not cost["latency_ratio"] for cost in costs)

    @property
    def linked(self) -> bool:
        """Whether gates were drawn of any image."""
        each = [arm["images"] for arm in self.arms if arm["images"]]
        return any(self.gates(image) for images in each for image in (*images["won"], *images["lost"]))

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

    def average(self, key: str) -> Markup:
        """The name of one of the two averages, as a heading."""
        name = self.metric.name if key == self.metric.key else self.metric.second
        return self.say(f"metric_{key}", name=name).strip()

    def judged(self) -> Markup:
        """The name of the average that decides, within a sentence."""
        return self.say(f"metric_{self.metric.key}", name=self.number("statistics.metric", "text"))

    def rehearsal(self) -> Markup:
        """What a reader of a rehearsal must know first."""
        return self.say("rehearsal", scale=self.number("scale", "per-cent"))

    def word(self, word: str) -> Markup:
        """The word of a verdict."""
        margin = self.number("statistics.margin", "points")
        return self.say(f"word_{word.replace(' ', '_')}", margin=margin)

    def verdict(self) -> tuple[Markup, Markup]:
        """The sentence that says it all: the word, and the numbers."""
        if not self.results["verdict"]:
            return self.say("verdict_missing"), self.say("verdict_missing_why")
        index = [arm["name"] for arm in self.arms].index(self.results["verdict"]["arm"])
        arm, at = self.arms[index], f"arms.{index}.verdict"
        end = self.end(index)
        numbers = "verdict_numbers_alone" if arm["verdict"]["low"] is None else "verdict_numbers"
        margin = self.number("statistics.margin", "points")
        word = arm["verdict"]["word"].replace(" ", "_")
        return self.say(f"verdict_{word}", arm=self.name(arm["name"]), margin=margin), self.say(
            numbers,
            metric=self.judged(),
            **{key: self.number(f"{at}.{key}", "signed-points") for key in ("mean", "low", "high")},
            coverage=self.number("statistics.level", "coverage"),
            p=self.number(f"{at}.p", "p-relation"),
            seeds=self.number(f"{at}.seeds", "integer"),
            end=self.say("verdict_end", end=end) if end else self.say("verdict_end_stop"),
        )

    def end(self, index: int) -> Markup:
        """What a reader of an arm's word must know beside it; empty where that is nothing."""
        found, at = self.arms[index]["verdict"], f"arms.{index}.verdict"
        end = found["word"].replace(" ", "_")
        if end in ("helps", "hurts"):
            if abs(found["mean"]) >= self.results["statistics"]["margin"]:
                return Markup("")
            end = "below_margin"
        elif end == "inconclusive":
            known = {"seeds": found["needed"], "images": found["more_images"]}.get(found["reason"], True)
            end = found["reason"] if known else "unknown"
        parts = {
            "margin": self.number("statistics.margin", "points"),
            "each": self.number("statistics.level", "half-per-cent"),
            "learned": self.number("statistics.learned", "points"),
            "needed": self.number(f"{at}.needed", "integer"),
            "more": self.number(f"{at}.more_images", "times"),
            "next": self.number(f"{at}.next", "integer"),
        }
        said = self.say(f"end_{end}", **parts)
        return said if found["final"] or end == "preliminary" else said + self.say("end_next", **parts)

    def others(self) -> Iterator[tuple[int, dict]]:
        """All arms but the baseline, and their places."""
        return ((index, arm) for index, arm in enumerate(self.arms) if index != self.baseline)

    def having(self, key: str) -> list[tuple[int, dict]]:
        """The arms that have what not every study has, and their places."""
        return [(index, arm) for index, arm in enumerate(self.arms) if arm.get(key) not in (None, [])]

    def beside(self, group: str, index: int, place: int) -> int | None:
        """Where the baseline has the class or size that an arm has at a place."""
        name = self.arms[index][group][place]["name"]
        names = [row["name"] for row in self.arms[self.baseline][group]]
        return names.index(name) if name in names else None

    def forest(self) -> Markup:
        """Each arm's difference."""
        effects = []
        for index, arm in self.others():
            at, found = f"arms.{index}.verdict", arm["verdict"]
            seeds = found["differences"] if found else paired(arm, self.arms[self.baseline], self.metric.key).values()
            low, high = (self.value(f"{at}.{bound}", "signed-points") for bound in ("low", "high"))
            bounded = bool(found) and found["low"] is not None
            label = [self.value(f"{at}.mean", "signed-points"), *((" [", low, ", ", high, "]") if bounded else ())]
            interval = [_points(found[key]) for key in ("mean", "low", "high")] if found else ()
            dots = [100 * difference for difference in seeds]
            effects.append(charts.Effect(arm["name"], arm["role"], *interval, seeds=dots, label=label))
        again = None if self.noise is None else self.arms[self.noise]["verdict"]
        noise = again and (100 * again["low"], 100 * again["high"])
        ends = (self.phrases["worse"], self.phrases["better"])
        margin = 100 * self.results["statistics"]["margin"]
        return Markup(
            charts.forest(effects, margin, noise, self.phrases["forest_title"], ends, self.phrases["points_unit"])
        )

    def cost_benefit(self) -> tuple[Markup, str] | None:
        """Difference against latency where all arms have one, otherwise against FLOPs; and which."""
        judged = [
            (index, arm)
            for index, arm in enumerate(self.arms)
            if arm["cost"] and (arm["verdict"] or index == self.baseline)
        ]
        for key in ("latency_ratio", "flops"):
            costs = {index: arm["cost"][key] for index, arm in judged}
            if len(judged) < 2 or None in costs.values():
                continue
            effects = []
            for index, arm in judged:
                cost = costs[index] if key == "latency_ratio" else [costs[index] / 1e9]
                found = arm["verdict"] or {"mean": 0.0}
                interval = [_points(found.get(key)) for key in ("mean", "low", "high")]
                name = self.keys[index] or arm["name"]
                effects.append(charts.Effect(name, arm["role"], *interval, cost=cost))
            words = [self.phrases[word] for word in ("cost_title", "cost_down", f"cost_{key}")]
            margin = 100 * self.results["statistics"]["margin"]
            return Markup(charts.cost_benefit(effects, margin, *words, unit="×" if key == "latency_ratio" else "")), key
        return None

    def learning(self) -> list[tuple[str, list[Markup]]]:
        """For each arm its name and two charts, with the baseline for comparison."""
        panels = []
        for _, arm in [*self.others()] or [(self.baseline, self.arms[self.baseline])]:
            drawn = []
            plots = ((self.metric.key, "learning_metric", 100, 170), ("loss", "learning_loss", 1, 110))
            for key, phrase, factor, height in plots:
                axis = self.say(phrase, metric=self.average(self.metric.key)).unescape()
                pair = [self.arms[self.baseline], *([arm] if arm["role"] != "baseline" else [])]
                curves = [curve for each in pair if (curve := _curve(each, key, factor))]
                if any(curve.name == arm["name"] for curve in curves):
                    drawn.append(Markup(charts.learning(curves, f"{arm['name']}: {axis}", axis, height)))
            if drawn:
                panels.append((arm["name"], drawn))
        return panels

    @functools.cached_property
    def reach(self) -> float:
        """Ends of the scale on which all classes and sizes are drawn."""
        rows = [row for _, arm in self.others() for row in (*arm["classes"], *arm["sizes"])]
        differences = [abs(row["difference"]) for row in rows if row["difference"] is not None]
        bounds = [abs(row[key]) for row in rows for key in ("low", "high") if row[key] is not None]
        most = max(differences, default=0.0)
        return max(most, min(2.5 * most, max(bounds, default=0.0))) or 1.0

    def glyph(self, row: dict) -> Markup:
        """The difference of one class or size."""
        known = row["difference"] is not None
        return Markup(charts.glyph(row["difference"], row["low"], row["high"], self.reach) if known else "")


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _curve(arm: dict, key: str, factor: float) -> charts.Curve | None:
    """Mean, least and most over seeds at each epoch; None where nothing is known."""
    if not arm["curves"] or not arm["curves"][key]:
        return None
    columns = zip(arm["curves"]["epochs"], zip(*arm["curves"][key], strict=False), strict=False)
    points = []
    for epoch, values in columns:  # as far as all seeds go; a loss that is not a number is missing
        if known := [factor * value for value in values if value is not None and math.isfinite(value)]:
            points.append((epoch, statistics.fmean(known), min(known), max(known)))
    return charts.Curve(arm["name"], arm["role"], *zip(*points, strict=True)) if points else None
