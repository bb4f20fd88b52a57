"""The verdicts of a study, from its finished cells: which arms have their word, and which need more seeds."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import averages
from .arms import Arm
from .cell import KINDS, Result
from .plan import Plan, claims
from .verdict import Looks, Verdict, judge

LEARNED = 4  # margins that the metric of the baseline or the arm must reach before a difference means anything
OPENED = 1e-4  # gain of an identity start below which an attention changes nothing

Averages = Mapping[tuple[str, int], Mapping[str, Mapping[str, NDArray]]]  # by arm and pair, kind of weights, and key
Value = Callable[[Mapping[str, Mapping[str, NDArray]]], NDArray]


def differences(
    arm: str, other: str, averaged: Averages, value: Value, seeds: Sequence[int] | None = None
) -> tuple[NDArray, NDArray] | None:
    """Paired differences, (seeds,) and (seeds, resamples); None with fewer than two pairs.

    Args:
        arm: whose metric is taken first.
        other: whose metric is subtracted.
        averaged: of all finished cells.
        value: what is compared.
        seeds: of the pairs that count, in order; all that there are if None.
    """
    there = sorted(pair for name, pair in averaged if name == arm and (other, pair) in averaged)
    pairs = there if seeds is None else [seed for seed in seeds if seed in there]
    if len(pairs) < 2:
        return None
    each = np.array([value(averaged[arm, pair]) - value(averaged[other, pair]) for pair in pairs])
    drawn = each[:, 1:]
    return each[:, 0], drawn[:, ~np.isnan(drawn).any(0)]  # a class that was not drawn has no average


def overall(kind: str) -> Value:
    """The metric of a kind of weights, on all images and on resampled ones."""
    return lambda of: of[kind]["overall"]


def loaded(plan: Plan, folders: Mapping[tuple[str, int], Path]) -> dict[tuple[str, int], dict[str, dict[str, NDArray]]]:
    """The averages of finished cells, whose folders are given by arm and pair."""
    return {
        where: {kind: averages.load(folder, kind, plan.task) for kind in KINDS} for where, folder in folders.items()
    }


def judged(plan: Plan, found: Mapping[tuple[str, int], Result], averaged: Averages, kind: str) -> dict[str, Verdict]:
    """The verdict on each arm that has two pairs; treatments account for each other, controls stand for themselves.

    Args:
        plan: of the study.
        found: results of finished cells, by arm and pair.
        averaged: their averages.
        kind: of weights that are judged, "best" or "last".
    """
    pairs = {arm.name: paired(arm, plan, averaged) for arm in plan.arms if arm.role != "baseline"}
    compared = {
        name: pair
        for name, seeds in pairs.items()
        if (pair := differences(name, "baseline", averaged, overall(kind), seeds))
    }
    treatments = [arm for arm in plan.arms if arm.role == "treatment" and arm.name in compared]
    families = [treatments, *([arm] for arm in plan.arms if arm.role == "control" and arm.name in compared)]
    verdicts = {}
    for family in filter(None, families):
        looks = Looks(plan.looks, claims(plan.arms) if family is treatments else 1)
        for arm, verdict in zip(family, judge([compared[a.name] for a in family], plan.margin, looks), strict=True):
            both = [[found[name, pair] for pair in pairs[arm.name]] for name in ("baseline", arm.name)]
            still = arm.spec is not None and not any(values.any() for values in compared[arm.name])
            verdicts[arm.name] = _if_anything_happened(plan, *both, kind, still, verdict)
    return verdicts


def paired(arm: Arm, plan: Plan, finished: Collection[tuple[str, int]]) -> list[int]:
    """Seeds by which an arm is judged: the first ones of the plan that both have, as no later one may stand in."""
    both = [(arm.name, seed) in finished and ("baseline", seed) in finished for seed in plan.seeds]
    unbroken = both.index(False) if False in both else len(both)
    if unbroken >= plan.looks[0]:
        return list(plan.seeds[:unbroken])
    there = [seed for seed, whole in zip(plan.seeds, both, strict=True) if whole]
    return there[: plan.looks[0] - 1]  # too few for a word, and all of them shown


def due(plan: Plan, verdicts: Mapping[str, Verdict]) -> dict[str, int]:
    """How many seeds of each arm are to be trained now: up to its next look, none beyond its word."""
    seeds = {}
    for arm in plan.arms:
        if arm.role != "baseline":
            verdict = verdicts.get(arm.name)
            seeds[arm.name] = plan.looks[0] if verdict is None else verdict.seeds if verdict.final else verdict.next
    return {"baseline": max(seeds.values()), **seeds}


def _if_anything_happened(
    plan: Plan, baseline: Sequence[Result], arm: Sequence[Result], kind: str, still: bool, verdict: Verdict
) -> Verdict:
    """The verdict, or what must be said before any: that nothing was learned, or that the attention changed nothing."""
    key = plan.metric.key + KINDS[kind]
    reached = max(float(np.mean([result.scores[key] for result in results])) for results in (baseline, arm))
    gains = [result.opened[kind] for result in arm if result.opened]
    if reached < LEARNED * plan.margin:
        word = "nothing learned"
    elif still or (len(gains) == len(arm) and max(gains) < OPENED):
        word = "never opened"
    else:
        return verdict
    return verdict.instead(word)
