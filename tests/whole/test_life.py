"""The life of a model file. Each step is a fresh process that imports only Ultralytics, unless it says otherwise.

`make releases` runs these tests on other releases of Ultralytics, too: docs/releases.md.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import forks
from helpers import in_fork, in_fresh_process, last_json, run, run_forked, swept

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import ultralytics

import detectors
import foveal
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import NEWEST, OLDEST
from foveal.study.demo import draw_data

pytestmark = [pytest.mark.slow, pytest.mark.host]

# Said in each child: what to print about a model, and arguments that make a training short and quiet.
PRELUDE = """
import json, os, sys
from ultralytics import ASSETS, YOLO
def ours(model):
    return [type(m).__module__ + "." + type(m).__name__ for m in model.modules() if "EMA" in type(m).__name__]
TERMS = dict(imgsz=64, batch=8, nbs=8, workers=0, device="cpu", plots=False, verbose=False, amp=False, close_mosaic=0,
             optimizer="SGD", lr0=0.01, project=os.getcwd(), exist_ok=True)
"""


def child(code: str, cwd: Path, **env: str):
    """The JSON that a fresh process prints last."""
    return last_json(in_fresh_process(PRELUDE + code, cwd, **env) if env else in_fork(PRELUDE + code, cwd))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """A folder with drawn data, `x.pt` and `x.yaml` (attentions in suffixes) and `row.pt` (in rows of their own)."""
    folder = tmp_path_factory.mktemp("life")
    draw_data(folder, train=24, val=8)
    monkeypatch = pytest.MonkeyPatch()  # outputs are compared on images of a sixteenth of the pixels
    detectors.small_images(monkeypatch)
    torch.manual_seed(0)
    base = host.YOLO("yolo11n.yaml")
    torch.save(host.checkpoint(base.model, {}), folder / "base.pt")
    for name, own_row in (("x", False), ("row", True)):
        foveal.add(str(folder / "base.pt"), "ema", at="neck", output=folder / f"{name}.pt", own_row=own_row)
    foveal.add("yolo11n.yaml", "ema", at="neck", output=folder / "x.yaml")
    yield folder
    monkeypatch.undo()


THREE = ["foveal.EMAttention"] * 3
OTHER = "newest" if ultralytics.__version__ == OLDEST else "oldest"  # than the one that is tested


@pytest.mark.parametrize("name", swept(["x.pt", "row.pt", "x.yaml"], "row.pt"))
def test_add_changes_nothing_and_its_file_is_built_again(home, name):
    source = home / "base.pt" if name.endswith(".pt") else "yolo11n.yaml"
    added = foveal.add(source, "ema", at="neck", output=home / f"again-{name}", own_row="row" in name, force=True)
    assert added.difference == 0
    assert added.tensors == (499, 499)
    # From its own rows, as training does it, and with the same tensors the outputs are those of the file.
    code = f"""
import foveal.yolo, torch
loaded = YOLO("again-{name}").model.eval()
built = type(loaded)(loaded.yaml, verbose=False).eval()
built.load_state_dict(loaded.state_dict())
with torch.no_grad():
    apart = (built(torch.ones(1, 3, 64, 64))[0] - loaded(torch.ones(1, 3, 64, 64))[0]).abs().max()
print(json.dumps([ours(loaded), ours(built), float(apart)]))
"""
    assert child(code, home) == [THREE, THREE, 0]


def elsewhere(release: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a process with another release of Ultralytics: the oldest, or the newest."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [path for path in paths if path and not (Path(path) / "ultralytics").is_dir()]
    if release == OLDEST:
        paths.append(os.environ.get("FLOOR", str(Path(sys.prefix) / "floor")))
        if not Path(paths[-1], "ultralytics").is_dir():
            pytest.skip(f"Ultralytics {OLDEST} is not installed beside this one: make test-floor does it")
    return {"PYTHONPATH": os.pathsep.join(paths), "YOLO_CONFIG_DIR": str(tmp_path)}  # settings are reset by others


@pytest.mark.parametrize("release", swept([OLDEST, NEWEST], OTHER, ids={OLDEST: "oldest", NEWEST: "newest"}.get))
def test_a_file_of_another_release_is_carried_or_refused(home, release, tmp_path, record_property):
    # In fresh layers a signal fades away, and with it what a release builds differently: norms of 2 keep it.
    code = """
import torch, ultralytics
model = YOLO("yolo11n.yaml")
for layer in model.model.modules():
    if isinstance(layer, torch.nn.BatchNorm2d):
        layer.weight.data.fill_(2)
model.save(sys.argv[1])
print(json.dumps(ultralytics.__version__))
"""
    theirs, file = elsewhere(release, tmp_path), tmp_path / "theirs.pt"
    assert child(code.replace("sys.argv[1]", repr(str(file))), tmp_path, **theirs) == release
    try:
        added = foveal.add(file, "ema", at="neck", output=tmp_path / "added.pt")
    except foveal.UserError as refusal:
        assert not (tmp_path / "added.pt").exists()
        record_property("found", f"refused: {refusal.message}")
        return
    assert added.difference == 0
    if added.carried:
        record_property("found", f"carried over, since the rows do not say it: {', '.join(added.carried)}")
    code = """
import torch
source, grown = (YOLO(name).model.float().eval() for name in ("theirs.pt", "added.pt"))
with torch.no_grad():
    apart = (source(torch.ones(1, 3, 64, 64))[0] - grown(torch.ones(1, 3, 64, 64))[0]).abs().max()
print(json.dumps([ours(grown), float(apart)]))
"""
    assert child(code, tmp_path) == [THREE, 0]


@pytest.mark.parametrize("name", swept(["x", "row"], "x"))
@pytest.mark.sweep
def test_training_with_all_rows_frozen_moves_the_attentions_alone(home, name):
    # Norms of 2, or what the loss says fades away on its way back through fresh layers.
    code = f"""
import foveal.yolo, torch
model = foveal.yolo.YOLO("{name}.pt")
for layer in model.model.modules():
    if isinstance(layer, torch.nn.BatchNorm2d):
        layer.weight.data.fill_(2)
before = {{k: v.clone() for k, v in model.model.named_parameters()}}
model.train(data="data.yaml", epochs=1, freeze=len(model.model.model), warmup_epochs=0, name="frozen-{name}",
            **{{**TERMS, "lr0": 1.0}})
after = dict(YOLO("frozen-{name}/weights/last.pt").model.float().named_parameters())
same = [k for k, v in after.items() if v.shape == before[k].shape]  # the others are fresh, for other classes
moved = [k for k in same if not after[k].allclose(before[k], rtol=1e-3, atol=1e-7)]  # the file is in fp16
print(json.dumps([len(same) / len(after), moved]))
"""
    share, moved = child(code, home)
    assert share > 0.8
    assert sum(name.endswith("gain") for name in moved) == 3, moved
    assert all("attention" in name or "gain" in name for name in moved), moved


@pytest.mark.parametrize("name", swept(["x", "row"], "x"))
def test_predict_train_reload_val(home, name):
    code = f"""
model = YOLO("{name}.pt")
first = YOLO("base.pt").predict(ASSETS / "bus.jpg", device="cpu", verbose=False, conf=1e-4)[0].boxes.data
same = bool((model.predict(ASSETS / "bus.jpg", device="cpu", verbose=False, conf=1e-4)[0].boxes.data == first).all())
model.train(data="data.yaml", epochs=1, name="train-{name}", **TERMS)
print(json.dumps([same, len(first), ours(model.model), ours(model.trainer.model)]))
"""
    same, count, after, in_trainer = child(code, home)
    assert same
    assert count > 0
    assert after == in_trainer == THREE
    again = f"""
model = YOLO("train-{name}/weights/best.pt")
metrics = model.val(data="data.yaml", imgsz=64, workers=0, device="cpu", plots=False, project=os.getcwd(), name="val")
model.train(data="data.yaml", epochs=1, name="again-{name}", **TERMS)
gains = [float(v.abs().max()) for k, v in model.model.state_dict().items() if k.endswith("gain")]
print(json.dumps([ours(model.model), metrics.box.map, gains]))
"""
    classes, _, gains = child(again, home)
    assert classes == THREE
    assert len(gains) == 3
    assert min(gains) > 0


@pytest.mark.parametrize("name", swept(["x", "row"], "x"))
def test_resume_after_sigkill_in_mid_epoch(home, name):
    # The child stands still in the second batch of the second epoch until it is killed.
    code = f"""
import pathlib, time
from ultralytics.models.yolo.detect import DetectionTrainer
preprocess, batches = DetectionTrainer.preprocess_batch, []
def stand_still(self, batch):
    batches.append(1)
    if len(batches) == 5:
        pathlib.Path("reached-{name}").touch()
        time.sleep(600)
    return preprocess(self, batch)
DetectionTrainer.preprocess_batch = stand_still
YOLO("{name}.pt").train(data="data.yaml", epochs=3, name="killed-{name}", **TERMS)
"""
    with open(os.devnull, "w") as nothing:
        process = forks.start([sys.executable, "-c", PRELUDE + code], home, os.environ, nothing, nothing)
    for _ in range(600):
        if (home / f"reached-{name}").exists() or process.poll() is not None:
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    last = home / f"killed-{name}" / "weights" / "last.pt"
    assert last.exists()
    resumed = child(f'model = YOLO("{last}"); model.train(resume=True); print(json.dumps(ours(model.model)))', home)
    assert resumed == THREE
    epochs = (home / f"killed-{name}" / "results.csv").read_text().strip().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in epochs] == [1, 2, 3]


@pytest.mark.sweep  # that a process of the host's own finds the attention is tested with several GPUs, below
@pytest.mark.newest  # the oldest cannot draw its own plot of a single iteration
def test_tune_one_iteration(home):
    foveal_command = str(Path(sys.executable).with_name("foveal"))
    terms = "data=data.yaml iterations=1 epochs=1 imgsz=64 batch=8 workers=0 device=cpu plots=False name=tune"
    run([foveal_command, "yolo", "tune", "model=x.pt", *terms.split(), f"project={home}"], home)
    (best,) = home.glob("tune*/**/best.pt")
    assert child(f'print(json.dumps(ours(YOLO("{best}").model)))', home) == THREE


@pytest.mark.parametrize("name", swept(["row.pt", "x.yaml"], "row.pt"))
def test_the_file_for_multi_gpu_workers_finds_the_attention(home, name):
    # A CPU-only host cannot start workers itself: the file it would give them runs here as its own process.
    code = f"""
import foveal.yolo, shutil
from ultralytics.utils.dist import generate_ddp_file
model = foveal.yolo.YOLO("{name}")
trainer = model.task_map["detect"]["trainer"](overrides=dict(
    TERMS, model="{name}", data="data.yaml", task="detect", mode="train", epochs=1, name="ddp-{name}"))
if "{name}".endswith("pt"):
    trainer.model = trainer.get_model(weights=model.model, cfg=model.model.yaml)
print(json.dumps([generate_ddp_file(trainer), str(trainer.save_dir)]))
"""
    file, folder = child(code, home)
    run_forked([sys.executable, file], home)
    assert child(f'print(json.dumps(ours(YOLO("{folder}/weights/best.pt").model)))', home) == THREE


@pytest.mark.sweep  # two processes train alike in tests/surgery/test_attaching.py
def test_two_gloo_processes_train_alike(home):
    # Ultralytics has no multi-process training on a CPU, so this is its model and loss under torch's own DDP.
    (home / "worker.py").write_text(
        PRELUDE
        + """
import torch
from types import SimpleNamespace
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
torch.manual_seed(rank)
model = YOLO("x.pt").model.train()
model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, overlap_mask=False)
for parameter in model.parameters():
    parameter.requires_grad_(parameter.is_floating_point())
wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(2):
    batch = dict(img=torch.rand(2, 3, 64, 64), cls=torch.zeros(2, 1), bboxes=torch.full((2, 4), 0.5))
    batch["batch_idx"] = torch.arange(2.0)
    optimizer.zero_grad()
    wrapped(batch)[0].sum().backward()
    optimizer.step()
mine = torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "attention" in n])
theirs = [torch.empty_like(mine) for _ in range(2)]
torch.distributed.all_gather(theirs, mine)
if rank == 0:
    gains = [float(p.abs().max()) for n, p in model.named_parameters() if n.endswith("gain")]
    print(json.dumps([bool(torch.equal(*theirs)), gains]), flush=True)
torch.distributed.barrier()
os._exit(0)  # torch's threads now and then abort an interpreter that ends in order
"""
    )
    port = 20000 + os.getpid() % 10000
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", "worker.py"]
    equal, gains = last_json(run(launch, home))
    assert equal
    assert len(gains) == 3
    assert min(gains) > 0


@pytest.mark.parametrize("name", swept(["x", "row"], "x"))
def test_restricted_loading_after_importing_foveal(home, name):
    if not hasattr(__import__("ultralytics.nn.tasks").nn.tasks, "_SafeLoad"):
        pytest.skip("this release of Ultralytics has no restricted loading")
    code = f'print(json.dumps(ours(YOLO("{name}.pt").model)))'
    assert child("import foveal.yolo\n" + code, home, ULTRALYTICS_SAFE_LOAD="1") == THREE
    with pytest.raises(AssertionError, match="references types outside the supported"):
        child(code, home, ULTRALYTICS_SAFE_LOAD="1")


@pytest.fixture(scope="module")
def no_onnx(home) -> str:
    """Why this release cannot write ONNX of a model without attention, or ""."""
    code = """
try:
    YOLO("base.pt").export(format="onnx", dynamic=True, imgsz=64, device="cpu")
    print(json.dumps(""))
except Exception as error:
    print(json.dumps(f"{type(error).__name__}: {error}".splitlines()[0][:200]))
"""
    return child(code, home)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("x", marks=pytest.mark.sweep),
        pytest.param("row", marks=pytest.mark.sweep),
        pytest.param("trained", marks=pytest.mark.newest),
    ],
)
def test_onnx_of_every_size_equals_pytorch_and_holds_the_attention(home, name, no_onnx, request):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    if no_onnx and ultralytics.__version__ != NEWEST:
        pytest.skip(f"this release does not export a model without attention either: {no_onnx}")
    if name == "trained":
        foveal.add(str(request.getfixturevalue("weights")), "ema", at="neck", output=home / "trained.pt", force=True)
    # Gains of 1, because at their start of 0 the attention would not show, and in fresh layers norms of 2, because a
    # signal fades away there.
    code = f"""
import copy, numpy as np, onnxruntime, torch
from PIL import Image
torch.manual_seed(1)
model = YOLO("{name}.pt")
for key, parameter in model.model.named_parameters():
    if key.endswith("gain"):
        parameter.data.fill_(1)
    elif "attention" in key:
        parameter.data.normal_(std=0.5)
for layer in model.model.modules():
    if isinstance(layer, torch.nn.BatchNorm2d) and "{name}" != "trained":
        layer.weight.data.fill_(2)
model.save("attended-{name}.pt")
path = YOLO("attended-{name}.pt").export(format="onnx", dynamic=True, imgsz=128, device="cpu")
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
attended = YOLO("attended-{name}.pt").model.eval()
removed = copy.deepcopy(attended)
for key, parameter in removed.named_parameters():
    if key.endswith("gain"):
        parameter.data.zero_()
errors = []
for batch, height, width in ((1, 128, 128), (1, 192, 192), (1, 256, 256), (1, 96, 160), (4, 128, 160)):
    image = Image.open(ASSETS / "bus.jpg").resize((width, height))
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float().div(255).repeat(batch, 1, 1, 1)
    x = torch.stack([plane.roll(8 * i, 2) for i, plane in enumerate(x)])
    got = torch.from_numpy(session.run(None, {{session.get_inputs()[0].name: x.numpy()}})[0])
    with torch.no_grad():
        true, plain = (model(x)[0] for model in (attended, removed))
    errors.append([float((got - true)[:, :4].abs().max()), float((got - true)[:, 4:].abs().max()),
                   float((plain - true).abs().max())])
print(json.dumps(errors))
"""
    for box, score, without in child(code, home):
        assert box <= 1e-3  # pixels
        assert score <= 1e-5
        assert without > 5e-3  # the attention is in the graph: leaving it out would be noticed


@pytest.mark.newest
@pytest.mark.sweep
def test_two_epochs_on_real_images(weights, bccd, tmp_path):
    foveal.add(str(weights), "ema", at="neck", output=tmp_path / "x.pt")
    code = f"""
import csv
model = YOLO("x.pt")
TERMS |= dict(imgsz=96, batch=16, fraction=0.5, optimizer="AdamW", lr0=1e-3)
metrics = model.train(data="{bccd}", epochs=2, name="run", **TERMS)
gains = [float(v.abs().max()) for k, v in model.model.state_dict().items() if k.endswith("gain")]
rows = list(csv.DictReader(open("run/results.csv")))
loss = [sum(float(v) for k, v in row.items() if "train/" in k) for row in rows]
print(json.dumps([ours(model.model), gains, loss, metrics.box.map]))
"""
    classes, gains, loss, score = child(code, tmp_path)
    assert classes == THREE
    assert min(gains) > 1e-4
    assert loss[1] < loss[0]
    assert score > 0.05
    again = f"""
metrics = YOLO("run/weights/best.pt").val(data="{bccd}", imgsz=96, batch=16, workers=0, device="cpu", plots=False)
print(json.dumps(metrics.box.map))
"""
    assert child(again, tmp_path) == pytest.approx(score, abs=2e-3)
