"""What a training by Ultralytics leaves in its folder, whoever ran it: arguments, a table and two checkpoints."""

import csv
import math
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ..checkpoints import unpickling
from ..errors import UserError, one_line
from ..evidence import TASKS
from ..files import MALFORMED
from ..hosts import ultralytics as host
from ..hosts.ultralytics import dataset
from ..tensors import count, is_finite

EXAMPLE = "name a folder such as runs/detect/train"
WEIGHTS = ("last", "best")
COLUMNS = tuple(f"metrics/{name}(B)" for name in ("precision", "recall", "mAP50", "mAP50-95"))
EARLIER = np.array([0.0, 0.0, 0.1, 0.9])  # of `COLUMNS`, the fitness of releases before the oldest that is supported
WRITTEN = 1e-5  # to which the host rounds what it writes into its table


@dataclass(frozen=True)
class Weights:
    """What a checkpoint tells.

    Attributes:
        version: of the host that wrote it, if it says so.
        arguments: of the training, as they were in the end.
        classes: their names.
        shapes: of all tensors, by name.
        parameters: their number.
        finite: whether all tensors are.
        ended: whether the training came to an end, early or not.
        start: the file it started from, if the host noted that.
        judged: what the host measured in the epoch of this checkpoint, by the names of its table.
    """

    version: str | None
    arguments: dict[str, Any]
    classes: list[str]
    shapes: dict[str, torch.Size]
    parameters: int
    finite: bool
    ended: bool
    start: str | None
    judged: dict[str, float]

    @classmethod
    def read(cls, file: Path, trust: bool = False) -> "Weights":
        """Read a .pt file; one that names more than layers only where it is trusted.

        Raises:
            UserError: it is damaged, or made with code that is not installed.
        """
        try:
            with host.refusing(file):
                loaded = host.load(file, trust)
                tensors, checkpoint = loaded.model.state_dict(), loaded.ckpt
                return cls(
                    version=checkpoint.get("version"),
                    arguments=dict(checkpoint.get("train_args", {})),
                    classes=list(loaded.model.names.values()),
                    shapes={name: tensor.shape for name, tensor in tensors.items()},
                    parameters=count(loaded.model),
                    finite=is_finite(loaded.model),
                    ended=checkpoint.get("epoch") == -1,
                    start=_noted_start(file),
                    judged=dict(checkpoint.get("train_metrics") or {}),
                )
        except unpickling.Unwanted:
            raise
        except UserError as error:
            raise UserError(error.message, "read it where the code that trained it is installed") from None


def _noted_start(file: Path) -> str | None:
    """The path that recent releases keep in a trained model; `host.load` puts the file's own in its place."""
    try:
        model = unpickling.read(file, tensors=False).model
    except UserError:  # it was trusted, and is not run a second time to ask
        return None
    start = model.state.get("pt_path") if model else None
    return str(start) if start else None


@dataclass(frozen=True)
class Run:
    """A training of a detector.

    Attributes:
        name: for messages.
        folder: of the run.
        arguments: as given.
        table: what it wrote down of each epoch, those of `COLUMNS` that it has, NaN for the others.
        weights: those of `WEIGHTS` that are there and can be read.
        unread: why those that are there cannot be read.
    """

    name: str
    folder: Path
    arguments: dict[str, Any]
    table: dict[int, tuple[float, ...]]
    weights: dict[str, Weights]
    unread: dict[str, str]

    @classmethod
    def read(cls, name: str, folder: Path, trust: bool = False) -> "Run":
        """Read a folder; checkpoints that name more than layers only where it is trusted.

        Raises:
            UserError: it is none of a detector's training, or its arguments or its table cannot be read.
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
            # Of an epoch that was lost and repeated the later row counts.
            judged = {int(float(row["epoch"])): tuple(float(row.get(name, "nan")) for name in COLUMNS) for row in rows}
        except (*MALFORMED, yaml.YAMLError) as error:
            said = f"{folder} has an args.yaml or results.csv that cannot be read: {one_line(error)}"
            raise UserError(said, EXAMPLE) from None
        if (
            not isinstance(arguments, dict)
            or type(arguments.get("epochs")) is not int
            or not isinstance(arguments.get("patience"), int | float | types.NoneType)
        ):
            raise UserError(f"{written} does not hold the arguments of a training", EXAMPLE)
        kind = f"{arguments.get('task')} {arguments.get('mode')}"
        if kind != "detect train":
            raise UserError(f"{folder} is a run of {kind!r}, and only 'detect train' can be read", EXAMPLE)
        weights, unread = {}, {}
        for kind in WEIGHTS:
            if (file := folder / "weights" / f"{kind}.pt").is_file():
                try:
                    weights[kind] = Weights.read(file, trust)
                except UserError as error:
                    unread[kind] = str(error)
        return cls(name, folder, arguments, judged, weights, unread)

    @property
    def epochs(self) -> int:
        """How many were trained."""
        return len(self.table)

    @property
    def best_map(self) -> float | None:
        """The best mAP50-95 that it wrote down."""
        maps = [row[COLUMNS.index(TASKS["detect"].metric.column)] for row in self.table.values()]
        return max(filter(math.isfinite, maps), default=None)

    @property
    def could_stop(self) -> bool:
        """Whether early stopping could end it before the epochs asked for: without validation nothing is compared."""
        patience = self.arguments.get("patience") or 0
        return 0 < patience < self.arguments["epochs"] and self.arguments.get("val") is not False

    @property
    def stopped(self) -> bool | None:
        """Whether early stopping ended it, `patience` epochs after the best one. None if it cannot be told.

        A checkpoint says which epoch was the best; without one the fitness of all releases must agree. Some releases
        count anew after an interruption.
        """
        if not self.could_stop or self.epochs >= self.arguments["epochs"]:
            return False
        if not self.table:
            return None
        since = max(self.table) - self.arguments["patience"]
        answers = {since in best for best in self._best_epochs()}
        if answers == {True}:
            return True
        return False if answers == {False} and not self.arguments.get("resume") else None

    def _best_epochs(self) -> list[set[int]]:
        """Those that may have been the best one, as the table is rounded, by each fitness that may have counted."""
        values = {epoch: np.nan_to_num(row) for epoch, row in self.table.items()}
        if best := self.weights.get("best"):
            noted = [value for name in COLUMNS if (value := best.judged.get(name)) is not None]
            if len(noted) == len(COLUMNS):
                like = {epoch for epoch, row in values.items() if np.allclose(row, noted, atol=WRITTEN)}
                if like:
                    return [like]
        found = []
        for fitness in (lambda row: host.fitness(*row), EARLIER.dot):
            reached = {epoch: fitness(row) for epoch, row in values.items()}
            top = max(reached.values())
            near = {epoch for epoch, value in reached.items() if value >= top - WRITTEN}
            found.append(near if top > 0 else {max(near)})  # while nothing is found, the host waits for the first
        return found

    @property
    def ended(self) -> bool:
        """Whether a checkpoint says that it came to an end."""
        return any(of.ended for of in self.weights.values())

    @property
    def end_to_end(self) -> bool:
        """Whether its model is known to have a head that also finds boxes without suppression."""
        return any(".one2one_" in name for of in self.weights.values() for name in of.shapes)

    @property
    def version(self) -> str | None:
        """The host's release; None where no file says it."""
        return next((of.version for of in self.weights.values()), None)

    @property
    def start(self) -> str | None:
        """The file whose weights the training started from; "" for fresh ones, None if nobody can tell."""
        model, pretrained = str(self.arguments.get("model")), self.arguments.get("pretrained")
        if self.arguments.get("resume"):
            return None
        if noted := next((of.start for of in self.weights.values()), None):
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
            dataset.Data(str(copy))
            return file, str(copy)
        except (*MALFORMED, yaml.YAMLError):  # or a UserError
            continue
    return None
