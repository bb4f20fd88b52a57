"""The host's validator of maps, keeping how many pixels of each class a model found on every image."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...evidence import GROUND, SIDE, UNLABELLED, Maps
from . import models as host  # before Ultralytics itself, because it says if that is missing or too old

_NONE = 255  # in a mask, of pixels without a class
_Stock: Any = getattr(host, "SemanticSegmentationValidator", host.DetectionValidator)  # which older hosts lack


class SemanticSegmentationValidator(_Stock):
    """Ultralytics' validator for `semantic`."""

    def init_metrics(self, model):
        """The host's start of an evaluation."""
        super().init_metrics(model)
        self._kept: list[tuple[str, dict[str, NDArray]]] = []

    def update_metrics(self, preds, batch):
        """The host's count of a batch, and that of each image."""
        super().update_metrics(preds, batch)
        for index, (said, true) in enumerate(zip(preds.cpu(), batch["semantic_mask"].cpu(), strict=True)):
            kept = self._counted(said, true)
            kept |= self._drawn(said, true, batch["ori_shape"][index], batch["ratio_pad"][index])
            self._kept.append((batch["im_file"][index], {name: of.numpy() for name, of in kept.items()}))

    def _counted(self, said: Tensor, true: Tensor) -> dict[str, Tensor]:
        """Pixels of each class of an image, of those that the host counts."""
        known = self._judged()
        counted = (true != _NONE) & (said >= 0) & (said < known) & (true >= 0) & (true < known)
        pairs = torch.bincount(known * true[counted].long() + said[counted].long(), minlength=known**2)
        matrix = pairs.view(known, known)
        counts = {"both": matrix.diagonal(), "said": matrix.sum(0), "true": matrix.sum(1)}
        (there,) = (counts["said"] + counts["true"]).nonzero(as_tuple=True)
        return {"label": there - self._shift()} | {name: of[there] for name, of in counts.items()}

    def _drawn(
        self, said: Tensor, true: Tensor, size: tuple[int, int], place: tuple[tuple[float, float], tuple[float, float]]
    ) -> dict[str, Tensor]:
        """The classes in the middle of each cell of an image, without the margins that the host puts around it.

        Args:
            said: classes of pixels.
            true: likewise.
            size: height and width of the image's file.
            place: by how much it is enlarged, down and across, and the margins to the left and above.
        """
        (down, across), (left, top) = place
        inside = size[0] * down, size[1] * across
        cells = [max(1, round(side / max(1.0, max(inside) / SIDE))) for side in inside]
        rows, columns = (
            ((torch.arange(count) + 0.5) * side / count + margin).long().clamp(0, most - 1)
            for count, side, margin, most in zip(cells, inside, (top, left), said.shape, strict=True)
        )
        shown = [of[rows][:, columns].reshape(-1) for of in (said, true)]
        moved = [torch.where(of == _NONE, UNLABELLED, of - self._shift()) for of in shown]
        return {"shape": torch.tensor([cells]), "cell": moved[0].short(), "true_cell": moved[1].short()}

    def _judged(self) -> int:
        """Classes that the host counts: of a single one what it leaves, too."""
        return 2 if self.nc == 1 else self.nc

    def _shift(self) -> int:
        return -GROUND if self.nc == 1 else 0

    def found(self) -> Maps:
        """What was said, images by name."""
        self._kept.sort(key=lambda kept: kept[0])
        files, counted = [file for file, _ in self._kept], [of for _, of in self._kept]
        return Maps(
            name=np.array([Path(file).name for file in files]),
            known=np.array(self.nc),
            image=np.repeat(np.arange(len(counted)), [len(of["label"]) for of in counted]),
            **{name: np.concatenate([of[name] for of in counted]) for name in counted[0]},
        )

    def figures(self) -> dict[str, float]:
        """The host's own averages, by their keys."""
        return {"miou": float(self.metrics.miou), "pixel_accuracy": float(self.metrics.pixel_accuracy)}
