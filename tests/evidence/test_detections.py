"""Stored detections: COCO's matching against its literal loop and pycocotools' numbers, scores counted by hand."""

import dataclasses
import itertools
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxes import drawn
from foveal import UserError
from foveal.evidence import SIZES, TASKS, THRESHOLDS, Detections, iou, match
from foveal.verdict import average_precision

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco_eval_golden"


def made(found: list[tuple], there: list[tuple], images: int = 1) -> Detections:
    """Detections from (image, label, confidence, box) and (image, label, box)."""
    image, label, confidence, box = zip(*found, strict=True) if found else ((), (), (), ())
    true_image, true_label, true_box = zip(*there, strict=True) if there else ((), (), ())
    return Detections(
        name=np.array([f"{index}.jpg" for index in range(images)]),
        image=np.array(image, int),
        box=np.array(box, float).reshape(-1, 4),
        confidence=np.array(confidence, float),
        label=np.array(label, int),
        hit=np.zeros((len(found), 10), bool),
        true_image=np.array(true_image, int),
        true_box=np.array(true_box, float).reshape(-1, 4),
        true_label=np.array(true_label, int),
    )


def coco() -> Detections:
    """The example of the COCO API without crowds."""
    if not COCO.exists():
        pytest.skip(f"needs {COCO}")
    stored = json.loads((COCO / "instances_val2014_100.json").read_text())
    results = json.loads((COCO / "instances_val2014_fakebbox100_results.json").read_text())
    place = {image: index for index, image in enumerate(sorted(image["id"] for image in stored["images"]))}
    there = [a for a in stored["annotations"] if not a["iscrowd"]]

    def corners(of: dict) -> tuple:
        x, y, w, h = of["bbox"]
        return x, y, x + w, y + h

    return made(
        [(place[r["image_id"]], r["category_id"], r["score"], corners(r)) for r in results],
        [(place[a["image_id"]], a["category_id"], corners(a)) for a in there],
        len(place),
    )


# Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [drawn, lambda: made([], [(0, 1, (0, 0, 5, 5))]), lambda: made([], [], 3)])
def test_what_is_saved_is_loaded(tmp_path, which):
    before = dataclasses.replace(which(), name=np.array(["蚂蚁 1.jpg"] * len(which().name)))
    before.save(tmp_path / "best.npz")
    after = Detections.load(tmp_path / "best.npz")
    for name, array in dataclasses.asdict(before).items():
        read = getattr(after, name)
        assert (read.dtype, read.shape) == (array.dtype, array.shape), name
        assert (read == array).all(), name
    assert [path.name for path in tmp_path.iterdir()] == ["best.npz"]


def test_a_file_that_is_none_or_cut_short_or_damaged_is_refused(tmp_path):
    path = tmp_path / "best.npz"
    with pytest.raises(UserError, match=r"cannot read detections from .*best\.npz"):
        Detections.load(path)
    drawn().save(path)
    whole = path.read_bytes()
    for length in (*range(0, 300, 7), *range(300, len(whole), 1997), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="run the study again"):
            Detections.load(path)
    refused, right = 0, dataclasses.asdict(drawn())
    for at in (*range(0, 400, 3), *range(400, len(whole), 311), *range(len(whole) - 900, len(whole), 5)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            after = Detections.load(path)
        except UserError:
            refused += 1
        else:  # a date, or something else that nobody needs
            assert all((getattr(after, name) == array).all() for name, array in right.items()), at
    assert refused > 200
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(path, name=np.zeros(3))
    with (tmp_path / "objects.npz").open("wb") as file:
        np.savez(file, **(right | {"name": np.array([{}], object)}))
    with zipfile.ZipFile(tmp_path / "header.npz", "w") as file:
        file.writestr("name.npy", b"\x93NUMPY\x01\x00\x0b\x00{'descr': (\n")
    for other in (tmp_path / "array.npy", path, tmp_path / "objects.npz", tmp_path / "header.npz", tmp_path):
        with pytest.raises(UserError, match="cannot read detections"):
            Detections.load(other)


# Matching ----------------------------------------------------------------------------------------------------------


def loop(overlaps: np.ndarray, ignored: np.ndarray, threshold: float) -> list[int]:
    """COCO's assignment as its authors describe it, one detection and one object at a time."""
    objects = sorted(range(len(ignored)), key=lambda index: ignored[index])
    taken = []
    for row in overlaps:
        best, at = threshold, -1
        for index in objects:
            if index in taken:
                continue
            if at >= 0 and ignored[index] and not ignored[at]:
                break
            if row[index] >= best:
                best, at = row[index], index
        taken.append(at)
    return taken


# Overlaps that are equal, that differ by one rounding, and that are exactly a threshold.
steps = [0.0, 0.3, 0.7, *THRESHOLDS, 1.0]
steps += [float(np.nextafter(step, 2)) for step in steps]


@st.composite
def tables(draw):
    detections, objects = draw(st.integers(0, 6)), draw(st.integers(0, 5))
    values = draw(st.lists(st.sampled_from(steps), min_size=detections * objects, max_size=detections * objects))
    ignored = draw(st.lists(st.booleans(), min_size=objects, max_size=objects))
    return np.array(values, float).reshape(detections, objects), np.array(ignored, bool)


@given(tables())
def test_matching_is_cocos_loop(table):
    overlaps, ignored = table
    found = match(overlaps, ignored)
    assert found.shape == (len(overlaps), len(THRESHOLDS))
    for column, threshold in zip(found.T, THRESHOLDS, strict=True):
        assert column.tolist() == loop(overlaps, ignored, threshold)


def test_the_larger_of_two_overlaps_wins_by_the_last_digit():
    overlaps = np.array([[np.nextafter(0.7, 1), 0.7]])
    assert match(overlaps, np.array([False, False]))[0, 0] == 0
    assert match(np.array([[0.7, 0.7]]), np.array([False, False]))[0, 0] == 1  # of equal ones the last
    assert match(np.array([[0.6, 0.9]]), np.array([False, True])).tolist() == [[0] * 3 + [1] * 6 + [-1]]


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 4), min_size=2, max_size=8))
def test_overlap_is_counted_in_pixels(boxes):
    """Of boxes with whole corners the pixels can be counted; one without area overlaps nothing."""
    boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes], np.float32)
    found = iou(boxes, boxes[1:])
    pixels = [set(itertools.product(range(int(a), int(c)), range(int(b), int(d)))) for a, b, c, d in boxes]
    for i, j in itertools.product(range(len(boxes)), range(len(boxes) - 1)):
        both, any_ = pixels[i] & pixels[j + 1], pixels[i] | pixels[j + 1]
        assert found[i, j] == pytest.approx(len(both) / max(1, len(any_)), abs=1e-9)


# Sizes ---------------------------------------------------------------------------------------------------------------


# From pycocotools 2.0.11: bbox, maxDets [1, 10, 1000], areas of the boxes, areaRng [0, 1024 - 1e-6],
# [1024, 9216 - 1e-6] and [9216, 1e10]. COCO itself counts what is exactly 1024 or 9216 in both sizes; the second set
# has no such boxes, and COCO's own ranges give the same numbers.
@pytest.mark.parametrize(
    ("which", "known"),
    [
        (drawn, (0.2760829121436676, 0.38405429377301026, 0.5268170210339449)),
        (coco, (0.593252103002719, 0.5579906676111427, 0.48936321019618756)),
    ],
)
def test_averages_of_each_size_are_those_of_pycocotools(which, known):
    detections = which()
    shuffled = np.random.default_rng(0).permutation(len(detections.image))
    mixed = {n: getattr(detections, n)[shuffled] for n in ("image", "box", "confidence", "label", "hit")}
    for name, number in zip(SIZES, known, strict=True):
        _, found = average_precision(*detections.of_size(name), definition="coco")
        assert found.mean() == pytest.approx(number, abs=1e-9), name
        _, again = average_precision(*dataclasses.replace(detections, **mixed).of_size(name), definition="coco")
        # Some confidences of the second set are equal, and their order is left open.
        assert again.mean() == pytest.approx(number, abs=1e-9 if which is drawn else 1e-3), name


@st.composite
def scenes(draw):
    """Few images and classes, with boxes of all sizes that often coincide."""
    sides = st.sampled_from([20, 30, 32, 40, 90, 96, 110])
    corners = st.sampled_from([0, 4])

    def box():
        x, y, w, h = draw(corners), draw(corners), draw(sides), draw(sides)
        return x, y, x + w, y + h

    def where():
        return draw(st.integers(0, 2)), draw(st.integers(0, 1))

    there = [(*where(), box()) for _ in range(draw(st.integers(0, 6)))]
    confidences = draw(st.lists(st.integers(0, 99), max_size=8, unique=True))
    return made([(*where(), confidence / 100, box()) for confidence in confidences], there, 3)


@given(scenes(), st.sampled_from(list(SIZES)))
def test_each_detection_of_a_size_counts_as_in_cocos_loop(scene, name):
    low, high = SIZES[name]
    matches, truth = scene.of_size(name)

    def outside(box):
        return not low <= (box[2] - box[0]) * (box[3] - box[1]) < high

    for image, label in itertools.product(range(3), range(2)):
        mine = np.flatnonzero((scene.image == image) & (scene.label == label))
        mine = mine[np.argsort(-scene.confidence[mine])]
        theirs = np.flatnonzero((scene.true_image == image) & (scene.true_label == label))
        other = np.array([outside(scene.true_box[index]) for index in theirs], bool)
        assert ((truth.image == image) & (truth.label == label)).sum() == (~other).sum()
        overlaps = iou(scene.box[mine], scene.true_box[theirs])
        for column, threshold in enumerate(THRESHOLDS):
            for index, at in zip(mine, loop(overlaps, other, threshold), strict=True):
                hit = at >= 0 and not other[at]
                ignored = other[at] if at >= 0 else outside(scene.box[index])
                assert (matches.hit[index, column], matches.ignored[index, column]) == (hit, ignored)


def test_a_detection_of_another_size_where_nothing_is_counts_for_nothing():
    # A large one on an image without objects, and one of a class that is not there.
    scene = made([(0, 0, 0.9, (0, 0, 20, 20)), (1, 0, 0.95, (0, 0, 200, 200))], [(0, 0, (0, 0, 20, 20))], 2)
    _, found = average_precision(*scene.of_size("small"), definition="coco")
    assert found.mean() == 1
    assert scene.of_size("small")[0].ignored[1].all()
    assert not scene.of_size("large")[0].ignored[1].any()


def test_every_object_has_one_size():
    scene = drawn()
    assert sum(len(scene.of_size(name)[1].image) for name in SIZES) == len(scene.true_image)


# Scores --------------------------------------------------------------------------------------------------------------

HERE, THERE, ODD = (0, 0, 10, 10), (50, 50, 60, 60), (0, 0, 10, 4)  # the third overlaps the first by 0.4


@pytest.mark.parametrize(
    ("found", "there", "score"),
    [
        ([], [], 1),
        ([], [(0, 0, HERE)], 0),
        ([(0, 0, 0.9, HERE)], [], 0),
        ([(0, 0, 0.9, HERE)], [(0, 0, HERE)], 1),
        ([(0, 0, 0.25, HERE)], [(0, 0, HERE)], 1),  # as sure as is asked for
        ([(0, 0, 0.2, HERE)], [(0, 0, HERE)], 0),  # not sure enough, and so not there
        ([(0, 0, 0.2, HERE)], [], 1),
        ([(0, 1, 0.9, HERE)], [(0, 0, HERE)], 0),  # another class
        ([(0, 0, 0.9, ODD)], [(0, 0, HERE)], 0),
        ([(0, 0, 0.9, (0, 0, 10, 5))], [(0, 0, HERE)], 1),  # half of it
        ([(0, 0, 0.9, HERE), (0, 0, 0.8, HERE)], [(0, 0, HERE)], 2 / 3),  # found twice
        ([(0, 0, 0.9, HERE), (0, 0, 0.8, HERE)], [(0, 0, HERE), (0, 0, HERE)], 1),
        ([(0, 0, 0.9, HERE)], [(0, 0, HERE), (0, 0, THERE)], 2 / 3),
        ([(0, 0, 0.9, HERE), (0, 0, 0.9, ODD)], [(0, 0, HERE), (0, 0, THERE)], 1 / 2),
        ([(0, 0, 0.9, HERE), (0, 1, 0.9, THERE)], [(0, 0, HERE), (0, 1, THERE)], 1),
    ],
)
def test_the_score_of_an_image(found, there, score):
    assert made(found, there).scores().tolist() == pytest.approx([score])


def test_scores_of_several_images_stay_apart():
    scene = made(
        [(2, 0, 0.9, HERE), (0, 0, 0.9, HERE), (2, 0, 0.6, THERE)],
        [(2, 0, HERE), (2, 0, THERE), (3, 0, HERE)],
        5,
    )
    assert scene.scores().tolist() == [0, 1, 1, 0, 1]
    assert scene.scores(confidence=0.7).tolist() == pytest.approx([0, 1, 2 / 3, 0, 1])
    assert scene.scores(confidence=0.99).tolist() == [1, 1, 0, 0, 1]


# Slices --------------------------------------------------------------------------------------------------------------


def only(found: Detections, images: np.ndarray) -> Detections:
    """What was found on some of the images, as if there were no others."""
    number, mine, theirs = np.cumsum(images) - 1, images[found.image], images[found.true_image]
    values = {key: getattr(found, key)[mine] for key in ("box", "confidence", "label", "hit")}
    values |= {key: getattr(found, key)[theirs] for key in ("true_box", "true_label")}
    values |= {"image": number[found.image[mine]], "true_image": number[found.true_image[theirs]]}
    return Detections(name=found.name[images], rule=found.rule, **values)


def test_a_slice_is_averaged_as_if_there_were_no_other_images(tmp_path, monkeypatch):
    averages = pytest.importorskip("foveal.evidence.averages", reason="scipy is not installed")
    monkeypatch.setattr(averages, "RESAMPLES", 40)
    found = drawn()
    hit = np.random.RandomState(1).rand(len(found.image), 1) < np.linspace(0.8, 0.1, 10)
    found = dataclasses.replace(found, hit=hit)
    found.save(tmp_path / "best.npz")
    slices = np.array([np.arange(40) < 11, np.arange(40) % 3 == 0, np.arange(40) == 5])
    asked = []

    def members(names):
        asked.append(names.tolist())
        return slices

    kept = averages.within(tmp_path, members, TASKS["detect"])
    assert asked == [found.name.tolist()]
    assert kept.shape == (3, 41)
    counts = averages.image_counts(40)
    for row, images in zip(kept, slices, strict=True):
        alone = only(found, images)
        assert row[0] == pytest.approx(alone.figures()["map"], abs=1e-12)
        with np.errstate(invalid="ignore"):
            theirs = alone.averages(counts[:, images], sizes=False)["overall"]
        np.testing.assert_allclose(row, theirs, atol=1e-12)
        assert sum(found.objects(images).values()) == len(alone.true_image)
    assert np.isnan(kept[2]).any(), "one image is not always drawn"
    assert not np.isnan(kept[:2]).any()
    # What was asked last is kept: the same is read, another is computed anew.
    again, changed = slices, {"digest": np.load(tmp_path / "slices.npz")["digest"], "overall": kept + 1}
    np.savez(tmp_path / "slices.npz", **changed)
    assert np.array_equal(averages.within(tmp_path, members, TASKS["detect"]), kept + 1, equal_nan=True)
    slices = again[::-1]
    assert np.array_equal(averages.within(tmp_path, members, TASKS["detect"]), kept[::-1], equal_nan=True)
    (tmp_path / "slices.npz").write_bytes(b"PK")
    assert np.array_equal(averages.within(tmp_path, members, TASKS["detect"]), kept[::-1], equal_nan=True)
