"""Results of studies that nobody ran, in every variant that a report may meet, and a reader of its pages."""

import functools
import json
import math
import statistics
from decimal import Decimal
from html.parser import HTMLParser

import numpy as np

from foveal.evidence import TASKS
from foveal.pages import charts
from foveal.report import page as report
from foveal.results import StudyResults
from foveal.results import read as results_of
from foveal.results.schema import SCHEMA_VERSION

LANGUAGES = report.LANGUAGES
PHRASES = json.loads((report.TEMPLATES / "phrases.json").read_text(encoding="utf-8"))


# Results -------------------------------------------------------------------------------------------------------------


def verdict(outcome, differences, low=None, high=None, p=0.4375, **more):
    mean, seeds = statistics.fmean(differences), len(differences)
    found = {
        "outcome": outcome,
        "reason": "",
        "final": True,
        "mean": mean,
        "middle": mean - 0.001,
        "seeds": seeds,
        "deviation": statistics.stdev(differences),
        "better": 0.7312,
        "better_low": 0.31,
        "better_high": 0.93,
        "low": mean - 0.0121 if low is None else low,
        "high": mean + 0.0124 if high is None else high,
        "p": p,
        "next": None,
        "needed": None,
        "more_images": None,
        "differences": differences,
        "pairs": [*range(seeds)],
    }
    if outcome == "inconclusive":
        found |= {"reason": "seeds", "needed": 19}
    if outcome == "preliminary":
        found |= {"final": False, "low": None, "high": None, "p": None, "next": 6}
    return found | more


def arm(name, role, shift, index, seeds=6, classes=("RBC", "WBC", "Platelets")):
    """An arm whose AP differs from the baseline's by about `shift`; other numbers than any other arm's."""
    random = np.random.default_rng(index)
    noise = random.normal(0, 0.008, 6)
    base = np.array([0.512, 0.4987, 0.5203, 0.5061, 0.5154, 0.4926])
    values = (base + (shift + noise if index else 0))[:seeds].tolist()
    differences = (np.array(values) - base[:seeds]).tolist()
    judged, outcome = index > 0 and seeds > 1, "inconclusive" if seeds == 6 else "preliminary"
    epochs = [*range(1, 9)]
    rise = [0.5 * (1 - math.exp(-epoch / 3)) for epoch in epochs]

    def rows(names, more):
        found = []
        for place, label in enumerate(names):
            average, gap = float(random.uniform(0.3, 0.8)), float(random.normal(shift, 0.01))
            bounds = (gap, gap - 0.0153, gap + 0.0142) if judged else (None,) * 3
            keys = ("name", "average", "difference", "low", "high")
            found.append(dict(zip(keys, (label, average, *bounds), strict=True)))
            found[-1] |= more(place)
        return found

    def images(sign):
        scores = [(0.61 + 0.013 * i, 0.61 + 0.013 * i + sign * (0.12 - 0.011 * i)) for i in range(5)]
        return [
            {"name": f"BloodImage_{17 * i + 7:05}.jpg", "baseline": a, "arm": b, "difference": b - a}
            for i, (a, b) in enumerate(scores)
        ]

    return {
        "name": name,
        "role": role,
        "seeds": [*range(seeds)],
        "control": {"A/A": "A/A", "placebo@neck": "placebo"}.get(name, "other") if role == "control" else None,
        "scores": {
            "map": values,
            "map50": [value + 0.3 for value in values],
            "map_last": [value - 0.004 for value in values],
        },
        "verdict": verdict(outcome, differences) if judged else None,
        "verdict_last": verdict(outcome, [d - 0.001 for d in differences]) if judged else None,
        "over_placebo": {"mean": 0.0013, "low": -0.0102, "high": 0.0127} if judged and role == "treatment" else None,
        "classes": rows(classes, lambda place: {}),
        "sizes": rows(("small", "medium", "large"), lambda place: {"objects": (41, 612, 1292)[place]}),
        "curves": {
            "epochs": epochs,
            "metric": [[value + 0.002 * s + shift for value in rise] for s in range(seeds)],
            "loss": [[5.2 - 4 * value + 0.03 * s - shift for value in rise] for s in range(seeds)],
        },
        "images": {"won": images(1), "lost": images(-1), "better": 30, "worse": 25, "equal": 17, "no_gates": ""}
        if judged and role == "treatment"
        else None,
        "cost": {
            "parameters": 2590035 + 1344 * index,
            "flops": 6543000000 + 13000000 * index,
            "image_size": 640,
            "milliseconds": [30.1 + index, 31.0 + index, 32.2 + index],
            "latency_ratio": [1.0 + 0.02 * index, 1.0 + 0.03 * index, 1.0 + 0.05 * index],
            "runtime": "torch 2.15.0, cpu, batch 1",
            "peak_bytes": 1300000000 + 9000000 * index,
            "train_seconds": [61.0 + index + s for s in range(seeds)],
        },
    }


def complete(**more):
    """Results of a study of four arms whose treatment is inconclusive."""
    arms = [
        arm("baseline", "baseline", 0, 0, **more),
        arm("A/A", "control", 0.001, 1, **more),
        arm("ema@neck", "treatment", 0.003, 2, **more),
        arm("placebo@neck", "control", 0.002, 3, **more),
    ]
    check = ("check", "ok", "detail")
    fairness = [
        ("batches", True, "same batches at each seed in 4 arms, 8 epochs; different across seeds"),
        ("pretrained", True, "448/499 tensors kept in every arm"),
        ("agreement", True, "largest difference 3e-16"),
        ("split", None, "no test split: judged on val, on which best.pt was chosen"),
    ]
    treatment = arms[2]["verdict"]
    return {
        "schema_version": SCHEMA_VERSION,
        "foveal": "0.1.0",
        "task": "detect",
        "created": "2026-11-22T22:00:00+00:00",
        "name": "bccd-smoke",
        "complete": True,
        "cells": {"planned": 24, "finished": 24, "failed": []},
        "plan": {
            "model": "yolo11n.pt",
            "data": "bccd.yaml",
            "arms": [each["name"] for each in arms],
            "seeds": [0, 1, 2, 3, 4, 5],
            "split": "test",
            "margin": 0.005,
            "train": {"epochs": 8, "imgsz": 160, "optimizer": "AdamW", "lr0": 0.002},
        },
        "commands": ["foveal study run studies/bccd-smoke/plan.yaml", "foveal study report studies/bccd-smoke"],
        "data": {
            "digest": "9f3b5c77a1",
            "names": [row["name"] for row in arms[0]["classes"]],
            "split": "test",
            "images": 72,
            "objects": 1945,
        },
        "versions": {
            "foveal": "0.1.0",
            "ultralytics": "8.4.190",
            "torch": "2.15.0",
            "numpy": "2.4.6",
            "python": "3.11.7",
        },
        "machine": {"processor": "an ordinary processor", "cores": 2, "gpu": None, "system": "Linux 6.1 x86_64"},
        "statistics": {"metric": "mAP50-95", "level": 0.05, "margin": 0.005, "resamples": 2000, "treatments": 1}
        | {"looks": [6], "learned": 0.02},
        "verdict": treatment and {"arm": "ema@neck", "outcome": treatment["outcome"]},
        "fairness": [dict(zip(check, row, strict=True)) for row in fairness],
        "arms": arms,
    }


def judged(outcome, shift, low, high, p=0.03125, **more):
    """Results with another verdict; the differences are about `shift`."""
    results = complete()
    results["arms"][2] = treatment = arm("ema@neck", "treatment", shift, 2)
    treatment["verdict"] = verdict(outcome, treatment["verdict"]["differences"], low, high, p, **more)
    results["verdict"]["outcome"] = outcome
    return results


def half_finished():
    results = complete()
    results["arms"][2] = arm("ema@neck", "treatment", 0.003, 2, seeds=3)
    results["arms"][3] = arm("placebo@neck", "control", 0.002, 3, seeds=0)
    results["arms"][3] |= {"classes": [], "sizes": [], "cost": None}
    results["arms"][3]["curves"] = {"epochs": [], "metric": [], "loss": []}
    results |= {"complete": False}
    failed = [
        {"arm": "ema@neck", "seed": 3, "reason": "killed by signal 9"},
        {"arm": "placebo@neck", "seed": 0, "reason": "loss is not finite at epoch 2"},
    ]
    results["cells"] = {"planned": 24, "finished": 15, "failed": failed}
    return results


def unfair():
    results = complete()
    results["fairness"] += [
        {"check": "evaluator", "ok": False, "detail": "arms were judged at conf 0.001 and 0.25"},
        {"check": "moon", "ok": False, "detail": "a check that no table knows"},
    ]
    return results


def without_costs():
    results = complete()
    for each in results["arms"]:
        each["cost"] |= dict.fromkeys(("milliseconds", "latency_ratio", "peak_bytes", "runtime"))
    results["arms"][1]["cost"] = None
    return results


def busy():
    """The models were timed on a machine that did other things, too."""
    results = complete()
    results["arms"][2]["cost"]["latency_ratio"] = None
    return results


def hostile():
    name = "<script>alert(1)</script>\"'&{{ 7 * 7 }}|`{arm}"
    results = complete(classes=(name, "<img src=x onerror=alert(1)>", "]]></svg>"))
    results["name"] = results["verdict"]["arm"] = results["arms"][2]["name"] = name
    results["arms"][2]["images"]["won"][0]["name"] = name
    results["plan"] |= {"model": name, "data": "</style><b>"}
    results["commands"].append(f"echo {name}")
    results["machine"]["processor"] = name
    results["fairness"].append({"check": "data", "ok": False, "detail": name})
    results["complete"] = False
    results["cells"]["failed"] = [{"arm": name, "seed": 1, "reason": name}]
    return results


def many_classes():
    return complete(classes=tuple(f"a class of rather many words {i}" for i in range(80)))


def many_arms():
    results = complete()
    for index in range(4, 11):
        results["arms"].append(arm(f"cbam(reduction={index})@backbone.P4,P5", "treatment", 0.004 * (index - 7), index))
    results["arms"].append(arm("yolo11s.pt", "control", 0.06, 11))
    results["arms"][5]["verdict"] |= {"low": -0.4, "high": 0.4}
    results["statistics"]["treatments"] = 8
    return results


def one_pair():
    results = complete(seeds=1)
    results |= {"complete": False}
    results["cells"] |= {"finished": 4}
    return results


def one_epoch():
    """Also: losses that are not numbers, and intervals without an end."""
    results = complete(seeds=2)
    for each in results["arms"]:
        curves = each["curves"]
        curves["epochs"] = [1]
        curves["metric"] = [run[:1] for run in curves["metric"]]
        curves["loss"] = [[None], [math.nan]]
    for each in results["arms"][1:3]:
        each["verdict"] |= dict.fromkeys(("low", "high"))
    return results


def another_level():
    results = judged("helps", 0.02, 0.0111, 0.0312, p=0.003)
    results["statistics"] |= {"level": 0.01, "margin": 0.0125, "resamples": 500}
    return results


def another_look():
    """A study with planned looks, of which the first gave no answer."""
    results = judged("inconclusive", 0.004, -0.002, 0.0124, p=0.2, final=False, next=8)
    results["statistics"]["looks"] = [6, 8, 12]
    return results


def nothing_yet():
    results = complete()
    results["arms"] = [arm("baseline", "baseline", 0, 0, seeds=0)]
    results["arms"][0] |= {"classes": [], "sizes": [], "curves": None, "cost": None}
    results |= {"complete": False, "verdict": None, "fairness": []}
    results["cells"] |= {"finished": 0}
    return results


def classifiers(**more):
    """The same numbers as of a study of classifiers."""
    results = complete(**more) | {"task": "classify"}
    detect, classify = (TASKS[task].metric for task in ("detect", "classify"))
    keys = {getattr(detect, key): getattr(classify, key) for key in ("key", "second_key", "last")}
    for index, each in enumerate(results["arms"]):
        each |= {"sizes": [], "scores": {keys[key]: values for key, values in each["scores"].items()}}
        for image in (each["images"] or {"won": []})["won"]:
            image["name"] = f"Platelets/{image['name']}"
        tested = [
            {"seed": seed, "won": 1040 + 7 * seed + index, "lost": 951 - seed, "p": 0.0467 / (1 + 60 * seed)}
            for seed in each["seeds"]
        ]
        each["mcnemar"] = tested if index else None
    results["data"]["objects"] = None
    results["statistics"] |= {"metric": classify.name, "second": classify.second}
    return results


def shapes(task, by, **more):
    """The same numbers as of a study of masks or key points, judged by one of its metrics, the other beside it."""
    results = complete(**more) | {"task": task}
    decides, other = TASKS[task].judged(by).metrics
    keys = {old: getattr(decides, key) for key, old in (("key", "map"), ("second_key", "map50"), ("last", "map_last"))}
    for index, each in enumerate(results["arms"]):
        beside = [[value * 1.07 for value in each["scores"][key]] for key in ("map", "map50")]
        scores = {keys[key]: values for key, values in each["scores"].items()}
        each["scores"] = scores | dict(zip((other.key, other.second_key), beside, strict=True))
        average = statistics.fmean(beside[0]) if beside[0] else None
        bounds = (0.0123 * index, 0.0023 * index, 0.0323 * index) if index else (None,) * 3
        part = dict(zip(("name", "average", "difference", "low", "high"), (other.name, average, *bounds), strict=True))
        each["beside"] = [part]
    results["statistics"] |= {"metric": decides.name, "second": decides.second}
    return results


def beside_a_paper():
    results = classifiers()
    notes = ["The paper trains 200 epochs & says nothing of seeds.", "图 5 与表 2 的数字不同。"]
    results["paper"] = {"source": "Ouyang et al. 2023, <table 2>", "metric": "top-1 accuracy", "notes": notes}
    figures = ((0.7726, None), (None, None), (0.8069, 0.0343), (0.76, -0.0126))
    for each, (figure, difference) in zip(results["arms"], figures, strict=True):
        each |= {"paper": figure, "paper_difference": difference}
    return results


def rehearsal():
    results = beside_a_paper() | {"scale": 0.07}
    results["plan"] |= {"rehearsal": 0.07}
    return results


def a_paper_of_detectors():
    results = complete() | {"paper": {"source": "a paper", "notes": []}}
    results["arms"][0] |= {"paper": 0.273, "paper_difference": None}
    results["arms"][2] |= {"paper": 0.273, "paper_difference": 0.0}
    return results


def sliced(results=None):
    """By two columns; the second has a slice of few images, and one on which nothing can be averaged."""
    results = results or complete()
    cut = [
        ("day/night", "day", 41),
        ("day/night", "night", 31),
        ("camera & lens", "<north>", 63),
        ("camera & lens", "s", 9),
    ]
    random = np.random.default_rng(11)
    for each in results["arms"]:
        each["slices"] = []
        for column, name, images in cut:
            gap = float(random.normal(0.01, 0.02)) if each["verdict"] else None
            few = images < 10 or not each["verdict"]
            bounds = dict.fromkeys(("low", "high", "p")) if few else {"low": gap - 0.02, "high": gap + 0.02, "p": 0.31}
            objects = None if results["task"] == "classify" else 27 * images
            row = {"column": column, "name": name, "images": images, "objects": objects, "difference": gap}
            each["slices"].append(row | bounds | {"average": None if images == 9 else float(random.uniform(0.3, 0.8))})
    results["slicing"] = {"file": "images.csv", "digest": "0a1b2c", "outside": 3, "fewest": 10}
    results["plan"]["slices"] = "images.csv"
    return results


def with_errors(results=None):
    results, random = results or complete(), np.random.default_rng(12)
    for each in results["arms"]:
        seeds, both = len(each["seeds"]), len(each["seeds"]) if each["verdict"] else 0
        each["errors"] = [
            {
                "name": name,
                "costs": random.uniform(0, 0.3, seeds).tolist(),
                "differences": random.normal(0, 0.02, both).tolist(),
            }
            for name in ("classification", "localisation", "both", "duplicate", "background", "missed")
        ]
    return results


VARIANTS = {
    "complete": complete,
    "sliced": sliced,
    "sliced classifiers": lambda: sliced(classifiers()),
    "sliced, half finished": lambda: sliced(half_finished()),
    "with errors": with_errors,
    "with errors, half finished": lambda: with_errors(half_finished()),
    "half finished": half_finished,
    "unfair": unfair,
    "helps": lambda: judged("helps", 0.02, 0.0111, 0.0312),
    "helps, below the margin": lambda: judged("helps", 0.0024, 0.0001, 0.0052),
    "hurts": lambda: judged("hurts", -0.02, -0.0312, -0.0111),
    "equivalent": lambda: judged("equivalent", 0, -0.0042, 0.0048, p=0.84375),
    "more images": lambda: judged(
        *("inconclusive", 0, -0.0232, 0.0243), p=0.0004, reason="images", needed=None, more_images=12.3
    ),
    "no way": lambda: judged("inconclusive", 0, -0.0232, 0.0243, p=0.7, needed=None),
    "one run": lambda: judged("inconclusive", 0.01, 0.0002, 0.0243, p=0.04, reason="run", needed=None),
    "another look": lambda: another_look(),
    "nothing learned": lambda: judged("nothing learned", 0.001, -0.0001, 0.0021, p=0.09),
    "never opened": lambda: judged("never opened", 0.0001, -0.0001, 0.0003, p=0.4),
    "without costs": without_costs,
    "busy": busy,
    "hostile": hostile,
    "many classes": many_classes,
    "many arms": many_arms,
    "one pair": one_pair,
    "another level": another_level,
    "one epoch": one_epoch,
    "nothing yet": nothing_yet,
    "classifiers": classifiers,
    "hundred classes": lambda: classifiers(classes=tuple(f"class {i}" for i in range(100))),
    "one pair of classifiers": lambda: classifiers(seeds=1),
    "masks": lambda: shapes("segment", "mask"),
    "boxes of masks": lambda: shapes("segment", "box"),
    "key points": lambda: shapes("pose", "keypoints"),
    "rotated boxes": lambda: complete() | {"task": "obb"},
    "beside a paper": beside_a_paper,
    "rehearsal": rehearsal,
    "a paper of detectors": a_paper_of_detectors,
}


VOID = {"meta", "br", "wbr"}


class Reader(HTMLParser):
    """Elements in their order, their texts, and whether all that opens closes.

    `elements` are (tag, attributes, text); `texts` are (words, tags and classes around them, attributes around them).
    """

    def __init__(self, source: str):
        super().__init__()
        self.source = source
        self.open, self.elements, self.texts = [], [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        element = [tag, {name: value or "" for name, value in attributes}, ""]
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data
        around = {name for tag, own, _ in self.open for name in (tag, *own.get("class", "").split())}
        self.texts.append((data, around, {name: value for _, own, _ in self.open for name, value in own.items()}))

    def all(self, *tags):
        return [element for element in self.elements if element[0] in tags]

    def words(self) -> str:
        """What is read by eye."""
        return " ".join("".join(text for text, around, _ in self.texts if not around & {"style"}).split())


def first_version(results):
    """The same results as releases wrote them that knew no schema version; what is not known they left out."""
    metric = TASKS[results["task"]].metric
    old = {key: value for key, value in results.items() if key != "schema_version"}
    old["verdict"] = old["verdict"] and {"arm": old["verdict"]["arm"], "word": old["verdict"]["outcome"]}
    if old["task"] == "detect":
        del old["task"]
    old["arms"] = []
    for each in results["arms"]:
        arm = {key: value for key, value in each.items() if key not in ("control", "scores")} | each["scores"]
        for key in ("verdict", "verdict_last"):
            arm[key] = arm[key] and {"word": arm[key]["outcome"], **arm[key]}
        for key in ("classes", "sizes"):
            arm[key] = [{metric.part: part["average"], **part} for part in arm[key]]
        if arm["curves"]:
            arm["curves"] = {metric.key: arm["curves"]["metric"], **arm["curves"]}
        for part in (*arm["classes"], *arm["sizes"], *filter(None, (arm[key] for key in ("verdict", "verdict_last")))):
            part.pop("outcome", None)
            part.pop("average", None)
        old["arms"].append(arm)
    return old


def page(results, language="en") -> report.Page:
    return report.Page(results if isinstance(results, StudyResults) else results_of(results), language)


def read(results, language="en") -> Reader:
    return Reader(page(results, language).render())


@functools.cache
def page_of(variant, language="en") -> Reader:
    return read(VARIANTS[variant](), language)


def written(value, form):
    """The formats once more, in other words."""

    def places(number, digits, sign=""):
        text = format(Decimal(number).quantize(Decimal(1).scaleb(-digits)), f"{sign},f")
        return text.strip("+-") if Decimal(text.replace(",", "")) == 0 else text.replace("-", "\u2212")

    def plain(number, least=0):
        whole, _, digits = format(Decimal(number * 100).quantize(Decimal("0.0001")), "f").partition(".")
        digits = digits.rstrip("0").ljust(least, "0")
        return f"{whole}.{digits}".rstrip(".").replace("-", "\u2212")

    def p(number):
        return "< 0.001" if number < 0.001 else places(number, 3)

    def lines(plan, indent=0):
        for key, inner in plan.items():
            text = "" if isinstance(inner, dict) else " " + json.dumps(inner, ensure_ascii=False)
            yield f"{' ' * indent}{key}:{text}"
            yield from lines(inner, indent + 2) if isinstance(inner, dict) else ()

    if value is None or value == []:
        return "\u2013"
    return {
        "text": lambda: str(value),
        "yaml": lambda: "\n".join(lines(value)),
        "integer": lambda: places(value, 0),
        "count": lambda: str(len(value)),
        "points": lambda: places(value * 100, 1),
        "signed-points": lambda: places(value * 100, 2 if 0 < abs(value) < 0.0005 else 1, "+"),
        "mean-points": lambda: places(sum(value) / len(value) * 100, 1),
        "signed-mean-points": lambda: places(sum(value) / len(value) * 100, 1, "+"),
        "deviation-points": lambda: places(float(np.std(value, ddof=1)) * 100, 1),
        "printed-points": lambda: plain(value, 1),
        "signed-printed-points": lambda: ("+" if value > 0 else "") + plain(value, 1),
        "per-cent": lambda: plain(value),
        "whole-per-cent": lambda: places(value * 100, 0),
        "half-per-cent": lambda: f"{value / 2:.1%}".removesuffix("%"),
        "times": lambda: places(value, 1 if value < 10 else 0),
        "listed": lambda: str(value).strip("[]"),
        "score": lambda: places(value, 2),
        "signed-score": lambda: places(value, 2, "+"),
        "p": lambda: p(value),
        "p-relation": lambda: p(value) if value < 0.001 else "= " + p(value),
        "coverage": lambda: str(round(100 - 100 * value)),
        "too-few-seeds": lambda: str(max(n for n in range(1, 60) if 2.0 ** (1 - n) > value)),
        "giga": lambda: places(value / 1e9, 3),
        "mebibytes": lambda: places(value / 1048576, 0),
        "milliseconds": lambda: places(value, 2 if value < 10 else 1),
        "ratio": lambda: places(value, 2) + "×",
        "mean-minutes": lambda: places(sum(value) / len(value) / 60, 1),
    }[form]()


def at(results, path):
    value = results
    for step in path.split("."):
        try:
            value = value[int(step) if isinstance(value, list) else step]
        except (TypeError, KeyError, IndexError):
            return None
    return value


def check_numbers(results, numbers):
    """Numbers are (path, format, text) of all elements that name a path."""
    assert len(numbers) > 20
    wrong = [(*number, want) for number in numbers if number[2] != (want := written(at(results, number[0]), number[1]))]
    assert not wrong


def numbers_of(page):
    return [(own["data-path"], own["data-format"], text) for _, own, text in page.elements if "data-path" in own]


def marks(source, tag, kind):
    return [own for _, own, _ in Reader(source).all(tag) if kind in own.get("class", "").split()]


def forest(*effects, margin=0.5, noise=None):
    return charts.forest(effects, margin, noise, "title", ("worse", "better"), "points")
