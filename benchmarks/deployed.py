"""What an attention costs in the files that `foveal export` writes.

python benchmarks/deployed.py WEIGHTS.pt [ATTENTION ...]

WEIGHTS are those of a trained yolo11n. Each attention stands at its card's place, `ema` at the neck, too, with numbers
as in benchmarks/matrix.py, and runs on one image at 640 pixels in turns with the model without it: in ONNX Runtime and
OpenVINO on one thread, `ema@neck` on two as well, in files of 16 and 8 bits, and as Ultralytics exports it (`stock`).
One thread is timed by the processor time of the process, which other work on the machine disturbs less, two threads by
the clock. The 8 bits are those of ONNX Runtime's quantizer, and OpenVINO runs the same file.

Results are kept in benchmarks/results/deployed.json after each attention; named ones are measured anew, without names
all that are missing there. docs/export.py makes the table.
"""

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import openvino
import torch
from matrix import attended
from onnxruntime import quantization

from foveal import ATTENTIONS
from foveal.bench import timing
from foveal.deploy import checked_export
from foveal.files import write_whole
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import exporter

RESULTS = Path(__file__).parent / "results" / "deployed.json"
SIZE, ROUNDS = 640, 40
NECK = ("ema", "neck")
# Of a file: its format, its bits, and the precision in which it is run.
FULL = (("onnx", 32, "fp32"), ("openvino", 32, "fp32"))
ROUNDED = (("openvino", 32, "default"), ("onnx", 16, "fp16"), ("openvino", 16, "default"), ("onnx", 8, "int8"),
           ("openvino", 8, "int8"))  # fmt: skip


class Images(quantization.CalibrationDataReader):
    """The photographs by which activations are scaled."""

    def __init__(self, name: str):
        images = exporter.pictures(exporter.PICTURES, (SIZE, SIZE), 3).split(1)
        self.feeds = iter([{name: image.numpy()} for image in images])

    def get_next(self) -> dict | None:
        """One image."""
        return next(self.feeds, None)


@functools.cache
def written(file: Path, form: str, bits: int, folder: Path, stock: bool = False) -> Path:
    """The exported file, with the attentions as foveal deploys them or, `stock`, as they are in training."""
    if bits == 8:
        source, target = written(file, "onnx", 32, folder, stock), folder / f"{form}-8-{stock}.onnx"
        name = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).get_inputs()[0].name
        quantization.quantize_static(source, target, Images(name), per_channel=True)
        return target
    loaded = host.load(file)
    network = host.load(file).model if stock else checked_export.deployed(loaded.model)
    given = exporter.settings(
        {"format": form, "imgsz": SIZE, "device": "cpu", **({"half": True} if bits == 16 else {})}
    )
    path = exporter.write(loaded, network, folder, f"{file.stem}-{bits}-{stock}", given).path
    return path if path.is_file() else next(path.glob("*.xml"))


def runner(path: Path, form: str, precision: str, threads: int) -> Callable[[], object]:
    """What runs a file once."""
    image = exporter.pictures(exporter.PICTURES[:1], (SIZE, SIZE), 3).numpy()
    if form == "onnx":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        # Or the threads of one file go on spinning while the next one is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
        given = image.astype("float16") if source.type == "tensor(float16)" else image
        return lambda: session.run(None, {source.name: given})
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    settings |= {} if precision == "default" else {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda: request.infer([image])


def turns(calls: dict[str, Callable[[], object]], threads: int) -> dict[str, list[float]]:
    """Milliseconds of each call in each round, every other round backwards."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(), call()
    for index in range(ROUNDS):
        for name in [*calls][:: -1 if index % 2 else 1]:
            began = clock()
            calls[name]()
            times[name].append(1000 * (clock() - began))
    return times


def measured(plain: Path, file: Path, kind: tuple[str, int, str], threads: tuple[int, ...], folder: Path) -> list[dict]:
    """A row for each number of threads: milliseconds without the attention, and what it adds, in percent."""
    form, bits, precision = kind
    files = {"plain": written(plain, form, bits, folder), "deployed": written(file, form, bits, folder)}
    if bits < 32 or len(threads) > 1:
        files["stock"] = written(file, form, bits, folder, stock=True)
    rows = []
    for count in threads:
        times = turns({name: runner(path, form, precision, count) for name, path in files.items()}, count)
        row = {"runtime": form, "bits": bits, "precision": precision, "threads": count, "load": os.getloadavg()[0]}
        row["plain"] = timing.quartiles(times["plain"])
        for name in files.keys() - {"plain"}:
            ratios = [100 * (a / b - 1) for a, b in zip(times[name], times["plain"], strict=True)]
            row[name] = timing.quartiles(ratios)
        rows.append(row)
    return rows


def main() -> None:
    """Measure what is asked for, or missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("attentions", nargs="*", help=", ".join(ATTENTIONS))
    given = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    there = {row["attention"] for row in rows} - {*given.attentions}
    cases = [NECK, *((name, cls.card.paper_place) for name, cls in ATTENTIONS.items())]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for name in [name for name in given.attentions or ATTENTIONS if name not in there]:
            rows = [row for row in rows if row["attention"] != name]
            for index, place in enumerate(place for each, place in cases if each == name):
                file = attended(given.weights, name, folder / f"{name}-{index}.pt", place)
                whole = (name, place) == NECK
                for kind in (*FULL, *(ROUNDED if whole else ())):
                    for row in measured(given.weights, file, kind, (1, 2) if whole else (1,), folder):
                        rows.append({"attention": name, "place": place, **row})
                        print(rows[-1], flush=True)
            keep(rows)


def keep(rows: list[dict]) -> None:
    """Write what was measured so far."""
    rows.sort(key=lambda row: [*ATTENTIONS].index(row["attention"]))
    report = {"size": SIZE, "rounds": ROUNDS, "environment": timing.environment(torch.device("cpu"))}
    report |= {"versions": {"onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__}, "rows": rows}
    write_whole(RESULTS, lambda part: part.write_text(json.dumps(report, indent=1)))


if __name__ == "__main__":
    main()
