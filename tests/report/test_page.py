"""The report: what it says, that each number on it is one of the results, and what a browser makes of it."""

import copy
import csv
import functools
import io
import itertools
import json
import math
import re
import shutil
import statistics
import subprocess
from decimal import Decimal
from html.parser import HTMLParser

import numpy as np
import pytest

from foveal import UserError
from foveal.evidence import METRICS
from foveal.pages import charts, html, typeset
from foveal.report import page as report
from foveal.results import older
from foveal.verdict import interval, variances
from helpers import GOLDEN

LANGUAGES = report.LANGUAGES
PHRASES = json.loads((report.TEMPLATES / "phrases.json").read_text(encoding="utf-8"))


# Results -------------------------------------------------------------------------------------------------------------


def verdict(word, differences, low=None, high=None, p=0.4375, **more):
    mean, seeds = statistics.fmean(differences), len(differences)
    found = {
        "word": word,
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
    if word == "inconclusive":
        found |= {"reason": "seeds", "needed": 19}
    if word == "preliminary":
        found |= {"final": False, "low": None, "high": None, "p": None, "next": 6}
    return found | more


def arm(name, role, shift, index, seeds=6, classes=("RBC", "WBC", "Platelets")):
    """An arm whose AP differs from the baseline's by about `shift`; other numbers than any other arm's."""
    random = np.random.default_rng(index)
    noise = random.normal(0, 0.008, 6)
    base = np.array([0.512, 0.4987, 0.5203, 0.5061, 0.5154, 0.4926])
    values = (base + (shift + noise if index else 0))[:seeds].tolist()
    differences = (np.array(values) - base[:seeds]).tolist()
    judged, word = index > 0 and seeds > 1, "inconclusive" if seeds == 6 else "preliminary"
    epochs = [*range(1, 9)]
    rise = [0.5 * (1 - math.exp(-epoch / 3)) for epoch in epochs]

    def rows(names, more):
        found = []
        for place, label in enumerate(names):
            ap, gap = float(random.uniform(0.3, 0.8)), float(random.normal(shift, 0.01))
            bounds = (gap, gap - 0.0153, gap + 0.0142) if judged else (None,) * 3
            found.append(dict(zip(("name", "ap", "difference", "low", "high"), (label, ap, *bounds), strict=True)))
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
        "map": values,
        "map50": [value + 0.3 for value in values],
        "map_last": [value - 0.004 for value in values],
        "verdict": verdict(word, differences) if judged else None,
        "verdict_last": verdict(word, [d - 0.001 for d in differences]) if judged else None,
        "over_placebo": {"mean": 0.0013, "low": -0.0102, "high": 0.0127} if judged and role == "treatment" else None,
        "classes": rows(classes, lambda place: {}),
        "sizes": rows(("small", "medium", "large"), lambda place: {"objects": (41, 612, 1292)[place]}),
        "curves": {
            "epochs": epochs,
            "map": [[value + 0.002 * s + shift for value in rise] for s in range(seeds)],
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
        "foveal": "0.1.0",
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
        "verdict": treatment and {"arm": "ema@neck", "word": treatment["word"]},
        "fairness": [dict(zip(check, row, strict=True)) for row in fairness],
        "arms": arms,
    }


def judged(word, shift, low, high, p=0.03125, **more):
    """Results with another verdict; the differences are about `shift`."""
    results = complete()
    results["arms"][2] = treatment = arm("ema@neck", "treatment", shift, 2)
    treatment["verdict"] = verdict(word, treatment["verdict"]["differences"], low, high, p, **more)
    results["verdict"]["word"] = word
    return results


def half_finished():
    results = complete()
    results["arms"][2] = arm("ema@neck", "treatment", 0.003, 2, seeds=3)
    results["arms"][3] = arm("placebo@neck", "control", 0.002, 3, seeds=0)
    results["arms"][3] |= {"classes": [], "sizes": [], "cost": None}
    results["arms"][3]["curves"] = {"epochs": [], "map": [], "loss": []}
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
        curves["map"] = [run[:1] for run in curves["map"]]
        curves["loss"] = [[None], [math.nan]]
    for each in results["arms"][1:3]:
        each["verdict"] |= dict.fromkeys(("low", "high"))
    return results


def another_level():
    results = judged("helps", 0.02, 0.0111, 0.0312, p=0.003)
    results["statistics"] |= {"level": 0.01, "margin": 0.0125, "resamples": 500}
    return results


def another_look():
    """A study with planned looks, of which the first gave no word."""
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
    detect, classify = METRICS["detect"], METRICS["classify"]
    keys = {getattr(detect, key): getattr(classify, key) for key in ("key", "second_key", "last", "part")}
    for index, each in enumerate(results["arms"]):
        results["arms"][index] = each = {keys.get(key, key): value for key, value in each.items()} | {"sizes": []}
        each["curves"] = {keys.get(key, key): value for key, value in each["curves"].items()}
        each["classes"] = [{keys.get(key, key): value for key, value in row.items()} for row in each["classes"]]
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
    results = complete() | {"task": "detect", "paper": {"source": "a paper", "notes": []}}
    results["arms"][0] |= {"paper": 0.273, "paper_difference": None}
    results["arms"][2] |= {"paper": 0.273, "paper_difference": 0.0}
    return results


VARIANTS = {
    "complete": complete,
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
    "beside a paper": beside_a_paper,
    "rehearsal": rehearsal,
    "a paper of detectors": a_paper_of_detectors,
}


# What a page holds ---------------------------------------------------------------------------------------------------

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


def read(results, language="en") -> Reader:
    return Reader(report.Page(results, language).render())


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


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_number_is_one_of_the_results(variant, language):
    check_numbers(VARIANTS[variant](), numbers_of(page_of(variant, language)))


def test_every_format_is_in_use():
    assert {form for variant in VARIANTS for _, form, _ in numbers_of(page_of(variant))} == typeset.FORMS.keys()


def test_the_numbers_that_matter_are_there():
    results = complete()
    shown = {path for path, *_ in numbers_of(read(results))}
    wanted = {f"arms.{i}.verdict.{key}" for i in (1, 2, 3) for key in ("middle", "better", "better_low", "better_high")}
    wanted |= (
        {"statistics.looks"}
        | {f"versions.{key}" for key in results["versions"]}
        | {f"machine.{key}" for key in results["machine"]}
    )
    wanted |= {"statistics.margin", "statistics.level", "statistics.resamples", "data.digest", "data.images", "plan"}
    wanted |= {"created", "commands.0", "commands.1", "arms.2.images.better", "arms.2.images.worse"}
    wanted |= {
        f"arms.2.images.{side}.{i}.{key}" for side in ("won", "lost") for i in range(5) for key in ("arm", "difference")
    }
    for i in range(4):
        wanted |= {f"arms.{i}.{key}" for key in ("seeds", "map", "map50")}
        wanted |= {f"arms.{i}.cost.{key}" for key in ("parameters", "flops", "peak_bytes", "train_seconds")}
        wanted |= {f"arms.{i}.cost.milliseconds.{quartile}" for quartile in range(3)} | {
            f"arms.{i}.cost.latency_ratio.1"
        }
        wanted |= {f"arms.{i}.{group}.{row}.ap" for group in ("classes", "sizes") for row in range(3)}
    for i in range(1, 4):
        wanted |= {f"arms.{i}.verdict.{key}" for key in ("mean", "low", "high", "p")} | {f"arms.{i}.verdict_last.mean"}
        wanted |= {f"arms.{i}.{group}.{row}.low" for group in ("classes", "sizes") for row in range(3)}
    wanted |= {"arms.2.verdict.seeds", "arms.2.verdict.needed", "arms.2.over_placebo.low"}
    assert wanted <= shown


def prose(variant, language):
    """All words on the page but numbers of the results, names and marks on axes."""
    results, page = VARIANTS[variant](), page_of(variant, language)
    texts = [
        text
        for text, around, own in page.texts
        if not around & {"style", "tick", "key"} and "data-path" not in own and own.get("translate") != "no"
    ]
    texts += [own["aria-label"] for _, own, _ in page.elements if "aria-label" in own]
    names = sorted([results["name"], *(arm["name"] for arm in results["arms"])], key=len, reverse=True)
    return re.sub("|".join(map(re.escape, names)), "", "\n".join(texts))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("variant", ["many arms", "rehearsal"])
def test_no_number_stands_outside_such_an_element(variant, language):
    known = r"mAP50(-95)?|Top-[15]\b|\bF1\b|IoU 0\.5|(confidence|置信度) 0\.25|\(?0 (to|至) 100|基线 = 1|baseline = 1"
    assert not re.findall(r".*\d.*", re.sub(known, "", prose(variant, language)))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_page_asks_for_nothing(variant, language):
    page = page_of(variant, language)
    names = {name for _, own, _ in page.elements for name in own}
    assert not [
        n for n in names if n.startswith("on") or n in ("src", "href", "xlink:href", "srcset", "action", "style")
    ]
    assert not {tag for tag, *_ in page.elements} & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not re.search(r"<(?![a-z/!])|&(?!#?\w+;)", page.source)
    (style,) = page.all("style")
    assert not re.search(r"url\(|@import|https?:", style[2])
    if variant != "hostile":
        assert not re.search(r"https?://|src=|@import|url\(|javascript:", page.source)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_page_can_be_read_aloud(variant, language):
    page = page_of(variant, language)
    assert page.elements[0][1]["lang"] == {"en": "en", "zh": "zh-CN"}[language]
    levels = [int(tag[1]) for tag, *_ in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(own.get("scope") for _, own, _ in page.all("th"))
    for element, (inner, _, words) in itertools.pairwise(page.elements):
        tag, own, _ = element
        if "chart" in own.get("class", ""):
            assert (tag, own["role"], inner) == ("svg", "img", "title")
            assert words.strip()
        elif tag == "svg" and not own.keys() & {
            "x",
            "preserveAspectRatio",
            "preserveaspectratio",
        }:  # not within a chart
            assert own["aria-hidden"] == "true"
    assert (variant == "nothing yet") == (not [own for _, own, _ in page.elements if own.get("class") == "chart"])


# What it says --------------------------------------------------------------------------------------------------------

OPEN = "ema@neck: inconclusive. mAP50-95 changed by +0.3 points (95 % interval −0.9 to +1.5, p = 0.438, 6 seeds)"
NONE = "ema@neck: inconclusive. mAP50-95 changed by −0.03 points (95 % interval −2.3 to +2.4, p "
SENTENCES = {
    ("complete", "en"): f"{OPEN}; about 19 seeds would decide it.",
    ("complete", "zh"): "ema@neck：尚不能下结论。 mAP50-95 变化 +0.3 个百分点（95% 置信区间 −0.9 至 +1.5，p = 0.438，"
    "6 个种子）；约需 19 个种子才能得出结论。",
    (
        "helps",
        "en",
    ): "ema@neck helps. mAP50-95 changed by +2.0 points (95 % interval +1.1 to +3.1, p = 0.031, 6 seeds).",
    ("helps", "zh"): "ema@neck：有效。 mAP50-95 变化 +2.0 个百分点（95% 置信区间 +1.1 至 +3.1，p = 0.031，6 个种子）。",
    ("helps, below the margin", "en"): "ema@neck helps. mAP50-95 changed by +0.2 points (95 % interval +0.01 to +0.5, "
    "p = 0.031, 6 seeds); that is less than the 0.5 points which were to matter.",
    (
        "hurts",
        "en",
    ): "ema@neck hurts. mAP50-95 changed by −2.0 points (95 % interval −3.1 to −1.1, p = 0.031, 6 seeds).",
    ("hurts", "zh"): "ema@neck：有害。 mAP50-95 变化 −2.0 个百分点（95% 置信区间 −3.1 至 −1.1，p = 0.031，6 个种子）。",
    ("equivalent", "en"): "ema@neck: equivalent within ±0.5 points. mAP50-95 changed by −0.03 points (95 % "
    "interval −0.4 to +0.5, p = 0.844, 6 seeds); the whole interval lies within ±0.5 points (two one-sided tests, "
    "at most 2.5 % each).",
    ("equivalent", "zh"): "ema@neck：在 ±0.5 个百分点内等效。 mAP50-95 变化 −0.03 个百分点（95% 置信区间 −0.4 至 "
    "+0.5，p = 0.844，6 个种子）；整个置信区间位于 ±0.5 个百分点之内（双单侧检验，各不超过 2.5%）。",
    ("more images", "en"): f"{NONE}< 0.001, 6 seeds); on these images no number of seeds would decide it, about 12 "
    "times as many images would.",
    (
        "more images",
        "zh",
    ): "ema@neck：尚不能下结论。 mAP50-95 变化 −0.03 个百分点（95% 置信区间 −2.3 至 +2.4，p < 0.001，"
    "6 个种子）；在这些测试图像上，再多种子也无法得出结论，约需 12 倍的图像。",
    ("no way", "en"): f"{NONE}= 0.700, 6 seeds); neither seeds in any number that can be trained nor a few more images "
    "would decide it.",
    (
        "one run",
        "en",
    ): "ema@neck: inconclusive. mAP50-95 changed by +1.0 points (95 % interval +0.02 to +2.4, p = 0.040, "
    "6 seeds); the interval excludes 0, but one run decides that: without the most extreme seed, or with one bad run "
    "more, it would not.",
    ("another look", "en"): "ema@neck: inconclusive. mAP50-95 changed by +0.4 points (95 % interval −0.2 to +1.2, "
    "p = 0.200, 6 seeds); about 19 seeds would decide it; the next look is after 8 seeds.",
    (
        "half finished",
        "en",
    ): "ema@neck: preliminary. mAP50-95 changed by +0.1 points (3 seeds, too few for an interval); arms "
    "are judged after 6 seeds.",
    (
        "half finished",
        "zh",
    ): "ema@neck：阶段性数字，尚无结论。 mAP50-95 变化 +0.1 个百分点（3 个种子，不足以给出区间）；"
    "到 6 个种子时才下结论。",
    ("nothing learned", "en"): "ema@neck: nothing was learned. mAP50-95 changed by +0.1 points (95 % interval −0.01 to "
    "+0.2, p = 0.090, 6 seeds); neither arm reaches 2.0 points, so a difference of 0.5 points means nothing: train "
    "longer.",
    (
        "never opened",
        "en",
    ): "ema@neck: the attention never opened. mAP50-95 changed by −0.02 points (95 % interval −0.01 "
    "to +0.03, p = 0.400, 6 seeds); its gain stayed at 0 in every run, so this says nothing about the attention: train "
    "longer, or without the identity start.",
    ("classifiers", "en"): f"{OPEN.replace('mAP50-95', 'Top-1 accuracy')}; about 19 seeds would decide it.",
    (
        "classifiers",
        "zh",
    ): "ema@neck：尚不能下结论。 Top-1 准确率变化 +0.3 个百分点（95% 置信区间 −0.9 至 +1.5，p = 0.438，"
    "6 个种子）；约需 19 个种子才能得出结论。",
    ("one pair", "en"): "No verdict yet. No treatment has two finished pairs of seeds.",
    ("nothing yet", "zh"): "尚无结论。 还没有任何处理组完成两对种子的训练。",
}


@pytest.mark.parametrize(("variant", "language"), SENTENCES)
def test_the_verdict_comes_first(variant, language):
    page = page_of(variant, language)
    (heading,) = page.all("h1")
    assert " ".join(heading[2].split()) == SENTENCES[variant, language]
    body = page.words().partition(page.all("title")[0][2])[2]
    assert body.strip().startswith(SENTENCES[variant, language])


def test_what_stands_against_the_verdict_comes_next():
    def alerts(results):
        page = read(results)
        kinds = [own.get("class") for tag, own, _ in page.elements if tag in ("h1", "div", "p", "section")]
        found = [" ".join(text.split()) for _, own, text in page.elements if own.get("class") == "alert"]
        after = [kind for kind in kinds[1:] if kind or len(found) == 0]
        assert after[: len(found) + 1] == ["alert"] * len(found) + ["about"]
        return found

    assert alerts(complete()) == []
    assert alerts(half_finished()) == [
        "15 of 24 trainings finished; this is not the final answer. ema@neck, seed 3, failed: killed by signal 9 "
        "placebo@neck, seed 0, failed: loss is not finite at epoch 2"
    ]
    assert alerts(unfair()) == [
        "Fairness check broken: same evaluator. arms were judged at conf 0.001 and 0.25",
        "Fairness check broken: moon. a check that no table knows",
    ]


def test_sections_come_in_order():
    page = read(complete())
    assert [text for *_, text in page.all("h2")] == [
        "Difference to the baseline",
        "All arms",
        "Behind the words",
        "What it costs",
        "Learning curves",
        "By size and by class",
        "Images won and lost",
        "Was the comparison fair?",
        "How to repeat it",
    ]


def test_classifiers_are_reported_in_their_own_terms():
    page = read(classifiers())
    words, heads = page.words(), [text for *_, text in page.all("h2")]
    assert [head for head in heads if head not in [text for *_, text in read(complete()).all("h2")]] == [
        "By class",
        "Each pair of models by itself",
    ]
    assert {"Top-1 accuracy", "Top-5 accuracy"} <= {text for *_, text in page.all("th")}
    assert "judged on the 72 images of its test split." in words
    assert "mean difference of Top-1 accuracy over seeds" in words
    assert "Accuracy in points, 0 to 100: mean" in words
    assert "Score of an image: the share of seeds that get it right." in words
    assert "Accuracy agrees with Ultralytics" in words
    assert "ema@neck: Top-1 accuracy on the validation split" in words
    assert not re.search(r"\bm?AP|\bF1\b|IoU|objects", words)
    assert "准确率以百分点计" in page_of("classifiers", "zh").words()
    assert not re.search(r"\bm?AP|\bF1\b|IoU|目标", page_of("classifiers", "zh").words())


def test_many_classes_are_folded_away_and_nothing_is_left_of_their_table():
    for variant in ("many classes", "hundred classes"):
        page = page_of(variant)
        names = {row["name"] for row in VARIANTS[variant]()["arms"][0]["classes"]}
        rows = [around for text, around, _ in page.texts if text in names]
        assert len(rows) == 3 * len(names)
        assert all("details" in around for around in rows)
        tables = page.source.split("<table")[1:]
        assert all("<tbody>" in table for table in tables)


def test_each_pair_of_models_stands_by_itself_and_is_no_verdict():
    shown = {path: text for path, _, text in numbers_of(page_of("classifiers"))}
    for index in (1, 2, 3):
        row = [shown[f"arms.{index}.mcnemar.1.{key}"] for key in ("seed", "won", "lost", "p")]
        assert row == ["1", f"1,{47 + index:03}", "950", "< 0.001"]
    assert not [path for path in shown if path.startswith("arms.0.mcnemar")]
    assert "takes the two models as given and is not the verdict" in page_of("classifiers").words()
    empty = complete()
    for each in empty["arms"]:
        each["mcnemar"] = []
    assert read(empty).source == read(complete()).source


def test_a_papers_figures_stand_beside_ours():
    (section,) = [part for part in page_of("beside a paper").source.split("<section>") if "s figures</h2>" in part]
    page = Reader(section.partition("</section>")[0])
    cells = [" ".join(text.split()) for *_, text in page.all("th", "td")]
    assert [cells[start : start + 7] for start in range(0, len(cells), 7)] == [
        [
            *("Arm", "Paper", "Its difference", "Ours", "Our difference", "95 % interval", "Verdict"),
        ],
        ["baseline", "77.26", "–", "50.8", "–", "–", "–"],
        ["ema@neck", "80.69", "+3.43", "51.0", "+0.3", "[−0.9, +1.5]", "inconclusive"],
        ["placebo@neckcontrol", "76.0", "−1.26", "50.8", "+0.02", "[−1.2, +1.3]", "inconclusive"],
    ]
    assert "Source: Ouyang et al. 2023, <table 2> (top-1 accuracy)" in page.words()
    assert [text for *_, text in page.all("li")] == beside_a_paper()["paper"]["notes"]


def test_a_rehearsal_says_first_that_it_is_one():
    said = (
        "A rehearsal of its plan at a scale of 7 %, with fewer images, epochs and seeds: its numbers say nothing about "
        "the plan's question."
    )
    page = page_of("rehearsal")
    body = page.words().partition(page.all("title")[0][2])[2]
    assert body.strip().startswith(f"{said} ema@neck: inconclusive.")
    assert [" ".join(text.split()) for _, own, text in page.elements if own.get("class") == "alert"] == [said]
    assert report.sentence(rehearsal()).startswith(f"{said} ema@neck: inconclusive. Top-1 accuracy changed by")
    assert report.sentence(beside_a_paper()).startswith("ema@neck: inconclusive.")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("variant", [variant for variant, make in VARIANTS.items() if "task" not in make()])
def test_what_older_releases_leave_out_changes_nothing(variant, language):
    results = VARIANTS[variant]()
    fuller = copy.deepcopy(results) | {"task": "detect", "paper": None, "scale": None}
    fuller["statistics"]["second"] = "mAP50"
    for each in fuller["arms"]:
        each |= {"paper": None, "paper_difference": None, "mcnemar": None}
    assert read(fuller, language).source == page_of(variant, language).source
    assert report.paper_table(fuller) == report.paper_table(results)
    assert report.long_table(fuller) == report.long_table(results)


@pytest.mark.parametrize("language", LANGUAGES)
def test_results_of_an_older_release_are_reported(language):
    results = json.loads((GOLDEN / "report" / "older.json").read_text(encoding="utf-8"))
    assert "task" not in results
    assert results["verdict"]["word"] == "no detectable difference"
    found = older.judged_anew(results)
    assert older.judged_anew(found) is found
    check_numbers(found, numbers_of(read(found, language)))
    assert report.sentence(results, language) == report.sentence(found, language)


@pytest.mark.parametrize("images", [0.0, 1e-6, 1e-3])
def test_an_older_interval_says_what_the_images_do(images):
    differences = np.array([0.01, 0.02, 0.005, 0.011, 0.03, 0.012])
    noise = np.random.default_rng(0).normal(0, 1, 2000)
    drawn = differences[:, None] + noise * np.sqrt(images / noise.var(ddof=1))
    low, high = interval(differences, drawn)
    again = older._pair({"differences": differences.tolist(), "mean": differences.mean(), "low": low, "high": high})
    # A little of the images takes degrees of freedom along, and two variances have the same interval.
    assert interval(*again) == (pytest.approx(low, rel=0.01), pytest.approx(high, rel=0.01))
    assert variances(*again)[1] == pytest.approx(images, rel=1e-6) or images == 1e-6


def test_fairness_has_three_states():
    rows = [" ".join(text.split()) for tag, own, text in read(unfair()).elements if tag == "li" and own.get("class")]
    assert rows[0].startswith("holds same batches in every arm same batches at each seed")
    assert rows[3].startswith("could not be checked judged on images not used for choosing no test split")
    assert rows[4].startswith("broken same evaluator arms were judged")
    kinds = [own["class"] for tag, own, _ in read(unfair()).elements if tag == "li" and own.get("class")]
    assert kinds == ["holds"] * 3 + ["unknown"] + ["broken"] * 2
    assert (
        len({own["d"] for tag, own, _ in read(unfair()).elements if tag == "path" and own["d"].startswith("M2 7")}) == 2
    )


def test_a_ratio_that_says_nothing_is_left_out():
    assert "The machine was busy" in page_of("busy").words()
    assert "The machine was busy" not in page_of("complete").words()
    assert "The machine was busy" not in page_of("without costs").words()


def test_what_is_behind_the_words():
    words = " ".join(read(complete()).words().split())
    assert "Behind the words" in words
    assert "73 [31, 93]" in words
    assert "The plan judges once, after 6 seeds." in words
    assert "The plan judges after 6, 8, 12 seeds" in " ".join(page_of("another look").words().split())
    assert "With 5 seeds or fewer, sign flips can never reach p < 0.05" in words
    assert "8 treatments were compared" in read(many_arms()).words()


def test_images_lead_to_their_gates():
    results = complete()
    page = report.Page(results, "en").render()
    assert "have not been drawn" in page
    assert "<a " not in page
    images = results["arms"][2]["images"]
    images["won"][0]["gates"] = "gates/ema(groups=8)@P3%2C P4/index.html#image-3"
    images["won"][1]["gates"] = None
    images["lost"][0]["gates"] = "javascript:alert(1)#x"
    results["arms"][2]["images"]["no_gates"] = "nothing to draw with"
    page = report.Page(results, "en").render()
    assert "(nothing to draw with)" in page
    assert re.findall(r'<a href="([^"]*)', page) == [
        "gates/ema%28groups%3D8%29%40P3%252C%20P4/index.html#image-3",
        "javascript%3Aalert%281%29#x",
    ]
    assert "A name leads to the gates" in page


def test_images_are_those_of_treatments():
    results = complete()
    results["arms"][3]["images"] = results["arms"][2]["images"]
    assert {path.split(".")[1] for path, *_ in numbers_of(read(results)) if ".images." in path} == {"2"}


def test_names_stay_names():
    page = read(hostile())
    name = hostile()["name"]
    assert {tag for tag, *_ in page.elements} == {tag for tag, *_ in read(half_finished()).elements}
    assert page.all("h1")[0][2].startswith(f"{name}: inconclusive.")
    assert page.words().count("<script>alert(1)</script>") > 10
    assert "49" not in page.all("h1")[0][2]
    drawn = forest(charts.Effect(name, '"><b>', 0.1, 0.0, 0.2, label=(charts.Number(name, name, name),)))
    assert {tag for tag, *_ in Reader(drawn).elements} == {"svg", "title", "rect", "line", "text", "tspan", "path"}


# Two languages -------------------------------------------------------------------------------------------------------


def test_both_languages_have_the_same_phrases():
    for key, pair in PHRASES.items():
        assert {*pair} == {*LANGUAGES}, key
        english, chinese = (sorted(re.findall(r"{(\w+)}", pair[language])) for language in LANGUAGES)
        assert english == chinese, key
        assert all(pair.values()) or key == "gap", key


def test_every_phrase_is_used():
    files = [report.TEMPLATES / "report.html", report.TEMPLATES.parent / "page.py"]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    prefixes = ("verdict_", "word_", "check_", "role_", "machine_", "size_", "fairness_", "cost_", "learning_")
    prefixes += ("metric_", "part_", "about_", "breakdown_", "images_note_", "end_")
    unused = [key for key in PHRASES if not re.search(rf"['\"]{key}['\"]", source) and not key.startswith(prefixes)]
    assert unused == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_english_in_the_chinese_page(variant):
    names = r"mAP50(-95)?|Top-|McNemar|G?FLOPs|Ultralytics|(best|last)\.pt|Holm|IoU|\bF1\b|\bAP\b|\bp\b|\bms\b|MiB|GPU"
    assert not re.findall(r".*[A-Za-z].*", re.sub(names, "", prose(variant, "zh")))


# Tables --------------------------------------------------------------------------------------------------------------


def test_table_for_a_paper():
    golden = (GOLDEN / "report" / "table.md").read_text(encoding="utf-8")
    assert report.paper_table(complete()) == golden
    heads, *rows = report.paper_table(classifiers()).splitlines()
    assert heads == golden.splitlines()[0].replace("mAP50-95", "top-1 accuracy").replace("mAP50", "top-5 accuracy")
    assert rows == golden.splitlines()[1:]
    rows = report.paper_table(hostile()).splitlines()
    assert len(rows) == 6
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {12}
    assert "<" not in "".join(rows)
    assert (
        report.paper_table(half_finished()).splitlines()[-1] == "| placebo@neck | – | – | – | – | – | – | – | – | – |"
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_table_for_pandas_keeps_all_digits(variant):
    results = VARIANTS[variant]()
    keys = ("map", "map50", "map_last") if results.get("task", "detect") == "detect" else ("top1", "top5", "top1_last")
    rows = [*csv.DictReader(io.StringIO(report.long_table(results)))]
    baseline = results["arms"][0]
    wanted = [(arm, place) for arm in results["arms"] for place in range(len(arm["seeds"]))]
    assert len(rows) == len(wanted)
    for row, (arm, place) in zip(rows, wanted, strict=True):
        assert tuple(row) == ("arm", "role", "seed", *keys, "difference", "train_seconds")
        assert (row["arm"], row["role"], int(row["seed"])) == (arm["name"], arm["role"], arm["seeds"][place])
        assert [float(row[key]) for key in keys] == [arm[key][place] for key in keys]
        if arm is baseline:
            assert row["difference"] == ""
        else:
            assert float(row["difference"]) == arm[keys[0]][place] - baseline[keys[0]][place]
        seconds = arm["cost"] and arm["cost"]["train_seconds"][place]
        assert row["train_seconds"] == ("" if seconds is None else repr(seconds))


def test_differences_are_paired_by_seed_and_not_by_place():
    baseline = {"seeds": [4, 1, 7], "map": [0.5, 0.25, 0.75]}
    arm = {"seeds": [1, 2, 4], "map": [0.375, 0.9, 0.375]}
    assert report.paired(arm, baseline, "map") == {1: 0.125, 4: -0.125}


# Files ---------------------------------------------------------------------------------------------------------------


def test_three_files_are_written(tmp_path):
    (tmp_path / "report.html").write_text("older")
    paths = report.write(complete(), tmp_path, "zh")
    assert [path.name for path in paths] == ["report.html", "table.md", "table.csv"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert paths[0].read_text(encoding="utf-8") == report.Page(complete(), "zh").render()
    assert paths[1].read_text(encoding="utf-8") == report.paper_table(complete())
    assert paths[2].read_bytes().decode() == report.long_table(complete())


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(UserError, match="no report in language 'fr'; languages: en, zh"):
        report.write(complete(), tmp_path, "fr")
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(UserError, match=r"cannot write .*report\.html"):
        report.write(complete(), tmp_path / "none")


# Charts --------------------------------------------------------------------------------------------------------------


def per_cent(own, *keys):
    return [float(own[key].rstrip("%")) for key in keys]


def marks(source, tag, kind):
    return [own for _, own, _ in Reader(source).all(tag) if kind in own.get("class", "").split()]


def forest(*effects, margin=0.5, noise=None):
    return charts.forest(effects, margin, noise, "title", ("worse", "better"), "points")


def test_forest_plot_puts_numbers_where_they_belong():
    source = forest(
        charts.Effect("ema", "treatment", 1.0, -0.5, 2.0, seeds=(-2.0, 1.0, 2.0), label=("a",)),
        charts.Effect("A/A", "control", 0.0, -0.25, 0.25, seeds=(0.1,)),
        noise=(-0.25, 0.25),
    )
    (zero, *_) = marks(source, "line", "zero")
    (band,) = marks(source, "rect", "margin")
    center, (left, width) = per_cent(zero, "x1")[0], per_cent(band, "x", "width")
    assert center == 50
    unit = width  # the margin is half a point to each side
    assert left == pytest.approx(center - unit / 2, abs=0.02)
    (interval,) = marks(source, "line", "treatment")
    assert per_cent(interval, "x1", "x2") == pytest.approx([center - 0.5 * unit, center + 2 * unit], abs=0.02)
    circles = [per_cent(own, "cx")[0] for own in marks(source, "circle", "treatment")]
    assert circles == pytest.approx([center + d * unit for d in (-2, 1, 2)], abs=0.02)
    diamonds = [own for _, own, _ in Reader(source).all("svg") if "x" in own]
    assert [per_cent(own, "x")[0] for own in diamonds] == pytest.approx([center + unit, center], abs=0.02)
    noise = {per_cent(own, "x1")[0] for own in marks(source, "line", "noise")}
    assert sorted(noise) == pytest.approx([center - unit / 4, center + unit / 4], abs=0.02)
    ticks = {text: own for _, own, text in Reader(source).all("text") if own["class"] == "tick"}
    assert per_cent(ticks["+2.0" if "+2.0" in ticks else "+2"], "x")[0] == pytest.approx(center + 2 * unit, abs=0.02)
    assert not marks(source, "path", "arrow")


def test_arms_that_do_not_differ_at_all_can_be_drawn():
    still = charts.Effect("A/A", "control", 0.0, 0.0, 0.0, seeds=(0.0, 0.0), cost=(1.0,))
    for source in (forest(still, margin=0.0), charts.cost_benefit([still], 0.0, "title", "down", "across")):
        assert [per_cent(own, "x")[0] for _, own, _ in Reader(source).all("svg") if "x" in own] == [50]


def test_an_endless_interval_ends_in_an_arrow():
    source = forest(charts.Effect("ema", "treatment", 0.1, -90.0, 0.4), charts.Effect("sa", "treatment", 0.1, 0.0, 0.2))
    (arrow,) = marks(source, "path", "arrow")
    assert arrow["d"].startswith("M6")
    first, _ = marks(source, "line", "treatment")
    assert per_cent(first, "x1") == [4.0]


def test_an_arm_without_a_verdict_shows_its_seeds_alone():
    source = forest(charts.Effect("ema", "treatment", seeds=(0.3,), label=("–",)))
    assert len(marks(source, "circle", "seed")) == 1
    assert not marks(source, "line", "interval")
    assert not marks(source, "path", "mean")


def test_costs_rise_to_the_right_and_gains_upwards():
    source = charts.cost_benefit(
        [
            charts.Effect("baseline", "baseline", 0.0, cost=(1.0, 1.0, 1.0)),
            charts.Effect("good", "treatment", 1.0, 0.5, 1.5, cost=(1.1, 1.2, 1.4)),
            charts.Effect("bad", "treatment", -1.0, -1.5, -0.5, cost=(1.3, 1.4, 1.5)),
        ],
        0.5,
        *("title", "down", "across"),
    )
    places = {}
    for _, own, _ in Reader(source).all("svg"):
        if "x" in own:
            places[per_cent(own, "x")[0]] = float(own["y"])
    (first, y0), (second, y1), (third, y2) = sorted(places.items())
    assert (second - first) == pytest.approx(third - second, abs=0.02)
    assert y0 - y1 == pytest.approx(y2 - y0, abs=0.02)
    assert y1 < y0
    assert {text for *_, text in Reader(source).all("text")} >= {"baselinebaseline", "goodgood", "badbad"}


def test_names_in_a_crowd_do_not_cover_each_other():
    crowd = [charts.Effect(f"an attention {i}", "treatment", 0.01 * i, cost=(1.0,)) for i in range(5)]
    source = charts.cost_benefit([charts.Effect("baseline", "baseline", 0.0, cost=(1.0,)), *crowd], 0.5, "t", "d", "a")
    lines = sorted(float(own["y"]) for _, own, _ in Reader(source).all("text") if own["class"] == "name")
    assert len(lines) == 6
    assert all(below - above >= 14 for above, below in itertools.pairwise(lines))


def points(path):
    return [tuple(map(float, pair.split())) for pair in re.sub("[MLZ]", " ; ", path).split(";") if pair.strip()]


def near(got, wanted):
    np.testing.assert_allclose(got, wanted, atol=0.02)


def test_learning_curves_are_means_within_their_band():
    results = complete()
    results["arms"][2]["curves"] = {"epochs": [1, 2, 3], "map": [[0.1, 0.2, 0.3], [0.3, 0.4, None]], "loss": [[], []]}
    results["arms"] = [results["arms"][0], results["arms"][2]]
    results["arms"][0]["curves"] = {"epochs": [1, 2, 3], "map": [[0.0, 0.5, 0.5]], "loss": []}
    ((name, drawn),) = report.Page(results, "en").learning()
    assert (name, len(drawn)) == ("ema@neck", 1)
    (band,) = marks(str(drawn[0]), "path", "band")
    (mean,) = marks(str(drawn[0]), "path", "treatment")[1:]
    (base,) = marks(str(drawn[0]), "path", "baseline")
    (_, bottom), (_, top), _ = points(base["d"])
    unit = (bottom - top) / 50
    near(points(mean["d"]), [(x, bottom - v * unit) for x, v in ((0, 20), (50, 30), (100, 30))])
    edge = [(0, 30), (50, 40), (100, 30), (100, 30), (50, 20), (0, 10)]
    near(points(band["d"]), [(x, bottom - v * unit) for x, v in edge])


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_numbers_are_drawn(variant):
    marks = {"d", "x", "x1", "x2", "y", "y1", "y2", "cx", "cy", "width", "height"}
    drawn = [value for _, own, _ in page_of(variant).elements for name, value in own.items() if name in marks]
    drawn += [words for _, own, words in page_of(variant).elements if own.get("class") == "tick"]
    assert not [value for value in drawn if re.search(r"\b(nan|inf|None)\b", value)]


@pytest.mark.parametrize(("low", "high"), [(-1.96, 1.96), (0, 1e-4), (12, 13000), (0.02, 0.06), (3, 3), (-7e-6, 1e-6)])
def test_ticks_are_few_and_within(low, high):
    ticks = charts.Scale(low, high).ticks(6)
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in ticks)
    assert [float(text.replace("−", "-")) for _, text in ticks] == pytest.approx(
        [value for value, _ in ticks], rel=1e-3
    )
    assert len({text for _, text in ticks}) == len(ticks)


def test_without_latencies_the_cost_is_flops():
    assert report.Page(complete(), "en").cost_benefit()[1] == "latency_ratio"
    assert report.Page(without_costs(), "en").cost_benefit()[1] == "flops"
    assert report.Page(one_pair(), "en").cost_benefit() is None


def test_colours_can_be_told_from_the_paper():
    style = (html._SHARED / "report.css").read_text(encoding="utf-8")

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    schemes = [dict(re.findall(r"--([\w-]+): #(\w{6})", part)) for part in style.split(":root {")[1:3]]
    for scheme in schemes:
        for ink, paper in [
            *itertools.product(("ink", "soft", "accent", "alarm"), ("paper", "faint")),
            ("alarm", "alarm-paper"),
        ]:
            light, dark = sorted((luminance(scheme[ink]), luminance(scheme[paper])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper)


# In a browser --------------------------------------------------------------------------------------------------------

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
OPTIONS += ["--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=OPTIONS)
        yield running
        running.close()


@pytest.fixture
def visit(browser, tmp_path):
    """A function that opens the page of some results; afterwards nothing was asked for and nothing complained about."""
    opened, requests, complaints = [], [], []

    def visit(results, language="en", width=1280):
        file = report.write(results, tmp_path, language)[0]
        page = browser.new_page(viewport={"width": width, "height": 800})
        opened.append((page, file.as_uri()))
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(file.as_uri())
        return page

    yield visit
    assert requests == [uri for _, uri in opened]
    assert complaints == []
    for page, _ in opened:
        page.close()


@pytest.mark.parametrize(
    ("variant", "language"),
    [
        *((variant, "en") for variant in VARIANTS),
        *((variant, "zh") for variant in ("complete", "hostile", "many arms", "rehearsal")),
    ],
)
def test_in_a_browser(visit, variant, language):
    results = VARIANTS[variant]()
    page = visit(results, language)
    numbers = page.eval_on_selector_all(
        "[data-path]", "all => all.map(e => [e.dataset.path, e.dataset.format, e.textContent])"
    )
    check_numbers(results, [tuple(number) for number in numbers])
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        beyond = """all => all.filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1)
            .map(e => e.textContent)"""
        assert page.eval_on_selector_all("h1, h2, h3, p, li, figure, dd, pre, .chart text", beyond) == []


@pytest.mark.parametrize(("variant", "language"), [("complete", "zh"), ("many classes", "en")])
def test_on_paper(visit, variant, language, tmp_path):
    results = VARIANTS[variant]()
    page = visit(results, language)
    heading = page.inner_text("h1").split()
    (tmp_path / "report.pdf").write_bytes(source := page.pdf(prefer_css_page_size=True))
    assert len(re.findall(rb"/Type\s*/Page\b", source)) > 1
    if not shutil.which("pdftotext"):
        pytest.skip("no pdftotext to read the PDF with")
    command = ["pdftotext", "-raw", tmp_path / "report.pdf", "-"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    plain = "".join(text.split())
    if language == "zh":  # without a Chinese font on this machine its letters are boxes
        heading, plain = (re.sub(r"[^\x00-\x7f−]", "", part) for part in ("".join(heading), plain))
    assert "".join(heading) in plain
    names = [row["name"].replace(" ", "") for row in results["arms"][2]["classes"]]
    assert all(name in plain for name in names)


def test_hundreds_of_classes_are_not_printed(visit):
    page = visit(classifiers(classes=tuple(f"class {i}" for i in range(1000))))
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True))) < 10
    page.click("summary >> nth=0")
    assert page.locator("details td").first.is_visible()


def test_it_follows_the_reader_into_the_dark(visit):
    page = visit(complete())
    colours = "[getComputedStyle(document.documentElement).backgroundColor, getComputedStyle(document.body).color]"
    light = page.evaluate(colours)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colours) != light
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate(colours) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
