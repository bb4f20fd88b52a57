"""The same benchmark with the sources of another commit, in turns with these: `foveal bench --base REV`.

Each turn is a process of its own, so that either side meets the machine alike: base, this, base, this ... A row's ratio
is of the medians of two neighbouring turns.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import foveal

from ..errors import UserError
from . import timing
from .timing import Quartiles

TURNS = 5
HERE = Path(foveal.__file__).parents[1]


_Times = dict[tuple[str, str, str, str], float | None]  # by attention, contender, mode and case


@dataclass(frozen=True)
class BaseRow:
    """One contender in one case, here and at the base. Spreads are quartiles over the turns.

    Attributes:
        attention: name and arguments.
        contender: a form, or a rival.
        mode: "forward" or "train".
        case: shape, batch, dtype and layout, or model and batch, in words.
        base_milliseconds: of one call at the base; None if it has no such contender or did not time it.
        milliseconds: of one call here; None likewise.
        speedup: the base's time over this one's, above 1 is faster here; None if not resolved.
        spread: upper over lower quartile of that ratio, less 1.
    """

    attention: str
    contender: str
    mode: str
    case: str
    base_milliseconds: Quartiles | None = None
    milliseconds: Quartiles | None = None
    speedup: Quartiles | None = None
    spread: float | None = None


def measure(base: str, arguments: Sequence[str], tell: Callable[[str], object]) -> tuple[BaseRow, ...]:
    """Run `foveal bench` with the sources of commit `base` and with these.

    Args:
        base: a commit as git names it: "main", "HEAD~3", "v0.1.0".
        arguments: of the command.
        tell: is told which turn begins.

    Raises:
        UserError: these sources are not in a git checkout, it has no such commit, or the base cannot run the command.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = export(base, Path(folder))
        found: dict[str, list[dict]] = {"base": [], "this": []}
        for turn in range(TURNS):
            for side, path in (("base", source), ("this", HERE)):
                tell(f"turn {turn + 1} of {TURNS}: {base if side == 'base' else 'these sources'}")
                found[side].append(_times(_run(path, arguments, base if side == "base" else "", folder)))
    return tuple(_compare(found["base"], found["this"]))


def export(base: str, folder: Path) -> Path:
    """The folder `src` of commit `base`, written into `folder`, its kernels built.

    Raises:
        UserError: these sources are not in a git checkout, it has no such commit, or nothing of ours is in it.
    """
    root = _git(HERE, "rev-parse", "--show-toplevel")
    inside = root and _git(HERE, "ls-files", "foveal/__init__.py")
    if not inside:
        raise UserError(
            f"--base needs a git checkout, and {HERE} is not in one", "install from a clone: pip install -e ."
        )
    commit = _git(HERE, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}")
    if not commit:
        raise UserError(f"this checkout has no commit {base!r}", "name a branch, a tag or a commit, such as HEAD~1")
    archive = folder / "base.tar"
    subprocess.run(["git", "-C", root, "archive", "--format=tar", f"--output={archive}", commit], check=True)
    target = folder / "base"
    with tarfile.open(archive) as file:
        file.extractall(target, filter="data")
    source = target / HERE.relative_to(root)
    if not (source / "foveal").is_dir():
        raise UserError(f"commit {base!r} has no {HERE.relative_to(root)}/foveal", "name a later commit")
    if (target / "setup.py").exists():
        build = [sys.executable, "setup.py", "build_ext", "--inplace"]
        done = subprocess.run(build, cwd=target, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(
                f"the kernels of {base!r} cannot be built: {_last_line(done.stderr)}", "name another commit"
            )
    return source


def here() -> str | None:
    """The commit of these sources, with "-dirty" if they were changed since; None outside a checkout."""
    return (_git(HERE, "ls-files", "foveal/__init__.py") and _git(HERE, "describe", "--always", "--dirty")) or None


def _git(folder: Path, *arguments: str) -> str:
    """What git prints, "" if it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(source: Path, arguments: Sequence[str], base: str, folder: str) -> dict:
    """What `foveal bench` of these sources reports."""
    command = [sys.executable, "-m", "foveal", "bench", *arguments, "--json"]
    env = {**os.environ, "PYTHONPATH": str(source)}  # stands before an installed foveal
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    said = _last_line(done.stderr.partition("\n\nhint:")[0])
    if done.returncode not in (0, 1) or not done.stdout.startswith("{"):
        whose = f"foveal bench of {base!r}" if base else "foveal bench"
        raise UserError(f"{whose} cannot run these settings: {said}", "name a later commit, or fewer options")
    return json.loads(done.stdout)


def _last_line(text: str) -> str:
    lines = [line.strip(" │") for line in text.splitlines() if line.strip(" │╰─╯╭╮")]
    return lines[-1] if lines else "it says nothing"


def _times(report: Mapping) -> _Times:
    """The median milliseconds of each row; None where it was not timed."""
    times: _Times = {}
    for row in report["rows"]:
        case = f"{'x'.join(map(str, row['shape']))}, batch {row['batch']}, {row['dtype']}, {row['layout']}"
        times[row["attention"], row["contender"], row["mode"], case] = (row["milliseconds"] or [None] * 2)[1]
    for row in report["models"]:
        case = f"{row['model']}, batch {row['batch']}, {row['dtype']}"
        times[row["attention"], row["contender"], row["mode"], case] = (row["milliseconds"] or [None] * 2)[1]
    return times


def _compare(base: Sequence[_Times], this: Sequence[_Times]) -> list[BaseRow]:
    rows = []
    for key in {**this[0], **base[0]}:
        there, here = ([ms for times in side if (ms := times.get(key)) is not None] for side in (base, this))
        before = timing.quartiles(there) if len(there) == len(base) else None
        now = timing.quartiles(here) if len(here) == len(this) else None
        row = BaseRow(*key, before, now)
        if before and now:
            ratio = timing.quartiles([b / t for b, t in zip(there, here, strict=True)])
            row = replace(row, speedup=ratio if timing.resolved(ratio) else None, spread=ratio[2] / ratio[0] - 1)
        rows.append(row)
    return rows
