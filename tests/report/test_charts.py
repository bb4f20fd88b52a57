"""Charts put numbers where they belong."""

import itertools
import re

import numpy as np
import pytest

from foveal.pages import charts, html
from helpers import swept
from reports import VARIANTS, Reader, complete, forest, marks, one_pair, page, page_of, without_costs


def per_cent(own, *keys):
    return [float(own[key].rstrip("%")) for key in keys]


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
    results["arms"][2]["curves"] = {"epochs": [1, 2, 3], "metric": [[0.1, 0.2, 0.3], [0.3, 0.4, None]]}
    results["arms"][2]["curves"]["loss"] = [[], []]
    results["arms"] = [results["arms"][0], results["arms"][2]]
    results["arms"][0]["curves"] = {"epochs": [1, 2, 3], "metric": [[0.0, 0.5, 0.5]], "loss": []}
    ((name, drawn),) = page(results).learning()
    assert (name, len(drawn)) == ("ema@neck", 1)
    (band,) = marks(str(drawn[0]), "path", "band")
    (mean,) = marks(str(drawn[0]), "path", "treatment")[1:]
    (base,) = marks(str(drawn[0]), "path", "baseline")
    (_, bottom), (_, top), _ = points(base["d"])
    unit = (bottom - top) / 50
    near(points(mean["d"]), [(x, bottom - v * unit) for x, v in ((0, 20), (50, 30), (100, 30))])
    edge = [(0, 30), (50, 40), (100, 30), (100, 30), (50, 20), (0, 10)]
    near(points(band["d"]), [(x, bottom - v * unit) for x, v in edge])


@pytest.mark.parametrize(
    "variant", swept(VARIANTS, "complete", "half finished", "hostile", "many arms", "one pair", "sliced")
)
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
    assert page(complete()).cost_benefit()[1] == "latency_ratio"
    assert page(without_costs()).cost_benefit()[1] == "flops"
    assert page(one_pair()).cost_benefit() is None


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
