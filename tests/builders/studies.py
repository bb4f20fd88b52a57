"""Studies on drawn images, with results that no training made."""

import concurrent.futures
import json
from pathlib import Path

from foveal.study import Result, Study
from foveal.study.cell import RESULT
from foveal.study.demo import draw_data

PLAN = {
    "model": "yolo11n.yaml",
    "data": "data/data.yaml",
    "arms": ["ema@neck"],
    "seeds": 2,
    "train": {"epochs": 2, "imgsz": 64, "batch": 4, "nbs": 12, "warmup_epochs": 1, "verbose": False},
}


def prepared(folder: Path, **changes: object) -> Study:
    """A study on drawn images, nothing trained yet; five batches an epoch, and a step after every third."""
    draw_data(folder / "data", train=20, val=6)
    return Study.prepare({**PLAN, **changes}, folder, folder)


def fake(study: Study, cell, **changes: object) -> Result:
    """A result as a finished cell leaves it."""
    scores = {"map": 0.5, "map50": 0.6, "map_last": 0.5, "map50_last": 0.6}
    values = dict(arm=cell.arm.name, pair=cell.pair, seed=cell.seed, scores=scores)
    values |= dict(disagreement=0.0, epochs=2, batch=4, batches=["a", "b"], start={}, finite=True, parameters=1)
    values |= dict(seconds=10.0, peak_bytes=1, resumed=0, device="cpu", data="", versions={}, finished="")
    study.path(cell).mkdir(parents=True, exist_ok=True)
    (study.path(cell) / RESULT).write_text(json.dumps(values | changes))
    return Result.load(study.path(cell))


class Scripted:
    """An executor that does what the test says instead of training."""

    def __init__(self, script, slots: int = 2):
        self.script, self.slots, self.submitted = script, slots, []

    def submit(self, command: list[str], log: Path) -> concurrent.futures.Future:
        self.submitted.append(command[-1])
        future = concurrent.futures.Future()
        try:
            future.set_result(self.script(command[-1], self.submitted.count(command[-1])))
        except OSError as error:
            future.set_exception(error)
        return future
