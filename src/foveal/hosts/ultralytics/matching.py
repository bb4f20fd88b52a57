"""The host's validators of what has boxes, keeping what a model found on every image, and how it was matched."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...evidence import DRAWN, KEYS, THRESHOLDS, Detections, Masks, Poses, Rotated
from . import models as host  # before Ultralytics itself, because it says if that is missing or too old

# isort: split
from ultralytics.utils import ops
from ultralytics.utils.metrics import compute_ap

# How this release ends a curve that reaches recall 0.5 at full precision: see `verdict.average_precision`.
AVERAGE_PRECISION = "ultralytics" if compute_ap([0.5], [1.0])[0] < 0.6 else "ultralytics-8.3"

# What is kept of an image that is an index within the image, and of what: columns of a pair are of both.
_INDICES = {
    "pair": ("label", "true_label"),
    "drawn": ("label",),
    "owner": ("label",),
    "line": ("owner",),
    "true_owner": ("true_label",),
    "true_line": ("true_owner",),
}
_DETECTIONS = ("box", "confidence", "label", "hit", "mask_hit", "area", "keypoint_hit")  # with a row for each of them
_PART = {"box": "box", "mask": "seg", "keypoints": "pose"}  # of the host's metrics, by what detections are matched
_FINER = 4  # points on an outline to a cell of a mask's grid, from whose middle lines would miss half a cell
_SMOOTH = 2.4  # how far an outline may leave these points, for fewer of them


class _Detecting(host.parser.Mixed):
    """Mixed into a validator of the host: keeps every detection and its matches.

    What is kept of an image has the names of attributes of its evidence.
    """

    evidence: type[Detections] = Detections

    def init_metrics(self, model):
        """The host's start of an evaluation."""
        super().init_metrics(model)
        self._kept: list[dict[str, Any]] = []

    def _process_batch(self, preds, batch):
        """The host's matching of one image."""
        matched = super()._process_batch(preds, batch)
        boxes, true_boxes = (
            self._scaled(of, batch)["bboxes"].reshape(-1, self.evidence.sides) for of in (preds, batch)
        )
        kept = {"box": boxes.float(), "confidence": preds["conf"].float(), "label": preds["cls"].int()}
        kept |= {"hit": matched["tp"], "true_box": true_boxes.float(), "true_label": batch["cls"].int()}
        kept |= self._more(matched, preds, batch)
        arrays = {key: value.cpu().numpy() if isinstance(value, Tensor) else value for key, value in kept.items()}
        self._kept.append({"file": batch["im_file"], **arrays})
        return matched

    def _scaled(self, of, batch):
        """Detections or objects of an image in its own pixels."""
        return self.scale_preds({"bboxes": of["bboxes"]}, batch)

    def _more(self, matched, preds, batch) -> dict[str, Tensor | NDArray]:
        """What is kept of an image besides."""
        return {}

    def found(self) -> Detections:
        """What was found: images by name, detections by falling confidence, equal ones in the host's order."""
        files = [image.pop("file") for image in self._kept]
        by_name = sorted(range(len(files)), key=files.__getitem__)
        place = np.empty(len(files), int)
        place[by_name] = np.arange(len(files))
        counts = {key: np.array([len(image[key]) for image in self._kept]) for key in self._kept[0]}
        found = {key: np.concatenate([image[key] for image in self._kept]) for key in counts}
        found["image"], found["true_image"] = (np.repeat(place, counts[of]) for of in ("label", "true_label"))
        order = np.argsort(
            -found["confidence"]
        )  # as in the host's `ap_per_class`, so that averages of it are the host's
        for key in found.keys() & _INDICES.keys():
            starts = [np.repeat(counts[of].cumsum() - counts[of], counts[key]) for of in _INDICES[key]]
            indices = found[key] + np.stack(starts, 1).reshape(found[key].shape)
            if "label" in _INDICES[key]:  # the first column is of detections
                first = indices if indices.ndim == 1 else indices[:, 0]
                first[:] = np.argsort(order)[first]
            found[key] = indices
        found |= {key: found[key][order] for key in found.keys() & {"image", *_DETECTIONS}}
        if "drawn" in found:  # detections by falling confidence, as all of them
            found["keypoint"] = found["keypoint"][np.argsort(found.pop("drawn"))]
        name = np.array([Path(files[index]).name for index in by_name])
        return self.evidence(name=name, rule=np.array(AVERAGE_PRECISION), **found)

    def figures(self) -> dict[str, float]:
        """The host's own averages of each way to match, by `evidence.KEYS`, as fractions."""
        theirs: dict[str, float] = {}
        for of in self.evidence.matched_by:
            judged = getattr(self.metrics, _PART[of])
            theirs |= dict(zip(KEYS[of], (float(judged.map), float(judged.map50)), strict=True))
        return theirs


class _Measuring(_Detecting):
    """The same where overlaps are not those of upright boxes."""

    def match_predictions(self, pred_classes, true_classes, iou, *more, **others):
        """The host's matching, of which what was measured is noted: that of boxes, and then what replaces it."""
        self._overlaps = iou
        return super().match_predictions(pred_classes, true_classes, iou, *more, **others)

    def _process_batch(self, preds, batch):
        """The host's matching of one image."""
        self._overlaps = torch.zeros(len(batch["cls"]), len(preds["cls"]))  # for where the host measures nothing
        return super()._process_batch(preds, batch)

    def _more(self, matched, preds, batch):
        """Overlaps that can match."""
        alike = batch["cls"].cpu()[:, None] == preds["cls"].cpu()
        overlaps = self._overlaps.float().cpu() * alike
        things, detections = (overlaps >= THRESHOLDS[0]).nonzero(as_tuple=True)
        return {"pair": torch.stack([detections, things], 1), "overlap": overlaps[things, detections]}


class DetectionValidator(_Detecting, host.DetectionValidator):
    """Ultralytics' validator for `detect`."""


class RTDETRValidator(_Detecting, host.RTDETRValidator):
    """Ultralytics' validator for RT-DETR."""

    def _scaled(self, of, batch):
        """Detections or objects of an image in its own pixels; it was stretched, of which some hosts know nothing."""
        (height, width), (rows, columns) = batch["ori_shape"], batch["imgsz"]
        boxes = of["bboxes"] * of["bboxes"].new_tensor([width / columns, height / rows] * 2)
        return {"bboxes": ops.clip_boxes(boxes, batch["ori_shape"])}


class OBBValidator(_Measuring, host.OBBValidator):
    """Ultralytics' validator for `obb`."""

    evidence = Rotated


class PoseValidator(_Measuring, host.PoseValidator):
    """Ultralytics' validator for `pose`."""

    evidence = Poses

    def _scaled(self, of, batch):
        """Detections or objects of an image in its own pixels."""
        scaled = self.scale_preds({key: of[key] for key in ("bboxes", "keypoints")}, batch)
        return {**scaled, "keypoints": scaled.get("kpts", scaled["keypoints"])}  # older hosts' word for them

    def _more(self, matched, preds, batch):
        """Overlaps that can match, and key points."""
        points, true_points = (self._scaled(of, batch)["keypoints"].float() for of in (preds, batch))
        drawn = preds["conf"] >= DRAWN
        shapes = {"keypoint": points[drawn], "drawn": drawn.nonzero()[:, 0], "true_keypoint": true_points}
        return {**super()._more(matched, preds, batch), "keypoint_hit": matched["tp_p"], **shapes}


class SegmentationValidator(_Measuring, host.SegmentationValidator):
    """Ultralytics' validator for `segment`."""

    evidence = Masks

    def _scaled(self, of, batch):
        """Boxes of an image in its own pixels; its masks stay on the grid on which they are judged."""
        return host.DetectionValidator.scale_preds(self, {"bboxes": of["bboxes"]}, batch)

    def _more(self, matched, preds, batch):
        """Overlaps that can match, areas and outlines."""
        kept = {**super()._more(matched, preds, batch), "mask_hit": matched["tp_m"]}
        sure = preds["conf"] >= DRAWN
        for prefix, of, among in (("", preds, sure), ("true_", batch, torch.ones_like(batch["cls"], dtype=torch.bool))):
            masks = of["masks"].bool()
            kept[f"{prefix}area"] = masks.sum((1, 2)) * self._cell(masks, batch).prod() / np.prod(batch["ratio_pad"][0])
            places = among.nonzero()[:, 0].tolist()
            lines = [(place, line) for place in places for line in _lines(masks[place].cpu().numpy())]
            kept[f"{prefix}owner"] = np.array([place for place, _ in lines], np.int32)
            kept[f"{prefix}line"] = np.repeat(np.arange(len(lines), dtype=np.int32), [len(line) for _, line in lines])
            joined = np.concatenate([line for _, line in lines] or [np.zeros((0, 2))])
            points = torch.from_numpy(joined).float() * self._cell(masks, batch)
            scaled = ops.scale_coords(batch["imgsz"], points, batch["ori_shape"], ratio_pad=batch["ratio_pad"])
            kept[f"{prefix}point"] = (4 * scaled).round() / 4  # which takes half of the space
        return kept

    @staticmethod
    def _cell(masks: Tensor, batch) -> Tensor:
        """Width and height of a cell of a mask's grid, in pixels that the network reads."""
        (height, width), (rows, columns) = batch["imgsz"], masks.shape[1:]
        return torch.tensor([width / columns, height / rows])


def _lines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Closed lines around a mask and its holes, each (points, 2), in cells of its grid from its left upper corner."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    finer = mask[top : rows[-1] + 1, left : columns[-1] + 1].repeat(_FINER, 0).repeat(_FINER, 1).astype(np.uint8)
    found, _ = cv2.findContours(finer, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lines = [cv2.approxPolyDP(line, _SMOOTH, True)[:, 0] for line in found]
    return [(line + 0.5) / _FINER + (left, top) for line in lines if len(line) > 2]
