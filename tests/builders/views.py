"""Folders that the local page shows: studies that nobody trained, albums that nobody drew, and a client."""

import contextlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("starlette", reason="Starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from foveal.evidence import THRESHOLDS, Answers, Detections, Masks, Poses, Rotated
from foveal.study import Study
from foveal.study.cell import RESULT
from foveal.study.demo import IMAGE_SIZE
from foveal.view import server as view

PUBLISHED = Path(__file__).parents[2] / "studies/bccd-smoke"  # a real study's results and report
PLAN = {
    "model": "yolo11n.yaml",
    "data": "data/data.yaml",
    "arms": ["ema@neck", "A/A"],
    "seeds": 2,
    "train": {"epochs": 4, "imgsz": 64, "batch": 4},
}
CLASSES = ("apple", "fig", "kiwi", "pear", "plum", "quince")
IMAGES = 6
HOST = "http://127.0.0.1"


def finish(study: Study, cell, score: float = 0.5, epochs: int = 4) -> Path:
    """A cell as if it had been trained."""
    keys = [key for metric in study.plan.task.metrics for key in (metric.key, metric.second_key)]
    scores = {**dict.fromkeys(keys, 0.6), **{f"{key}_last": 0.5 for key in keys}, study.plan.metric.key: score}
    values = dict(arm=cell.arm.name, pair=cell.pair, seed=cell.seed, scores=scores, disagreement=0.0, epochs=4)
    values |= dict(batch=4, batches=["a"], start={}, finite=True, parameters=1, resumed=0)
    values |= dict(seconds=60.0, peak_bytes=1, device="cpu", data="", versions={}, finished="")
    progress(study, cell, [score * (epoch + 1) / epochs for epoch in range(epochs)])
    (study.path(cell) / RESULT).write_text(json.dumps(values))
    return study.path(cell)


def progress(study: Study, cell, curve: list[float]) -> None:
    """A cell's table after so many epochs."""
    study.path(cell).mkdir(parents=True, exist_ok=True)
    lines = [f"{epoch + 1},{15 * (epoch + 1)},{value}\n" for epoch, value in enumerate(curve)]
    heads = f"epoch,time,{study.plan.metric.column}\n"
    (study.path(cell) / "results.csv").write_text(heads + "".join(lines))


def detections(folder: Path, finds: list[bool], seed: int) -> Detections:
    """Every object of the images of which `finds` says so, and some things that are not there."""
    random = np.random.default_rng(seed)
    true_image, true_box, true_label, image, box, label, confidence = [], [], [], [], [], [], []
    for index in range(IMAGES):
        for line in (folder / f"data/labels/val/{index:04}.txt").read_text().splitlines():
            name, x, y, width, height = (float(value) for value in line.split())
            corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]) * IMAGE_SIZE
            true_image.append(index), true_box.append(corners), true_label.append(int(name))
            if finds[index]:
                image.append(index), label.append(int(name)), confidence.append(random.uniform(0.3, 0.9))
                box.append(corners + random.uniform(-1, 1, 4))
        corner = random.uniform(0, 60, 2)
        image.append(index), label.append(0), confidence.append(random.uniform(0.03, 0.9))
        box.append([*corner, *corner + random.uniform(10, 30, 2)])
    order = np.argsort(-np.array(confidence))
    return Detections(
        name=np.array([f"{index:04}.png" for index in range(IMAGES)]),
        image=np.array(image)[order],
        box=np.array(box, np.float32)[order],
        confidence=np.array(confidence, np.float32)[order],
        label=np.array(label, np.int32)[order],
        hit=np.zeros((len(image), len(THRESHOLDS)), bool),
        true_image=np.array(true_image),
        true_box=np.array(true_box, np.float32),
        true_label=np.array(true_label, np.int32),
    )


def shapes(task: str, better: bool) -> Detections:
    """Of the first image of two a found thing, one that is not there, and one that only the better arm finds."""
    count = 3 if better else 2
    square = np.array([(10, 10), (40, 10), (40, 40), (10, 40)], np.float32)
    hole, moved = square / 2 + 12, square + 45
    lines = {"point": np.concatenate([square, hole, moved, moved - 45, moved][: 2 + count]).astype(np.float32)}
    lines |= {"line": np.repeat(np.arange(2 + count), 4), "owner": np.array([0, 0, 1, 1, 2][: 2 + count])}
    there = {
        "true_point": np.concatenate([square, moved]),
        "true_line": np.repeat([0, 1], 4),
        "true_owner": np.arange(2),
    }
    corners = np.array([[10, 10, 40, 40], [10, 10, 40, 40], [55, 55, 85, 85]], np.float32)
    shared = {
        "name": np.array(["000.png", "001.png"]),
        "image": np.zeros(count, int),
        "box": corners[:count],
        "confidence": np.array([0.9, 0.6, 0.4], np.float32)[:count],
        "label": np.array([0, 1, 1], np.int32)[:count],
        "hit": np.zeros((count, len(THRESHOLDS)), bool),
        "true_image": np.zeros(2, int),
        "true_box": corners[[0, 2]],
        "true_label": np.array([0, 1], np.int32),
        "pair": np.array([(0, 0), (2, 1)][: count - 1]),
        "overlap": np.array([0.8, 0.7], np.float32)[: count - 1],
    }
    if task == "segment":
        area = {"area": np.full(count, 900.0), "true_area": np.full(2, 900.0), "mask_hit": shared["hit"]}
        return Masks(**shared | area | lines | there)
    if task == "pose":
        points = np.array([[(15, 15, 1), (35, 35, 1)]] * 2 + [[(60, 60, 1), (80, 80, 1)]], np.float32)
        return Poses(**shared, keypoint=points[:count], true_keypoint=points[[0, 2]], keypoint_hit=shared["hit"])
    turned = np.array([(25, 25, 30, 20, 0.4), (25, 25, 30, 20, 0.4), (70, 70, 30, 20, 1.2)], np.float32)
    return Rotated(**shared | {"box": turned[:count], "true_box": turned[[0, 2]]})


def answers(right: list[bool], seed: int) -> Answers:
    """Right first answers where `right` says so; else the true class is the third or not among the five."""
    ranked = []
    for index in range(IMAGES):
        others = [label for label in range(len(CLASSES)) if label != index]
        others = others[seed:] + others[:seed]
        place = 0 if right[index] else 2 if index % 2 else 5
        ranked.append([*others[:place], index, *others[place:]][:5])
    name = np.array([f"{label}/0.png" for label in CLASSES])
    return Answers(name=name, ranked=np.array(ranked), label=np.arange(IMAGES))


def explained(folder: Path, names: list[str], **changes: object) -> dict:
    """A folder as `foveal explain` writes it, with a map and bars for each image."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    images = []
    for number, name in enumerate(names):
        Image.new("RGB", (96, 72), (90, 120, 150)).save(folder / f"pictures/{number}.jpg")
        slope = np.linspace(0, 255, 96).astype(np.uint8)[None].repeat(72, 0)
        Image.fromarray(slope).save(folder / f"pictures/{number}-spatial.png")
        Image.new("RGB", (120, 30), (200, 80, 40)).save(folder / f"pictures/{number}-channel.png")
        gate = {"attention": "16.0", "mean": 0.51, "deviation": 0.1, "low": 0.2, "high": 0.8, "initial": 0.5}
        spatial = {**gate, "gate": "spatial", "picture": f"pictures/{number}-spatial.png"}
        spatial |= {"inside": 0.6, "outside": 0.4}
        channel = {**gate, "gate": "channel", "picture": f"pictures/{number}-channel.png", "inside": None}
        cams = {"attention": "16.0", "before": spatial["picture"], "after": spatial["picture"], "method": "LayerCAM"}
        box = {"box": [10, 10, 40, 50], "label": "disc"}
        images.append({"name": name, "picture": f"pictures/{number}.jpg", "width": 192, "height": 144})
        images[-1] |= {"boxes": [{**box, "confidence": 0.8}], "true_boxes": [box]}
        images[-1] |= {"gates": [spatial, channel], "cams": [cams]}
    attention = {"id": "16.0", "row": 16, "layer": "C3k2", "name": "ema", "spec": "ema(groups=8)", "channels": 64}
    rows = [{"attention": "16.0", "kind": "multiplied", "frozen": 0.39, "removed": 0.31}]
    manifest = {"foveal": "0.1.0", "kind": "explain", "model": "best.pt", "task": "detect", "imgsz": 96}
    manifest |= {"attentions": [{**attention, "gain": None, "gates": []}], "images": images}
    manifest |= {"ablation": {"metric": "mAP50-95", "trained": 0.4, "rows": rows}, **changes}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def client(folder: Path, **more: object) -> TestClient:
    return TestClient(view.application(folder), base_url=HOST, **more)


def tree(folder: Path) -> dict[str, tuple]:
    """Everything below a folder, with time and content."""
    paths = [folder, *folder.rglob("*")]
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in paths}


@contextlib.contextmanager
def serving(folder: Path):
    """The page's address while a server runs in this process."""
    with view._listening(0) as door:
        config = uvicorn.Config(view.application(folder), log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield f"{HOST}:{door.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
