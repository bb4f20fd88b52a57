"""What each type of error costs, against a ranking written out by hand."""

import importlib.util

import numpy as np
import pytest

from foveal.evidence import TASKS, Answers, Detections, averages, error_types

pytest.importorskip("hotcoco", reason="hotcoco is not installed")

OBJECT, NEAR, FAR = (0, 0, 100, 100), (0, 0, 100, 30), (300, 300, 340, 340)  # NEAR overlaps OBJECT by 0.3
CAT, DOG = 4, 7

# An object of each image, and detections by falling confidence: what each is, its image, its class and its box.
THERE = [(image, CAT) for image in range(8)] + [(8, DOG), (9, DOG)]
FOUND = [
    ("hit", 0, CAT, OBJECT),
    ("duplicate", 0, CAT, OBJECT),
    ("hit", 1, CAT, OBJECT),
    ("background", 1, CAT, FAR),
    ("localisation", 2, CAT, NEAR),
    ("hit", 3, CAT, OBJECT),
    ("classification", 4, DOG, OBJECT),
    ("both", 5, DOG, NEAR),
    ("hit", 8, DOG, OBJECT),
]
# Hits and misses of both classes by confidence, and their objects; as it is, and with one type of error put right.
AS_IT_IS = ([1, 0, 1, 0, 0, 1], 8), ([0, 0, 1], 2)
PUT_RIGHT = {
    "classification": (([1, 0, 1, 0, 0, 1, 1], 8), ([0, 1], 2)),
    "localisation": (([1, 0, 1, 0, 1, 1], 8), ([0, 0, 1], 2)),
    "both": (([1, 0, 1, 0, 0, 1], 8), ([0, 1], 2)),
    "duplicate": (([1, 1, 0, 0, 1], 8), ([0, 0, 1], 2)),
    "background": (([1, 0, 1, 0, 1], 8), ([0, 0, 1], 2)),
    "missed": (([1, 0, 1, 0, 0, 1], 5), ([0, 0, 1], 1)),  # images 5, 6, 7 and 9
}


def by_hand(curves: tuple) -> float:
    """COCO's average precision, step by step: at 101 recalls the best precision from there on, over classes."""
    averages = []
    for hits, objects in curves:
        points = [(sum(hits[: n + 1]) / objects, sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))]
        best = [max((p for recall, p in points if recall >= wanted / 100), default=0) for wanted in range(101)]
        averages.append(sum(best) / 101)
    return sum(averages) / len(averages)


def detections(found=FOUND, there=THERE, images=10) -> Detections:
    kinds, image, label, box = zip(*found, strict=True) if found else ((),) * 4
    true_image, true_label = zip(*there, strict=True) if there else ((), ())
    return Detections(
        name=np.array([f"{index}.jpg" for index in range(images)]),
        image=np.array(image, int),
        box=np.array(box, np.float32).reshape(-1, 4),
        confidence=np.linspace(0.9, 0.1, len(found)).astype(np.float32),
        label=np.array(label, int),
        hit=np.array([[kind == "hit"] * 10 for kind in kinds], bool).reshape(-1, 10),
        true_image=np.array(true_image, int),
        true_box=np.array([OBJECT] * len(there), np.float32).reshape(-1, 4),
        true_label=np.array(true_label, int),
    )


def test_one_of_each_costs_what_is_counted_by_hand():
    gains = {kind: by_hand(curves) - by_hand(AS_IT_IS) for kind, curves in PUT_RIGHT.items()}
    assert min(gains.values()) > 0.005
    assert len({round(gain, 6) for gain in gains.values()}) == len(gains), "else types could be mixed up"
    assert error_types.costs(detections()) == pytest.approx(gains, abs=1e-9)
    assert [*error_types.costs(detections())] == [*gains]


def test_all_detections_of_an_image_count():
    """Also those beyond the hundred that COCO looks at."""
    many = [("background", 0, CAT, FAR)] * 150 + [("hit", 0, CAT, OBJECT)]
    assert error_types.costs(detections(many, THERE[:1], 1))["background"] == pytest.approx(1 - 1 / 151)


def test_what_has_no_boxes_or_no_objects_has_no_such_costs():
    assert error_types.costs(Answers(np.array(["a"]), np.array([[0, 1]]), np.array([1]))) == {}
    assert error_types.costs(detections(there=[])) == {}
    assert set(error_types.costs(detections(found=[])).values()) == {0.0}


def test_they_are_kept_beside_what_was_found(tmp_path, monkeypatch):
    detections().save(tmp_path / "best.npz")
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda name: None)
        assert averages.costs_of_errors(tmp_path, TASKS["detect"]) == {}
        assert [path.name for path in tmp_path.iterdir()] == ["best.npz"]
    first = averages.costs_of_errors(tmp_path, TASKS["detect"])
    assert first == error_types.costs(detections())
    (tmp_path / "best.npz").unlink()
    assert averages.costs_of_errors(tmp_path, TASKS["detect"]) == first
    detections().save(tmp_path / "best.npz")
    (tmp_path / "errors.npz").write_bytes((tmp_path / "errors.npz").read_bytes()[:99])
    assert averages.costs_of_errors(tmp_path, TASKS["detect"]) == first
