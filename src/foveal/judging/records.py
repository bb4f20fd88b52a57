"""What is known of models that were judged on one split. Averages are fractions, boxes are corners in pixels."""

from dataclasses import dataclass

from ..verdict import Estimate

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Bin:
    """Claims of about one confidence, above `low` and up to `high`.

    Attributes:
        low: lower end.
        high: upper end.
        count: claims in it.
        confidence: their mean confidence; None if there are none.
        right: the share of them that are right.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    right: float | None


@dataclass(frozen=True)
class Calibration:
    """Whether a model is right as often as it says.

    Attributes:
        error: expected calibration error, the mean distance of confidence and share of right claims over bins, by their
            number of claims; None without a claim.
        claims: how many were asked.
        above: the confidence from which they were.
        bins: of equal width.
    """

    error: float | None
    claims: int
    above: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class WrongClaim:
    """A detection that finds no object of its class, or a wrong first answer.

    Attributes:
        image: its name.
        label: the class that is claimed.
        confidence: of the claim.
        box: that is claimed; None of a whole image.
        true: the class of the image; None where images have objects.
    """

    image: str
    label: str
    confidence: float
    box: Box | None
    true: str | None


@dataclass(frozen=True)
class MissedObject:
    """An object that models do not find, or an image whose class they do not say.

    Attributes:
        image: its name.
        label: its class.
        box: of the object; None of a whole image.
        missed_by: the models that miss it.
        confidence: the highest with which any of the models finds it, 0 if none does.
    """

    image: str
    label: str
    box: Box | None
    missed_by: tuple[str, ...]
    confidence: float


@dataclass(frozen=True)
class PartOfMetric:
    """The metric for one class, or for objects of one size.

    Attributes:
        name: of the class or size.
        objects: how many there are.
        averages: of each model; without bounds if the part is on fewer than ten images.
        differences: of each model to the reference, None of itself. Their p and intervals are of each alone, not
            adjusted for the number of parts and models.
    """

    name: str
    objects: int
    averages: tuple[Estimate, ...]
    differences: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class JudgedModel:
    """One model.

    Attributes:
        model: its file, as given.
        form: "pt", or the format of an export.
        size: side of the images that it was judged at, in pixels.
        average: the metric.
        second: the metric that stands beside it.
        beside: the other metrics of the task, in the order of the judgement's.
        difference: of the metric to that of the reference, with all such differences adjusted after Holm; None of the
            reference itself.
        disagreement: how far averages computed again from what the model said are from Ultralytics' own.
        calibration: of its confidences; of a map of pixels there are none.
        wrong: its most confident wrong claims, the surest first.
    """

    model: str
    form: str
    size: int
    average: Estimate
    second: Estimate
    beside: tuple[Estimate, ...]
    difference: Estimate | None
    disagreement: float
    calibration: Calibration
    wrong: tuple[WrongClaim, ...]


@dataclass(frozen=True)
class Judgement:
    """Models on one split of some data.

    Attributes:
        data: as given.
        split: that was judged.
        task: of all models.
        images: in the split.
        objects: in it; as many as images for classifiers, and for maps of pixels each class of an image.
        metric: by which models are judged.
        second: the one that stands beside it.
        beside: other metrics of the task, which decide nothing: of boxes where masks or key points are judged.
        reference: the model that the others are compared with.
        level: of all differences together; 0.05 makes intervals of 95 %.
        resamples: draws of the images.
        models: in the order given.
        classes: the metric for each class that has objects.
        sizes: for objects of each size; none for classifiers and maps.
        missed: the objects that the most models miss, those first that all of them are least sure of; none for maps.
        sentences: the outcome in words, what it does not tell included.
    """

    data: str
    split: str
    task: str
    images: int
    objects: int
    metric: str
    second: str
    beside: tuple[str, ...]
    reference: str
    level: float
    resamples: int
    models: tuple[JudgedModel, ...]
    classes: tuple[PartOfMetric, ...]
    sizes: tuple[PartOfMetric, ...]
    missed: tuple[MissedObject, ...]
    sentences: tuple[str, ...] = ()
