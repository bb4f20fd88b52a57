"""Files: written so that they are there as a whole or not at all, and told apart by their content."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from .errors import UserError


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with the path of a file beside `target`, then put that file in `target`'s place.

    Raises:
        UserError: the file cannot be written; `target` is as it was.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave the name without its content
        os.replace(part, target)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise UserError(f"cannot write {target}: {error}", "free some space or choose another folder with -o") from None
    finally:
        part.unlink(missing_ok=True)


def digest(path: Path, size: int = 16) -> str:
    """Of a file's content, in hexadecimal digits of so many bytes."""
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
    return str(place)
