"""What is known of a study, as records that nobody changes: `results.json` holds them, report and viewer read them.

Metrics, their differences and their bounds are fractions: 0.01 is a point. Times are milliseconds or seconds as their
names say. A value that is not known is None.
"""

from dataclasses import dataclass

from ..bench import timing
from ..evidence import TASKS, Metric
from ..verdict import Outcome, Verdict

SCHEMA_VERSION = 2  # rises when a name changes its meaning or its place; 1 had none


@dataclass(frozen=True)
class Finding:
    """One thing that must hold, or two runs are no fair comparison.

    Attributes:
        check: its name.
        ok: whether it holds; None if nobody can tell, or it is no more than a caveat.
        detail: why.
        unknown: whether it may not hold, and what is there does not tell.
    """

    check: str
    ok: bool | None
    detail: str
    unknown: bool = False


@dataclass(frozen=True)
class FailedCell:
    """A training that failed, and why."""

    arm: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Progress:
    """How many trainings were planned, how many are finished, and which of them failed."""

    planned: int
    finished: int
    failed: tuple[FailedCell, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """What the models were judged on.

    Attributes:
        digest: of all images and labels, in hexadecimal digits.
        names: of the classes, in order.
        split: that was judged.
        images: in it.
        objects: in it; None where images have a class and no objects.
    """

    digest: str
    names: tuple[str, ...]
    split: str
    images: int
    objects: int | None = None


@dataclass(frozen=True)
class Slicing:
    """By what the images were sliced.

    Attributes:
        file: the CSV, as the plan names it.
        digest: of its content, in hexadecimal digits.
        outside: images that are in no slice.
        fewest: images of a slice that has an interval.
    """

    file: str
    digest: str
    outside: int
    fewest: int


@dataclass(frozen=True)
class Statistics:
    """By which rules verdicts were found.

    Attributes:
        metric: the one that decides, as people write it.
        level: of all verdicts together; 0.05 makes intervals of 95 %.
        margin: the smallest difference that would matter in practice.
        resamples: draws of the images.
        treatments: arms that share the level.
        looks: after how many seeds arms are judged.
        learned: the metric that one of two arms must reach before their difference means anything.
        second: the metric that stands beside the first.
    """

    metric: str
    level: float
    margin: float
    resamples: int
    treatments: int
    looks: tuple[int, ...]
    learned: float
    second: str | None = None


@dataclass(frozen=True)
class Headline:
    """The treatment that is named first, and its outcome."""

    arm: str
    outcome: Outcome


@dataclass(frozen=True)
class Paper:
    """What a study repeats: where the figures are printed, by which metric, and what to know of them."""

    source: str
    metric: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ArmVerdict(Verdict):
    """The verdict on an arm.

    Attributes:
        differences: to the baseline, at each seed.
        pairs: those seeds.
    """

    differences: tuple[float, ...]
    pairs: tuple[int, ...]


@dataclass(frozen=True)
class OverPlacebo:
    """What is left of a treatment's difference when the placebo's is taken away, and the bounds of its interval."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Part:
    """An arm on one class, or on objects of one size, or by another metric.

    Attributes:
        name: of the class or size or metric.
        average: of its metric over seeds.
        difference: to the baseline's, over pairs.
        low: lower bound of its interval.
        high: upper bound.
        objects: of this size; else None.
    """

    name: str
    average: float | None
    difference: float | None
    low: float | None
    high: float | None
    objects: int | None = None


@dataclass(frozen=True, kw_only=True)
class Slice(Part):
    """An arm on the images of one slice, which is named by a value.

    Attributes:
        column: that holds the value.
        images: in it.
        p: two-sided; the interval is of the same decision. None where there is no interval.
    """

    column: str
    images: int
    p: float | None


@dataclass(frozen=True)
class ErrorType:
    """What one type of error costs an arm.

    Attributes:
        name: of the type.
        costs: how much larger mAP50 would be without it, at each seed.
        differences: to the baseline's, at each pair.
    """

    name: str
    costs: tuple[float, ...]
    differences: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """Learning curves on val.

    Attributes:
        epochs: that all of them have.
        metric: of each seed, at each epoch.
        loss: of training, likewise; None where it was no number.
    """

    epochs: tuple[int, ...]
    metric: tuple[tuple[float | None, ...], ...]
    loss: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class ImageScores:
    """One image, scored from 0 to 1 and averaged over pairs.

    Attributes:
        name: of its file.
        baseline: its score.
        arm: the score of the arm.
        difference: of the second to the first.
        gates: where the arm's gates on it are, seen from the study's folder; None if they were not drawn.
    """

    name: str
    baseline: float
    arm: float
    difference: float
    gates: str | None = None


@dataclass(frozen=True)
class Images:
    """The images on which an arm did better or worse than the baseline.

    Attributes:
        won: those with the largest differences, the largest first.
        lost: likewise, to the baseline.
        better: how many the arm won.
        worse: how many it lost.
        equal: how many neither.
        no_gates: why their gates could not be drawn, or "".
    """

    won: tuple[ImageScores, ...]
    lost: tuple[ImageScores, ...]
    better: int
    worse: int
    equal: int
    no_gates: str = ""


@dataclass(frozen=True)
class Discordance:
    """The images of one seed that only the arm gets right (won) or only the baseline (lost), and McNemar's p."""

    seed: int
    won: int
    lost: int
    p: float


@dataclass(frozen=True)
class Cost:
    """What an arm costs.

    Attributes:
        parameters: of the trained model.
        flops: of one image, a multiply-accumulate as two.
        image_size: its side in pixels.
        milliseconds: of one image, quartiles.
        latency_ratio: to the baseline, within rounds, quartiles.
        runtime: what it was timed with.
        peak_bytes: most memory used in training.
        train_seconds: of each seed.
    """

    parameters: int | None
    flops: int | None
    image_size: int
    milliseconds: timing.Quartiles | None
    latency_ratio: timing.Quartiles | None
    runtime: str | None
    peak_bytes: int | None
    train_seconds: tuple[float, ...]


@dataclass(frozen=True)
class ArmResults:
    """What is known of one arm.

    Attributes:
        name: as the plan writes it.
        role: "baseline", "treatment" or "control".
        control: "A/A", "placebo" or "other"; None for what is no control.
        seeds: that are finished.
        scores: by metric, at each seed: of best.pt, and with `_last` of last.pt, which only the first metric has.
        verdict: on best.pt; None for the baseline, and with fewer than two pairs.
        verdict_last: on last.pt.
        over_placebo: of a treatment, where the study has a placebo.
        classes: the metric of each.
        sizes: the metric of objects of each size; none for classifiers.
        beside: by their names, the metrics that stand beside the one that decides.
        curves: of learning; None where nothing is known.
        images: won and lost, of a treatment.
        mcnemar: of classifiers, for each seed.
        cost: None where nothing is known.
        paper: what the paper reports.
        paper_difference: to its baseline.
        slices: the metric on the images of each, where the plan slices them.
        errors: what each type of them costs; none where that is not known.
    """

    name: str
    role: str
    seeds: tuple[int, ...]
    scores: dict[str, tuple[float, ...]]
    control: str | None = None
    verdict: ArmVerdict | None = None
    verdict_last: ArmVerdict | None = None
    over_placebo: OverPlacebo | None = None
    classes: tuple[Part, ...] = ()
    sizes: tuple[Part, ...] = ()
    beside: tuple[Part, ...] = ()
    curves: Curves | None = None
    images: Images | None = None
    mcnemar: tuple[Discordance, ...] | None = None
    cost: Cost | None = None
    paper: float | None = None
    paper_difference: float | None = None
    slices: tuple[Slice, ...] = ()
    errors: tuple[ErrorType, ...] = ()


@dataclass(frozen=True)
class StudyResults:
    """Everything that a report shows.

    Attributes:
        schema_version: the one of these records.
        foveal: the release that wrote them.
        created: when, in UTC.
        name: of the study.
        task: of its models.
        complete: whether all trainings are finished.
        cells: how far they are.
        plan: what was planned, by the keys of a plan.
        commands: that make them again.
        data: what was judged on.
        versions: of what decides a result.
        machine: that wrote them.
        statistics: by which rules.
        verdict: what to say first; None before there is any.
        fairness: whether the arms were treated alike.
        arms: the baseline first.
        scale: of a rehearsal, the share of the plan that was run.
        paper: that the study repeats.
        slicing: of the images, where the plan asks for it.
    """

    schema_version: int
    foveal: str
    created: str
    name: str
    task: str
    complete: bool
    cells: Progress
    plan: dict[str, object]
    commands: tuple[str, ...]
    data: DataSet
    versions: dict[str, str]
    machine: dict[str, object]
    statistics: Statistics
    verdict: Headline | None
    fairness: tuple[Finding, ...]
    arms: tuple[ArmResults, ...]
    scale: float | None = None
    paper: Paper | None = None
    slicing: Slicing | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metric that decides, and those that stand beside it."""
        return TASKS[self.task].judged(self.statistics.metric).metrics

    @property
    def baseline(self) -> ArmResults:
        """The arm that all others are compared with."""
        return next(arm for arm in self.arms if arm.role == "baseline")
