"""The life of a model with somebody's own attention. Each step is a process that imports only Ultralytics."""

import sys
from pathlib import Path

import pytest
import torch

from helpers import in_fork, last_json, run, run_forked
from own import MY_EMA

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import foveal
from foveal import UserError
from foveal.checkpoints import read, require_harmless
from foveal.hosts import ultralytics as host
from foveal.study.demo import draw_data

pytestmark = [pytest.mark.slow, pytest.mark.host]

PRELUDE = """
import json, os, sys
from ultralytics import YOLO
def own(model):
    homes = [type(module).__module__ for module in model.modules()]
    return [home.split("_")[-2] for home in homes if home.startswith("foveal_custom")]
TERMS = dict(imgsz=64, batch=8, nbs=8, workers=0, device="cpu", plots=False, verbose=False, amp=False, close_mosaic=0,
             optimizer="SGD", lr0=0.01, project=os.getcwd(), exist_ok=True, data="DATA")
"""
THREE = ["ema"] * 3
SPEC = "my_ema.py:EMA(factor=8)"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with drawn data, `my_ema.py`, and `x.pt` with its class behind three rows."""
    folder = tmp_path_factory.mktemp("own")
    draw_data(folder, train=16, val=8)
    (folder / "my_ema.py").write_text(MY_EMA)
    torch.manual_seed(0)
    torch.save(host.checkpoint(host.YOLO("yolo11n.yaml").model, {}), folder / "base.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        added = foveal.add("base.pt", SPEC, at="neck", output="x.pt")
    assert added.tensors == (499, 499)
    assert added.difference == 0
    assert added.width == "EMA takes its width as channels and c2"
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """Another folder than that of the class's file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def child(code: str, home: Path, cwd: Path):
    return last_json(in_fork(PRELUDE.replace("DATA", str(home / "data.yaml")) + code, cwd))


def test_it_is_trained_interrupted_resumed_and_judged_from_another_folder(home, elsewhere):
    cut = f"""
from ultralytics.models.yolo.detect import DetectionTrainer
save, saved = DetectionTrainer.save_model, []
def cut(self):
    save(self)
    saved.append(1)
    if len(saved) == 1:
        raise KeyboardInterrupt
DetectionTrainer.save_model = cut
model = YOLO({str(home / "x.pt")!r})
try:
    model.train(epochs=2, name="run", **TERMS)
except KeyboardInterrupt:
    print(json.dumps(own(model.model)))
"""
    assert child(cut, home, elsewhere) == THREE
    last = elsewhere / "run" / "weights" / "last.pt"
    again = f"""
model = YOLO({str(last)!r})
model.train(resume=True)
gains = [float(v.abs().max()) for k, v in model.model.state_dict().items() if k.endswith("gain")]
print(json.dumps([own(model.model), own(YOLO({str(last)!r}).model), gains]))
"""
    resumed, reloaded, gains = child(again, home, elsewhere)
    assert resumed == reloaded == THREE
    assert len(gains) == 3
    assert max(gains) > 0
    epochs = (elsewhere / "run" / "results.csv").read_text().strip().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in epochs] == [1, 2]


def test_the_file_for_multi_gpu_workers_finds_the_class(home, elsewhere):
    code = f"""
import foveal.yolo
from ultralytics.utils.dist import generate_ddp_file
model = foveal.yolo.YOLO({str(home / "x.pt")!r})
trainer = model.task_map["detect"]["trainer"](overrides=dict(
    TERMS, model={str(home / "x.pt")!r}, task="detect", mode="train", epochs=1, name="ddp"))
trainer.model = trainer.get_model(weights=model.model, cfg=model.model.yaml)
print(json.dumps([generate_ddp_file(trainer), str(trainer.save_dir)]))
"""
    file, folder = child(code, home, elsewhere)
    run_forked([sys.executable, file], elsewhere)
    assert child(f'print(json.dumps(own(YOLO("{folder}/weights/best.pt").model)))', home, elsewhere) == THREE


@pytest.mark.newest  # nothing of the host decides it
def test_a_study_starts_from_it_where_the_plan_says_that_it_may(home, elsewhere):
    code = f"""
from pathlib import Path
from foveal import UserError
from foveal.study import Plan, Study
plan = dict(model={str(home / "x.pt")!r}, data="DATA", arms=["A/A"], train=dict(epochs=1, imgsz=64, batch=8))
try:
    Study.prepare(plan, Path(), Path("study"))
except UserError as refusal:
    said = str(refusal)
assert not Path("study").exists()
Study.prepare(plan | dict(trust=True), Path(), Path("study"))
print(json.dumps([said, own(Plan.read(Path("study/plan.yaml")).host.network(Path(plan["model"])))]))
"""
    said, found = child(code.replace("DATA", str(home / "data.yaml")), home, elsewhere)
    assert "whose code would run; if that file is yours, add --trust" in said
    assert found == THREE


@pytest.mark.newest  # older ones write no ONNX with this torch
def test_it_is_exported_explained_and_fused_where_it_is_trusted(home, elsewhere):
    file = str(home / "x.pt")
    code = f"""
import foveal, torch
from foveal import UserError
from foveal.explain import explain
file = {file!r}
try:
    foveal.export(file, format="onnx", imgsz=64)
except UserError as refusal:
    said = str(refusal)
loaded = YOLO(file)
for name, parameter in loaded.model.named_parameters():
    parameter.data += 0.3 * name.endswith("gain")
loaded.save("open.pt")
exported = foveal.export("open.pt", format="onnx", imgsz=64, trust=True)
explained = explain("open.pt", [{str(home / "images" / "val" / "0000.png")!r}], output="out", imgsz=64, trust=True)
model = YOLO("open.pt").model.float().eval()
x = torch.rand(1, 3, 64, 64)
far = float((foveal.fuse(model)(x)[0] - model(x)[0]).detach().abs().max())
print(json.dumps([said, exported.wrong, json.dumps(explained.manifest)[:20000], far]))
"""
    said, wrong, manifest, far = child(code, home, elsewhere)
    assert "its attention my_ema.py:EMA is a class of " in said
    assert "whose code would run; if that file is yours, add --trust" in said
    assert wrong == ""
    assert "my_ema.py:EMA(factor=8, start=identity)" in manifest
    assert '"factor"' in manifest
    assert far < 1e-2


def test_a_row_that_names_a_file_is_noticed_in_a_checkpoint_without_its_class(home, elsewhere, monkeypatch):
    (elsewhere / "evil.py").write_text("raise SystemExit('it ran')")
    loaded = host.YOLO("yolo11n.yaml").model
    loaded.yaml["head"][3][2] = "C3k2+evil.py:X(a=1)@bottleneck"
    torch.save(host.checkpoint(loaded, {}), "x.pt")
    with pytest.raises(UserError, match=r"a row of it names evil.py:X, whose code would run"):
        foveal.add("x.pt", "ema", output="y.pt")
    loaded.yaml["head"][3][2] = "C3k2+timm:eca"
    torch.save(host.checkpoint(loaded, {}), "x.pt")
    require_harmless(Path("x.pt"))


def test_a_process_that_was_told_of_the_class_loads_its_files(home, elsewhere, monkeypatch):
    code = """
import foveal
from foveal.hosts import ultralytics as host
try:
    host.load("x.pt")
except foveal.UserError:
    foveal.Spec.parse("my_ema.py:EMA")
    print(json.dumps(own(host.load("x.pt").model)))
"""
    assert child(code, home, home) == THREE


def test_a_checkpoint_carries_the_code_and_gives_it_back(home, elsewhere, monkeypatch):
    stored = read(home / "x.pt", tensors=False).sources
    assert [(each["address"], each["text"]) for each in stored] == [("my_ema.py:EMA", MY_EMA)]
    command = [sys.executable, "-m", "foveal", "sources", str(home / "x.pt")]
    assert run_forked(command, elsewhere) == MY_EMA
    assert run_forked([*command, "-o", "."], elsewhere) == ""
    assert (elsewhere / "my_ema.py").read_text() == MY_EMA
    with pytest.raises(AssertionError, match=r"my_ema\.py exists"):
        run_forked([*command, "-o", "."], elsewhere)
    with pytest.raises(AssertionError, match="carries no attention of your own"):
        run_forked([*command[:-1], str(home / "base.pt")], elsewhere)


def test_a_yaml_with_such_rows(home, monkeypatch):
    monkeypatch.chdir(home)
    added = foveal.add("yolo11n.yaml", SPEC, at="P4,sppf", output="x.yaml")
    assert [change.row for change in added.changes] == [9, 19]
    assert child('import foveal.yolo; print(json.dumps(own(YOLO("x.yaml").model)))', home, home) == THREE[:2]
    own_row = foveal.add("yolo11n.yaml", SPEC, at="sppf", output="row.yaml", own_row=True)
    assert "[-1, 1, 'my_ema.py:EMA', [{factor: 8, start: identity}]]" in [change.after for change in own_row.changes]
    text = Path("row.yaml").read_text().replace("my_ema.py:EMA", "my_ema.py:EMAA")
    Path("wrong.yaml").write_text(text)
    with pytest.raises(UserError, match=r"my_ema.py:EMAA: EMAA is not there; did you mean my_ema.py:EMA\?"):
        host.load("wrong.yaml")


@pytest.mark.sweep
@pytest.mark.newest  # older ones cannot draw what they found where every mAP is 0
def test_it_is_tuned(home):
    terms = f"data={home}/data.yaml iterations=1 epochs=1 imgsz=64 batch=8 workers=0 device=cpu plots=False name=tune"
    command = [sys.executable, "-m", "foveal", "yolo", "tune", "model=x.pt", *terms.split(), f"project={home}"]
    run(command, home)
    (best,) = home.glob("tune*/**/best.pt")
    assert child(f'print(json.dumps(own(YOLO("{best}").model)))', home, home) == THREE


@pytest.mark.sweep
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_study_of_theirs_and_ours(home, executor, tmp_path):
    if executor == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    arms = "my_ema.py:EMA@neck,ema@neck"
    command = ["study", "run", "--model", "base.pt", "--data", "data.yaml", "--arms", arms, "--seeds", "2"]
    flags = ["-o", str(tmp_path / "study"), "--executor", executor]
    terms = ["epochs=1", "imgsz=32", "batch=8", "workers=0"]
    said = run([sys.executable, "-m", "foveal", *command, *flags, *terms], home)
    scores = {}
    for cell in (tmp_path / "study" / "cells").iterdir():
        found = last_json((cell / "result.json").read_text().replace("\n", " "))
        scores[found["arm"], found["pair"]] = found["scores"]["map"]
    assert {arm for arm, _ in scores} == {"baseline", "my_ema.py:EMA@neck", "ema@neck"}
    assert len(scores) == 6, said
