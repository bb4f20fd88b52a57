"""What a paper reports of the arms of a plan, to stand beside what a study finds."""

from dataclasses import dataclass
from typing import Any

from ..errors import UserError, shown
from ..hosts import SPLITS
from .arms import Arm


@dataclass(frozen=True)
class Paper:
    """What a paper reports.

    Attributes:
        source: which, and where in it.
        figures: the metric in per cent for "baseline" and for attentions by name.
        images: in each split of its data.
        notes: what a reader must know before comparing.
    """

    source: str
    figures: dict[str, float]
    images: dict[str, int]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, written: Any) -> "Paper":
        """From a plan.

        Raises:
            UserError: it is written in another way.
        """
        try:
            paper = cls(**{**written, "notes": tuple(written.get("notes", ()))})
            sound = isinstance(paper.source, str) and all(isinstance(note, str) for note in paper.notes)
            sound &= all(type(value) in (int, float) for value in paper.figures.values())
            sound &= all(split in SPLITS and type(n) is int for split, n in paper.images.items())
        except (AttributeError, TypeError):
            sound = False
        if not sound:
            example = "paper: {source: a title, figures: {baseline: 77.3, ema: 80.7}, images: {train: 50000}}"
            raise UserError(f"paper: {shown(written)} is not what a paper reports", example)
        return paper

    def figure(self, arm: Arm) -> float | None:
        """What it reports of an arm, as a fraction; None if nothing."""
        name = arm.spec.name if arm.spec else arm.name
        return self.figures[name] / 100 if name in self.figures else None
