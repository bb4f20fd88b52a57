"""Masks, key points and rotated boxes as they are stored: matched by what the host measured, and drawn."""

import dataclasses

import numpy as np
import pytest

from boxes import drawn
from foveal import UserError
from foveal.evidence import SIZES, TASKS, THRESHOLDS, Detections, Masks, Poses, Rotated, error_types, iou
from foveal.evidence.shapes import Measured

LONGER = ("keypoint", "owner", "true_owner")  # of which there may be more: a line can be of no points


def measured(of: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of one image and class that can match, in no order."""
    alike = of.image[:, None] == of.true_image
    alike &= of.label[:, None] == of.true_label
    overlaps = iou(of.box, of.true_box) * alike
    pairs = np.stack((overlaps >= THRESHOLDS[0]).nonzero(), 1)
    pairs = np.random.default_rng(0).permutation(pairs)
    return pairs, overlaps[tuple(pairs.T)]


def area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1).astype(float)


def masks(**changes: object) -> Masks:
    """Masks that fill their boxes; by mask nothing is a hit, by box every third detection is at some thresholds."""
    boxes = drawn()
    pair, overlap = measured(boxes)
    hit = (np.arange(len(boxes.image))[:, None] % 3 == 0) & (np.arange(10) < 4)
    lines = {"point": [(0, 0), (9, 0), (9, 9), (2, 2), (4, 2), (3, 4), (50, 50), (60, 50), (50, 60)]}
    lines = {
        "point": np.array(lines["point"], np.float32),
        "line": np.repeat([0, 1, 2], 3),
        "owner": np.array([4, 4, 7]),
    }
    arrays = {**vars(boxes), "hit": hit, "mask_hit": ~hit & hit, "pair": pair, "overlap": overlap}
    arrays |= {"area": area(boxes.box), "true_area": area(boxes.true_box)}
    return Masks(**arrays | lines | {f"true_{key}": of for key, of in lines.items()} | changes)


def poses(**changes: object) -> Poses:
    """Key points in the middles of boxes, kept of the ten surest detections."""
    found = masks()
    names = {field.name for field in dataclasses.fields(Measured)}
    arrays = {key: of for key, of in vars(found).items() if key in names}
    order = np.argsort(-found.confidence, kind="stable")
    arrays |= {key: arrays[key][order] for key in ("image", "box", "confidence", "label", "hit")}
    arrays["pair"] = np.stack([np.argsort(order)[found.pair[:, 0]], found.pair[:, 1]], 1)
    points = np.concatenate([boxes[:, None, :2] + 2 for boxes in (arrays["box"], arrays["true_box"])])
    points = np.concatenate([points, np.ones((len(points), 1, 1))], 2)
    of = {"keypoint": points[:10], "true_keypoint": points[len(arrays["box"]) :].copy(), "keypoint_hit": found.mask_hit}
    of["true_keypoint"][3, 0, 2] = 0
    return Poses(**arrays | of | changes)


def rotated(**changes: object) -> Rotated:
    """The same boxes, not turned."""
    boxes = drawn()
    pair, overlap = measured(boxes)

    def turned(of: np.ndarray) -> np.ndarray:
        middle, size = (of[:, :2] + of[:, 2:]) / 2, of[:, 2:] - of[:, :2]
        return np.concatenate([middle, size, np.zeros((len(of), 1))], 1)

    arrays = vars(boxes) | {"box": turned(boxes.box), "true_box": turned(boxes.true_box), "pair": pair}
    return Rotated(**arrays | {"overlap": overlap} | changes)


@pytest.mark.parametrize(("made", "of"), [(masks, "mask"), (masks, "box"), (poses, "keypoints"), (rotated, "box")])
def test_what_was_measured_matches_as_boxes_of_the_same_overlaps_do(made, of):
    """Whose averages by size are those of pycocotools."""
    mine, boxes = made(), drawn()
    for size in SIZES:
        (matches, truth), (expected, there) = mine.of_size(size, of), boxes.of_size(size)
        order, wanted = (np.argsort(one.confidence) for one in (matches, expected))
        assert expected.hit.any()
        assert (matches.hit[order] == expected.hit[wanted]).all()
        assert (matches.ignored[order] == expected.ignored[wanted]).all()
        assert (truth.image == there.image).all()
    assert mine.objects() == boxes.objects()
    assert mine.scores(of=of) == pytest.approx(boxes.scores())
    assert 0 < boxes.scores().mean() < 1
    surest = np.flatnonzero(mine.confidence > 0.6)
    theirs = np.flatnonzero(boxes.confidence > 0.6)
    taken = dict(zip(mine.confidence[surest], mine.taken(surest, of), strict=True))
    assert taken == dict(zip(boxes.confidence[theirs], boxes.taken(theirs), strict=True))


def test_each_metric_has_its_own_hits_and_the_other_stands_beside_it():
    found, counts = masks(), np.ones((3, len(drawn().name)), int)
    figures = found.figures()
    assert figures["mask_map"] == figures["mask_map50"] == 0
    assert 0 < figures["map"] < figures["map50"]
    by_mask, by_box = (found.averages(counts, True, of) for of in ("mask", "box"))
    assert by_mask["overall"].tolist() == by_box["overall_mask_map"].tolist() == [0] * 3
    assert by_box["overall"].tolist() == by_mask["overall_map"].tolist() == pytest.approx([figures["map"]] * 3)
    assert by_mask.keys() - by_box.keys() == {"mask_map", "overall_map"}


def test_an_object_is_of_the_size_of_its_mask():
    """And a detection of the size of what is matched."""
    found = masks(true_area=np.full(300, 10.0), area=np.full(700, 1e6))
    assert found.objects() == {"small": 300, "medium": 0, "large": 0}
    by_mask, by_box = (found.of_size("small", of)[0] for of in ("mask", "box"))
    assert len(found.of_size("small", "mask")[1].image) == len(found.of_size("small", "box")[1].image) == 300
    assert by_mask.ignored[~by_mask.hit].all(), "they are large, and nothing small was missed by them"
    assert not by_box.ignored[~by_box.hit].all()


def test_outlines_points_and_corners_are_drawn():
    found = masks()
    assert found.drawn(4)["lines"] == [[[0, 0], [9, 0], [9, 9]], [[2, 2], [4, 2], [3, 4]]]
    assert found.true_drawn(7)["lines"] == [[[50, 50], [60, 50], [50, 60]]]
    assert found.drawn(0)["lines"] == []
    people = poses()
    assert people.drawn(2)["points"] == [[*(people.box[2][:2] + 2), 1]]
    assert people.drawn(10)["points"] == [], "faint ones have none"
    assert len(people.true_drawn(2)["points"]) == 1
    assert people.true_drawn(3)["points"] == [], "it has no place"
    box = np.array([[50, 40, 20, 10, np.pi / 6]])
    turned = dataclasses.replace(rotated(), box=box.repeat(700, 0))
    (line,) = turned.drawn(0)["lines"]
    c, s = 3**0.5 / 2, 0.5
    assert np.array(line[0]) == pytest.approx([50 + 10 * c - 5 * s, 40 + 10 * s + 5 * c])
    middle, sides = np.mean(line, 0), np.linalg.norm(np.diff(line, axis=0), axis=1)
    assert middle == pytest.approx([50, 40])
    assert sides == pytest.approx([10, 20, 10])
    assert turned.upright(box)[0] == pytest.approx([*np.min(line, 0), *np.max(line, 0)])


@pytest.mark.parametrize("made", [masks, poses, rotated])
def test_what_is_saved_is_loaded_and_what_does_not_fit_together_is_not_whole(made, tmp_path):
    before = made()
    before.save(tmp_path / "best.npz")
    after = type(before).load(tmp_path / "best.npz")
    assert before.is_whole()
    assert after.is_whole()
    for name, array in dataclasses.asdict(before).items():
        assert (getattr(after, name) == array).all(), name
        if name in ("name", "rule"):
            continue
        wrong = array.astype(float) if array.dtype.kind in "iu" else array
        damaged = [np.zeros((len(array) + 1, *array.shape[1:]), array.dtype), array[None]]
        damaged += [np.full_like(wrong, np.nan)] if array.dtype != bool else []
        for one in damaged[name in LONGER :]:
            assert not dataclasses.replace(before, **{name: one}).is_whole(), (name, one.shape)
    boxes = drawn()
    boxes.save(tmp_path / "boxes.npz")
    with pytest.raises(UserError, match=f"cannot read {type(before).__name__.lower()} from"):
        type(before).load(tmp_path / "boxes.npz")


def test_a_task_is_judged_by_its_first_metric_or_by_one_that_is_named():
    segment = TASKS["segment"]
    assert [metric.of for metric in segment.metrics] == ["mask", "box"]
    for by in ("box", "box mAP50-95"):
        assert [metric.name for metric in segment.judged(by).metrics] == ["box mAP50-95", "mask mAP50-95"]
    assert segment.judged("mask") == segment
    for task, by, known in (("pose", "mask", "keypoints or box"), ("obb", "angle", "box"), ("classify", "box", "top1")):
        with pytest.raises(UserError) as refusal:
            TASKS[task].judged(by)
        said = f"metric: '{by}' is none by which {task} is judged; metric: {known}"
        assert str(refusal.value) == said
    for task in TASKS.values():
        if task.metrics:
            of = {metric.of for metric in task.metrics} - {""}
            assert of == {*getattr(task.evidence, "matched_by", ())}


def test_slices_are_averaged_by_the_metric_that_decides(tmp_path, monkeypatch):
    averages = pytest.importorskip("foveal.evidence.averages", reason="scipy is not installed")
    monkeypatch.setattr(averages, "RESAMPLES", 5)
    hit, slices = masks().hit, np.array([np.arange(40) < 12, np.arange(40) >= 12])
    counts = averages.image_counts(40)
    seen = []
    for made, task, by in ((masks, "segment", "mask"), (masks, "segment", "box"), (rotated, "obb", "box")):
        found = made(hit=hit)
        found.save(tmp_path / "best.npz")
        kept = averages.within(tmp_path, lambda names: slices, TASKS[task].judged(by))
        told = np.array([found.averages(counts * one, False, by)["overall"] for one in slices])
        assert np.array_equal(kept, told)
        assert (kept[:, 0] > 0).all() == (by == "box"), "no mask is a hit"
        assert sum(sum(found.objects(one).values()) for one in slices) == len(found.true_image)
        assert error_types.costs(found) == {}, "they are known of upright boxes only"
        seen.append(kept[0, 0])
    assert seen[0] != seen[1]
