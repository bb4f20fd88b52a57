"""What a study can find, to be read before hours are spent."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..study import Plan, Result, claims, counted, starts
from ..verdict import LEVEL, detectable, fewest_seeds
from .fairness import without_test


def before(plan: Plan, found: Mapping[tuple[str, int], Result]) -> str:
    """What this many seeds can find, with the results there are."""
    seeds, level = plan.looks[-1], LEVEL / claims(plan.arms)
    found_by = detectable(seeds, level, held_out=plan.held_out)
    epochs = " or ".join(map(str, sorted({plan.epochs(arm) for arm in plan.arms})))
    most = "" if plan.looks == (seeds,) else "at most "
    epochs += " epoch" if epochs == "1" else " epochs"
    lines = [f"{most}{len(plan.arms) * seeds} trainings of {epochs}, {len(found)} of them finished"]
    if seeds < fewest_seeds(level):
        p = min(1.0, 2.0 ** (1 - seeds) * claims(plan.arms))
        few = f"{seeds} seeds" if seeds > 1 else "one seed"
        lines.append(f"{few} cannot call anything a help: the smallest p is {p:.2g}. {fewest_seeds(level)} can")
    else:
        lines.append(
            f"{seeds} seeds find a difference of {found_by:.2f} standard deviations of the paired "
            f"differences with a power of 80 %; the smallest p is {2.0 ** (1 - seeds):.2g}"
        )
    if most:
        counts = ", ".join(map(str, plan.looks))
        lines.append(f"arms are judged after {counts} seeds; one that has its word by then is trained no more")
    if plan.folds:
        lines += _folds(plan)
    elif plan.split != "test" and (absent := _absent(plan)):
        lines.append(f"judged on {plan.split}{without_test(absent)}")
    here = [arm for arm in plan.arms if arm.weights and Path(arm.weights).is_file()]  # others would be downloaded
    lines += [f"{name}: {start}" for name, start in starts(here, plan.host).items()]
    deviation = _deviation(found, plan)
    if deviation is not None and math.isfinite(found_by):
        lines.append(f"that deviation has been {deviation:.4f} so far, so {deviation * found_by:.4f}")
    return "\n".join(lines)


def _folds(plan: Plan) -> list[str]:
    """What is trained on and judged."""
    assert plan.folds
    images = counted(plan)
    sizes = f", about {images['val']} of {images['train'] + images['val']} images" if "train" in images else ""
    aside = f"; the {images['test']} of test are left aside" if "test" in images else ""
    more = plan.looks[-1] % plan.folds.number
    uneven = f"; {plan.folds.whole(plan.looks[-1])} seeds would hold out each equally often" if more else ""
    return [
        f"each seed holds out one of {plan.folds} of train and val{sizes}: on them best.pt is chosen and judged{aside}",
        f"seeds share images that they are trained on, which no number of seeds takes out of the variance{uneven}",
    ]


def _deviation(found: Mapping[tuple[str, int], Result], plan: Plan) -> float | None:
    """Root mean square over treatments of the standard deviation of paired differences."""
    variances, key = [], plan.metric.key
    for arm in plan.arms:
        paired = [
            r.scores[key] - found["baseline", pair].scores[key]
            for (name, pair), r in found.items()
            if name == arm.name and arm.role == "treatment" and ("baseline", pair) in found
        ]
        if len(paired) > 1:
            variances.append(np.var(paired, ddof=1))
    return float(np.sqrt(np.mean(variances))) if variances else None


def _absent(plan: Plan) -> str | None:
    """The test split that the data names and that is not there; None if there is none such, or no data here."""
    try:
        return plan.dataset.absent
    except UserError:
        return None
