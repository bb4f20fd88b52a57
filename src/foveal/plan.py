"""What a study compares: a plan read, checked, and unfolded into cells, one for each arm and seed."""

import difflib
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import yaml

from . import dataset
from . import yolo as host
from .attention import known as is_attention
from .errors import UserError, endless, shown
from .files import digest
from .spec import Spec

# What decides a run is said here where the host would choose by what it sees, and runs are never cut short.
FAIR = {"optimizer": "AdamW", "lr0": 0.001, "momentum": 0.9, "warmup_bias_lr": 0.0, "patience": 0, "plots": False}
# Values that would make arms unequal or leave cells without a result.
UNFAIR = {
    "patience": (lambda value: value != 0, "arms could stop at different epochs", "patience=0"),
    "epochs": (lambda value: type(value) is not int or value < 1, "there would be nothing to judge", "epochs=50"),
    "batch": (lambda value: type(value) is not int or value < 1, "memory would choose it for each arm", "batch=16"),
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
OTHER_SEEDS = 1000  # added to the seeds of the A/A arm
SCALES = "nsmlx"


@dataclass(frozen=True)
class Arm:
    """One thing to train: a model, and perhaps an attention in it.

    Attributes:
        name: as the plan writes it.
        role: "baseline", "treatment" or "control".
        model: file or name of the model.
        spec: the attention; None for a model as it is.
        shift: added to every seed.
    """

    name: str
    role: str
    model: str
    spec: Spec | None = None
    shift: int = 0


@dataclass(frozen=True)
class Plan:
    """A study in full.

    Attributes:
        model: a .pt file, or a model YAML or its name.
        data: a data file.
        arms: the baseline first.
        seeds: one run of each arm for each.
        train: training arguments of the host, those in which a study differs from it included.
        split: what the verdict is judged on, "test" or "val".
        margin: the smallest difference of mAP50-95 that would matter.
        text: as it was written, for files and reports.
    """

    model: str
    data: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    train: dict[str, object] = field(default_factory=dict)
    split: str = "val"
    margin: float = 0.005
    text: dict[str, object] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read a YAML file; what it names is looked for beside it first.

        Raises:
            UserError: no such file, or one that is no plan.
        """
        return cls.of(load(path), path.parent)

    @classmethod
    def of(cls, written: Mapping[str, object], folder: Path = Path()) -> "Plan":
        """A plan from its keys `model`, `data`, `arms`, `seeds`, `train`, `split` and `margin`.

        Raises:
            UserError: a key or value that cannot work.
        """
        known = ("model", "data", "arms", "seeds", "train", "split", "margin")
        for key in written:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1) or known
                raise UserError(f"a plan has no key {key!r}", f"did you mean {near[0]!r}?")
        for key in ("model", "data", "arms"):
            if not written.get(key):
                raise UserError(f"the plan does not say {key!r}", {"arms": "arms: [ema@neck]"}.get(key, f"{key}: FILE"))
        model, data = (_found(_text(key, written[key]), folder) for key in ("model", "data"))
        if not _is_model(model):
            raise UserError(f"model: {model!r} is neither a .pt file nor a model YAML", "model: yolo11n.pt")
        names = written["arms"]
        arms = _arms(split_arms(names) if isinstance(names, str) else names, model, folder)
        seeds = _seeds(written.get("seeds", 6))
        if len(arms) < 2:
            raise UserError("there is nothing to compare: the only arm is the baseline", "arms: [ema@neck]")
        splits = dataset.data_file(data)
        split = written.get("split")
        if split is None:
            split = "test" if dataset.has_labels(data, "test") else "val"
        if split not in ("test", "val") or not splits.get(split):
            raise UserError(f"split: {shown(split)} is not a split of {data}", "split: val")
        margin = written.get("margin", 0.005)
        if type(margin) is not float or not 0 < margin < 1:
            raise UserError(f"margin: {shown(margin)} is not a difference of mAP50-95 between 0 and 1", "margin: 0.005")
        train = _train(written.get("train"))
        return cls(model, data, arms, seeds, train, split, margin, {**written, "arms": names, "split": split})

    def cells(self, data_digest: str) -> list["Cell"]:
        """All cells, those of the first seed first, so that a study under way compares whole pairs."""
        models = {model: _model_digest(model) for model in {arm.model for arm in self.arms}}
        return [
            Cell(arm, seed, seed + arm.shift, _key(self, arm, seed + arm.shift, models[arm.model], data_digest))
            for seed in self.seeds
            for arm in self.arms
        ]


@dataclass(frozen=True)
class Cell:
    """One run: an arm, the seed it is paired by, the seed it draws from, and the name of its folder."""

    arm: Arm
    pair: int
    seed: int
    key: str


def load(path: Path) -> dict[str, object]:
    """The keys of a plan in a YAML file, unchecked.

    Raises:
        UserError: no such file, or no YAML with keys.
    """
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the plan {path}: {error.strerror}", "write one as docs/studies.md says") from None
    except (yaml.YAMLError, AttributeError, KeyError, RecursionError, ValueError) as error:
        # The others are what a date, number or tag that cannot be read raises, and brackets without end.
        said = " ".join(str(error).split())
        raise UserError(f"the plan {path} is not YAML: {said}", "write for example 'model: yolo11n.pt'") from None
    if not isinstance(written, dict):
        raise UserError(f"the plan {path} has no keys", "write for example 'model: yolo11n.pt'")
    if endless(written):
        raise UserError(f"the plan {path} repeats its own parts without end", "write them out, without & and *")
    return written


def split_arms(text: str) -> list[str]:
    """Arms from "baseline,ema(groups=8, kernel=3)@neck,P3,A/A": commas also separate arguments and places."""
    arms: list[str] = []
    # Not where a parenthesis is closed next, or next after a whole pair, as in x(a=1, b=(2, 3)).
    for piece in re.split(r",(?![^()]*(?:\([^()]*\)[^()]*)*\))", text):
        piece = piece.strip()
        name = re.match(r"\w*", piece)[0]
        continues = arms and "@" in arms[-1] and not is_attention(name) and "/" not in piece and "@" not in piece
        if continues and piece.lower() not in CONTROLS and not _is_model(piece) and piece != "baseline":
            arms[-1] += f",{piece}"
        elif piece:
            arms.append(piece)
    return arms


def versions() -> dict[str, str]:
    """Of what decides a result."""
    return {name: version(name) for name in ("foveal", "ultralytics", "torch", "numpy")} | {
        "python": ".".join(map(str, sys.version_info[:3]))
    }


# Arms ------------------------------------------------------------------------------------------------------------


def _again(model: str, arms: Sequence[Arm]) -> Arm:
    return Arm("A/A", "control", model, shift=OTHER_SEEDS)


def _placebo(model: str, arms: Sequence[Arm]) -> Arm:
    places = next((arm.spec.places for arm in arms if arm.spec), ("neck",))
    return Arm("placebo", "control", model, Spec("placebo", places=places or ("neck",)))


def _larger(model: str, arms: Sequence[Arm]) -> Arm:
    stem, suffix = os.path.splitext(model)
    match = re.fullmatch(rf"(.*\d)([{SCALES[:-1]}])((?:-\w+)?)", stem)
    if not match:
        raise UserError(f"there is no name one size up from {model}", "write the arm as {model: yolo11s.pt}")
    larger = f"{match[1]}{SCALES[SCALES.index(match[2]) + 1]}{match[3]}{suffix}"
    if suffix == ".pt" and not Path(larger).is_file():
        larger = Path(larger).name  # the host knows it by name; a path that does not exist would end up in the key
    return Arm("one size up", "control", larger)


# Arms by name. All are trained like the others; none is a claim.
CONTROLS = {"a/a": _again, "placebo": _placebo, "one size up": _larger}


def _arms(written: object, model: str, folder: Path) -> tuple[Arm, ...]:
    if not isinstance(written, list) or not written:
        raise UserError(f"arms: {shown(written)} is not a list", "arms: [ema@neck, A/A, placebo]")
    arms = [Arm("baseline", "baseline", model)]
    late = []
    for one in written:
        if isinstance(one, dict) and set(one) == {"model"} and _is_model(str(one["model"])):
            one = one["model"]
        if not isinstance(one, str):
            raise UserError(
                f"cannot read the arm {shown(one)}", "write for example ema@neck, A/A or {model: yolo11s.pt}"
            )
        if one == "baseline":
            continue
        if one.lower() in CONTROLS:
            late.append(CONTROLS[one.lower()])
        elif _is_model(one):
            arms.append(Arm(one, "treatment", _found(one, folder)))
        else:
            spec = Spec.parse(one)
            spec = replace(spec, places=spec.places or ("neck",), start=spec.start or "identity")
            arms.append(Arm(one, "control" if spec.name == "placebo" else "treatment", model, spec))
    arms += [control(model, arms) for control in late]
    trained: dict[tuple, str] = {}
    for arm in arms:
        spec = str(replace(arm.spec, start=arm.spec.start or "identity")) if arm.spec else ""
        what = (arm.model, spec, arm.shift)
        if what in trained:
            also = "" if trained[what] == arm.name else f", first as {trained[what]!r}"
            raise UserError(f"the arm {arm.name!r} stands in the plan twice{also}", "leave one out")
        trained[what] = arm.name
    return tuple(arms)


def _is_model(text: str) -> bool:
    return text.endswith((".pt", ".yaml", ".yml"))


def _found(name: str, folder: Path) -> str:
    """The file beside the plan if there is one, else the name as it stands."""
    beside = folder / name
    try:
        beside.stat()
    except (FileNotFoundError, NotADirectoryError):
        return name
    except (OSError, ValueError) as error:  # too long, or with characters that no name has
        said = getattr(error, "strerror", None) or error
        raise UserError(f"cannot look for {name!r}: {said}", "write for example yolo11n.pt") from None
    return str(beside)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise UserError(f"{key}: {shown(value)} is not the name of a file", f"{key}: FILE")
    return value


def _seeds(written: object) -> tuple[int, ...]:
    # No longer than is needed to see that it is too long.
    seeds = list(range(min(written, OTHER_SEEDS + 1))) if type(written) is int else written
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and 0 <= s < OTHER_SEEDS for s in seeds):
        raise UserError(
            f"seeds: {shown(written)} is neither a number of seeds nor a list below {OTHER_SEEDS}", "seeds: 6"
        )
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: {shown(written)} says a seed twice", "seeds: [0, 1, 2, 3, 4, 5]")
    return tuple(seeds)


def _train(written: object) -> dict[str, object]:
    written = {} if written is None else written
    if not isinstance(written, dict):
        raise UserError(f"train: {shown(written)} is not a mapping", "train: {epochs: 50, imgsz: 640}")
    for key in written:
        if key in ELSEWHERE:
            raise UserError(f"{key!r} is not an argument of train in a plan", "it is set by the plan or the command")
    full = host.train_arguments({**FAIR, **written})
    for key, (refuses, why, instead) in UNFAIR.items():
        if refuses(full[key]):
            raise UserError(f"{key}={full[key]} cannot be compared: {why}", f"write {instead}")
    try:
        json.dumps(written, sort_keys=True)
    except (TypeError, ValueError):  # a date, or a list that contains itself
        raise UserError(f"train: {written} holds more than numbers and words", "train: {epochs: 50}") from None
    return {**FAIR, **written}


# Keys ------------------------------------------------------------------------------------------------------------


def _key(plan: Plan, arm: Arm, seed: int, model_digest: str, data_digest: str) -> str:
    decides = {
        "model": model_digest,
        "spec": str(arm.spec),
        "seed": seed,
        "train": plan.train,
        "split": plan.split,
        "data": data_digest,
        "versions": versions(),
    }
    digest = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=5).hexdigest()
    slug = re.sub(r"[^a-z0-9]+", "-", Path(arm.name).name.lower()).strip("-")
    return f"{slug}-{seed}-{digest}"


def _model_digest(model: str) -> str:
    """Of a file's content; the name itself where the host knows it by name."""
    path = Path(model)
    return digest(path) if path.is_file() else model
