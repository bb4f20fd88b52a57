"""Whether a .pt file can be loaded without running what its maker put into it, found out before it is loaded.

To load a checkpoint is to run a program that may name any function and call it. So it is read first by `unpickling`,
which builds nothing: all it calls must be what tensors and dictionaries are made with, and all it names must be layers
of torch, Ultralytics, foveal or the zoos. A file that names anything else is loaded only where a user says so.
"""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from .unpickling import Node, Unwanted, read

# Where layers come from, and what Ultralytics keeps on a model beside them.
LAYERS = ("torch.nn.modules", "ultralytics.nn", "torchvision", "timm", "foveal")
BESIDE = ("ultralytics.utils.loss", "ultralytics.utils.tal", "torchvision.transforms", "foveal")
FUNCTIONS = ("torch.nn.functional", "torch._C._nn")  # kept on layers as their activation
# Modules and addresses of attentions that this process was told of.
_TRUSTED: set[str] = set()
_ADDRESS = re.compile(r"(?:^|\+)\s*(?P<address>(?!timm:|torchvision:|ultralytics:)[^+()@]+:\w+)")  # in a row of a model
CAUTION = "load only files from people you trust: the commands of foveal then take it with --trust"


def trust(module: str, address: str) -> None:
    """Let files name the classes of a module, and rows an address: the user has asked for that attention."""
    _TRUSTED.update((module, address))


def trust_file(path: Path) -> None:
    """Let files name whatever a .pt file names: the user has said that it is theirs.

    Raises:
        UserError: it is damaged, or of a format that cannot be read without running it.
    """
    contents = read(path, tensors=False)
    _TRUSTED.update(name.rpartition(".")[0] for name in contents.names)
    _TRUSTED.update(source["module"] for source in contents.sources)
    _TRUSTED.update(_in_rows(contents.saved))


def require_harmless(path: Path) -> None:
    """Check that a .pt file runs nothing but layers of known packages, and code that was asked for, when it is loaded.

    Raises:
        Unwanted: it calls what no checkpoint needs, or names what is no layer of these packages or is not installed, or
            somebody's own attention that this process was not told to load.
        UserError: it is damaged, or of a format that cannot be read without running it.
    """
    try:
        contents = read(path, tensors=False)
    except Unwanted as error:
        raise Unwanted(f"{str(path)!r} is not loaded: {error.message}", CAUTION) from None
    for source in contents.sources:
        if source["module"] not in _TRUSTED and not _within(source["module"], LAYERS):
            raise Unwanted(
                f"{str(path)!r} is not loaded: its attention {source['address']} is a class of "
                f"{source['file'] or source['module']}, whose code would run",
                f"if that file is yours, add --trust; foveal sources {path} shows the code as it was saved",
            )
    for address in _in_rows(contents.saved):
        if address not in _TRUSTED:
            raise Unwanted(f"{str(path)!r} is not loaded: a row of it names {address}, whose code would run", CAUTION)
    for name in sorted(contents.names):
        if name.rpartition(".")[0] in _TRUSTED:
            continue
        found, is_there = _named(name)
        if not is_there:
            raise Unwanted(
                f"{str(path)!r} needs {name}, which is not installed here",
                f"if it is an attention that was pasted into Ultralytics, foveal convert {path} needs no such code",
            )
        if not _is_harmless(name, found):
            raise Unwanted(f"{str(path)!r} is not loaded: it names {name}, whose code would run", CAUTION)


def _in_rows(saved: object) -> Iterator[str]:
    """Addresses of somebody's own attentions in the rows from which the host would build a model anew."""
    for model in saved.values() if isinstance(saved, dict) else [saved]:
        cfg = model.state.get("yaml") if isinstance(model, Node) else None
        for part in (cfg.get("backbone"), cfg.get("head")) if isinstance(cfg, dict) else ():
            for row in part if isinstance(part, list) else ():
                if isinstance(row, list) and len(row) > 2:
                    yield from (found["address"].strip() for found in _ADDRESS.finditer(str(row[2])))


def _named(name: str) -> tuple[object, bool]:
    """What a name stands for, and whether it stands for anything; modules of unknown packages are not imported."""
    module, _, last = name.rpartition(".")
    try:
        if not _within(module, (*LAYERS, *BESIDE, *FUNCTIONS)) or module.endswith("__main__"):
            return None, importlib.util.find_spec(module.partition(".")[0]) is not None
        home = torch._C._nn if module == "torch._C._nn" else importlib.import_module(module)  # it has no file
    except (ImportError, ValueError):
        return None, False
    return getattr(home, last, None), hasattr(home, last)


def _is_harmless(name: str, found: object) -> bool:
    module = name.rpartition(".")[0]
    if isinstance(found, type):
        return _within(module, BESIDE) or (_within(module, LAYERS) and issubclass(found, nn.Module))
    return callable(found) and module in FUNCTIONS


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
