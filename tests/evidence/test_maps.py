"""What a model said of pixels, and the averages of it."""

import dataclasses

import numpy as np
import pytest

from foveal import UserError
from foveal.evidence import GROUND, TASKS, Answers, Maps
from pixels import counted, drawn


def by_pixels(said: np.ndarray, true: np.ndarray, known: int) -> tuple[float, float, dict[int, float]]:
    """Mean IoU, pixel accuracy and IoU of each class that is there, pixel by pixel as they are defined."""
    said, true = said[true != 255], true[true != 255]
    classes = [1] if known == 1 else np.unique(true).tolist()
    each = {}
    for label in classes:
        union = (said == label) | (true == label)
        each[label - (known == 1)] = ((said == label) & (true == label)).sum() / union.sum() if union.any() else 0.0
    return (np.mean([*each.values()]) if each else np.nan), (said == true).mean() if len(true) else 0.0, each


@pytest.mark.parametrize("known", [1, 5])
def test_averages_of_resampled_images_are_those_of_repeated_pixels(known):
    """A class in no image, one that is drawn seldom, images of other sizes, and pixels without a class."""
    said, true = drawn(12, known)
    found = counted(said, true, known)
    counts = np.random.default_rng(1).integers(0, 3, (30, 12)).astype(np.int32)
    counts[0], counts[1], counts[2] = 1, 0, 0
    counts[2, -1] = 2  # which has no thing
    averages = found.averages(counts)
    assert averages["classes"].tolist() == ([0] if known == 1 else [0, 1, 2, 3]), "the last one has no pixel"
    assert np.isnan(averages["overall"][1]) == (known > 1)
    columns = (averages[key] for key in ("overall", "second", "miou"))
    for row, overall, second, of_class in zip(counts, *columns, strict=True):
        images = np.repeat(np.arange(12), row)
        pixels = [np.concatenate([np.zeros(0, int), *(of[image].ravel() for image in images)]) for of in (said, true)]
        mean, right, each = by_pixels(*pixels, known)
        assert overall == pytest.approx(mean, abs=1e-12, nan_ok=True)
        assert second == pytest.approx(right, abs=1e-12)
        known_here = [each.get(label, np.nan) for label in averages["classes"].tolist()]
        assert of_class.tolist() == pytest.approx(known_here, abs=1e-12, nan_ok=True)
    assert found.figures() == pytest.approx({"miou": averages["overall"][0], "pixel_accuracy": averages["second"][0]})
    assert found.figures().keys() == {*TASKS["semantic"].metric.keys}


def test_the_score_of_an_image_is_the_mean_of_the_classes_in_it():
    said = [np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 2]]), np.array([[1, 1, 1, 1]])]
    true = [np.array([[0, 0, 0, 1]]), np.array([[0, 0, 0, 0]]), np.array([[255, 255, 255, 255]])]
    found = counted(said, true, 3)
    assert found.scores() == pytest.approx([(2 / 3 + 1 / 2) / 2, 3 / 4, 1]), "nothing is labelled in the last one"
    assert found.of_image(0) == [(0, 3 / 4, pytest.approx(2 / 3)), (1, 1 / 4, 1 / 2)]
    assert found.of_image(1) == [(0, 1.0, 3 / 4), (2, 0.0, 0.0)]


def test_of_a_single_class_the_ground_counts_for_the_accuracy_alone():
    said = [np.array([[0, 0, 1, 1]]), np.array([[0, 0]]), np.array([[0, 1]])]
    true = [np.array([[0, 0, 0, 1]]), np.array([[0, 0]]), np.array([[0, 0]])]
    found = counted(said, true, 1)
    assert set(found.label) == {GROUND, 0}
    assert found.figures() == pytest.approx({"miou": 1 / 3, "pixel_accuracy": 6 / 8})
    assert found.scores() == pytest.approx([1 / 2, 1, 0]), "an image without the class is right where none is said"
    assert len(found.claims().true_label) == 1


def test_maps_are_read_as_they_were_written(tmp_path):
    found = counted(*drawn(6, 4), 4)
    found.save(tmp_path / "best.npz")
    again = Maps.load(tmp_path / "best.npz")
    assert again.is_whole()
    assert again.figures() == found.figures()
    said, true = again.cells(2)
    assert said.shape == true.shape == tuple(again.shape[2])
    assert again.same_images(found)
    assert not again.same_images(counted(*drawn(5, 4), 4))
    Answers(np.array(["a"]), np.zeros((1, 1), int), np.zeros(1, int)).save(tmp_path / "other.npz")
    with pytest.raises(UserError, match="cannot read maps from"):
        Maps.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    "change",
    [
        lambda of: {"label": of.label + 9},
        lambda of: {"both": of.true + 1},
        lambda of: {"said": of.said.astype(float)},
        lambda of: {"image": of.image - 1},
        lambda of: {"cell": of.cell[1:]},
        lambda of: {"shape": of.shape[:, :1]},
        lambda of: {"known": np.zeros(2, int)},
    ],
)
def test_maps_that_do_not_fit_together_are_known(change):
    found = counted(*drawn(6, 4), 4)
    assert found.is_whole()
    assert not dataclasses.replace(found, **change(found)).is_whole()
