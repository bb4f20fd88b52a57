"""What is kept of every image that a semantic model is judged on, against the host's own metrics; and its data sets."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import torch
import yaml
from PIL import Image

import data as drawings
from foveal import UserError
from foveal.evidence import GROUND, SIDE, UNLABELLED, Maps, averages
from foveal.hosts import contents
from foveal.hosts.ultralytics import counting, dataset, modelfile, models, recorder, validators

pytestmark = pytest.mark.newest  # older hosts have no such models
IMAGES, SIZE = 5, 128
NAMES = {1: ["thing"], 3: ["ground", "bar", "wedge"]}


def drawn(folder: Path, classes: int) -> str:
    """Images of two shapes with masks; of a single class its masks hold 0 and 1."""
    data = drawings.draw_things(folder, "semantic", 2, IMAGES)
    for split, count in (("train", 2), ("val", IMAGES)):
        for index in range(count):
            for kind in ("images", "masks"):
                file = folder / kind / split / f"{index:03}.png"
                pixels = np.array(Image.open(file))[: 96 if index % 2 else 60]
                if kind == "masks" and classes == 1:
                    pixels[pixels == 2] = 1
                Image.fromarray(pixels).save(file)
    data.write_text(data.read_text().replace("ground, bar, wedge", ", ".join(NAMES[classes])))
    return str(data)


def built(folder: Path, names: list[str]) -> Path:
    """A fresh model of some classes in a file."""
    model = type(models.load("yolo26n-sem.yaml").model)("yolo26n-sem.yaml", nc=len(names), verbose=False)
    model.names, model.task, model.args = dict(enumerate(names)), "semantic", {"task": "semantic"}
    torch.save(models.checkpoint(model, {"train_args": {"task": "semantic"}}), folder / "model.pt")
    return folder / "model.pt"


class Noted:
    """What the host's metrics were given: classes of pixels as they were said, and as they are."""

    def __init__(self):
        self.said, self.true, self.name = [], [], []


def telling(validator: type, noted: Noted) -> type:
    """The validator whose model says the truth but for every third row, and says something beside the images, too."""

    class Telling(validator):
        def preprocess(self, batch):
            self.batch = super().preprocess(batch)
            return self.batch

        def postprocess(self, preds):
            said = self.batch["semantic_mask"].clone()
            said[said == 255] = 0
            said[:, ::3] = (said[:, ::3] + 1) % max(2, self.nc)
            noted.said += [*said]
            noted.true += [*self.batch["semantic_mask"]]
            noted.name += [Path(file).name for file in self.batch["im_file"]]
            return said

    return Telling


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """What is kept of models with so many classes, the host's averages, and what its metrics were given."""
    kept = {}

    def of(classes: int) -> tuple[Maps, dict[str, float], Noted]:
        if classes not in kept:
            folder, noted = tmp_path_factory.mktemp("semantic"), Noted()
            data = drawn(folder / "data", classes)
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(validators._VALIDATORS, "semantic", telling(validators._VALIDATORS["semantic"], noted))
                settings = {"imgsz": SIZE, "batch": 2, "device": "cpu", "workers": 0}
                found = validators.evaluate(
                    modelfile.opened(built(folder, NAMES[classes])), data, "val", folder / "out", **settings
                )
            kept[classes] = *found, noted
        return kept[classes]

    return of


@pytest.mark.parametrize("classes", NAMES)
def test_averages_of_what_is_kept_are_the_hosts(classes, judged, tmp_path):
    found, theirs, _ = judged(classes)
    assert found.is_whole()
    assert found.name.tolist() == [f"{index:03}.png" for index in range(IMAGES)]
    assert found.figures() == pytest.approx(theirs, abs=averages.AGREEMENT)
    assert all(0.05 < value < 0.95 for value in theirs.values()), theirs
    found.save(tmp_path / "best.npz")
    assert Maps.load(tmp_path / "best.npz").figures() == found.figures()


@pytest.mark.parametrize("classes", NAMES)
def test_averages_of_drawn_images_are_those_that_the_host_has_of_them(classes, judged):
    """Its own metrics are given each image as often as it was drawn, one whose classes no other image has left out."""
    from ultralytics.utils.metrics import SemanticMetrics

    found, _, noted = judged(classes)
    place = [noted.name.index(name) for name in found.name.tolist()]
    counts = np.concatenate([np.eye(IMAGES, dtype=int), np.random.default_rng(0).integers(0, 3, (6, IMAGES))])
    ours = found.averages(counts)
    for row, overall, second in zip(counts, ours["overall"], ours["second"], strict=True):
        metrics = SemanticMetrics(dict(enumerate(NAMES[classes])))
        for image in np.repeat(np.arange(IMAGES), row).tolist():
            metrics.update_stats(noted.said[place[image]][None], noted.true[place[image]][None])
        metrics.process()
        assert (overall, second) == pytest.approx((metrics.miou, metrics.pixel_accuracy), abs=1e-6)


def test_what_is_drawn_is_the_image_without_its_margins(judged):
    found, _, _ = judged(3)
    for image in range(IMAGES):
        said, true = found.cells(image)
        height = 96 if image % 2 else 60
        assert true.shape == (round(SIDE * height / 96), SIDE)
        top = round(drawings.EDGE / height * len(true))
        assert (true[: top - 1] == UNLABELLED).all()
        assert (true[top + 1 :] >= 0).all(), "no margin, and no class is missing"
        shares = {label: share for label, share, _ in found.of_image(image) if share}
        assert {label: (true == label).sum() / (true >= 0).sum() for label in shares} == pytest.approx(shares, abs=0.02)
        assert 0.2 < (said != true)[top + 1 :].mean() < 0.5


def test_a_record_of_batches_tells_masks_apart(monkeypatch):
    from ultralytics.models.yolo.detect import DetectionTrainer

    monkeypatch.setattr(DetectionTrainer, "preprocess_batch", lambda self, batch: batch)
    digests = set()
    for label in (0, 0, 1):
        trainer = object.__new__(recorder.SemanticSegmentationTrainer)
        trainer._position, trainer._digest, trainer._steps_in_time = -1, hashlib.blake2b(), True
        masks = torch.full((1, 8, 8), label, dtype=torch.int32)
        trainer.preprocess_batch({"im_file": ["a.png"], "img": torch.zeros(1, 3, 8, 8), "semantic_mask": masks})
        digests.add(trainer._digest.hexdigest())
    assert len(digests) == 2


# Data sets -----------------------------------------------------------------------------------------------------------


def digest(data: str, task: str = "semantic") -> str:
    return contents(dataset.Data(data, task=task), Path(data).parent.parent / f"{task}.json").digest


def test_masks_are_part_of_what_a_data_set_holds(tmp_path):
    data = drawn(tmp_path / "data", 3)
    found = dataset.Data(data, task="semantic")
    assert found.more == {"channels": 3, "masks_dir": "masks"}
    assert found.classes(found.images("val"))[-1] == {0}
    assert {0, 1, 2} == set.union(*found.classes(found.images("train")))
    assert found.has_labels("val")
    assert found.scan() == {}
    before, of_boxes = digest(data), digest(data, "detect")
    mask = tmp_path / "data/masks/val/001.png"
    pixels = np.array(Image.open(mask))
    pixels[50, 50] = 2 - pixels[50, 50]
    Image.fromarray(pixels).save(mask)
    assert digest(data) != before
    assert digest(data, "detect") == of_boxes, "which has no use for masks"
    Image.fromarray(pixels).save(mask.with_suffix(".bmp"))
    mask.unlink()
    assert mask.with_suffix(".bmp") in found.labels(found.images("val")), "the host looks for others, too"
    assert found.scan() == {}


def test_numbers_in_masks_are_mapped_to_classes(tmp_path):
    data = Path(drawn(tmp_path / "data", 3))
    mapping = {0: "ignore_label", 1: 0, 2: 1}
    told = yaml.safe_load(data.read_text()) | {"label_mapping": mapping, "names": ["bar", "wedge"]}
    data.write_text(yaml.safe_dump(told))
    found = dataset.Data(str(data), task="semantic")
    assert found.more["label_mapping"] == mapping
    assert set.union(*found.classes(found.images("train"))) == {0, 1}
    assert found.classes(found.images("val"))[-1] == set()
    assert found.scan() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"names": ["ground", "bar"]},
            "refuses all 2, 000.png for example: .*mask has the size of its image",
        ),
        ({"masks_dir": "none"}, "missing mask"),
    ],
    ids=["classes", "missing"],
)
def test_masks_that_cannot_be_used_are_refused(change, message, tmp_path):
    data = Path(drawn(tmp_path / "data", 3))
    (tmp_path / "data/masks").rename(tmp_path / "data/drawn")
    told = {key: of for key, of in (yaml.safe_load(data.read_text()) | {"masks_dir": "drawn"} | change).items() if of}
    data.write_text(yaml.safe_dump(told))
    with pytest.raises(UserError, match=message):
        dataset.Data(str(data), task="semantic").scan(("train",))


def test_one_class_cannot_be_made_of_masks(tmp_path):
    with pytest.raises(UserError, match="single_cls cannot make one class of those of masks; leave it out"):
        dataset.Data(drawn(tmp_path / "data", 3), task="semantic").scan(single_cls=True)


def test_folds_lead_to_masks(tmp_path):
    data = dataset.Data(drawn(tmp_path / "data", 3), task="semantic")
    splits = {"train": data.images("val")[1:] + data.images("train")[:1], "val": data.images("val")[:1]}
    found = dataset.Data(dataset.divided(data, splits, tmp_path / "study/folds/0-0"), task="semantic")
    assert [file.resolve() for file in found.images("train")] == splits["train"]
    for split, images in splits.items():
        assert [file.resolve() for file in found.labels(found.images(split))] == data.labels(images)
    assert found.scan(("train", "val")) == {}
    assert found.more == data.more


@pytest.mark.parametrize("names", [["thing"], [*drawings.THINGS]], ids=len)
def test_outlines_do_as_well(names, tmp_path):
    """What they leave is a class with another one, and with a single one not."""
    data = drawings.draw_things(tmp_path / "data", "segment", 2, IMAGES)
    if len(names) == 1:
        for file in tmp_path.glob("data/labels/*/*.txt"):
            file.write_text("".join(f"0 {line.partition(' ')[2]}\n" for line in file.read_text().splitlines()))
        data.write_text(data.read_text().replace("bar, wedge", "thing"))
    described = dataset.Data(str(data), task="semantic")
    classes = [*names, "background"] if names[1:] else names
    assert [*described.names.values()] == classes
    assert described.scan() == {}
    assert {file.suffix for file in described.labels(described.images("val"))} == {".txt"}
    settings = {"imgsz": 64, "batch": 2, "device": "cpu", "workers": 0}
    model = modelfile.opened(built(tmp_path, classes))
    found, theirs = validators.evaluate(model, str(data), "val", tmp_path / "out", **settings)
    assert found.figures() == pytest.approx(theirs, abs=averages.AGREEMENT)
    assert set(found.label[found.true > 0]) == ({0, 1, 2} if names[1:] else {GROUND, 0})
    splits = {split: described.images(split) for split in ("train", "val")}
    folds = dataset.Data(dataset.divided(described, splits, tmp_path / "folds"), task="semantic")
    assert folds.names == described.names, "of which its data file does not name the last"


def test_pixels_without_a_class_are_none_of_a_model_with_many_classes():
    validator = object.__new__(counting.SemanticSegmentationValidator)
    validator.nc = 300
    said, true = torch.tensor([[255, 255, 7]]), torch.tensor([[255, 7, 7]])
    kept = {name: of.tolist() for name, of in validator._counted(said, true).items()}
    assert kept == {"label": [7, 255], "both": [1, 0], "said": [1, 1], "true": [2, 0]}
