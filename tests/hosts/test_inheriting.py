"""A model of other rows starts from a file's weights: each tensor goes where its row went."""

import os
import re
from pathlib import Path

import pytest
import torch

from helpers import filled, swept

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from ultralytics.nn import tasks

from detectors import build
from foveal import Spec, UserError, tensors
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import adding, inheriting, rebuilding
from foveal.hosts.ultralytics import host as studied

P2 = Path(__file__).parents[2] / "studies" / "paper" / "yolo11n-p2.yaml"
YAMLS = (Path(tasks.__file__).parents[1] / "cfg" / "models").rglob("*-p[26].yaml")
SCALED = sorted(re.sub(r"^(yolov?\d+)", r"\1n", file.stem) for file in YAMLS)
GROWN = [(name.rpartition("-")[0], f"{name}.yaml") for name in SCALED]


def saved(folder: Path, name: str) -> str:
    """A file of a model whose every number is another one, but for those that are no weights."""
    torch.manual_seed(0)
    model = build(name).eval()
    file = folder / f"{name}{'u' * name.startswith('yolov5')}.pt"  # as the host calls its own, whatever it is asked for
    constants = {name: tensor.clone() for name, tensor in model.named_parameters() if not tensor.requires_grad}
    filled(model).load_state_dict(constants, strict=False)
    model.names, model.task = {index: str(index) for index in range(model.yaml["nc"])}, "detect"
    torch.save(host.checkpoint(model, {"train_args": {"task": host.tasks.guess_model_task(model)}}), file)
    return str(file)


def longest(some: list, others: list) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(others) + 1)
    for one in some:
        before, row = row, [0]
        for place, other in enumerate(others):
            row.append(before[place] + 1 if one == other else max(before[place + 1], row[place]))
    return row[-1]


@pytest.mark.host
@pytest.mark.parametrize(
    ("name", "grown"),
    [pytest.param("yolo11n", str(P2), id="yolo11n-p2"), *swept(GROWN, ids=lambda pair: pair[1])],
)
def test_each_tensor_goes_where_its_row_went(name, grown, tmp_path):
    file = saved(tmp_path, name)
    found = inheriting.write(grown, file, tmp_path / "start.pt")
    before, after = host.load(file).model.eval(), host.load(tmp_path / "start.pt").model.eval()
    mine, theirs = after.state_dict(), before.state_dict()
    assert len(found.names) == found.tensors[0] == len(mine) - found.fresh[0]
    assert all(torch.equal(mine[new], theirs[old]) for new, old in found.names.items())
    assert {new: digest for new, digest in tensors.digests(after).items() if new in found.names} == found.digests
    assert found.rows == tuple(sorted(found.rows, key=lambda pair: pair[1])), "an order is kept"
    for old, new in found.rows:
        assert type(before.model[old]) is type(after.model[new])
        assert (old < len(before.yaml["backbone"])) == (new < len(after.yaml["backbone"]))
    # A branch of the head goes to the maps of its stride, by the strides that the host measures.
    branches = {
        tuple(int(re.search(r"\.cv2\.(\d+)\.", name)[1]) for name in pair)
        for pair in found.names.items()
        if pair[0].startswith(f"model.{len(after.model) - 1}.cv2.")
    }
    assert branches
    assert all(after.stride[new] == before.stride[old] for new, old in branches)
    described = [inheriting._described(model, adding.measured_strides(model)) for model in (before, after)]
    assert len(found.rows) >= longest(*described), "no alignment has more rows"
    if grown.endswith("-p2.yaml"):  # whose rows are all there once more
        assert found.tensors[0] == found.tensors[1]
        by_name = sum(name in mine and mine[name].shape == tensor.shape for name, tensor in theirs.items())
        assert by_name < found.tensors[0]


def test_rows_are_aligned_once_as_long_as_a_file_stays(tmp_path, monkeypatch):
    file = saved(tmp_path, "yolo11n")
    found = inheriting.inherited(str(P2), file)
    aligned = inheriting._built
    monkeypatch.setattr(inheriting, "_built", lambda *_: pytest.fail("aligned again"))
    assert inheriting.inherited(str(P2), file) is found
    monkeypatch.setattr(inheriting, "_built", aligned)
    os.utime(file, (0, 0))
    again = inheriting.inherited(str(P2), file)
    assert again == found
    assert again is not found


@pytest.mark.host
def test_a_model_of_the_same_rows_computes_the_same(tmp_path):
    file = saved(tmp_path, "yolo11n")
    found = inheriting.write("yolo11n.yaml", file, tmp_path / "start.pt")
    assert found.tensors[0] == found.tensors[1] == len(found.names)
    assert found.parameters[0] == found.parameters[1]
    assert found.fresh[0] == 0
    image = torch.rand(1, 3, 64, 64)
    outputs = [rebuilding.run(host.load(each).model.eval(), image) for each in (file, tmp_path / "start.pt")]
    assert rebuilding.same(*outputs)
    assert str(found) == (
        "499 of 499 tensors of yolo11n.pt are carried, 2,624,080 of 2,624,080 parameters: of its rows 0-23 stay; "
        "0 of 499 tensors start fresh"
    )


@pytest.mark.sweep
def test_an_attention_comes_on_top_and_what_is_drawn_depends_on_the_seed(tmp_path):
    file, names = saved(tmp_path, "yolo11n"), {0: "a"}
    starts = []
    for folder, spec, seed in (("a", None, 0), ("b", Spec.parse("ema@neck"), 0), ("c", None, 1)):
        (tmp_path / folder).mkdir()
        written = studied.start(str(P2), spec, seed, tmp_path / folder, names, file)
        starts.append(tensors.digests(host.load(written).model))
    plain, attended, other = starts
    carried = inheriting.inherited(str(P2), file).digests
    assert carried.items() <= plain.items()
    assert plain.items() <= attended.items(), "an attention changes nothing else"
    assert any("attention" in name for name in attended)
    drawn = {name for name in plain if plain[name] != other[name]}
    assert drawn
    assert not drawn & carried.keys()


def test_an_attention_in_the_file_is_carried_to_the_same_one_and_left_out_elsewhere(tmp_path):
    file = saved(tmp_path, "yolo11n")
    (tmp_path / "start").mkdir()
    attended = studied.start(file, Spec.parse("ema@neck"), 0, tmp_path / "start", {0: "a"})
    total = len(host.load(attended).model.state_dict())
    rows = P2.read_text(encoding="utf-8")
    for suffix, kept in (("", 499), ("+ema", total), ("+se", 499)):
        grown = tmp_path / f"yolo11n{suffix}-p2.yaml"
        at = ("# 22  P3", "# 25  P4", "# 28  P5")
        lines = [line.replace("C3k2", f"C3k2{suffix}") if line.endswith(at) else line for line in rows.splitlines()]
        grown.write_text("\n".join(lines), encoding="utf-8")
        # The attention of P3 stands behind row 16 of the file, and that stays row 16.
        third = (total - 499) // 3 if kept == total else 0
        assert inheriting.inherited(str(grown), attended).tensors == (kept - third, total)


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("yolo11n.pt", "yolo11n.pt", "yolo11n.pt is no model YAML, and only those are given weights"),
        ("timm:resnet18", "yolo11n.pt", "timm:resnet18 is no model YAML"),
        ("yolo11n.yaml", "yolo11n.onnx", "'yolo11n.onnx' is no file of weights"),
        ("yolo11s.yaml", "yolo11n.pt", "fits yolo11s.yaml: no row has the same class, stride and shapes"),
        ("yolo11n-seg.yaml", "yolo11n.pt", "is a DetectionModel, and yolo11n-seg.yaml a SegmentationModel"),
        ("yolo11n.yaml", "text.pt", "'text.pt'"),
        ("none.yaml", "yolo11n.pt", "there is no file 'none.yaml'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(model, weights, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, "yolo11n")
    Path("text.pt").write_text("no model")
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        inheriting.inherited(model, weights)
    assert "\n" not in refused.value.message
    assert refused.value.hint
    with pytest.raises(UserError):
        inheriting.write(model, weights, tmp_path / "start.pt")
    assert not Path("start.pt").exists()
