"""From finished cells to what a report shows: verdicts, averages, costs and findings."""

from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import torch
from numpy.typing import NDArray

from ..bench import timing
from ..errors import UserError
from ..evidence import averages
from ..study import LOG, Plan, Status, Study, chosen_on, claims, refused, starts, versions
from ..verdict import LEARNED, LEVEL, Outcome
from . import costs, entries, fairness, parts
from .entries import Finished
from .gates import Gallery
from .schema import (
    SCHEMA_VERSION,
    ArmResults,
    DataSet,
    FailedCell,
    Finding,
    Headline,
    Paper,
    Progress,
    Statistics,
    StudyResults,
)


def assemble(study: Study) -> StudyResults:
    """Everything a report shows, of a study that is finished or under way.

    Args:
        study: with at least one finished cell of the baseline.

    Raises:
        UserError: nothing is finished yet.
    """
    found = study.results()
    if not any(arm == "baseline" for arm, _ in found):
        raise _nothing_finished(study)
    plan, states, name = study.plan, study.states(), study.folder.resolve().name
    folds = plan.text.get("folds")
    finished = Finished.of(study, found)
    cut, cost = parts.sliced(finished), costs.costs(study, finished.results)
    arms = entries.arms(finished, cost, cut.arms if cut else {}, parts.errors(finished))
    failed = [state for state in states if state.status is Status.FAILED]
    return StudyResults(
        SCHEMA_VERSION,
        foveal=versions()["foveal"],
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        name=name,
        task=plan.task.name,
        complete=all(state.status is Status.FINISHED for state in states),
        cells=Progress(
            len(states),
            len(finished.results),
            tuple(FailedCell(state.cell.arm.name, state.cell.pair, state.reason) for state in failed),
        ),
        plan={**plan.text, "arms": [arm.name for arm in plan.arms], "seeds": list(plan.seeds), "train": plan.train}
        | {"looks": list(plan.looks), "split": plan.split, "margin": plan.margin}
        | ({"folds": folds if isinstance(folds, dict) else {"number": folds}} if plan.folds else {}),
        commands=tuple(f"foveal study {command} {name}" for command in ("run", "report")),
        data=_data(finished),
        versions=versions(),
        machine=timing.environment(torch.device(costs.device_of(finished.results))),
        statistics=_statistics(plan),
        verdict=_headline(arms),
        fairness=tuple(_findings(finished)),
        arms=arms,
        scale=plan.rehearsal,
        paper=_paper(plan),
        slicing=cut.slicing if cut else None,
    )


def measure(study: Study, found: StudyResults) -> StudyResults:
    """The same results with the models timed, and the gates drawn on images won and lost, unless that has been done.

    Nothing else should run on this machine meanwhile.

    Args:
        study: whose results they are.
        found: as they were assembled; its images are those that gates are drawn on.
    """
    cost = costs.timed(study)
    arms = []
    for planned, arm in zip(study.plan.arms, found.arms, strict=True):
        images = arm.images and Gallery(study, planned, arm.seeds[0]).draw(arm.images)
        arms.append(replace(arm, cost=cost[arm.name], images=images))
    return replace(found, arms=tuple(arms))


def _data(finished: Finished) -> DataSet:
    plan, sizes, images = finished.plan, finished.objects(), sum(len(truth.name) for truth in finished.truths)
    names, objects = tuple(plan.dataset.names.values()), sum(sizes.values()) if sizes else None
    return DataSet(finished.study.contents.digest, names, plan.split, images, objects)


def _statistics(plan: Plan) -> Statistics:
    metric, learned = plan.metric, LEARNED * plan.margin
    shared = averages.RESAMPLES, claims(plan.arms), plan.looks, learned
    return Statistics(metric.name, LEVEL, plan.margin, *shared, second=metric.second)


def _paper(plan: Plan) -> Paper | None:
    """What a paper reports of all arms; None if it reports nothing of any."""
    if plan.paper is None or not any(plan.paper.figure(arm) for arm in plan.arms):
        return None
    return Paper(plan.paper.source, plan.metric.name, tuple(plan.paper.notes))


def _headline(arms: tuple[ArmResults, ...]) -> Headline | None:
    """The treatment to be named first: the one with the most to say, then the one with the largest mean."""
    order = list(Outcome)
    ready = [(arm.name, arm.verdict) for arm in arms if arm.role == "treatment" and arm.verdict]
    if not ready:
        return None
    name, first = min(ready, key=lambda one: (order.index(one[1].outcome), -one[1].mean))
    return Headline(name, first.outcome)


def _findings(finished: Finished) -> list[Finding]:
    """Were the arms treated alike?"""
    study, plan, folders = finished.study, finished.plan, finished.folders
    # Digests of every tensor of each model that an arm starts from; none for a model without weights.
    sources = {model: plan.host.digests(model) for model in {arm.model for arm in plan.arms}}
    chosen, absent = chosen_on(plan.dataset), plan.dataset.absent
    given = starts(plan.arms, plan.host)
    findings = fairness.check(plan, study.epochs, finished.results, folders, sources, chosen, absent, given)
    findings += [fairness.labels(refused(study.folder)), *fairness.apart(plan, study.contents.files)]
    findings.append(fairness.frozen(study.changed()))
    first: dict[int, NDArray] = {}  # with folds of each seed
    for arm, pair in folders:
        names = finished.judged(arm, pair).name
        if not np.array_equal(first.setdefault(pair if plan.folds else 0, names), names):
            return [*findings, Finding("evaluator", False, "arms were judged on different images")]
    images = sum(len(truth.name) for truth in finished.truths)
    alike = f"every run judged on the same {images} images"
    if plan.folds:
        alike = f"all runs of a seed judged on the same images, {images} in all folds"
    return [*findings, Finding("evaluator", True, alike)]


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
