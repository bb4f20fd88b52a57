"""The gates of a study's arms on the images that they won and lost, and the links from its report to them."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from .dataset import Photographs
from .detections import Detections
from .errors import UserError
from .explain import digest, explain
from .study import Study
from .view_album import MALFORMED, MANIFEST

IMAGES = 8  # of those won, and of those lost


def gates_folder(study: Path, arm: str) -> Path:
    """Where the gates of an arm lie: `gates/ema@neck`; what no file name can hold is quoted."""
    return study / "gates" / quote(arm, safe="@()=,")


def draw(study: Study, results: dict, say: Callable[[str], None]) -> None:
    """Explain what each attention won and lost, by its run of the first seed, where that is not there yet.

    Args:
        study: with finished cells.
        results: of it, as `results.assemble` returns them.
        say: called with a line whenever something begins or cannot be done.
    """
    photographs = Photographs(study.plan.data, study.plan.split)
    specs = {arm.name: arm.spec for arm in study.plan.arms}
    for arm in results["arms"]:
        if not arm["images"] or specs[arm["name"]] is None:
            continue
        folder, run = gates_folder(study.folder, arm["name"]), _run(study, arm)
        wanted = [image["name"] for side in ("won", "lost") for image in arm["images"][side][:IMAGES]]
        if set(wanted) <= _drawn(folder, run).keys():
            continue
        names = Detections.load(run / "best.npz").name
        numbers = [photographs.number(names, names.tolist().index(name)) for name in wanted]
        files = [photographs.files[number] for number in numbers if number is not None]
        say(f"gates of {arm['name']}, seed {min(arm['seeds'])}, on {len(files)} images that it won or lost")
        try:
            folder.parent.mkdir(exist_ok=True)
            explain(run / "weights" / "best.pt", files, output=folder)
        except UserError as error:  # the report is missing its links then, and the verdict nothing
            say(f"no gates of {arm['name']}: {error}")


def link(study: Study, results: dict) -> None:
    """Add to each image won or lost in the results where its gates are, seen from the study, or None."""
    for arm in results["arms"]:
        if not arm["images"]:
            continue
        folder = gates_folder(study.folder, arm["name"])
        page = (folder / "index.html").relative_to(study.folder).as_posix()
        drawn = _drawn(folder, _run(study, arm))
        for image in (*arm["images"]["won"], *arm["images"]["lost"]):
            number = drawn.get(image["name"])
            image["gates"] = None if number is None else f"{page}#image-{number}"


def _run(study: Study, arm: dict) -> Path:
    """Folder of an arm's run of the first seed."""
    return next(study.path(c) for c in study.cells if (c.arm.name, c.pair) == (arm["name"], min(arm["seeds"])))


def _drawn(folder: Path, run: Path) -> dict[str, int]:
    """Number of each image on the page in a folder; nothing where there is no page, or one of another run."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["kind"] != "explain" or manifest["weights"] != digest(run / "weights" / "best.pt"):
            return {}
        return {Path(image["name"]).name: number for number, image in enumerate(manifest["images"])}
    except MALFORMED:
        return {}
