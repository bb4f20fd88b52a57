"""From finished cells to one dictionary: verdicts, averages, costs and findings, all that a report shows."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..bench import timing
from ..errors import UserError
from ..evidence import Answers, Detections, Metric, Says, averages, over_classes
from ..files import write_text
from ..study import (
    LOG,
    WEIGHTS,
    Arm,
    Averages,
    Plan,
    Result,
    Status,
    Study,
    chosen_on,
    claims,
    differences,
    overall,
    refused,
    rows,
    verdicts,
    versions,
)
from ..verdict import LEARNED, LEVEL, Verdict, detectable, fewest_seeds, interval, mcnemar
from . import fairness, gates
from .costs import costs, device_of

SHOWN = 10  # images won, and lost
# The treatment with the most to say comes first.
ORDER = ("helps", "hurts", "equivalent", "inconclusive", "never opened", "nothing learned", "preliminary")


def before(plan: Plan, found: Mapping[tuple[str, int], Result]) -> str:
    """What this many seeds can find, to be read before hours are spent; with the results there are."""
    seeds, level = plan.looks[-1], LEVEL / claims(plan.arms)
    epochs = " or ".join(map(str, sorted({plan.epochs(arm) for arm in plan.arms})))
    most = "" if plan.looks == (seeds,) else "at most "
    lines = [f"{most}{len(plan.arms) * seeds} trainings of {epochs} epochs, {len(found)} of them finished"]
    if seeds < fewest_seeds(level):
        p = min(1.0, 2.0 ** (1 - seeds) * claims(plan.arms))
        lines.append(f"{seeds} seeds cannot call anything a help: the smallest p is {p:.2g}. {fewest_seeds(level)} can")
    else:
        lines.append(
            f"{seeds} seeds find a difference of {detectable(seeds, level):.2f} standard deviations of the paired "
            f"differences with a power of 80 %; the smallest p is {2.0 ** (1 - seeds):.2g}"
        )
    if most:
        counts = ", ".join(map(str, plan.looks))
        lines.append(f"arms are judged after {counts} seeds; one that has its word by then is trained no more")
    if plan.split != "test" and (absent := _absent(plan)):
        lines.append(f"judged on {plan.split}{fairness.without_test(absent)}")
    deviation = _deviation(found, plan)
    if deviation is not None and math.isfinite(detectable(seeds, level)):
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
        raise _nothing_finished(study)
    folders = study.folders(found)
    averaged = averages.loaded(folders, WEIGHTS, plan.task)
    cost = costs(study, found, measure)
    names = list(plan.dataset.names.values())

    def judged(arm: str, pair: int) -> Detections | Answers:  # read when needed: all at once would fill the memory
        return averages.judged(folders[arm, pair], "best", plan.task)

    truth = judged(*next(iter(folders)))
    sizes = truth.objects()
    arms = [
        _arm(arm, plan, found, folders, averaged, judged, names, sizes) | {"cost": cost[arm.name]} for arm in plan.arms
    ]
    _judge(arms, plan, found, averaged)
    _over_placebo(arms, averaged)
    gates.link(study, arms, draw=measure)
    return {
        **_about(study, found),
        "data": {
            "digest": study.contents.digest,
            "names": names,
            "split": plan.split,
            "images": len(truth.name),
            "objects": sum(sizes.values()) if sizes else None,
        },
        "paper": _beside_paper(arms, plan),
        "versions": versions(),
        "machine": timing.environment(torch.device(device_of(found))),
        "statistics": {"metric": plan.metric.name, "second": plan.metric.second}
        | {"level": LEVEL, "margin": plan.margin, "resamples": averages.RESAMPLES, "treatments": claims(plan.arms)}
        | {"looks": list(plan.looks), "learned": LEARNED * plan.margin},
        "verdict": _headline(arms),
        "fairness": [dataclasses.asdict(finding) for finding in _findings(study, found, folders, judged)],
        "arms": arms,
    }


def _about(study: Study, found: Mapping[tuple[str, int], Result]) -> dict[str, object]:
    """What was planned, and how far it is."""
    plan, states, name = study.plan, study.states(), study.folder.resolve().name
    failed = [s for s in states if s.status is Status.FAILED]
    return {
        "foveal": versions()["foveal"],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "name": name,
        "task": plan.task.name,
        "scale": plan.rehearsal,
        "complete": all(state.status is Status.FINISHED for state in states),
        "cells": {
            "planned": len(states),
            "finished": len(found),
            "failed": [{"arm": s.cell.arm.name, "seed": s.cell.pair, "reason": s.reason} for s in failed],
        },
        "plan": {**plan.text, "arms": [arm.name for arm in plan.arms], "seeds": list(plan.seeds), "train": plan.train}
        | {"looks": list(plan.looks), "split": plan.split, "margin": plan.margin},
        "commands": [f"foveal study {command} {name}" for command in ("run", "report")],
    }


def _findings(study: Study, found: dict, folders: dict, judged: "_Judged") -> list[fairness.Finding]:
    """Were the arms treated alike?"""
    splits = {"chosen_on": chosen_on(study.plan.dataset), "absent": study.plan.dataset.absent}
    findings = fairness.check(study.plan, study.epochs, found, folders, _sources(study.plan), **splits)
    findings += [fairness.labels(refused(study.folder)), fairness.frozen(study.changed())]
    images = judged(*next(iter(folders))).name
    if any(not np.array_equal(images, judged(*where).name) for where in folders):
        return [*findings, fairness.Finding("evaluator", False, "arms were judged on different images")]
    return [*findings, fairness.Finding("evaluator", True, f"every run judged on the same {len(images)} images")]


def _nothing_finished(study: Study) -> UserError:
    """Say why no run is finished, because to run the study again would end the same way."""
    said = f"no run of the baseline is finished in {study.folder}"
    failed = [state for state in study.states() if state.status is Status.FAILED and state.cell.arm.role == "baseline"]
    if not failed:
        aside = study.not_counted()
        return UserError(f"{said}: {aside}" if aside else said, f"foveal study run {study.folder}")
    first = failed[0]
    why = f"{len(failed)} failed, with seed {first.cell.pair} because: {first.reason}"
    log = study.path(first.cell) / LOG
    return UserError(f"{said}: {why}", f"see {log}, and run the study again once that is mended")


def write(results: dict[str, object], folder: Path) -> Path:
    """Write `results.json`."""
    target = folder / "results.json"
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(target, text)
    return target


# Differences ---------------------------------------------------------------------------------------------------------


_Judged = Callable[[str, int], Detections | Answers]


def _with_interval(found: tuple[NDArray, NDArray] | None) -> dict[str, float | None]:
    if found is None or np.isnan(found[0]).any() or found[1].shape[1] < 2:
        return {"difference": None, "low": None, "high": None}
    low, high = interval(*found)
    return {"difference": float(found[0].mean()), "low": float(low), "high": float(high)}


# Arms ----------------------------------------------------------------------------------------------------------------


def _arm(
    arm: Arm,
    plan: Plan,
    found: dict[tuple[str, int], Result],
    folders: dict[tuple[str, int], Path],
    averaged: Averages,
    judged: _Judged,
    names: list[str],
    sizes: dict[str, int],
) -> dict[str, object]:
    pairs, metric = sorted(pair for name, pair in found if name == arm.name), plan.metric
    mine = [found[arm.name, pair] for pair in pairs]
    shared = [pair for pair in pairs if ("baseline", pair) in found]
    stored = [averaged[arm.name, pair]["best"] for pair in pairs]
    first, answered = next(iter(averaged.values()))["best"], plan.task.says is Says.CLASS

    def part(key: str, column: int | None) -> dict[str, float | None]:
        def value(of: dict) -> NDArray:
            return over_classes(of["best"][key]) if column is None else of["best"][key][:, column]

        average = float(np.mean([value({"best": one})[0] for one in stored])) if stored else math.nan
        compared = None if arm.role == "baseline" else differences(arm.name, "baseline", averaged, value)
        return {metric.part: None if math.isnan(average) else average, **_with_interval(compared)}

    return {
        "name": arm.name,
        "role": arm.role,
        "seeds": pairs,
        **{key: [r.scores[key] for r in mine] for key in (metric.key, metric.second_key, metric.last)},
        "verdict": None,
        "verdict_last": None,
        "over_placebo": None,
        "classes": [{"name": names[c], **part(metric.key, i)} for i, c in enumerate(first["classes"].tolist())],
        "sizes": [{"name": size, "objects": objects, **part(size, None)} for size, objects in sizes.items()],
        "curves": _curves([folders[arm.name, pair] for pair in pairs], metric),
        "images": _images(arm.name, shared, judged) if arm.role == "treatment" and shared else None,
        "mcnemar": _mcnemar(arm.name, shared, judged) if answered and arm.role != "baseline" else None,
    }


def _curves(folders: list[Path], metric: Metric) -> dict[str, list]:
    """Read the learning curves of the runs of one arm.

    Raises:
        UserError: a table that cannot be read, or is not as long as the others.
    """
    curves: dict[str, list] = {"epochs": [], metric.key: [], "loss": []}
    for folder in folders:
        try:
            table = rows(folder)
            losses = [key for key in table[0] if key.startswith("train/")]
            epochs = [int(row["epoch"]) for row in table]
            found = [float(row[metric.column]) for row in table]
            loss = [sum(float(row[key]) for key in losses) for row in table]
            if epochs != (curves["epochs"] or epochs) or not np.isfinite([*found, *loss]).all():
                raise ValueError("other epochs than in other runs, or values that are not finite")
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            said = f"cannot read {folder / 'results.csv'}: {type(error).__name__}: {error}"
            raise UserError(said, "delete its folder and run the study again") from None
        curves["epochs"] = epochs
        curves[metric.key].append(found)
        curves["loss"].append(loss)
    return curves


def _images(arm: str, pairs: list[int], judged: _Judged) -> dict[str, object]:
    """Images on which the arm did better or worse than the baseline, by their scores averaged over pairs."""
    names = judged(arm, pairs[0]).name
    scores = {name: np.mean([judged(name, pair).scores() for pair in pairs], 0) for name in ("baseline", arm)}
    difference = scores[arm] - scores["baseline"]
    order = np.argsort(-difference, kind="stable")

    def listed(chosen: NDArray) -> list[dict]:
        return [
            {
                "name": str(names[i]),
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


def _mcnemar(arm: str, pairs: list[int], judged: _Judged) -> list[dict[str, float]]:
    """Count, for each pair, the images that one of the two models gets right and the other does not."""
    rows = []
    for pair in pairs:
        mine, theirs = (judged(name, pair).scores() for name in (arm, "baseline"))
        won, lost = int((mine > theirs).sum()), int((mine < theirs).sum())
        rows.append({"seed": pair, "won": won, "lost": lost, "p": mcnemar(won, lost)})
    return rows


def _beside_paper(arms: list[dict], plan: Plan) -> dict[str, object] | None:
    """Put in what a paper reports of each arm, and how far that is from its baseline; what it says of all of them."""
    figures = [plan.paper and plan.paper.figure(arm) for arm in plan.arms]
    for arm, figure in zip(arms, figures, strict=True):
        known = None not in (figure, figures[0]) and arm["role"] != "baseline"
        arm |= {"paper": figure, "paper_difference": figure - figures[0] if known else None}
    if not any(figures):
        return None
    return {"source": plan.paper.source, "metric": plan.metric.name, "notes": list(plan.paper.notes)}


def _judge(arms: list[dict], plan: Plan, found: dict[tuple[str, int], Result], averaged: Averages) -> None:
    """Put in the verdicts on best.pt and on last.pt, with the differences that they are about."""
    for key, kind in (("verdict", "best"), ("verdict_last", "last")):
        words = verdicts.judged(plan, found, averaged, kind)
        for arm in arms:
            if said := words.get(arm["name"]):
                arm[key] = {**_finite(said.verdict), "differences": said.differences.tolist(), "pairs": said.pairs}


def _finite(verdict: Verdict) -> dict[str, object]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in dataclasses.asdict(verdict).items()
    }


def _over_placebo(arms: list[dict], averaged: Averages) -> None:
    """What is left of each treatment's difference when the placebo's is taken away."""
    placebo = next((a["name"] for a in arms if a["role"] == "control" and a["name"].startswith("placebo")), None)
    for arm in arms:
        if placebo and arm["role"] == "treatment":
            compared = _with_interval(differences(arm["name"], placebo, averaged, overall("best")))
            if compared["difference"] is not None:
                arm["over_placebo"] = {"mean": compared["difference"], "low": compared["low"], "high": compared["high"]}


def _headline(arms: list[dict]) -> dict[str, str] | None:
    """The treatment to be named first: one with an answer before one without, then by its mean."""
    ready = [arm for arm in arms if arm["role"] == "treatment" and arm["verdict"]]
    if not ready:
        return None
    first = min(ready, key=lambda arm: (ORDER.index(arm["verdict"]["word"]), -arm["verdict"]["mean"]))
    return {"arm": first["name"], "word": first["verdict"]["word"]}


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


def _sources(plan: Plan) -> dict[str, dict[str, str]]:
    """Digests of every tensor of each model that an arm starts from; none for a model without weights."""
    return {model: plan.host.digests(model) for model in {arm.model for arm in plan.arms}}


def _absent(plan: Plan) -> str | None:
    """The test split that the data names and that is not there; None if there is none such, or no data here."""
    try:
        return plan.dataset.absent
    except UserError:
        return None
