"""Arms that start from the weights of a file, and arms that another model teaches."""

import json
from pathlib import Path

import pytest
import torch

import toyhost
from foveal import UserError
from foveal.hosts import known
from foveal.results import assemble, before
from foveal.study import Plan, Study, run
from foveal.study import arms as arm_names
from foveal.study import plan as plan_of
from foveal.study.cell import CELLS, RESULT

PLAN = {"model": "net.toy", "data": "pictures", "seeds": 2, "split": "val", "train": {"epochs": 1}}
ARMS = [{"weights": "own/old.toy"}, {"teacher": "own/old.toy", "lr0": 0.02}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a plan lies beside a file of weights, on the toy host."""
    monkeypatch.setattr(known, "HOSTS", ["toyhost"])
    toyhost.draw(tmp_path / "pictures")
    (tmp_path / "own").mkdir()
    torch.save(toyhost.network(None, 99), tmp_path / "own/old.toy")
    return tmp_path


def keys(folder, arms) -> dict[str, str]:
    """By arm, those of the first seed."""
    plan = Plan.of({**PLAN, "arms": arms}, folder)
    return {cell.arm.name: cell.key for cell in plan.cells("data") if cell.seed == plan.seeds[0]}


def test_they_are_found_beside_the_plan_and_named_by_their_files(folder):
    plan = Plan.of({**PLAN, "arms": ARMS}, folder)
    baseline, given, taught = plan.arms
    assert [arm.name for arm in plan.arms] == ["baseline", "weights=old.toy", "teacher=old.toy lr0=0.02"]
    assert given.weights == taught.train["teacher"] == str(folder / "own/old.toy")
    assert (given.model, given.role, given.train) == (baseline.model, "treatment", {})
    assert plan.complete(taught)["teacher"] == str(folder / "own/old.toy")
    assert plan.complete(baseline)["teacher"] is None
    assert arm_names.models(plan.arms, plan.host, plan.settings) == ["net.toy", str(folder / "own/old.toy")]
    everywhere = Plan.of({**PLAN, "arms": ["se(reduction=2)"], "train": {"teacher": "own/old.toy"}}, folder)
    assert everywhere.settings["teacher"] == str(folder / "own/old.toy")
    moved = Study.prepare({**PLAN, "arms": ARMS, "train": {"teacher": "own/old.toy"}}, folder, folder / "deep/er")
    assert (moved.plan.arms[1].name, moved.plan.arms[2].name) == (given.name, taught.name)
    for file in (moved.plan.arms[1].weights, moved.plan.arms[2].train["teacher"], moved.plan.settings["teacher"]):
        assert Path(file).resolve() == folder / "own/old.toy"


def test_the_content_of_a_file_decides_the_key_and_its_place_does_not(folder):
    first = keys(folder, ARMS)
    assert first == keys(folder, [{"weights": str(folder / "own/old.toy")}, ARMS[1]])
    assert first["baseline"] == keys(folder, ["se(reduction=2)"])["baseline"]
    (folder / "other").mkdir()
    (folder / "own/old.toy").rename(folder / "other/old.toy")
    there = [{"weights": "other/old.toy"}, {"teacher": "other/old.toy", "lr0": 0.02}]
    assert first == keys(folder, there)
    torch.save(toyhost.network(None, 98), folder / "other/old.toy")
    now = keys(folder, there)
    assert {name for name in first if first[name] != now[name]} == {*first} - {"baseline"}


def test_a_plan_that_trusts_its_files_trusts_weights_and_teachers_too(folder, monkeypatch):
    for name in ("old", "one", "all"):
        (folder / f"own/{name}.pt").touch()
    trusted = []
    monkeypatch.setattr(plan_of, "trust_file", lambda file: trusted.append(file.name))
    arms, train = [{"weights": "own/old.pt"}, {"teacher": "own/one.pt"}], {"epochs": 1, "teacher": "own/all.pt"}
    for trust in (False, True):
        assert trusted == []
        Plan.of({**PLAN, "arms": arms, "train": train, "trust": trust}, folder)
    assert sorted(trusted) == ["all.pt", "old.pt", "one.pt"]


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ([{"weights": 5}], "cannot read the arm {'weights': 5}"),
        ([{"teacher": 5}], "teacher: 5 is not the name of a file"),
        ([{"weights": "own/old.toy"}, {"weights": "own/old.toy"}], "'weights=old.toy' stands in the plan twice"),
        ([{"weights": "own/old.toy"}, {"weights": "else/old.toy"}], "two arms are called 'weights=old.toy'"),
    ],
)
def test_what_is_no_file_or_stands_twice_is_refused(arms, said, folder):
    with pytest.raises(UserError) as refused:
        Plan.of({**PLAN, "arms": arms}, folder)
    assert said in str(refused.value)
    assert refused.value.hint


def test_weights_that_fit_nothing_are_refused_before_anything_is_written(folder):
    torch.save(torch.nn.Linear(2, 2), folder / "own/old.toy")
    with pytest.raises(UserError, match=r"nothing in .*old\.toy fits net\.toy"):
        Study.prepare({**PLAN, "arms": ARMS}, folder, folder / "study")
    assert not (folder / "study").exists()


def test_a_study_says_what_was_carried_and_finds_nothing_unfair(folder):
    torch.save(toyhost.network(None, 99, classes=5), folder / "own/old.toy")  # whose last layer does not fit
    study = Study.prepare({**PLAN, "arms": ARMS}, folder, folder / "study")
    carried = "2 of 4 tensors of old.toy are carried, 224 of 269 parameters: of its rows 0 stay"
    assert f"\nweights=old.toy: {carried}; 2 of 4 tensors start fresh" in before(study.plan, {})
    for cell in study.cells:
        assert run(study.folder, cell.key)
    found = assemble(study)
    fairness = {finding.check: finding for finding in found.fairness}
    assert [check for check, finding in fairness.items() if finding.ok is False] == []
    said = "pretrained tensors kept: 2/4 in weights=old.toy; none in baseline, teacher=old.toy lr0=0.02"
    assert (fairness["pretrained"].ok, fairness["pretrained"].detail) == (True, said)
    assert fairness["optimizer"].detail.endswith("teacher=old.toy lr0=0.02 is meant to differ in lr0, teacher")
    assert [len(arm.cost.train_seconds) for arm in found.arms] == [2, 2, 2]
    # A cell that did not start from what it was given is found.
    cell = next(cell for cell in study.cells if cell.arm.weights)
    file = study.folder / CELLS / cell.key / RESULT
    values = json.loads(file.read_text())
    values["start"]["0.weight"] = "another"
    file.write_text(json.dumps(values))
    broken = {finding.check: finding.ok for finding in assemble(Study(study.folder)).fairness}
    assert broken["pretrained"] is False
