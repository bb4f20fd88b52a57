"""What it costs that a cell records: whole processes, of a stock training and of a cell with the same arguments.

python benchmarks/recording.py [--images 1000] [--epochs 4] [--rounds 3]

Both train YOLO11n from its YAML on drawn images of 160 pixels, in turns, each in a process of its own: `yolo train`,
which evaluates best.pt once more when it is done, and `foveal study cell`, which evaluates best.pt and last.pt, keeps
what they found and writes a state in full precision after each epoch. Leave the machine alone meanwhile. Written to
benchmarks/results/recording.json.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from foveal.bench import timing
from foveal.files import write_text
from foveal.study import Study
from foveal.study.demo import draw_data
from foveal.study.plan import FAIR

RESULTS = Path(__file__).parent / "results" / "recording.json"
SIZE, SHARE = 160, 5  # pixels; training images for each one of val


def measured(command: list[str], log: Path) -> dict[str, float]:
    """Wall and CPU seconds of a process and its children, and the bytes that it had written to disk."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{command[1:4]} failed: {log.read_text()[-2000:]}")
    cpu = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    return {"seconds": wall, "cpu_seconds": cpu, "bytes": (after.ru_oublock - before.ru_oublock) * 512}


def pair(folder: Path, data: Path, train: dict[str, object], turn: int) -> dict[str, dict[str, float]]:
    """One stock training and one cell; which comes first alternates."""
    study = Study.prepare({"model": "yolo11n.yaml", "data": str(data), "arms": ["A/A"], "train": train}, folder, folder)
    key = study.cells[0].key
    arguments = [f"{name}={value}" for name, value in {**FAIR, **train, "seed": study.cells[0].seed}.items()]
    stock = [str(Path(sys.executable).with_name("yolo")), "detect", "train", "model=yolo11n.yaml", f"data={data}"]
    stock += [*arguments, "device=cpu", f"project={folder}", f"name=stock{turn}", "exist_ok=True"]
    cell = [sys.executable, "-m", "foveal", "study", "cell", str(study.folder), key]
    shutil.rmtree(study.folder / "cells", ignore_errors=True)
    commands = {"stock": stock, "cell": cell}
    order = sorted(commands, reverse=turn % 2 == 0)
    return {name: measured(commands[name], folder / f"{name}.log") for name in order}


def main() -> None:
    """Measure, and write the results after each round."""
    options = argparse.ArgumentParser()
    for name, default in (("images", 1000), ("epochs", 4), ("rounds", 3)):
        options.add_argument(f"--{name}", type=int, default=default)
    given = options.parse_args()
    train = {"epochs": given.epochs, "imgsz": SIZE, "batch": 16, "close_mosaic": 1}
    rounds = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = draw_data(folder / "data", given.images, given.images // SHARE)
        for turn in range(given.rounds):
            rounds.append(pair(folder, data, train, turn))
            ratios = {k: [of["cell"][k] / of["stock"][k] for of in rounds] for k in rounds[0]["cell"]}
            summary = {name: [round(f(of), 4) for f in (min, statistics.median, max)] for name, of in ratios.items()}
            found = {"environment": timing.environment(torch.device("cpu")), "images": given.images, "train": train}
            found |= {"rounds": rounds, "ratios": summary}
            write_text(RESULTS, json.dumps(found, indent=1) + "\n")
            print(turn, summary, flush=True)


if __name__ == "__main__":
    main()
