"""What the page of a study holds and says, in both languages."""

import itertools
import json
import re

import numpy as np
import pytest

from foveal.pages import charts, typeset
from foveal.report import page as report
from foveal.results import load, older, write
from foveal.results import read as results_of
from foveal.verdict import Outcome, interval, variances
from helpers import GOLDEN, swept
from reports import (
    LANGUAGES,
    PHRASES,
    VARIANTS,
    Reader,
    beside_a_paper,
    check_numbers,
    classifiers,
    complete,
    first_version,
    forest,
    half_finished,
    hostile,
    many_arms,
    numbers_of,
    page,
    page_of,
    read,
    rehearsal,
    unfair,
    written,
)


@pytest.mark.parametrize("language", swept(LANGUAGES, "en"))
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_number_is_one_of_the_results(variant, language):
    check_numbers(VARIANTS[variant](), numbers_of(page_of(variant, language)))


def test_every_format_is_in_use():
    assert {form for variant in VARIANTS for _, form, _ in numbers_of(page_of(variant))} == typeset.FORMATS.keys()


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
        wanted |= {f"arms.{i}.{key}" for key in ("seeds", "scores.map", "scores.map50")}
        wanted |= {f"arms.{i}.cost.{key}" for key in ("parameters", "flops", "peak_bytes", "train_seconds")}
        wanted |= {f"arms.{i}.cost.milliseconds.{quartile}" for quartile in range(3)} | {
            f"arms.{i}.cost.latency_ratio.1"
        }
        wanted |= {f"arms.{i}.{group}.{row}.average" for group in ("classes", "sizes") for row in range(3)}
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


@pytest.mark.parametrize("language", swept(LANGUAGES, "en"))
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


@pytest.mark.parametrize("language", swept(LANGUAGES, "en"))
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


def cells_of(variant, heading):
    """What stands in each row of a section."""
    (section,) = [part for part in page_of(variant).source.split("<section>") if f"<h2>{heading}</h2>" in part]
    rows = section.partition("</section>")[0].split("<tr")[1:]
    return [
        [" ".join(text.split()) for *_, text in Reader(f"<tr{row.partition('</tr>')[0]}</tr>").all("th", "td")]
        for row in rows
    ]


def test_slices_stand_by_column_with_their_adjusted_p():
    head, *rows = cells_of("sliced", "By slice of the images")[:7]
    assert head == ["", "Images", "Objects", "Baseline", "Arm", "Difference", "95 % interval", "p", ""]
    assert [row[:3] for row in rows if row[1]] == [
        *(["day", "41", "1,107"], ["night", "31", "837"], ["<north>", "63", "1,701"], ["s", "9", "243"]),
    ]
    assert [row[0] for row in rows if not row[1]] == ["day/night", "camera & lens"]
    baseline, arm = (each["slices"][2] for each in VARIANTS["sliced"]()["arms"][:2])
    shown = (baseline, "average", "points"), (arm, "average", "points"), (arm, "difference", "signed-points")
    assert rows[4][3:6] == [written(of[key], form) for of, key, form in shown]
    assert rows[4][7] == "0.310"
    assert rows[5][3:5] + rows[5][6:8] == ["–"] * 4, "few images have no interval, and none no average"
    words = page_of("sliced").words()
    assert "that share a value in a column of images.csv" in words
    assert "Images in no slice: 3." in words
    assert cells_of("sliced classifiers", "By slice of the images")[0][:3] == ["", "Images", "Baseline"]
    assert "By slice" not in page_of("complete").words()


def test_errors_stand_with_their_spread_and_their_difference():
    head, *rows = cells_of("with errors", "What errors cost")
    assert head == ["Arm", "Wrong class", "Poor box", "Class and box", "Duplicate", "Background", "Missed"]
    results = VARIANTS["with errors"]()
    for row, arm in zip(rows, results["arms"], strict=True):
        for cell, one in zip(row[1:], arm["errors"], strict=True):
            told = f"{written(one['costs'], 'mean-points')} ± {written(one['costs'], 'deviation-points')}"
            if one["differences"]:
                told += written(one["differences"], "signed-mean-points")
                told += f" ± {written(one['differences'], 'deviation-points')}"
            assert cell == told
    assert [row[1] for row in cells_of("with errors, half finished", "What errors cost")][-1] == "–"
    assert "What errors cost" not in page_of("complete").words()


def test_a_rehearsal_says_first_that_it_is_one():
    said = (
        "A rehearsal of its plan at a scale of 7 %, with fewer images, epochs and seeds: its numbers say nothing about "
        "the plan's question."
    )
    page = page_of("rehearsal")
    body = page.words().partition(page.all("title")[0][2])[2]
    assert body.strip().startswith(f"{said} ema@neck: inconclusive.")
    assert [" ".join(text.split()) for _, own, text in page.elements if own.get("class") == "alert"] == [said]
    line = report.sentence(results_of(rehearsal()))
    assert line.startswith(f"{said} ema@neck: inconclusive. Top-1 accuracy changed by")
    assert report.sentence(results_of(beside_a_paper())).startswith("ema@neck: inconclusive.")


# Of the tasks that such releases knew.
@pytest.mark.parametrize("variant", [name for name in VARIANTS if VARIANTS[name]()["task"] in ("detect", "classify")])
def test_what_had_no_schema_version_reads_the_same(variant):
    assert repr(results_of(first_version(VARIANTS[variant]()))) == repr(results_of(VARIANTS[variant]()))  # nan is nan


@pytest.mark.parametrize("language", LANGUAGES)
def test_results_of_an_older_release_are_reported(language, tmp_path):
    oldest = json.loads((GOLDEN / "report" / "older.json").read_text(encoding="utf-8"))
    assert "task" not in oldest
    assert oldest["verdict"]["word"] == "no detectable difference"
    found = load(GOLDEN / "report" / "older.json")
    assert {arm.verdict.outcome for arm in found.arms if arm.verdict} <= {*Outcome}
    write(found, tmp_path)
    check_numbers(json.loads((tmp_path / "results.json").read_text()), numbers_of(read(found, language)))


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
    source = page(results).render()
    assert "have not been drawn" in source
    assert "<a " not in source
    images = results["arms"][2]["images"]
    images["won"][0]["gates"] = "gates/ema(groups=8)@P3%2C P4/index.html#image-3"
    images["won"][1]["gates"] = None
    images["lost"][0]["gates"] = "javascript:alert(1)#x"
    results["arms"][2]["images"]["no_gates"] = "nothing to draw with"
    source = page(results).render()
    assert "(nothing to draw with)" in source
    assert re.findall(r'<a href="([^"]*)', source) == [
        "gates/ema%28groups%3D8%29%40P3%252C%20P4/index.html#image-3",
        "javascript%3Aalert%281%29#x",
    ]
    assert "A name leads to the gates" in source


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
    prefixes = ("verdict_", "outcome_", "check_", "role_", "machine_", "size_", "fairness_", "cost_", "learning_")
    prefixes += ("metric_", "part_", "about_", "breakdown_", "images_note_", "end_", "sizes_by_", "error_")
    unused = [key for key in PHRASES if not re.search(rf"['\"]{key}['\"]", source) and not key.startswith(prefixes)]
    assert unused == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_english_in_the_chinese_page(variant):
    names = r"mAP50(-95)?|Top-|COCO|McNemar|G?FLOPs|Ultralytics|(best|last)\.pt|Holm|IoU|\bF1\b|\bAP\b|\bp\b|\bms\b|MiB"
    names += r"|GPU|TIDE"
    assert not re.findall(r".*[A-Za-z].*", re.sub(names, "", prose(variant, "zh")))
