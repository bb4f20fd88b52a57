"""How far the outputs of two programs that should be the same model are apart."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..evidence import Says, Task, iou
from ..hosts.ultralytics import CONFIDENCE, Kind, Outputs, final_boxes, rows_of, to_corners

FAINT = 0.01  # rows of a lower confidence are in or out by chance
SAME = 0.5  # overlap of boxes that are the same one


@dataclass(frozen=True)
class Difference:
    """How far two outputs differ: the largest value, and the root of the mean square; infinite where there is a NaN."""

    largest: float
    rms: float


@dataclass(frozen=True)
class Differences:
    """Differences of two sets of outputs; None where the model has no such output, or none that can be compared.

    Attributes:
        boxes: in pixels, of all boxes before suppression.
        scores: of all confidences before suppression; of a classifier its probabilities.
        rest: of masks, key points, angles, depths and the scores of pixels, over the largest value of the output.
        kept: boxes that PyTorch finds in the end.
        unmatched: boxes that only one of the two finds, less those whose confidence is at the threshold.
        kept_boxes: largest, in pixels, of the boxes found in the end.
        kept_scores: largest, of their confidences.
    """

    boxes: Difference | None = None
    scores: Difference | None = None
    rest: Difference | None = None
    kept: int | None = None
    unmatched: int | None = None
    kept_boxes: float | None = None
    kept_scores: float | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was compared that an image could change, as of a file that found no box."""
        return self.scores is None and (self.kept is not None or self.rest is None)


def compare(true: Outputs, got: Outputs, kind: Kind, size: tuple[int, int]) -> Differences | str:
    """Compare the outputs of one batch.

    Args:
        true: of PyTorch.
        got: of the file.
        kind: how to read them.
        size: rows and columns of the images.

    Returns:
        The differences, or a sentence where the shapes differ.
    """
    if kind.task == "semantic" and got[0].dim() < true[0].dim():
        scores = true[0]
        if scores.shape[1] == 1:  # it says how much more one class is likely than the other
            scores = torch.cat([torch.zeros_like(scores), scores], 1)
        true, got = [scores.amax(1)], [_scores_of(got[0].long(), scores)]
    shapes, expected = ([tuple(tensor.shape) for tensor in outputs] for outputs in (got, true))
    if shapes != expected:
        return f"outputs have the shapes {shapes}, not {expected}"
    if (says := Task.of(kind.task).says) is Says.CLASS:
        return Differences(scores=_difference(true[0] - got[0]))
    if says is Says.MAP:
        return Differences(rest=_relative(true[0], got[0]))
    if kind.rows:
        wanted, found = (rows_of(outputs[0], kind, size) for outputs in (true, got))
        raw = _of_rows(wanted, found, size)
    else:
        widths = [4, kind.classes, true[0].shape[1] - 4 - kind.classes]
        (boxes, scores, more), (b, s, m) = (outputs[0].split(widths, 1) for outputs in (true, got))
        raw = {"boxes": _difference(boxes - b), "scores": _difference(scores - s), "rest": [_relative(more, m)]}
    others = [*raw["rest"], *(_relative(*pair) for pair in zip(true[1:], got[1:], strict=True))]
    raw["rest"] = _larger([each for each in others if each])
    slack = 2 * raw["scores"].largest if raw["scores"] else 0.0
    expected_boxes, found_boxes = (final_boxes(outputs, kind, size) for outputs in (true, got))
    return Differences(**raw, **_of_kept(expected_boxes, found_boxes, kind, slack))


def worst(found: Iterable[Differences]) -> Differences:
    """The largest of each difference over several batches, and all boxes."""
    found = list(found)

    def over(name: str) -> Any:
        values = [value for each in found if (value := getattr(each, name)) is not None]
        if name in ("boxes", "scores", "rest"):
            return _larger(values)
        return (sum if name in ("kept", "unmatched") else max)(values) if values else None

    return Differences(**{field.name: over(field.name) for field in fields(Differences)})


def _larger(found: list[Difference]) -> Difference | None:
    return Difference(max(d.largest for d in found), max(d.rms for d in found)) if found else None


def _difference(difference: Tensor, of: float = 1.0) -> Difference | None:
    if not difference.numel():
        return None
    size = difference.double().abs().nan_to_num(nan=torch.inf) / of
    return Difference(float(size.max()), float(size.square().mean().sqrt()))


def _relative(true: Tensor, got: Tensor) -> Difference | None:
    return _difference(true - got, max(float(true.abs().max()), 1e-12)) if true.numel() else None


def _scores_of(classes: Tensor, scores: Tensor) -> Tensor:
    """What a model scored the classes that a file says its pixels are of, (B, H, W); NaN for no class of the model."""
    if classes.shape != scores[:, 0].shape:
        return classes
    known = (classes >= 0) & (classes < scores.shape[1])
    return scores.gather(1, torch.where(known, classes, 0)[:, None])[:, 0].where(known, torch.nan)


def _of_rows(true: Tensor, got: Tensor, size: tuple[int, int]) -> dict:
    """Rows of equal confidence may stand in any order, and the faintest ones may be others."""
    boxes, scores, rest = [], [], []
    for ours, theirs in zip(true, got.nan_to_num(nan=torch.inf), strict=True):
        their_scores, our_scores = theirs[:, 4], ours[:, 4]
        faintest = max(0.0, float(our_scores.min()), float(their_scores.min()))
        sure = our_scores > faintest + FAINT
        if not sure.any():  # of a model that is sure of nothing, the clearer half
            sure = our_scores > (faintest + float(our_scores.max())) / 2
        apart = ours[sure, None, :4] - theirs[None, :, :4]
        nearest = (apart.abs().amax(-1) / max(size) + (our_scores[sure, None] - their_scores[None]).abs()).argmin(1)
        boxes.append(ours[sure, :4] - theirs[nearest, :4])
        scores.append(our_scores[sure] - their_scores[nearest])
        if ours.shape[1] > 6:
            rest.append(_relative(ours[sure, 6:], theirs[nearest, 6:]))
    return {"boxes": _difference(torch.cat(boxes)), "scores": _difference(torch.cat(scores)), "rest": rest}


def _of_kept(true: list[Tensor], got: list[Tensor], kind: Kind, slack: float) -> dict[str, Any]:
    unmatched, boxes, scores = 0, [0.0], [0.0]
    for ours, theirs in zip(true, got, strict=True):
        corners = [to_corners(rows) if kind.task == "obb" else rows[:, :4] for rows in (ours, theirs)]
        overlap = torch.from_numpy(iou(*(each.numpy() for each in corners))) * (ours[:, None, 5] == theirs[None, :, 5])
        for rows, overlaps in ((ours, overlap), (theirs, overlap.T)):
            alone = overlaps.amax(1) < SAME if overlaps.shape[1] else torch.ones(len(rows), dtype=torch.bool)
            unmatched += int((alone & (rows[:, 4] > CONFIDENCE + slack)).sum())
        if overlap.numel():
            best, nearest = overlap.max(1)
            difference = ours[best >= SAME] - theirs[nearest[best >= SAME]]
            for values, known in ((difference[:, :4], boxes), (difference[:, 4], scores)):
                if apart := _difference(values):
                    known.append(apart.largest)
    return {
        "kept": sum(map(len, true)),
        "unmatched": unmatched,
        "kept_boxes": max(boxes),
        "kept_scores": max(scores),
    }
