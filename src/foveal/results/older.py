"""Results of studies that an older release reported: judged anew, as far as what they hold allows.

Such results say how the seeds differ, and by their interval how far the images reach, which is all that a verdict
needs. They do not say whether an attention left its identity start.
"""

import copy
import dataclasses
import math
import statistics

import numpy as np
import scipy  # whose parts load when they are first used
from numpy.typing import NDArray

from ..evidence import METRICS
from ..verdict import LEARNED, LEVEL, Looks, judge_families

DRAWS = 2000


def judged_anew(results: dict) -> dict:
    """The same results with the verdicts of today; results that have them already are returned as they are."""
    if "looks" in results["statistics"]:
        return results
    results = copy.deepcopy(results)
    arms, margin = results["arms"], results["statistics"]["margin"]
    metric = METRICS[results.setdefault("task", "detect")]  # the only one of older releases
    treatments = {arm["name"] for arm in arms if arm["role"] == "treatment"}
    claims = max(1, len(treatments))
    seeds = len(results["plan"]["seeds"])
    results["statistics"] |= {"looks": [seeds], "treatments": claims, "learned": LEARNED * margin}
    results.pop("power", None)
    baseline = next(arm for arm in arms if arm["role"] == "baseline")
    for key, scores in (("verdict", metric.key), ("verdict_last", metric.last)):
        ready = [arm for arm in arms if arm[key]]
        compared = {arm["name"]: _pair(arm[key]) for arm in ready}
        verdicts = judge_families(compared, treatments, margin, Looks((seeds,), claims))
        for arm in ready:
            pairs = [seed for seed in arm["seeds"] if seed in baseline["seeds"]]
            reached = max(statistics.fmean(each[scores]) for each in (arm, baseline))
            found = verdicts[arm["name"]]
            if reached < LEARNED * margin:
                found = found.instead("nothing learned")
            arm[key] = dataclasses.asdict(found) | {"differences": arm[key]["differences"], "pairs": pairs}
    if results["verdict"]:
        first = next(arm for arm in arms if arm["name"] == results["verdict"]["arm"])
        results["verdict"] = {"arm": first["name"], "word": first["verdict"]["word"]}
    return results


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
