"""The gates of a study's arms on the images that they won and lost, and the links from its report to them."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from ..errors import UserError
from ..evidence import averages
from ..explain import MANIFEST
from ..files import MALFORMED, digest
from ..study import Arm, Study
from .schema import Images, ImageScores


def gates_folder(study: Path, arm: str) -> Path:
    """Where the gates of an arm lie: `gates/ema@neck`; what no file name can hold is quoted."""
    return study / "gates" / quote(arm, safe="@()=,")


class Gallery:
    """The gates of an arm.

    Args:
        study: with finished cells.
        arm: of it.
        seed: of the run that is explained.
    """

    def __init__(self, study: Study, arm: Arm, seed: int):
        self._root, self._folder, self._spec = study.folder, gates_folder(study.folder, arm.name), arm.spec
        self._run = next(study.path(cell) for cell in study.cells if (cell.arm.name, cell.pair) == (arm.name, seed))
        self._photographs, folds = study.photographs(seed), study.plan.partitions
        self._often = Counter(map(self._photographs.name, folds.files if folds else self._photographs.files))
        self._judged = averages.judged(self._run, "best", study.plan.task).name

    def linked(self, images: Images) -> Images:
        """The same images with the places of their gates, seen from the study's folder; None where none were drawn."""
        page = (self._folder / "index.html").relative_to(self._root).as_posix()
        files = self._files(images)
        places = {name: f"{page}#image-{number}" for name, number in self._drawn().items() if name in files}

        def each(listed: tuple[ImageScores, ...]) -> tuple[ImageScores, ...]:
            return tuple(replace(image, gates=places.get(image.name)) for image in listed)

        return replace(images, won=each(images.won), lost=each(images.lost))

    def draw(self, images: Images) -> Images:
        """The same images with their gates drawn and linked, unless that has been done, or with the reason why not."""
        files, why_not = self._files(images), ""
        if files and not files.keys() <= self._drawn().keys():
            from ..explain import explain  # which needs the host that it explains

            try:
                self._folder.parent.mkdir(exist_ok=True)
                explain(self._run / "weights" / "best.pt", [*files.values()], output=self._folder)
            except UserError as error:  # the report is missing its links then, and the verdict nothing
                why_not = str(error)
        return replace(self.linked(images), no_gates=why_not)

    def _files(self, images: Images) -> dict[str, Path]:
        """The photographs by name, less those that were not judged by this run, are not there or have a name twice."""
        if self._spec is None:  # without an attention of foveal there are no gates
            return {}
        listed = self._judged.tolist()
        wanted = (image.name for image in (*images.won, *images.lost))
        known = [name for name in wanted if listed.count(name) == 1 and self._often[name] < 2]
        numbers = {name: self._photographs.number(self._judged, listed.index(name)) for name in known}
        return {name: self._photographs.files[number] for name, number in numbers.items() if number is not None}

    def _drawn(self) -> dict[str, int]:
        """Number of each image on the page; nothing where there is no page, or one of another run."""
        try:
            manifest = json.loads((self._folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["kind"] != "explain" or manifest["weights"] != digest(self._run / "weights" / "best.pt"):
                return {}
            names = (self._photographs.name(Path(image["name"])) for image in manifest["images"])
            return {name: number for number, name in enumerate(names)}
        except MALFORMED:
            return {}
