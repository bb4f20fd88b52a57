"""What a training by Ultralytics leaves in its folder, whoever ran it: arguments, a table and two checkpoints."""

import csv
import math
import types
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from . import dataset
from . import yolo as host
from .errors import UserError
from .metric import METRICS

EXAMPLE = "name a folder such as runs/detect/train"
KINDS = ("last", "best")


@dataclass(frozen=True)
class Weights:
    """What a checkpoint tells.

    Attributes:
        version: of the host that wrote it.
        arguments: of the training, as they were in the end.
        classes: their names.
        shapes: of all tensors, by name.
        parameters: their number.
        finite: whether all tensors are.
        ended: whether the training came to an end, early or not.
        start: the file it started from, if the host noted that.
    """

    version: str
    arguments: dict[str, object]
    classes: list[str]
    shapes: dict[str, torch.Size]
    parameters: int
    finite: bool
    ended: bool
    start: str | None

    @classmethod
    def read(cls, file: Path) -> "Weights":
        """Read a .pt file.

        Raises:
            UserError: it is damaged, or made with code that is not installed.
        """
        try:
            with host.refusing(file):
                loaded = host.load(file)
                tensors, checkpoint = loaded.model.state_dict(), loaded.ckpt
                return cls(
                    version=str(checkpoint.get("version", "unknown")),
                    arguments=dict(checkpoint.get("train_args", {})),
                    classes=list(loaded.model.names.values()),
                    shapes={name: tensor.shape for name, tensor in tensors.items()},
                    parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
                    finite=all(bool(tensor.isfinite().all()) for tensor in tensors.values()),
                    ended=checkpoint.get("epoch") == -1,
                    start=_noted_start(file),
                )
        except UserError as error:
            raise UserError(error.message, "read it where the code that trained it is installed") from None


def _noted_start(file: Path) -> str | None:
    """The path that recent releases keep in a trained model; `host.load` puts the file's own in its place."""
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    except NotImplementedError:  # it holds a path of another operating system
        return None
    start = getattr(checkpoint.get("ema") or checkpoint["model"], "pt_path", None)
    return start and str(start)


@dataclass(frozen=True)
class Run:
    """A training of a detector.

    Attributes:
        name: for messages.
        folder: of the run.
        arguments: as given.
        epochs: how many were trained.
        best_map: the best mAP50-95 that it wrote down.
        weights: those of `KINDS` that are there.
    """

    name: str
    folder: Path
    arguments: dict[str, object]
    epochs: int
    best_map: float | None
    weights: dict[str, Weights]

    @classmethod
    def read(cls, name: str, folder: Path) -> "Run":
        """Read a folder.

        Raises:
            UserError: it is none of a detector's training, or a file in it cannot be read.
        """
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder", EXAMPLE)
        written, table = folder / "args.yaml", folder / "results.csv"
        if not written.is_file():
            raise UserError(f"{folder} is no run of Ultralytics: it has no args.yaml", EXAMPLE)
        try:
            arguments = yaml.safe_load(written.read_text(encoding="utf-8"))
            lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
            rows = [row for row in csv.DictReader(lines, skipinitialspace=True) if None not in row.values()]
            maps = [value for row in rows if math.isfinite(value := float(row.get(METRICS["detect"].column, "nan")))]
            epochs = len({row["epoch"] for row in rows})  # one that was lost and repeated can have two rows
        except (OSError, ValueError, AttributeError, KeyError, RecursionError, TypeError, yaml.YAMLError) as error:
            said = " ".join(str(error).split())
            raise UserError(f"{folder} has an args.yaml or results.csv that cannot be read: {said}", EXAMPLE) from None
        if (
            not isinstance(arguments, dict)
            or type(arguments.get("epochs")) is not int
            or not isinstance(arguments.get("patience"), int | float | types.NoneType)
        ):
            raise UserError(f"{written} does not hold the arguments of a training", EXAMPLE)
        kind = f"{arguments.get('task')} {arguments.get('mode')}"
        if kind != "detect train":
            raise UserError(f"{folder} is a run of {kind!r}, and only 'detect train' can be read", EXAMPLE)
        files = {kind: folder / "weights" / f"{kind}.pt" for kind in KINDS}
        weights = {kind: Weights.read(file) for kind, file in files.items() if file.is_file()}
        return cls(name, folder, arguments, epochs, max(maps, default=None), weights)

    @property
    def stopped(self) -> bool:
        """Whether it came to an end before the epochs asked for."""
        return self.epochs < self.arguments["epochs"] and any(of.ended for of in self.weights.values())

    @property
    def version(self) -> str | None:
        """Of the host."""
        return next((of.version for of in self.weights.values()), None)

    @property
    def start(self) -> str | None:
        """The file whose weights the training started from; "" for fresh ones, None if nobody can tell."""
        model, pretrained = str(self.arguments.get("model")), self.arguments.get("pretrained")
        if self.arguments.get("resume") or not self.weights:
            return None
        if noted := next(iter(self.weights.values())).start:
            return noted
        if isinstance(pretrained, str):
            return pretrained
        if not model.endswith(".pt"):
            return ""
        return None if pretrained is False else model  # which releases have understood differently

    def of_best(self, attribute: str):
        """An attribute of best.pt, None if that is missing."""
        return getattr(self.weights.get("best"), attribute, None)

    def in_the_end(self, argument: str) -> object:
        """An argument as the checkpoints have it, because the host changes some while it trains."""
        changed = next((of.arguments for of in self.weights.values()), {})
        return changed.get(argument, self.arguments.get(argument))


def data_here(run: Run, folder: Path) -> tuple[Path, str] | None:
    """The data file of a run, and a copy in a folder that downloads nothing; None if it or its images are not here."""
    for named in (run.arguments.get("data"), run.in_the_end("data")):
        file = Path(str(named)).resolve()
        try:
            written = yaml.safe_load(file.read_text(encoding="utf-8"))
            kept = {key: value for key, value in written.items() if key != "download"}
            copy = folder / f"{run.name}.yaml"
            copy.write_text(yaml.safe_dump({**kept, "path": kept.get("path") or str(file.parent)}), encoding="utf-8")
            dataset.data_file(str(copy))
            return file, str(copy)
        except (OSError, ValueError, AttributeError, KeyError, RecursionError, yaml.YAMLError):  # or a UserError
            continue
    return None
