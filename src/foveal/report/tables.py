"""The arms of a study as tables: one for a paper, one for pandas."""

import csv
import io

from ..pages import NOTHING, look_up, shown
from ..results import ArmResults, StudyResults
from ..verdict import Outcome


def paired(arm: ArmResults, baseline: ArmResults, key: str) -> dict[int, float]:
    """Difference of a metric to the baseline at each seed that both have."""
    theirs = dict(zip(baseline.seeds, baseline.scores[key], strict=True))
    mine = zip(arm.seeds, arm.scores[key], strict=True)
    return {seed: value - theirs[seed] for seed, value in mine if seed in theirs}


def for_a_paper(results: StudyResults) -> str:
    """Markdown: one row for each arm; then, where there are any, one for each of its slices, and the cost of errors."""
    tables = [_arms(results)]
    if results.slicing:
        tables.append(_slices(results))
    if results.baseline.errors:
        tables.append(_errors(results))
    return "\n".join("".join(f"| {' | '.join(line)} |\n" for line in lines) for lines in tables)


def _arms(results: StudyResults) -> list[list[str]]:
    level, metric = shown(results.statistics.level, "coverage"), results.metrics[0]
    beside = results.metrics[1:]
    heads = ["Arm", "Seeds", metric.name, metric.second, *(other.name for other in beside)]
    heads += [f"Difference [{level} % interval]", "p", "Verdict"]
    heads += ["Parameters", "GFLOPs", "Latency (ms)", "Training (min)"]
    lines = [heads, [":--", *["--:"] * (5 + len(beside)), ":--", *["--:"] * 4]]
    size = look_up(results.baseline, "cost.image_size")
    for arm in results.arms:

        def cell(path: str, form: str, arm: ArmResults = arm) -> str:
            return shown(look_up(arm, path), form)

        difference, outcome, score = cell("verdict.mean", "signed-points"), NOTHING, f"scores.{metric.key}"
        if arm.verdict:
            outcome = str(arm.verdict.outcome)
            if arm.verdict.low is not None:
                bounds = [cell(f"verdict.{bound}", "signed-points") for bound in ("low", "high")]
                difference += f" [{', '.join(bounds)}]"
            if arm.verdict.outcome is Outcome.EQUIVALENT:
                outcome += f" within ±{shown(results.statistics.margin, 'points')}"
        average = cell(score, "mean-points")
        if arm.seeds[1:]:
            average += f" ± {cell(score, 'deviation-points')}"
        row = [_in_markdown(arm.name), cell("seeds", "count"), average]
        row += [cell(f"scores.{metric.second_key}", "mean-points")]
        row += [*(cell(f"scores.{other.key}", "mean-points") for other in beside), difference]
        flops = cell("cost.flops", "giga")
        if arm.cost and arm.cost.flops is not None and arm.cost.image_size != size:
            flops += f" ({arm.cost.image_size} px)"
        row += [cell("verdict.p", "p"), outcome, cell("cost.parameters", "integer"), flops]
        lines.append([*row, cell("cost.milliseconds.1", "milliseconds"), cell("cost.train_seconds", "mean-minutes")])
    return lines


def _slices(results: StudyResults) -> list[list[str]]:
    level, metric = shown(results.statistics.level, "coverage"), results.metrics[0]
    lines = [["Arm", "Slice", "Images", "Objects", metric.name, f"Difference [{level} % interval]", "p"]]
    lines.append([":--", ":--", "--:", "--:", "--:", "--:", "--:"])
    for arm in results.arms:
        for one in arm.slices:
            difference = shown(one.difference, "signed-points")
            if one.p is not None:
                difference += f" [{shown(one.low, 'signed-points')}, {shown(one.high, 'signed-points')}]"
            row = [_in_markdown(arm.name), _in_markdown(f"{one.column}: {one.name}"), shown(one.images, "integer")]
            row += [shown(one.objects, "integer"), shown(one.average, "points"), difference, shown(one.p, "p")]
            lines.append(row)
    return lines


def _errors(results: StudyResults) -> list[list[str]]:
    names = [one.name for one in results.baseline.errors]
    lines = [["Arm", *(f"mAP50 lost to {name}" for name in names)], [":--", *("--:" for _ in names)]]
    for arm in results.arms:
        costs = [shown(one.costs, "mean-points") for one in arm.errors]
        if arm.seeds[1:]:
            costs = [
                f"{mean} ± {shown(one.costs, 'deviation-points')}" for mean, one in zip(costs, arm.errors, strict=True)
            ]
        lines.append([_in_markdown(arm.name), *costs])
    return lines


def _in_markdown(name: str) -> str:
    return " ".join(name.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def for_pandas(results: StudyResults) -> str:
    """CSV, one row for each arm and finished seed, all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metric, *beside = results.metrics
    keys = (*metric.keys, metric.last, *(key for one in beside for key in one.keys))
    types = [f"lost_to_{one.name}" for one in results.baseline.errors]
    writer.writerow(("arm", "role", "seed", *keys, "difference", "train_seconds", *types))
    for arm in results.arms:
        differences = {} if arm is results.baseline else paired(arm, results.baseline, metric.key)
        seconds = arm.cost.train_seconds if arm.cost else [None] * len(arm.seeds)
        columns = [arm.seeds, seconds, *(arm.scores[key] for key in keys), *(one.costs for one in arm.errors)]
        for seed, lasted, *values in zip(*columns, strict=True):
            scores, lost = values[: len(keys)], values[len(keys) :]
            writer.writerow((arm.name, arm.role, seed, *scores, differences.get(seed), lasted, *lost))
    return text.getvalue()
