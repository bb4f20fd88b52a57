"""The loop over cells, and what it survives: every kind of kill is done for real."""

import concurrent.futures
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import forks
from foveal import UserError, tensors
from foveal.cli import app
from foveal.hosts.ultralytics import host, recorder
from foveal.report import page as report
from foveal.results import assemble, before, fairness, load, write
from foveal.results.schema import Finding, Progress
from foveal.study import BUSY, Result, Study, in_words
from foveal.study import cell as room
from foveal.study.cell import FAILURE, RESULT, locked
from foveal.study.demo import draw_data
from foveal.view import study as view_study
from helpers import swept
from studies import PLAN, Forking, Scripted, fake, full, kill_a_worker_of_ray, kill_in_a_loop, prepared, values


def by_key(study: Study) -> dict:
    return {cell.key: cell for cell in study.cells}


def test_every_cell_runs_once_and_what_is_finished_is_kept(tmp_path):
    study, said = prepared(tmp_path), []
    cells = by_key(study)
    fake(study, study.cells[1], scores={"map": 0.9, "map50": 0.9, "map_last": 0.9, "map50_last": 0.9})
    executor = Scripted(lambda key, _: fake(study, cells[key]) and 0)
    study.run(executor, said.append)
    assert sorted(executor.submitted) == sorted(cell.key for i, cell in enumerate(study.cells) if i != 1)
    assert study.results()["ema@neck", 0].scores["map"] == 0.9
    assert said[-1].startswith("[4/4] ")
    again = Scripted(lambda *_: pytest.fail("nothing was missing"))
    study.run(again, said.append)
    assert not again.submitted


def test_killed_cells_go_on_and_failed_ones_wait_for_the_next_run(tmp_path):
    study, said = prepared(tmp_path), []
    cells = by_key(study)
    killed_once, killed, raised, lost = cells

    def script(key: str, attempt: int) -> int:
        if key == killed_once and attempt == 2:
            fake(study, cells[key])
            return 0
        if key == raised:
            (study.path(cells[key]) / FAILURE).write_text(json.dumps({"reason": "ValueError: no", "traceback": ""}))
            return 1
        if key == lost:
            raise OSError(28, "No space left on device")
        return -signal.SIGKILL

    executor = Scripted(script)
    study.run(executor, said.append)
    assert {key: executor.submitted.count(key) for key in cells} == {killed_once: 2, killed: 3, raised: 1, lost: 1}
    states = {state.cell.key: state for state in study.states()}
    assert states[killed_once].status == "finished"
    assert states[killed].status == "failed"
    assert states[killed].reason == "killed by SIGKILL, as the system does when memory runs out"
    assert states[raised].reason == "ValueError: no"
    assert states[lost].status == "waiting"
    assert any("cannot be started: [Errno 28] No space left on device" in line for line in said)
    assert any("going on" in line for line in said)
    # The next run tries them all again, and an old reason is not taken for a new one.
    study.run(Scripted(lambda key, _: fake(study, cells[key]) and 0), said.append)
    assert {state.status for state in study.states()} == {"finished"}


def test_a_cell_that_another_process_holds_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.study.loop.POLL", 0.01)
    study = prepared(tmp_path)
    cells = by_key(study)
    theirs, raced, *_ = cells

    def script(key: str, attempt: int) -> int:
        if key == raced and attempt < 9:  # the other process was a moment faster, more often than a cell may be killed
            return BUSY
        fake(study, cells[key])
        return 0

    executor = Scripted(script)
    study.path(cells[theirs]).mkdir(parents=True)
    with locked(study.path(cells[theirs])) as mine, concurrent.futures.ThreadPoolExecutor() as pool:
        assert mine
        assert {s.cell.key: s.status for s in study.states()}[theirs] == "running"
        loop = pool.submit(study.run, executor, lambda _: None)
        while len(study.results()) < 3:
            time.sleep(0.01)
        assert not loop.done()
        fake(study, cells[theirs])
        loop.result(timeout=30)
    assert theirs not in executor.submitted
    assert len(study.results()) == 4


def test_a_data_set_that_changes_starts_anew_and_is_named(tmp_path, monkeypatch, capsys):
    study, said = prepared(tmp_path), []
    cells = by_key(study)
    study.run(Scripted(lambda key, _: fake(study, cells[key]) and 0), said.append)
    label = tmp_path / "data/labels/train/0003.txt"
    label.write_text(label.read_text().replace("\n", "\n0 0.5 0.5 0.1 0.1\n", 1))
    changed = Study(tmp_path)
    assert not changed.results()
    assert changed.stale() == 4
    with pytest.raises(UserError, match=r"no run of the baseline is finished in .*: 4 finished cells are of other"):
        assemble(changed)
    with pytest.raises(UserError, match=r"is no cell of .* as its plan, data and installed versions are now"):
        room.run(tmp_path, study.cells[0].key)
    changed.run(Scripted(lambda key, _: fake(changed, by_key(changed)[key]) and 0), said.append)
    assert "the data set is another than when this study last ran: labels/train/0003.txt" in said
    stale = "4 finished cells are of other data, versions or arguments: kept, and not counted"
    assert f"{stale}; 0 of this plan count" in said
    monkeypatch.setattr(sys, "argv", ["foveal", "study", "status", str(tmp_path)])
    with pytest.raises(SystemExit, match="0"):
        app.main()
    told = capsys.readouterr()
    assert f"{stale}; 4 of this plan count" in told.err
    assert "4 of 4 finished" in told.out
    assert len(changed.results()) == 4


def test_a_cell_counts_under_its_earlier_name_unless_it_was_trained_again(tmp_path):
    study = prepared(tmp_path)
    cell = study.cells[0]
    fake(study, cell, seconds=1.0)
    study.path(cell).rename(tmp_path / "cells" / cell.earlier)
    assert [state.status for state in study.states()].count("finished") == 1
    assert study.stale() == 0
    earlier = shutil.copytree(study.path(cell), tmp_path / "kept")
    (study.path(cell) / RESULT).unlink()
    assert study.path(cell).name == cell.key
    fake(study, cell, seconds=2.0)
    shutil.copytree(earlier, tmp_path / "cells" / cell.earlier, dirs_exist_ok=True)
    assert study.results()["baseline", 0].seconds == 2.0
    assert study.stale() == 1


@pytest.mark.parametrize("scores", [{}, {"map": 0.5}, {"top1": 0.5, "top5": 0.6, "top1_last": 0.5}, {"map": "0.5"}])
def test_scores_that_are_damaged_are_said(tmp_path, scores):
    study = prepared(tmp_path)
    with pytest.raises(UserError, match=r"result.json is damaged: scores is \{"):
        fake(study, study.cells[0], scores=scores)


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"digest": 1, "files": 2}', "[" * 5000])
def test_notes_on_the_data_set_that_are_damaged_are_written_again(tmp_path, damaged):
    study, said = prepared(tmp_path), []
    (tmp_path / "contents.json").write_text(damaged)
    study.run(Scripted(lambda key, _: fake(study, by_key(study)[key]) and 0), said.append)
    assert len(study.results()) == 4
    assert json.loads((tmp_path / "contents.json").read_text())["digest"] == study.contents.digest


def test_evaluations_share_what_the_training_was_told(tmp_path, monkeypatch):
    study = prepared(tmp_path, train={**PLAN["train"], "max_det": 500})
    told = {}

    def judge(*asked):
        told.update(asked[-1])
        raise RuntimeError("enough")

    monkeypatch.setattr(host, "HOST", replace(host.HOST, train=lambda _: None, judge=judge))
    with pytest.raises(RuntimeError, match="enough"):
        room.run(tmp_path, study.cells[0].key)
    assert (told["max_det"], told["imgsz"], told["batch"]) == (500, PLAN["train"]["imgsz"], PLAN["train"]["batch"])
    assert "lr0" not in told


def test_a_cell_that_raises_leaves_its_reason(tmp_path, monkeypatch):
    study = prepared(tmp_path)

    def trained(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(host, "HOST", replace(host.HOST, train=trained))
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        room.run(tmp_path, study.cells[0].key)
    state = study.states()[0]
    assert (state.status, state.reason) == ("failed", "RuntimeError: CUDA out of memory")
    monkeypatch.setattr(room, "_measure", lambda *_: fake(study, study.cells[0]))
    assert room.run(tmp_path, study.cells[0].key)
    assert study.states()[0].status == "finished"


def test_only_what_trains_downloads(tmp_path, monkeypatch):
    """The `download` of a data file may be any code."""
    study, ran = prepared(tmp_path), tmp_path / "ran"
    file = tmp_path / "data/data.yaml"
    file.write_text(f"{file.read_text()}\ndownload: open({str(ran)!r}, 'w').close()\n")
    (tmp_path / "data/images/val").rename(tmp_path / "away")
    words = [["status"], ["cells"], ["report"]]
    for command in [*(["study", *one, str(tmp_path)] for one in words), ["study", "run", str(tmp_path), "--dry-run"]]:
        monkeypatch.setattr(sys, "argv", ["foveal", *command])
        with pytest.raises(SystemExit) as ended:
            app.main()
        assert ended.value.code == 2, command
    with pytest.raises(UserError, match=r"images not found.*foveal study run also downloads"):
        Study(tmp_path)
    with pytest.raises(UserError):  # the pictures of view
        view_study.Watched(tmp_path).data("progress")
    assert not ran.exists()
    with pytest.raises(UserError):
        room.run(tmp_path, study.cells[0].key)
    assert ran.exists()


def test_time_left_and_words():
    assert [in_words(s) for s in (34.6, 600, 12000)] == ["35 s", "10 min", "3.3 h"]


def test_states_tell_how_far_a_cell_is(tmp_path):
    study = prepared(tmp_path, seeds=3)
    finished, interrupted, _, running, *_ = study.cells
    fake(study, finished)
    for cell in (interrupted, running):
        study.path(cell).mkdir(parents=True)
        (study.path(cell) / "results.csv").write_text("epoch, time\n1, 30.0\n")
    with locked(study.path(running)):
        states = study.states()
        left = study.seconds_left(states)
    assert [state.status for state in states[:4]] == ["finished", "interrupted", "waiting", "running"]
    assert [state.epochs for state in states[:4]] == [2, 1, 0, 1]
    # Median of 10 s and 60 s, for two halves and three whole cells.
    assert left == pytest.approx(35 * 4)


def test_other_tasks_are_refused_before_anything_is_written(tmp_path):
    draw_data(tmp_path / "data", train=4, val=2)
    with pytest.raises(UserError, match=r"yolo11n-cls.yaml is a model for the task 'classify', and"):
        Study.prepare({**PLAN, "model": "yolo11n-cls.yaml"}, tmp_path, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_model_that_no_zoo_has_is_refused_before_anything_is_written(tmp_path):
    pytest.importorskip("timm", reason="timm is not installed")
    for split in ("train", "val"):
        (tmp_path / "animals" / split / "ant").mkdir(parents=True)
        (tmp_path / "animals" / split / "ant/0.png").touch()
    plan = {**PLAN, "data": "animals", "split": "val", "arms": ["ema"]}
    with pytest.raises(UserError, match="timm has no 'resnet5'"):
        Study.prepare({**plan, "model": "timm:resnet5"}, tmp_path, tmp_path / "study")
    with pytest.raises(UserError, match=r"yolo11n.yaml is a model for the task 'detect', and"):
        Study.prepare({**plan, "model": "yolo11n.yaml"}, tmp_path, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_plan_that_says_the_same_keeps_its_comments(tmp_path):
    study = prepared(tmp_path)
    plan = tmp_path / "plan.yaml"
    plan.write_text("# mine\n" + plan.read_text())
    Study.prepare(PLAN, tmp_path, tmp_path)
    assert plan.read_text().startswith("# mine\n")
    Study.prepare({**PLAN, "seeds": 3}, tmp_path, tmp_path)
    assert len(Study(tmp_path).cells) == len(study.cells) + 2


def test_paths_of_a_plan_follow_it_into_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_data(tmp_path / "data", train=4, val=2)
    study = Study.prepare(PLAN, Path(), Path("deep/er"))
    assert Path(study.plan.data).resolve() == tmp_path / "data/data.yaml"
    assert "../../data/data.yaml" in (tmp_path / "deep/er/plan.yaml").read_text()
    keys = [cell.key for cell in study.cells]
    shutil.move(tmp_path / "deep/er", tmp_path / "deep/else")
    assert [cell.key for cell in Study(tmp_path / "deep/else").cells] == keys
    with pytest.raises(UserError, match=r"there is no study in nowhere: it has no plan\.yaml"):
        Study(Path("nowhere"))


# Real trainings --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, worker_id) -> Study:
    """The study, trained without a disturbance; once, also where tests run in several processes."""
    place = tmp_path_factory.getbasetemp()
    folder = (place if worker_id == "master" else place.parent) / "undisturbed"
    with FileLock(f"{folder}.lock"):
        study = Study(folder) if (folder / "plan.yaml").exists() else prepared(folder)
        with Forking(jobs=2) as executor:
            study.run(executor, print)
    assert len(study.results()) == 4, [state.reason for state in study.states()]
    return study


def weights(study: Study) -> dict:
    """A digest of every tensor that each cell ended with."""
    files = {(cell.arm.name, cell.pair): study.path(cell) / "weights/last.pt" for cell in study.cells}
    return {where: tensors.digests(torch.load(file, weights_only=False)["model"]) for where, file in files.items()}


def of_first_seed(found: dict) -> dict:
    return {where: value for where, value in found.items() if where[1] == 0}


def command(study: Study) -> subprocess.Popen:
    """What a user types, with interpreters that begin at nothing."""
    words = [sys.executable, "-m", "foveal", "study", "run", str(study.folder), "--jobs", "2"]
    return subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


RUN = f"""
import sys
sys.path.insert(0, {str(Path(forks.__file__).parent)!r})
from pathlib import Path
from foveal.study import Study
from studies import Forking
with Forking(jobs=2) as executor:
    Study(Path(sys.argv[1])).run(executor, print)
"""


def copies(study: Study) -> forks.Forked | subprocess.Popen:
    """The same loop and the same cells, in copies of an interpreter."""
    with (study.folder / "runner.txt").open("a") as log:
        return forks.start([sys.executable, "-c", RUN, str(study.folder)], None, os.environ, log, log)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("runner", swept([copies, command], "copies", ids=lambda runner: runner.__name__))
def test_killed_in_a_loop_it_ends_where_an_undisturbed_study_does(runner, undisturbed, tmp_path):
    study = prepared(tmp_path, seeds=1)
    kill_in_a_loop(study, runner, rounds=1, longest=2)  # in the middle of saving, judging, starting the next, ...
    assert any(result.resumed for result in study.results().values())
    assert values(study) == of_first_seed(values(undisturbed))
    assert weights(study) == of_first_seed(weights(undisturbed))  # of which two epochs make scores of nothing
    assert {f.check for f in assemble(study).fairness if f.ok is False} <= {"learned"}
    assert not list(study.folder.rglob("resume.pt")), "finished cells keep no more than they need"


@pytest.mark.slow
@pytest.mark.parametrize("split", swept(["train", "val"], "train"))
def test_an_edit_that_is_put_back_costs_its_epoch_and_leaves_no_trace(split, undisturbed, tmp_path, monkeypatch):
    study = prepared(tmp_path)
    cell = study.cells[0]
    label = next((tmp_path / "data/labels" / split).glob("*.txt"))
    text, begin = label.read_text(), recorder._Recording.begin_epoch

    def edited(trainer):
        if trainer.epoch == 1:  # changed, read by whoever reads it now, and put back
            label.write_text("")
            label.write_text(text)
        return begin(trainer)

    monkeypatch.setattr(recorder._Recording, "begin_epoch", edited)
    with pytest.raises(UserError, match="files of the data set were written while the cell was training"):
        room.run(tmp_path, cell.key)
    assert Study(tmp_path).states()[0].status == "failed"
    monkeypatch.undo()
    assert room.run(tmp_path, cell.key)
    found = Result.load(study.path(cell))
    assert found.resumed == 1
    assert found.scores == undisturbed.results()["baseline", 0].scores


def test_a_training_of_other_data_is_not_gone_on_with(tmp_path, monkeypatch):
    study = prepared(tmp_path)
    cell, started = study.cells[0], []
    for told, again in (({"data": study.contents.digest}, True), ({"data": "another"}, False), ({}, False)):
        checkpoint = {"epoch": 0, "foveal": {"record": told}}
        monkeypatch.setattr(recorder, "resumable", lambda _, checkpoint=checkpoint: checkpoint)
        monkeypatch.setattr(recorder, "trainer", lambda *_: lambda overrides: started.append(overrides) or 1 / 0)
        study.path(cell).mkdir(parents=True, exist_ok=True)
        with pytest.raises(ZeroDivisionError):
            room.run(tmp_path, cell.key)
        assert bool(started[-1].get("resume")) is again, told


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_is_finished(undisturbed, small_disk):
    study = prepared(small_disk, seeds=1)
    kept = study.cells[0]
    fake(study, kept)
    said = []
    with full(small_disk, 2**22), Forking() as executor:  # a checkpoint has more
        study.run(executor, said.append)
    assert study.results()["baseline", 0].scores["map"] == 0.5
    assert len(study.results()) == 1
    assert "ema@neck, seed 0" in said[-1]
    assert "No space left" in said[-1] + (study.path(study.cells[1]) / "log.txt").read_text()
    with Forking() as executor:
        study.run(executor, said.append)
    assert values(study)["ema@neck", 0] == values(undisturbed)["ema@neck", 0]


@pytest.mark.slow
def test_what_comes_out(undisturbed, tmp_path):
    found = assemble(undisturbed)
    assert load(write(found, tmp_path)) == found
    assert found.complete
    learned = any(value for arm in found.arms for key in ("map", "map_last") for value in arm.scores[key])
    assert {finding.check: finding.ok for finding in found.fairness} == {
        "learned": learned,  # in two epochs
        **dict.fromkeys(("batches", "seeds", "epochs", "batch", "optimizer", "start", "finite", "agreement"), True),
        **dict.fromkeys(("versions", "device", "resumed", "evaluator", "labels", "frozen"), True),
        **dict.fromkeys(("pretrained", "split"), None),  # fresh weights, and no test images
    }
    baseline, ema = found.arms
    measured = undisturbed.results()
    assert ema.scores["map"] == tuple(measured["ema@neck", seed].scores["map"] for seed in (0, 1))
    differences = np.subtract(ema.scores["map"], baseline.scores["map"])
    assert ema.verdict.differences == pytest.approx(differences.tolist(), abs=1e-9)
    assert ema.verdict.mean == pytest.approx(differences.mean(), abs=1e-9)
    assert ema.verdict.p >= 0.5
    assert np.mean([part.average for part in ema.classes]) == pytest.approx(np.mean(ema.scores["map"]), abs=1e-9)
    assert sum(size.objects for size in ema.sizes) == found.data.objects
    assert ema.cost.parameters - baseline.cost.parameters == 1344
    assert ema.cost.flops > baseline.cost.flops
    assert [len(curve) for curve in ema.curves.metric] == [2, 2]
    assert ema.images.no_gates == ""  # they were not asked for
    # Kept for the next report, which says the same.
    assert replace(assemble(undisturbed), created="") == replace(found, created="")


@pytest.mark.slow
def test_a_report_of_a_study_under_way_says_so(undisturbed, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(undisturbed.folder, folder)
    lost = [cell for cell in undisturbed.cells if cell.pair == 1 and cell.arm.spec]
    shutil.rmtree(folder / "cells" / lost[0].key)
    study = Study(folder)
    found = assemble(study)
    assert not found.complete
    assert found.cells == Progress(planned=4, finished=3)
    assert found.verdict is None
    report.write(found, folder, "zh")
    page = re.sub("<[^>]+>", "", (folder / "report.html").read_text())
    assert "计划 4 次训练，已完成 3 次；以上并非最终结论。" in page
    shutil.rmtree(folder / "cells")
    with pytest.raises(UserError, match="no run of the baseline is finished"):
        assemble(Study(folder))


def test_what_few_seeds_can_find_is_said_before(tmp_path):
    assert "2 seeds cannot call anything a help: the smallest p is 0.5. 6 can" in before(prepared(tmp_path).plan, {})
    said = before(prepared(tmp_path, seeds=6).plan, {})
    assert "12 trainings of 2 epochs, 0 of them finished" in said
    assert "6 seeds find a difference of 1.43 standard deviations" in said
    arms = ["ema@neck", "coord@neck", "A/A"]
    two = before(prepared(tmp_path, seeds=6, arms=arms).plan, {})
    assert "6 seeds cannot call anything a help: the smallest p is 0.062. 7 can" in two


@pytest.mark.slow
@pytest.mark.sweep  # on a host that trains in a second it runs always
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_on_ray_a_killed_worker_costs_an_epoch_at_most(undisturbed, tmp_path):
    study = prepared(tmp_path, seeds=1)
    kill_a_worker_of_ray(study)
    assert values(study) == {where: v for where, v in values(undisturbed).items() if where[1] == 0}


# Data that the host refuses, and cells that all fail ------------------------------------------------------------------


def test_a_study_of_refused_labels_trains_nothing(tmp_path):
    study = prepared(tmp_path)
    for file in (tmp_path / "data/labels/train").glob("*.txt"):
        file.write_text("0 1.2 0.5 0.3 0.3\n")
    study = Study(study.folder)
    executor = Scripted(lambda key, _: 0)
    with pytest.raises(UserError, match=r"no image of train in .* is usable: Ultralytics refuses all 20"):
        study.run(executor, print)
    assert executor.submitted == []


def test_some_refused_labels_are_a_line_of_the_fairness_list(tmp_path):
    study = prepared(tmp_path)
    (tmp_path / "data/labels/train/0003.txt").write_text("0 1.2 0.5 0.3 0.3\n")
    study = Study(study.folder)
    study.run(Scripted(lambda key, _: fake(study, by_key(study)[key]) and 0), lambda _: None)
    found = fairness.labels(room.refused(study.folder))
    assert found.ok is None
    assert found.detail.startswith("left out by Ultralytics: of train, 1 of 20 images, 0003.png for example: ")
    assert fairness.labels({}).ok is True
    (study.folder / "refused.json").unlink()
    assert fairness.labels(room.refused(study.folder)) == Finding(
        "labels", None, "whether Ultralytics left out images is not known"
    )


def test_when_all_cells_have_failed_the_reason_is_said(tmp_path):
    study = prepared(tmp_path)
    with pytest.raises(UserError, match=f"no run of the baseline is finished in .*; foveal study run {study.folder}"):
        assemble(study)
    for cell in study.cells:
        study.path(cell).mkdir(parents=True)
        (study.path(cell) / FAILURE).write_text(json.dumps({"reason": "ValueError: the moon is full"}))
    with pytest.raises(UserError) as refused:
        assemble(study)
    assert refused.value.message.endswith(": 2 failed, with seed 0 because: ValueError: the moon is full")
    assert str(study.path(study.cells[0]) / "log.txt") in refused.value.hint


def test_a_study_whose_test_split_is_not_there_is_judged_on_val_and_says_so(tmp_path):
    data = draw_data(tmp_path / "data", train=8, val=4)
    data.write_text(data.read_text() + "test: ../test/images\n")
    study = Study.prepare(PLAN, tmp_path, tmp_path)
    assert study.plan.split == "val"
    absent = str((tmp_path / "data/test/images").resolve())
    assert f"judged on val; {absent}, named as the test split, is not there" in before(study.plan, {})
    result = {("baseline", 0): fake(study, study.cells[0])}
    folder = study.path(study.cells[0])
    (folder / "args.yaml").write_text("{optimizer: SGD, lr0: 0.1}")
    found = fairness.check(
        study.plan, study.epochs, result, {("baseline", 0): folder}, {study.plan.model: {}}, "val", absent
    )
    (split,) = [finding for finding in found if finding.check == "split"]
    assert split.detail.endswith(f"{absent}, named as the test split, is not there")
    with pytest.raises(UserError, match="split: 'test' is not a split of"):
        Study.prepare({**PLAN, "split": "test"}, tmp_path, tmp_path)
