"""The host's validators, keeping what a model found or answered on every image."""

from pathlib import Path

import numpy as np
import torch

from ...errors import UserError
from ...evidence import CLASSIFY, Answers, Evidence, Says
from . import counting, matching
from . import models as host  # before Ultralytics itself, because it says if that is missing or too old
from .modelfile import ModelFile

# isort: split
from ultralytics.utils.metrics import Metric


def fitness(precision: float, recall: float, map50: float, map50_95: float) -> float:
    """The number by which this release chooses the best.pt of a detector, and stops early."""
    judged = Metric()
    judged.mean_results = lambda: [precision, recall, map50, map50_95]
    return float(judged.fitness())


class _Answering(host.parser.Mixed):
    """Mixed into a validator of the host: names the images that its answers are for, and keeps how sure they are."""

    def init_metrics(self, model):
        """The host's start of an evaluation."""
        super().init_metrics(model)
        self._confidences = []

    def update_metrics(self, preds, batch):
        """The host's ranking of the classes of a batch."""
        super().update_metrics(preds, batch)
        self._confidences.append(preds.max(1).values.float().cpu())

    def get_dataloader(self, dataset_path, batch_size):
        """A loader in the order of the data set, where the host's shuffles."""
        dataset = self.build_dataset(dataset_path)
        if not len(dataset):
            raise UserError(f"there is no image of the model's classes in {dataset_path}", "choose another split")
        return torch.utils.data.DataLoader(dataset, batch_size, num_workers=self.args.workers)

    def found(self) -> Answers:
        """What was answered, images by name; those that the host could not read are not among them."""
        dataset = self.dataloader.dataset
        names = [Path(file).relative_to(dataset.root).as_posix() for file, *_ in dataset.samples]
        by_name = sorted(range(len(names)), key=names.__getitem__)
        return Answers(
            name=np.array([names[index] for index in by_name]),
            ranked=torch.cat(self.pred).numpy()[by_name],
            label=torch.cat(self.targets).numpy()[by_name],
            confidence=torch.cat(self._confidences).numpy()[by_name],
        )

    def figures(self) -> dict[str, float]:
        """The host's own averages, by their keys."""
        return {"top1": float(self.metrics.top1), "top5": float(self.metrics.top5)}


class _ClassificationValidator(_Answering, host.ClassificationValidator):
    pass


def evaluate(file: ModelFile, data: str, split: str, folder: Path, **settings) -> tuple[Evidence, dict[str, float]]:
    """What a trained or exported model finds or answers on one split, and the host's own averages of it.

    Args:
        file: of the model. An export of a fixed size is judged at that, whatever `imgsz` says.
        data: a data file; for a classifier a folder.
        split: "val" or "test", and there, because the host would judge a classifier on the other one without a word.
        folder: for what the host writes.
        settings: `imgsz`, `batch`, `device`, ...

    Returns:
        What was found, and both averages of each way to match it, by `evidence.KEYS`, as fractions; or the answers,
        and `top1` and `top5`; or the maps, and `miou` and `pixel_accuracy`.

    Raises:
        UserError: nothing is kept of what such a model says.
    """
    kind = _validator(file)
    if file.task.says is not Says.CLASS:
        settings = {"rect": True, **settings}
    settings = {"plots": False, "save_json": False, "verbose": False, **settings}
    settings |= {"data": data, "split": split, "mode": "val", "model": str(file.path)}
    settings |= {"project": str(folder.resolve().parent), "name": folder.name, "exist_ok": True}
    if file.fixed:
        settings["imgsz"] = file.size
    validator = kind(args=settings)
    validator(model=file.network)
    return validator.found(), validator.figures()


_VALIDATORS = {
    CLASSIFY: _ClassificationValidator,
    "detect": matching.DetectionValidator,
    "segment": matching.SegmentationValidator,
    "pose": matching.PoseValidator,
    "obb": matching.OBBValidator,
    "semantic": counting.SemanticSegmentationValidator,
}


def _validator(file: ModelFile) -> type:
    if file.is_rtdetr:
        return matching.RTDETRValidator
    task = file.task.name
    if task not in _VALIDATORS:
        raise UserError(f"what a model for {task} says is not judged here", f"judge it with yolo {task} val")
    return _VALIDATORS[task]
