"""What the host's trainer and validator leave behind for a study."""

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import torch

from foveal import tensors
from foveal.evidence import TASKS
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import matching, recorder
from foveal.hosts.ultralytics.arguments import TEACHERS
from foveal.study.demo import draw_data
from foveal.verdict import average_precision, mean_average_precision

SETTINGS = {"epochs": 1, "imgsz": 64, "batch": 4, "device": "cpu", "plots": False, "verbose": False, "exist_ok": True}


def trained(folder, data, model, **changes):
    """A trainer that has trained for an epoch."""
    overrides = {**SETTINGS, "model": model, "data": str(data), "seed": 0, **changes}
    overrides |= {"project": str(folder.parent), "name": folder.name}
    trainer = recorder.trainer(model, TASKS["detect"])(overrides=overrides)
    trainer.train()
    return trainer


@pytest.mark.slow
def test_batches_and_first_weights_depend_on_the_seed_and_not_on_the_model(tmp_path):
    data = draw_data(tmp_path / "data", train=8, val=4)
    (tmp_path / "ema.yaml").write_text(_with_ema())
    plain = trained(tmp_path / "a", data, "yolo11n.yaml")
    ema = trained(tmp_path / "b", data, str(tmp_path / "ema.yaml"))
    other = trained(tmp_path / "c", data, "yolo11n.yaml", seed=1, workers=2)
    assert plain.record["batches"] == ema.record["batches"]
    assert plain.record["batches"] != other.record["batches"]
    mine, theirs = plain.record["start"], ema.record["start"]
    assert len(theirs) > len(mine) == 499
    assert all(theirs[name] == digest for name, digest in mine.items())
    assert plain.record["start"] != other.record["start"]
    # The same seed gives the same training.
    again = trained(tmp_path / "d", data, "yolo11n.yaml")
    assert tensors.digests(again.ema.ema) == tensors.digests(plain.ema.ema)
    checkpoint = recorder.resumable(tmp_path / "a")
    assert checkpoint["epoch"] == 0
    assert checkpoint["foveal"]["record"]["batch"] == 4
    moved = (tmp_path / "a").rename(tmp_path / "moved")
    assert recorder.resumable(moved) is None, "the host would go on where the run was"


def _with_ema() -> str:
    import yaml

    cfg = host.load("yolo11n.yaml").model.yaml
    cfg["head"][5][2] += "+ema"
    cfg["scales"] = {"n": cfg["scales"]["n"]}
    return yaml.safe_dump({key: value for key, value in cfg.items() if key not in ("scale", "yaml_file")})


class Fixed:
    """In the place of the host's validator: boxes need no scaling, and the hits are given."""

    def init_metrics(self, model):
        pass

    def scale_preds(self, preds, batch):
        return preds

    def _process_batch(self, preds, batch):
        return {"tp": preds["hits"]}


class Detecting(matching._Detecting, Fixed):
    pass


def test_equal_confidences_stay_in_the_hosts_order():
    """A saturated head gives many, and averages depend on their order."""
    metrics = pytest.importorskip("ultralytics.utils.metrics")
    rng = np.random.default_rng(0)
    validator, shown = Detecting(), []
    validator.init_metrics(None)
    for index in rng.permutation(12):
        count = int(rng.integers(0, 40))
        preds = {
            "bboxes": torch.from_numpy(rng.random((count, 4))),
            "conf": torch.from_numpy(rng.choice([0.0, 0.5, 1.0], count)).float(),
            "cls": torch.from_numpy(rng.integers(0, 2, count)).float(),
            "hits": rng.random((count, 10)) < 0.1,
        }
        objects = torch.from_numpy(rng.integers(0, 2, 50)).float()
        batch = {"im_file": f"/far/{index:02}.jpg", "bboxes": torch.zeros(50, 4), "cls": objects}
        validator._process_batch(preds, batch)
        shown.append((preds["hits"], preds["conf"].numpy(), preds["cls"].numpy(), objects.numpy()))
    found = validator.found()
    assert found.name.tolist() == [f"{index:02}.jpg" for index in range(12)]
    theirs = metrics.ap_per_class(*(np.concatenate(column) for column in zip(*shown, strict=True)))[5]
    _, ours = average_precision(found.matches(), found.truth(), definition=host.AVERAGE_PRECISION)
    assert mean_average_precision(ours)[1][0] == pytest.approx(theirs.mean(), abs=1e-9)
    assert np.abs(ours[0] - theirs).max() <= 1e-9


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.skipif(not TEACHERS, reason="this release of Ultralytics has no teachers")
def test_a_taught_model_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    """The host keeps the teacher out of its checkpoints, and the student in a model of both."""
    data, teacher = draw_data(tmp_path / "data", train=8, val=4), tmp_path / "teacher.pt"
    torch.manual_seed(1)
    host.load("yolo11n.yaml").save(teacher)
    terms = {"epochs": 2, "nbs": 4, "warmup_epochs": 0, TEACHERS[0]: str(teacher)}
    whole = trained(tmp_path / "whole", data, "yolo11n.yaml", **terms)

    def killed(self):
        if self.epoch:
            raise KeyboardInterrupt
        return begin(self)

    begin = recorder._Recording.begin_epoch
    with monkeypatch.context() as patch:
        patch.setattr(recorder._Recording, "begin_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "part", data, "yolo11n.yaml", **terms)
    again = recorder.trainer("yolo11n.yaml", TASKS["detect"])(
        overrides={"resume": str(tmp_path / "part" / recorder.RESUME), "device": "cpu", "data": str(data)}
    )
    again.train()
    assert again.record["resumed"] == 1
    for key in ("start", "batches"):
        assert again.record[key] == whole.record[key]
    mine, theirs = (tensors.digests(host.load(run.best).model) for run in (again, whole))
    assert mine == theirs
    assert len(mine) == 499, "the student alone"
    plain = trained(tmp_path / "plain", data, "yolo11n.yaml", **{**terms, TEACHERS[0]: None})
    assert plain.record["start"] == whole.record["start"]
    assert tensors.digests(host.load(plain.best).model) != theirs, "the teacher teaches"
