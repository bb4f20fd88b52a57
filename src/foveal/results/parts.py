"""What is known of each arm on slices of the images, and what each type of error costs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..evidence import averages
from ..study import Arm, Averages, differences
from ..verdict import FEWEST, two_level
from .entries import Finished, is_bounded
from .schema import ErrorType, Slice, Slicing

_Bounds = dict[tuple[str, int], tuple[float, float, float]]  # p and an interval, by arm and number of a slice


@dataclass(frozen=True)
class Sliced:
    """How the images were sliced, and what is known of each arm on each slice, by the name of the arm."""

    slicing: Slicing
    arms: Mapping[str, tuple[Slice, ...]]


def sliced(finished: Finished) -> Sliced | None:
    """The metric of each arm on each slice; None if the plan slices nothing."""
    cut, plan, truth = finished.study.slices, finished.plan, finished.truths[0]
    if cut is None:
        return None
    computed = averages.of_each(finished.folders, lambda folder: averages.within(folder, cut.members, plan.task))
    averaged: Averages = {where: {"best": {"slices": of}} for where, of in computed.items()}
    inside = cut.members(truth.name)
    images = inside.sum(1).tolist()
    objects = [sum(sizes.values()) if (sizes := truth.objects(one)) else None for one in inside]
    bounds: _Bounds = {}
    for family in _families(plan.arms):
        bounds |= _bounds(family, averaged, [index for index, count in enumerate(images) if count >= FEWEST])
    arms = {}
    for arm in plan.arms:
        each = np.array([computed[arm.name, pair][:, 0] for pair in finished.pairs(arm.name)])
        found = []
        for index, (column, value) in enumerate(cut.labels):
            average = each[:, index].mean() if len(each) else np.nan
            compared = _compared(arm, averaged, index)
            mean = np.nan if compared is None else compared[0].mean()
            p, low, high = bounds.get((arm.name, index), (None, None, None))
            found.append(
                Slice(
                    *(value, _known(average), _known(mean), low, high, objects[index]),
                    column=column,
                    images=images[index],
                    p=p,
                )
            )
        arms[arm.name] = tuple(found)
    outside = int((~inside.any(0)).sum())
    return Sliced(Slicing(cut.file, cut.digest, outside, FEWEST), arms)


def errors(finished: Finished) -> dict[str, tuple[ErrorType, ...]]:
    """What each type of error costs each arm, by its name; nothing where that is not known of every run."""
    task = finished.plan.task
    computed = averages.of_each(finished.folders, lambda folder: averages.costs_of_errors(folder, task))
    if not all(computed.values()):
        return {}
    found = {}
    for arm in finished.plan.arms:
        pairs = finished.pairs(arm.name)
        both = [pair for pair in pairs if arm.role != "baseline" and ("baseline", pair) in computed]
        found[arm.name] = tuple(
            ErrorType(
                name,
                tuple(computed[arm.name, pair][name] for pair in pairs),
                tuple(computed[arm.name, pair][name] - computed["baseline", pair][name] for pair in both),
            )
            for name in next(iter(computed.values()))
        )
    return found


def _families(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Arms whose slices share the level: all treatments, and each control by itself."""
    return [[arm for arm in arms if arm.role == "treatment"], *([arm] for arm in arms if arm.role == "control")]


def _bounds(family: Sequence[Arm], averaged: Averages, slices: Sequence[int]) -> _Bounds:
    """The intervals of the arms of a family on some of the slices, as far as there are any."""
    compared = {(arm.name, index): _compared(arm, averaged, index) for arm in family for index in slices}
    asked = {where: pair for where, pair in compared.items() if pair is not None and is_bounded(pair)}
    return dict(zip(asked, two_level([*asked.values()]), strict=True))


def _compared(arm: Arm, averaged: Averages, index: int) -> tuple[NDArray, NDArray] | None:
    """Differences of an arm to the baseline on a slice."""
    if arm.role == "baseline":
        return None
    return differences(arm.name, "baseline", averaged, lambda of: of["best"]["slices"][index])


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
