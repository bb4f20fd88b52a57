"""What `foveal view` shows of a study: how far each run is, and what both arms found or answered on each image.

Nothing is written into the study's folder. Its plan is unfolded when it changes, not at every look, for that means to
look at every file of the data set.
"""

import functools
import math
import shlex
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import report, results
from ..errors import UserError
from ..evidence import DRAWN, GROUND, Answers, Detections, Evidence, Maps, Task, averages
from ..explain import MANIFEST, album
from ..files import MALFORMED, inside, stamp
from ..study import PLAN, Cell, State, Status, StudyFolder, in_words, rows
from .explained import index

SCORES = {  # of images, by what detections are matched, else by the key of the metric
    "box": "F1 at IoU 0.5 and confidence 0.25",
    "mask": "F1 of masks at IoU 0.5 and confidence 0.25",
    "keypoints": "F1 of key points at a similarity (OKS) of 0.5 and confidence 0.25",
    "top1": "whether the first answer is right",
    "miou": "mean IoU of the classes in it",
}
EXPLAINED = 4  # images won, and lost, in the command that makes gates


class Watched:
    """A study that is looked at.

    Args:
        folder: of the study.

    Raises:
        UserError: its plan cannot work here.
    """

    kind = "study"
    page = "report.html"

    def __init__(self, folder: Path):
        self.folder = folder
        self._turn = threading.Lock()  # two looks at once would take each other for a run under way
        self._planned: tuple[object, _Shown] | None = None
        self.task = self._now().plan.task

    def data(self, name: str, *numbers: str) -> dict | None:
        """Data as JSON takes it: `progress`, `images/ARM` or `image/ARM/SEED/IMAGE`, all by number."""
        study = self._now()
        if name == "progress" and not numbers:
            return self._progress(study)
        arm = index(numbers[0], len(study.plan.arms)) if numbers else None
        if not arm:  # the first is the baseline
            return None
        if name == "images" and len(numbers) == 1:
            return self._images(study, arm)
        if name == "image" and len(numbers) == 3:
            seed, image = index(numbers[1], len(study.plan.seeds)), index(numbers[2], 10**9)
            return None if seed is None or image is None else self._image(study, arm, study.plan.seeds[seed], image)
        return None

    def picture(self, name: str, *numbers: str) -> Path | None:
        """A photograph of the data set, `photo/IMAGE`, or a map of an arm, `map/ARM/NUMBER`."""
        study = self._now()
        if name == "photo" and len(numbers) == 1:
            chosen = index(numbers[0], len(study.photos.files))
            return None if chosen is None else study.photos.files[chosen]
        arm = index(numbers[0], len(study.plan.arms)) if name == "map" and len(numbers) == 2 else None
        if arm and (folder := self._explained(study.plan.arms[arm].name)):
            pictures = album(folder).pictures
            chosen = index(numbers[1], len(pictures))
            return None if chosen is None else pictures[chosen]
        return None

    def written(self, name: str) -> Path | None:
        """The report, or the page of an arm's gates, to which the report leads."""
        gates = (results.gates_folder(self.folder, arm.name) / "index.html" for arm in self._now().plan.arms)
        known = {self.page, *(page.relative_to(self.folder).as_posix() for page in gates)}
        return inside(self.folder, name) if name in known else None

    def _explained(self, arm: str) -> Path | None:
        """The folder of an arm's gates, if it is there, and no link to somewhere else."""
        folder = results.gates_folder(self.folder, arm)
        return folder if inside(self.folder, str(folder.relative_to(self.folder) / MANIFEST)) else None

    def _now(self) -> "_Shown":
        planned = stamp(self.folder / PLAN)
        with self._turn:
            if self._planned is None or self._planned[0] != planned:
                self._planned = planned, _Shown(self.folder)
            return self._planned[1]

    def _states(self, study: "_Shown") -> list[State]:
        with self._turn:
            return study.states()

    def _finished(self, study: "_Shown") -> dict[tuple[str, int], Path]:
        states = self._states(study)
        return {(s.cell.arm.name, s.cell.pair): study.path(s.cell) for s in states if s.status is Status.FINISHED}

    def _progress(self, study: "_Shown") -> dict[str, object]:
        states = self._states(study)
        left = study.seconds_left(states)
        return {
            "arms": [{"name": arm.name, "role": arm.role} for arm in study.plan.arms],
            "seeds": list(study.plan.seeds),
            "split": study.plan.split,
            "metric": study.plan.metric.name,
            "score": SCORES[study.plan.metric.of or study.plan.metric.key],
            "cells": [_cell(state, study) for state in states],
            "left": in_words(left) if left and math.isfinite(left) else None,
            "stale": study.stale(),
            "command": shlex.join(["foveal", "study", "run", str(self.folder)]),
            "verdict": _verdict(self.folder / "results.json", stamp(self.folder / "results.json")),
            "page": inside(self.folder, self.page) is not None,
        }

    def _images(self, study: "_Shown", arm: int) -> dict[str, list]:
        """Images, those first on which the arm did better than the baseline, by scores averaged over seeds."""
        name, finished = study.plan.arms[arm].name, self._finished(study)
        seeds: list[int] = []
        notes: list[str] = []
        scores: list[list[NDArray]] = []
        all_names: list[NDArray] = []
        judged: list[NDArray] = []
        for number, pair in enumerate(study.plan.seeds):
            if not {("baseline", pair), (name, pair)} <= finished.keys():
                continue
            try:
                found = [_found(finished[one, pair], study.plan.task) for one in ("baseline", name)]
                _same(found[0].name if study.plan.folds or not seeds else all_names[0], *found)
            except UserError as error:
                notes.append(str(error))
                continue
            seeds.append(number)
            all_names.append(found[0].name)
            judged.append(study.numbers(pair, found[0].name))
            scores.append([_scores(finished[one, pair], study.plan.task) for one in ("baseline", name)])
        if not seeds:
            return {"seeds": [], "notes": notes, "images": []}
        both = (np.concatenate(of) for of in zip(*scores, strict=True))
        numbers, names, (theirs, ours) = results.by_image(np.concatenate(judged), np.concatenate(all_names), *both)
        difference = ours - theirs
        images: list[dict[str, object]] = [
            {"image": int(numbers[i]), "name": str(names[i]), "difference": float(difference[i])}
            for i in np.argsort(-difference, kind="stable")
        ]
        if study.plan.folds:
            for image in images:
                image["seeds"] = [seed for seed, of in zip(seeds, judged, strict=True) if image["image"] in of]
        return {"seeds": seeds, "notes": notes, "images": images}

    def _image(self, study: "_Shown", arm: int, pair: int, image: int) -> dict[str, object] | None:
        """What both arms found or answered on one image with one seed, and what is there."""
        name, finished = study.plan.arms[arm].name, self._finished(study)
        if not {("baseline", pair), (name, pair)} <= finished.keys():
            return None
        found = [_found(finished[one, pair], study.plan.task) for one in ("baseline", name)]
        _same(found[0].name, *found)
        places = np.flatnonzero(study.numbers(pair, found[0].name) == image)
        if not len(places):
            return None
        photo, place = study.photo(image, found[0].name), int(places[0])
        true, side = next(told for kind, told in _TOLD if isinstance(found[0], kind))
        return {
            "name": str(found[0].name[place]),
            "photo": None if photo is None else f"picture/photo/{photo}",
            "true": true(found[0], place, study),
            "sides": [side(one, place, study) for one in found],
            **self._gates(study, arm, finished, pair, photo, str(found[0].name[place])),
        }

    def _gates(
        self, study: "_Shown", arm: int, finished: dict, pair: int, photo: int | None, image: str
    ) -> dict[str, object]:
        """The maps of an image, or the sentence and the command for those who want some."""
        name = study.plan.arms[arm].name
        folder, said = results.gates_folder(self.folder, name), ""
        if study.plan.arms[arm].spec is None:
            return {"maps": [], "why": f"{name} has no attention of foveal, and so no gates.", "command": ""}
        if self._explained(name):
            try:
                found = album(folder)
                for one in found.images:
                    if study.photos.name(Path(one["name"])) == image:
                        prefix = f"picture/map/{arm}/"
                        maps = [{**m, "picture": _prefixed(prefix, m["picture"])} for m in one["maps"]]
                        whose = f"Gates of {found.about['model']} as explained in {folder}, whichever seed is chosen."
                        return {"maps": maps, "why": whose, "command": ""}
                said = f"The gates in {folder} are not of this image."
            except UserError as error:
                said = str(error)
        ranked = [one["image"] for one in self._images(study, arm)["images"]]
        names = _found(finished[name, pair], study.plan.task).name
        chosen = [study.photo(one, names) for one in dict.fromkeys(ranked[:EXPLAINED] + ranked[-EXPLAINED:])]
        photos = [str(study.photos.files[one]) for one in dict.fromkeys([photo, *chosen]) if one is not None]
        weights = finished[name, pair] / "weights" / "best.pt"
        command = shlex.join(["foveal", "explain", str(weights), *photos, "-o", str(folder)])
        return {"maps": [], "why": said or "Nobody has asked for the gates of this arm yet.", "command": command}


class _Shown(StudyFolder):
    """A study as the page shows it: with its images, and whatever is damaged in it."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.names = self.plan.dataset.names
        data, folds = self.plan.dataset, self.plan.partitions
        self.photos = data.photographs(folds.files if folds else data.images(self.plan.split))

    def photo(self, image: int, names: NDArray) -> int | None:
        """The number of an image's photograph, by what the study's runs found on it; None where it is not there."""
        if not self.plan.folds:
            return self.photos.number(names, image)
        return image if self.photos.files[image].is_file() else None

    def named(self, label: int) -> str:
        """The name of a class."""
        return "none" if label == GROUND else str(self.names.get(int(label), label))

    def state(self, cell: Cell) -> State:
        """How far a cell is; one whose files cannot be read has failed."""
        try:
            state = super().state(cell)
            if state.result:
                # Of another release, or damaged, if they are not there or no numbers.
                _ = state.result.scores[self.plan.metric.key] + state.result.seconds
            return state
        except MALFORMED as error:
            return State(cell, Status.FAILED, reason=f"files in {self.path(cell)} cannot be read: {error}")


def _cell(state: State, study: _Shown) -> dict[str, object]:
    try:
        curve = [_number(row.get(study.plan.metric.column)) for row in rows(study.path(state.cell))]
    except MALFORMED:
        curve = []
    return {
        "arm": state.cell.arm.name,
        "seed": state.cell.pair,
        "state": state.status,
        "epochs": state.epochs,
        "planned": study.epochs[state.cell.arm.name],
        "reason": str(state.reason),
        "score": _number(state.result.scores[study.plan.metric.key]) if state.result else None,
        "curve": curve,
    }


def _number(text: object) -> float | None:
    """Read a number of a table that is being written; None for what is missing, half-written or not finite."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@functools.lru_cache(4)
def _verdict(path: Path, written: object) -> dict[str, object] | None:
    if written is None:
        return None
    try:
        found = results.load(path)
    except UserError as error:
        return {"sentence": "", "complete": False, "problem": str(error)}
    return {"sentence": report.sentence(found), "complete": found.complete, "problem": ""}


def _found(cell: Path, task: Task) -> Evidence:
    return _load(cell / "best.npz", task, stamp(cell / "best.npz"))


@functools.lru_cache(16)
def _load(path: Path, task: Task, _: object) -> Evidence:
    found = averages.judged(path.parent, path.stem, task)
    try:
        whole = found.is_whole()
    except (TypeError, IndexError):
        whole = False
    if not whole:
        raise UserError(f"{path} holds no {type(found).__name__.lower()}", "delete its folder and run the study again")
    return found


def _same(names: NDArray, *found: Evidence) -> None:
    if not all(np.array_equal(names, one.name) for one in found):
        raise UserError("the arms were judged on different images", "run the study again")


def _scores(cell: Path, task: Task) -> NDArray:
    return _scored(cell / "best.npz", task, stamp(cell / "best.npz"))


@functools.lru_cache(256)
def _scored(path: Path, task: Task, written: object) -> NDArray:
    return _load(path, task, written).scores(of=task.metric.of)


def _objects(found: Detections, image: int, study: _Shown) -> list[dict[str, object]]:
    there = np.flatnonzero(found.true_image == image)
    boxes = found.upright(found.true_box[there]).tolist()
    return [
        {"box": box, "label": study.named(found.true_label[thing]), **found.true_drawn(int(thing))}
        for thing, box in zip(there, boxes, strict=True)
    ]


def _class(found: Answers, image: int, study: _Shown) -> str:
    return study.named(found.label[image])


def _ranked(found: Answers, image: int, study: _Shown) -> dict[str, object]:
    """An arm's answers, the most likely first."""
    true = found.label[image]
    return {"answers": [{"label": study.named(one), "right": bool(one == true)} for one in found.ranked[image]]}


def _side(found: Detections, image: int, study: _Shown) -> dict[str, object]:
    """An arm's detections, each with the number of the object it finds, -1 for none.

    Objects go to detections by falling confidence, so that leaving out faint ones changes nothing for the others: the
    page can do that without asking again.
    """
    shown = np.flatnonzero((found.image == image) & (found.confidence >= DRAWN))
    place = np.full(len(found.true_image) + 1, -1)  # in the last place where nothing is found
    there = np.flatnonzero(found.true_image == image)
    place[there] = np.arange(len(there))
    things = place[found.taken(shown, study.plan.metric.of)]
    boxes = found.upright(found.box[shown]).tolist()
    return {
        "boxes": [
            {"box": box, "label": study.named(found.label[one]), "confidence": float(found.confidence[one])}
            | {"object": int(thing), **found.drawn(int(one))}
            for one, box, thing in zip(shown, boxes, things, strict=True)
        ]
    }


def _prefixed(prefix: str, number: int | None) -> str | None:
    return None if number is None else f"{prefix}{number}"


def _truth(found: Maps, image: int, study: _Shown) -> dict[str, object]:
    """The true class of each cell."""
    _, true = found.cells(image)
    return {"rows": len(true), "columns": true.shape[1], "runs": _runs(true)}


def _said(found: Maps, image: int, study: _Shown) -> dict[str, object]:
    """The class that an arm gives to each cell, and how well it knows each class of the image."""
    said, _ = found.cells(image)
    classes = [
        {"class": label, "label": study.named(label), "share": share, "iou": iou}
        for label, share, iou in found.of_image(image)
    ]
    return {"runs": _runs(said), "classes": classes, "score": float(found.scores()[image])}


def _runs(cells: NDArray) -> list[list[int]]:
    """Classes of cells one after the other, each with how often it stands there in a row."""
    flat = cells.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    return np.stack([flat[starts], np.diff(starts, append=len(flat))], 1).tolist()


# How the truth of an image is told, and what a model said of it.
_TOLD: tuple[tuple[type, tuple[Callable[..., object], Callable[..., dict]]], ...] = (
    (Answers, (_class, _ranked)),
    (Maps, (_truth, _said)),
    (Detections, (_objects, _side)),
)
