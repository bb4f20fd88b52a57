"""The image files that a split names, as Ultralytics finds them."""

import glob
import os
from pathlib import Path

from . import models as host  # noqa: F401  (before Ultralytics itself, because it says if that is missing or too old)

# isort: split
from ultralytics.data.utils import IMG_FORMATS


def below(folder: Path) -> list[Path]:
    """Images below a folder: through links to folders, too, and no hidden ones."""
    found = glob.glob(os.path.join(glob.escape(str(folder)), "**", "*.*"), recursive=True)
    return sorted(Path(file) for file in found if _is_image(file))


def listed(file: Path) -> list[Path]:
    """Images that a list names, a line each: from the list's folder where one begins with ./, else from the current."""
    lines = file.read_text(encoding="utf-8-sig").strip().splitlines()
    return [file.parent / line if line.startswith("./") else Path(line) for line in lines if _is_image(line)]


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMG_FORMATS
