"""What a study compares: a plan read, checked, and unfolded into cells, one for each arm and seed."""

import difflib
import functools
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import foveal

from ..checkpoints import trust_file
from ..checks import endless
from ..errors import UserError, one_line, shown
from ..evidence import Metric, Says, Task
from ..files import beside
from ..hosts import Data, Host, Recipe, host_of, task_of
from . import arms as arm_names
from . import values
from .arms import Arm
from .folds import Folds, Partitions
from .paper import Paper

# What decides a run is said here where the host would choose by what it sees, and runs are never cut short.
FAIR = {"optimizer": "AdamW", "lr0": 0.001, "momentum": 0.9, "warmup_bias_lr": 0.0, "patience": 0, "plots": False}
# Values that would make arms unequal or leave cells without a result.
UNFAIR = {
    "patience": (lambda value: value != 0, "arms could stop at different epochs", "patience=0"),
    "epochs": (lambda value: type(value) is not int or value < 1, "there would be nothing to judge", "epochs=50"),
    "batch": (lambda value: type(value) is not int or value < 1, "memory would choose it for each arm", "batch=16"),
    "imgsz": (lambda value: type(value) is not int or value < 1, "images have one size in pixels", "imgsz=640"),
    "optimizer": (lambda value: str(value).lower() == "auto", "it ignores lr0 and chooses itself", "optimizer=AdamW"),
    "time": (lambda value: value is not None, "a slower arm would get fewer epochs", "epochs=50"),
    "save": (lambda value: not value, "there would be nothing to judge", "save=True"),
    "val": (lambda value: not value, "best.pt is chosen by it", "val=True"),
    "deterministic": (lambda value: not value, "a seed would not say what happens", "deterministic=True"),
    "pretrained": (lambda value: not isinstance(value, bool), "it is not checked for changes", "model: FILE"),
    "fraction": (lambda value: value != 1.0, "only whole data sets are checked for changes", "a data file of its own"),
}
# Training arguments that stand elsewhere in a plan, or that a study sets itself.
ELSEWHERE = ("model", "data", "seed", "split", "device", "resume", "project", "name", "exist_ok", "save_dir", "mode")
KEYS = (
    *("model", "data", "arms", "seeds", "train", "split", "folds", "metric", "margin", "slices", "recipe", "paper"),
    *("rehearsal", "resume_period", "devices_per_cell", "trust"),
)
PROTOCOL = 1  # of how a cell is trained and judged: cells of another one do not count
UNNUMBERED = 1, "0.1.0"  # the protocol of cells from before there were numbers, and foveal's version in their keys


@dataclass(frozen=True)
class Plan:
    """A study in full.

    Attributes:
        model: a .pt file, a model YAML or its name, or a model of a zoo.
        data: a data file for detectors, a folder for classifiers.
        arms: the baseline first.
        seeds: one run of each arm for each, in the order in which they are trained.
        train: training arguments of the host, those in which a study differs from it included.
        split: what the verdict is judged on, "test" or "val".
        margin: the smallest difference of the metric that would matter.
        recipe: what the host's arguments cannot say.
        paper: what a paper reports of the same arms, if the plan repeats one.
        rehearsal: the share of a larger plan that this is, if it is.
        settings: all training arguments of the baseline, the host's own where the plan gives none.
        text: as it was written, for files and reports.
        looks: how many seeds there are each time that arms are judged; an arm that has its word is trained no more.
        resume_period: epochs from one state in full precision, from which a killed training goes on, to the next.
        by: which of the task's metrics decides; the first if that is not said.
        devices_per_cell: on which each training runs, an equal share of every batch on each.
        slices: the CSV with what is known of images, by which they are sliced in reports, if there is one.
        folds: how train and val are split anew for each pair; None where they stay as they are.
    """

    model: str
    data: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    train: dict[str, Any] = field(default_factory=dict)
    split: str = "val"
    margin: float = 0.005
    recipe: Recipe = field(default_factory=Recipe)
    paper: Paper | None = None
    rehearsal: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    looks: tuple[int, ...] = ()
    resume_period: int = 1
    by: str = ""
    devices_per_cell: int = 1
    slices: str | None = None
    folds: Folds | None = None

    @classmethod
    def read(cls, path: Path, download: bool = False) -> "Plan":
        """Read a YAML file; what it names is looked for beside it first.

        Args:
            path: of the file.
            download: data that is not there, which may run code of its file.

        Raises:
            UserError: no such file, or one that is no plan.
        """
        return cls.of(load(path), path.parent, download=download)

    @property
    def host(self) -> Host:
        """Who trains the models."""
        return host_of(self.model)

    @functools.cached_property
    def task(self) -> Task:
        """What the models that are compared are for, and by which metric they are."""
        return task_of(self.model, self.data, self.by)

    @functools.cached_property
    def dataset(self) -> Data:
        """The data, described once.

        Raises:
            UserError: it is not here, or the host refuses it.
        """
        return self.host.data(self.data, False, self.task.name)

    @functools.cached_property
    def partitions(self) -> Partitions | None:
        """The data in folds, if the plan has any."""
        return Partitions(self.folds, self.dataset) if self.folds else None

    @property
    def held_out(self) -> float | None:
        """Images that a seed holds out over those that it is trained on; None where all are judged on the same."""
        return self.folds.held_out if self.folds else None

    @property
    def metric(self) -> Metric:
        """The averages by which arms are judged."""
        return self.task.metric

    @classmethod
    def of(cls, written: Mapping[str, Any], folder: Path = Path(), look: bool = True, download: bool = False) -> "Plan":
        """A plan from its keys, `KEYS`.

        Args:
            written: the keys and their values.
            folder: where files are looked for first.
            look: at the data; else the plan must name its split.
            download: data that is not there, which may run code of its file.

        Raises:
            UserError: a key or value that cannot work.
        """
        _require_keys(written)
        model = beside(_text("model", written["model"]), folder)
        host = host_of(model)
        data = host.beside(_text("data", written["data"]), folder)
        by: Any = written.get("metric") or ""
        task = task_of(model, data, by)
        (train, settings), names = _train(written.get("train"), task, host, folder), written["arms"]
        listed = arm_names.split(names) if isinstance(names, str) else names
        arms = arm_names.read(listed, model, folder, settings["epochs"])
        for arm in (arm for arm in arms if arm.train):
            try:
                _train({**(written.get("train") or {}), **arm.train}, task, host, folder)
            except UserError as error:
                raise UserError(f"the arm {arm.name!r}: {error.message}", error.hint) from None
        if values.flag("trust", written.get("trust", False)):
            _trust({*arm_names.models(arms, host, settings), *filter(None, (arm.weights for arm in arms))})
        folds = Folds.of(written.get("folds"), folder)
        seeds, looks = values.seeds(written.get("seeds"), claims(arms), folds)
        split: Any = folds.split(written.get("split")) if folds else written.get("split")
        named = split in ("test", "val")
        found = host.data(data, download, task.name) if download or look or not named else None
        if found and (look or not named):
            split = values.split(split, found)
        margin = values.margin(written.get("margin", 0.005), task.metric.name)
        recipe = Recipe.of(written.get("recipe") or {})
        if recipe.padding and task.says is not Says.CLASS:
            raise UserError("recipe: padding is for the images of classifiers", "leave it out")
        plan = cls(
            *(model, data, arms, seeds, train, split, margin),
            recipe=recipe,
            paper=Paper.of(written["paper"]) if written.get("paper") else None,
            rehearsal=values.share(written.get("rehearsal")),
            settings=settings,
            text={**written, "arms": names, "split": split},
            looks=looks,
            resume_period=values.number("resume_period", written.get("resume_period", 1), "epochs", 5),
            by=by,
            devices_per_cell=values.number("devices_per_cell", written.get("devices_per_cell", 1), "devices", 2),
            slices=beside(_text("slices", written["slices"]), folder) if written.get("slices") else None,
            folds=folds,
        )
        vars(plan)["task"] = task  # where the cached property keeps it
        plan.require_equal_shares()
        if found:
            vars(plan)["dataset"] = found  # likewise
            _ = plan.partitions  # which raises if there can be none
        return plan

    def require_equal_shares(self) -> None:
        """Check that each device of a cell gets as many images of a batch as the others.

        Raises:
            UserError: the batch of an arm cannot be divided so.
        """
        for arm in self.arms:
            if (batch := self.complete(arm)["batch"]) % self.devices_per_cell:
                said = f"batch={batch} of {arm.name} gives {self.devices_per_cell} devices no equal shares"
                raise UserError(said, f"batch={self.devices_per_cell * max(1, batch // self.devices_per_cell)}")

    def arguments(self, arm: Arm) -> dict[str, Any]:
        """Training arguments of an arm, as far as they are not the host's own values."""
        return {**self.train, **arm.train}

    def complete(self, arm: Arm) -> dict[str, Any]:
        """All of them."""
        return {**self.settings, **arm.train}

    def epochs(self, arm: Arm) -> int:
        """How many an arm is trained for."""
        return int(self.complete(arm)["epochs"])

    def cells(self, data_digest: str) -> list["Cell"]:
        """All cells, those of the first seed first, so that a study under way compares whole pairs."""
        identity = functools.cache(self.host.identity)
        data = {seed: data_digest + (self.partitions.digest(seed) if self.partitions else "") for seed in self.seeds}
        return [
            Cell(arm, seed, seed + arm.shift, *_keys(self, arm, seed + arm.shift, identity, data[seed]))
            for seed in self.seeds
            for arm in self.arms
        ]


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        arm: that is trained.
        pair: the seed it is paired by.
        seed: the seed it draws from.
        key: the name of its folder.
        earlier: the name that its folder had before protocols were numbered; empty if that was another protocol.
    """

    arm: Arm
    pair: int
    seed: int
    key: str
    earlier: str = ""


def each(written: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The plans of a file that names several models, one for each, with the figures of its own in `paper`."""
    models, paper = written.get("model"), written.get("paper")
    for model in models if models and isinstance(models, list) else [models]:
        plan = {**written, "model": model} if model else dict(written)
        if isinstance(paper, dict) and isinstance(figures := paper.get("figures"), dict):
            by_model = any(isinstance(of, dict) for of in figures.values())
            plan["paper"] = {**paper, "figures": figures.get(model, {})} if by_model else paper
        yield plan


def load(path: Path) -> dict[str, Any]:
    """The keys of a plan in a YAML file, unchecked.

    Raises:
        UserError: no such file, or no YAML with keys.
    """
    if path.suffix == ".pt":
        raise UserError(
            f"{path} is a model and no plan", f"foveal study run --model {path} --data my.yaml --arms ema@neck"
        )
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the plan {path}: {error.strerror}", "write one as docs/studies.md says") from None
    except (yaml.YAMLError, AttributeError, KeyError, RecursionError, ValueError) as error:
        # The others are what a date, number or tag that cannot be read raises, and brackets without end.
        said = f"the plan {path} is not YAML: {one_line(error)}"
        raise UserError(said, "write for example 'model: yolo11n.pt'") from None
    if not isinstance(written, dict):
        raise UserError(f"the plan {path} has no keys", "write for example 'model: yolo11n.pt'")
    if "arms" not in written and {"train", "names", "val"} <= written.keys():
        said = f"{path} is a data file and no plan"
        raise UserError(said, f"foveal study run --model yolo11n.pt --data {path} --arms ema@neck")
    if endless(written):
        raise UserError(f"the plan {path} repeats its own parts without end", "write them out, without & and *")
    return written


def claims(arms: tuple[Arm, ...]) -> int:
    """How many arms the error rate of a study is shared by: the treatments, or a control where there is none."""
    return max(1, sum(arm.role == "treatment" for arm in arms))


def versions() -> dict[str, str]:
    """Versions of everything that decides a result, by name."""
    others = {name: version(name) for name in ("ultralytics", "torch", "numpy")}
    return {"foveal": foveal.__version__, **others, "python": ".".join(map(str, sys.version_info[:3]))}


def deciding(of: Mapping[str, str]) -> dict[str, str]:
    """Those of `versions` that make another result: a release of foveal counts by its protocol."""
    return {name: number for name, number in of.items() if name != "foveal"}


# Values -------------------------------------------------------------------------------------------------------------


def _require_keys(written: Mapping[str, Any]) -> None:
    for key in written:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1) or KEYS
            raise UserError(f"a plan has no key {key!r}", f"did you mean {near[0]!r}?")
    for key in ("model", "data", "arms"):
        if not written.get(key):
            raise UserError(f"the plan does not say {key!r}", {"arms": "arms: [ema@neck]"}.get(key, f"{key}: FILE"))
    if written.get("folds") and written.get("slices"):
        said = "slices are of images on which all seeds are judged, and with folds each seed is judged on others"
        raise UserError(said, "leave one of slices and folds out")


def _trust(names: set[str]) -> None:
    """Let the .pt files of a plan, which says that they are its owner's, be loaded whatever they name."""
    for file in map(Path, names):
        if file.suffix == ".pt" and file.is_file():
            trust_file(file)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise UserError(f"{key}: {shown(value)} is not the name of a file", f"{key}: FILE")
    return value


def _train(written: object, task: Task, host: Host, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The training arguments in which a study differs from the host, and all of them."""
    written = {} if written is None else written
    if not isinstance(written, dict):
        raise UserError(f"train: {shown(written)} is not a mapping", "train: {epochs: 50, imgsz: 640}")
    for key in written:
        if key in ELSEWHERE:
            raise UserError(f"{key!r} is not an argument of train in a plan", "it is set by the plan or the command")
    size = {"imgsz": task.image_size} if task.says is Says.CLASS else {}  # the host takes its own for all others
    own = {**FAIR, **size, **arm_names.located(written, host, folder)}
    full = host.settings(own)
    for key, (refuses, why, instead) in UNFAIR.items():
        if refuses(full[key]):
            raise UserError(f"{key}={full[key]} cannot be compared: {why}", f"write {instead}")
    try:
        json.dumps(written, sort_keys=True)
    except (TypeError, ValueError):  # a date, or a list that contains itself
        raise UserError(f"train: {written} holds more than numbers and words", "train: {epochs: 50}") from None
    return own, full


# Keys ------------------------------------------------------------------------------------------------------------


def _keys(plan: Plan, arm: Arm, seed: int, identity: Callable[[str], str], data_digest: str) -> tuple[str, str]:
    """`key` and `earlier` of a cell; `identity` tells models by their content."""
    train = plan.arguments(arm)
    decides = {
        "model": identity(arm.model),
        "spec": arm.spec.identity if arm.spec else "None",
        "seed": seed,
        "train": {**train, **{key: identity(train[key]) for key in plan.host.teachers if train.get(key)}},
        "split": plan.split,
        "data": data_digest,
    }
    if arm.weights:
        decides["weights"] = identity(arm.weights)
    if plan.recipe != Recipe():
        decides["recipe"] = asdict(plan.recipe)
    if plan.task.read_by_keys:  # of which nothing else is a digest
        decides["more"] = plan.dataset.more
    if plan.devices_per_cell > 1:  # each normalises its own share of a batch, and augments it in its own way
        decides["devices"] = plan.devices_per_cell
    slug = re.sub(r"[^a-z0-9]+", "-", Path(arm.name).name.lower()).strip("-")
    now = deciding(versions())

    def key(**more: object) -> str:
        digest = hashlib.blake2b(json.dumps(decides | more, sort_keys=True).encode(), digest_size=5).hexdigest()
        return f"{slug}-{seed}-{digest}"

    protocol, release = UNNUMBERED
    earlier = key(versions={**now, "foveal": release}) if protocol == PROTOCOL else ""
    return key(versions=now, protocol=PROTOCOL), earlier
