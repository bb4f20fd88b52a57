"""What a training reads, held to the content that its cell is named by.

A file that is changed and put back while a training reads it leaves the same digest and another model. So the times of
all files are noted before the training and compared after each epoch: one that was written meanwhile costs that epoch,
and nothing that read it is kept.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...files import write_text
from . import dataset

FILE = "bound.json"


@dataclass(frozen=True)
class Bound:
    """The data of a cell.

    Attributes:
        data: a data file or a folder, as the plan names it.
        cache: where digests of its files are kept.
        digest: of its content.
        stamp: of the times of its files.
    """

    data: str
    cache: str
    digest: str
    stamp: str

    @classmethod
    def load(cls, folder: Path) -> "Bound | None":
        """That of the cell in a folder; None if there is none."""
        try:
            return cls(**json.loads((folder / FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, folder: Path) -> None:
        """Write it into the folder of a cell, where the processes of its training find it."""
        write_text(folder / FILE, json.dumps(dataclasses.asdict(self)))

    def require(self, earlier: dataset.Contents | None = None) -> None:
        """Raise if files were changed, or written again, since.

        Args:
            earlier: what there was, to name a file that differs.

        Raises:
            UserError: they were.
        """
        now = dataset.contents(self.data, Path(self.cache))
        if now.digest != self.digest:
            named = now.difference(earlier) if earlier else "other files than before"
            raise UserError(f"the data set changed while the cell was training: {named}", "run the study again")
        if now.stamp != self.stamp:
            said = "files of the data set were written while the cell was training, if only as they had been before"
            raise UserError(said, "run the study again: it goes on before that epoch")
