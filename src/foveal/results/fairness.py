"""Were the arms treated alike? One finding for each thing that must hold."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import yaml

from ..errors import damaged
from ..evidence import Metric, averages
from ..files import MALFORMED
from ..hosts import Inherited, Refused
from ..study import Arm, Plan, Result, deciding
from .schema import Finding

# Arguments in which cells of a fair study may differ. The host writes another number of workers down where a run on a
# CPU goes on; what workers decide are the batches, and those are compared.
OWN = ("model", "seed", "name", "project", "save_dir", "resume", "exist_ok", "data", "device", "pretrained", "workers")


def check(
    plan: Plan,
    epochs: Mapping[str, int],
    results: Mapping[tuple[str, int], Result],
    folders: Mapping[tuple[str, int], Path],
    sources: Mapping[str, dict[str, str]],
    chosen_on: str = "val",
    absent: str | None = None,
    given: Mapping[str, Inherited] = MappingProxyType({}),
) -> list[Finding]:
    """All findings about the finished cells of a study.

    An arm that is meant to be trained in another way is no unfairness: it is said, and its batches are not compared.

    Args:
        plan: of the study.
        epochs: planned, by arm.
        results: by arm and pair.
        folders: of the same cells.
        sources: of each model an arm starts from, a digest of every tensor; empty for fresh weights.
        chosen_on: the split that chose best.pt.
        absent: the test split that the data name and that is not there.
        given: what arms that are given weights start from, by arm.
    """
    if not results:
        return [Finding("evaluator", None, "nothing is finished yet")]
    values, declared = list(results.values()), {arm.name: arm.train for arm in plan.arms if arm.train}
    each = plan.devices_per_cell
    return [
        *_batches(results, declared),
        _epochs(epochs, results),
        _same(
            "batch",
            {r.batch for (arm, _), r in results.items() if "batch" not in declared.get(arm, {})},
            "{} images in every batch" + (f", an equal share on each of {each} devices" if each > 1 else ""),
        ),
        _arguments(folders, declared),
        _pretrained(plan, results, sources, given),
        _start(plan, results, sources, given),
        _all("finite", (r.finite for r in values), "all trained weights are finite", "weights that are not finite"),
        _learned(values, plan.metric),
        _all(
            "agreement",
            (r.disagreement <= averages.AGREEMENT for r in values),
            f"{plan.metric.name} computed again from what is stored is Ultralytics' own, "
            f"within {max(r.disagreement for r in values):.0e}",
            f"{plan.metric.name} computed again differs from Ultralytics' by up to "
            f"{max(r.disagreement for r in values):.0e}",
        ),
        _split(plan, chosen_on, absent),
        _same("versions", {str(sorted(deciding(r.versions).items())) for r in values}, "the same versions everywhere"),
        _same("device", {_kind(r.device) for r in values}, "every run on {}"),
        _resumed(values),
    ]


def _split(plan: Plan, chosen_on: str, absent: str | None) -> Finding:
    if plan.folds:
        said = f"each seed judged on the one of {plan.folds.number} folds that it held out"
        return Finding("split", None, f"{said}, on which best.pt was chosen in every arm")
    if chosen_on != plan.split:
        return Finding("split", True, f"judged on {plan.split}, which chose nothing")
    said = f"judged on {plan.split}, on which best.pt was chosen in every arm{without_test(absent)}"
    return Finding("split", None, said)


def without_test(absent: str | None) -> str:
    """The end of a sentence about the split."""
    return f"; {absent}, named as the test split, is not there" if absent else ""


def labels(refused: Mapping[str, Refused] | None) -> Finding:
    """Images that the host left out, which is the same for all arms; None if nobody looked."""
    if refused is None:
        return Finding("labels", None, "whether Ultralytics left out images is not known")
    if not refused:
        return Finding("labels", True, "Ultralytics left out no image")
    told = "; ".join(f"of {split}, {which}" for split, which in refused.items())
    return Finding("labels", None, f"left out by Ultralytics: {told}")


def apart(plan: Plan, digests: Mapping[str, str]) -> list[Finding]:
    """Images that are judged and trained on as well, told by their content; nothing if there are none.

    Args:
        plan: of the study.
        digests: of each file of its data, by its path below the root.
    """
    if plan.folds:
        return []
    root = plan.dataset.root.resolve()
    train, judged = (
        [digests.get(os.path.relpath(image, root)) for image in plan.dataset.images(split)]
        for split in ("train", plan.split)
    )
    both = sum(digest in {*train} for digest in judged if digest)
    if not both:
        return []
    said = f"{both} of {len(judged)} images of {plan.split} are in train as well: every arm looks better than it is"
    return [Finding("apart", None, said)]


def frozen(changed: Mapping[str, tuple[object, object]] | None) -> Finding:
    """What of the plan was changed after the study began, as it was and as it is; None if nobody noted it."""
    if changed is None:
        return Finding("frozen", None, "whether the plan was changed is not known")
    if not changed:
        return Finding("frozen", True, "arms, looks, margin, metric and split are those that the study began with")
    told = "; ".join(f"{key} {was} when the study began, {now} now" for key, (was, now) in changed.items())
    return Finding("frozen", False, f"after results were there: {told}. The error rate is that of the first plan")


def _all(check: str, holds: Iterable[bool], yes: str, no: str) -> Finding:
    broken = sum(not ok for ok in holds)
    return Finding(check, not broken, f"{broken} runs: {no}" if broken else yes)


def _same(check: str, found: set, detail: str) -> Finding:
    if len(found) == 1:
        return Finding(check, True, detail.format(*found))
    return Finding(check, False, f"not the same in all runs: {', '.join(sorted(map(str, found)))}")


def _learned(values: list[Result], metric: Metric) -> Finding:
    """Models that find nothing at all differ by nothing, which would look like an answer."""
    if any(value for result in values for key, value in result.scores.items() if key in (metric.key, metric.last)):
        return Finding("learned", True, f"{metric.name} is above 0")
    return Finding("learned", False, f"{metric.name} is 0 in every run: trained so briefly, equal arms say nothing")


def _batches(results: Mapping[tuple[str, int], Result], aside: Collection[str]) -> list[Finding]:
    """Arms that draw from the same seed see the same batches, and no two seeds do; some arms are left aside."""
    by_seed: dict[int, set[tuple[str, ...]]] = {}
    for result in (result for (arm, _), result in results.items() if arm not in aside):
        by_seed.setdefault(result.seed, set()).add(tuple(result.batches))
    unequal = sorted(seed for seed, found in by_seed.items() if len(found) > 1)
    every = [found for seen in by_seed.values() for found in seen]
    alike = len(every) - len(set(every))
    without = f", {' and '.join(aside)} aside" if aside else ""
    return [
        Finding("batches", False, f"arms saw different batches at seed {', '.join(map(str, unequal))}")
        if unequal
        else Finding("batches", True, f"all arms saw the same batches at each seed, in every epoch{without}"),
        Finding("seeds", not alike, "two seeds saw the same batches" if alike else "no two seeds saw the same batches"),
    ]


def _epochs(planned: Mapping[str, int], results: Mapping[tuple[str, int], Result]) -> Finding:
    short = sorted({f"{of.epochs} of {planned[arm]}" for (arm, _), of in results.items() if of.epochs != planned[arm]})
    if short:
        return Finding("epochs", False, f"not all epochs in every run: {', '.join(short)}")
    told = " or ".join(map(str, sorted({planned[arm] for arm, _ in results})))
    return Finding("epochs", True, f"all {told} epochs in every run, none stopped early")


def _arguments(folders: Mapping[tuple[str, int], Path], declared: Mapping[str, Mapping[str, object]]) -> Finding:
    """All other training arguments, as the host wrote them down, but for those that an arm is meant to differ in."""
    written = {where: _written(folder / "args.yaml") for where, folder in folders.items()}
    first = next(iter(written.values()))
    meant = {arm: {*declared[arm]} for arm in dict.fromkeys(arm for arm, _ in written) if arm in declared}
    own = {arm: names | ({"close_mosaic"} if "epochs" in names else set()) for arm, names in meant.items()}
    alike = [{**of, **{name: first.get(name) for name in own.get(arm, ())}} for (arm, _), of in written.items()]
    if differ := differing(alike):
        return Finding("optimizer", False, f"training arguments differ: {', '.join(differ)}")
    said = f"{first['optimizer']}, lr0 {first['lr0']:g}; all {'other ' if meant else ''}training arguments are the same"
    told = (f"{arm} is meant to differ in {', '.join(sorted(names))}" for arm, names in meant.items())
    return Finding("optimizer", True, "; ".join([said, *told]))


def _written(file: Path) -> dict:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        return found | {"optimizer": found["optimizer"], "lr0": float(found["lr0"])}
    except (*MALFORMED, yaml.YAMLError) as error:
        raise damaged(file, error) from None


def differing(written: list[dict]) -> list[str]:
    """Names of training arguments that are not the same in all runs, beyond those that may differ."""
    names = {name for arguments in written for name in arguments} - set(OWN)
    return sorted(name for name in names if any(a.get(name) != written[0].get(name) for a in written))


def _pretrained(
    plan: Plan,
    results: Mapping[tuple[str, int], Result],
    sources: Mapping[str, dict[str, str]],
    given: Mapping[str, Inherited],
) -> Finding:
    # Arms by what they keep, by model; an attention that replaces a part is meant to leave out its tensors, and a model
    # that is given weights is meant to have those that fit.
    shares: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for arm in plan.arms:
        source, replaces = sources[arm.model], str(arm.spec) if arm.spec and arm.spec.replace else ""
        of = len(source)
        if arm.name in given:
            source, of = given[arm.name].digests, given[arm.name].tensors[1]
        for result in (result for (name, _), result in results.items() if name == arm.name and source):
            kept = sum(result.start.get(name) == digest for name, digest in source.items())
            alike = arm.model, arm.weights or "", replaces
            shares.setdefault(alike, {}).setdefault(f"{kept}/{of}", set()).add(arm.name)
    if not shares:
        return Finding("pretrained", None, "every arm starts from fresh weights")
    told = [f"{share} in {', '.join(sorted(a))}" for of in shares.values() for share, a in of.items()]
    fresh = {name for name, _ in results}.difference(*(arms for of in shares.values() for arms in of.values()))
    told += [f"none in {', '.join(sorted(fresh))}"] if fresh else []
    said = f"pretrained tensors kept: {'; '.join(told)}"
    return Finding("pretrained", all(len(of) == 1 for of in shares.values()), said)


def _start(
    plan: Plan,
    results: Mapping[tuple[str, int], Result],
    sources: Mapping[str, dict[str, str]],
    given: Mapping[str, Inherited],
) -> Finding:
    """What an arm shares with the baseline starts at the same values, also where weights are drawn."""
    baseline, *others = plan.arms
    before = {result.seed: result.start for (name, _), result in results.items() if name == baseline.name}
    source = sources[baseline.model]

    def shared(arm: Arm, start: Mapping[str, str], first: Mapping[str, str]) -> dict[str, str]:
        """What tensors of an arm are at the start of the baseline."""
        if arm.name not in given:
            return {name: first[name] for name in start if name in first}
        # What the host draws anew, where the data have other classes than the file, it draws for each model by itself.
        names = given[arm.name].names.items()
        return {new: first[old] for new, old in names if old in source and first.get(old) == source[old]}

    alike = [
        (arm.name, all(result.start.get(tensor) == digest for tensor, digest in same.items()))
        for arm in others
        for (name, _), result in results.items()
        if name == arm.name and baseline.model == (arm.weights or arm.model) and result.seed in before
        for same in [shared(arm, result.start, before[result.seed])]
    ]
    if not alike:
        return Finding("start", None, "no arm shares the baseline's model and seeds yet")
    unequal = sorted({name for name, equal in alike if not equal})
    if unequal:
        return Finding("start", False, f"tensors shared with the baseline start elsewhere in {', '.join(unequal)}")
    return Finding("start", True, "every tensor shared with the baseline starts at the same value, at each seed")


def _kind(device: str) -> str:
    """Numbers of GPUs do not count, but how many there are does: each normalises its share of a batch."""
    count = len(device.split(","))
    return "cpu" if device == "cpu" else f"{count} gpus" if count > 1 else "gpu"


def _resumed(values: list[Result]) -> Finding:
    resumed = [result for result in values if result.resumed]
    if not resumed:
        return Finding("resumed", True, "no run was interrupted")
    exact = all(result.device == "cpu" for result in resumed)
    detail = f"{len(resumed)} runs were interrupted and went on after their last whole epoch"
    return Finding("resumed", True if exact else None, detail + (", exactly" if exact else ""))
