"""The statistics: average precision against its oracles, intervals and tests against simulated studies."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from foveal import verdict
from foveal.verdict import (
    Looks,
    Matches,
    SignFlips,
    Truth,
    average_precision,
    draw_images,
    interval,
    judge,
    sign_flip,
)
from helpers import swept

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco_eval_golden"


def drawn(seed: int, images: int, detections: int, objects: int, classes: int) -> tuple[Matches, Truth]:
    """Detections of which each class has no more hits than objects, in every order of confidence."""
    rng = np.random.default_rng(seed)
    truth = Truth(rng.integers(0, images, objects), rng.integers(0, classes, objects))
    label = rng.integers(0, classes, detections)
    hit = np.zeros((detections, 10), bool)
    for c, threshold in itertools.product(range(classes), range(10)):
        mine = rng.permutation(np.flatnonzero(label == c))
        hit[mine[: rng.integers(0, 1 + min(len(mine), (truth.label == c).sum()))], threshold] = True
    return Matches(rng.integers(0, images, detections), rng.random(detections), label, hit), truth


sizes = st.tuples(st.integers(0, 10**6), st.integers(1, 20), st.integers(0, 120), st.integers(1, 60), st.integers(1, 4))


@given(sizes)
def test_average_precision_is_the_hosts(size):
    metrics = pytest.importorskip("ultralytics.utils.metrics", reason="Ultralytics is not installed")
    matches, truth = drawn(*size)
    theirs = metrics.ap_per_class(matches.hit.astype(float), matches.confidence, matches.label, truth.label)
    classes, ours = average_precision(matches, truth)
    assert classes.tolist() == theirs[6].tolist()
    assert np.abs(ours[0] - theirs[5]).max() <= 1e-9
    map50, map50_95 = verdict.mean_average_precision(ours)
    assert map50[0] == pytest.approx(theirs[5][:, 0].mean(), abs=1e-9)
    assert map50_95[0] == pytest.approx(theirs[5].mean(), abs=1e-9)


def test_average_precision_of_the_older_host_falls_in_a_line():
    # One object of two found, then a miss: envelope 1 up to recall 1/2, then from 1/2 in a line to 0 at recall 1.
    matches = Matches(np.zeros(2, int), np.array([0.9, 0.8]), np.zeros(2, int), np.array([[True], [False]]))
    truth = Truth(np.zeros(2, int), np.zeros(2, int))
    found = {
        name: average_precision(matches, truth, None, name)[1].item() for name in ("ultralytics", "ultralytics-8.3")
    }
    assert found["ultralytics"] == pytest.approx(0.495)
    assert found["ultralytics-8.3"] == pytest.approx(0.5 * 0.5 + 0.495 + 0.25 * 0.5 - 0.25, abs=0.01)


def iou(box: list[float], boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    x, y, w, h = box
    width = np.clip(np.minimum(x + w, boxes[:, 0] + boxes[:, 2]) - np.maximum(x, boxes[:, 0]), 0, None)
    height = np.clip(np.minimum(y + h, boxes[:, 1] + boxes[:, 3]) - np.maximum(y, boxes[:, 1]), 0, None)
    both = width * height
    return both / np.where(crowd, w * h, w * h + boxes[:, 2] * boxes[:, 3] - both)


def coco_matches() -> tuple[Matches, Truth]:
    """COCO's rules: by confidence, the free object of largest overlap; a crowd takes any number and counts for none."""
    stored = json.loads((COCO / "instances_val2014_100.json").read_text())
    results = json.loads((COCO / "instances_val2014_fakebbox100_results.json").read_text())
    place = {image: index for index, image in enumerate(sorted(image["id"] for image in stored["images"]))}
    detections, objects = [], []
    for image, label in itertools.product(place, [category["id"] for category in stored["categories"]]):
        there = [a for a in stored["annotations"] if (a["image_id"], a["category_id"]) == (image, label)]
        there.sort(key=lambda a: a["iscrowd"])
        objects += [(place[image], label) for a in there if not a["iscrowd"]]
        crowd = np.array([a["iscrowd"] for a in there], bool)
        boxes = np.array([a["bbox"] for a in there]).reshape(-1, 4)
        mine = [r for r in results if (r["image_id"], r["category_id"]) == (image, label)]
        taken = np.zeros((10, len(there)), bool)
        for result in sorted(mine, key=lambda r: -r["score"])[:100]:
            overlap, hit, ignored = iou(result["bbox"], boxes, crowd), np.zeros(10, bool), np.zeros(10, bool)
            for index, threshold in enumerate(np.linspace(0.5, 0.95, 10)):
                fits = (overlap >= min(threshold, 1 - 1e-10)) & (~taken[index] | crowd)
                candidates = np.flatnonzero(fits & ~crowd) if (fits & ~crowd).any() else np.flatnonzero(fits)
                if len(candidates):
                    best = candidates[np.flatnonzero(overlap[candidates] == overlap[candidates].max())[-1]]
                    taken[index, best] = True
                    hit[index], ignored[index] = not crowd[best], crowd[best]
            detections.append((place[image], result["score"], label, hit, ignored))
    image, confidence, label, hit, ignored = (np.array(column) for column in zip(*detections, strict=True))
    return Matches(image, confidence, label, hit, ignored), Truth(*np.array(objects).T)


def test_average_precision_of_coco_is_the_known_answer():
    if not COCO.exists():
        pytest.skip(f"needs {COCO}")
    _, found = average_precision(*coco_matches(), definition="coco")
    assert found.mean() == pytest.approx(0.504581, abs=1e-6)
    assert found[..., 0].mean() == pytest.approx(0.696973, abs=1e-6)
    assert found[..., 5].mean() == pytest.approx(0.572982, abs=1e-6)


@given(sizes, st.sampled_from(["ultralytics", "coco", "ultralytics-8.3"]))
def test_an_image_that_counts_twice_is_there_twice(size, definition):
    matches, truth = drawn(*size)
    images = 1 + max([*matches.image, *truth.image])
    counts = np.ones((2, images), int)
    counts[1] = 2
    counts[0, 0] = 0
    _, weighted = average_precision(matches, truth, counts, definition)
    # All images twice leaves every precision and recall as it was, up to the lines between hits of one confidence.
    _, once = average_precision(matches, truth, None, definition)
    assert np.allclose(weighted[1], once[0], atol=1e-12)
    without = Matches(*(a[matches.image != 0] for a in (matches.image, matches.confidence, matches.label, matches.hit)))
    left = Truth(truth.image[truth.image != 0], truth.label[truth.image != 0])
    classes, removed = average_precision(without, left, np.ones((1, images), int), definition)
    here = np.isin(np.unique(truth.label), classes)
    assert np.allclose(weighted[0][here], removed[0], atol=1e-12)
    assert np.isnan(weighted[0][~here]).all()


def test_sign_flips_are_counted_exactly():
    differences = np.array([0.3, 0.1, -0.2, 0.5])
    sums = [abs(np.dot(differences, signs)) for signs in itertools.product((1, -1), repeat=4)]
    assert sign_flip(differences) == np.mean([s >= abs(differences.sum()) - 1e-12 for s in sums])
    assert sign_flip(np.ones(6)) == 2**-5
    assert sign_flip(np.zeros(6)) == 1
    many = np.random.default_rng(0).normal(0.3, 1, (5, 17))  # where flips are drawn
    t_test = stats.ttest_1samp(many, 0, axis=1).pvalue
    assert np.abs(sign_flip(many) - t_test).max() < 0.02
    assert sign_flip(np.ones(30)) == 2**-13
    assert sign_flip(np.array([[1.0, 1.0], [1.0, -1.0]])).tolist() == [0.5, 1.0]


def holm(p: list[float]) -> list[float]:
    """P values adjusted for having asked several times, by the definition."""
    ranked = sorted(p)
    return [max(min(1.0, (len(p) - k) * ranked[k]) for k in range(ranked.index(value) + 1)) for value in p]


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_questions_that_share_a_level_are_decided_after_holm(seed, count):
    rng = np.random.default_rng(seed)
    asked = [
        (d := rng.normal(rng.choice([0, 1.5]), 1, 7), d[:, None] + rng.normal(0, 0.3, (7, 90))) for _ in range(count)
    ]
    alone = [float(verdict.two_level_p(*one)) for one in asked]
    told = verdict.two_level(asked)
    for (p, low, high), own, adjusted, (each, _) in zip(told, alone, holm(alone), asked, strict=True):
        assert (p <= 0.05) == (adjusted <= 0.05) == (low > 0 or high < 0)
        assert max(own, adjusted) <= p + 1e-12
        assert low < each.mean() < high
    first = int(np.argmin(alone))
    assert told[first][0] == pytest.approx(min(1, count * alone[first]))
    assert told[first][1:] == pytest.approx(interval(*asked[first], 0.05 / count))
    if count == 1:
        assert told[0][1:] == interval(*asked[0])


def test_questions_that_share_a_level_seldom_claim_what_is_not_so():
    # Of 3,000 such studies 6.7 % did; a quarter does without the adjustment.
    rng, claimed = np.random.default_rng(5), 0
    for _ in range(400):  # five slices, a spread by seeds and one by images, no effect
        noise = rng.normal(0, 0.5, (5, 1, 60))
        each = rng.normal(0, 1, (5, 6)) + rng.normal(0, 0.5, (5, 1))
        claimed += any(p <= 0.05 for p, *_ in verdict.two_level([*zip(each, each[..., None] + noise, strict=True)]))
    assert claimed / 400 < 0.067 + 2.5 * (0.067 * 0.933 / 400) ** 0.5


def test_power_is_the_t_tests():
    rng = np.random.default_rng(0)
    for effect, seeds in ((1.0, 6), (1.43, 6), (0.5, 20)):
        found = stats.ttest_1samp(rng.normal(effect, 1, (20_000, seeds)), 0, axis=1).pvalue < 0.05
        assert verdict.power(effect, seeds) == pytest.approx(found.mean(), abs=0.012)
    known = {3: 3.26, 4: 2.13, 5: 1.68, 6: 1.43, 8: 1.16, 10: 1.00, 20: 0.66}
    assert {n: round(verdict.detectable(n), 2) for n in known} == known
    assert verdict.detectable(1) == np.inf
    # Two seeds find nothing where several arms share the level, however large it is.
    assert verdict.detectable(2, 0.05 / 3) == np.inf
    assert [verdict.fewest_seeds(0.05 / arms) for arms in (1, 2, 7)] == [6, 7, 9]


# Simulated studies: seeds, images, and both together vary the difference; mu is the truth.
STUDIES = {
    "seeds only": (1, 0, 0),
    "images only, alike for all seeds": (0.001, 10, 0.001),
    "all three": (1, 3, 5),
    "seeds and images together": (0.5, 0, 10),
}


def simulated(rng, studies: int, seeds: int, deviations: tuple[float, float, float], mu: float, images: int = 100):
    by_seed, by_image, by_both = deviations
    scores = mu + rng.normal(0, by_seed, (studies, seeds, 1)) + rng.normal(0, by_image, (studies, 1, images))
    scores = scores + rng.normal(0, by_both, (studies, seeds, images))
    counts = draw_images(images, 200, int(rng.integers(2**31)))
    return scores.mean(-1), scores @ (counts.T / images)


@pytest.mark.parametrize("seeds", swept([4, 6, 10], "6"))
@pytest.mark.parametrize("name", STUDIES)
def test_intervals_cover_the_truth_as_often_as_they_say(name, seeds):
    rng = np.random.default_rng(seeds)
    differences, resampled = simulated(rng, 3000, seeds, STUDIES[name], mu=1.0)
    low, high = interval(differences, resampled)
    assert 0.93 <= np.mean((low <= 1.0) & (high >= 1.0)) <= 0.97
    # Its p value is of the same decision.
    p = verdict.two_level_p(differences, resampled)
    assert ((p <= 0.05) == ((low > 0) | (high < 0))).all()


def one(differences, margin: float, spread: float = 0.0, looks: Looks | None = None):
    differences = np.array(differences, float)
    noise = np.random.default_rng(0).normal(0, spread, 400)
    return judge([(differences, differences[:, None] + noise)], margin, looks)[0]


def test_words():
    assert one([1.0, 1.1, 0.9, 1.2, 1.0, 0.8], margin=0.5).outcome == "helps"
    assert one([-1.0, -1.1, -0.9, -1.2, -1.0, -0.8], margin=0.5).outcome == "hurts"
    assert one([0.1, -0.1, 0.05, -0.05, 0.1, -0.1], margin=0.5).outcome == "equivalent"
    unsure = one([2.0, -1.0, 1.5, -0.5, 1.0, 0.2], margin=0.5)
    assert (unsure.outcome, unsure.reason, unsure.seeds, unsure.final) == ("inconclusive", "seeds", 6, True)
    assert unsure.needed > 6
    # All seeds agree, but other images might say otherwise.
    images = one([1.0, 1.1, 0.9, 1.2, 1.0, 0.8], margin=0.5, spread=2.0)
    assert (images.outcome, images.reason, images.needed) == ("inconclusive", "images", None)
    assert images.more_images > 1


def test_an_effect_about_the_margin_is_not_called_none():
    # An interval that leaves 0 and the margin open, here from +0.28 to +0.86 points.
    found = one([0.0068] * 5 + [0.0], margin=0.005)
    assert found.outcome == "inconclusive"
    assert (found.low, found.high) == (0.0, pytest.approx(0.00858, abs=1e-5))
    assert found.p == 0.0625


def test_three_seeds_say_nothing():
    for differences in ([0.001, 0.0011, 0.0009], [0.0, 0.0, 0.0], [-0.3, -0.31, -0.29]):
        found = one(differences, margin=0.005)
        assert (found.outcome, found.low, found.high) == ("inconclusive", None, None)
    # Neither do five that agree: sign flips cannot fall below 0.0625.
    assert one([1.0, 1.1, 0.9, 1.2, 1.0], margin=2.0).outcome == "inconclusive"
    assert one([0.0] * 5, margin=0.5).outcome == "inconclusive"


def test_seeds_that_agree_exactly():
    assert verdict.power(1e16, 6) == pytest.approx(1)
    same = one([1.0] * 6, margin=0.5)
    assert (same.outcome, same.low, same.high) == ("helps", 1.0, 1.0)
    assert one([0.1] * 6, margin=0.5).outcome == "helps"
    assert one([0.0] * 6, margin=0.5).outcome == "equivalent"


def test_one_run_decides():
    few = [0.30, 0.28, 0.31, 0.29, 0.27, 0.30]
    assert one(few, margin=0.1).outcome == "helps"
    # All above 0, and one run more that fails as runs here can would change that.
    found = one([0.30, 0.05, 0.15, 0.12, 0.45, 0.10], margin=0.1)
    assert (found.outcome, found.reason) == ("inconclusive", "run")
    assert found.low > 0
    assert found.p <= 0.05
    # Without its best run, the claim is gone.
    best = [0.02, 0.05, -0.01, 0.04, 0.06, 0.03, 0.05, 0.02, 0.01, 0.14]
    found = one(best, margin=0.01)
    assert (found.outcome, found.reason) == ("inconclusive", "run")
    assert found.middle == pytest.approx(np.sort(best)[3:7].sum() * 0.2 + np.sort(best)[[2, 7]].sum() * 0.1)
    assert found.middle < found.mean


def test_holm_counts_the_arms():
    good = np.array([1.0, 1.1, 0.9, 1.2, 1.0, 0.8])
    arm = (good, good[:, None] + np.zeros(50))
    assert [each.outcome for each in judge([arm], margin=5.0)] == ["helps"]
    # 2^-5 times two is more than 0.05: two arms need seven seeds.
    both = judge([arm, arm], margin=5.0)
    assert [(each.p, each.outcome, each.low) for each in both] == [(0.0625, "inconclusive", None)] * 2
    seven = np.append(good, 1.1)
    noise = np.random.default_rng(3).normal(0, 0.4, 7)
    arms = [(each, each[:, None] + np.zeros(50)) for each in (seven, noise - noise.mean() + 0.1)]
    helped, other = judge(arms, margin=0.05)
    assert helped.outcome == "helps"
    # The arm that helped has used its part of the level: the other is judged as if it were alone.
    alone = one(arms[1][0], margin=0.05)
    assert (other.low, other.high) == (alone.low, alone.high)
    assert other.p >= alone.p


@given(st.integers(0, 10**6), st.integers(6, 11), st.sampled_from([0.0, 0.3, 1.0, 3.0]), st.integers(1, 4))
def test_p_and_interval_and_word_never_disagree(seed, seeds, mu, count):
    rng = np.random.default_rng(seed)
    arms = [simulated(rng, 1, seeds, STUDIES["all three"], mu) for _ in range(count)]
    for found in judge([(d[0], r[0]) for d, r in arms], margin=1.0):
        bounded = found.low is not None
        excluded = bounded and (found.low > 0 or found.high < 0)
        assert excluded == (found.p <= 0.05)
        claimed, inside = found.outcome in ("helps", "hurts"), bounded and -1.0 < found.low and found.high < 1.0
        assert excluded or not (claimed or found.reason == "run")
        assert (found.outcome == "equivalent") == (inside and not claimed)
        assert (found.reason == "run") == (excluded and not inside and not claimed)
        if bounded:
            assert found.low <= found.mean <= found.high


def test_the_interval_is_the_hull_of_both():
    differences = np.array([0.9, 1.1, 1.0, 1.05, 0.95, 1.4, 1.0, 1.02])
    flips = SignFlips(differences, Looks((8,))).interval(0.05)
    # What sign flips reject, by brute force.
    kept = [shift for shift in np.linspace(0.8, 1.5, 1401) if sign_flip(differences - shift) > 0.05]
    assert flips == (pytest.approx(min(kept), abs=6e-4), pytest.approx(max(kept), abs=6e-4))
    t = interval(differences, differences[:, None] + np.zeros(9))
    found = one(differences, margin=0.1)
    assert (found.low, found.high) == (min(flips[0], t[0]), max(flips[1], t[1]))


# Looks ---------------------------------------------------------------------------------------------------------------

OPEN = Looks.between(6, 24)


def test_looks_begin_where_they_can_tell():
    assert OPEN.seeds == (6, 8, 12, 16, 24)
    assert Looks.between(6, 24, claims=3).seeds == (8, 12, 16, 24)
    assert Looks.between(8, 40).seeds == (8, 12, 16, 24, 32, 40)
    assert Looks.between(6, 6).seeds == (6,)
    assert Looks.between(3, 4).seeds == (4,)
    for claims in (1, 2, 3, 8):
        looks = Looks.between(6, 24, claims)
        assert sum(looks.shares) == pytest.approx(1)
        assert looks.shares[0] * 0.05 / claims >= 2.0 ** (1 - looks.seeds[0])


def test_looks_spend_the_level_and_no_more():
    # Given their sizes, all patterns of signs are as likely: how many are rejected at any look is the error rate.
    looks = Looks((6, 8, 10))
    sizes = np.abs(np.random.default_rng(0).normal(size=10))
    for level in (0.05, 0.2):
        wrong = np.mean([SignFlips(sizes * flipped, looks).rejects(0.0, level) for flipped in verdict.signs(10)])
        assert 0.6 * level <= wrong <= level


def test_a_single_look_is_the_plain_test():
    for n in (6, 9, 12):
        differences = np.random.default_rng(n).normal(0.4, 1, n)
        assert SignFlips(differences, Looks((n,))).p() == pytest.approx(float(sign_flip(differences)), rel=1e-6)
    assert Looks((6,)).nominal(0.05) == 0.05
    # Pocock's constants for equally many seeds between looks.
    assert Looks((6, 12)).nominal(0.05) == pytest.approx(0.0294, abs=1e-4)
    assert Looks((6, 12, 18, 24, 30)).nominal(0.05) == pytest.approx(0.0158, abs=1e-4)
    assert Looks((6, 12)).overall(0.0294) == pytest.approx(0.05, abs=2e-4)


def test_an_arm_keeps_its_word_and_the_others_go_on():
    rng = np.random.default_rng(0)
    clear, unsure = 3 + rng.normal(0, 0.3, 24), rng.normal(0, 3, 24)
    arms = [(each, each[:, None] + np.zeros(50)) for each in (clear, unsure)]
    looks = Looks.between(6, 24, claims=2)
    at_first = judge([(d[:7], r[:7]) for d, r in arms], 0.5, looks)
    assert [(each.outcome, each.final, each.next) for each in at_first] == [
        ("helps", True, None),
        ("inconclusive", False, 12),
    ]
    later = judge([(arms[0][0][:7], arms[0][1][:7]), arms[1]], 0.5, looks)
    assert later[0] == at_first[0]
    assert (later[1].seeds, later[1].final) == (24, True)
    early = judge([(d[:5], r[:5]) for d, r in arms], 0.5, looks)
    assert {(each.outcome, each.final, each.next, each.p, each.low) for each in early} == {
        ("preliminary", False, 7, None, None)
    }


def test_it_ends_where_only_images_would_tell():
    rng = np.random.default_rng(1)
    differences = rng.normal(0.2, 0.1, 12)
    found = one(differences, margin=0.5, spread=0.6, looks=OPEN)
    assert (found.outcome, found.reason, found.final) == ("inconclusive", "images", True)
    assert found.seeds <= 12


def test_probability_that_a_new_run_is_better():
    differences = np.array([1.0, 2.0, 1.5, -0.5, 1.2, 0.8])
    share, low, high = verdict.probability_better(differences, differences[:, None] + np.zeros(100))
    assert share == pytest.approx(5 / 6)
    assert (low, high) == tuple(pytest.approx(bound) for bound in stats.binomtest(5, 6).proportion_ci(method="exact"))
    noise = np.random.default_rng(0).normal(0, 3, 2000)
    share, low, high = verdict.probability_better(differences, differences[:, None] + noise)
    assert share == pytest.approx(stats.norm.cdf(differences / 3).mean(), abs=0.02)
    assert low < 0.2  # images alone decide the sign, so all seeds together are worth about one pair
    assert verdict.probability_better(np.zeros(6), np.zeros((6, 10)))[0] == 0.5
    assert verdict.probability_better(np.ones(6), np.ones((6, 10))) == (1, pytest.approx(0.5407, abs=1e-4), 1)


def test_with_folds_the_t_test_is_the_corrected_resampled_one():
    """Bouckaert and Frank (2004): mean over the root of (1 / n + test / train) of the variance, n - 1 degrees."""
    d = np.array([0.9, 1.4, 0.2, 1.1, 0.7, 1.6, 0.4, 1.3, 0.8, 1.0])
    drawn = d[:, None] + np.random.default_rng(0).normal(size=(10, 50))  # is not read
    t = d.mean() / np.sqrt((1 / 10 + 1 / 4) * d.var(ddof=1))
    assert verdict.two_level_p(d, drawn, 1 / 4) == pytest.approx(2 * stats.t.sf(t, 9))
    low, high = verdict.interval(d, drawn, 0.05, 1 / 4)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 9) * d.mean() / t)
    # Where nothing is held out for many that are trained on, it is the plain one.
    assert verdict.two_level_p(d, drawn, 0.0) == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    (found,) = verdict.judge([(d, drawn)], 0.05, verdict.Looks((10,), 1, 1 / 4))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(max(verdict.two_level_p(d, drawn, 1 / 4), verdict.sign_flip(d)))
    (plain,) = verdict.judge([(d, np.repeat(d[:, None], 2, 1))], 0.05, verdict.Looks((10,)))
    assert plain.high - plain.low < (high - low) / 1.5
    assert plain.better_low > found.better_low
    with np.errstate(all="raise"):
        (same,) = verdict.judge([(np.full(10, 0.01), np.full((10, 2), 0.01))], 0.05, verdict.Looks((10,), 1, 1 / 4))
    assert same.outcome == "helps"


def test_with_folds_more_seeds_find_no_more_than_the_shared_images_leave():
    rng = np.random.default_rng(1)
    for seeds, effect in ((10, 1.5), (30, 1.5)):
        shared, own = rng.normal(size=(2, 4000, seeds))
        d = np.sqrt(0.8) * (effect + own) + np.sqrt(0.2) * shared[:, :1]  # as the correction supposes
        power = (verdict.two_level_p(d, d[..., None], 1 / 4) <= 0.05).mean()
        assert verdict.power(effect, seeds, held_out=1 / 4) == pytest.approx(power, abs=0.05)
    assert verdict.detectable(10, held_out=1 / 4) == pytest.approx(verdict.detectable(10) * np.sqrt(1 + 10 / 4))
    assert verdict.detectable(1000, held_out=1 / 4) > 1.4
    d = np.tile([0.1, 0.3], 5)
    (found,) = verdict.judge([(d - 0.17, d[:, None])], 0.05, verdict.Looks((10,), 1, 1 / 4))
    assert (found.outcome, found.reason, found.needed) == ("inconclusive", "images", None)
