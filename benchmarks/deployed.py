"""What the deployed form of an attention saves.

python benchmarks/deployed.py WEIGHTS.pt

Each model is exported as Ultralytics does it by itself and as foveal does, and both files run in turns on one image at
640 pixels. Leave the machine alone meanwhile. Written to benchmarks/results/deployed.json, of which docs/export.py
makes the table.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from matrix import attended

from foveal import ATTENTIONS, IdentityStart
from foveal.bench import timing
from foveal.deploy import checked_export
from foveal.files import write_whole
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import exporter, runtime

RESULTS = Path(__file__).parent / "results" / "deployed.json"
SIZE, ROUNDS = 640, 25
CPU = torch.device("cpu")


def compared(file: Path, form: str, gain: float | None, folder: Path) -> dict:
    """Milliseconds of both files, and how many times as fast the deployed one is: quartiles."""
    loaded = host.load(file)
    for start in loaded.model.modules():
        if gain is not None and isinstance(start, IdentityStart):
            start.gain.data.fill_(gain)
    given = exporter.settings({"format": form, "imgsz": SIZE, "device": "cpu"})
    networks = {"stock": host.load(file).model, "deployed": checked_export.deployed(loaded.model)}
    networks["stock"].load_state_dict(loaded.model.state_dict())
    files = {name: exporter.write(loaded, network, folder, name, given).path for name, network in networks.items()}
    image = exporter.pictures(exporter.PICTURES[:1], (SIZE, SIZE), 3)
    runs = {name: runtime.start(path, "cpu") for name, path in files.items()}
    calls = {name: lambda run=run: run([image]) for name, run in runs.items()}
    for call in calls.values():
        call()
    times, _ = timing.interleaved(calls, CPU, ROUNDS)
    ratio = timing.quartiles([a / b for a, b in zip(times["stock"], times["deployed"], strict=True)])
    return {name: timing.quartiles(values) for name, values in times.items()} | {"ratio": ratio}


def main() -> None:
    """Measure EMA at three kinds of gain, and every other attention at drawn gains."""
    weights, rows = Path(sys.argv[1]), []
    for name in ATTENTIONS:
        for gain in (None, 0.0, 1.0) if name == "ema" else (None,):
            for form in ("onnx", "openvino"):
                with tempfile.TemporaryDirectory() as folder:
                    file = attended(weights, name, Path(folder) / "model.pt")
                    found = compared(file, form, gain, Path(folder))
                rows.append({"attention": name, "gain": "drawn" if gain is None else gain, "format": form, **found})
                print(rows[-1], flush=True)
    report = {"size": SIZE, "rounds": ROUNDS, "environment": timing.environment(CPU), "rows": rows}
    write_whole(RESULTS, lambda part: part.write_text(json.dumps(report, indent=1)))


if __name__ == "__main__":
    main()
