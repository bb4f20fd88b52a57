"""What a checkpoint holds, read without building or running anything that it names.

A pickle is a program that may name any function and call it. torch's own restricted loader builds the classes that it
is told to trust and runs what they define on loading; here nothing is built at all. torch's zip is opened as a zip, and
every name in the pickle becomes a stand-in, made anew for each file, that can only keep what is stored in it. No name
is ever looked up or imported. The few calls that a checkpoint needs (a tensor from its bytes, a dictionary, a path) are
functions of this file, chosen by exact name; any other call is refused with its name.
"""

import collections
import io
import pickle
import pickletools
import string
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, one_line

# What reading and interpreting a damaged or hand-made file can raise; RecursionError is a RuntimeError.
UNREADABLE_PICKLE = (
    *(AttributeError, EOFError, IndexError, KeyError, MemoryError, OverflowError, RuntimeError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)
SETTINGS = "ultralytics.utils.IterableSimpleNamespace"  # in which the host keeps arguments
_GETATTR = "builtins.getattr"
CUSTOM = "foveal.attention._restore"  # which makes an attention of somebody else's class, and imports that

# Modules of Ultralytics 8.0.0 to 8.0.135, and where their classes are now.
MOVED = {
    "ultralytics.yolo.utils": "ultralytics.utils",
    "ultralytics.yolo.v8": "ultralytics.models.yolo",
    "ultralytics.yolo.data": "ultralytics.data",
}

_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # what pickles of protocol 2 call these
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Unwanted(UserError):
    """The file calls or names what no checkpoint needs."""


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        saved: what was given to `torch.save`: plain data and tensors as they were, anything else as a `Node`.
        names: every class or function that the file names, apart from torch's and Python's plain data.
        modules: those of them of which it stores an `nn.Module`'s state.
        sources: of the attentions in it that are somebody else's classes: what `Custom` stored of each, once.
    """

    saved: Any
    names: frozenset[str]
    modules: frozenset[str]
    sources: tuple[dict[str, str], ...] = ()

    @property
    def model(self) -> "Node | None":
        """The model of a checkpoint, as the host would take it; None if it holds none."""
        held = [self.saved.get(which) for which in ("ema", "model")] if isinstance(self.saved, dict) else []
        return next((model for model in held if isinstance(model, Node) and model.is_module), None)


def _unwanted(called: str) -> Unwanted:
    return Unwanted(
        f"the file calls {called}, which no checkpoint needs: not executed",
        "convert only files from people you trust, and ask for the weights alone otherwise",
    )


class _Name(type):
    """The class of a stand-in for one name, `path`."""

    path: str

    def __call__(cls, *args: object) -> object:
        if cls.path not in _CALLS:
            raise _unwanted(cls.path)
        return _CALLS[cls.path](*args)


class Node(metaclass=_Name):
    """A stand-in for an object of the class that `path` names: it keeps the object's state and does nothing.

    Attributes:
        path: module and name of the class, where that is of any interest.
        state: the attributes that were stored, by name.
        was_module: whether one of the class has had an `nn.Module`'s state.
    """

    path = "plain object"
    state: dict[str, Any]
    was_module = False

    def __new__(cls, *_args: object, **_kwargs: object) -> "Node":
        """An object without state, as pickles begin one; what a real class would get is dropped."""
        node = object.__new__(cls)
        node.state = {}
        return node

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}

    @property
    def is_module(self) -> bool:
        """Whether the state is an `nn.Module`'s."""
        return all(isinstance(self.state.get(part), dict) for part in ("_parameters", "_buffers", "_modules"))

    @property
    def children(self) -> dict[str, "Node"]:
        """The modules in this one, by name."""
        return {name: child for name, child in self.state["_modules"].items() if child is not None}

    def walk(self, prefix: str = "") -> Iterator[tuple[str, "Node"]]:
        """This module and all in it, with their dotted names."""
        yield prefix, self
        for name, child in self.children.items():
            if not (isinstance(child, Node) and child.is_module):
                raise TypeError(f"{self.path} holds {name!r}, which is no module")
            yield from child.walk(f"{prefix}.{name}" if prefix else name)

    def own_tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of this module itself, as a state dict would have them."""
        passing = self.state.get("_non_persistent_buffers_set", ())
        found = self.state["_parameters"] | {k: v for k, v in self.state["_buffers"].items() if k not in passing}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def tensors(self) -> dict[str, Tensor]:
        """The state dict."""
        return {
            f"{path}.{name}" if path else name: tensor
            for path, node in self.walk()
            for name, tensor in node.own_tensors().items()
        }


def read(path: Path, tensors: bool = True) -> Contents:
    """Read what `torch.save` wrote.

    Args:
        path: of a file.
        tensors: with their values; else they are on torch's meta device, which is faster and takes no memory.

    Raises:
        UserError: no such file, one that is damaged or of another format, or one that calls what is not allowed.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(40)
            if begins[:4] != b"PK\x03\x04":
                if not begins.strip(string.printable.encode()):  # also of nothing at all
                    said = f"is text, and begins with {begins.decode().strip()!r}" if begins else "is empty"
                    raise UserError(f"{str(path)!r} {said}", "copy or download the checkpoint itself again")
                raise UserError(
                    f"{str(path)!r} is not in the zip format that torch has written since 1.6",
                    "give a checkpoint such as best.pt; one of an older torch, if you trust it, must be saved again",
                )
            return _read(zipfile.ZipFile(file), path, tensors)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror or error}", "check the path") from None
    except UserError:
        raise
    except UNREADABLE_PICKLE as error:
        said = f"{str(path)!r} is damaged or no checkpoint: {one_line(error)}"
        raise UserError(said, "copy or download it again") from None


def _read(archive: zipfile.ZipFile, path: Path, tensors: bool) -> Contents:
    records = archive.namelist()
    tops = [name.rpartition("/")[0] for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if any(name.endswith("/constants.pkl") for name in records):
        raise UserError(f"{str(path)!r} is a TorchScript file, which is code", "give the checkpoint it was made from")
    if len(tops) != 1:
        raise ValueError("it has no single record data.pkl")
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ValueError("its records are compressed, as torch never writes them")
    if f"{tops[0]}/byteorder" in records and archive.read(f"{tops[0]}/byteorder").decode() != sys.byteorder:
        raise ValueError("it was written on a machine with another byte order")
    program = archive.read(f"{tops[0]}/data.pkl")
    for opcode, argument, _ in pickletools.genops(program):
        if "PUT" in opcode.name and (argument or 0) > len(program):
            raise ValueError("its pickle asks for more memory than it can need")  # the unpickler would try
    reader = _Reader(program, archive, tops[0], tensors)
    saved = reader.load()
    nodes = reader.nodes.values()
    return Contents(
        saved,
        frozenset(node.path for node in nodes if node.path not in _CALLS and not _is_plain(node.path)),
        frozenset(node.path for node in nodes if node.was_module),
        tuple(reader.sources),
    )


class _Reader(pickle.Unpickler):
    """Python's unpickler, given stand-ins for all names and the tensors' bytes from the zip."""

    def __init__(self, program: bytes, archive: zipfile.ZipFile, top: str, tensors: bool):
        super().__init__(io.BytesIO(program), encoding="utf-8")
        self.archive, self.top, self.tensors = archive, top, tensors
        self.nodes: dict[str, type[Node]] = {}
        self.sources: list[dict[str, str]] = []
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> type[Node]:
        path = f"{_today(_PYTHON2.get(module, module))}.{name}"
        if path not in self.nodes:
            self.nodes[path] = _stand_in(path)
        return self._custom if path == CUSTOM else self.nodes[path]  # type: ignore[return-value]  # which is called

    def _custom(self, stored: object) -> Node:
        """Stands for an attention of somebody else; what it says of its class is kept."""
        if not (isinstance(stored, dict) and all(isinstance(part, str) for pair in stored.items() for part in pair)):
            raise ValueError(f"{CUSTOM} is called with something else than texts by name")
        if stored not in self.sources:
            self.sources.append(stored)
        return _attended(self.nodes[CUSTOM])

    def persistent_load(self, said: Any) -> Tensor:
        """The storage with a key, as a flat tensor."""
        kind, storage, key, _, _ = said
        if kind != "storage":
            raise ValueError(f"it refers to a {kind!r}")
        if key not in self.storages:
            record, dtype = f"{self.top}/data/{key}", _DTYPES[storage.path.removeprefix("torch.")]
            self.storages[key] = self._values(record, dtype) if self.tensors else self._size(record, dtype)
        return self.storages[key]

    def _values(self, record: str, dtype: torch.dtype) -> Tensor:
        content = bytearray(self.archive.read(record))
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)

    def _size(self, record: str, dtype: torch.dtype) -> Tensor:
        return torch.empty(self.archive.getinfo(record).file_size // dtype.itemsize, dtype=dtype, device="meta")


def _today(module: str) -> str:
    """The module's present name."""
    for old, new in MOVED.items():
        if module == old or module.startswith(f"{old}."):
            return new + module[len(old) :]
    return module


def _stand_in(name: str) -> type[Node]:
    class Named(Node):
        path = name

        def __setstate__(self, state: object) -> None:
            super().__setstate__(state)
            Named.was_module = Named.was_module or self.is_module

    return Named


def _is_plain(path: str) -> bool:
    name = path.removeprefix("torch.")
    return path.startswith("torch.") and (name in _DTYPES or isinstance(getattr(torch, name, None), torch.dtype))


# The calls that are allowed -----------------------------------------------------------------------------------------


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """A view of a storage; torch checks that it stays inside."""
    if not isinstance(storage, Tensor):
        raise TypeError("a tensor has no storage")
    return storage.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_: object) -> Tensor:
    return data


def _forgotten(*_: object) -> Node:
    """Stands for what no conversion asks for, such as numpy's numbers."""
    return Node.__new__(Node)


def _settings() -> Node:
    return Node.__new__(_stand_in(SETTINGS))


def _attended(base: type[Node]) -> Node:
    return base.__new__(base)


def _method(of: object, name: object) -> Node:
    """The bound `forward...` of a layer, which the host keeps on the layers of a fused model.

    Raises:
        Unwanted: anything else is asked for.
    """
    if not (isinstance(of, Node) and isinstance(name, str) and name.startswith("forward")):
        raise _unwanted(_GETATTR)
    return _forgotten()


def _bytes(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 write bytes."""
    return text.encode({"latin1": "latin1"}[encoding])


_CALLS: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": collections.OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "_codecs.encode": _bytes,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": tuple,
    "torch.device": _forgotten,
    **{f"{package}.PosixPath": lambda *parts: str(PurePosixPath(*parts)) for package in ("pathlib", "pathlib._local")},
    **{f"{p}.WindowsPath": lambda *parts: str(PureWindowsPath(*parts)) for p in ("pathlib", "pathlib._local")},
    **{f"numpy.{core}.multiarray.scalar": _forgotten for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _forgotten for core in ("core", "_core")},
    "numpy.dtype": _forgotten,
    "numpy.ndarray": _forgotten,  # named by _reconstruct
    SETTINGS: _settings,
    "types.SimpleNamespace": _forgotten,
    "timm.layers.format.Format": _forgotten,
    "torchvision.transforms.functional.InterpolationMode": _forgotten,
    "foveal.surgery._restore": _attended,
    CUSTOM: _attended,
    _GETATTR: _method,
}
