"""The explanation of a model: its numbers against ones made in another way, its pictures, its page, its refusals."""

import copy
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from ultralytics import models

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")

import foveal
from foveal import ATTENTIONS, UserError
from foveal.explain import cam, explain, gates
from foveal.explain import explanation as explaining
from foveal.explain import pictures as album
from foveal.explain.explanation import frame
from foveal.explain.pictures import Frame
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import prediction
from foveal.pages import look_up
from foveal.surgery import Spec, attachment, model_yaml
from helpers import filled, fitting

# Where things lie ----------------------------------------------------------------------------------------------------


def transforms(imgsz: int):
    """What older hosts have on trained classifiers only."""
    return pytest.importorskip("ultralytics.data.augment").classify_transforms(imgsz)


SIZES = [(640, 480), (480, 640), (333, 517), (1000, 190), (50, 37)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "imgsz"), [("yolo11n.yaml", 160), ("yolo11n.yaml", (96, 224)), ("yolo11n-cls.yaml", 96), ("rtdetr", 160)]
)
def test_a_photograph_lies_in_the_tensor_where_the_host_puts_it(size, name, imgsz):
    task = "classify" if "cls" in name else "detect"
    cls = (models.rtdetr if name == "rtdetr" else getattr(models.yolo, task)).predict
    (kind,) = (
        v for k, v in vars(cls).items() if k in ("RTDETRPredictor", "ClassificationPredictor", "DetectionPredictor")
    )
    predictor = kind(overrides={"imgsz": imgsz, "rect": True, "task": task, "device": "cpu", "verbose": False})
    model = torch.nn.Module()
    model.stride, model.pt, model.format, model.fp16, model.dynamic = 32, True, "pt", False, False
    model.model, model.device = SimpleNamespace(transforms=transforms(imgsz) if task == "classify" else None), "cpu"
    predictor.model, predictor.device = model, torch.device("cpu")
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    side = min(size)
    left, right = int(size[0] / 2 - side * 0.1), int(size[0] / 2 + side * 0.2)
    top, bottom = int(size[1] / 2 - side * 0.15), int(size[1] / 2 + side * 0.1)
    pixels[top:bottom, left:right] = 255
    predictor.setup_source(pixels)
    tensor = predictor.preprocess([pixels])[0].mean(0)
    where = frame(task, prediction.stretches(predictor), size, tuple(tensor.shape[::-1]), predictor.imgsz)
    away = (tensor - 114 / 255).abs() > 0.01  # from the padding
    mass = tensor - tensor.min() if task == "classify" else tensor * away
    for axis, (low, high) in enumerate(((left, right), (top, bottom))):
        along = mass.sum(axis)  # over the other axis
        centre = float((along * (torch.arange(len(along)) + 0.5)).sum() / along.sum())
        assert centre == pytest.approx((low + high) / 2 * where.scale[axis] + where.offset[axis], abs=0.5)
        width = float(along.sum() / along.max())
        assert width == pytest.approx((high - low) * where.scale[axis], abs=1.01)


@pytest.mark.parametrize("size", [(640, 480), (301, 700)])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_inside_and_outside_of_boxes(size, stride):
    ratio = 160 / max(size)
    height, width = (-(-round(side * ratio) // 32) * 32 for side in size[::-1])
    where = frame("detect", False, size, (width, height), [160, 160])
    rows, columns = height // stride, width // stride
    box = [0.1 * size[0], 0.2 * size[1], 0.62 * size[0], 0.71 * size[1]]
    values, sums = np.random.default_rng(0).random((rows, columns)), {True: [], False: []}
    for row in range(rows):
        for column in range(columns):
            x = (column * stride + stride / 2 - where.offset[0]) / (round(size[0] * ratio) / size[0])
            y = (row * stride + stride / 2 - where.offset[1]) / (round(size[1] * ratio) / size[1])
            if 0 <= x <= size[0] and 0 <= y <= size[1]:
                sums[box[0] <= x <= box[2] and box[1] <= y <= box[3]].append(values[row, column])
    outlines = [explaining.outline({"box": box})]
    found = gates.compare(values, outlines, where)
    assert found == {
        "inside": pytest.approx(np.mean(sums[True])) if sums[True] else None,
        "outside": pytest.approx(np.mean(sums[False])),
    }
    marked = gates.inside(outlines, where, (columns, rows)).astype(float)
    assert gates.compare(marked, outlines, where) == {"inside": 1.0 if sums[True] else None, "outside": 0.0}
    assert gates.compare(values, [], where)["inside"] is None


def test_a_turned_box_is_its_polygon():
    where = Frame((100, 100), (100, 100), (1.0, 1.0), (0.0, 0.0))
    for diamond in ([(50, 0), (100, 50), (50, 100), (0, 50)], [(0, 50), (50, 100), (100, 50), (50, 0)]):
        found = gates.inside([diamond], where, (10, 10))
        x, y = np.meshgrid(np.arange(5, 100, 10), np.arange(5, 100, 10))
        assert np.array_equal(found, abs(x - 50) + abs(y - 50) <= 50)


def test_pooled_numbers_are_those_of_all_values_together():
    parts = [np.random.default_rng(i).normal(i, 1, (i + 1, 3, 2)) for i in range(4)]
    pool = gates.Pool()
    for index, part in enumerate(parts):
        pool.add(part, index)
    together = np.concatenate([part.ravel() for part in parts])
    initial = np.average(range(4), weights=[part.size for part in parts])
    expected = (together.mean(), together.std(), together.min(), together.max(), initial)
    assert [*pool.numbers().values()] == pytest.approx(expected)
    pool.add(np.array([np.nan]), 1.0)
    assert pool.numbers()["mean"] is None


# Pictures ------------------------------------------------------------------------------------------------------------

WHERE = Frame((300, 200), (160, 128), (160 / 300, 160 / 300), (0.0, 10.0))


def picture(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGBA"))


def drawn(values: np.ndarray, scale: str, folder: Path, boxes=()) -> np.ndarray:
    album.heat(values, scale, WHERE, boxes, folder / "x.png")
    return picture(folder / "x.png")


@pytest.mark.parametrize("scale", album.SCALES)
def test_no_map_is_stretched(scale, tmp_path):
    from matplotlib import colormaps

    level = 0.47 if scale != "spread" else 0.2
    flat = drawn(np.full((8, 10), level), scale, tmp_path)
    assert len(np.unique(flat.reshape(-1, 4), axis=0)) == 1
    values = np.random.default_rng(0).uniform(0, 0.4, (8, 10))
    values[3, 4] = level
    mixed = drawn(values, scale, tmp_path)
    columns, rows = WHERE.cells((10, 8), WHERE.picture())
    at = np.flatnonzero(rows == 3)[0], np.flatnonzero(columns == 4)[0]
    assert (mixed[at] == flat[0, 0]).all()
    place = float(np.clip(album.SCALES[scale].place(np.array(level)), 0, 1))
    colour = np.array(colormaps[album.SCALES[scale].palette](place)[:3]) * 255
    assert flat[0, 0, :3] == pytest.approx(colour, abs=4)
    assert flat[0, 0, 3] == 255


def test_scales_mean_what_their_numbers_say():
    place = {name: lambda v, s=scale: float(s.place(np.array(float(v)))) for name, scale in album.SCALES.items()}
    assert [place["gate"](v) for v in (0, 0.5, 1)] == [0, 0.5, 1]
    assert [place["difference"](v) for v in (-0.5, 0, 0.5)] == [0, 0.5, 1]
    assert [place["factor"](v) for v in (-9, 1, 11)] == pytest.approx([0, 0.5, 1])
    assert place["factor"](1 + 0.3) - 0.5 == pytest.approx(0.5 - place["factor"](1 - 0.3))
    assert [place["share"](v) for v in (1 / 32, 1, 32)] == pytest.approx([0, 0.5, 1])
    for name, scale in album.SCALES.items():
        for at, text in scale.ticks:
            value = {"even": "1", "1/32": "0.03125", "1/4": "0.25", "greatest of both": "1"}.get(text, text)
            value = float(value.replace("−", "-").rstrip("×"))
            assert place[name](value) == pytest.approx(at), (name, text)


def test_a_map_lies_on_the_photograph(tmp_path):
    values = np.zeros((4, 5))
    values[1, 2] = 1  # tensor 64..96 across, 32..64 down
    found = drawn(values, "gate", tmp_path)
    assert found.shape[:2] == (200, 300)
    y, x = np.nonzero((found[..., :3] == found[..., :3].max((0, 1))).all(-1) | (found[..., 0] > 200))
    assert (x.min(), x.max() + 1) == pytest.approx((64 * 300 / 160, 96 * 300 / 160), abs=1)
    assert (y.min(), y.max() + 1) == pytest.approx((22 * 300 / 160, 54 * 300 / 160), abs=1)
    cut = Frame((300, 200), (96, 96), (0.48, 0.48), (-24.0, 0.0))
    album.heat(np.ones((3, 3)), "gate", cut, [], tmp_path / "cut.png")
    seen = picture(tmp_path / "cut.png")[..., 3] == 255
    assert seen[:, 50:250].all()
    assert not seen[:, :50].any()
    assert not seen[:, 250:].any()


def test_what_is_no_number_is_not_drawn_as_one(tmp_path):
    values = np.full((2, 2), 0.5)
    values[0, 0] = np.nan
    found = drawn(values, "gate", tmp_path)
    assert set(np.unique(found[..., 3])) == {0, 255}


# A real model --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(bccd) -> list[Path]:
    return sorted((bccd.parent / "images/val").iterdir())[:2]


@pytest.fixture(scope="module")
def model(weights, tmp_path_factory) -> host.YOLO:
    """Trained weights with one attention at its identity, and a bare one in a row of its own that does something."""
    folder = tmp_path_factory.mktemp("models")
    foveal.add(str(weights), "ema(groups=8)", at="P3", output=folder / "a.pt")
    foveal.add(folder / "a.pt", "se", at="P5", start="paper", own_row=True, output=folder / "x.pt")
    loaded = host.load(folder / "x.pt")
    filled(loaded.model.model[16].attention[0].attention)
    return loaded


@pytest.fixture(scope="module")
def explained(model, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained") / "out"
    return explain(model, images, output=folder, imgsz=160)


def everything(network: torch.nn.Module) -> dict:
    """What could be left behind on a model."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    grads = {name: (p.requires_grad, p.grad) for name, p in network.named_parameters()}
    rest = {
        name: (sorted(vars(m)), m.training, [(k, len(v)) for k, v in vars(m).items() if k.endswith("_hooks")])
        for name, m in network.named_modules()
    }
    return {"state": state, "grads": grads, "rest": rest}


def test_nothing_stays_on_the_model_and_again_is_the_same(model, images, explained, tmp_path):
    model.model.train()
    before, overrides = everything(model.model), dict(model.overrides)
    again = explain(model, images, output=tmp_path / "again", imgsz=160)
    after = everything(model.model)
    model.model.eval()
    assert all(torch.equal(tensor, after["state"][name]) for name, tensor in before["state"].items())
    assert after["grads"] == before["grads"]
    assert after["rest"] == before["rest"]
    assert dict(model.overrides) == overrides
    assert model.predictor is None
    assert {**again.manifest, "date": ""} == {**explained.manifest, "date": ""}
    for file in Path(explained.folder, "pictures").iterdir():
        assert (tmp_path / "again/pictures" / file.name).read_bytes() == file.read_bytes(), file.name
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again"]


def test_numbers_are_those_of_the_features(model, images, explained):
    """Gates, gains and effects against the model run, not fused, on a tensor made by hand."""
    cv2 = pytest.importorskip("cv2")
    network, kept = copy.deepcopy(model.model).eval(), {}
    ours = {"16.0": network.model[16].attention[0], "23.0": network.model[23]}
    for name, module in ours.items():
        module.register_forward_hook(lambda _, x, out, name=name: kept.update({name: (x[0], out)}))
    manifest = explained.manifest
    assert [each["id"] for each in manifest["attentions"]] == ["16.0", "23.0"]
    assert [each["spec"] for each in manifest["attentions"]] == ["ema(groups=8, start=identity)", "se(start=paper)"]
    for entry, file in zip(manifest["images"], images, strict=True):
        assert (entry["width"], entry["height"]) == Image.open(file).size
        x = torch.full((1, 3, 128, 160), 114 / 255)
        pixels = cv2.resize(np.asarray(Image.open(file)), (160, 120), interpolation=cv2.INTER_LINEAR)
        x[0, :, 4:124] = torch.from_numpy(pixels).permute(2, 0, 1) / 255
        with torch.no_grad():
            network(x)
            spatial = ours["16.0"].attention.gates(kept["16.0"][0])["spatial"]
            channel = ours["23.0"].gates(kept["23.0"][0])["channel"]
        for gate, values in zip(entry["gates"], (spatial, channel), strict=True):
            numbers = [gate[key] for key in ("mean", "deviation", "low", "high")]
            expected = [values.mean(), values.std(correction=0), values.min(), values.max()]
            assert numbers == pytest.approx([float(value) for value in expected], abs=2e-3), gate["gate"]
        assert entry["gates"][1]["values"] == pytest.approx(channel[0].tolist(), abs=2e-3)
        still, bare = entry["effects"]
        assert still["change"] == 0  # at a gain of 0
        assert (still["low"], still["mean"], still["high"]) == pytest.approx((1, 1, 1))
        assert bare["low"] == pytest.approx(float(channel.min()), abs=2e-3)
        assert bare["high"] == pytest.approx(float(channel.max()), abs=2e-3)
        before, after = kept["23.0"]
        assert bare["change"] == pytest.approx(float((after - before).norm() / before.norm()), abs=2e-3)
    assert manifest["attentions"][0]["gain"] == {"mean": 0, "low": 0, "high": 0}
    assert manifest["attentions"][1]["gain"] is None


def test_initial_is_the_mean_of_fresh_gates_on_the_same_features():
    torch.manual_seed(0)
    attention = filled(foveal.EMAttention(32, groups=4)).eval()
    network = torch.nn.Module()
    network.model = torch.nn.Sequential(torch.nn.Sequential(attention))
    rows = [[-1, 1, "Conv+ema(groups=4)", []], [-1, 1, "Conv", []]]
    network.yaml = {"backbone": rows, "head": [[-1, 1, "Detect", []]]}
    (sites,) = gates.sites(network)
    assert len(sites.fresh) == gates.DRAWS
    weights = [fresh.conv3x3.weight for fresh in sites.fresh]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])
    x = torch.randn(1, 32, 6, 7)
    ((name, values, initial),) = gates._gates(sites, x)
    expected = torch.stack([fresh.gates(x)["spatial"][0] for fresh in sites.fresh]).mean(0)
    assert name == "spatial"
    assert values == pytest.approx(attention.gates(x)["spatial"][0].detach().numpy(), abs=1e-6)
    assert initial == pytest.approx(expected.detach().numpy(), abs=1e-6)


def test_inside_is_measured_with_the_labels_beside_the_images(explained, images):
    for entry, file in zip(explained.manifest["images"], images, strict=True):
        lines = Path(str(file).replace("/images/", "/labels/")).with_suffix(".txt").read_text().split("\n")
        assert len(entry["true_boxes"]) == len([line for line in lines if line])
        _, x, y, width, height = map(float, lines[0].split())
        left, top = (x - width / 2) * entry["width"], (y - height / 2) * entry["height"]
        assert entry["true_boxes"][0]["box"][:2] == pytest.approx([left, top])
        assert entry["gates"][0]["inside"] is not None
        assert entry["gates"][0]["outside"] is not None
        assert entry["gates"][1]["inside"] is None  # of channels


def test_activation_maps_are_layercam_on_one_scale(model, images):
    """By hand: positive gradients times activations, of the features on both sides."""
    whole = host.YOLO("yolo11n.yaml")
    whole.model = copy.deepcopy(model.model)
    whole.model.model[16].attention[0].gain.data.fill_(0.7)
    predictor = prediction.predictor(whole, conf=0.25, imgsz=160, device="cpu")
    sites = gates.sites(predictor.model.model)
    result, image, _ = gates.features(predictor, sites, images[0])
    found = cam.pair(predictor, sites[0].outer, image, result.orig_img)
    network, kept = predictor.model.model, []
    network.model[-1].shape = None
    hook = sites[0].outer.register_forward_hook(lambda _, x, out: kept.extend([x[0], out]))
    x = image.clone().requires_grad_()
    with torch.enable_grad():
        scores = network(x)[0][0, 4:].amax(0)
        if len(result.boxes):
            chosen = torch.stack([(scores - value).abs().argmin() for value in result.boxes.conf])
            target = scores[chosen].sum()
        else:
            target = scores.max()
        gradients = torch.autograd.grad(target, kept)
    hook.remove()
    assert found.target == ("detections" if len(result.boxes) else "best")
    assert found.score == pytest.approx(target.item(), rel=1e-4)
    for map, gradient, activation in zip((found.before, found.after), gradients, kept, strict=True):
        expected = (gradient.clamp(min=0) * activation).sum(1)[0].clamp(min=0).detach().numpy()
        assert expected.max() > 0
        np.testing.assert_allclose(map, expected, rtol=1e-3, atol=1e-4 * expected.max())
    assert not np.allclose(found.before, found.after)


@pytest.mark.parametrize(
    ("task", "maps", "expected"),
    [
        ("semantic", [[[1, -2]], [[0, 5]], [[-3, 4]]], [1, 5]),
        ("semantic", [[[3, -2]]], [3, 2]),  # a single score is for or against its class
        ("depth", [[[3, 2]]], [3, 2]),
    ],
)
def test_pixels_are_explained_by_what_is_found_there(task, maps, expected):
    assert cam._of_pixels(torch.tensor([maps]), task).tolist() == expected


def test_with_a_gain_of_0_before_and_after_are_the_same_picture(explained):
    for entry in explained.manifest["images"]:
        pair = entry["cams"][0]
        same = [(Path(explained.folder) / pair[when]).read_bytes() for when in ("before", "after")]
        assert same[0] == same[1]
        assert pair["method"] == "LayerCAM"


def built(folder: Path, name: str, specs, row: int) -> host.YOLO:
    """A model with fresh weights and several attentions after one row."""
    cfg = host.load(name).model.yaml
    for spec in specs:
        cfg = model_yaml.with_suffix(cfg, spec, [row])
    file = folder / f"{Path(name).stem}-built.yaml"  # by its name the host knows RT-DETR and open vocabularies
    kept = {key: value for key, value in cfg.items() if key not in ("yaml_file", "channels", "scale")}
    kept["scales"] = {"n": [0.5, 0.25, 1024]} if "scales" in cfg else None
    file.write_text(yaml.safe_dump({key: value for key, value in kept.items() if value is not None}))
    return host.load(file)


def test_every_attention_at_once_in_one_layer(images, tmp_path):
    specs = []
    for name, cls in ATTENTIONS.items():
        arguments = {}
        fits = fitting(cls, 128)
        if name in ("ema", "placebo", "sa"):
            arguments = {"groups": fits.groups}
        specs.append(Spec(name, arguments, start="identity"))
    model = built(tmp_path, "yolo11n.yaml", specs, 19)
    for module in model.model.modules():
        if isinstance(module, attachment.IdentityStart):
            module.gain.data.fill_(0.1)
    manifest = explain(model, images[:1], output=tmp_path / "out", imgsz=96).manifest
    assert [each["name"] for each in manifest["attentions"]] == [*ATTENTIONS]
    assert [each["id"] for each in manifest["attentions"]] == [f"19.{i}" for i in range(len(ATTENTIONS))]
    kinds = {gate["gate"] for gate in manifest["images"][0]["gates"]}
    assert kinds == {"spatial", "channel", "rows", "columns", "elements", "factor", "received"}
    for gate in manifest["images"][0]["gates"]:
        for key in ("picture", "spread", "difference", "strip"):
            assert key not in gate or (tmp_path / "out" / gate[key]).stat().st_size > 100
        if gate["gate"] not in ("factor", "received"):
            assert 0 <= gate["low"] <= gate["mean"] <= gate["high"] <= 1
        assert gate["initial"] is not None
    by_name = {(gate["attention"], gate["gate"]): gate for gate in manifest["images"][0]["gates"]}
    place = [*ATTENTIONS].index
    assert by_name[f"19.{place('mhsa')}", "received"]["mean"] == pytest.approx(1)
    assert by_name[f"19.{place('placebo')}", "spatial"]["groups"] > 1
    page(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("yolo11n-seg.yaml", 16),
        ("yolo11n-cls.yaml", 6),
        ("yolo26n-sem.yaml", 13),
        pytest.param("yolo11n-pose.yaml", 19, marks=pytest.mark.sweep),
        pytest.param("yolo11n-obb.yaml", 22, marks=pytest.mark.sweep),
        pytest.param("yolov10n.yaml", 16, marks=pytest.mark.sweep),
        pytest.param("yolov8n.yaml", 4, marks=pytest.mark.sweep),
        pytest.param("yolo26n-depth.yaml", 16, marks=pytest.mark.sweep),
        pytest.param("yolov8n-worldv2.yaml", 15, marks=pytest.mark.sweep),
        pytest.param("yoloe-11n-seg.yaml", 16, marks=pytest.mark.sweep),
        pytest.param("rtdetr-resnet50.yaml", 3, marks=[pytest.mark.slow, pytest.mark.sweep]),
    ],
)
def test_every_task_and_head(name, row, images, tmp_path):
    model = built(tmp_path, name, [Spec("se", start="paper")], row)
    file = tmp_path / "images/narrow.jpg"
    file.parent.mkdir()
    Image.open(images[0]).crop((0, 0, 200, 470)).save(file)
    (tmp_path / "labels").mkdir()
    corners = "0.5 0 1 0.5 0.5 1 0 0.5"
    label = {"obb": corners, "segment": corners, "pose": "0.5 0.5 0.4 0.2 0.1 0.1 2 0.2 0.2 2"}
    (tmp_path / "labels/narrow.txt").write_text(f"0 {label.get(model.task, '0.5 0.5 0.4 0.2')}\n")
    if model.task == "pose":
        model.model.kpt_shape = [17, 3]
    if model.task == "classify":
        model.model.transforms = transforms(64)
    if name == "yolov10n.yaml" and host.ultralytics.__version__ < "8.4":
        assert "no gradient" in refusal(explain, model, [file], output=tmp_path / "out", imgsz=64).message
        return
    manifest = explain(model, [file], output=tmp_path / "out", imgsz=160 if "rtdetr" in name else 64).manifest
    (entry,) = manifest["images"]
    assert manifest["task"] == model.task
    targets = {"classify": "class", "semantic": "pixels", "depth": "depth"}
    assert entry["cams"][0]["target"] == targets.get(model.task, "best")
    if model.task == "classify":
        assert entry["true_boxes"] is None
        assert len(entry["classes"]) == 5
    else:
        polygon = model.task in ("obb", "segment")
        expected = [0, 0, 200, 470] if polygon else [60, 188, 140, 282]
        assert entry["true_boxes"][0]["box"] == pytest.approx(expected)
        assert ("corners" in entry["true_boxes"][0]) == (model.task == "obb")
    page(tmp_path / "out")


# The page ------------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.images, self.numbers, self.links, self._open = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[key] for key in ("src", "href", "srcset", "action") if key in attributes]
        if tag == "img":
            self.images.append(attributes)
        if "data-path" in attributes:
            self._open = [attributes["data-path"], attributes["data-format"], ""]

    def handle_data(self, data):
        if self._open:
            self._open[2] += data

    def handle_endtag(self, tag):
        if self._open:
            self.numbers.append(self._open)
            self._open = None


def page(folder: Path) -> Elements:
    """The page of a folder, checked: it is whole by itself, and its numbers are the manifest's."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found = Elements((folder / "index.html").read_text())
    assert all(link.startswith(("data:image/", "#image-")) for link in found.links)
    assert all(image["alt"] for image in found.images)
    assert "url(" not in (folder / "index.html").read_text()
    for path, form, text in found.numbers:
        value = look_up(manifest, path)
        assert text == ("–" if value is None else album.FORMATS[form](value)), path
    pictures = {file for file in re.findall(r'"(pictures/[^"]+)"', json.dumps(manifest))}
    assert pictures == {f"pictures/{file.name}" for file in (folder / "pictures").iterdir()}
    assert len(found.images) == len(pictures)
    return found


def test_the_page_shows_all_pictures_and_numbers_of_the_manifest(explained):
    found = page(Path(explained.folder))
    shown = {path for path, _, _ in found.numbers}
    for index in range(2):
        assert f"images.{index}.gates.0.mean" in shown
        assert f"images.{index}.gates.0.inside" in shown
    assert {"attentions.0.gain.mean", "attentions.1.effect.high"} <= shown
    text = (Path(explained.folder) / "index.html").read_text()
    assert "no data was given" in text
    assert "1 + gain × (gate − 1)" in text


def with_ablation(manifest: dict) -> dict:
    row = {"kind": "multiplied", "frozen": 0.3911, "removed": 0.1}
    rows = [{"attention": each["id"], **row} for each in manifest["attentions"]]
    scores = {"metric": "mAP50-95", "trained": 0.4211, "rows": rows, "all": {"frozen": 0.42, "removed": 0.0}}
    return {**manifest, "ablation": {"data": "my.yaml", "split": "val", **scores}}


def test_the_page_says_what_frozen_gates_lose(explained):
    text = album.Page(with_ablation(explained.manifest), Path(explained.folder)).render()
    assert re.search(r'data-change="ablation.rows.0.frozen">−3.00<', text)
    assert "no data was given" not in text


@pytest.mark.slow
def test_in_a_browser(explained, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium on this machine")
    manifest = with_ablation(copy.deepcopy(explained.manifest))
    manifest["images"][0]["name"] = '"><script>alert(1)</script>' + 60 * "x" + ".jpg"
    file = tmp_path / "index.html"
    file.write_text(album.Page(manifest, Path(explained.folder)).render())
    asked, said = [], []
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        opened = running.new_page(viewport={"width": 1280, "height": 800})
        opened.on("request", lambda request: asked.append(request.url))
        for event in ("console", "pageerror", "dialog"):
            opened.on(event, lambda what: said.append(str(what)))
        opened.goto(file.as_uri())
        for width in (1280, 390):
            opened.set_viewport_size({"width": width, "height": 800})
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            beyond = """all => all.filter(e => !e.closest('.scroll'))
                .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))"""
            assert opened.eval_on_selector_all("h1, h2, h3, p, li, figure, img, .ticks span", beyond) == []
        opened.eval_on_selector_all(
            "img", "all => Promise.all(all.map(e => { e.loading = 'eager'; return e.decode() }))"
        )
        broken = "all => all.filter(e => !e.naturalWidth).length"
        assert opened.eval_on_selector_all("img", broken) == 0
        for key, at in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowLeft", 0)):
            opened.keyboard.press(key)
            top = f"Math.abs(document.querySelector('#image-{at}').getBoundingClientRect().top) < 5"
            opened.wait_for_function(top, timeout=3000)
        light = opened.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        opened.emulate_media(color_scheme="dark")
        assert opened.evaluate("getComputedStyle(document.documentElement).backgroundColor") != light
        running.close()
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert said == []


# What is given -------------------------------------------------------------------------------------------------------


def refusal(call, *arguments, **settings) -> UserError:
    with pytest.raises(UserError) as caught:
        call(*arguments, **settings)
    assert caught.value.hint
    return caught.value


def test_bad_images(model, images, tmp_path):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(images[0].read_bytes()[:9000])
    text = tmp_path / "x.jpg"
    text.write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for given, rule in (
        (tmp_path / "none.jpg", "there is no file"),
        (cut, "cannot be read as an image"),
        (text, "cannot be read as an image"),
        (tmp_path / "notes.txt", "is no image"),
        (tmp_path / "empty", "there is no image in the folder"),
    ):
        assert rule in refusal(explain, model, [given], output=tmp_path / "out").message
    assert "too small" in refusal(explain, model, images, imgsz=8, output=tmp_path / "out").message
    assert "neither images nor data" in refusal(explain, model, [], output=tmp_path / "out").message
    assert "cannot be used" in refusal(explain, model, [], data="none.yaml", output=tmp_path / "out").message
    assert not (tmp_path / "out").exists()
    assert not [*tmp_path.glob(".*")]


def test_bad_models(weights, images, tmp_path):
    assert "has no attention" in refusal(explain, weights, images, output=tmp_path / "out").message
    broken = tmp_path / "broken.pt"
    broken.write_bytes(weights.read_bytes()[:5000])
    assert "is damaged or no checkpoint" in refusal(explain, broken, images, output=tmp_path / "out").message
    assert "there is no file" in refusal(explain, tmp_path / "x.pt", images, output=tmp_path / "out").message


def test_folders_of_others_stay(model, images, tmp_path):
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    assert "is no explanation" in refusal(explain, model, images, output=foreign).message
    (foreign / "manifest.json").write_text('{"kind": "other"}')
    assert "is no explanation" in refusal(explain, model, images, output=foreign).message
    assert "there is no folder" in refusal(explain, model, images, output=tmp_path / "a/b").message
    assert "is no explanation" in refusal(explain, model, images, output=images[0]).message
    assert sorted(file.name for file in foreign.iterdir()) == ["manifest.json", "thesis.tex"]


def test_our_own_folder_is_replaced_only_when_all_went_well(explained, model, images, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(explained.folder, folder)
    (folder / "notes.txt").write_text("kept")
    label = tmp_path / "labels/x.txt"
    (tmp_path / "images").mkdir()
    label.parent.mkdir()
    shutil.copy(images[0], tmp_path / "images/x.jpg")
    label.write_text("0 0.5 0.5 0.1 0.1\n0 one two\n")
    found = refusal(explain, model, [tmp_path / "images/x.jpg"], output=folder, imgsz=96)
    assert "line 2" in found.message
    assert json.loads((folder / "manifest.json").read_text()) == explained.manifest
    label.unlink()
    again = explain(model, [tmp_path / "images/x.jpg"], output=folder, imgsz=96)
    assert again.manifest["images"][0]["true_boxes"] is None
    assert again.manifest["images"][0]["gates"][0]["inside"] is None
    assert (folder / "notes.txt").read_text() == "kept"
    page(folder)


def test_data_that_does_not_fit(model, bccd, tmp_path):
    assert (
        "3 classes, but the model 80" in refusal(explain, model, data=bccd, output=tmp_path / "out", imgsz=96).message
    )
    assert "no split 'test'" in refusal(explain, model, data=bccd, split="test", output=tmp_path / "out").message


def test_without_grad_cam(model, images, monkeypatch, tmp_path):
    monkeypatch.setattr(cam.importlib.util, "find_spec", lambda _: None)
    assert "foveal[explain]" in refusal(explain, model, images, output=tmp_path / "out").hint


def test_the_command(bccd, tmp_path):
    import typer
    from typer.testing import CliRunner

    from foveal.cli import explain as cli_explain

    app = typer.Typer()
    app.command()(cli_explain.explain)
    model = built(tmp_path, "yolo11n.yaml", [Spec("eca", start="paper")], 22).model
    saved = host.rebuild(model, {**model.yaml, "nc": 3})
    saved.names = dict(enumerate(["RBC", "WBC", "Platelets"]))
    torch.save(host.checkpoint(saved, {}), tmp_path / "x.pt")
    small = tmp_path / "small"
    for part in ("images", "labels"):
        (small / part).mkdir(parents=True)
        for file in sorted((bccd.parent / part / "val").iterdir())[:10]:
            shutil.copy(file, small / part)
    (small / "data.yaml").write_text(f"path: {small}\ntrain: images\nval: images\nnames: [RBC, WBC, Platelets]\n")
    arguments = [
        str(tmp_path / "x.pt"),
        "--data",
        str(small / "data.yaml"),
        "--imgsz",
        "64",
        "-o",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "22.0  eca" in done.stdout
    assert "gate frozen" in done.stdout
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert len(manifest["images"]) == explaining.FEW
    assert [row["attention"] for row in manifest["ablation"]["rows"]] == ["22.0"]
    assert manifest["ablation"]["all"].keys() == {"frozen", "removed"}
    page(tmp_path / "out")
