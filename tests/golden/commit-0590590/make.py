"""Folders and files as people have them: a study, an explanation and a model YAML, written by foveal's own commands.

Run with the code of commit 0590590 and never again: a later foveal must read them as they are.

PYTHONPATH=OLD/src OMP_NUM_THREADS=1 python tests/golden/commit-0590590/make.py

Of the study everything is kept that its report and its page need. What they do without is left out: the weights of all
cells but one, logs, locks and caches. One finished cell is deleted after the report, so that it is to be trained.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent
PLACE = Path(tempfile.mkdtemp())
MODEL = """nc: 2
reg_max: 1
scales:
  n: [1.0, 1.0, 64]
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[2], 1, Detect, [nc]]
"""
PLAN = """model: small.yaml
data: data/data.yaml
arms: [ema(groups=4)@neck, A/A]
seeds: 2
train: {epochs: 20, imgsz: 64, batch: 4, nbs: 4, lr0: 0.02, warmup_epochs: 1, mosaic: 0.0, scale: 0.0, translate: 0.0,
  fliplr: 0.0, workers: 0, verbose: false}
"""
KEPT = "ema-groups-4-neck-0-*"  # whose weights stay, because its gates are drawn
DELETED = "a-1001-*"
LEFT_OUT = ("log.txt", "lock", "scan.lock", "data.json", "*.cache", "last.pt", "settings.json")


def draw_data(folder: Path) -> None:
    """Draw a red and a blue square on each of eight images, and of four more."""
    generator, side, size = np.random.RandomState(0), 64, 20
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            pixels, lines = np.full((side, side, 3), 60, np.uint8), ""
            for label, colour in enumerate([(220, 70, 60), (60, 90, 230)]):
                x, y = generator.randint(0, side - size), side // 2 * label + generator.randint(0, side // 2 - size)
                pixels[y : y + size, x : x + size] = colour
                lines += f"{label} {(x + size / 2) / side} {(y + size / 2) / side} {size / side} {size / side}\n"
            Image.fromarray(pixels).save(folder / "images" / split / f"{index}.png")
            (folder / "labels" / split / f"{index}.txt").write_text(lines)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [red, blue]\n")


def foveal(*arguments: str) -> None:
    """Run a command."""
    subprocess.run([sys.executable, "-m", "foveal", *arguments], cwd=PLACE, check=True)


def without_place(value: object) -> object:
    """The same with paths as they are seen from the folder in which all was made."""
    return value.replace(f"{PLACE}/", "") if isinstance(value, str) else value


def main() -> None:
    """Write them all."""
    os.environ |= {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0"}
    study = PLACE / "study"
    study.mkdir(parents=True)
    draw_data(study / "data")
    (study / "small.yaml").write_text(MODEL)
    (study / "plan.yaml").write_text(PLAN)
    foveal("study", "run", "study")
    for weights in study.glob("cells/*/weights/best.pt"):  # which say where Ultralytics lies, and where they were made
        checkpoint = torch.load(weights, weights_only=False)
        checkpoint.pop("git", None)
        checkpoint["train_args"] = {key: without_place(value) for key, value in checkpoint["train_args"].items()}
        torch.save(checkpoint, weights)
    foveal("study", "run", "study")  # draws the gates of what lies there now, and reports
    (best,) = study.glob(f"cells/{KEPT}/weights/best.pt")
    images = [f"study/data/images/val/{index}.png" for index in (0, 1)]
    foveal("explain", str(best.relative_to(PLACE)), *images, "--data", "study/data/data.yaml", "-o", "explained")
    foveal("add", "yolo11n.yaml", "ema@neck", "-o", "attended.yaml")
    (deleted,) = study.glob(f"cells/{DELETED}")
    shutil.rmtree(deleted)
    for weights in study.glob("cells/*/weights"):
        if weights != best.parent:
            shutil.rmtree(weights)
    for name in ("study", "explained"):
        shutil.rmtree(HERE / name, ignore_errors=True)
        shutil.copytree(PLACE / name, HERE / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for arguments in (HERE / "study").glob("cells/*/args.yaml"):
        arguments.write_text(without_place(arguments.read_text()))
    shutil.copyfile(PLACE / "attended.yaml", HERE / "attended.yaml")
    shutil.rmtree(PLACE)


if __name__ == "__main__":
    main()
