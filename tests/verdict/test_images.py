"""Intervals over images alone: their formula, what has none, and that p, interval and Holm's steps never disagree."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from foveal.verdict import Estimate, differences_of, draw_images, estimate

DRAWS = np.array([0.6, 0.5, 0.7, np.nan, 0.6])  # of an average, 0.6 on all images; one draw had no object


def test_an_average_by_hand():
    found = estimate(DRAWS, 9)
    reach = stats.t.ppf(0.975, 8) * 0.1 * math.sqrt(9 / 8) / (0.6 * 0.4)
    assert found.value == 0.6
    for bound, side in ((found.low, -1), (found.high, 1)):
        assert bound == pytest.approx(1 / (1 + math.exp(-math.log(0.6 / 0.4) - side * reach)))
    assert found.p is None
    assert not found.excludes_zero or found.low > 0


def test_a_difference_by_hand():
    (found,) = differences_of([DRAWS], 9)
    error = 0.1 * math.sqrt(9 / 8)
    assert (found.low, found.high) == pytest.approx(0.6 + stats.t.ppf([0.025, 0.975], 8) * error)
    assert found.p == pytest.approx(2 * stats.t.sf(0.6 / error, 8))
    assert found.excludes_zero


@pytest.mark.parametrize(
    ("found", "images"),
    [
        ([np.nan, 0.5, 0.6], 9),
        ([0.5, 0.5, 0.6], 1),
        ([0.5, np.nan, 0.6], 9),
        ([0.0, 0.0, 0.0], 9),
        ([1.0, 1.0, 1.0], 9),
    ],
    ids=["no average", "one image", "one draw", "none", "all"],
)
def test_what_has_no_interval(found, images):
    value = None if math.isnan(found[0]) else found[0]
    assert estimate(np.array(found), images) == Estimate(value)
    assert not estimate(np.array(found), images).excludes_zero


def test_equal_models_have_p_1_and_a_difference_that_never_varies_has_p_0():
    nothing, always = differences_of([np.zeros(5), np.full(5, 0.5)], 9)
    assert nothing == Estimate(0, 0, 0, 1)
    assert always == Estimate(0.5, 0.5, 0.5, 0)


@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0, 0.6))
def test_p_and_interval_never_disagree_and_means_have_the_paired_t_test(seed, count, effect):
    """Differences of scores that are means over images, whose resampled interval is the usual one but for the draws."""
    rng, images = np.random.default_rng(seed), 40
    counts = np.concatenate([np.ones((1, images)), draw_images(images, 400, seed)])
    scores = rng.normal(effect * np.arange(count)[:, None] / count, 1, (count, images))
    found = differences_of([counts @ each / images for each in scores], images)
    raw = np.array([stats.ttest_1samp(each, 0).pvalue for each in scores])
    for one, each in zip(found, scores, strict=True):
        assert one.excludes_zero == (one.p <= 0.05)
        reach = stats.t.ppf(0.975, images - 1) * stats.sem(each)
        assert (one.high - one.low) / 2 >= 0.85 * reach  # wider where others share the level
    assert min(one.p for one in found) == pytest.approx(min(1, count * raw.min()), rel=0.8, abs=0.02)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    rng, images = np.random.default_rng(0), 30
    held = 0
    for study in range(300):
        right = (rng.uniform(size=images) < 0.7).astype(float)
        counts = np.concatenate([np.ones((1, images)), draw_images(images, 200, study)])
        found = estimate(counts @ right / images, images)
        held += found.low is not None and found.low <= 0.7 <= found.high
    assert held / 300 == pytest.approx(0.95, abs=0.03)
