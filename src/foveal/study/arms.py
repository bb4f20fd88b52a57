"""The arms of a plan, from the names that it gives them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..attention import known as is_attention
from ..errors import UserError, shown
from ..files import beside
from ..hosts import Host, Inherited, host_of, owner
from ..surgery import Spec

OTHER_SEEDS = 1000  # added to the seeds of the A/A arm

_FOLDERS = re.compile(r"^[^():@]*[/\\](?=[^():@]*\.py:)")  # of the file of somebody else's attention


@dataclass(frozen=True)
class Arm:
    """One thing to train: a model, and perhaps an attention in it.

    Attributes:
        name: as the plan writes it.
        role: "baseline", "treatment" or "control".
        model: file or name of the model.
        spec: the attention; None for a model as it is.
        shift: added to every seed.
        train: arguments in which its training differs from the plan's, and is meant to.
        weights: a file whose weights its model starts from, as far as they fit; None for the model's own.
    """

    name: str
    role: str
    model: str
    spec: Spec | None = None
    shift: int = 0
    train: Mapping[str, Any] = field(default_factory=dict, hash=False)
    weights: str | None = None

    @property
    def control(self) -> str | None:
        """What it controls for: "A/A" (seeds), "placebo" (the mere presence of a module), "other"; None if nothing."""
        if self.role != "control":
            return None
        if self.shift:
            return "A/A"
        return "placebo" if self.spec and self.spec.name == "placebo" else "other"


def read(written: object, model: str, folder: Path, epochs: int) -> tuple[Arm, ...]:
    """The arms that a plan lists, the baseline first and what depends on other arms last.

    Args:
        written: a list.
        model: of the baseline, and of every arm that names no other.
        folder: where models are looked for first.
        epochs: of the plan.

    Raises:
        UserError: it is no list or of the baseline only, or an arm cannot be read or stands there twice.
    """
    if not isinstance(written, list) or not written:
        raise UserError(f"arms: {shown(written)} is not a list", "arms: [ema@neck, A/A, placebo]")
    arms = [Arm("baseline", "baseline", model)]
    late = []
    for one in written:
        if isinstance(one, dict):
            arms.append(_declared(one, model, folder))
            continue
        if not isinstance(one, str):
            raise _unreadable(one)
        if one == "baseline":
            continue
        if one.lower() in CONTROLS:
            late.append(CONTROLS[one.lower()])
        else:  # timm:resnet50 is a model, timm:eca@neck an attention
            kind = "model" if is_model(one) and "@" not in one else "spec"
            arms.append(_declared({kind: one}, model, folder))
    arms += [control(model, arms, epochs) for control in late]
    trained: dict[tuple, str] = {}
    for arm in arms:
        placed = str(arm.spec.started("identity")) if arm.spec else ""
        what = (arm.model, placed, arm.shift, json.dumps(arm.train, sort_keys=True, default=str), arm.weights)
        if what in trained:
            also = "" if trained[what] == arm.name else f", first as {trained[what]!r}"
            raise UserError(f"the arm {arm.name!r} stands in the plan twice{also}", "leave one out")
        if arm.name in trained.values():
            raise UserError(f"two arms are called {arm.name!r}: their files have one name", "rename one of the files")
        trained[what] = arm.name
    if len(arms) < 2:
        raise UserError("there is nothing to compare: the only arm is the baseline", "arms: [ema@neck]")
    return tuple(arms)


def _declared(written: Mapping[str, Any], model: str, folder: Path) -> Arm:
    """An arm from its keys: `model`, `weights`, `spec`, `train`, and training arguments by themselves.

    Raises:
        UserError: it says neither, or one of them in another form.
    """
    given = dict(written)
    named, text, weights = (given.pop(key, None) for key in ("model", "spec", "weights"))
    train = given.pop("train", {})
    words = [each for each in (named, text, weights) if each is not None] + (
        [*given, *train] if isinstance(train, dict) else [0]
    )
    if not written or not all(isinstance(word, str) for word in words):
        raise _unreadable(written)
    if named is not None and not is_model(named):
        raise UserError(f"the arm {shown(written)} names no model: {named!r}", "{model: yolo11s.pt}")
    if twice := given.keys() & train.keys():
        raise UserError(f"the arm {shown(written)} says {min(twice)} twice", "say it once")
    where = beside(named, folder) if named else model
    host = host_of(where)
    train = located({**train, **given}, host, folder)
    told = {**({"weights": weights} if weights else {}), **train}
    files = ("weights", *host.teachers)
    said = [named, text and _FOLDERS.sub("", text)]
    said += [f"{key}={Path(value).name if value and key in files else value}" for key, value in told.items()]
    spec = Spec.parse(text, folder) if text is not None else None
    if spec:
        spec = replace(spec.started("identity"), places=spec.places or _places(where))
    name = " ".join(part for part in said if part)
    role = "control" if spec and spec.name == "placebo" else "treatment"
    return Arm(name, role, where, spec, 0, train, weights and beside(weights, folder))


def located(train: Mapping[str, Any], host: Host, folder: Path) -> dict[str, Any]:
    """Training arguments with the paths of the models that they name, which are looked for in a folder first.

    Raises:
        UserError: one of them is no name.
    """
    named = {key: train[key] for key in host.teachers if train.get(key) is not None}
    for key, name in named.items():
        if not isinstance(name, str):
            raise UserError(f"{key}: {shown(name)} is not the name of a file", f"{key}: yolo11s.pt")
    return {**train, **{key: beside(name, folder) for key, name in named.items()}}


def models(arms: Sequence[Arm], host: Host, settings: Mapping[str, Any]) -> list[str]:
    """All models that are trained, and all that teach them; `settings` are what an arm has that says nothing else."""
    teachers = ({**settings, **arm.train}.get(key) for arm in arms for key in host.teachers)
    return list(dict.fromkeys([*(arm.model for arm in arms), *filter(None, teachers)]))


def starts(arms: Iterable[Arm], host: Host) -> dict[str, Inherited]:
    """What the arms that are given weights start from, by their names.

    Raises:
        UserError: weights that do not fit.
    """
    return {arm.name: host.inherited(arm.model, arm.weights) for arm in arms if arm.weights}


def _unreadable(written: object) -> UserError:
    hint = "write for example ema@neck, A/A, {model: yolo11s.pt} or {spec: ema@neck, lr0: 0.002}"
    return UserError(f"cannot read the arm {shown(written)}", hint)


def split(text: str) -> list[str]:
    """Arms from "baseline,ema(groups=8, kernel=3)@neck,P3,A/A": commas also separate arguments and places."""
    arms: list[str] = []
    # Not where a parenthesis is closed next, or next after a whole pair, as in x(a=1, b=(2, 3)).
    for piece in re.split(r",(?![^()]*(?:\([^()]*\)[^()]*)*\))", text):
        piece = piece.strip()
        name = re.split(r"\W", piece, maxsplit=1)[0]
        continues = arms and "@" in arms[-1] and not is_attention(name) and not re.search("[/@:]", piece)
        if continues and piece.lower() not in CONTROLS and not is_model(piece) and piece != "baseline":
            arms[-1] += f",{piece}"
        elif piece:
            arms.append(piece)
    return arms


def is_model(text: str) -> bool:
    """Whether a name is a model's, by its form."""
    return owner(text) is not None


def _places(model: str) -> tuple[str, ...]:
    """The places of an attention for which the plan names none."""
    return host_of(model).places(model)


def _again(model: str, arms: Sequence[Arm], epochs: int) -> Arm:
    return Arm("A/A", "control", model, shift=OTHER_SEEDS)


def _placebo(model: str, arms: Sequence[Arm], epochs: int) -> Arm:
    places = next((arm.spec.places for arm in arms if arm.spec), _places(model))
    return Arm("placebo", "control", model, Spec("placebo", places=places or _places(model)))


def _larger(model: str, arms: Sequence[Arm], epochs: int) -> Arm:
    larger = host_of(model).larger(model)
    if larger is None:
        raise UserError(f"there is no name one size up from {model}", "write the arm as {model: yolo11s.pt}")
    return Arm("one size up", "control", larger)


def _longer(model: str, arms: Sequence[Arm], epochs: int) -> Arm:
    return Arm("2x epochs", "control", model, train={"epochs": 2 * epochs})


# Arms by name. All are trained like the others; none is a claim.
CONTROLS = {"a/a": _again, "placebo": _placebo, "one size up": _larger, "2x epochs": _longer}
