"""The gates of a study's arms on the images that they won and lost, and the links from its report to them."""

import json
from pathlib import Path
from urllib.parse import quote

from numpy.typing import NDArray

from ..errors import UserError
from ..evidence import averages
from ..explain import MALFORMED, MANIFEST
from ..files import digest
from ..hosts import Photographs
from ..study import Study


def gates_folder(study: Path, arm: str) -> Path:
    """Where the gates of an arm lie: `gates/ema@neck`; what no file name can hold is quoted."""
    return study / "gates" / quote(arm, safe="@()=,")


def link(study: Study, arms: list[dict], draw: bool) -> None:
    """Add to each image that an arm won or lost where its gates are, seen from the study's folder.

    Adds `gates` to each image, None where they were not drawn, and to the arm's `images` why not, in `no_gates`.

    Args:
        study: with finished cells.
        arms: of its results.
        draw: first explain what has not been explained yet, by each attention's run of the first seed.
    """
    photographs = study.plan.dataset.photographs(study.plan.split)
    for arm in arms:
        if not arm["images"]:
            continue
        arm["images"]["no_gates"] = ""
        images = (*arm["images"]["won"], *arm["images"]["lost"])
        spec = next(planned.spec for planned in study.plan.arms if planned.name == arm["name"])
        folder, run = gates_folder(study.folder, arm["name"]), _run(study, arm)
        names = averages.judged(run, "best", study.plan.task).name if spec else None
        files = _files(photographs, names, [image["name"] for image in images]) if spec else {}
        if draw and files and not files.keys() <= _drawn(folder, run, photographs).keys():
            from ..explain import explain  # which needs the host that it explains

            try:
                folder.parent.mkdir(exist_ok=True)
                explain(run / "weights" / "best.pt", [*files.values()], output=folder)
            except UserError as error:  # the report is missing its links then, and the verdict nothing
                arm["images"]["no_gates"] = str(error)
        page = (folder / "index.html").relative_to(study.folder).as_posix()
        drawn = _drawn(folder, run, photographs)
        for image in images:
            known = image["name"] in files and image["name"] in drawn
            image["gates"] = f"{page}#image-{drawn[image['name']]}" if known else None


def _files(photographs: Photographs, names: NDArray, wanted: list[str]) -> dict[str, Path]:
    """The photographs by name, less those whose name another image has, too, and those that are not there."""
    listed = names.tolist()
    numbers = {name: photographs.number(names, listed.index(name)) for name in wanted if listed.count(name) == 1}
    return {name: photographs.files[number] for name, number in numbers.items() if number is not None}


def _run(study: Study, arm: dict) -> Path:
    """Folder of an arm's run of the first seed."""
    return next(study.path(c) for c in study.cells if (c.arm.name, c.pair) == (arm["name"], min(arm["seeds"])))


def _drawn(folder: Path, run: Path, photographs: Photographs) -> dict[str, int]:
    """Number of each image on the page in a folder; nothing where there is no page, or one of another run."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["kind"] != "explain" or manifest["weights"] != digest(run / "weights" / "best.pt"):
            return {}
        return {photographs.name(Path(image["name"])): number for number, image in enumerate(manifest["images"])}
    except MALFORMED:
        return {}
