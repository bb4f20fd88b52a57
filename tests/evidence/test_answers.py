"""What a classifier answered, and the averages of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal import UserError
from foveal.evidence import TASKS, Answers
from foveal.verdict import mcnemar

counted = st.integers(0, 400)


def drawn(images: int, classes: int = 7, seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    ranked = np.array([rng.permutation(classes)[:5] for _ in range(images)], np.int32)
    names = np.array([f"{index % classes}/{index}.png" for index in range(images)])
    return Answers(names, ranked, rng.integers(0, classes - 1, images).astype(np.int32))


@given(counted, counted)
def test_mcnemar_counts_both_tails_of_the_binomial(won, lost):
    tail = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1))
    assert mcnemar(won, lost) == pytest.approx(min(1, 2 * tail / 2 ** (won + lost)), rel=1e-9)


def test_mcnemar_of_known_numbers():
    """By hand: 2 * (1 + 10) / 2^10, and all of 5 on one side."""
    assert mcnemar(9, 1) == mcnemar(1, 9) == 22 / 1024
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar(3, 3) == 1.0


def test_accuracies_of_resampled_images_are_those_of_repeated_images():
    found = drawn(60)
    counts = np.random.default_rng(1).integers(0, 3, (20, 60)).astype(np.int32)
    counts[0] = 1
    counts[1, found.label == 2] = 0
    overall, classes, of_class = found.accuracy(counts)
    assert classes.tolist() == [0, 1, 2, 3, 4, 5], "the last one has no image"
    assert np.isnan(of_class[1, 2])
    for row, share, shares in zip(counts, overall, of_class, strict=True):
        images = np.repeat(np.arange(60), row)
        right = found.ranked[images, 0] == found.label[images]
        assert share == pytest.approx(right.mean())
        for label, of_label in zip(classes, shares, strict=True):
            mine = right[found.label[images] == label]
            assert np.isnan(of_label) if not len(mine) else of_label == pytest.approx(mine.mean())


def test_a_slice_of_answers_is_averaged_by_itself():
    found, rng = drawn(60), np.random.default_rng(2)
    images = np.arange(60) < 3
    counts = rng.multinomial(60, [1 / 60] * 60, 50) * images
    counts[0], counts[1] = images, 0
    overall = found.averages(counts)["overall"]
    assert overall[0] == found.scores()[:3].mean()
    assert np.isnan(overall[1]), "none of them was drawn"
    for row, share in zip(counts[2:], overall[2:], strict=True):
        right = np.repeat(found.scores()[:3], row[:3])
        assert share == pytest.approx(right.mean()) if len(right) else np.isnan(share)
    assert found.objects(images) == {}


def test_the_five_best_are_asked_too():
    found = Answers(np.array(["a", "b", "c"]), np.array([[0, 1, 2, 3, 4]] * 3), np.array([0, 4, 5]))
    assert found.scores().tolist() == [1, 0, 0]
    assert found.among_best().tolist() == [True, True, False]


def test_answers_are_stored_whole(tmp_path):
    found = drawn(12)
    found.save(tmp_path / "best.npz")
    again = Answers.load(tmp_path / "best.npz")
    assert [np.array_equal(getattr(again, name), getattr(found, name)) for name in ("name", "ranked", "label")] == [
        True
    ] * 3
    (tmp_path / "best.npz").write_bytes((tmp_path / "best.npz").read_bytes()[:80])
    with pytest.raises(UserError, match="cannot read answers from"):
        Answers.load(tmp_path / "best.npz")


# In results ----------------------------------------------------------------------------------------------------------


def test_averages_of_answers_are_kept_beside_them(tmp_path):
    averages = pytest.importorskip("foveal.evidence.averages", reason="Ultralytics is not installed")
    found = drawn(40)
    found.save(tmp_path / "best.npz")
    kept = averages.load(tmp_path, "best", TASKS["classify"])
    assert kept["overall"].shape == (1 + averages.RESAMPLES,)
    assert kept["top1"].shape == (1 + averages.RESAMPLES, 6)
    assert kept["overall"][0] == pytest.approx(found.scores().mean())
    assert kept["overall"].std() == pytest.approx((found.scores().var() / 40) ** 0.5, rel=0.1)
    assert found.figures() == {
        "top1": pytest.approx(kept["overall"][0]),
        "top5": pytest.approx(found.among_best().mean()),
    }
    (tmp_path / "best.npz").unlink()
    again = averages.load(tmp_path, "best", TASKS["classify"])
    (tmp_path / "averages-best.npz").rename(tmp_path / "kept.npz")
    found.save(tmp_path / "best.npz")
    np.savez(tmp_path / "averages-best.npz", classes=kept["classes"], map=kept["top1"])  # of another release
    assert averages.load(tmp_path, "best", TASKS["classify"]).keys() == kept.keys()
    assert all(np.array_equal(again[key], kept[key], equal_nan=True) for key in kept)


def test_each_pair_of_models_is_compared_by_itself():
    entries = pytest.importorskip("foveal.results.entries", reason="Ultralytics is not installed")
    name, label = np.array(["a/0.png", "a/1.png", "b/0.png", "b/1.png"]), np.array([0, 0, 1, 1])
    first = {  # answers of each arm and seed
        ("baseline", 0): [0, 0, 0, 0],
        ("ema", 0): [1, 0, 1, 1],
        ("baseline", 3): [0, 1, 1, 0],
        ("ema", 3): [0, 1, 1, 0],
    }

    def judged(arm: str, pair: int) -> Answers:
        ranked = np.array([[best, 1 - best] for best in first[arm, pair]])
        return Answers(name, ranked, label)

    assert entries._mcnemar("ema", [0, 3], judged) == (
        entries.Discordance(seed=0, won=2, lost=1, p=1.0),
        entries.Discordance(seed=3, won=0, lost=0, p=1.0),
    )
    images = entries.won_and_lost("ema", [0, 3], judged, lambda pair, names: np.arange(len(names)))
    assert [(one.name, one.baseline, one.arm) for one in images.won] == [
        ("b/0.png", 0.5, 1.0),
        ("b/1.png", 0.0, 0.5),
    ]
    assert [(one.name, one.difference) for one in images.lost] == [("a/0.png", -0.5)]
    assert (images.better, images.worse, images.equal) == (2, 1, 1)


def test_a_papers_figures_stand_beside_ours():
    pytest.importorskip("foveal.results.assembly", reason="Ultralytics is not installed")
    from foveal.results import assembly, entries
    from foveal.results.schema import Paper
    from foveal.study import Plan

    paper = {"source": "a title", "figures": {"baseline": 70, "ema": 72.5}, "images": {"train": 9}, "notes": ["alone"]}
    written = {"model": "yolo11n.yaml", "data": "coco.yaml", "arms": ["ema", "se"], "split": "val", "paper": paper}
    plan = Plan.of(written, look=False)
    assert assembly._paper(plan) == Paper("a title", "mAP50-95", ("alone",))
    assert entries.beside_paper(plan) == [(0.7, None), (0.725, pytest.approx(0.025)), (None, None)]
    # Of a model that the paper does not have.
    unknown = Plan.of({**written, "paper": {**paper, "figures": {}}}, look=False)
    assert assembly._paper(unknown) is None
    assert entries.beside_paper(unknown) == [(None, None)] * 3
