"""Folds: how images are split anew for each pair, what a study makes of it, and what of a plan is refused."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import toyhost
from foveal import UserError
from foveal.hosts import known
from foveal.report import write
from foveal.results import assemble, before
from foveal.study import Study
from foveal.study.cell import run
from foveal.study.folds import Folds, Partitions
from foveal.view.study import Watched

PLAN = {"model": "net.toy", "data": "pictures", "arms": ["se(reduction=2)", "A/A"], "train": {"epochs": 1}}


@pytest.fixture(autouse=True)
def _only_the_toy(monkeypatch):
    monkeypatch.setattr(known, "HOSTS", ["toyhost"])


@pytest.fixture
def pictures(tmp_path) -> Path:
    return toyhost.draw(tmp_path / "pictures", train=6, val=4)


def in_groups(pictures: Path, of: int) -> None:
    """Pictures named as frames of videos, each so long and of one colour."""
    for file in sorted(pictures.rglob("*.png")):
        number = 2 * int(file.stem) + (file.parent.parent.name == "val")
        file.rename(file.with_name(f"{file.parent.name}{number // of}_{number % of}.png"))


def prepared(folder: Path, **changes: object) -> Study:
    return Study.prepare({**PLAN, "folds": 5, **changes}, folder, folder)


def trained(study: Study) -> Study:
    for cell in study.cells:
        assert run(study.folder, cell.key)
    return Study(study.folder)


def test_each_image_is_held_out_once_in_a_partition_and_in_the_next_with_others(pictures):
    data = toyhost.Data(str(pictures))
    folds = Partitions(Folds(5), data)
    everything = {*data.images("train"), *data.images("val")}
    assert {*folds.files} == everything
    assert len(everything) == 30
    for seeds in (range(5), range(5, 10)):
        splits = [folds.splits(seed) for seed in seeds]
        assert sorted(file for of in splits for file in of["val"]) == sorted(everything)
        for of in splits:
            assert {*of["train"]} == everything - {*of["val"]}
            assert len(of["val"]) == 6
            assert [sum(file.parent.name == colour for file in of["val"]) for colour in toyhost.COLOURS] == [2, 2, 2]
    assert {folds.digest(seed) for seed in range(10)} == {Partitions(Folds(5), data).digest(seed) for seed in range(10)}
    assert len({folds.digest(seed) for seed in range(10)}) == 10


@pytest.mark.parametrize("by", ["a pattern", "a table"])
def test_frames_of_a_video_stay_together(pictures, tmp_path, by):
    in_groups(pictures, of=4)
    group = r"(.*)_\d+"
    if by == "a table":
        rows = [f"{file.name},{file.stem.partition('_')[0]}" for file in pictures.rglob("*.png")]
        (tmp_path / "frames.csv").write_text("\n".join(["name,video", *rows]))
        group = "frames.csv:video"
    folds = Partitions(Folds.of({"number": 3, "group": group}, tmp_path), toyhost.Data(str(pictures)))
    for seed in range(6):
        train, val = ({file.stem.partition("_")[0] for file in files} for files in folds.splits(seed).values())
        assert train
        assert val
        assert not train & val


def test_arms_of_a_pair_share_a_fold_and_so_do_the_images_that_judge_them(pictures, tmp_path):
    study = trained(prepared(tmp_path, seeds=6))
    results, names = study.results(), {}
    for cell in study.cells:
        with np.load(study.path(cell) / "best.npz") as said:
            names.setdefault(cell.pair, set()).add(tuple(said["name"]))
    assert all(len(of) == 1 for of in names.values())
    assert len({of for seen in names.values() for of in seen}) == 6
    held_out = [name for pair in range(5) for name in next(iter(names[pair]))]
    splits = [study.plan.partitions.splits(pair)["val"] for pair in range(5)]
    assert held_out == [f"{file.parent.name}/{file.name}" for of in splits for file in of]
    assert {results["A/A", 1].data, results["baseline", 1].data} == {results["se(reduction=2)", 1].data}
    assert results["baseline", 1].data != results["baseline", 2].data
    found = assemble(study)
    assert [finding.check for finding in found.fairness if finding.ok is False] == []
    said = {finding.check: finding.detail for finding in found.fairness}
    assert said["evaluator"] == "all runs of a seed judged on the same images, 30 in all folds"
    assert said["split"].startswith(
        "each seed judged on the one of 5 folds that it held out, on which best.pt was chosen"
    )
    assert (found.plan["folds"], found.data.images) == ({"number": 5}, 30)
    images = found.arms[1].images
    assert images.better + images.worse + images.equal == 30
    differences = np.array(found.arms[1].verdict.differences)
    low, high = found.arms[1].verdict.low, found.arms[1].verdict.high
    assert high - low >= 2 * 2.57 * differences.std(ddof=1) * np.sqrt(1 / 6 + 1 / 4)
    assert all(path.is_file() for path in write(found, study.folder))
    page = re.sub("<[^>]*>", "", (study.folder / "report.html").read_text())
    assert "one of 5 folds of train and val with 30 images in all" in page
    assert "corrected resampled t test" in page
    shown = Watched(study.folder)
    listed = shown.data("images", "1")
    assert listed["notes"] == []
    assert len(listed["images"]) == 30
    for image in listed["images"][::7]:
        for seed in range(6):
            one = shown.data("image", "1", str(seed), str(image["image"]))
            assert (one is not None) == (seed in image["seeds"])
            if one:
                assert one["name"] == image["name"]
                photo = shown.picture("photo", one["photo"].rpartition("/")[2])
                assert f"{photo.parent.name}/{photo.name}" == image["name"]


def test_what_decides_a_split_decides_the_cells(pictures, tmp_path):
    keys = [cell.key for cell in prepared(tmp_path / "a", data=str(pictures)).cells]
    assert [cell.key for cell in prepared(tmp_path / "b", data=str(pictures)).cells] == keys
    without = Study.prepare({**PLAN, "data": str(pictures), "seeds": 10, "split": "val"}, tmp_path, tmp_path / "c")
    others = [prepared(tmp_path / "d", data=str(pictures), folds=3, seeds=10), without]
    for other in others:
        assert not {cell.key for cell in other.cells} & {*keys}


def test_without_a_number_of_seeds_each_image_is_held_out_equally_often(pictures, tmp_path):
    plan = prepared(tmp_path).plan
    assert plan.seeds == tuple(range(10))  # the first multiple of 5 from which sign flips can tell anything
    said = before(plan, {})
    assert "each seed holds out one of 5 folds of train and val, about 6 of 30 images" in said
    assert "1.86 standard deviations" in said  # 1.00 for independent pairs, times the root of 1 + 10 / 4
    uneven = before(prepared(tmp_path, seeds=7).plan, {})
    assert "10 seeds would hold out each equally often" in uneven


def test_a_changed_grouping_is_told(pictures, tmp_path):
    study = prepared(tmp_path, seeds=2)
    (tmp_path / "begun.json").write_text(json.dumps(study._decisive()))
    assert Study(tmp_path).changed() == {}
    assert prepared(tmp_path, folds=3, seeds=2).changed() == {"split": (5, 3)}


def test_a_table_is_found_from_the_study(pictures, tmp_path):
    rows = [f"{file.name},{file.relative_to(pictures)}" for file in pictures.rglob("*.png")]
    (tmp_path / "frames.csv").write_text("\n".join(["video,name", *rows]))
    plan = {**PLAN, "folds": {"number": 3, "group": "frames.csv:video"}}
    study = Study.prepare(plan, tmp_path, tmp_path / "elsewhere")
    assert study.plan.text["folds"] == {"number": 3, "group": os.path.join("..", "frames.csv:video")}
    assert Study(study.folder).plan.partitions.splits(0) == study.plan.partitions.splits(0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folds": 1}, "folds: 1 is not between 2 and 100"),
        ({"folds": True}, "folds: True is no number of folds, alone or with a group"),
        ({"folds": {"number": 5, "by": "x"}}, "is no number of folds, alone or with a group"),
        ({"folds": {"number": 5, "group": 3}}, "is no number of folds, alone or with a group"),
        ({"folds": 31}, "folds: 31 are more than the 30 images in train and val"),
        ({"folds": {"number": 7, "group": "(.).*"}}, "folds: 7 are more than the 6 groups by (.).*"),
        ({"folds": {"number": 2, "group": ".*"}}, "the pattern '.*' has no parenthesis around what images share"),
        ({"folds": {"number": 2, "group": "("}}, "folds: '(' is no pattern: missing ), unterminated subpattern"),
        ({"folds": {"number": 2, "group": "([0-3])"}}, "'4', one of 6 such images, does not fit the pattern '([0-3])'"),
        ({"folds": {"number": 2, "group": "none.csv:video"}}, "folds: cannot read none.csv: No such file"),
        ({"folds": {"number": 2, "group": "frames.csv:camera"}}, "frames.csv has no column 'camera'"),
        ({"folds": {"number": 2, "group": "frames.csv:video"}}, "'0', one of 29 such images, does not stand in "),
        ({"folds": {"number": 2, "group": "twice.csv:video"}}, "twice.csv: '5' is the name of 3 images"),
        ({"slices": "frames.csv"}, "with folds each seed is judged on others"),
        ({"split": "test"}, "split: 'test' is the same for every seed, and folds judge each pair on what it holds out"),
    ],
)
def test_folds_that_cannot_be(pictures, tmp_path, changes, said):
    (tmp_path / "frames.csv").write_text("video;name\n1;train\\red\\5.png\n")
    (tmp_path / "twice.csv").write_text("name,video\n5,1\n")
    with pytest.raises(UserError) as refused:
        Study.prepare({**PLAN, "folds": 5, **changes}, tmp_path, tmp_path / "study")
    assert said in refused.value.message
    assert not (tmp_path / "study").exists()
