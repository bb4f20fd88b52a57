"""The verdicts of a study, from its finished cells: which arms have their word, and which need more seeds."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..verdict import LEARNED, Looks, Outcome, Verdict, judge_families
from .arms import Arm
from .cell import WEIGHTS, Result
from .plan import Plan, claims

OPENED = 1e-4  # gain of an identity start below which an attention changes nothing

Averages = Mapping[tuple[str, int], Mapping[str, Mapping[str, NDArray]]]  # by arm and pair, kind of weights, and key
Value = Callable[[Mapping[str, Mapping[str, NDArray]]], NDArray]


@dataclass(frozen=True)
class Judged:
    """The verdict on an arm, with the seeds that it was decided by and the difference at each."""

    verdict: Verdict
    pairs: list[int]
    differences: NDArray


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


def judged(plan: Plan, found: Mapping[tuple[str, int], Result], averaged: Averages, kind: str) -> dict[str, Judged]:
    """What is said of each arm that has two pairs; treatments account for each other, controls stand for themselves.

    Args:
        plan: of the study.
        found: results of finished cells, by arm and pair.
        averaged: their averages.
        kind: of weights that are judged, "best" or "last".
    """
    others = {arm.name: arm for arm in plan.arms if arm.role != "baseline"}
    pairs = {name: paired(arm, plan, averaged) for name, arm in others.items()}
    compared = {
        name: pair
        for name, seeds in pairs.items()
        if (pair := differences(name, "baseline", averaged, overall(kind), seeds))
    }
    treatments = {name for name, arm in others.items() if arm.role == "treatment"}
    looks, words = Looks(plan.looks, claims(plan.arms), plan.held_out), {}
    for name, verdict in judge_families(compared, treatments, plan.margin, looks).items():
        decided, (each, drawn) = pairs[name][: verdict.seeds], (of[: verdict.seeds] for of in compared[name])
        plain, treated = ([found[arm, pair] for pair in decided] for arm in ("baseline", name))
        still = others[name].spec is not None and not (each.any() or drawn.any())
        words[name] = Judged(_if_anything_happened(plan, plain, treated, kind, still, verdict), decided, each)
    return words


def paired(arm: Arm, plan: Plan, finished: Collection[tuple[str, int]]) -> list[int]:
    """Seeds by which an arm is judged: the first ones of the plan that both have, as no later one may stand in."""
    both = [(arm.name, seed) in finished and ("baseline", seed) in finished for seed in plan.seeds]
    unbroken = both.index(False) if False in both else len(both)
    if unbroken >= plan.looks[0]:
        return list(plan.seeds[:unbroken])
    there = [seed for seed, whole in zip(plan.seeds, both, strict=True) if whole]
    return there[: plan.looks[0] - 1]  # too few for a word, and all of them shown


def reached(plan: Plan, finished: Collection[tuple[str, int]]) -> dict[str, int]:
    """Seeds of the last look that each arm has got to, 0 before the first; between looks no word can change."""
    counts = {arm.name: len(paired(arm, plan, finished)) for arm in plan.arms if arm.role != "baseline"}
    return {name: max((n for n in plan.looks if n <= count), default=0) for name, count in counts.items()}


def due(plan: Plan, words: Mapping[str, Judged]) -> dict[str, int]:
    """How many seeds of each arm are to be trained now: up to its next look, none beyond its word."""
    seeds = {arm.name: plan.looks[0] for arm in plan.arms if arm.role != "baseline"}
    seeds |= {
        name: of.verdict.seeds if of.verdict.final else of.verdict.next or of.verdict.seeds
        for name, of in words.items()
    }
    return {"baseline": max(seeds.values()), **seeds}


def _if_anything_happened(
    plan: Plan, baseline: Sequence[Result], arm: Sequence[Result], kind: str, still: bool, verdict: Verdict
) -> Verdict:
    """The verdict, or what must be said before any: that nothing was learned, or that the attention changed nothing."""
    key = plan.metric.key + WEIGHTS[kind]
    reached = max(float(np.mean([result.scores[key] for result in results])) for results in (baseline, arm))
    gains = [result.opened[kind] for result in arm if result.opened]
    if reached < LEARNED * plan.margin:
        outcome = Outcome.NOTHING_LEARNED
    elif still or (len(gains) == len(arm) and max(gains) < OPENED):
        outcome = Outcome.NEVER_OPENED
    else:
        return verdict
    return verdict.instead(outcome)
