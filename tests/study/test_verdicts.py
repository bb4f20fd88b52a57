"""Verdicts of studies whose cells are written by hand: looks, words, and whether anything happened."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from foveal.evidence import averages
from foveal.evidence.averages import RESAMPLES
from foveal.evidence.stored import save_arrays
from foveal.results import before
from foveal.study import WEIGHTS, Study, verdicts
from foveal.study.cell import RESULT
from foveal.study.folder import BEGUN
from studies import Scripted, fake, prepared

OPEN = {"arms": ["ema@neck", "se@neck", "A/A"], "seeds": "6..24", "margin": 0.01}


def scored(study: Study, cell, value: float, opened: float | None = 0.1, images: float = 0.0) -> None:
    """A finished cell with this metric; other images change it by a normal value of such a deviation."""
    fake(
        *(study, cell),
        scores={"map": value, "map50": value, "map_last": value, "map50_last": value},
        opened=None if opened is None or cell.arm.spec is None else {"best": opened, "last": opened},
    )
    noise = np.random.default_rng(len(cell.arm.name)).normal(0, images, RESAMPLES) if cell.arm.spec else 0.0
    overall = np.append(value, value + noise * np.ones(RESAMPLES))
    for kind in WEIGHTS:
        kept = {"classes": np.array([0]), "overall": overall, "map": overall[:, None]}
        save_arrays(study.path(cell) / f"averages-{kind}.npz", kept)


def trained(study: Study, effects: dict[str, float], deviation: float = 0.002, **more) -> tuple[list[str], list[str]]:
    """Run a study whose cells find these effects; which cells were trained, and what was said."""
    cells, said = {cell.key: cell for cell in study.cells}, []

    def script(key: str, _: int) -> int:
        cell = cells[key]
        rng = np.random.default_rng([cell.seed, len(cell.arm.name)])
        scored(study, cell, 0.4 + effects.get(cell.arm.name, 0.0) + rng.normal(0, deviation), **more)
        return 0

    executor = Scripted(script)
    study.run(executor, said.append)
    return [f"{cells[key].arm.name} {cells[key].pair}" for key in executor.submitted], said


def judged(study: Study, kind: str = "best"):
    found = study.results()
    said = verdicts.judged(study.plan, found, averages.loaded(study.folders(found), WEIGHTS, study.plan.task), kind)
    return {name: of.verdict for name, of in said.items()}


def test_an_arm_is_trained_until_it_has_its_word(tmp_path):
    study = prepared(tmp_path, **OPEN)
    assert study.plan.looks == (7, 12, 16, 24)
    assert len(study.states()) == 4 * 7
    done, said = trained(study, {"ema@neck": 0.05, "se@neck": 0.008}, deviation=0.006)
    found = judged(study)
    assert (found["ema@neck"].outcome, found["ema@neck"].seeds) == ("helps", 7)
    assert found["se@neck"].seeds > 7
    count = {name: sum(one.startswith(name) for one in done) for name in ("baseline", "ema", "se", "A/A")}
    assert count["ema"] == 7
    assert count["se"] == found["se@neck"].seeds
    assert count["baseline"] == max(count.values())  # whatever is trained has its pair
    assert all(each.final for each in found.values())
    assert any("no word yet on" in line for line in said)
    assert study.missing() == []
    assert study.commands() == []
    # The same again trains nothing more.
    assert trained(study, {})[0] == []


def test_until_a_look_there_is_no_word(tmp_path):
    study = prepared(tmp_path, **OPEN)
    for cell in study.cells:
        if cell.pair < 6:
            scored(study, cell, 0.4 + 0.01 * study.plan.arms.index(cell.arm) + 0.001 * cell.pair)
    found = judged(study)
    assert {(each.outcome, each.next, each.low, each.p) for each in found.values()} == {("preliminary", 7, None, None)}
    assert len(study.missing()) == 4


def test_a_hole_is_not_filled_by_a_later_seed(tmp_path):
    study = prepared(tmp_path, seeds=7)
    for cell in study.cells:
        if cell.pair != 2 or cell.arm.role == "baseline":
            scored(study, cell, 0.4 + 0.1 * (cell.arm.name == "ema@neck") + 0.001 * cell.pair)
    assert (judged(study)["ema@neck"].outcome, judged(study)["ema@neck"].seeds) == ("preliminary", 6)


def test_an_arm_that_always_fails_does_not_silence_the_others(tmp_path):
    study = prepared(tmp_path, arms=["ema@neck", "se@neck"], seeds=8)
    for cell in study.cells:
        if cell.arm.name != "se@neck":
            scored(study, cell, 0.4 + 0.1 * (cell.arm.name == "ema@neck") + 0.001 * (cell.pair % 3))
    found = judged(study)
    assert found.keys() == {"ema@neck"}
    assert found["ema@neck"].outcome == "helps"
    assert found["ema@neck"].p == 2 * 2.0**-7  # it still counts


@pytest.mark.parametrize(
    ("level", "opened", "spread", "word"),
    [
        (0.006, 0.1, 0.0005, "nothing learned"),  # 0.6 points, and a margin of half a point
        (0.4, 0.0, 0.002, "never opened"),
        (0.4, None, 0.0, "never opened"),  # of an older release, and every detection is the baseline's
        (0.4, None, 0.001, "equivalent"),
        (0.4, 0.1, 0.001, "equivalent"),
    ],
)
def test_whether_anything_happened_comes_before_any_word(level, opened, spread, word, tmp_path):
    study = prepared(tmp_path, seeds=6)
    for cell in study.cells:
        better = spread * math.cos(cell.pair) if cell.arm.spec else 0.0
        scored(study, cell, level + 0.001 * cell.pair * (level > 0.1) + better, opened)
    for kind in WEIGHTS:
        found = judged(study, kind)["ema@neck"]
        assert (found.outcome, found.final) == (word, True)


def test_only_more_images_would_tell_ends_a_study(tmp_path):
    study = prepared(tmp_path, seeds="6..24", margin=0.005)
    done, _ = trained(study, {"ema@neck": 0.002}, deviation=0.001, images=0.006)
    found = judged(study)["ema@neck"]
    assert (found.outcome, found.reason, found.final) == ("inconclusive", "images", True)
    assert len(done) == 2 * found.seeds < 2 * 24


def test_what_is_changed_after_the_start_is_said(tmp_path):
    study, said = prepared(tmp_path, seeds=2), []
    assert study.changed() is None
    trained(study, {})
    assert study.changed() == {}
    again = Study.prepare(
        {
            "model": "yolo11n.yaml",
            "data": "data/data.yaml",
            "arms": ["ema@neck"],
            "seeds": 3,
            "margin": 0.02,
            "train": study.plan.train,
        },
        tmp_path,
        tmp_path,
    )
    assert again.changed() == {"looks": ([2], [3]), "margin": (0.005, 0.02)}
    again._note_contents(said.append)
    assert "margin was 0.005 when the study began and is 0.02 now: the report says so" in said
    assert json.loads((tmp_path / BEGUN).read_text())["margin"] == 0.005


def test_a_study_goes_on_under_the_next_release(tmp_path, monkeypatch):
    study = prepared(tmp_path, seeds=2)
    for cell in study.cells[:2]:
        scored(study, cell, 0.4)
        found = json.loads((study.path(cell) / RESULT).read_text()) | {"versions": {"foveal": "0.0.9", "torch": "1"}}
        del found["opened"]  # which an older release did not write
        (study.path(cell) / RESULT).write_text(json.dumps(found))
    from foveal.study import plan

    there = plan.versions()
    monkeypatch.setattr(plan, "versions", lambda: {**there, "foveal": "99"})
    after = Study(tmp_path)
    assert len(after.missing()) == 2
    assert after.stale() == 0


def test_what_a_plan_may_cost_and_find_is_said_before(tmp_path):
    said = before(prepared(tmp_path, **OPEN).plan, {})
    assert "at most 96 trainings of 2 epochs" in said
    assert "arms are judged after 7, 12, 16, 24 seeds; one that has its word by then is trained no more" in said
