"""The releases of Ultralytics that foveal was run on: releases.json, which benchmarks/releases.py writes.

The oldest there is the oldest that is supported, and the newest the one that continuous integration runs.
"""

import json
import re
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")


def numbers(version: str) -> tuple[int, ...]:
    """A release to compare by: (8, 3, 200) for 8.3.200 and for 8.3.200+mine, () where it begins with no number."""
    first = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in first[0].split(".")) if first else ()


RUN: dict[str, dict] = json.loads(FILE.read_text())
OLDEST, *_, NEWEST = sorted(RUN, key=numbers)


def too_old(version: str) -> bool:
    """Whether a release is known to be older than the oldest that is supported."""
    return () < numbers(version) < numbers(OLDEST)
