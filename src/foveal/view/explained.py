"""What `foveal view` shows of a folder of `foveal explain`."""

from pathlib import Path

from ..evidence import Task
from ..explain import album
from ..files import inside


def index(text: str, count: int) -> int | None:
    """A number below `count` from a request; None for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < count else None


class ExplainedFolder:
    """A folder of `foveal explain` that is looked at.

    Args:
        folder: with a manifest.

    Raises:
        UserError: it is damaged.
    """

    kind = "explain"
    page = "index.html"

    def __init__(self, folder: Path):
        self.folder = folder
        self.task = Task.of(str(album(folder).about["task"]))

    def data(self, name: str, *numbers: str) -> dict | None:
        """All of it, as JSON takes it: `album`."""
        if (name, numbers) != ("album", ()):
            return None
        found = album(self.folder)
        return {**found.about, "images": found.images, "page": inside(self.folder, self.page) is not None}

    def picture(self, name: str, *numbers: str) -> Path | None:
        """A picture of the manifest, `map/NUMBER`."""
        pictures = album(self.folder).pictures
        chosen = index(numbers[0], len(pictures)) if name == "map" and len(numbers) == 1 else None
        return None if chosen is None else pictures[chosen]

    def written(self, name: str) -> Path | None:
        """The page."""
        return inside(self.folder, name) if name == self.page else None
