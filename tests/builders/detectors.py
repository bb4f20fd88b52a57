"""Models of Ultralytics, built from its own rows, and from rows as articles write them."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from ultralytics.nn import tasks

from foveal.evidence import Task
from foveal.hosts.ultralytics import adding

MODELS = {"": "DetectionModel", "-seg": "SegmentationModel", "-pose": "PoseModel", "-obb": "OBBModel"}
MODELS |= {"-cls": "ClassificationModel"}


def config(name: str) -> dict:
    """The installed release's own YAML."""
    family = name.replace("yolov", "yolo")[:6]
    if family == "yolo26" and not list(Path(tasks.__file__).parents[1].glob("cfg/models/26/*.yaml")):
        pytest.skip("this release of Ultralytics has no YOLO26")
    return tasks.yaml_model_load(f"{name}.yaml")


def small_images(patch: pytest.MonkeyPatch, size: int = 160) -> None:
    """Outputs before and after an addition are compared on images of this size."""
    patch.setattr(adding, "Task", SimpleNamespace(of=lambda name: Task(name, image_size=size)))


def build(name: str, cfg: dict | None = None):
    ending = next((each for each in MODELS if each and name.endswith(each)), "")
    cls = "RTDETRDetectionModel" if "rtdetr" in name else MODELS[ending]
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


@torch.no_grad()
def guess(model: torch.nn.Module, seed: int, data: Path) -> None:
    """Let a model find a few of the drawn shapes, as if by long training: boxes of their size, sure here and there."""
    pictures = [np.array(Image.open(file).resize((64, 64))) for file in sorted(data.rglob("val/*.png"))]
    generator = torch.Generator().manual_seed(seed)
    model.float()
    for module in model.modules():  # statistics of one batch, or a fresh model's signal fades away and nothing varies
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(torch.tensor(np.array(pictures)).permute(0, 3, 1, 2) / 255)
    head = model.model[-1]
    for boxes, classes, stride in zip(head.cv2, head.cv3, (8, 16, 32), strict=True):
        sides = torch.full((4, 16), -20.0)
        sides[:, 0], sides[:, 1] = np.log(1 - 5 / stride), np.log(5 / stride)
        boxes[-1].weight.zero_()
        boxes[-1].bias.copy_(sides.flatten())
        classes[-1].weight.copy_(0.003 * torch.randn(classes[-1].weight.shape, generator=generator))
        classes[-1].bias.zero_()
    model.eval().half()
