"""From finished cells to one dictionary: verdicts, averages, costs and findings, all that a report shows."""

import dataclasses
import json
import math
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from . import averages, dataset, fairness, recording, study_gates, timing
from . import yolo as host
from .cell import KINDS, Result
from .costs import costs, device_of
from .detections import SIZES, Detections
from .errors import UserError
from .files import write_whole
from .plan import Arm, versions
from .runs import COLUMN
from .study import Study, rows
from .verdict import LEVEL, Verdict, detectable, interval, judge

SHOWN = 10  # images won, and lost


def before(study: Study) -> str:
    """What this many seeds can find, to be read before hours are spent."""
    seeds, claims = len(study.plan.seeds), _claims(study.plan.arms)
    smallest, level = 2.0 ** (1 - seeds), LEVEL / claims
    found = sum(state.word == "finished" for state in study.states())
    lines = [f"{len(study.cells)} trainings of {study.epochs} epochs, {found} of them finished"]
    if smallest * claims > LEVEL:
        enough = math.ceil(1 - math.log2(level))
        lines.append(
            f"{seeds} seeds cannot call anything a help: the smallest p is {smallest * claims:.2g}. {enough} can"
        )
    else:
        lines.append(
            f"{seeds} seeds find a difference of {detectable(seeds, level):.2f} standard deviations of the paired "
            f"differences with a power of 80 %; the smallest p is {smallest:.2g}"
        )
    deviation = _deviation(study.results(), study.plan.arms)
    if deviation is not None:
        lines.append(f"that deviation has been {deviation:.4f} so far, so {deviation * detectable(seeds, level):.4f}")
    return "\n".join(lines)


def assemble(study: Study, measure: bool = False) -> dict[str, object]:
    """Everything a report shows, of a study that is finished or under way.

    Args:
        study: with at least one finished cell of the baseline.
        measure: also time the models and draw the gates of attentions, where that has not been done; nothing else
            should run then.

    Raises:
        UserError: nothing is finished yet.
    """
    plan, found = study.plan, study.results()
    if not any(arm == "baseline" for arm, _ in found):
        raise UserError(f"no run of the baseline is finished in {study.folder}", f"foveal study run {study.folder}")
    folders = {(c.arm.name, c.pair): study.path(c) for c in study.cells if (c.arm.name, c.pair) in found}
    averaged = {where: {kind: averages.load(folder, kind) for kind in KINDS} for where, folder in folders.items()}
    cost = costs(study, found, measure)
    names = list(dataset.data_file(plan.data)["names"].values())
    truth = Detections.load(next(iter(folders.values())) / "best.npz")
    arms = [_arm(arm, found, folders, averaged, names, truth) | {"cost": cost[arm.name]} for arm in plan.arms]
    _judge(arms, averaged, plan.margin)
    _over_placebo(arms, averaged)
    study_gates.link(study, arms, draw=measure)
    findings = fairness.check(plan, study.epochs, found, folders, _sources(plan.arms))
    if any(not np.array_equal(truth.name, Detections.load(f / "best.npz").name) for f in folders.values()):
        findings.append(fairness.Finding("evaluator", False, "arms were judged on different images"))
    else:
        findings.append(fairness.Finding("evaluator", True, f"every run judged on the same {len(truth.name)} images"))
    states = study.states()
    failed = [s for s in states if s.word == "failed"]
    deviation = _deviation(found, plan.arms)
    claims = _claims(plan.arms)
    seeds = len({pair for _, pair in found})
    possible = detectable(seeds, LEVEL / claims)
    return {
        "foveal": versions()["foveal"],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "name": study.folder.resolve().name,
        "complete": len(found) == len(study.cells),
        "cells": {
            "planned": len(study.cells),
            "finished": len(found),
            "failed": [{"arm": s.cell.arm.name, "seed": s.cell.pair, "reason": s.reason} for s in failed],
        },
        "plan": {**plan.text, "arms": [arm.name for arm in plan.arms], "seeds": list(plan.seeds), "train": plan.train}
        | {"split": plan.split, "margin": plan.margin},
        "commands": [f"foveal study run {study.folder.name}", f"foveal study report {study.folder.name}"],
        "data": {
            "digest": study.contents.digest,
            "names": names,
            "split": plan.split,
            "images": len(truth.name),
            "objects": len(truth.true_image),
        },
        "versions": versions(),
        "machine": timing.environment(torch.device(device_of(found))),
        "statistics": {"metric": "mAP50-95", "level": LEVEL, "margin": plan.margin, "resamples": averages.RESAMPLES},
        "power": {
            "seeds": seeds,
            "treatments": claims,
            "detectable_deviations": None if math.isinf(possible) else possible,
            "smallest_p": 2.0 ** (1 - seeds),
            "deviation": deviation,
            "detectable": None if deviation is None else deviation * possible,
        },
        "verdict": _headline(arms),
        "fairness": [dataclasses.asdict(finding) for finding in findings],
        "arms": arms,
    }


def write(results: dict[str, object], folder: Path) -> Path:
    """Write `results.json`."""
    target = folder / "results.json"
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(target, lambda part: part.write_text(text, encoding="utf-8"))
    return target


# Differences ---------------------------------------------------------------------------------------------------------


_Averages = dict[tuple[str, int], dict[str, dict[str, NDArray]]]


def _differences(
    arm: str, other: str, averaged: _Averages, value: Callable[[dict[str, dict[str, NDArray]]], NDArray]
) -> tuple[NDArray, NDArray] | None:
    """Paired differences, (seeds,) and (seeds, resamples); None with fewer than two pairs."""
    pairs = sorted(pair for name, pair in averaged if name == arm and (other, pair) in averaged)
    if len(pairs) < 2:
        return None
    each = np.array([value(averaged[arm, pair]) - value(averaged[other, pair]) for pair in pairs])
    drawn = each[:, 1:]
    return each[:, 0], drawn[:, ~np.isnan(drawn).any(0)]  # a class that was not drawn has no average


def _overall(kind: str) -> Callable[[dict[str, dict[str, NDArray]]], NDArray]:
    return lambda of: _over_classes(of[kind]["map"])


def _over_classes(found: NDArray) -> NDArray:
    """Mean over those classes that have an average, nan where none has."""
    there = ~np.isnan(found)
    with np.errstate(invalid="ignore"):
        return np.where(there, found, 0).sum(1) / there.sum(1)


def _with_interval(found: tuple[NDArray, NDArray] | None) -> dict[str, float | None]:
    if found is None or np.isnan(found[0]).any() or found[1].shape[1] < 2:
        return {"difference": None, "low": None, "high": None}
    low, high = interval(*found)
    return {"difference": float(found[0].mean()), "low": float(low), "high": float(high)}


# Arms ----------------------------------------------------------------------------------------------------------------


def _arm(
    arm: Arm,
    found: dict[tuple[str, int], Result],
    folders: dict[tuple[str, int], Path],
    averaged: _Averages,
    names: list[str],
    truth: Detections,
) -> dict[str, object]:
    pairs = sorted(pair for name, pair in found if name == arm.name)
    mine = [found[arm.name, pair] for pair in pairs]
    stored = [averaged[arm.name, pair]["best"] for pair in pairs]
    classes = truth.truth().label
    areas = (truth.true_box[:, 2:] - truth.true_box[:, :2]).prod(1)

    def part(key: str, column: int | None) -> dict[str, float | None]:
        def value(of: dict) -> NDArray:
            return _over_classes(of["best"][key]) if column is None else of["best"][key][:, column]

        ap = float(np.mean([value({"best": one})[0] for one in stored])) if stored else math.nan
        compared = None if arm.role == "baseline" else _differences(arm.name, "baseline", averaged, value)
        return {"ap": None if math.isnan(ap) else ap, **_with_interval(compared)}

    return {
        "name": arm.name,
        "role": arm.role,
        "seeds": pairs,
        "map": [result.map for result in mine],
        "map50": [result.map50 for result in mine],
        "map_last": [result.map_last for result in mine],
        "verdict": None,
        "verdict_last": None,
        "over_placebo": None,
        "classes": [{"name": names[c], **part("map", column)} for column, c in enumerate(np.unique(classes).tolist())],
        "sizes": [
            {"name": size, "objects": int(((areas >= low) & (areas < high)).sum()), **part(size, None)}
            for size, (low, high) in SIZES.items()
        ],
        "curves": _curves([folders[arm.name, pair] for pair in pairs]),
        "images": _images(arm.name, folders) if arm.role == "treatment" else None,
    }


def _curves(folders: list[Path]) -> dict[str, list]:
    """Of runs of one arm.

    Raises:
        UserError: a table that cannot be read, or is not as long as the others.
    """
    curves: dict[str, list] = {"epochs": [], "map": [], "loss": []}
    for folder in folders:
        try:
            table = rows(folder)
            losses = [key for key in table[0] if key.startswith("train/")]
            epochs = [int(row["epoch"]) for row in table]
            found = [float(row[COLUMN]) for row in table]
            loss = [sum(float(row[key]) for key in losses) for row in table]
            if epochs != (curves["epochs"] or epochs) or not np.isfinite([*found, *loss]).all():
                raise ValueError("other epochs than in other runs, or values that are not finite")
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            said = f"cannot read {folder / 'results.csv'}: {type(error).__name__}: {error}"
            raise UserError(said, "delete its folder and run the study again") from None
        curves["epochs"] = epochs
        curves["map"].append(found)
        curves["loss"].append(loss)
    return curves


def _images(arm: str, folders: dict[tuple[str, int], Path]) -> dict[str, object] | None:
    """Images on which the arm did better or worse than the baseline, by F1 averaged over pairs."""
    pairs = sorted(pair for name, pair in folders if name == arm and ("baseline", pair) in folders)
    if not pairs:
        return None
    scores = {}
    for name in ("baseline", arm):
        found = [Detections.load(folders[name, pair] / "best.npz") for pair in pairs]
        scores[name] = np.mean([one.scores() for one in found], 0)
    difference = scores[arm] - scores["baseline"]
    order = np.argsort(-difference, kind="stable")

    def listed(chosen: NDArray) -> list[dict]:
        return [
            {
                "name": str(found[0].name[i]),
                "baseline": float(scores["baseline"][i]),
                "arm": float(scores[arm][i]),
                "difference": float(difference[i]),
            }
            for i in chosen
        ]

    better, worse = (difference > 1e-9).sum(), (difference < -1e-9).sum()
    return {
        "won": listed(order[: min(SHOWN, better)]),
        "lost": listed(order[::-1][: min(SHOWN, worse)]),
        "better": int(better),
        "worse": int(worse),
        "equal": int(len(difference) - better - worse),
    }


def _judge(arms: list[dict], averaged: _Averages, margin: float) -> None:
    """Put in the verdicts; those of treatments account for each other, and controls stand for themselves."""
    for key, kind in (("verdict", "best"), ("verdict_last", "last")):
        compared = {
            arm["name"]: _differences(arm["name"], "baseline", averaged, _overall(kind))
            for arm in arms
            if arm["role"] != "baseline"
        }
        ready = [arm for arm in arms if compared.get(arm["name"])]
        treatments = [arm for arm in ready if arm["role"] == "treatment"]
        for family in ([treatments] if treatments else []) + [[arm] for arm in ready if arm["role"] == "control"]:
            verdicts = judge([compared[arm["name"]] for arm in family], margin)
            for arm, verdict in zip(family, verdicts, strict=True):
                differences = compared[arm["name"]][0]
                arm[key] = {**_finite(verdict), "differences": differences.tolist()}


def _finite(verdict: Verdict) -> dict[str, object]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in dataclasses.asdict(verdict).items()
    }


def _over_placebo(arms: list[dict], averaged: _Averages) -> None:
    """What is left of each treatment's difference when the placebo's is taken away."""
    placebo = next((a["name"] for a in arms if a["role"] == "control" and a["name"].startswith("placebo")), None)
    for arm in arms:
        if placebo and arm["role"] == "treatment":
            compared = _with_interval(_differences(arm["name"], placebo, averaged, _overall("best")))
            if compared["difference"] is not None:
                arm["over_placebo"] = {"mean": compared["difference"], "low": compared["low"], "high": compared["high"]}


def _headline(arms: list[dict]) -> dict[str, str] | None:
    """The treatment to be named first: one with an answer before one without, then by its mean."""
    ready = [arm for arm in arms if arm["role"] == "treatment" and arm["verdict"]]
    if not ready:
        return None
    order = ("helps", "hurts", "no detectable difference", "underpowered")
    first = min(ready, key=lambda arm: (order.index(arm["verdict"]["word"]), -arm["verdict"]["mean"]))
    return {"arm": first["name"], "word": first["verdict"]["word"]}


def _claims(arms: tuple[Arm, ...]) -> int:
    return max(1, sum(arm.role == "treatment" for arm in arms))


def _deviation(found: dict[tuple[str, int], Result], arms: tuple[Arm, ...]) -> float | None:
    """Root mean square over treatments of the standard deviation of paired differences."""
    variances = []
    for arm in arms:
        paired = [
            r.map - found["baseline", pair].map
            for (name, pair), r in found.items()
            if name == arm.name and arm.role == "treatment" and ("baseline", pair) in found
        ]
        if len(paired) > 1:
            variances.append(np.var(paired, ddof=1))
    return float(np.sqrt(np.mean(variances))) if variances else None


def _sources(arms: tuple[Arm, ...]) -> dict[str, dict[str, str]]:
    """Of each model an arm starts from, a digest of every tensor; empty for one without weights."""
    models = {arm.model for arm in arms}
    return {m: recording.digests(host.load(m).model) if m.endswith(".pt") else {} for m in models}
