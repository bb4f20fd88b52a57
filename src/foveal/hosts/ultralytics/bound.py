"""What a training reads, held to the content that its cell is named by.

A file that is changed and put back while a training reads it leaves the same digest and another model. So the times of
all files are noted before the training and compared after each epoch: one that was written meanwhile costs that epoch,
and nothing that read it is kept.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ...files import MALFORMED, write_text
from .. import contents
from .dataset import Data

FILE = "bound.json"


@dataclass(frozen=True)
class Bound:
    """The data of a cell.

    Attributes:
        data: a data file or a folder, as the plan names it.
        cache: where digests of its files are kept.
        digest: of its content.
        stamp: of the times of its files.
        task: of the models, by which labels are told; older files do not say it, and theirs are none of masks.
    """

    data: str
    cache: str
    digest: str
    stamp: str
    task: str = "detect"

    @classmethod
    def load(cls, folder: Path) -> "Bound | None":
        """That of the cell in a folder; None if there is none."""
        try:
            return cls(**json.loads((folder / FILE).read_text()))
        except MALFORMED:
            return None

    def save(self, folder: Path) -> None:
        """Write it into the folder of a cell, where the processes of its training find it."""
        write_text(folder / FILE, json.dumps(dataclasses.asdict(self)))

    def require(self) -> None:
        """Raise if files were changed, or written again, since.

        Raises:
            UserError: they were.
        """
        contents(Data(self.data, task=self.task), Path(self.cache)).require_as(self.digest, self.stamp)
