"""Files: written so that they are there as a whole or not at all, and told apart by their content."""

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from .errors import UserError


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


def digest(path: Path, size: int = 16) -> str:
    """A digest of a file's content, in hexadecimal digits of so many bytes."""
    return hashlib.blake2b(path.read_bytes(), digest_size=size).hexdigest()


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
