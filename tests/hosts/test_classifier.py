"""Models of zoos and of the host as classifiers: built by name, trained, judged, resumed, loaded and exported."""

import csv
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import forks
from helpers import in_fork, last_json, swept

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("timm", reason="timm is not installed")

import foveal
from foveal import IdentityStart, UserError, tensors
from foveal.attention import Attention
from foveal.evidence import TASKS
from foveal.hosts import ultralytics as host
from foveal.hosts import zoo
from foveal.hosts.ultralytics import classifier, modelfile, recorder, validators
from foveal.surgery import Spec, attaching

pytestmark = pytest.mark.host

EMA = Spec.parse("ema(groups=8)@layer4.*.bn2")
# The host sorts them so, but paths that begin with the first come after those that begin with the second.
NAMES = dict(enumerate(["class", "class-b", "class2", "class3", "class4", "class5", "class6"]))
TERMS = {"imgsz": 32, "batch": 6, "workers": 0, "device": "cpu", "plots": False, "verbose": False, "exist_ok": True}
TERMS |= {"optimizer": "SGD", "lr0": 0.02, "momentum": 0.9, "warmup_epochs": 0, "nbs": 12}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder for classification with drawn images: 28 to train on, 14 to choose by, 21 to judge on."""
    folder = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for label, name in NAMES.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = generator.normal(100, 40, (32, 32, 3))
                pixels[4 * label : 4 * label + 6, :, label % 3] += 100
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{index}.png")
    return folder


def start(folder: Path, name: str = "timm:resnet18", spec: Spec | None = EMA, seed: int = 0) -> Path:
    """A checkpoint to start from."""
    torch.manual_seed(seed)
    classifier.write(name, spec, NAMES, folder / "start.pt")
    return folder / "start.pt"


def prepared(folder: Path, data: Path, model: str | Path, **changes) -> recorder.ClassificationTrainer:
    overrides = {**TERMS, "model": str(model), "data": str(data), "epochs": 1, "seed": 0, **changes}
    overrides |= {"project": str(folder.parent), "name": folder.name}
    return recorder.trainer(str(model), TASKS["classify"])(overrides=overrides)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """The folder of a ResNet with EMA that was trained for two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    prepared(folder / "run", data, start(folder), epochs=2).train()
    return folder / "run"


def switched_on(model: nn.Module) -> nn.Module:
    """With parameters at which the attentions count."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # timm starts the last of a block at 0, so that its branch is silent
            nn.init.ones_(module.weight)
        if isinstance(module, IdentityStart):
            for parameter in module.parameters():
                nn.init.normal_(parameter)
    return model


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("timm:resnet50", ("timm", "resnet50", "", {})),
        ("timm:resnet50.a1_in1k(stem=cifar)", ("timm", "resnet50", "a1_in1k", {"stem": "cifar"})),
        (
            "timm:mobilenetv2_100(drop_rate=0.2, drop_path_rate=0.1)",
            ("timm", "mobilenetv2_100", "", {"drop_rate": 0.2, "drop_path_rate": 0.1}),
        ),
        ("torchvision:resnet18.IMAGENET1K_V1", ("torchvision", "resnet18", "IMAGENET1K_V1", {})),
        ("timm:x(a=(1, 2), b=None, c='d e')", ("timm", "x", "", {"a": (1, 2), "b": None, "c": "d e"})),
    ],
)
def test_names_are_read_and_written(text, parts):
    name = zoo.Name.parse(text)
    assert (name.zoo, name.model, name.weights, name.arguments) == parts
    assert zoo.Name.parse(str(name)) == name
    assert zoo.is_name(text)
    assert not zoo.is_name("timm.pt")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet18(", "cannot read 'timm:resnet18(' as a model of a zoo; write for example timm:resnet50(stem="),
        ("zoo:resnet18", "cannot read 'zoo:resnet18' as a model of a zoo"),
        ("timm:", "cannot read 'timm:' as a model of a zoo"),
        ("timm:resnet18(3)", "cannot read the arguments of 'timm:resnet18(3)'; write for example timm:resnet50(stem="),
        (
            "timm:resnet18(stem=imagenet)",
            "timm:resnet18(stem=imagenet): stem='imagenet' is not a stem; write stem=cifar",
        ),
        ("timm:mobilenetv2_035(stem=cifar)", "timm:mobilenetv2_035(stem=cifar) has no 7 x 7 convolution 'conv1'"),
        ("timm:resnet18d(stem=cifar)", "timm:resnet18d(stem=cifar) has no 7 x 7 convolution 'conv1'"),
        ("torchvision:googlenet(stem=cifar)", "torchvision:googlenet(stem=cifar) has no 7 x 7 convolution 'conv1'"),
        ("timm:resnet18(depth=3)", "timm:resnet18(depth=3) cannot be built: TypeError: "),
        ("timm:resnet18(pretrained=True)", "timm:resnet18(pretrained=True) cannot be built: TypeError: "),
        ("timm:resnet18(block=3)", "timm:resnet18(block=3) cannot be built: AttributeError: "),
        ("torchvision:resnet18(depth=3)", "torchvision:resnet18(depth=3) cannot be built: TypeError: "),
        ("timm:resnet18(num_classes=5)", "timm:resnet18(num_classes=5) says num_classes, but the data set has 7"),
    ],
)
def test_names_that_cannot_work_end_in_a_sentence(name, said):
    with pytest.raises(UserError) as refusal:
        zoo.load(name, 7)
    assert str(refusal.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet18(features_only=True)", "does not return one number for each class"),
        ("timm:resnet18(global_pool='')", "cannot answer for an image: RuntimeError: "),
        ("timm:resnet18(in_chans=1)", "reads 1 channels, and an image has 3; leave in_chans out"),
        ("torchvision:googlenet(init_weights=False)", "in training; write torchvision:googlenet.aux_logits=False."),
    ],
)
@pytest.mark.seldom
def test_what_is_no_classifier_of_images_is_refused(tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        start(tmp_path, name, None)
    assert not list(tmp_path.iterdir())


def test_an_attention_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="no module of ResNet is called 'layer9'"):
        start(tmp_path, spec=Spec.parse("ema@layer9"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:resnet50", "torchvision:resnet18"])
@pytest.mark.seldom
def test_the_stem_for_small_images_keeps_their_size(name):
    torch.manual_seed(0)
    model, plain = zoo.load(f"{name}(stem=cifar)", 7).eval(), zoo.load(name, 7).eval()
    shapes = {}
    for label, each in (("small", model), ("plain", plain)):
        hooks = [each.conv1, each.layer1, each.layer4]
        for part, module in zip(("conv1", "layer1", "layer4"), hooks, strict=True):
            module.register_forward_hook(lambda _, __, out, key=(label, part): shapes.update({key: out.shape[1:]}))
        with torch.no_grad():
            assert each(images(2)).shape == (2, 7)
    assert shapes["small", "conv1"] == (64, 32, 32)
    assert shapes["small", "layer1"][1:] == (32, 32)
    assert shapes["small", "layer4"][1:] == (4, 4)  # stride 8
    assert shapes["plain", "layer4"][1:] == (1, 1)  # stride 32
    weight = model.conv1.weight
    assert weight.shape == (64, 3, 3, 3)
    assert model.conv1.bias is None
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.06)  # He et al.'s, by fan-out
    assert attaching.example_input(model).shape == (1, 3, 32, 32), "tracing it on large images takes seconds"
    others = {key: value.shape for key, value in plain.state_dict().items() if key != "conv1.weight"}
    assert {key: value.shape for key, value in model.state_dict().items() if key != "conv1.weight"} == others


@pytest.mark.parametrize(
    "parts",
    [
        {"conv1": nn.Conv2d(3, 8, 3), "maxpool": nn.MaxPool2d(3)},
        {"conv1": nn.Conv2d(3, 8, 7)},
        {"maxpool": nn.MaxPool2d(3)},
    ],
)
def test_the_stem_for_small_images_replaces_only_what_it_knows(parts, monkeypatch):
    model = nn.Module()
    for name, part in parts.items():
        model.add_module(name, part)
    monkeypatch.setattr(zoo, "_timm", lambda *_: model)
    with pytest.raises(UserError, match="has no 7 x 7 convolution 'conv1' and 'maxpool' that stem=cifar could replace"):
        zoo.load("timm:resnet18(stem=cifar)")
    assert dict(model.named_children()) == parts


def test_arguments_reach_the_builder():
    model = zoo.load("timm:mobilenetv2_035(drop_rate=0.2, drop_path_rate=0.3)", 7)
    assert model.drop_rate == 0.2
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert 0 < max(rates) <= 0.3
    assert zoo.load("torchvision:mobilenet_v2(dropout=0.4)", 7).classifier[0].p == 0.4


@pytest.mark.parametrize(
    "name", ["resnet18.IMAGENET1K_V1", "mobilenet_v2.IMAGENET1K_V1", "squeezenet1_1.IMAGENET1K_V1"]
)
def test_weights_of_torchvision_get_a_last_layer_of_as_many_classes(name, monkeypatch):
    from torchvision import models

    build, asked = models.get_model, []

    def without_network(name, weights, **arguments):
        asked.append((weights, arguments))
        return build(name, weights=None, **arguments)

    monkeypatch.setattr(models, "get_model", without_network)
    torch.manual_seed(0)
    model = zoo.load(f"torchvision:{name}", 7).eval()
    ((weights, arguments),) = asked
    assert weights.name == "IMAGENET1K_V1"
    assert not arguments, "it loads weights with all of their classes only"
    torch.manual_seed(0)
    whole = build(name.partition(".")[0], weights=None).state_dict()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, whole[key])}
    assert len({key.rpartition(".")[0] for key in changed}) == 1
    with torch.no_grad():
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_the_command_names_its_file_without_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grown = zoo.add("timm:resnet18(stem=cifar, drop_rate=0.1)", "ema", at="layer4")
    assert grown.output == "resnet18-ema.pt"
    assert grown.difference == 0
    assert torch.load("resnet18-ema.pt", weights_only=False).conv1.stride == (1, 1)


# The checkpoint ------------------------------------------------------------------------------------------------------


# The second wants other colours than ImageNet's, and the third has a head of another kind.
@pytest.mark.parametrize(
    "name",
    [
        "timm:resnet18",
        "timm:tf_mobilenetv3_small_minimal_100",
        "torchvision:squeezenet1_1",
        "timm:resnet18(stem=cifar)",
    ],
)
@pytest.mark.seldom
def test_it_is_the_zoos_model_on_normalised_images(tmp_path, name):
    torch.manual_seed(5)
    inner = zoo.load(name, 7)
    found = host.load(start(tmp_path, name, None, seed=5))
    assert (found.task, found.model.names) == ("classify", NAMES)
    model = found.model.eval()
    assert tensors.digests(model.model[1]) == tensors.digests(inner)
    mean, deviation = {"timm:tf_mobilenetv3_small_minimal_100": ([0.5] * 3, [0.5] * 3)}.get(
        name, ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    x = images()
    by_hand = torch.stack([(x[:, c] - mean[c]) / deviation[c] for c in range(3)], 1)
    with torch.no_grad():
        logits = inner.eval()(by_hand)
        probabilities, raw = model(x)
        assert torch.allclose(raw, logits, rtol=1e-4, atol=1e-5)
        assert torch.allclose(probabilities, logits.softmax(1), rtol=1e-4, atol=1e-6)
        assert model.train()(x).shape == (3, 7)
        assert model.model[2](logits) is logits


@pytest.mark.seldom
def test_attentions_change_nothing_that_the_models_share(tmp_path):
    digests, drawn = [], []
    for spec, attended, gains in ((None, 0, 0), (EMA, 2, 2), (Spec.parse("cbam(start=paper)@layer1"), 1, 0)):
        model = host.load(start(tmp_path, spec=spec, seed=3)).model
        digests.append(tensors.digests(model))
        drawn.append(torch.rand(1).item())
        attentions = [module for module in model.modules() if isinstance(module, Attention)]
        starts = [module for module in model.modules() if isinstance(module, IdentityStart)]
        assert (len(attentions), len(starts)) == (attended, gains)
    plain, *others = digests
    for one in others:
        assert len(one) > len(plain)
        assert all(one[key] == value for key, value in plain.items())
    assert len(set(drawn)) == 1
    assert digests[0] != tensors.digests(host.load(start(tmp_path, spec=None, seed=4)).model)


def test_digests_are_those_of_a_model_that_starts_from_the_weights(tmp_path, monkeypatch):
    import timm

    build, known = timm.create_model, zoo.load("timm:resnet18").state_dict()

    def without_network(name, pretrained, num_classes=1000):
        model = build(name.partition(".")[0], num_classes=num_classes)
        if pretrained:
            fits = {key: value for key, value in known.items() if num_classes == 1000 or not key.startswith("fc.")}
            model.load_state_dict(fits, strict=False)
        return model

    monkeypatch.setattr(timm, "create_model", without_network)
    assert classifier.digests("timm:resnet18") == {}
    of_weights = classifier.digests("timm:resnet18.a1_in1k")
    model = host.load(start(tmp_path, "timm:resnet18.a1_in1k", EMA)).model
    assert model.yaml["zoo"] == "timm:resnet18", "who builds it anew must not download them again"
    started = tensors.digests(model)
    assert {key for key, value in of_weights.items() if started[key] != value} == {
        "model.1.fc.weight",
        "model.1.fc.bias",
    }


# Training ------------------------------------------------------------------------------------------------------------


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "results.csv").open() as file:
        return [{key.strip(): float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def recorded(folder: Path, data: Path, model: str | Path, **changes) -> dict:
    """What a trainer notes of one epoch."""
    trainer = prepared(folder, data, model, **changes)
    trainer.train()
    return trainer.record


@pytest.mark.slow
@pytest.mark.parametrize("changes", swept([{"pretrained": True}, {"pretrained": False}], "{'pretrained': False}"))
def test_arms_see_the_same_batches_and_share_their_start(tmp_path, data, changes):
    foveal.add("yolo11n-cls.yaml", "ema(groups=8)", at="P5", output=tmp_path / "ema.yaml")
    (tmp_path / "plain").mkdir()
    (tmp_path / "with").mkdir()
    models = {
        "yolo": "yolo11n-cls.yaml",
        "yolo-ema": tmp_path / "ema.yaml",
        "zoo": start(tmp_path / "plain", "timm:mobilenetv2_035", None, seed=7),
        "zoo-ema": start(tmp_path / "with", "timm:mobilenetv2_035", Spec.parse("ema(groups=8)@conv_head"), seed=7),
    }
    records = {name: recorded(tmp_path / f"r-{name}", data, model, **changes) for name, model in models.items()}
    assert len({tuple(record["batches"]) for record in records.values()}) == 1
    for kind in ("yolo", "zoo"):
        plain, ema = (records[name]["start"] for name in (kind, f"{kind}-ema"))
        assert len(ema) > len(plain)
        assert [key for key, value in plain.items() if ema[key] != value] == []
    begun = tensors.digests(host.load(models["zoo"]).model)
    kept = [records["zoo"]["start"][key] == value for key, value in begun.items() if key.endswith(".weight")]
    assert all(kept) == changes["pretrained"]


@pytest.mark.slow
@pytest.mark.seldom
@pytest.mark.sweep  # that of detectors is asked always
def test_another_seed_or_other_augmentation_makes_other_batches(tmp_path, data, trained):
    known = recorder.resumable(trained)["foveal"]["record"]["batches"]
    assert len({*known}) == 2
    for changes in ({"seed": 1}, {"scale": 0.1}):
        record = recorded(tmp_path / "run", data, trained.parent / "start.pt", **changes)
        assert record["batches"][0] not in known


@pytest.mark.slow
def test_an_epoch_trains_every_part_and_says_what_it_was(trained):
    checkpoint = recorder.resumable(trained)
    after = checkpoint["foveal"]["model"]  # last.pt is rounded
    before = host.load(trained.parent / "start.pt").model
    still = [key for key, value in before.named_parameters() if torch.equal(value, after[key])]
    # Behind a gain that was 0 when the only gradient came that was not applied yet.
    assert all("attention" in key and not key.endswith("gain") for key in still)
    assert sum(key.endswith("gain") for key in after) == 2
    assert host.load(trained / "weights/best.pt").task == "classify"
    losses = [row["train/loss"] for row in rows(trained)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert checkpoint["foveal"]["record"]["batch"] == 6
    assert len(checkpoint["foveal"]["record"]["batches"]) == 2


@pytest.mark.slow
@pytest.mark.seldom
def test_a_process_that_knows_nothing_of_foveal_loads_predicts_judges_and_trains_on(trained, data, tmp_path):
    weights = str(trained / "weights/best.pt")
    own = host.load(weights)
    picture = next((data / "test").rglob("*.png"))
    expected = own.predict(picture, imgsz=32, device="cpu", verbose=False)[0]
    judged = own.val(data=str(data), split="test", imgsz=32, batch=4, device="cpu", plots=False, project=tmp_path)
    code = f"""
import json, sys, torch
layers = [type(layer).__name__ for layer in torch.load({weights!r}, weights_only=False)["model"].model]
from ultralytics import YOLO
model = YOLO({weights!r})
found = model.predict({str(picture)!r}, imgsz=32, device="cpu", verbose=False)[0]
terms = dict(data={str(data)!r}, imgsz=32, device="cpu", plots=False, project={str(tmp_path)!r})
judged = model.val(split="test", batch=4, **terms)
model.train(epochs=1, batch=6, workers=0, optimizer="SGD", verbose=False, **terms)
again = YOLO(model.trainer.best)
attentions = [name for name, m in again.model.named_modules() if type(m).__name__ == "EMAttention"]
print(json.dumps([layers, found.probs.data.tolist(), found.names, judged.top1, judged.top5, attentions]))
"""
    layers, probabilities, names, top1, top5, attentions = last_json(
        in_fork(code, Path.cwd())
    )  # where PYTHONPATH may be relative
    assert probabilities == expected.probs.data.tolist()
    assert names == {str(label): name for label, name in NAMES.items()}
    assert (top1, top5) == (judged.top1, judged.top5)
    assert len(attentions) == 2
    assert layers == ["Normalise", "ResNet", "Answer"]


@pytest.mark.slow
@pytest.mark.seldom
def test_another_data_set_gets_a_last_layer_of_its_own(trained, data, tmp_path):
    """As the host does for its own models."""
    for split in ("train", "val"):
        for label in range(2):
            shutil.copytree(data / split / NAMES[label], tmp_path / "two" / split / NAMES[label])
    trainer = prepared(tmp_path / "run", tmp_path / "two", trained / "weights/last.pt", batch=4)
    trainer.train()
    assert host.load(trainer.last).model.eval()(images())[0].shape == (3, 2)
    begun, kept = tensors.digests(host.load(trained / "weights/last.pt").model), trainer.record["start"]
    assert {key for key, value in begun.items() if kept[key] != value} == {"model.1.fc.weight", "model.1.fc.bias"}


class Cut(Exception):
    """In the middle of an epoch."""


@pytest.mark.slow
@pytest.mark.parametrize("way", swept(["killed", "raised"], "raised"))
@pytest.mark.seldom
def test_cut_off_in_an_epoch_it_ends_where_an_undisturbed_run_does(tmp_path, data, way):
    # 28 images are 5 batches, and a step is made after every second: some gradients wait over the end of an epoch.
    if way == "killed":
        model = start(tmp_path, "timm:resnet18(drop_path_rate=0.2)")
        _killed(tmp_path / "cut", {**TERMS, "model": str(model), "data": str(data), "epochs": 3, "seed": 0})
    else:
        foveal.add("yolo11n-cls.yaml", "ema(groups=8)", at="P5", output=tmp_path / "start.yaml")
        model = tmp_path / "start.yaml"
        trainer = prepared(tmp_path / "cut", data, model, epochs=3)
        trainer.add_callback("on_train_batch_start", _raise_in_the_eighth_batch())
        with pytest.raises(Cut):
            trainer.train()
    assert recorder.resumable(tmp_path / "cut")["epoch"] == 0
    whole = prepared(tmp_path / "whole", data, model, epochs=3)
    whole.train()
    overrides = {"resume": str(tmp_path / "cut" / recorder.RESUME), "device": "cpu", "data": str(data)}
    resumed = recorder.trainer(str(model), TASKS["classify"])(overrides=overrides)
    assert resumed.args.imgsz == 32
    resumed.train()
    assert resumed.record["resumed"] == 1
    assert resumed.record["batches"] == whole.record["batches"]
    assert tensors.digests(resumed.model) == tensors.digests(whole.model)
    assert tensors.digests(resumed.ema.ema) == tensors.digests(whole.ema.ema)
    told = [[{k: v for k, v in row.items() if k != "time"} for row in rows(tmp_path / run)] for run in ("cut", "whole")]
    assert told[0] == told[1]


def _raise_in_the_eighth_batch():
    batches = []

    def count(trainer) -> None:
        batches.append(1)
        if len(batches) == 8:
            raise Cut

    return count


def _killed(folder: Path, terms: dict) -> None:
    """Train in a process that stands still in its eighth batch until it is killed."""
    terms |= {"project": str(folder.parent), "name": folder.name}
    reached = folder.parent / "reached"
    code = f"""
import json, pathlib, time
from foveal.evidence import TASKS
from foveal.hosts.ultralytics import recorder
batches = []
def stand_still(trainer):
    batches.append(1)
    if len(batches) == 8:
        pathlib.Path({str(reached)!r}).touch()
        time.sleep(600)
terms = json.loads({json.dumps(terms)!r})
trainer = recorder.trainer(terms["model"], TASKS["classify"])(overrides=terms)
trainer.add_callback("on_train_batch_start", stand_still)
trainer.train()
"""
    with open(os.devnull, "w") as nothing:
        process = forks.start([sys.executable, "-c", code], None, os.environ, nothing, nothing)
    for _ in range(1200):
        if reached.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zoo", "yolo"])
def test_what_is_answered_is_what_the_host_counts(trained, data, tmp_path, name):
    if name == "zoo":
        weights = trained / "weights/last.pt"
    else:
        torch.manual_seed(0)
        model = host.tasks.ClassificationModel("yolo11n-cls.yaml", nc=7, verbose=False)
        model.names = NAMES
        weights = tmp_path / "yolo.pt"
        torch.save(host.checkpoint(model, {"train_args": {"task": "classify"}}), weights)
    (tmp_path / "data").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "data" / split).symlink_to(data / split)
    answers, averages = validators.evaluate(
        modelfile.opened(weights), str(tmp_path / "data"), "test", tmp_path, imgsz=32, batch=4
    )
    assert answers.name.tolist() == sorted(f"{name}/{index}.png" for name in NAMES.values() for index in range(3))
    assert [NAMES[label] for label in answers.label] == [name.partition("/")[0] for name in answers.name]
    assert answers.ranked.shape == (21, 5)
    assert averages["top1"] == pytest.approx(answers.scores().mean(), abs=1e-6)
    assert averages["top5"] == pytest.approx(answers.among_best().mean(), abs=1e-6)
    # Each answer is that of its own image.
    model = host.load(weights).model.eval()
    for file, ranked in zip(answers.name, answers.ranked, strict=True):
        with torch.no_grad(), Image.open(data / "test" / file) as picture:
            probabilities = model(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255)[0][0]
        assert probabilities[ranked].tolist() == pytest.approx(
            probabilities.sort(descending=True)[0][:5].tolist(), abs=1e-5
        )
    on_val, _ = validators.evaluate(
        modelfile.opened(weights), str(tmp_path / "data"), "val", tmp_path, imgsz=32, batch=4
    )
    assert len(on_val.name) == 14


@pytest.mark.slow
def test_images_that_cannot_be_read_are_not_among_the_answers(trained, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/val.cache").unlink(missing_ok=True)
    (tmp_path / "data/val/class2/0.png").write_bytes(b"no image")
    answers, averages = validators.evaluate(
        modelfile.opened(trained / "weights/best.pt"), str(tmp_path / "data"), "val", tmp_path, imgsz=32, batch=4
    )
    assert "class2/0.png" not in answers.name
    assert len(answers.name) == 13
    assert [NAMES[label] for label in answers.label] == [name.partition("/")[0] for name in answers.name]
    assert averages["top1"] == pytest.approx(answers.scores().mean(), abs=1e-6)


@pytest.mark.slow
@pytest.mark.newest  # the oldest one's exporter asks recent torch for a package that it does not name
def test_onnx_takes_images_in_0_to_1_and_gives_probabilities(trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    checkpoint = torch.load(trained / "weights/best.pt", weights_only=False)
    checkpoint["model"] = switched_on(checkpoint["model"].float())
    torch.save(checkpoint, tmp_path / "on.pt")
    path = host.load(tmp_path / "on.pt").export(format="onnx", imgsz=32, dynamic=True, device="cpu")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.shape[1:] for each in session.get_outputs()] == [[7]]
    model, x = host.load(tmp_path / "on.pt").model.eval(), images(5)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        probabilities = model(x)[0]
        foveal.detach(model)
        without = model(x)[0]
    assert np.abs(found - probabilities.numpy()).max() <= 1e-5
    assert (without - probabilities).abs().max() > 1e-3, "without its attention it would say something else"
    assert found.sum(1) == pytest.approx(1, abs=1e-5)
    predicted = host.YOLO(path, task="classify").predict(np.zeros((32, 32, 3), np.uint8), imgsz=32, verbose=False)
    assert predicted[0].names == NAMES
