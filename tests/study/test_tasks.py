"""Studies of every task with objects: what a plan says of them, and a real training of each to its report."""

from pathlib import Path

import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import yaml

import data as drawings
from foveal import UserError, report, results, tensors
from foveal.evidence import TASKS
from foveal.evidence.averages import AGREEMENT
from foveal.hosts.ultralytics import models, recorder
from foveal.study import Plan, Study, forecast, run
from helpers import swept

MODELS = {"segment": "yolo11n-seg.yaml", "pose": "yolo11n-pose.yaml", "obb": "yolo11n-obb.yaml"}
MEASURED = (*MODELS.values(), "yolov8n-rtdetr.yaml")
TRAIN = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "verbose": False}


def written(folder: Path, task: str, model: str, **changes: object) -> dict:
    """The keys of a plan on drawn images."""
    drawings.draw_things(folder / "data", task, 4, 3)
    plan = {"model": model, "data": "data/data.yaml", "arms": ["ema@neck"], "seeds": 1, "train": TRAIN}
    return {**plan, **changes}


def finished(folder: Path, plan: dict) -> Study:
    """A study whose cells were trained in this process."""
    study = Study.prepare(plan, folder, folder)
    for cell in study.cells:
        assert run(folder, cell.key)
    return Study(folder)


@pytest.mark.host
@pytest.mark.seldom
@pytest.mark.slow
@pytest.mark.parametrize("task", swept(MODELS, "segment"))
def test_a_study_of_each_task_from_training_to_its_report(task, tmp_path):
    study = finished(tmp_path, written(tmp_path, task, MODELS[task]))
    keys = {key for metric in TASKS[task].metrics for key in (metric.key, metric.second_key)}
    for result in study.results().values():
        assert result.scores.keys() == keys | {f"{key}_last" for key in keys}
        assert result.disagreement <= AGREEMENT
        assert (result.epochs, result.finite) == (1, True)
    found = results.assemble(study)
    assert (found.task, found.statistics.metric) == (task, TASKS[task].metric.name)
    told = {one.check: one for one in found.fairness}
    assert told["batches"].ok
    assert told["start"].ok
    assert told["agreement"].ok
    assert [part.name for part in found.baseline.beside] == [metric.name for metric in TASKS[task].metrics[1:]]
    assert [sizes.objects for sizes in found.baseline.sizes] == [4, 0, 0]
    assert all(arm.curves.metric for arm in found.arms)
    page = report.write(found, tmp_path)[0].read_text(encoding="utf-8")
    assert f"sizes_by_{task}" not in page
    again = results.load(results.write(found, tmp_path))
    assert again == found


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize(
    "model",
    ["yolov8n-rtdetr.yaml", "yolo26n.yaml", "yolov10n.yaml", "yolov9t.yaml", "yolov8n.yaml", "yolov5nu.yaml"]
    + [f"yolo26n-{end}.yaml" for end in ("seg", "pose", "obb")],
)
def test_an_epoch_of_every_kind_of_detector(model, tmp_path):
    """Among them heads without suppression, which are judged by another path of the host."""
    try:
        models.load(model)
    except UserError:
        pytest.skip("this release of Ultralytics does not know it")
    task = models.task(model).name
    study = finished(tmp_path, written(tmp_path, task, model, train=TRAIN | {"imgsz": 160}))
    assert len(study.results()) == 2
    assert all(result.disagreement <= AGREEMENT for result in study.results().values())
    assert results.assemble(study).task == task


@pytest.mark.host
@pytest.mark.seldom
@pytest.mark.parametrize("model", swept([*MEASURED, "yolo26n-seg.yaml", "yolo26n-pose.yaml"], MEASURED[-1]))
def test_the_hours_of_each_task_are_measured(model, tmp_path):
    try:
        task = models.load(model).task
    except UserError:
        pytest.skip("this release of Ultralytics does not know it")
    found = forecast(Plan.of(written(tmp_path, task, model, train=TRAIN | {"imgsz": 160}), tmp_path), "cpu")
    assert set(found.seconds) == {"baseline", "ema@neck"}
    assert all(value > 0 for value in found.seconds.values())


@pytest.mark.host
@pytest.mark.sweep
@pytest.mark.parametrize("model", [*MODELS.values(), "yolov8n-rtdetr.yaml", "yolo26n-seg.yaml", "yolo26n-sem.yaml"])
def test_a_training_that_was_interrupted_ends_where_an_undisturbed_one_does(model, tmp_path, monkeypatch):
    try:
        models.load(model)
    except UserError:
        pytest.skip("this release of Ultralytics does not know it")
    task = models.task(model)
    data = drawings.draw_things(tmp_path / "data", task.name, 8, 3)
    settings = {**TRAIN, "imgsz": 160, "epochs": 2, "nbs": 8, "model": model, "data": str(data), "device": "cpu"}
    settings |= {"close_mosaic": 1, "plots": False, "exist_ok": True, "project": str(tmp_path)}
    trainer = recorder.trainer(model, task)

    class Stopped(Exception):
        pass

    class Interrupted(trainer):
        def save_model(self):
            super().save_model()
            if self.epoch == 0:
                raise Stopped

    undisturbed = trainer(overrides={**settings, "name": "a"})
    undisturbed.train()
    with pytest.raises(Stopped):
        Interrupted(overrides={**settings, "name": "b"}).train()
    again = trainer(overrides={"resume": str(tmp_path / "b" / recorder.RESUME), "device": "cpu", "data": str(data)})
    again.train()
    assert again.record["resumed"] == 1
    assert again.record["batches"] == undisturbed.record["batches"]
    assert tensors.digests(again.ema.ema) == tensors.digests(undisturbed.ema.ema)


# Plans ---------------------------------------------------------------------------------------------------------------


def test_a_plan_names_the_metric_that_decides(tmp_path):
    plan = written(tmp_path, "segment", "yolo11n-seg.yaml")
    by_mask, by_box = (Plan.of({**plan, **more}, tmp_path) for more in ({}, {"metric": "box"}))
    assert (by_mask.metric.name, by_box.metric.name) == ("mask mAP50-95", "box mAP50-95")
    assert [cell.key for cell in by_mask.cells("0")] == [cell.key for cell in by_box.cells("0")], "trained alike"
    with pytest.raises(UserError, match="metric: 'keypoints' is none by which segment is judged; metric: mask or box"):
        Plan.of({**plan, "metric": "keypoints"}, tmp_path)
    with pytest.raises(UserError, match="metric: 3 is none by which segment is judged"):
        Plan.of({**plan, "metric": 3}, tmp_path)
    study = Study.prepare(plan, tmp_path, tmp_path)
    study._note_contents(print)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**plan, "metric": "box"}))
    assert Study(tmp_path).changed() == {"metric": ("mask", "box")}


def test_a_model_of_another_task_is_no_arm(tmp_path):
    plan = written(tmp_path, "segment", "yolo11n-seg.yaml", arms=[{"model": "yolo11n.yaml"}])
    with pytest.raises(UserError, match=r"yolo11n\.yaml is a model for the task 'detect', and a study .* 'segment'"):
        Study.prepare(plan, tmp_path, tmp_path)


def test_a_task_of_which_nothing_is_kept_is_refused(tmp_path):
    with pytest.raises(UserError) as refusal:
        Plan.of(written(tmp_path, "detect", "yolo26n-depth.pt"), tmp_path)
    assert str(refusal.value) == (
        "yolo26n-depth.pt is a model for depth, of which a study keeps nothing to be judged by; "
        "a study is for detect, segment, pose, obb, classify, semantic"
    )


def test_how_key_points_lie_is_part_of_what_names_a_cell(tmp_path):
    plan = written(tmp_path, "pose", "yolo11n-pose.yaml")
    before = [cell.key for cell in Plan.of(plan, tmp_path).cells("0")]
    assert before == [cell.key for cell in Plan.of(plan, tmp_path).cells("0")]
    data = tmp_path / "data" / "data.yaml"
    data.write_text(data.read_text().replace("flip_idx: [0, 1]", "flip_idx: [1, 0]"))
    assert not {*before} & {cell.key for cell in Plan.of(plan, tmp_path).cells("0")}


def test_a_rehearsal_keeps_what_says_how_key_points_lie(tmp_path):
    from foveal.study.rehearsal import reduced

    plan = written(tmp_path, "pose", "yolo11n-pose.yaml", train={**TRAIN, "epochs": 4})
    small = reduced(plan, tmp_path, tmp_path / "small", 0.5)
    copied = yaml.safe_load(Path(small["data"]).read_text())
    assert (copied["kpt_shape"], copied["flip_idx"]) == ([2, 3], [0, 1])
