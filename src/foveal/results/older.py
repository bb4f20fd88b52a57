"""Results without a schema version, which older releases wrote, in the shape of today.

The oldest of them were judged by other rules. They say how the seeds differ, and by their interval how far the images
reach, which is all that a verdict needs. They do not say whether an attention left its identity start.
"""

import dataclasses
import math
import statistics

import numpy as np
import scipy  # whose parts load when they are first used
from msgspec import ValidationError
from numpy.typing import NDArray

from ..evidence import TASKS, Metric
from ..files import MALFORMED
from ..verdict import LEARNED, LEVEL, Looks, Outcome, judge_families
from .schema import SCHEMA_VERSION

DRAWS = 2000


def upgraded(found: dict) -> dict:
    """The same results, as this release writes them.

    Raises:
        ValidationError: they are damaged.
    """
    try:
        metric = TASKS[found.get("task", "detect")].metric  # the only one of the oldest releases
        arms = [_arm(arm, metric) for arm in found["arms"]]
        results = {"task": "detect", **found, "schema_version": SCHEMA_VERSION, "arms": arms}
        if found["verdict"]:
            results["verdict"] = {"arm": found["verdict"]["arm"], "outcome": found["verdict"]["word"]}
        return results if "looks" in found["statistics"] else _judged_anew(results, metric)
    except MALFORMED as error:
        raise ValidationError(f"{type(error).__name__}: {error}") from None


def _arm(arm: dict, metric: Metric) -> dict:
    keys = (*metric.keys, metric.last)
    new = {key: value for key, value in arm.items() if key not in keys}
    new["scores"] = {key: arm[key] for key in keys}
    if arm["role"] == "control":
        new["control"] = next((kind for kind in ("A/A", "placebo") if arm["name"].startswith(kind)), "other")
    for key in ("verdict", "verdict_last"):
        if arm[key]:
            new[key] = {"outcome": arm[key]["word"], **arm[key]}
    for key in ("classes", "sizes"):
        new[key] = [{"average": part[metric.part], **part} for part in arm[key]]
    if arm["curves"]:
        new["curves"] = {"metric": arm["curves"][metric.key], **arm["curves"]}
    return new


def _judged_anew(results: dict, metric: Metric) -> dict:
    """The same results with the verdicts of today."""
    arms, margin = results["arms"], results["statistics"]["margin"]
    treatments = {arm["name"] for arm in arms if arm["role"] == "treatment"}
    claims, seeds = max(1, len(treatments)), len(results["plan"]["seeds"])
    baseline = next(arm for arm in arms if arm["role"] == "baseline")
    for key, scores in (("verdict", metric.key), ("verdict_last", metric.last)):
        ready = [arm for arm in arms if arm[key]]
        compared = {arm["name"]: _pair(arm[key]) for arm in ready}
        verdicts = judge_families(compared, treatments, margin, Looks((seeds,), claims))
        for arm in ready:
            pairs = [seed for seed in arm["seeds"] if seed in baseline["seeds"]]
            reached = max(statistics.fmean(each["scores"][scores]) for each in (arm, baseline))
            found = verdicts[arm["name"]]
            if reached < LEARNED * margin:
                found = found.instead(Outcome.NOTHING_LEARNED)
            arm[key] = dataclasses.asdict(found) | {"differences": arm[key]["differences"], "pairs": pairs}
    if results["verdict"]:
        first = next(arm for arm in arms if arm["name"] == results["verdict"]["arm"])
        results["verdict"] = {"arm": first["name"], "outcome": first["verdict"]["outcome"]}
    looks = {"looks": [seeds], "treatments": claims, "learned": LEARNED * margin}
    return {**results, "statistics": results["statistics"] | looks}


def _pair(verdict: dict) -> tuple[NDArray, NDArray]:
    """Differences by seed, and resampled ones whose images have the variance that the interval speaks of."""
    differences = np.array(verdict["differences"])
    n, seeds = len(differences), float(differences.var(ddof=1)) / len(differences)
    reach = 0.0 if verdict["high"] is None else verdict["high"] - verdict["mean"]

    def missing(images: float) -> float:
        freedom = (n - 1) * ((seeds + images) / seeds) ** 2 if seeds else math.inf
        return float(scipy.stats.t.ppf(1 - LEVEL / 2, freedom)) * math.sqrt(seeds + images) - reach

    most = reach**2 + seeds
    images = scipy.optimize.brentq(missing, 0, most) if missing(0) < 0 < missing(most) else 0.0
    noise = scipy.stats.norm.ppf((np.arange(DRAWS) + 0.5) / DRAWS)
    return differences, differences[:, None] + noise * math.sqrt(images / noise.var(ddof=1))
