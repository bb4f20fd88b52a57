"""Models of Ultralytics, built from its own rows, and from rows as articles write them."""

import copy
from pathlib import Path

import pytest
from ultralytics.nn import tasks

MODELS = {"": "DetectionModel", "-seg": "SegmentationModel", "-pose": "PoseModel", "-obb": "OBBModel"}
MODELS |= {"-cls": "ClassificationModel"}


def config(name: str) -> dict:
    """The installed release's own YAML."""
    family = name.replace("yolov", "yolo")[:6]
    if family == "yolo26" and not list(Path(tasks.__file__).parents[1].glob("cfg/models/26/*.yaml")):
        pytest.skip("this release of Ultralytics has no YOLO26")
    return tasks.yaml_model_load(f"{name}.yaml")


def build(name: str, cfg: dict | None = None):
    cls = "RTDETRDetectionModel" if "rtdetr" in name else MODELS["-" + name.partition("-")[2] if "-" in name else ""]
    return getattr(tasks, cls)(copy.deepcopy(cfg or config(name)), ch=3, verbose=False)


def published(row: list, scale: str = "n") -> dict:
    """YOLO11 with `row` behind the last backbone block and every later number moved by one, written out by hand."""
    cfg = config(f"yolo11{scale}")
    cfg["backbone"].append(copy.deepcopy(row))
    head = cfg["head"]
    head[-4][0] = [-1, 14]  # Concat of the P4 block
    head[6][0], head[9][0], head[-1][0] = -1, -1, [17, 20, 23]
    head[7][0], head[10][0] = [-1, 14], [-1, 11]
    return cfg
