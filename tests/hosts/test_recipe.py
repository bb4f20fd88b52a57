"""What the host's arguments cannot say: read, kept in a run's folder, and done by its trainer."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import torch

from foveal import UserError
from foveal.evidence import TASKS
from foveal.hosts import Recipe
from foveal.hosts.ultralytics import recorder

pytestmark = pytest.mark.host

TERMS = {"model": "yolo11n-cls.yaml", "imgsz": 32, "batch": 4, "device": "cpu", "plots": False, "verbose": False}
TERMS |= {"exist_ok": True, "seed": 0, "optimizer": "SGD", "lr0": 0.01, "momentum": 0.9, "warmup_bias_lr": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(3):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for index in range(4):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


def prepared(folder, data, recipe: Recipe, **changes):
    """A trainer in a folder that holds the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe.save(folder)
    overrides = {**TERMS, "data": str(data), "project": str(folder.parent), "name": folder.name, **changes}
    return recorder.trainer(overrides["model"], TASKS["classify"])(overrides=overrides)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([0.5], "recipe: [0.5] is not a mapping; recipe: {steps: [0.3, 0.6, 0.8]}"),
        ({"step": [0.5]}, "a recipe has no key 'step'; did you mean 'steps'?"),
        ({7: 1}, "a recipe has no key 7; did you mean 'steps'?"),
        ({"steps": 0.5}, "recipe: steps: 0.5 are not rising shares of all epochs between 0 and 1; steps: [0.3,"),
        ({"steps": [60, 120]}, "recipe: steps: [60, 120] are not rising shares"),
        ({"steps": [0.5, 0.5]}, "recipe: steps: [0.5, 0.5] are not rising shares"),
        ({"steps": [0.5, 1.0]}, "recipe: steps: [0.5, 1.0] are not rising shares"),
        ({"steps": [0.0]}, "recipe: steps: [0.0] are not rising shares"),
        ({"factor": 1}, "recipe: factor: 1 is not a number between 0 and 1; factor: 0.2"),
        ({"factor": True}, "recipe: factor: True is not a number between 0 and 1"),
        ({"padding": -1}, "recipe: padding: -1 is not a number of pixels; padding: 4"),
        ({"padding": True}, "recipe: padding: True is not a number of pixels"),
        ({"padding": 4.0}, "recipe: padding: 4.0 is not a number of pixels"),
    ],
)
def test_mistakes_end_in_a_sentence(written, said):
    with pytest.raises(UserError) as refusal:
        Recipe.of(written)
    assert str(refusal.value).startswith(said)


def test_it_is_read_kept_and_read_again(tmp_path):
    recipe = Recipe.of({"steps": [0.3, 0.6, 0.8], "factor": 0.2, "padding": 4})
    assert recipe == Recipe((0.3, 0.6, 0.8), 0.2, 4)
    recipe.save(tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"steps": [0.3, 0.6, 0.8], "factor": 0.2, "padding": 4}
    assert Recipe.load(tmp_path) == recipe
    assert Recipe.load(tmp_path / "nowhere") == Recipe.of({}) == Recipe()


@pytest.mark.parametrize("damaged", ["", "[]", '{"steps": [2]}', "[" * 50000])
def test_a_damaged_file_is_named(tmp_path, damaged):
    (tmp_path / "recipe.json").write_text(damaged)
    with pytest.raises(UserError, match=r"cannot read .*recipe\.json: .*; delete its folder and run the study again"):
        Recipe.load(tmp_path)


def test_rates_fall_at_the_steps():
    paper = Recipe(steps=(0.3, 0.6, 0.8), factor=0.2)
    for before, after, power in ((59, 60, 1), (119, 120, 2), (159, 160, 3)):
        assert paper.rate(before, 200) == pytest.approx(0.2 ** (power - 1), rel=1e-12)
        assert paper.rate(after, 200) == pytest.approx(0.2**power, rel=1e-12)
    assert paper.rate(0, 200) == 1
    assert [Recipe(steps=(0.5,)).rate(epoch, 3) for epoch in range(3)] == [1, 1, 0.1]  # 1.5 is rounded to 2


@pytest.mark.slow
def test_the_trainer_follows_the_steps(tmp_path, data):
    recipe = Recipe(steps=(0.4, 0.8), factor=0.2)
    trainer = prepared(tmp_path / "run", data, recipe, epochs=5, warmup_epochs=0, cos_lr=True, lrf=0.5)
    trainer.train()
    with trainer.csv.open() as file:
        rows = [{key.strip(): float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    for group in range(3):
        rates = [row[f"lr/pg{group}"] for row in rows]
        assert rates == pytest.approx([0.01, 0.01, 0.002, 0.002, 0.0004], rel=1e-5)


def test_a_worker_that_knows_the_arguments_only_finds_it(tmp_path, data):
    """As in training on several GPUs, whose processes make their trainer anew."""
    recipe = Recipe(steps=(0.5,), padding=2)
    trainer = prepared(tmp_path / "run", data, recipe)
    again = recorder.ClassificationTrainer(overrides=dict(vars(trainer.args)))
    assert again.recipe == trainer.recipe == recipe


@pytest.mark.slow
@pytest.mark.seldom
def test_warming_up_ends_at_the_rate_of_its_epoch(tmp_path, data):
    seen = []
    trainer = prepared(tmp_path / "run", data, Recipe(steps=(0.25,), factor=0.5), epochs=4, warmup_epochs=2, val=False)
    trainer.add_callback(
        "on_train_batch_end", lambda own: seen.append((own.epoch, own.optimizer.param_groups[0]["lr"]))
    )
    trainer.train()
    count = len(trainer.train_loader)
    length = trainer._get_warmup_iterations(count) if hasattr(trainer, "_get_warmup_iterations") else 100
    for index, (epoch, rate) in enumerate(seen):
        full = 0.01 if epoch == 0 else 0.005
        assert rate == pytest.approx(full * min(1, index / length), rel=1e-6)


@pytest.mark.slow
@pytest.mark.seldom
def test_without_steps_the_schedule_is_the_hosts(tmp_path, data):
    rates = {}
    for name, kind in (("ours", recorder.ClassificationTrainer), ("hosts", recorder.host.ClassificationTrainer)):
        terms = {**TERMS, "data": str(data), "project": str(tmp_path), "name": name, "epochs": 3, "lrf": 0.1}
        trainer = kind(overrides={**terms, "warmup_epochs": 0, "cos_lr": True})
        trainer.train()
        rates[name] = [line.split(",")[-3:] for line in trainer.csv.read_text().splitlines()[1:]]
    assert rates["ours"] == rates["hosts"]
    assert len({rate for rate, *_ in rates["ours"]}) == 3


def test_crops_are_of_the_padded_image_at_the_trainings_size(tmp_path, data):
    trainer = prepared(tmp_path / "run", data, Recipe(padding=4), fliplr=0.0, auto_augment=None, erasing=0.0)
    trainer.args.hsv_h = trainer.args.hsv_s = trainer.args.hsv_v = 0.0
    dataset = trainer.build_dataset(str(data / "train"))
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (32, 32, 3), dtype=np.uint8)
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)))
    places = set()
    for seed in range(40):
        torch.manual_seed(seed)
        crop = (dataset.torch_transforms(Image.fromarray(pixels)) * 255).round().byte().permute(1, 2, 0).numpy()
        found = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if np.array_equal(padded[top : top + 32, left : left + 32], crop)
        ]
        assert len(found) == 1
        places |= set(found)
    assert len(places) > 20
    # An image of another size is brought to the training's first, and judging is as it was.
    ramp = np.linspace(0, 255, 96).astype(np.uint8).reshape(1, -1, 1).repeat(96, 0).repeat(3, 2)
    small = dataset.torch_transforms(Image.fromarray(ramp))
    assert small.shape == (3, 32, 32)
    assert small.max() > 0.8
    assert small[small > 0].min() < 0.2
    kinds = [
        type(each).__name__ for each in trainer.build_dataset(str(data / "val"), "val").torch_transforms.transforms
    ]
    assert "RandomCrop" not in kinds
    without = prepared(tmp_path / "plain", data, Recipe()).build_dataset(str(data / "train"))
    kinds = [type(each).__name__ for each in without.torch_transforms.transforms]
    assert "RandomResizedCrop" in kinds
