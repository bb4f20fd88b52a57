"""Classes of other people, by their address.

    my_attention.py:BiFormer        a class in a file
    my_package.module:Class         a class that Python can import, also from the current folder
    timm:eca                        a name of timm's factory of attentions
    ultralytics:CBAM                a class among the layers of Ultralytics,
    torchvision:SqueezeExcitation   or of torchvision
    mine                            what `foveal.register`, or the entry point group `foveal.attentions`, calls so

A file is run as an import would run it, once for each content, and becomes a module named after the file and that
content. So one model can hold classes of two files of one name, and a file may change while a notebook is open.
"""

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from types import ModuleType

from torch import nn

from ..checkpoints import trust
from ..errors import UserError, one_line

LIBRARIES = {"timm": "timm.layers", "torchvision": "torchvision.ops", "ultralytics": "ultralytics.nn.modules"}
GROUP = "foveal.attentions"  # of entry points: a name, and the class that it stands for

_ADDRESS = re.compile(r"(?P<home>(?:[A-Za-z]:)?[^():@+,\n]+):(?P<name>[A-Za-z_]\w*)")
_FILE_MODULE = "foveal_custom_"  # what the names of modules that files become begin with


@dataclass(frozen=True)
class Source:
    """A class, and where it comes from.

    Attributes:
        address: as the rows of a model write it.
        module: that the class belongs to, as pickles name it.
        name: of the class in that module.
        file: in which the class stands, absolute; "" for a library's.
        text: of that file.
        digest: of that text, or the library's version.
        make: the class, or what builds one of its modules.
    """

    address: str
    module: str
    name: str
    file: str
    text: str = field(repr=False)
    digest: str
    make: Callable[..., nn.Module] = field(repr=False, compare=False)

    def stored(self) -> dict[str, str]:
        """What a checkpoint carries of it."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "make"}


_LOADED: dict[str, Source] = {}  # by address
_REGISTERED: dict[str, type[nn.Module]] = {}  # by name, in lower case


def is_address(text: str) -> bool:
    """Whether a text has the form of an address, or is a name that was registered."""
    return bool(_ADDRESS.fullmatch(text)) or _registered(text) is not None


def load(address: str) -> Source:
    """The class at an address, as it is now.

    Raises:
        UserError: there is none, its file cannot be run, or it is no `nn.Module`.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        cls = _registered(address)
        if cls is None:
            raise UserError(f"no attention is registered as {address!r}", f"@foveal.register({address!r})")
        return of_class(cls, address)
    known = _LOADED.get(address)
    if known and isinstance(known.make, type) and _is_local(known.make):
        return known
    home, name = match["home"].strip(), match["name"]
    if home in LIBRARIES:
        source = _of_library(address, home, name)
    elif home.endswith(".py"):
        source = _of_file(address, Path(home), name)
    else:
        return of_class(_member(_imported(home, address), name, address), address)
    trust(source.module, source.address)
    _LOADED[address] = source
    return source


def of_class(cls: type[nn.Module], address: str = "", portable: bool = True) -> Source:
    """A class that this process has.

    Args:
        cls: the class.
        address: under which other processes find it; by default its name, if it was registered, or its module's.
        portable: whether other processes must find it.

    Raises:
        UserError: it must be found by others, and is where only this process has it.
    """
    if portable and _is_local(cls):
        where = "the program that runs" if cls.__module__ == "__main__" else cls.__qualname__.rpartition(".")[0]
        raise UserError(
            f"{cls.__name__} is defined inside {where}, where no other process finds it",
            f"put it into a file, my_attention.py, and give my_attention.py:{cls.__name__}",
        )
    registered = (name for name, value in _REGISTERED.items() if value is cls)
    address = address or next(registered, f"{cls.__module__}:{cls.__name__}")
    file = inspect.getsourcefile(cls) or ""
    text = _text(Path(file)) if file else ""
    trust(cls.__module__, address)
    path = str(Path(file).resolve()) if file else ""
    _LOADED[address] = Source(address, cls.__module__, cls.__name__, path, text, _digest(text), cls)
    return _LOADED[address]


def _is_local(cls: type) -> bool:
    """Whether only this process can find a class."""
    return cls.__module__ == "__main__" or "." in cls.__qualname__


def remember(name: str, cls: type[nn.Module]) -> None:
    """Let a name stand for a class in this process."""
    _REGISTERED[name.casefold()] = cls


def restored(stored: dict[str, str]) -> Source:
    """The class that a checkpoint names, of the content that it names if that is here.

    Raises:
        UserError: its file is not here.
    """
    known = _LOADED.get(stored["address"])
    if known and known.digest == stored["digest"]:
        return known
    if not stored["text"]:
        return load(stored["address"])
    module = sys.modules.get(stored["module"]) or _found(stored)
    cls = _member(module, stored["name"], stored["address"])
    file = inspect.getsourcefile(cls) or stored["file"]
    text = _text(Path(file))
    if _digest(text) != stored["digest"]:
        said = f"{file} is not what it was when this model was saved: {stored['name']} is now as the file has it"
        warnings.warn(said, stacklevel=2)
    source = Source(stored["address"], stored["module"], stored["name"], file, text, _digest(text), cls)
    trust(source.module, source.address)
    _LOADED[source.address] = source
    return source


def _found(stored: dict[str, str]) -> ModuleType:
    """The module of a checkpoint's class, under the name that the checkpoint has for it."""
    if not stored["module"].startswith(_FILE_MODULE):
        try:
            return _imported(stored["module"], stored["address"])
        except UserError:
            pass  # it was found from another folder then
    file = Path(stored["file"])
    places = [file, Path(stored["address"].rpartition(":")[0]), Path(file.name)]
    there = [path for path in places if path.suffix == ".py" and path.is_file()]
    same = [path for path in there if _digest(_text(path)) == stored["digest"]]
    if not there:
        raise UserError(
            f"this model needs {stored['name']} of {file.name}, and there is no {file} and no {file.name} here",
            f"foveal sources MODEL.pt -o . writes {file.name} as it was when the model was saved",
        )
    return _run((same or there)[0], stored["module"])


# The places --------------------------------------------------------------------------------------------------------


def _of_library(address: str, library: str, name: str) -> Source:
    try:
        layers = importlib.import_module(LIBRARIES[library])
    except ImportError:
        raise UserError(f"{address} needs {library}, which is not installed", f"pip install {library}") from None
    make = _of_factory(name, address) if library == "timm" else _member(layers, name, address)
    cls = make.func if isinstance(make, functools.partial) else make
    return Source(address, cls.__module__, cls.__name__, "", "", f"{library} {version(library)}", make)


def _of_factory(name: str, address: str) -> Callable[..., nn.Module]:
    """What timm builds under a name, or a class of its layers."""
    factory = importlib.import_module(f"{LIBRARIES['timm']}.create_attn")
    try:
        return factory.get_attn(name)
    except AssertionError:
        return _member(importlib.import_module(LIBRARIES["timm"]), name, address, timm_names())


def timm_names() -> list[str]:
    """The names that timm's factory of attentions knows, as its code compares them."""
    factory = importlib.import_module(f"{LIBRARIES['timm']}.create_attn")
    return re.findall(r"attn_type == '(\w+)'", inspect.getsource(factory.get_attn))


def _of_file(address: str, path: Path, name: str) -> Source:
    known = _LOADED.get(address)
    if not path.is_file():
        if known:  # a checkpoint brought it from elsewhere
            return known
        raise UserError(f"there is no file {str(path)!r}", f"give the path of the file that has the class {name}")
    text = _text(path)
    if known and known.digest == _digest(text):
        return known
    if known and Path(known.file) != path.resolve() and Path(known.file).is_file():
        raise UserError(
            f"{known.file} and {path.resolve()} are two files of one name with different content",
            "give one of them another name",
        )
    module = _run(path, f"{_FILE_MODULE}{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{_digest(text)[:8]}")
    cls = _member(module, name, address)
    return Source(address, module.__name__, cls.__name__, str(path.resolve()), text, _digest(text), cls)


def _run(path: Path, name: str) -> ModuleType:
    """The module that a file becomes; what stands beside the file can be imported meanwhile."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # of a file that ends with .py
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _importable(path.resolve().parent):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):  # which is the file's own, whatever it is
            raise _cannot_run(str(path), error) from error
        raise
    return module


def _imported(name: str, address: str) -> ModuleType:
    try:
        with _importable(Path.cwd()):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(
                f"{address}: Python finds no module {name!r}", f"give a file, {name.replace('.', '/')}.py:Class"
            ) from None
        raise _cannot_run(name, error) from error
    except Exception as error:  # which is the module's own, whatever it is
        raise _cannot_run(name, error) from error


def _cannot_run(what: str, error: Exception) -> UserError:
    """What stops somebody's file, with the line at which it stopped."""
    frames, at = error.__traceback__, ""
    while frames:
        if frames.tb_frame.f_code.co_filename.endswith(Path(what).name):
            at = f", line {frames.tb_lineno}"
        frames = frames.tb_next
    hint = "python FILE.py shows where"
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"pip install {error.name.partition('.')[0]}, or leave out what needs it"
    elif isinstance(error, ImportError) and "relative import" in str(error):
        hint = "write the whole name, as in from ultralytics.nn.modules.conv import Conv"
    elif isinstance(error, SyntaxError):
        at = f", line {error.lineno}"
    return UserError(f"{what} cannot be imported{at}: {one_line(error, named=True)}", hint)


def _member(module: ModuleType, name: str, address: str, more: list[str] | None = None) -> type[nn.Module]:
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    here = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
    own = [key for key in here if vars(module)[key].__module__ == module.__name__] or here
    near = difflib.get_close_matches(name, [*own, *(more or ())], n=1, cutoff=0.0)
    home = address.rpartition(":")[0]
    what = "is no torch.nn.Module" if hasattr(module, name) else "is not there"
    hint = f"did you mean {home}:{near[0]}?" if near else "give a class below torch.nn.Module"
    raise UserError(f"{address}: {name} {what}", hint)


def _registered(name: str) -> type[nn.Module] | None:
    """The class of that name here, or in an installed package."""
    key = name.casefold()
    if key not in _REGISTERED and key in (installed := _installed()):
        cls = installed[key].load()
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise UserError(f"{name} is {cls!r} in the package that brings it, and no attention", "ask its makers")
        _REGISTERED[key] = cls
    return _REGISTERED.get(key)


@functools.cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name.casefold(): point for point in entry_points(group=GROUP)}


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}", "give a file of Python in UTF-8") from None


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
