"""What was judged, in a file: an array for each of its attributes, written whole and compared when it is read back."""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, damaged
from ..files import write_whole

_Kind = TypeVar("_Kind", bound="Stored")
Words = NDArray[np.str_]
Arrays = dict[str, NDArray[Any]]  # by name, of several types

# What numpy and zipfile raise for a file that is cut short or has wrong bytes in it.
UNREADABLE_ARRAYS = (
    *(AttributeError, EOFError, KeyError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


class Stored:
    """Base of the records whose attributes are arrays."""

    def save(self, path: Path) -> None:
        """Write a compressed .npz file, as a whole."""
        save_arrays(path, vars(self))

    @classmethod
    def load(cls: type[_Kind], path: Path) -> _Kind:
        """Read what `save` wrote.

        Raises:
            UserError: no such file, or another one.
        """
        try:
            with np.load(path) as arrays:
                return cls(**arrays)
        except UNREADABLE_ARRAYS as error:
            raise damaged(f"{cls.__name__.lower()} from {path}", error) from None


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays by name into a compressed .npz file, as a whole."""

    def write(part: Path) -> None:
        with part.open("wb") as file:  # savez would append a suffix to a path
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # none is called allow_pickle

    def check(part: Path) -> None:
        with np.load(part) as read:
            if any(read[name].tobytes() != np.asarray(array).tobytes() for name, array in arrays.items()):
                raise UserError(f"{path} was read back with other values than were written", "try another disk")

    write_whole(path, write, check)
