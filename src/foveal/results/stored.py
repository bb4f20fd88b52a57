"""`results.json`: written so that it can be read again, and read whichever release wrote it."""

import dataclasses
import json
from os import PathLike
from pathlib import Path

import msgspec

from ..errors import UserError
from ..files import named, write_text
from .older import upgraded
from .schema import SCHEMA_VERSION, StudyResults

FILE = "results.json"


def write(results: StudyResults, folder: str | PathLike[str]) -> Path:
    """Write `results.json` into a folder."""
    text = json.dumps(dataclasses.asdict(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(target := named(folder, "a folder") / FILE, text)
    return target


def load(path: str | PathLike[str]) -> StudyResults:
    """Read a `results.json`, or that of a study's folder; one of an older release is brought to what is known today.

    Raises:
        UserError: it cannot be read, is not what a study found, or was written by a later release.
    """
    path = named(path, "results")
    path = path / FILE if path.is_dir() else path
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
        raise UserError(f"{path} cannot be read: {error}", "foveal study report writes it again") from None


def read(found: object) -> StudyResults:
    """The records of what stands in a `results.json`.

    Raises:
        msgspec.ValidationError: something is missing, or of another kind than it must be.
        UserError: a later release wrote it.
    """
    if isinstance(found, dict):
        version = found.get("schema_version", 1)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UserError(f"schema_version is {version}, and this release reads up to {SCHEMA_VERSION}", "")
        if version == 1:
            found = upgraded(found)
    return msgspec.convert(found, StudyResults)
