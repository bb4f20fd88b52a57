"""Attentions inside unmodified Ultralytics, against its oldest and its newest release."""

import copy
import logging
import os
import re
from pathlib import Path

import pytest
import torch

from helpers import entered, filled, swept

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from ultralytics.nn import tasks

import foveal
from detectors import MODELS, build, config, published
from foveal import EMAttention, IdentityStart, Spec, UserError
from foveal.explain import gates
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import OLDEST, adding, dataset, parser, rebuilding, trainers
from foveal.surgery import model_yaml

pytestmark = pytest.mark.host

TENSORS = {
    "yolov8n": 355,
    "yolo11n": 499,
    "yolo12n": 691,
    "yolo26n": 708,
    "rtdetr-l": 941,
    "yolo11n-seg": 561,
    "yolo11n-pose": 541,
    "yolo11n-obb": 541,
    "yolo11n-cls": 236,
}
FAMILIES = ("yolov8", "yolo11", "yolo12", "yolo26")
HOSTS = ["rtdetr-l"] + [
    f"{family}{scale}{task}"
    for family in FAMILIES
    for scale in "nsmlx"
    for task in MODELS
    if not task or scale in "nsx"  # what a task adds is its head; m and l lie between s and x
]
KEPT = ["rtdetr-l", "yolo26n", *(f"yolo11n{task}" for task in MODELS)]
OWN_ROWS = [*TENSORS, "yolov8n-cls", "yolo12n-obb", "yolo26n-seg", "yolo11x"]


def attentions(model) -> list[EMAttention]:
    return [module for module in model.modules() if isinstance(module, EMAttention)]


@torch.no_grad()
def outputs(model):
    size = 160 if isinstance(model, tasks.RTDETRDetectionModel) else 64  # 300 queries need as many places
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return rebuilding.run(model.eval(), image)


@pytest.mark.parametrize("name", swept(HOSTS, *KEPT, "yolov8n", "yolo12n"))
def test_stock_loader_brings_every_tensor_and_identity_start_keeps_the_output(name):
    torch.manual_seed(0)
    plain = build(name)
    places = model_yaml.places(plain.yaml, adding.measured_strides(plain.eval()))
    attended = build(name, model_yaml.with_suffix(plain.yaml, Spec.parse("ema"), places["neck"]))
    assert len(attentions(attended)) == len(places["neck"]) == (1 if name.endswith("-cls") else 3)

    carried = tasks.intersect_dicts(plain.state_dict(), attended.state_dict())
    assert len(carried) == len(plain.state_dict()) == TENSORS.get(name, len(carried))
    attended.load(plain, verbose=False)
    assert all(torch.equal(a, b) for a, b in zip(outputs(plain), outputs(attended), strict=True))


@pytest.mark.parametrize("name", swept(OWN_ROWS, *KEPT))
def test_own_rows_keep_every_tensor_under_its_new_number(name):
    torch.manual_seed(0)
    plain = build(name)
    strides = adding.measured_strides(plain.eval())
    places = model_yaml.places(plain.yaml, strides)
    cfg, number = model_yaml.with_rows(
        plain.yaml, Spec.parse("ema(start=identity)"), places["neck"] + places["backbone"]
    )
    attended = adding._grafted(plain, build(name, cfg), number)
    total = len(plain.state_dict())
    assert adding._kept(plain, attended, number) == (total, total)
    assert all(torch.equal(a, b) for a, b in zip(outputs(plain), outputs(attended), strict=True))


EXPECTED_PLACES = {
    "yolov8n": {"neck": (15, 18, 21), "backbone": (2, 4, 6, 8), "sppf": (9,)},
    "yolo11n": {"neck": (16, 19, 22), "backbone": (2, 4, 6, 8), "sppf": (9,), "psa": (10,)},
    "yolo11x-pose": {"neck": (16, 19, 22), "backbone": (2, 4, 6, 8), "sppf": (9,), "psa": (10,)},
    "yolo11n-cls": {"neck": (9,), "P5": (9,), "backbone": (2, 4, 6, 8), "psa": (9,)},
    "yolo12n": {"neck": (14, 17, 20), "backbone": (2, 4, 6, 8)},
    "yolo26n": {"neck": (16, 19, 22), "backbone": (2, 4, 6, 8), "sppf": (9,), "psa": (10,)},
    "rtdetr-l": {"neck": (21, 24, 27), "backbone": (1, 3, 7, 9)},
    "yolov8n-p2": {"neck": (18, 21, 24, 27), "P2": (18,), "P5": (27,), "backbone": (2, 4, 6, 8), "sppf": (9,)},
    "yolov8n-p6": {"neck": (20, 23, 26, 29), "P6": (29,), "backbone": (2, 4, 6, 8, 10), "sppf": (11,)},
}


@pytest.mark.parametrize("name", swept(EXPECTED_PLACES, *EXPECTED_PLACES.keys() - {"yolo11x-pose"}))
def test_places_are_found_by_structure(name):
    model = host.load(f"{name}.yaml").model if "-p" in name and "pose" not in name else build(name)
    found = model_yaml.places(model.yaml, adding.measured_strides(model.eval()))
    unnumbered = {place: rows for place, rows in found.items() if place in EXPECTED_PLACES[name]}
    assert unnumbered == EXPECTED_PLACES[name]
    assert not {"sppf", "psa"} & (set(found) - set(EXPECTED_PLACES[name]))


# The table users meet in published YAMLs: EMA after the three neck blocks of YOLO11, Detect re-pointed --------------


@pytest.mark.parametrize("args", [[], [256], ["c2"], [{"groups": 8}]], ids=str)
def test_published_row_builds(args):
    model = build("yolo11n", published([-1, 1, "EMA", args]))
    layer = model.model[11]
    assert isinstance(layer, EMAttention)
    assert (layer.channels, layer.groups) == (256, 8 if args and isinstance(args[0], dict) else 32)
    assert (layer.i, layer.f, layer.np) == (11, -1, sum(p.numel() for p in layer.parameters()))
    # As in the authors' code: the row's tensors have no prefix, and it is not started as the identity.
    assert "model.11.conv1x1.weight" in model.state_dict()
    assert not any(isinstance(module, IdentityStart) for module in model.modules())


WIDTHS = [("n", 256), ("s", 512), ("m", 512), ("l", 512), ("x", 768)]


@pytest.mark.parametrize(("scale", "true"), swept(WIDTHS, "n", "m", ids=lambda row: row[0]))
def test_published_row_is_as_wide_as_the_scale_makes_it(scale, true):
    for args in ([], [1024], [true], [1024, 1024]):
        assert attentions(build(f"yolo11{scale}", published([-1, 1, "EMA", args], scale)))[0].channels == true


def test_all_wrong_widths_are_said_at_once_and_the_hint_is_right_at_every_scale():
    cfg = published([-1, 1, "EMA", [128]], "s")
    cfg["head"][0] = [-1, 1, "SE", [96]]
    with pytest.raises(
        UserError,
        match=r"row 11 \(ema\) says 128 channels, but .* has 512; row 12 \(se\) says 96 .* scale 's'; write \[\] to",
    ):
        build("yolo11s", cfg)


def test_numbers_of_a_row_are_read_as_its_attentions_copies_mean_them():
    model = build("yolo11n", published([-1, 1, "EMA", [8]]))
    assert attentions(model)[0].groups == 8
    (found,) = gates.sites(model)
    assert found.spec == Spec("ema", {"groups": 8}, "paper")
    assert [fresh.groups for fresh in found.fresh] == [8] * gates.DRAWS


# What others call by our names, and what nobody knows ----------------------------------------------------------------


class EMA(torch.nn.Module):
    """A class of a user's own under a name that foveal has, too."""

    def __init__(self, factor: int = 8):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale by one number."""
        return x * self.scale.mean()


ALIASES = sorted({alias for cls in foveal.ATTENTIONS.values() for alias in (cls.__name__, *cls.card.aliases)})


@pytest.mark.parametrize("name", ALIASES)
def test_a_class_that_the_user_registered_is_never_replaced(name, monkeypatch):
    monkeypatch.setattr(tasks, name, EMA, raising=False)
    model = build(
        "yolov8n-cls",
        model_yaml.with_suffix(config("yolov8n-cls"), Spec.parse("ema"), [8])
        | {"head": [[-1, 1, name, [4]], [-1, 1, f"foveal.{name}", []], [-1, 1, "Classify", ["nc"]]]},
    )
    assert type(model.model[9]) is EMA
    assert type(model.model[10]) is foveal.attention.find(name)


def test_weights_of_the_hosts_own_class_are_not_loaded_into_ours(tmp_path, monkeypatch):
    cfg = published([-1, 1, "CBAM", [256]])
    with monkeypatch.context() as registered:
        from ultralytics.nn.modules.conv import CBAM

        registered.setattr(tasks, "CBAM", CBAM, raising=False)
        theirs = build("yolo11n", cfg)
    assert type(theirs.model[11]) is CBAM
    with pytest.raises(UserError, match=r"row 11, .*'CBAM'.*, is ultralytics\.nn\.modules\.conv\.CBAM in the file"):
        build("yolo11n", cfg).load(theirs)  # what every trainer does
    torch.save(host.checkpoint(theirs, {}), tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=r"row 11, .*conv\.CBAM in the file.*foveal's is always called foveal\.cbam"):
        foveal.add(tmp_path / "theirs.pt", "ema", output=tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, 1, "C2f_EMA", [1024]], r"row 11, .*C2f_EMA.*, names 'C2f_EMA', which neither .* knows; write C2f\+ema"),
        ([-1, 1, "C3k2-CBAM", [1024]], r"write C3k2_CBAM for cbam inside a C3k2, or C3k2\+cbam"),
        ([-1, 1, "simam_module", []], "did you mean simam"),
        ([-1, 1, "C3K2", [1024]], "did you mean C3k2"),
        ([-1, 1, "nn.Identitty", []], "names 'nn.Identitty', which neither"),
        ([-1, 1, "Xyzzy", []], "put the class into ultralytics.nn.tasks as Xyzzy"),
        ([-1, 1, "Conv", ["wide"]], r"row 11, \[-1, 1, 'Conv', \['wide'\]\], cannot be built: TypeError"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_built_is_named(row, message):
    try:
        build("yolo11n", published(row))
    except UserError as refusal:
        assert re.search(message, str(refusal)), refusal  # noqa: PT017
    else:
        pytest.skip("this release builds it")


def test_anchors_of_yolov5s_own_repository_are_explained():
    cfg = config("yolov5n")
    cfg["head"][-1][3] = ["nc", "anchors"]
    with pytest.raises(UserError, match=r"row 24, .*'anchors'.*, cannot be built: .*; write \['nc'\]: .*no anchors"):
        build("yolov5n", cfg)


def test_repeated_row_builds_as_often_as_its_depth_says():
    model = build("yolo11n", published([-1, 4, "EMA", []]))  # depth 0.5
    assert len(attentions(model)) == 2


def test_a_suffix_on_a_repeated_layer_attends_its_last_copy():
    cfg = config("yolo11x")  # depth 1
    cfg["backbone"][10] = [-1, 2, "Conv+ema", [1024, 1, 1]]
    model = tasks.DetectionModel(cfg, verbose=True)
    assert [hasattr(layer, "attention") for layer in model.model[10]] == [False, True]
    assert attentions(model)[0].channels == 768
    assert trainers.spare_attentions(model, [10]) == ["10.0", "10.1.conv", "10.1.bn", "10.1.act"]


@pytest.mark.parametrize("scale", swept("nsmlx", "n", "m"))
def test_rows_right_before_detect_build_and_are_read(scale):
    cfg, _ = model_yaml.with_rows(config(f"yolo11{scale}"), Spec.parse("ema"), [16, 19, 22])
    cfg["head"][-1][0] = [17, 21, 25]
    model = build("yolo11n", cfg)
    assert [module.channels for module in attentions(model)] == [
        layer[0].conv.in_channels for layer in model.model[-1].cv2
    ]


def test_a_row_detect_does_not_read_is_refused():
    cfg, _ = model_yaml.with_rows(config("yolo11n"), Spec.parse("ema"), [16, 19, 22])
    cfg["head"][-1][0] = [17, 21, 24]  # seen in a published repository
    with pytest.raises(UserError, match=r"no row reads row 25 \(ema\).*Detect reads \[17, 21, 24\]: put 25"):
        build("yolo11n", cfg)


def test_suffix_takes_arguments():
    cfg = config("yolo11n")
    cfg["backbone"][4][2] = "C3k2+ema(groups=8, start=paper)"
    layer = build("yolo11n", cfg).model[4]
    assert type(layer.attention[0]) is EMAttention
    assert layer.attention[0].groups == 8


def test_channels_that_groups_do_not_divide_are_explained():
    cfg = config("yolo11n")
    cfg["backbone"][0][2] += "+ema"
    with pytest.raises(UserError, match=r"channels=16, groups=32.*groups=16 fits"):
        build("yolo11n", cfg)


def test_the_legacy_head_trap_is_avoided():
    # A host that no longer recognises C3k2 builds YOLOv8's head: 14 % more parameters, in silence.
    cfg = config("yolo11s")
    every = [i for i, row in enumerate(model_yaml.rows(cfg)) if row[2] == "C3k2"]
    plain, attended = build("yolo11s"), build("yolo11s", model_yaml.with_suffix(cfg, Spec.parse("ema"), every))
    assert all(isinstance(attended.model[i], tasks.C3k2) for i in every)
    added = sum(
        p.numel() for module in attended.modules() if isinstance(module, IdentityStart) for p in module.parameters()
    )
    assert sum(p.numel() for p in attended.parameters()) - added == sum(p.numel() for p in plain.parameters())


def test_plain_models_pass_through_untouched():
    torch.manual_seed(0)
    ours = build("yolo11n").state_dict()
    original = tasks.parse_model
    tasks.parse_model = original.__wrapped__
    try:
        torch.manual_seed(0)
        stock = build("yolo11n").state_dict()
    finally:
        tasks.parse_model = original
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), stock.values(), strict=True))


def test_the_saved_yaml_keeps_what_the_user_wrote():
    cfg = model_yaml.with_suffix(config("yolo11n"), Spec.parse("ema(groups=8)"), [16])
    assert build("yolo11n", cfg).yaml["head"][5][2] == "C3k2+ema(groups=8)"


def test_the_table_shows_each_attention(caplog):
    logger = logging.getLogger(parser.LOGGER.name)
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    try:
        cfg = model_yaml.with_suffix(config("yolo11n"), Spec.parse("ema"), [16])
        tasks.DetectionModel(cfg, verbose=True)
    finally:
        logger.removeHandler(caplog.handler)
    lines = [line for line in caplog.text.splitlines() if "foveal" in line]
    assert len(lines) == 1
    assert "16" in lines[0]
    assert "112  foveal.ema" in lines[0]  # 48 of the attention and 64 gains
    assert "Widths" not in caplog.text


def test_fuse_and_copies_keep_the_output():
    cfg = model_yaml.with_suffix(config("yolo11n"), Spec.parse("ema(start=paper)"), [16, 19, 22])
    model = filled_attentions(build("yolo11n", cfg))
    before = outputs(model)
    for other in (copy.deepcopy(model), copy.deepcopy(model).fuse(verbose=False)):
        for a, b in zip(outputs(other), before, strict=True):
            assert float((a - b).abs().max()) <= 2e-4 * max(1.0, float(b.abs().max()))
    assert len(attentions(copy.deepcopy(model).fuse(verbose=False))) == 3


def filled_attentions(model):
    for module in attentions(model):
        filled(module)
    return model


def test_info_counts_the_attentions_operations():
    cfg = config("yolo11n")
    plain = build("yolo11n", cfg)
    attended = build("yolo11n", model_yaml.with_suffix(cfg, Spec.parse("ema(groups=8)"), [16, 19, 22]))
    from ultralytics.utils.torch_utils import get_flops

    assert get_flops(attended) > get_flops(plain) > 6


def test_images_of_a_split_in_every_way_to_name_them(tmp_path):
    pictures = [tmp_path / folder / f"{i}.png" for folder in ("a", "b") for i in range(2)]
    for picture in pictures:
        picture.parent.mkdir(exist_ok=True)
        picture.touch()
    (tmp_path / "list.txt").write_text("./a/0.png\n" + f"{pictures[3]}\n")
    for val, expected in (("a", pictures[:2]), ("[a, b]", pictures), ("list.txt", [pictures[0], pictures[3]])):
        (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: a\nval: {val}\nnames: [x]\n")
        assert dataset.Data(str(tmp_path / "data.yaml")).images("val") == expected


# What can be wrong with the host -----------------------------------------------------------------------------------


def refusals(tmp_path: Path, fake: dict[str, str] | None, *rooms: str) -> list[str]:
    """The error that importing each room gives beside a stand-in for Ultralytics, as the first that is imported."""
    for name, text in (fake or {}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = "" if fake else "import sys; sys.modules['ultralytics'] = None\n"
    path = os.pathsep.join([str(tmp_path), str(Path(foveal.__file__).parents[1])])
    said = entered([f"foveal.{room}" for room in rooms], tmp_path, before, PYTHONPATH=path)
    assert all(one.startswith("UserError: ") for one in said.values()), said
    return [one.removeprefix("UserError: ") for one in said.values()]


FAKE = {
    "ultralytics/__init__.py": "__version__ = '{}'\nclass YOLO: pass\nclass RTDETR: pass",
    "ultralytics/cfg.py": "",
    "ultralytics/models/__init__.py": "rtdetr = yolo = None",
    "ultralytics/nn/__init__.py": "",
    "ultralytics/nn/tasks.py": "def parse_model(rows, widths): pass",
    "ultralytics/utils/metrics.py": "compute_ap = Metric = None",
    "ultralytics/utils/__init__.py": "import logging, pathlib\nLOGGER = logging.getLogger()\nASSETS = pathlib.Path()",
}


ROOMS = ["yolo", "deploy.checked_export"]
ROOMS += [f"hosts.ultralytics.{name}" for name in ("dataset", "prediction", "runtime", "exporter", "adding", "host")]


@pytest.mark.sweep  # tests/whole/test_house.py enters each room of the host without it
def test_ultralytics_missing(tmp_path):
    said = "Ultralytics is not installed; pip install 'foveal[yolo]'"
    assert refusals(tmp_path, None, *ROOMS) == [said] * len(ROOMS)


@pytest.mark.seldom
def test_ultralytics_too_old(tmp_path):
    fake = {name: text.format("8.2.103") for name, text in FAKE.items()}
    said = f"Ultralytics 8.2.103 is older than foveal can work with; pip install 'ultralytics>={OLDEST}'"
    assert refusals(tmp_path, fake, "yolo") == [said]


PARSERS = [FAKE["ultralytics/nn/tasks.py"], "def build_rows(d, ch, verbose): pass"]


@pytest.mark.parametrize("parser", swept(PARSERS, PARSERS[1]))
@pytest.mark.seldom
def test_ultralytics_with_another_parser(tmp_path, parser):
    fake = {name: text.format("9.0.0") for name, text in (FAKE | {"ultralytics/nn/tasks.py": parser}).items()}
    (said,) = refusals(tmp_path, fake, "yolo")
    assert said.startswith("the model parser of Ultralytics 9.0.0 is not the one foveal knows; install")


def test_a_parser_that_drops_the_widths_is_noticed():
    def without_last(d, ch, verbose=True):
        layers, save = tasks.parse_model.__wrapped__(d, ch, verbose)
        return layers[:-1], save

    with pytest.raises(UserError, match=r"the model parser of Ultralytics .* is not the one foveal knows"):
        parser._parse_model(without_last, model_yaml.with_suffix(config("yolo11n"), Spec.parse("ema"), [16]), 3, False)
