"""What a training needs that the host's arguments cannot say.

It is in a file of the run's folder, which every process that trains knows; arguments of ours would reach the first one.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

from ..errors import UserError, damaged, shown
from ..files import write_text

FILE = "recipe.json"
_EXAMPLES = {"steps": "steps: [0.3, 0.6, 0.8]", "factor": "factor: 0.2", "padding": "padding: 4"}


@dataclass(frozen=True)
class Recipe:
    """A schedule in steps, and random crops.

    Attributes:
        steps: shares of all epochs, rising: the learning rate falls at the beginning of these. Without any the host's
            own schedule holds; with some, its `lrf` and `cos_lr` do not count.
        factor: what the learning rate is multiplied by at each step.
        padding: pixels of black around a training image of a classifier, from which a crop of the training's size is
            taken at random; at 0 the host crops and resizes as its `scale` says.
    """

    steps: tuple[float, ...] = ()
    factor: float = 0.1
    padding: int = 0

    @classmethod
    def of(cls, written: object) -> "Recipe":
        """From the keys of a plan, which are the attributes.

        Raises:
            UserError: a key or value that cannot work.
        """
        if not isinstance(written, Mapping):
            raise UserError(f"recipe: {shown(written)} is not a mapping", "recipe: {steps: [0.3, 0.6, 0.8]}")
        known = [field.name for field in fields(cls)]
        for key in written:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1) or known
                raise UserError(f"a recipe has no key {shown(key)}", f"did you mean {near[0]!r}?")
        for key, rule in _RULES.items():
            holds, why = rule
            if key in written and not holds(written[key]):
                raise UserError(f"recipe: {key}: {shown(written[key])} {why}", _EXAMPLES[key])
        return cls(**{**written, "steps": tuple(written.get("steps", ()))})

    def rate(self, epoch: int, epochs: int) -> float:
        """What the first learning rate is multiplied by in an epoch, of so many, counted from 0."""
        return self.factor ** sum(epoch >= round(step * epochs) for step in self.steps)

    def save(self, folder: Path) -> None:
        """Write it into the folder of a run."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        write_text(folder / FILE, text)

    @classmethod
    def load(cls, folder: Path) -> "Recipe":
        """What `save` wrote; the default where there is none.

        Raises:
            UserError: the file is damaged.
        """
        try:
            return cls.of(json.loads((folder / FILE).read_text()))
        except FileNotFoundError:
            return cls()
        except (OSError, RecursionError, ValueError) as error:  # a UserError is a ValueError
            raise damaged(folder / FILE, error) from None


def _are_steps(value: object) -> bool:
    if not isinstance(value, list | tuple):
        return False
    return all(type(step) is float and 0 < step < 1 for step in value) and all(a < b for a, b in pairwise(value))


_RULES = {
    "steps": (_are_steps, "are not rising shares of all epochs between 0 and 1"),
    "factor": (lambda value: type(value) is float and 0 < value < 1, "is not a number between 0 and 1"),
    "padding": (lambda value: type(value) is int and value >= 0, "is not a number of pixels"),
}
