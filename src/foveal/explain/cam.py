"""Class activation maps before and after an attention, by `grad-cam`.

Both maps explain the same number, the sum of the scores of what the model finds in the image (of all pixels, the mean
score of the class found or the mean depth), and keep the values that LayerCAM gives them, so that they can be drawn on
one scale.
"""

import importlib.util
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from ..evidence import Says, Task

METHOD = "LayerCAM"
_TARGETS = {Says.BOXES: "detections", Says.CLASS: "class"}  # of a map what it is of
_GATHERED = {"detections": Tensor.sum, "pixels": Tensor.mean, "depth": Tensor.mean}


@dataclass(frozen=True)
class Pair:
    """Maps of one attention.

    Attributes:
        before: (H, W), of the features that the attention reads; 0 and more.
        after: (H, W), of those it returns.
        target: what both explain: "detections" above the threshold, "best" where there are none, "class", "pixels",
            "depth".
        score: its value.
    """

    before: np.ndarray
    after: np.ndarray
    target: str
    score: float


def require() -> None:
    """Check that there is something to make maps with.

    Raises:
        UserError: grad-cam is not installed.
    """
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        raise UserError("activation maps need grad-cam, which is not installed", "pip install 'foveal[explain]'")


class _Scored(nn.Module):
    """A network whose output is the number to explain."""

    def __init__(self, predictor, photograph: np.ndarray):
        super().__init__()
        self.network = predictor.model.model
        self.predictor, self.photograph, self.target = predictor, photograph, ""

    def forward(self, x: Tensor) -> Tensor:
        head = self.network.model[-1]
        head.shape = head.shapes = None  # anchors kept from a run without gradients would end the graph
        found = self.network(x)
        task = self.predictor.args.task
        self.target = _TARGETS.get(Task.of(task).says) or ("depth" if task == "depth" else "pixels")
        scores = _of_pixels(found, task) if self.target in ("pixels", "depth") else self._scores(found, x)
        if not len(scores):
            threshold, self.predictor.args.conf = self.predictor.args.conf, 0.0
            scores, self.target = self._scores(found, x), "best"
            self.predictor.args.conf = threshold
        score = _GATHERED.get(self.target, Tensor.max)(scores)
        if not score.requires_grad:
            raise UserError(
                f"no gradient leaves this model's head in Ultralytics {version('ultralytics')}: no activation maps",
                "pip install -U ultralytics",
            )
        return score[None]

    def _scores(self, found: object, x: Tensor) -> Tensor:
        """Scores in what the host makes of a network's output, with their gradients."""
        copied = [each.clone() if isinstance(each, Tensor) else each for each in _flat(found)]
        (result,) = self.predictor.postprocess(copied if len(copied) > 1 else copied[0], x, [self.photograph])
        if result.probs is not None:
            return result.probs.data
        return (result.obb if result.obb is not None else result.boxes).conf


def _of_pixels(found: object, task: str) -> Tensor:
    """The depth of each pixel, or the score of the class that the model finds there."""
    (maps,) = _flat(found)
    if task == "depth":
        return maps.flatten()
    return (maps.abs() if maps.shape[1] == 1 else maps.amax(1)).flatten()  # a single score is for or against its class


def _flat(found: object) -> list:
    return list(found) if isinstance(found, (tuple, list)) else [found]


def pair(predictor, attention: nn.Module, image: Tensor, photograph: np.ndarray) -> Pair:
    """The maps before and after an attention.

    Args:
        predictor: the host's, that has just run on this image with a copy of a model.
        attention: of that copy, with its identity start if it has one.
        image: (1, 3, H, W), as the network reads it.
        photograph: the image as the host loaded it.

    Raises:
        UserError: the host's head lets no gradient through, as that of YOLOv10 in old releases.
    """
    from pytorch_grad_cam import LayerCAM

    probe = nn.Identity()  # its output is what the attention reads
    hook = attention.register_forward_pre_hook(lambda _, arguments: (probe(arguments[0]), *arguments[1:]))
    scored = _Scored(predictor, photograph)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autograd.graph.allow_mutation_on_saved_tensors(),  # older hosts decode key points in place
            LayerCAM(scored, [probe, attention]) as method,
        ):
            x = image.clone().requires_grad_()
            method(x, [lambda score: score])
            kept = method.activations_and_grads
            before, after = (
                # Of the values themselves: the method's own result is stretched between its least and its greatest.
                np.maximum(method.get_cam_image(x, layer, None, activation.numpy(), gradient.numpy(), False)[0], 0)
                for layer, activation, gradient in zip(
                    [probe, attention], kept.activations, kept.gradients, strict=True
                )
            )
            score = float(method.outputs.detach()[0])
    finally:
        hook.remove()
    return Pair(before, after, scored.target, score)
