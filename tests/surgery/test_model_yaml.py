"""The row rewriter, on toy models: no Ultralytics needed."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal import Spec, UserError
from foveal.surgery import model_yaml
from foveal.surgery.model_yaml import Place

EMA = Spec.parse("ema")

# Rows as in YOLO11 cut down to two levels: 0 stem, 1-2 stage P3, 3-4 stage P4, 5 SPPF, 6 C2PSA, 7-9 top-down, 10 head
TOY = {
    "nc": 3,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C3k2", [16]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "C3k2", [32]],
        [-1, 1, "SPPF", [32, 5]],
        [-1, 1, "C2PSA", [32]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 1, "C3k2", [16]],
        [[9, 6], 1, "Detect", ["nc"]],
    ],
}
STRIDES = [4, 8, 8, 16, 16, 16, 16, 8, 8, 8, None]


@st.composite
def graphs(draw):
    """Models with random wiring, each row reading one or more earlier rows in any notation, the head most of them."""
    count = draw(st.integers(3, 12))
    together = [[-1, 1, "Conv", [8]]]
    for index in range(1, count):
        read = draw(st.lists(st.integers(0, index - 1), min_size=1, max_size=3))
        written = [draw(st.sampled_from([source, source - index])) for source in read]
        together.append([written[0] if len(written) == 1 else written, 1, f"Layer{index}", [index]])
    read = {source for index, row in enumerate(together) for source in model_yaml.sources(row, index)}
    together.append([[index for index in range(count) if index not in read], 1, "Head", []])
    cut = draw(st.integers(1, count))
    return {"nc": 1, "backbone": together[:cut], "head": together[cut:]}


def edges(cfg):
    return [model_yaml.sources(row, index) for index, row in enumerate(model_yaml.rows(cfg))]


@given(graphs(), st.data())
def test_own_rows_keep_every_edge(cfg, data):
    count = len(model_yaml.rows(cfg))
    after = data.draw(st.lists(st.integers(0, count - 2), unique=True))
    original = copy.deepcopy(cfg)
    grown, number = model_yaml.with_rows(cfg, EMA, after)
    assert cfg == original
    new_rows, new_edges = model_yaml.rows(grown), edges(grown)
    assert len(new_rows) == count + len(after)
    for index, row in enumerate(model_yaml.rows(cfg)):
        there = number[index]
        assert new_rows[there][1:] == row[1:]
        # Whoever read row s reads the attention behind it if there is one, else row s itself.
        assert new_edges[there] == [-1 if s < 0 else number[s] + (s in after) for s in edges(cfg)[index]]
    for index in after:
        assert new_rows[number[index] + 1] == [-1, 1, "foveal.ema", []]
        assert new_edges[number[index] + 1] == [number[index]]
    assert len(grown["backbone"]) == len(cfg["backbone"]) + sum(i < len(cfg["backbone"]) for i in after)


@given(graphs(), st.data())
def test_suffixes_come_off_as_they_went_on(cfg, data):
    after = sorted(data.draw(st.sets(st.sampled_from(sorted({s for e in edges(cfg) for s in e if s >= 0})))))
    suffixed = model_yaml.with_suffix(cfg, Spec.parse("ema(groups=8, start=paper)"), after)
    plain, placed = model_yaml.split(suffixed)
    assert plain == cfg
    assert list(placed) == after
    assert all(p.specs == (Spec("ema", {"groups": 8}, "paper"),) and not p.own_row for p in placed.values())


def test_own_rows_come_off_as_identities():
    grown, _ = model_yaml.with_rows(TOY, Spec.parse("ema(groups=8)"), [4])
    plain, placed = model_yaml.split(grown)
    assert model_yaml.rows(plain)[5] == [-1, 1, "nn.Identity", []]
    assert placed == {5: model_yaml.RowAttentions((Spec("ema", {"groups": 8}, "paper"),), own_row=True)}


def test_relative_references_survive():
    cfg = copy.deepcopy(TOY)
    cfg["head"][1][0] = [-2, -1]  # RT-DETR writes so
    grown, _ = model_yaml.with_rows(cfg, EMA, [7])
    assert model_yaml.sources(model_yaml.rows(grown)[9], 9) == [6, 8]


def test_a_second_attention_follows_the_first():
    cfg = model_yaml.with_suffix(model_yaml.with_suffix(TOY, EMA, [9]), Spec.parse("ema(groups=8)"), [9])
    assert model_yaml.rows(cfg)[9][2] == "C3k2+ema+ema(groups=8)"
    _, placed = model_yaml.split(cfg)
    assert [str(spec) for spec in placed[9].specs] == ["ema(start=identity)", "ema(groups=8, start=identity)"]


def test_places():
    assert model_yaml.places(TOY, STRIDES) == {
        "neck": (6, 9),
        "P3": (9,),
        "P4": (6,),
        "backbone": (2, 4),
        "backbone.P3": (2,),
        "backbone.P4": (4,),
        "sppf": (5,),
        "psa": (6,),
    }


def test_resolve():
    available = model_yaml.places(TOY, STRIDES)
    found = model_yaml.resolve(["paper", "P3", "0", "P3.m.*.cv2", "head.box"], available, "backbone.P3,backbone.P4", 11)
    assert found == [Place(0), Place(2), Place(4), Place(9), Place(9, ("m.*.cv2",)), Place(10, ("box",))]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nekc", "this model has no place 'nekc'; did you mean 'neck'"),
        ("P2", "no place 'P2'.*places: neck, P3, P4, backbone, backbone.P3, backbone.P4, sppf, psa, paper"),
        ("10", "there is no row 10 to attach to; rows 0 to 9"),
        ("paper", "no place 'backbone.P5'"),
    ],
)
def test_missing_places_are_explained(place, message):
    with pytest.raises(UserError, match=message):
        model_yaml.resolve([place], model_yaml.places(TOY, STRIDES), "backbone.P4,backbone.P5", 11)


def with_row(index, row):
    """The toy with one more row, and everybody behind it reading as a blog author would write it."""
    cfg = copy.deepcopy(TOY)
    part, offset = ("backbone", 0) if index < 7 else ("head", 7)
    cfg[part].insert(index - offset, row)
    return cfg


@pytest.mark.parametrize(
    ("args", "settings", "numbers"),
    [
        ([], {}, ()),
        ([16], {}, (16,)),
        (["c2"], {}, ()),
        ([{"groups": 8}], {"groups": 8}, ()),
        ([16, {"groups": 8}], {"groups": 8}, (16,)),
    ],
    ids=str,
)
def test_ways_to_write_a_row(args, settings, numbers):
    cfg = with_row(10, [-1, 1, "EMA", args])
    cfg["head"][-1][0] = [10, 6]
    _, placed = model_yaml.split(cfg)
    assert placed == {10: model_yaml.RowAttentions((Spec("ema", settings, "paper"),), own_row=True, numbers=numbers)}


def with_read_row(row):
    """The toy with one more row behind its last block, which Detect reads."""
    cfg = with_row(10, row)
    cfg["head"][-1][0] = [10, 6]
    return cfg


def test_behind_an_attentions_own_row_is_a_row_of_its_own():
    cfg = with_read_row([-1, 1, "EMA", [{"groups": 8}]])
    grown, number = model_yaml.with_attention(cfg, Spec.parse("coord(start=identity)"), [Place(4), Place(10)])
    assert model_yaml.rows(grown)[4][2] == "C3k2+coord"
    assert model_yaml.rows(grown)[10:12] == [
        [-1, 1, "EMA", [{"groups": 8}]],
        [-1, 1, "foveal.coord", [{"start": "identity"}]],
    ]
    assert model_yaml.sources(model_yaml.rows(grown)[number[11]], number[11]) == [11, 6]
    own = model_yaml.with_attention(cfg, Spec.parse("coord"), [Place(4)], theirs={"EMA"}, own_row=True)
    assert [row[2] for row in model_yaml.rows(own[0])[4:6]] == ["C3k2", "foveal.coord"]
    theirs, _ = model_yaml.with_attention(cfg, Spec.parse("coord"), [Place(10)], theirs={"EMA"})
    assert model_yaml.rows(theirs)[10][2] == "EMA+coord"  # a layer like any other


def test_an_attention_on_an_attention_is_refused():
    with pytest.raises(UserError, match=r"row 10 \(EMA\+coord\) is an attention, .*behind it: \[-1, 1, coord, \[\]\]"):
        model_yaml.split(with_read_row([-1, 1, "EMA+coord", []]))


def test_a_name_that_somebody_else_has_is_theirs():
    cfg = with_read_row([-1, 1, "EMA", [8]])
    assert model_yaml.split(cfg, {"EMA"}) == (cfg, {})
    model_yaml.rows(cfg)[10][2] = "EMA+coord"  # foveal's behind theirs
    plain, placed = model_yaml.split(cfg, {"EMA"})
    assert model_yaml.rows(plain)[10] == [-1, 1, "EMA", [8]]
    assert placed == {10: model_yaml.RowAttentions((Spec("coord", {}, "identity"),), own_row=False)}
    model_yaml.rows(cfg)[10][2:] = "foveal.EMA", []
    assert model_yaml.split(cfg, {"EMA"})[1] == {
        10: model_yaml.RowAttentions((Spec("ema", {}, "paper"),), own_row=True)
    }


# A ResNet: 0 stem with pooling, 1 stage of its size, 2-4 stages whose first block halves the map
RESNET = {
    "backbone": [[-1, 1, "ResNetLayer", [3, 64, 1, True, 1]]]
    + [[-1, 1, "ResNetLayer", [64, 64, stride, False, 3]] for stride in (1, 2, 2, 2)],
    "head": [[[2, 3, 4], 1, "Detect", ["nc"]]],
}


def test_a_block_that_halves_the_map_ends_its_stage():
    found = model_yaml.places(RESNET, [4, 4, 8, 16, 32, None])
    assert found["backbone"] == (1, 2, 3, 4)
    assert [found[f"backbone.P{level}"] for level in (2, 3, 4, 5)] == [(1,), (2,), (3,), (4,)]


def test_a_whole_network_in_one_row_is_a_stage():
    cfg = {"backbone": [[-1, 1, "TorchVision", [512]]], "head": [[-1, 1, "Classify", ["nc"]]]}
    assert model_yaml.places(cfg, [32, None])["backbone.P5"] == (0,)


def test_a_width_is_scaled_as_the_host_scales_it():
    cfg = {"scales": {"n": [0.5, 0.25, 1024], "x": [1, 1.5, 512]}}
    assert model_yaml.scaled({**cfg, "scale": "x"})(1024) == 768
    assert model_yaml.scaled(cfg)(1024) == 256  # the first scale where none is named
    assert model_yaml.scaled({"width_multiple": 0.25})(100) == 32  # a multiple of 8 from 25
    assert model_yaml.scaled({})(100) == 104


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, 1, "EMA", [{"factor": 8}]], "no argument 'factor'"),
        ([-1, 1, "+ema", []], r"row 10: no layer stands before '\+ema'"),
        ([[9, 6], 1, "EMA", []], r"row 10 \(EMA\) reads rows \[9, 6\], but an attention reads one"),
    ],
    ids=str,
)
def test_rows_that_cannot_be_read_are_explained(row, message):
    with pytest.raises(UserError, match=message):
        model_yaml.split(with_row(10, row))


def test_a_layer_nobody_reads_is_refused():
    cfg = model_yaml.with_suffix(TOY, EMA, [4])
    cfg["head"][-1][0] = [8, 6]  # the Concat before the block, as where an inserted row has moved the numbers
    with pytest.raises(UserError, match=r"no row reads row 9 \(C3k2\).*Detect reads \[8, 6\]: put 9 in its place"):
        model_yaml.split(cfg)


def test_rows_that_the_host_reads_by_itself_need_no_reader():
    model_yaml.require_read([[-1, 1, "Conv", []], [0, 1, "ImagePoolingAttn", []], [0, 1, "Head", []]], {})


def test_a_row_nobody_reads_is_refused():
    with pytest.raises(UserError, match=r"no row reads row 10 \(ema\).*Detect reads \[9, 6\]: put 10"):
        model_yaml.split(with_row(10, [-1, 1, "EMA", []]))


def test_an_attention_on_the_head_is_refused():
    cfg = copy.deepcopy(TOY)
    cfg["head"][-1][2] += "+ema"
    with pytest.raises(UserError, match=r"row 10 \(ema\) is the model's output; attach it to a row that Detect reads"):
        model_yaml.split(cfg)


@pytest.mark.parametrize("cfg", [None, [], {"head": []}, {"backbone": [], "head": {}}, {"backbone": "x", "head": []}])
def test_what_is_no_model_is_refused(cfg):
    with pytest.raises(UserError, match="not a model YAML"):
        model_yaml.rows(cfg)


@pytest.mark.parametrize("row", ["Conv", [-1, 1, "Conv"], [-1, 1, None, []], [-1, 1, "Conv", None]], ids=str)
def test_what_is_no_row_is_refused(row):
    with pytest.raises(UserError, match=r"row 0 is .* not \[from, repeats, module, args\]"):
        model_yaml.rows({"backbone": [row], "head": []})
