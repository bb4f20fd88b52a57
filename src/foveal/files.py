"""Files: written so that they are there as a whole or not at all, told apart by their content, printed into."""

import contextlib
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError

# What reading a file, and taking apart what it holds, raises where that is not what it should be.
MALFORMED = (
    *(ArithmeticError, AttributeError, LookupError, OSError),
    *(RecursionError, StopIteration, TypeError, ValueError),
)


def write_whole(target: Path, write: Callable[[Path], object], check: Callable[[Path], object] | None = None) -> None:
    """Call `write` with the path of a file beside `target`, then put that file in `target`'s place.

    Args:
        target: the file that is to be there.
        write: writes the file it is given, whose suffix is the target's.
        check: reads that file back before it gets its name, and raises where it is not what was meant.

    Raises:
        UserError: the file cannot be written, or `check` raised it; `target` is as it was.
    """
    part = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave the name without its content
        if check:
            check(part)
        os.replace(part, target)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise UserError(f"cannot write {target}: {error}", "free some space or choose another folder with -o") from None
    finally:
        part.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a text in UTF-8, and read it back before the file gets its name.

    Raises:
        UserError: the file cannot be written, or holds another text when it is read; `target` is as it was.
    """
    content = text.encode()

    def check(part: Path) -> None:
        if part.read_bytes() != content:
            raise UserError(f"{target} cannot be written: another text came back", "try another disk with -o")

    write_whole(target, lambda part: part.write_bytes(content), check)


def named(given: object, what: str) -> Path:
    """The path of a file or folder that was given by its name.

    Args:
        given: text or a path.
        what: it is, for the message.

    Raises:
        UserError: it is something else, such as a model that is loaded already.
    """
    if isinstance(given, str | os.PathLike):
        return Path(given)
    said = f"{what} is named by the path of its file, and this is an object of the class {type(given).__name__}"
    raise UserError(said, 'give a path, such as "best.pt"' if what == "a model" else "give a path")


def require_free(target: Path, force: bool = False) -> None:
    """Check that a file may be written.

    Args:
        target: the file.
        force: whether it may be there already.

    Raises:
        UserError: it is there, or the folder that it is to lie in is not.
    """
    if target.exists() and not force:
        raise UserError(f"{target} exists", "choose another name with -o, or overwrite it with --force")
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {str(target.parent)!r} to write to", "create it first")


def require_intact(path: Path) -> None:
    """Read back an archive, such as torch writes, and compare it with its own checksums.

    Raises:
        UserError: a part of it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        damaged = path.name
    if damaged:
        raise UserError(f"{path} was read back damaged, at {damaged}", "try another disk")


@contextlib.contextmanager
def stdout_to(descriptor: int) -> Iterator[None]:
    """Let whatever is printed meanwhile, also past Python and by programs that are started, go to another file."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def digest(path: Path, size: int = 16) -> str:
    """A digest of a file's content, in hexadecimal digits of so many bytes."""
    return hashlib.blake2b(path.read_bytes(), digest_size=size).hexdigest()


def remembered(
    files: Mapping[str, Path], cache: Path | None, compute: Callable[[list[Path]], Iterable[str]]
) -> dict[str, list[Any]]:
    """What is computed of each file that is there; again only where its size or time is another than before.

    Args:
        files: by name.
        cache: a JSON file that keeps what is returned; None if nothing is to be kept.
        compute: sixteen hexadecimal digits of each file, or "".

    Returns:
        By name the size, the time in nanoseconds and what was computed.
    """
    known = _remembered(cache)
    there = {name: path.stat() for name, path in files.items() if path.exists()}
    stamps = {name: [status.st_size, status.st_mtime_ns] for name, status in there.items()}
    fresh = [name for name, stamp in stamps.items() if known.get(name, [None])[:2] != stamp]
    computed = dict(zip(fresh, compute([files[name] for name in fresh]), strict=True))
    found = {name: [*stamp, computed[name] if name in computed else known[name][2]] for name, stamp in stamps.items()}
    if cache and found != known:
        write_text(cache, json.dumps(found))
    return found


def _remembered(cache: Path | None) -> dict[str, list[Any]]:
    """What an earlier call kept; nothing where that is not what it wrote."""
    try:
        kept: dict[str, list[Any]] = json.loads(cache.read_text()) if cache else {}
        return kept if all(len(of) == 3 and len(bytes.fromhex(of[2])) in (0, 8) for of in kept.values()) else {}
    except MALFORMED:
        return {}


def inside(folder: Path, name: object) -> Path | None:
    """The file of a name below a folder; None if there is none, or if it lies elsewhere, by a link or by its name."""
    if not isinstance(name, str):
        return None
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, a circle of links, or a name with a null byte
        return None


def stamp(path: Path) -> tuple[int, int] | None:
    """Changes when a file does; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def beside(name: str, folder: Path) -> str:
    """The file in a folder if there is one, else the name as it stands.

    Raises:
        UserError: it cannot be the name of a file.
    """
    place = folder / name
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return name
    except (OSError, ValueError) as error:  # too long, or with characters that no name has
        said = getattr(error, "strerror", None) or error
        raise UserError(f"cannot look for {name!r}: {said}", "write for example yolo11n.pt") from None
    short = os.path.normpath(place)
    return short if os.path.exists(short) and os.path.samefile(short, place) else str(place)  # past links it may not be
