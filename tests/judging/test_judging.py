"""Models that exist on one split: averages are the host's, intervals those of a plain bootstrap, lists by hand."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import special, stats

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import ultralytics
from typer.testing import CliRunner

import detectors
import foveal
from boxes import plain_map, rated
from foveal import UserError
from foveal.cli.app import app
from foveal.evidence import TASKS, Answers, Claims, Detections, averages
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import exporter, modelfile, validators
from foveal.judging import confidences, letters
from foveal.study import demo
from foveal.verdict import average_precision
from helpers import swept

CLASSES, SORTED = tuple(demo.SHAPES), tuple(sorted(demo.SHAPES))  # folders of images are in the order of their names
IMAGES = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data file with twelve drawn images in val and none in test."""
    return demo.draw_data(tmp_path_factory.mktemp("data"), train=2, val=IMAGES)


def checkpoint(file: Path, seed: int, data: Path, names: tuple[str, ...] = CLASSES, rows: str = "yolo11n.yaml") -> Path:
    """A detector that finds a few of the drawn shapes."""
    torch.manual_seed(seed)
    model = host.load(rows)
    network = host.rebuild(model.model, {**model.model.yaml, "nc": len(names)})
    network.names = dict(enumerate(names))
    detectors.guess(network, seed, data.parent)
    torch.save(host.checkpoint(network, {"train_args": {"imgsz": 64, "task": "detect"}}), file)
    return file


@pytest.fixture
def few(monkeypatch) -> None:
    """Draws of the images, where what they give is not asked."""
    monkeypatch.setattr(averages, "RESAMPLES", 20)


@pytest.fixture(scope="module")
def files(tmp_path_factory, data) -> Path:
    """`a.pt` and `b.pt`, and `others.pt` of other classes."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        checkpoint(root / f"{name}.pt", seed, data)
    checkpoint(root / "others.pt", 0, data, names=("disc", "box", "cross"))
    return root


def by_host(file: Path, data: Path, **settings) -> tuple[float, float]:
    """What `YOLO(file).val()` says."""
    found = ultralytics.YOLO(file, task="detect").val(data=str(data), plots=False, verbose=False, **settings).box
    return float(found.map), float(found.map50)


# Files ---------------------------------------------------------------------------------------------------------------

FORMATS = ["onnx", "openvino", "torchscript"]


@pytest.mark.parametrize("form", swept(FORMATS, "onnx"))
def test_trained_and_exported_files_are_judged_as_the_host_judges_them(form, files, data, few, tmp_path, monkeypatch):
    for package in exporter.PACKAGES[form]:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)  # where the host makes folders for its evaluations
    trained = tmp_path / "a.pt"
    shutil.copyfile(files / "a.pt", trained)
    exported = Path(ultralytics.YOLO(trained).export(format=form, imgsz=96))
    found = foveal.judge([trained, exported], data=str(data))
    assert [(model.form, model.size) for model in found.models] == [("pt", 64), (form, 96)]
    assert [model.model for model in found.models] == [str(trained), str(exported)]
    theirs = [by_host(trained, data), by_host(exported, data, imgsz=96)]
    for model, (whole, half) in zip(found.models, theirs, strict=True):
        assert model.average.value == pytest.approx(whole, abs=1e-6)
        assert model.second.value == pytest.approx(half, abs=1e-6)
        assert model.disagreement <= averages.AGREEMENT
    assert theirs[0] != theirs[1]
    assert theirs[0][0] > 1e-4  # or anything would agree
    with pytest.raises(UserError, match=r"was exported for images of 96 pixels, not 64; imgsz=96"):
        foveal.judge([exported], data=str(data), imgsz=64)


def test_the_command_prints_tables_and_json(said, data, few, tmp_path):
    said |= {"a": rated(1), "b": rated(3)}
    words = ["judge", "a", "b", "--data", str(data), "--reference", "b"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "judged.json")])
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "judged.json").read_text())
    again = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(again.stdout) == written
    a, b = written["models"]
    assert (written["reference"], b["difference"]) == ("b", None)
    assert a["difference"]["value"] == pytest.approx(a["average"]["value"] - b["average"]["value"])
    table = done.stdout.splitlines()
    assert "less B" in table[0]
    assert f"{a['average']['value']:.4f} ({a['average']['low']:.4f} to {a['average']['high']:.4f})" in table[1]
    for part in (*written["classes"], *written["sizes"]):
        assert any(line.startswith(part["name"]) and str(part["objects"]) in line for line in table), part
    assert "The seed is not in it: an interval over images says nothing about a training repeated." in table
    assert all(f"{one['confidence']:.2f}" in done.stdout and one["image"] in done.stdout for one in a["wrong"])
    assert all(one["image"] in done.stdout for one in written["missed"])


@pytest.mark.sweep
@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_other_tasks_are_judged_by_their_own_metrics(task, tmp_path, monkeypatch):
    from data import draw_things

    monkeypatch.chdir(tmp_path)
    if task == "classify":
        from toyhost import draw

        data = draw(tmp_path / "data")
        for file in data.rglob("*.png"):
            Image.open(file).resize((64, 64)).save(file)  # the host refuses the smallest
    else:
        data = draw_things(tmp_path / "data", task, train=2, val=6)
    ending = {"segment": "seg", "classify": "cls"}.get(task, task)
    ultralytics.YOLO(f"yolo11n-{ending}.yaml").train(
        data=str(data),
        epochs=1,
        imgsz=64,
        batch=2,
        device="cpu",
        workers=0,
        plots=False,
        project=str(tmp_path / "r"),
        name="t",
        val=False,
    )
    file = str(tmp_path / "r/t/weights/last.pt")
    found = foveal.judge([file], data=str(data))
    assert (found.task, found.models[0].size) == (task, 64)
    assert found.models[0].disagreement <= averages.AGREEMENT
    assert found.metric == TASKS[task].metric.name
    if task == "segment":
        assert foveal.judge([file], data=str(data), metric="box").metric == "box mAP50-95"


# Averages and differences --------------------------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch, tmp_path) -> dict:
    """What evaluations give for files by their names, and the settings that they were asked with."""
    of = {"settings": [], "trusted": []}

    def opened(path, trust=False):
        of["trusted"].append(trust)
        answers = isinstance(of[path.name], Answers)
        task, classes = (TASKS["classify"], SORTED) if answers else (TASKS["detect"], CLASSES)
        return modelfile.ModelFile(path, "pt", task, classes, 64, False, False, None)

    def evaluate(file, data, split, folder, **settings):
        of["settings"].append((split, settings))
        return of[file.path.name], of[file.path.name].figures()

    monkeypatch.setattr(modelfile, "opened", opened)
    monkeypatch.setattr(validators, "evaluate", evaluate)
    monkeypatch.setattr(averages, "RESAMPLES", 400)
    return of


def resampled(found: dict[str, Detections], seed: int, draws: int) -> dict[str, list[float]]:
    """mAP50-95 of each model on images that stand there as often as they were drawn, by a generator of its own."""
    all_counts = np.random.RandomState(seed).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), draws)
    return {name: [plain_map(one, counts)[1] for counts in all_counts] for name, one in found.items()}


def test_intervals_are_those_of_an_independent_bootstrap(said, data):
    said |= {"a": rated(1), "b": rated(3)}
    found = foveal.judge(["a", "b"], data=str(data), imgsz=96)
    assert not any("too narrow" in sentence for sentence in found.sentences)
    scores = resampled({"a": said["a"], "b": said["b"]}, seed=5, draws=150)
    t, more = stats.t.ppf(0.975, IMAGES - 1), np.sqrt(IMAGES / (IMAGES - 1))
    for model in found.models:
        value = model.average.value
        reach = t * more * np.std(scores[model.model], ddof=1) / (value * (1 - value))
        bounds = special.expit(special.logit(value) + np.array([-reach, reach]))
        assert (model.average.low, model.average.high) == pytest.approx(bounds, abs=0.12 * np.ptp(bounds))
        assert 0 < model.average.low < value < model.average.high < 1
    difference = found.models[1].difference
    reach = t * more * np.std(np.subtract(scores["b"], scores["a"]), ddof=1)
    assert difference.value == pytest.approx(said["b"].figures()["map"] - said["a"].figures()["map"])
    assert difference.high - difference.value == pytest.approx(reach, rel=0.25)
    assert difference.value - difference.low == pytest.approx(reach, rel=0.25)
    assert said["settings"][0] == ("val", {"imgsz": 96, "batch": 16, "device": "cpu"})


def test_files_are_trusted_where_that_is_said(said, data):
    said |= {"a": rated(1)}
    for trust in (False, True):
        foveal.judge(["a"], data=str(data), trust=trust)
    assert said["trusted"] == [False, True]


def answered(seed: int, right: float, images: int = IMAGES) -> Answers:
    """Answers for as many images, of which a share is right."""
    generator = np.random.RandomState(seed)
    label = (np.arange(images) % 3).astype(np.int32)
    first = np.where(generator.uniform(size=images) < right, label, (label + 1) % 3)
    ranked = np.stack([first, (first + 1) % 3, (first + 2) % 3], 1)
    name = np.array([f"{SORTED[one]}/{index}.png" for index, one in enumerate(label)])
    return Answers(name, ranked, label, generator.uniform(0.4, 1, images).astype(np.float32))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A data set of classifiers with the classes of `answered`."""
    for split in ("train", "val"):
        for name in SORTED:
            (tmp_path / "folder" / split / name).mkdir(parents=True)
            shutil.copyfile(host.exporter.PICTURES[0], tmp_path / "folder" / split / name / "0.jpg")
    return tmp_path / "folder"


def test_p_values_are_paired_t_tests_adjusted_after_holm(said, folder):
    """Accuracies are means over images, and of these the resampled interval is the t interval, by a large sample."""
    shares = {"base": 0.5, "much": 0.95, "more": 0.62, "same": 0.5}
    said |= {name: answered(seed, share, 300) for seed, (name, share) in enumerate(shares.items())}
    found = foveal.judge([*shares], data=str(folder), reference="base")
    others = [model for model in found.models if model.difference]
    raw = [stats.ttest_rel(said[model.model].scores(), said["base"].scores()).pvalue for model in others]
    order, left, reached, wanted = np.argsort(raw), len(raw), 0.0, {}
    for index in order:
        reached = max(reached, min(1.0, raw[index] * left))
        wanted[index] = (reached, 0.05 / left)
        left -= reached <= 0.05
    assert len({level for _, level in wanted.values()}) > 1, "one is rejected, and another not"
    for index, model in enumerate(others):
        p, level = wanted[index]
        assert model.difference.p == pytest.approx(p, rel=0.5, abs=0.02)
        scores = said[model.model].scores() - said["base"].scores()
        reach = stats.t.ppf(1 - level / 2, 299) * scores.std(ddof=1) / np.sqrt(300)
        assert model.difference.high - model.difference.value == pytest.approx(reach, rel=0.12)
        assert model.difference.excludes_zero == (model.difference.p <= 0.05)
    assert (found.sizes, found.objects, found.metric) == ((), 300, "top-1 accuracy")


def test_equal_models_differ_by_exactly_nothing(said, data):
    said |= {"a": rated(1), "copy": rated(1)}
    found = foveal.judge(["a", "copy"], data=str(data))
    same = found.models[1].difference
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert found.models[0].difference is None
    assert any("no more than the choice of images" in sentence for sentence in found.sentences)
    assert (found.split, found.images, found.metric, found.second) == ("val", IMAGES, "mAP50-95", "mAP50")


def test_by_class_and_size(said, data):
    said |= {"a": rated(1), "b": rated(3)}
    found = foveal.judge(["a", "b"], data=str(data))
    assert [(part.name, part.objects) for part in found.classes] == [("disc", IMAGES), ("square", IMAGES)]
    for label, part in enumerate(found.classes):
        for model, average in zip("ab", part.averages, strict=True):
            one = said[model]
            of_class = average_precision(one.matches(), one.truth())[1][0, label].mean()
            assert average.value == pytest.approx(of_class)
        assert part.differences[0] is None
        assert part.differences[1].value == pytest.approx(part.averages[1].value - part.averages[0].value)
    assert [(part.name, part.objects) for part in found.sizes] == [("small", 12), ("medium", 12), ("large", 0)]
    large = found.sizes[2]
    assert [average.value for average in large.averages] == [None, None]
    assert large.differences[1].p is None


def test_a_class_on_few_images_has_no_interval(said, data):
    """Drawn again, nine images show too little of how they vary: of one, the average is the same in every draw."""
    one, other = rated(1), rated(3)
    for found in (one, other):
        found.true_label[18:], found.label[36:] = 0, 0
    said |= {"a": one, "b": other}
    seen, few = foveal.judge(["a", "b"], data=str(data)).classes
    assert [part.objects for part in (seen, few)] == [15, 9]
    for estimate in (*few.averages, few.differences[1]):
        assert (estimate.low, estimate.high, estimate.p) == (None, None, None)
        assert estimate.value is not None
    assert None not in (seen.averages[0].low, seen.differences[1].p)


def test_models_may_go_through_images_in_another_order(said, data):
    """As a file with square images and one with rectangles do, whose objects then come in another order."""
    one = rated(1)
    order = np.argsort(-one.true_image, kind="stable")
    other = dataclasses.replace(
        one, **{name: getattr(one, name)[order] for name in ("true_image", "true_box", "true_label")}
    )
    said |= {"a": one, "b": other}
    found = foveal.judge(["a", "b"], data=str(data))
    assert found.models[1].difference.value == 0
    assert all(missed.missed_by == ("a", "b") for missed in found.missed)
    said["b"] = dataclasses.replace(one, true_label=1 - one.true_label)
    with pytest.raises(UserError, match="b was judged on other images than a"):
        foveal.judge(["a", "b"], data=str(data))


def test_few_images_and_disagreement_are_said(said, data, monkeypatch):
    said |= {"a": rated(1, images=1)}
    found = foveal.judge(["a"], data=str(data))
    assert (found.models[0].average.low, found.models[0].average.high) == (None, None)
    assert any(sentence.startswith("2 of 2 classes have no interval") for sentence in found.sentences)
    monkeypatch.setattr(validators, "evaluate", lambda *_, **__: (rated(1), {"map": 0.1, "map50": 0.2}))
    assert any(sentence.startswith("BROKEN") for sentence in foveal.judge(["a"], data=str(data)).sentences)


# Single claims -------------------------------------------------------------------------------------------------------


def claims(confidence: list[float], finds: list[int], objects: int, sure: float = 0.25) -> Claims:
    """Claims on images of one object each, whose boxes are as wide as their number."""
    image = np.arange(len(confidence)) % objects
    boxes = np.array([[0, 0, 1 + index, 10] for index in range(objects)], float)
    label, there = np.zeros(len(image), int), np.arange(objects)
    return Claims(
        image, label, np.array(confidence), boxes[image], np.array(finds), there, np.zeros(objects, int), boxes, sure
    )


def test_calibration_by_hand():
    # Bins are open at their lower end: 0.5 belongs to 0.4..0.5. What is fainter than 0.25 is not asked.
    found = confidences.calibration(claims([0.95, 0.91, 0.5, 0.48, 0.51, 0.1], [0, -1, 1, -1, 2, 3], 4))
    assert (found.claims, found.above) == (5, 0.25)
    bins = {(one.low, one.high): one for one in found.bins}
    assert len(bins) == 10
    top, low, middle = bins[0.9, 1.0], bins[0.4, 0.5], bins[0.5, 0.6]
    assert (top.count, top.confidence, top.right) == (2, pytest.approx(0.93), 0.5)
    assert (low.count, low.confidence, low.right) == (2, pytest.approx(0.49), 0.5)
    assert (middle.count, middle.right) == (1, 1.0)
    assert sum(one.count for one in found.bins) == 5
    assert found.error == pytest.approx((2 * 0.43 + 2 * 0.01 + 1 * 0.49) / 5)
    none = confidences.calibration(claims([0.1], [0], 1))
    assert (none.error, none.claims) == (None, 0)


def test_a_perfectly_calibrated_model_has_nearly_no_error():
    generator = np.random.RandomState(0)
    confidence = generator.uniform(size=4000)
    finds = np.where(generator.uniform(size=4000) < confidence, np.arange(4000), -1)
    assert confidences.calibration(claims(list(confidence), list(finds), 4000, sure=0.0)).error < 0.03
    wrong = np.where(finds >= 0, -1, np.arange(4000))
    assert confidences.calibration(claims(list(confidence), list(wrong), 4000, sure=0.0)).error == pytest.approx(
        0.5, abs=0.03
    )


def test_the_surest_that_are_wrong_and_what_most_models_miss():
    names, images = {0: "cell"}, np.array(["a.png", "b.png", "c.png", "d.png"])
    first = claims([0.9, 0.8, 0.2, 0.7], [-1, 1, 2, -1], 4)
    wrong = confidences.wrong(first, images, names)
    assert [(one.image, one.confidence, one.true) for one in wrong] == [("a.png", 0.9, None), ("d.png", 0.7, None)]
    assert wrong[1].box == (0, 0, 4, 10)
    second = claims([0.9, 0.8, 0.1, 0.7], [0, 1, -1, -1], 4)
    missed = confidences.missed({"one": first, "two": second}, images, names)
    # Both miss c, which one of them finds faintly, and d, which nobody finds; only the first misses a.
    assert [(one.image, one.missed_by, one.confidence) for one in missed] == [
        ("d.png", ("one", "two"), 0),
        ("c.png", ("one", "two"), 0.2),
        ("a.png", ("one",), 0.9),
    ]
    # How many miss an object comes before how sure the others are of it.
    three = [([0.9, 0.3], [-1, -1]), ([0.9, 0.3], [-1, 1]), ([0.9, 0.3], [0, 1])]
    some = confidences.missed({str(one): claims(*each, 2) for one, each in enumerate(three)}, images, names)
    assert [(one.image, len(one.missed_by), one.confidence) for one in some] == [("a.png", 2, 0.9), ("b.png", 1, 0.3)]
    # Of those that nobody finds the largest stand first.
    nothing = claims([0.9, 0.9, 0.9], [-1, -1, -1], 3)
    assert [one.image for one in confidences.missed({"one": nothing}, images, names)] == ["c.png", "b.png", "a.png"]


def test_claims_of_detections_and_of_answers():
    one = rated(1)
    found = one.claims()
    assert (found.finds[1::2] == -1).all()
    assert found.finds[::2].tolist() == [*range(len(one.true_image))]
    assert found.found_with().tolist() == one.confidence[::2].tolist()
    answers = answered(0, 0.5)
    found = answers.claims()
    assert ((found.finds >= 0) == (answers.scores() > 0)).all()
    assert found.sure == 0
    (worst, *_) = confidences.wrong(found, answers.name, dict(enumerate(SORTED)))
    assert worst.confidence == pytest.approx(answers.confidence[answers.scores() == 0].max())
    assert worst.true == worst.image.partition("/")[0] != worst.label
    assert worst.box is None


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": []}, "there is no model to judge; name one such as"),
        ({"models": ["a.pt", "nowhere.pt"]}, "there is no file .*nowhere.pt'; give one such as"),
        ({"models": ["a.pt", "./a.pt"]}, r"a.pt is named twice; name each file once"),
        (
            {"models": ["a.pt"], "reference": "b.pt"},
            "the reference b.pt is not among the models; name one of them, such as",
        ),
        ({"models": ["a.txt"]}, "a.txt is neither a .pt file nor a model that was exported"),
        ({"models": ["damaged.pt"]}, "damaged.pt"),
        ({"models": ["damaged.onnx"]}, "damaged.onnx' cannot be loaded as a model: "),
        ({"models": ["a.pt"], "split": "test"}, "has no split 'test' with labels; name another one with split"),
        ({"models": ["a.pt"], "data": "nowhere.yaml"}, "the data file 'nowhere.yaml' cannot be used"),
        (
            {"models": ["a.pt"], "data": "folder"},
            "is a model of task 'detect', and folder is not for it; give a data file",
        ),
        ({"models": ["a.pt"], "imgsz": 0}, "imgsz=0 is no whole number above 0; imgsz=640"),
        ({"models": "a.pt", "batch": 2.5}, "batch=2.5 is no whole number above 0; batch=16"),
        ({"models": ["a.pt"], "device": 99}, "there is no device '99': torch sees .*; device cpu is always there"),
        ({"models": Path("a.pt"), "data": Path("nowhere.yaml")}, "the data file 'nowhere.yaml' cannot be used"),
        ({"models": [5]}, "a model is named by the path of its file, and this is an object of the class int"),
        ({"models": ["a.pt"], "metric": "mask"}, "mask.* is none by which detect is judged"),
        (
            {"models": ["a.pt", "others.pt"]},
            r"others.pt has other classes than .*: class 1 is 'box' and 'square' there \(3 and 3 in all\); judge it on",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_judged_is_refused(given, message, files, data, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "others.pt"):
        shutil.copyfile(files / name, name)
    for name in ("damaged.pt", "damaged.onnx"):
        (tmp_path / name).write_bytes(b"no model")
    (tmp_path / "a.txt").write_text("no model")
    models, asked = given["models"], {key: value for key, value in given.items() if key != "models"}
    if models == ["damaged.onnx"]:
        for package in exporter.PACKAGES["onnx"]:
            pytest.importorskip(package)
    with pytest.raises(UserError, match=message):
        foveal.judge(models, **{"data": str(data)} | asked)


def test_a_model_of_another_class_list_is_one_sentence_and_exit_code_2(files, data, monkeypatch, capsys):
    from foveal import cli

    monkeypatch.setattr("sys.argv", ["foveal", "judge", str(files / "others.pt"), "--data", str(data)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "class 1 is 'box' and 'square' there" in error


def test_models_of_several_tasks_and_of_tasks_without_evidence_are_refused(said, data, monkeypatch):
    tasks = {"a": "detect", "b": "obb", "c": "depth"}

    def opened(path, trust=False):
        return modelfile.ModelFile(path, "pt", TASKS[tasks[path.name]], CLASSES, 64, False, False, None)

    monkeypatch.setattr(modelfile, "opened", opened)
    with pytest.raises(UserError, match="b is a model of task 'obb', and a of 'detect'; judge models of one task"):
        foveal.judge(["a", "b"], data=str(data))
    with pytest.raises(UserError, match="c is a model of task 'depth', of which nothing is kept for each image"):
        foveal.judge(["c"], data=str(data))


def test_a_model_of_one_class_for_all_is_judged_as_it_was_trained(said, data, monkeypatch):
    said["a"] = rated(1)
    said["a"].label[:], said["a"].true_label[:] = 0, 0

    def opened(path, trust=False):
        return modelfile.ModelFile(path, "pt", TASKS["detect"], ("item",), 64, False, False, None)

    monkeypatch.setattr(modelfile, "opened", opened)
    found = foveal.judge(["a"], data=str(data))
    assert said["settings"][0][1]["single_cls"] is True
    assert [part.name for part in found.classes] == ["item"]


def test_letters_go_on_as_numbers():
    assert letters(3) == ["A", "B", "C"]
    assert letters(28)[-3:] == ["Z", "27", "28"]
