"""What is known of one arm, from its finished cells and the baseline's."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import damaged
from ..evidence import Evidence, Metric, Says, Task, averages, over_classes
from ..files import MALFORMED
from ..study import WEIGHTS, Arm, Averages, Plan, Result, Study, differences, overall, rows, verdicts
from ..verdict import interval, mcnemar
from .gates import Gallery
from .schema import (
    ArmResults,
    ArmVerdict,
    Cost,
    Curves,
    Discordance,
    ErrorType,
    Images,
    ImageScores,
    OverPlacebo,
    Part,
    Slice,
)

SHOWN = 10  # images won, and lost

_Judged = Callable[[str, int], Evidence]
_Numbers = Callable[[int, NDArray], NDArray]


@dataclass(frozen=True)
class Finished:
    """The finished cells of a study.

    Attributes:
        study: theirs.
        results: by arm and pair.
        folders: likewise.
        averages: of what was judged, likewise.
    """

    study: Study
    results: Mapping[tuple[str, int], Result]
    folders: Mapping[tuple[str, int], Path]
    averages: Averages

    @classmethod
    def of(cls, study: Study, found: Mapping[tuple[str, int], Result]) -> "Finished":
        """Those found in a study; averages that nobody has computed are computed."""
        folders = study.folders(found)
        return cls(study, found, folders, averages.loaded(folders, WEIGHTS, study.plan.task))

    @property
    def plan(self) -> Plan:
        """What was planned."""
        return self.study.plan

    @functools.cached_property
    def truths(self) -> list[Evidence]:
        """What was judged, for the images and what is there: once, or in the partition with the most folds by now."""
        folds = self.plan.folds
        first: dict[int, dict[int, tuple[str, int]]] = {}
        for arm, pair in self.folders:
            partition, fold = folds.place(pair) if folds else (0, 0)
            first.setdefault(partition, {}).setdefault(fold, (arm, pair))
        return [self.judged(*where) for where in max(first.values(), key=len).values()]

    def objects(self) -> dict[str, int]:
        """How many objects there are of each size."""
        each = [truth.objects() for truth in self.truths]
        return {size: sum(objects[size] for objects in each) for size in each[0]}

    def pairs(self, arm: str) -> list[int]:
        """The seeds of an arm that are finished."""
        return sorted(pair for name, pair in self.results if name == arm)

    def judged(self, arm: str, pair: int) -> Evidence:
        """What best.pt of a cell said; read when needed, because all at once would fill the memory."""
        return averages.judged(self.folders[arm, pair], "best", self.plan.task)


def arms(
    finished: Finished,
    cost: Mapping[str, Cost],
    slices: Mapping[str, tuple[Slice, ...]],
    errors: Mapping[str, tuple[ErrorType, ...]],
) -> tuple[ArmResults, ...]:
    """Everything that is known of each arm, the baseline first.

    Args:
        finished: cells.
        cost: of each arm.
        slices: of each arm, where there are any.
        errors: of each arm, where they are known.
    """
    plan = finished.plan
    best, last = (verdicts.judged(plan, finished.results, finished.averages, kind) for kind in ("best", "last"))
    placebo = next((arm.name for arm in plan.arms if arm.control == "placebo"), None)
    names, sizes = list(plan.dataset.names.values()), finished.objects()
    found = []
    for arm, (figure, difference) in zip(plan.arms, beside_paper(plan), strict=True):
        pairs, treatment = finished.pairs(arm.name), arm.role == "treatment"
        shared = [pair for pair in pairs if ("baseline", pair) in finished.results]
        answers = plan.task.says is Says.CLASS and arm.role != "baseline"
        found.append(
            ArmResults(
                name=arm.name,
                role=arm.role,
                seeds=tuple(pairs),
                scores=_scores(finished, arm.name, pairs, plan.task),
                control=arm.control,
                verdict=_verdict(best.get(arm.name)),
                verdict_last=_verdict(last.get(arm.name)),
                over_placebo=_over_placebo(finished, arm.name, placebo) if treatment and placebo else None,
                classes=_classes(finished, arm, names),
                sizes=tuple(_part(finished, arm, size, size, None, objects) for size, objects in sizes.items()),
                beside=tuple(_beside(finished, arm, metric) for metric in plan.task.metrics[1:]),
                curves=_curves([finished.folders[arm.name, pair] for pair in pairs], plan.metric),
                images=_images(finished, arm, shared) if treatment and shared else None,
                mcnemar=_mcnemar(arm.name, shared, finished.judged) if answers else None,
                cost=cost[arm.name],
                paper=figure,
                paper_difference=difference,
                slices=slices.get(arm.name, ()),
                errors=errors.get(arm.name, ()),
            )
        )
    return tuple(found)


def _scores(finished: Finished, arm: str, pairs: Sequence[int], task: Task) -> dict[str, tuple[float, ...]]:
    mine = [finished.results[arm, pair].scores for pair in pairs]
    keys = (key for metric in task.metrics for key in metric.keys)
    return {key: tuple(scores[key] for scores in mine) for key in (*keys, task.metric.last)}


def _verdict(said: verdicts.Judged | None) -> ArmVerdict | None:
    if said is None:
        return None
    return ArmVerdict(**vars(said.verdict), differences=tuple(said.differences.tolist()), pairs=tuple(said.pairs))


def _over_placebo(finished: Finished, arm: str, placebo: str) -> OverPlacebo | None:
    found = differences(arm, placebo, finished.averages, overall("best"))
    mean, low, high = _bounded(found, finished.plan.held_out)
    return None if mean is None else OverPlacebo(mean, low, high)


def _bounded(
    found: tuple[NDArray, NDArray] | None, held_out: float | None
) -> tuple[float | None, float | None, float | None]:
    """The mean of paired differences and the bounds of its interval, as far as there are any."""
    if found is None or not is_bounded(found, held_out):
        return None, None, None
    low, high = interval(*found, held_out=held_out)
    return float(found[0].mean()), float(low), float(high)


def is_bounded(found: tuple[NDArray, NDArray], held_out: float | None = None) -> bool:
    """Whether paired differences have an interval: each seed has one, and without folds some resamples of each seed."""
    return not np.isnan(found[0]).any() and (found[1].shape[1] > 1 or held_out is not None)


def _classes(finished: Finished, arm: Arm, names: Sequence[str]) -> tuple[Part, ...]:
    key = finished.plan.metric.key
    shown = sorted({label for of in finished.averages.values() for label in of["best"]["classes"].tolist()})
    return tuple(_part(finished, arm, names[label], key, label) for label in shown)


def _part(finished: Finished, arm: Arm, name: str, key: str, label: int | None, objects: int | None = None) -> Part:
    """What is stored under a key for one class, or the mean over classes, by the pairs whose images have any of it."""

    def value(of: Mapping[str, Mapping[str, NDArray]]) -> NDArray:
        found = of["best"][key]
        return over_classes(found if label is None else found[:, of["best"]["classes"] == label])

    return _compared(finished, arm, name, value, objects)


def _beside(finished: Finished, arm: Arm, metric: Metric) -> Part:
    """A metric that decides nothing."""
    return _compared(finished, arm, metric.name, lambda of: of["best"][f"overall_{metric.key}"])


def _compared(finished: Finished, arm: Arm, name: str, value: verdicts.Value, objects: int | None = None) -> Part:
    """By the pairs whose images have any of it."""
    each = {pair: float(value(finished.averages[arm.name, pair])[0]) for pair in finished.pairs(arm.name)}
    having = {pair: of for pair, of in each.items() if not math.isnan(of)}
    baseline = arm.role == "baseline"
    compared = None if baseline else differences(arm.name, "baseline", finished.averages, value, list(having))
    average = float(np.mean(list(having.values()))) if having else None
    return Part(name, average, *_bounded(compared, finished.plan.held_out), objects)


def _curves(folders: Sequence[Path], metric: Metric) -> Curves:
    """Read the learning curves of the runs of one arm.

    Raises:
        UserError: a table that cannot be read, or is not as long as the others.
    """
    all_epochs: tuple[int, ...] = ()
    metrics, losses = [], []
    for folder in folders:
        try:
            table = rows(folder)
            parts = [key for key in table[0] if key.startswith("train/")]
            epochs = tuple(int(row["epoch"]) for row in table)
            found = tuple(float(row[metric.column]) for row in table)
            loss = tuple(sum(float(row[key]) for key in parts) for row in table)
            if epochs != (all_epochs or epochs) or not np.isfinite([*found, *loss]).all():
                raise ValueError("other epochs than in other runs, or values that are not finite")
        except MALFORMED as error:
            raise damaged(folder / "results.csv", error) from None
        all_epochs = epochs
        metrics.append(found)
        losses.append(loss)
    return Curves(all_epochs, tuple(metrics), tuple(losses))


def by_image(numbers: NDArray, names: NDArray, *scores: NDArray) -> tuple[NDArray, NDArray, list[NDArray]]:
    """Each image that was judged: its number, its name, and each of its scores averaged over the seeds that have it.

    Args:
        numbers: which image each score is of; -1 for one that is not known, and left out.
        names: likewise.
        scores: one for each of these.
    """
    known = numbers >= 0
    found, first, image = np.unique(numbers[known], return_index=True, return_inverse=True)
    often = np.bincount(image)
    return found, names[known][first], [np.bincount(image, of[known]) / often for of in scores]


def won_and_lost(arm: str, pairs: Sequence[int], judged: _Judged, numbers: _Numbers, of: str = "box") -> Images:
    """Images on which an arm did better or worse than the baseline, by their scores averaged over pairs.

    Args:
        arm: its name.
        pairs: seeds that both have finished.
        judged: what was said, by arm and pair.
        numbers: which image each one of a pair is, of all by their names; -1 for one that is not known.
        of: by what detections are matched.
    """
    all_names = [judged(arm, pair).name for pair in pairs]
    scores = (np.concatenate([judged(name, pair).scores(of=of) for pair in pairs]) for name in ("baseline", arm))
    all_numbers = np.concatenate([numbers(pair, names) for pair, names in zip(pairs, all_names, strict=True)])
    _, names, (theirs, mine) = by_image(all_numbers, np.concatenate(all_names), *scores)
    difference = mine - theirs
    order = np.argsort(-difference, kind="stable")
    better, worse = int((difference > 1e-9).sum()), int((difference < -1e-9).sum())

    def listed(chosen: NDArray) -> tuple[ImageScores, ...]:
        return tuple(ImageScores(str(names[i]), float(theirs[i]), float(mine[i]), float(difference[i])) for i in chosen)

    won, lost = listed(order[: min(SHOWN, better)]), listed(order[::-1][: min(SHOWN, worse)])
    return Images(won, lost, better, worse, len(difference) - better - worse)


def _images(finished: Finished, arm: Arm, pairs: Sequence[int]) -> Images:
    gallery = Gallery(finished.study, arm, finished.pairs(arm.name)[0])
    by = finished.plan.metric.of
    return gallery.linked(won_and_lost(arm.name, pairs, finished.judged, finished.study.numbers, by))


def _mcnemar(arm: str, pairs: Sequence[int], judged: _Judged) -> tuple[Discordance, ...]:
    """Count, for each pair, the images that one of the two models gets right and the other does not."""
    counted = []
    for pair in pairs:
        mine, theirs = (judged(name, pair).scores() for name in (arm, "baseline"))
        won, lost = int((mine > theirs).sum()), int((mine < theirs).sum())
        counted.append(Discordance(pair, won, lost, mcnemar(won, lost)))
    return tuple(counted)


def beside_paper(plan: Plan) -> list[tuple[float | None, float | None]]:
    """What a paper reports of each arm, and how far that is from its baseline."""
    figures = [plan.paper.figure(arm) if plan.paper else None for arm in plan.arms]
    first = figures[0]
    return [
        (figure, None if figure is None or first is None or arm.role == "baseline" else figure - first)
        for arm, figure in zip(plan.arms, figures, strict=True)
    ]
