"""`foveal doctor`: what is installed here, what foveal makes of it, and whether it works.

Nothing is downloaded and nothing is left behind. What is not installed is missing, which is no fault; what is
installed and does not do its work is broken.
"""

import base64
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import foveal

from ..attention import EMAttention, find, known
from ..bench import Evaluation, Tolerance, drawn
from ..errors import UserError, one_line
from ..hosts.ultralytics import NEWEST, OLDEST, RUN, numbers
from ..kernels.ema import cpu, library

OK, MISSING, BROKEN = "ok", "missing", "broken"
SIZE = 64  # side of the images of the self-test, in pixels
CPU = torch.device("cpu")

# What each extra of the package is for; which packages it consists of is read from what was installed.
ENABLES = {
    "yolo": "foveal add, train and explain in models of Ultralytics",
    "export": "foveal export to ONNX, OpenVINO, NCNN and MNN, and the comparison with PyTorch",
    "study": "foveal study, audit and demo",
    "explain": "foveal explain",
    "view": "foveal view",
    "timm": "models of timm and torchvision",
    "ray": "studies on a cluster of Ray",
    "slurm": "studies as jobs of Slurm",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        state: "ok", "missing" or "broken".
        said: one sentence.
    """

    what: str
    state: str
    said: str


def examine() -> Iterator[Finding]:
    """Look at everything, one finding after the other; the self-test at the end takes about ten seconds."""
    yield Finding("system", OK, f"This is foveal {foveal.__version__} on {_system()}.")
    yield from _kernels()
    yield from _extras()
    try:
        importlib.import_module("foveal.yolo")
    except Exception as error:  # the host can fail at anything, and to tell of it is what this is for
        yield _unusable(error)
        return
    yield from _host()
    yield from _self_test()


def _system() -> str:
    return f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()} {platform.machine()}"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else one_line(error, named=True)


# Kernels -----------------------------------------------------------------------------------------------------------


def _kernels() -> Iterator[Finding]:
    """EMA's kernels: are they there, do they run, and do they compute what the reference computes?"""
    why = cpu.why_not(torch.zeros(1))
    if why and library.LIBRARY.exists():
        said = f"{library.LIBRARY.name} is there but cannot be used: install foveal again with a C++ compiler"
        yield Finding("C++ kernel", BROKEN, f"{said}.")
    elif why:
        yield Finding("C++ kernel", MISSING, f"{why[0].upper()}{why[1:]}, so ema runs in its slower form fast.")
    else:
        yield _judged("C++ kernel", CPU)
    if not torch.cuda.is_available():
        yield Finding("GPU kernel", MISSING, "PyTorch sees no CUDA device here, so everything runs on the CPU.")
        return
    device = torch.device("cuda")
    if why := EMAttention(64, groups=8).why_not(torch.zeros(1, 64, 9, 11, device=device)):
        yield Finding("GPU kernel", MISSING, f"On {torch.cuda.get_device_name(device)} ema runs as fast: {why}.")
    else:
        yield _judged("GPU kernel", device)


def _judged(what: str, device: torch.device) -> Finding:
    """Outputs and all gradients of the kernel beside those of the reference."""
    try:
        module, x, dy = drawn(EMAttention(64, groups=8), (64, 9, 11), 2, torch.float32, device, seed=0)
        tolerance = Tolerance(module, x, dy, training=True)
        module.form = "kernel"
        wrong, *_ = tolerance.judge(Evaluation(module, x, dy, training=True)())
    except Exception as error:  # of a driver or a compiler
        return Finding(what, BROKEN, f"It is there but does not run: {_reason(error)}.")
    if wrong:
        return Finding(what, BROKEN, f"It does not compute what the reference computes: {wrong}.")
    return Finding(what, OK, "It is loaded and computes what the reference computes, with every gradient.")


# Packages ----------------------------------------------------------------------------------------------------------


def _extras() -> Iterator[Finding]:
    """Each extra: which of its packages are missing or too old."""
    try:
        requirements = importlib.metadata.requires("foveal") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("extras", MISSING, "Foveal itself is not installed but read from a folder: pip install it.")
        return
    for extra, enables in ENABLES.items():
        asks = re.compile(rf"([\w.-]+)(?:>=([\w.]+))?;.*extra == ['\"]{extra}['\"]")
        own = [match.groups() for match in map(asks.match, requirements) if match]
        absent, old = [], []
        for name, least in own:
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                absent.append(name)
            else:
                if least and numbers(version) < numbers(least):
                    old.append(f"{name} {version} is older than {least}")
        install = f"pip install 'foveal[{extra}]'"
        if old:
            yield Finding(f"extra {extra}", BROKEN, f"{', '.join(old)}: {install} --upgrade.")
        elif absent:
            yield Finding(f"extra {extra}", MISSING, f"{install} adds {', '.join(absent)} for {enables}.")
        else:
            yield Finding(f"extra {extra}", OK, f"{', '.join(name for name, _ in own)}: installed, for {enables}.")


# The host ----------------------------------------------------------------------------------------------------------


def _unusable(error: Exception) -> Finding:
    absent = importlib.util.find_spec("ultralytics") is None
    return Finding("Ultralytics", MISSING if absent else BROKEN, f"It cannot be used: {_reason(error)}.")


def _host() -> Iterator[Finding]:
    """Which Ultralytics this is, and what foveal recognises of it."""
    from ..hosts import ultralytics as host

    tasks = host.tasks
    yield Finding("Ultralytics", OK, _release(host.ultralytics.__version__))
    yield Finding("its files", OK, _files(Path(host.ultralytics.__file__).parent))
    signature = ", ".join(inspect.signature(tasks.parse_model).parameters)
    wrapped = inspect.unwrap(tasks.parse_model) is not tasks.parse_model
    state, said = (OK, "is wrapped") if wrapped else (BROKEN, "was replaced after foveal had wrapped it")
    yield Finding("its parser", state, f"The model parser, parse_model({signature}), {said}.")
    yield from _trainers(host)
    taken = {name: value for name, value in vars(tasks).items() if inspect.isclass(value) and known(name)}
    for name, value in taken.items():
        said = f"A row named {name} builds {value.__module__}.{value.__qualname__}"
        yield Finding("names", OK, f"{said}; ours is named foveal.{find(name).card.name}.")
    if not taken:
        yield Finding("names", OK, "No class in Ultralytics' parser has the name of an attention of ours.")
    counted = host.counts_kernel()
    if counted is None:
        yield Finding("FLOPs", MISSING, "This thop counts modules only, so Ultralytics' GFLOPs leave out EMA's kernel.")
    else:
        said = "count EMA's kernel" if counted else "leave out EMA's kernel, whose rule another has taken away"
        yield Finding("FLOPs", OK if counted else BROKEN, f"The GFLOPs that Ultralytics prints {said}.")
    yield Finding("AP", OK, f"Average precision is taken by the rule {host.AVERAGE_PRECISION!r} of foveal.verdict.")


def _release(version: str) -> str:
    """Whether a release is in the range that was run."""
    supported = f"{OLDEST} to {NEWEST}"
    if version in RUN:
        steps = RUN[version]["steps"]
        failed = [each["step"] for each in steps if each["state"] == "failed"]
        but = f", and {len(failed)} failed: {', '.join(failed)}" if failed else ""
        return f"Release {version} was run, {len(steps)} steps of a model's life{but}; the range is {supported}."
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        return f"{version} is no release, so nothing is known of it; the range that was run is {supported}."
    if numbers(version) > numbers(NEWEST):
        return f"Release {version} is newer than {NEWEST}, the newest that was run."
    return f"Release {version} is in the range that was run, {supported}, but was not run itself."


def _files(folder: Path) -> str:
    """Whether the host's Python files are those that its release had."""
    record = _record(folder)
    if not record:
        return f"They are read from {folder}, which is no installed release, and may be anything."
    there = {path.relative_to(folder.parent).as_posix(): path for path in folder.rglob("*.py")}
    other = sorted(name for name in there.keys() | record.keys() if _hash(there.get(name)) != record.get(name))
    if not other:
        return f"All {len(record)} Python files are those of the release."
    return f"Not as the release has them, so this is another program than was run: {_some(other)}."


def _record(folder: Path) -> dict[str, str]:
    """Hashes of the Python files of the distribution that lies in a folder, by path; empty if there is none."""
    for name in importlib.metadata.packages_distributions().get(folder.name, ()):
        distribution = importlib.metadata.distribution(name)
        if Path(str(distribution.locate_file(folder.name))).resolve() == folder.resolve():
            own = [file for file in distribution.files or () if file.parts[0] == folder.name and file.suffix == ".py"]
            return {file.as_posix(): file.hash.value for file in own if file.hash}
    return {}


def _hash(path: Path | None) -> str | None:
    """As in the record of an installed distribution."""
    if path is None:
        return None
    return base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _trainers(host) -> Iterator[Finding]:
    """Does each task of each class of models have a trainer of ours, which workers can import?"""
    for name, cls in ((cls.__name__, cls) for cls in host.MODELS.values()):
        trainers = {
            task: classes["trainer"].__module__.startswith("foveal.")
            for task, classes in cls.__new__(cls).task_map.items()
            if "trainer" in classes
        }
        ours, theirs = (", ".join(task for task, own in trainers.items() if own is of) for of in (True, False))
        if theirs:
            said = f"trains {theirs} with Ultralytics' own trainer: it freezes attentions, and workers may miss them"
            yield Finding("its tasks", MISSING, f"{name} {said}.")
        else:
            yield Finding("its tasks", OK, f"{name} trains {ours} with trainers of ours.")


# Self-test ---------------------------------------------------------------------------------------------------------


def _self_test() -> Iterator[Finding]:
    """A model's life in small; each step goes on from the file that the one before left."""
    with tempfile.TemporaryDirectory(prefix="foveal-") as name, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for what, step in (("add", _add), ("train", _train), ("reload", _reload), ("export", _export)):
            try:
                state, said = step(Path(name))
            except Exception as error:  # whatever it is, and whoever's fault
                state, said = BROKEN, _reason(error)
            yield Finding(f"test: {what}", state, f"{said}.")
            if state == BROKEN:
                return


def _add(folder: Path) -> tuple[str, str]:
    from ..hosts import ultralytics as host
    from ..hosts.ultralytics import adding

    model = host.YOLO("yolo11n.yaml").model
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # in fresh layers a signal fades away, and every difference with it
            layer.weight.data.fill_(2)
    torch.save(host.checkpoint(model, {}), folder / "plain.pt")
    added = adding.add(folder / "plain.pt", "ema", at="neck", output=folder / "ema.pt")
    kept, total = added.tensors
    right = added.difference == 0 and kept == total
    said = f"ema is added to a fresh yolo11n: {kept} of {total} tensors kept, outputs differ by {added.difference:g}"
    return (OK if right else BROKEN), said


def _train(folder: Path) -> tuple[str, str]:
    from ..hosts import ultralytics as host

    model = host.load(folder / "ema.pt").model.train()
    model.args = host.grammar.get_cfg()
    for parameter in model.parameters():
        parameter.requires_grad_()
    batch = {"img": torch.rand(2, 3, SIZE, SIZE), "cls": torch.zeros(2, 1), "bboxes": torch.full((2, 4), 0.5)}
    loss = model({**batch, "batch_idx": torch.arange(2.0)})[0].sum()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    gains = [parameter for name, parameter in model.named_parameters() if name.endswith("gain")]
    moved = sum(bool(gain.isfinite().all() and gain.any()) for gain in gains)
    for gain in gains:
        gain.data.fill_(0.5)  # so that what follows would notice if the attention were left out
    torch.save(host.checkpoint(model.eval(), {}), folder / "trained.pt")
    right = bool(loss.isfinite()) and 0 < moved == len(gains)
    return (OK if right else BROKEN), f"one training step moves the gains of {moved} of {len(gains)} attentions"


_FRESH = """
import sys, torch
from ultralytics import YOLO
model = YOLO("trained.pt").model.float().eval()
with torch.no_grad():
    torch.save(model(torch.load("image.pt"))[0], "outputs.pt")
"""


def _reload(folder: Path) -> tuple[str, str]:
    from ..hosts import ultralytics as host

    image = torch.rand(1, 3, SIZE, SIZE)
    torch.save(image, folder / "image.pt")
    done = subprocess.run(
        [sys.executable, "-c", _FRESH], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        return (
            BROKEN,
            f"a process that never imports foveal cannot load the file: {done.stderr.strip().splitlines()[-1]}",
        )
    with torch.no_grad():
        true = host.load(folder / "trained.pt").model.float().eval()(image)[0]
    apart = float((torch.load(folder / "outputs.pt") - true).abs().max())
    said = f"a process that never imports foveal loads the file, and its outputs differ by {apart:.1g}"
    return (OK if apart <= 1e-3 else BROKEN), said


def _export(folder: Path) -> tuple[str, str]:
    from ..deploy import checked_export
    from ..hosts.ultralytics import exporter

    if absent := [name for name in exporter.PACKAGES["onnx"] if importlib.util.find_spec(name) is None]:
        return MISSING, f"{', '.join(absent)} not installed, so no ONNX file is written: pip install 'foveal[export]'"
    found = checked_export.export(folder / "trained.pt", format="onnx", imgsz=SIZE, dynamic=True, device="cpu")
    if found.wrong:
        return BROKEN, f"ONNX: {found.wrong}"
    largest = max(case.differences.boxes.largest for case in found.cases if case.differences and case.differences.boxes)
    return OK, f"an ONNX file of dynamic size computes what PyTorch computes: boxes differ by {largest:.1g} pixels"
