"""The host's validators, keeping what a model found or answered on every image."""

from pathlib import Path

import numpy as np
import torch

from ...errors import UserError
from ...evidence import Answers, Detections, Says, Task
from . import models as host  # before Ultralytics itself, because it says if that is missing or too old

# isort: split
from ultralytics.utils.metrics import Metric, compute_ap

# How this release ends a curve that reaches recall 0.5 at full precision: see `verdict.average_precision`.
AVERAGE_PRECISION = "ultralytics" if compute_ap([0.5], [1.0])[0] < 0.6 else "ultralytics-8.3"


def fitness(precision: float, recall: float, map50: float, map50_95: float) -> float:
    """The number by which this release chooses the best.pt of a detector, and stops early."""
    judged = Metric()
    judged.mean_results = lambda: [precision, recall, map50, map50_95]
    return float(judged.fitness())


class _Detecting(host.parser.Mixed):
    """Mixed into a validator of the host: keeps every detection and its match."""

    def init_metrics(self, model):
        """The host's start of an evaluation."""
        super().init_metrics(model)
        self._kept = []

    def _process_batch(self, preds, batch):
        """The host's matching of one image."""
        matched = super()._process_batch(preds, batch)
        boxes, true_boxes = (self.scale_preds({"bboxes": b["bboxes"]}, batch)["bboxes"] for b in (preds, batch))
        tensors = (boxes, preds["conf"], preds["cls"], true_boxes, batch["cls"])
        self._kept.append((batch["im_file"], matched["tp"], *(t.cpu().numpy() for t in tensors)))
        return matched

    def detections(self) -> Detections:
        """What was found: images by name, detections by falling confidence, equal ones in the host's order."""
        paths, hits, boxes, confidences, labels, true_boxes, true_labels = zip(*self._kept, strict=True)
        by_name = sorted(range(len(paths)), key=paths.__getitem__)
        place = np.empty(len(paths), int)
        place[by_name] = np.arange(len(paths))
        confidence = np.concatenate(confidences).astype(np.float32)
        order = np.argsort(-confidence)  # as in the host's `ap_per_class`, so that averages of it are the host's
        return Detections(
            name=np.array([Path(paths[index]).name for index in by_name]),
            image=np.repeat(place, [len(of) for of in labels])[order],
            box=np.concatenate([b.reshape(-1, 4) for b in boxes]).astype(np.float32)[order],
            confidence=confidence[order],
            label=np.concatenate(labels).astype(np.int32)[order],
            hit=np.concatenate(hits)[order],
            true_image=np.repeat(place, [len(of) for of in true_labels]),
            true_box=np.concatenate([b.reshape(-1, 4) for b in true_boxes]).astype(np.float32),
            true_label=np.concatenate(true_labels).astype(np.int32),
            rule=np.array(AVERAGE_PRECISION),
        )


class _DetectionValidator(_Detecting, host.DetectionValidator):
    pass


class _RTDETRValidator(_Detecting, host.RTDETRValidator):
    pass


class _Answering(host.parser.Mixed):
    """Mixed into a validator of the host: names the images that its answers are for."""

    def get_dataloader(self, dataset_path, batch_size):
        """A loader in the order of the data set, where the host's shuffles."""
        dataset = self.build_dataset(dataset_path)
        if not len(dataset):
            raise UserError(f"there is no image of the model's classes in {dataset_path}", "choose another split")
        return torch.utils.data.DataLoader(dataset, batch_size, num_workers=self.args.workers)

    def answers(self) -> Answers:
        """What was answered, images by name; those that the host could not read are not among them."""
        dataset = self.dataloader.dataset
        names = [Path(file).relative_to(dataset.root).as_posix() for file, *_ in dataset.samples]
        by_name = sorted(range(len(names)), key=names.__getitem__)
        return Answers(
            name=np.array([names[index] for index in by_name]),
            ranked=torch.cat(self.pred).numpy()[by_name],
            label=torch.cat(self.targets).numpy()[by_name],
        )


class _ClassificationValidator(_Answering, host.ClassificationValidator):
    pass


def evaluate(
    weights: Path, data: str, split: str, folder: Path, trust: bool = False, **settings
) -> tuple[Detections | Answers, dict[str, float]]:
    """What a trained model finds or answers on one split, and the host's own averages of it.

    Args:
        weights: a .pt file.
        data: a data file; for a classifier a folder.
        split: "val" or "test", and there, because the host would judge a classifier on the other one without a word.
        folder: for what the host writes.
        trust: weights whatever they run when they are loaded.
        settings: `imgsz`, `batch`, `device`, ...

    Returns:
        The detections, and `map50` and `map` (mAP50-95) as fractions; or the answers, and `top1` and `top5`.
    """
    model = host.load(weights, trust)
    answers = Task.of(model.task).says is Says.CLASS
    if answers:
        kind = _ClassificationValidator
    else:
        kind = _RTDETRValidator if isinstance(model, host.RTDETR) else _DetectionValidator
        settings = {"rect": True, **settings}
    settings = {"plots": False, "save_json": False, "verbose": False, **settings}
    settings |= {"data": data, "split": split, "mode": "val", "model": str(weights)}
    settings |= {"project": str(folder.resolve().parent), "name": folder.name, "exist_ok": True}
    validator = kind(args=settings)
    validator(model=model.model)
    if answers:
        metrics = validator.metrics
        return validator.answers(), {"top1": float(metrics.top1), "top5": float(metrics.top5)}
    box = validator.metrics.box
    return validator.detections(), {"map50": float(box.map50), "map": float(box.map)}
