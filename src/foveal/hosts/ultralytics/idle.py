"""Which of the host's arguments its training reads; the others may differ between two runs and change nothing.

The host keeps the arguments of all its modes in one file and writes all of them down with every run. Its source says
who reads which.
"""

import functools
import inspect
import re
from pathlib import Path

from . import models as host
from .arguments import grammar

_READ = r"\b(?:args|hyp|cfg)(?:\.|\.get\([\"']|, [\"'])({names})\b"


@functools.cache
def arguments() -> frozenset[str]:
    """Arguments that the host reads somewhere, and nowhere while it trains a detector.

    What trains are the files of the trainers, of its data and its networks, and the losses; of the validators, which
    choose best.pt, what turns outputs into boxes. An argument that nobody is seen to read counts as read.
    """
    whole = Path(inspect.getfile(host.ultralytics)).parent
    trains = {whole / "utils" / "loss.py", *(whole / "data").rglob("*.py"), *(whole / "nn").rglob("*.py")}
    for trainer in (host.DetectionTrainer, host.RTDETRTrainer):
        stock = (cls for cls in trainer.__mro__ if cls.__module__.startswith("ultralytics."))
        trains |= {Path(inspect.getfile(cls)) for cls in stock}
    read: set[str] = set()
    somewhere: set[str] = set()
    for file in whole.rglob("*.py"):
        (read if file in trains else somewhere).update(_names(file.read_text(encoding="utf-8")))
    for validator in (host.DetectionValidator, host.RTDETRValidator):
        read |= _names(inspect.getsource(validator.postprocess))
    return frozenset(somewhere - read)


def _names(source: str) -> set[str]:
    return set(re.findall(_READ.format(names="|".join(grammar.DEFAULT_CFG_DICT)), source))
