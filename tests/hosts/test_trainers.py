"""Every trainer of the installed Ultralytics, and every class of models that trains: ours are importable, and train."""

import copy
import inspect
import pickle
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers import in_fork, last_json

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import ultralytics
import yaml
from ultralytics import models
from ultralytics.engine.model import Model
from ultralytics.nn import tasks

from detectors import build, config, published
from foveal import EMAttention, IdentityStart, Spec
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import trainers
from foveal.study.demo import draw_data
from foveal.surgery import model_yaml

pytestmark = pytest.mark.host

YAMLS = {
    file.name: yaml.safe_load(file.read_text(encoding="utf-8"))
    for file in sorted(Path(ultralytics.__file__).parent.glob("cfg/models/*/*.yaml"))
}
WORDS = {"YOLOWorld": "-world", "YOLOE": "yoloe", "RTDETR": "rtdetr"}  # by which the host tells files of a class


def task_map(cls: type[Model]) -> dict:
    return cls.__new__(cls).task_map


KNOWN = [cls for cls in vars(models).values() if isinstance(cls, type) and issubclass(cls, Model)]
STOCK = [cls for cls in KNOWN if "trainer" in inspect.getsource(cls.task_map.fget)]
PAIRS = [pytest.param(cls, task, id=f"{cls.__name__}-{task}") for cls in STOCK for task in task_map(cls)]


def small(cls: type[Model], task: str) -> str:
    """The name of a YAML of the host's for a class and a task, of one with a small scale if there is one."""
    found = [
        name
        for name, cfg in YAMLS.items()
        if (len(task_map(cls)) == 1 or tasks.guess_model_task(cfg) == task)
        and WORDS.get(cls.__name__) == next((word for word in WORDS.values() if word in name), None)
    ]
    return min(found, key=lambda name: ("n" not in YAMLS[name].get("scales", ()), len(str(YAMLS[name]))))


def attended(cls: type[Model], task: str) -> torch.nn.Module:
    """A small model with an attention whose gains are not 0, saved rows and all."""
    cfg = model_yaml.with_suffix(tasks.yaml_model_load(small(cls, task)), Spec.parse("se(reduction=4)"), [0])
    network = task_map(cls)[task]["model"](cfg, verbose=False)
    for start in network.modules():
        if isinstance(start, IdentityStart):
            start.gain.data.fill_(0.5)
    return network


def trainer_for(trainer: type, network: torch.nn.Module, task: str, **arguments):
    """A trainer as far as building a model goes, without data."""
    made = trainer.__new__(trainer)
    made.data = {"nc": network.yaml["nc"], "channels": 3, "names": dict(enumerate(range(network.yaml["nc"])))}
    made.data |= {"kpt_shape": network.yaml.get("kpt_shape")}
    defaults = dict(freeze=None, pretrained=True, dropout=0.0, single_cls=False, classes=None, max_det=300)
    defaults["multi_scale"] = False
    made.args, made.callbacks = SimpleNamespace(task=task, **defaults | arguments), defaultdict(list)
    made.resume = False
    return made


def starts(network: torch.nn.Module) -> list[float]:
    return [float(module.gain.detach().max()) for module in network.modules() if isinstance(module, IdentityStart)]


def test_every_class_of_models_that_trains_has_one_of_ours():
    assert {cls.__name__ for cls in STOCK} >= {"YOLO", "YOLOWorld", "YOLOE", "RTDETR"}
    assert set(trainers.MODELS) == set(STOCK)


@pytest.mark.parametrize("stock", STOCK, ids=lambda cls: cls.__name__)
def test_every_task_has_a_trainer_that_workers_can_import(stock):
    ours = getattr(trainers, stock.__name__)
    assert issubclass(ours, stock)
    theirs, found = task_map(stock), task_map(ours)
    assert set(found) == set(theirs)
    for task, classes in found.items():
        trainer = classes["trainer"]
        assert trainer is not theirs[task]["trainer"]
        assert issubclass(trainer, theirs[task]["trainer"])
        assert pickle.loads(pickle.dumps(trainer)) is trainer
        assert {**classes, "trainer": None} == {**theirs[task], "trainer": None}


def test_a_worker_that_imports_a_trainer_by_name_registers(tmp_path):
    names = {(cls.__module__, cls.__qualname__) for cls in trainers.TRAINERS.values()}
    assert len(names) == len(trainers.TRAINERS)
    code = f"""
import json
from importlib import import_module
found = [getattr(import_module(module), name).__name__ for module, name in {sorted(names)}]
from ultralytics.nn import tasks
print(json.dumps([found, hasattr(tasks.parse_model, "__wrapped__")]))
"""
    assert last_json(in_fork(code, tmp_path)) == [sorted(name for _, name in names), True]


@pytest.mark.parametrize(("stock", "task"), PAIRS)
def test_every_trainer_builds_the_attentions_it_is_given(stock, task, tmp_path):
    network = attended(stock, task)
    assert starts(network) == [0.5]
    for trainer in (task_map(stock)[task]["trainer"], task_map(getattr(trainers, stock.__name__))[task]["trainer"]):
        cfg = copy.deepcopy(network.yaml)
        built = trainer_for(trainer, network, task).get_model(cfg=cfg, weights=network, verbose=False)
        assert starts(built) == [0.5]
        assert type(built.yaml) is dict
        assert model_yaml.rows(built.yaml) == model_yaml.rows(network.yaml)
        assert cfg["yaml_file"] == built.yaml["yaml_file"] == network.yaml["yaml_file"]


@pytest.mark.parametrize(("stock", "task"), PAIRS)
def test_a_file_becomes_the_class_that_the_host_makes_of_it(stock, task, tmp_path):
    network = attended(stock, task)
    network.task, network.args = task, {"task": task}
    file = tmp_path / f"{WORDS.get(stock.__name__, '')}model.pt"
    torch.save(host.checkpoint(network, {"train_args": {"task": task}}), file)
    theirs = ultralytics.YOLO(file)
    loaded = host.YOLO(file)
    assert type(loaded) is getattr(trainers, type(theirs).__name__)
    assert loaded.task == theirs.task
    assert loaded.task_map[task]["trainer"] is trainers.TRAINERS[theirs.task_map[task]["trainer"]]


def test_a_stock_trainer_that_is_asked_for_is_ours(monkeypatch):
    asked = []
    monkeypatch.setattr(Model, "train", lambda self, trainer=None, **kwargs: asked.append((trainer, kwargs)))
    model, (stock, ours) = host.YOLO("yolo11n.yaml"), next(iter(trainers.TRAINERS.items()))
    for given in (stock, ours, None, object):
        model.train(given, epochs=1)
    assert asked == [(each, {"epochs": 1}) for each in (ours, ours, None, object)]


# Frozen layers -------------------------------------------------------------------------------------------------------


def test_frozen_layers_leave_their_attentions_trainable():
    model = build("yolo11n", model_yaml.with_suffix(config("yolo11n"), Spec.parse("ema"), [4]))
    row_model = build("yolo11n", published([-1, 1, "EMA", []]))
    assert isinstance(row_model.model[11], EMAttention)
    assert trainers.spare_attentions(model, 3) == [0, 1, 2]
    assert trainers.spare_attentions(model, [3, 4, "5.conv"]) == [3, "4.cv1", "4.cv2", "4.m", "5.conv"]
    assert trainers.spare_attentions(row_model, [10, 11, 99]) == [10, 99]
    assert trainers.spare_attentions(model, None) is None


@pytest.mark.parametrize(("stock", "task"), PAIRS)
def test_every_trainer_spares_attentions(stock, task):
    network = attended(stock, task)
    made = trainer_for(task_map(getattr(trainers, stock.__name__))[task]["trainer"], network, task, freeze=[0])
    made.model = network
    made.set_model_attributes()
    assert made.args.freeze
    frozen = [name for name, _ in network.named_parameters() if any(f"model.{e}." in name for e in made.args.freeze)]
    all_of_row = [name for name, _ in network.named_parameters() if name.startswith("model.0.")]
    assert set(all_of_row) - set(frozen) == {name for name in all_of_row if ".attention." in name}


def test_a_distillation_that_is_resumed_spares_attentions():
    network = attended(ultralytics.YOLO, "detect")
    made = trainer_for(trainers.DetectionTrainer, network, "detect", freeze=[0])
    made.model = torch.nn.Module()
    made.model.student_model = network
    made.set_model_attributes()
    assert made.args.freeze == ["0.conv", "0.bn", "0.act"]


@pytest.mark.slow
def test_an_open_vocabulary_is_trained_with_attentions(tmp_path, monkeypatch):
    """For all but the text encoder, which the host would download."""
    draw_data(tmp_path, train=4, val=2)
    monkeypatch.setattr(
        tasks.WorldModel,
        "get_text_pe",
        lambda self, texts, *_, **__: torch.nn.functional.normalize(torch.randn(1, len(texts), 512), dim=-1),
    )
    network = attended(ultralytics.YOLOWorld, "detect")
    network.task, network.args = "detect", {"task": "detect"}
    torch.save(host.checkpoint(network, {"train_args": {"task": "detect"}}), tmp_path / "open-world.pt")
    model = host.YOLO(tmp_path / "open-world.pt")
    quick = dict(imgsz=64, batch=2, nbs=2, workers=0, device="cpu", plots=False, amp=False, exist_ok=True)
    quick |= dict(freeze=9, lr0=0.1, optimizer="SGD")
    model.train(data=str(tmp_path / "data.yaml"), epochs=1, project=str(tmp_path), **quick)
    assert type(model.trainer) is trainers.WorldTrainer
    trained = torch.load(model.trainer.last, weights_only=False)
    assert len(starts(trained["ema"] or trained["model"])) == 1
    assert starts(model.trainer.model) != [0.5]
