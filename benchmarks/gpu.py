"""What a GPU makes of EMA in eight minutes: are its kernels right, how fast, tuned how, what do they add to a model.

python benchmarks/gpu.py [-o FOLDER] [--seconds 480] [--only tables,tune]
python benchmarks/gpu.py --pretend          the same walk on a CPU, with Triton's interpreter and tiny shapes
python benchmarks/gpu.py --adopt gpu.json   writes what won into src/foveal/kernels/ema/cuda_tuned.py

It wants torch from 2.8 on, Triton, a C compiler, numpy and lazy_loader; Ultralytics for whole models only. Parts stand
in the order of their worth. Each has a process of its own, because a kernel that goes wrong takes its process's GPU
with it, and so many seconds. What it has found so far is written to FOLDER/gpu.json after each step, whole, so nothing
is lost if the time is cut off. Leave the machine alone meanwhile.
"""

import argparse
import gc
import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

if "--pretend" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # whether there is a GPU is then asked without touching it

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "builders"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
import triton  # noqa: E402
from gpu_rivals import compare  # noqa: E402
from gpu_tuning import GROUPS, PASSES, Problem, adopt, compile_passes, tune, workers  # noqa: E402

from foveal import ATTENTIONS, UserError  # noqa: E402
from foveal.attention import forms  # noqa: E402
from foveal.bench import bench, detectors, revision, shapes, timing  # noqa: E402
from foveal.files import write_text  # noqa: E402
from foveal.kernels.ema.cuda import lacks  # noqa: E402
from kernelcases import CASES, LARGE, Case, judge, kernels, truth  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
GRACE = 10  # seconds after a part's own, until its process is ended


class Skip(Exception):
    """A part that cannot run here."""


@dataclass
class Desk:
    """What a part works with.

    Attributes:
        device: "cuda", or "cpu" where one only pretends.
        ends: by `time.monotonic`.
        tell: takes what was found so far, in a form that JSON has.
        found: rows, and cases that there was no time for.
    """

    device: torch.device
    ends: float
    tell: Callable[[object], object]
    found: dict[str, list] = field(default_factory=lambda: {"rows": [], "no_time_for": []})

    @property
    def pretends(self) -> bool:
        """Whether there is no GPU, and everything is tiny."""
        return self.device.type == "cpu"

    def each(self, cases: list) -> Iterator:
        """The cases, as long as there is time; the others are noted."""
        for case in cases:
            if time.monotonic() < self.ends:
                yield case
            else:
                self.found["no_time_for"].append(str(case))
        self.tell(self.found)

    def add(self, *rows: object) -> None:
        """Note rows, and have all written."""
        self.found["rows"] += rows
        self.tell(self.found)


def agree(desk: Desk) -> None:
    """Each kernel, compiled, against the reference in fp64; three times the same in every bit, from poisoned memory."""
    cases = [Case((1, 1, 1, 2), 1, gained=True)] if desk.pretends else [*LARGE, *CASES]
    for case in desk.each(cases):
        first, *others = (kernels(case, desk.device.type) for _ in range(3))
        said = judge(*truth(case), first)
        for name, value in first.items():
            if not all(torch.equal(value.nan_to_num(), other[name].nan_to_num()) for other in others):
                said.append(f"{name} changes from run to run")
        desk.add({"case": case.id, "elements": case.elements, "wrong": said})


def copying(desk: Desk) -> None:
    """Bytes read and written per second by copying tensors of several sizes."""
    sizes = [2**16] if desk.pretends else [2**20 * n for n in (1, 4, 16, 64, 256, 1024)]
    tensors = {size: torch.ones(size // 4, device=desk.device) for size in sizes}
    targets = {size: torch.empty_like(x) for size, x in tensors.items()}
    calls = {str(size): lambda size=size: targets[size].copy_(tensors[size]) for size in sizes}
    times, _ = timing.interleaved(calls, desk.device, 5)
    for name, found in times.items():
        low, median, high = (2 * int(name) / (ms / 1000) for ms in reversed(timing.quartiles(found)))
        desk.add({"bytes": int(name), "bytes_per_second": [low, median, high]})


def tables(desk: Desk) -> None:
    """What `foveal bench` measures of EMA's forms, as its report has it; what matters most first."""
    inputs = ["32x3x4"] if desk.pretends else [f"yolo11{m}:{level}" for level in ("P3", "P4", "P5") for m in "nx"]
    kinds = [("bfloat16", "contiguous"), ("float32", "contiguous"), ("bfloat16", "channels_last")]
    kinds += [("float16", "contiguous"), ("float32", "channels_last"), ("float16", "channels_last")]
    batches = [2] if desk.pretends else [16, 1]
    with workers(not desk.pretends) as ahead:
        for dtype, layout in desk.each(kinds[:1] if desk.pretends else kinds):
            problems = [Problem(shapes.read(shape)[0], b, dtype, layout) for shape in inputs for b in batches]
            ahead(compile_passes, [(problem, GROUPS, mode, "", None) for problem in problems for mode in PASSES])
            for _, _, shape in desk.each([(dtype, layout, shape) for shape in inputs]):
                settings = {"shapes": shape, "batch": batches, "dtype": dtype, "layout": layout, "rounds": 5}
                desk.add(*(asdict(row) for row in bench("ema", device=desk.device.type, **settings).rows))


def models(desk: Desk) -> None:
    """Whole detectors with and without EMA, under autocast."""
    try:
        import ultralytics  # noqa: F401
    except ImportError as error:
        raise Skip(f"Ultralytics cannot be imported: {error}") from error
    if desk.pretends:
        detectors.IMAGE_SIZE = 32
    specs = ["ema@neck", "ema(start=identity)@neck"]
    cases = [(name, spec) for name in ("yolo11n:16", "yolo11x:16") for spec in specs]
    for name, spec in desk.each([("yolo11n:1", specs[0])] if desk.pretends else cases):
        settings = {"passes": "forward", "dtype": "float32", "rounds": 1} if desk.pretends else {"rounds": 12}
        report = bench([spec], models=name, device=desk.device.type, **{"dtype": "float16"} | settings)
        desk.add(*(asdict(row) for row in report.models))


def others(desk: Desk) -> None:
    """The other attentions' forms: which is the fastest, and is it the one that `auto` takes?"""
    names = [name for name, cls in ATTENTIONS.items() if name != "ema" and forms(cls)[1:]]
    shape, batch, dtype = ("8x4x4", 2, "float32") if desk.pretends else ("256x40x40", 16, "bfloat16")
    for name in desk.each(["eca"] if desk.pretends else names):
        try:
            rows = bench(name, shapes=shape, batch=batch, dtype=dtype, rounds=5, device=desk.device.type).rows
        except UserError as error:
            desk.add({"attention": name, "why_not": str(error)})
            continue
        for mode in ("forward", "train"):
            timed = {row.contender: row.milliseconds[1] for row in rows if row.mode == mode and row.milliseconds}
            picked = next((row.contender for row in rows if row.mode == mode and row.picked), None)
            wrong = {row.contender: row.disagreement for row in rows if row.mode == mode and row.disagreement}
            right = picked in timed and timed[picked] <= 1.05 * min(timed.values())
            desk.add({"attention": name, "mode": mode, "milliseconds": timed, "auto": picked, "auto_is_fastest": right,
                      "disagrees": wrong})  # fmt: skip


def sanitize(desk: Desk) -> None:
    """What compute-sanitizer says of three small cases."""
    tool = shutil.which("compute-sanitizer")
    if not tool:
        raise Skip("compute-sanitizer is not installed")
    run = f"import sys; sys.path[:0] = {sys.path[:3]}; from kernelcases import CASES, kernels\n"
    run += "for i in (1, 2, 5): kernels(CASES[i], 'cuda')"
    for name in desk.each(["memcheck", "racecheck"]):
        done = subprocess.run(
            [tool, "--tool", name, "--error-exitcode", "9", sys.executable, "-c", run],
            env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, capture_output=True, text=True, check=False,
            timeout=max(1, desk.ends - time.monotonic()),
        )  # fmt: skip
        desk.add({"tool": name, "exit": done.returncode, "says": (done.stdout + done.stderr)[-3000:]})


def card(desk: Desk) -> None:
    """Where this runs."""
    found = timing.environment(desk.device) | {"triton": triton.__version__, "cuda": torch.version.cuda}
    if not desk.pretends:
        gpu = torch.cuda.get_device_properties(desk.device)
        found |= {"multiprocessors": gpu.multi_processor_count, "memory": gpu.total_memory}
        found |= {"capability": [gpu.major, gpu.minor], "cache": gpu.L2_cache_size, "lacks": lacks(desk.device)}
        found |= {"commit": revision.here()}
    desk.tell(found)


# In the order of their worth, and the seconds of each.
PARTS: dict[str, tuple[Callable[[Desk], object], float]] = {
    "card": (card, 5),
    "agree": (agree, 60),
    "copying": (copying, 10),
    "tables": (tables, 120),
    "rivals": (compare, 75),
    "tune": (tune, 90),
    "models": (models, 60),
    "others": (others, 40),
    "sanitize": (sanitize, 40),
}


def _work(part: Callable[[Desk], object], device: str, seconds: float, pipe: Connection) -> None:
    """A part in its process: what it finds, and then how it ended."""
    gc.freeze()  # what was imported needs no look at each collection
    try:
        part(Desk(torch.device(device), time.monotonic() + seconds, lambda found: pipe.send(("result", found))))
        pipe.send(("state", "done"))
    except Skip as skip:
        pipe.send(("state", f"skipped: {skip}"))
    except BaseException:
        pipe.send(("state", f"failed: {traceback.format_exc()[-4000:]}"))
        raise


def carry_out(name: str, device: str, seconds: float, write: Callable[[dict], object]) -> dict:
    """Run a part in a process of its own, and write after each step of it."""
    began = time.monotonic()
    ours, theirs = multiprocessing.Pipe(duplex=False)
    # A fork has torch imported already; this process never touches the GPU, which a fork would not survive.
    process = multiprocessing.get_context("fork").Process(target=_work, args=(PARTS[name][0], device, seconds, theirs))
    process.start()
    theirs.close()
    done: dict[str, object] = {"state": "ended without a word", "seconds": 0.0, "result": None}
    try:
        while ours.poll(max(0, began + seconds + GRACE - time.monotonic())):
            key, value = ours.recv()
            done |= {key: value, "seconds": round(time.monotonic() - began, 1)}
            write(done)
        done |= {"state": f"ended after {time.monotonic() - began:.0f} s: it had {seconds:.0f}"}
    except EOFError:  # it has closed its end
        process.join(GRACE)
        if process.exitcode and not str(done["state"]).startswith("failed"):
            done["state"] = f"failed: its process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
    done["seconds"] = round(time.monotonic() - began, 1)
    write(done)
    return done


def main() -> None:
    """Carry out the parts, or adopt what one found."""
    options = argparse.ArgumentParser()
    options.add_argument("--pretend", action="store_true")
    options.add_argument("--adopt", type=Path)
    options.add_argument("-o", "--output", type=Path, default=RESULTS)
    options.add_argument("--seconds", type=float, default=480)
    options.add_argument("--only", default=",".join(PARTS))
    given = options.parse_args()
    if given.adopt:
        print(adopt(json.loads(given.adopt.read_text())))
        return
    device, began = "cpu" if given.pretend else "cuda", time.monotonic()
    if given.pretend:  # or each part would import it; where there is a GPU, one must not be touched before a fork
        importlib.import_module("torch._inductor.config")
    report: dict = {"pretends": given.pretend, "parts": {}}
    wanted = [name for name in PARTS if name in given.only.split(",")]

    def write(name: str, done: dict) -> None:
        report["parts"][name] = done
        write_text(given.output / "gpu.json", json.dumps(report, indent=1) + "\n")

    for index, name in enumerate(wanted):
        # What the parts before left of their time is shared out among those to come.
        left = began + given.seconds - time.monotonic()
        seconds = left * PARTS[name][1] / sum(PARTS[later][1] for later in wanted[index:])
        done = carry_out(name, device, max(seconds, 1.0), lambda done, name=name: write(name, done))
        print(f"{name}: {done['seconds']} s, {str(done['state']).splitlines()[-1]}", flush=True)
    print(f"{time.monotonic() - began:.0f} s in all; {given.output / 'gpu.json'}")
    sys.exit(any(str(part["state"]).startswith(("failed", "ended")) for part in report["parts"].values()))


if __name__ == "__main__":
    main()
