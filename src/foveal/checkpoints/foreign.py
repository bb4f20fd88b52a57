"""Files of another Ultralytics: a stored layer that the installed class of its name would never have built.

A fork, or a release of another time, keeps a class's name and changes what is in it. Such a file loads, and fails at
its first forward with an error about an attribute, which says nothing to who only has the file. Compared are the
children and parameters of every stored layer with those that the installed class makes in its constructor, read off its
source: neither the file nor the class is run for it.
"""

import ast
import functools
import inspect
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from ..errors import UserError
from .unpickling import Node, read

_PACKAGE = "ultralytics"


def diagnosed(
    model: nn.Module | Node | str | os.PathLike[str], error: Exception | None = None, source: object = None
) -> UserError | None:
    """Why the installed Ultralytics cannot run a model, where a layer in it is another than its class builds.

    Args:
        model: a model of Ultralytics, what `unpickling.read` made of one, or the path of a .pt file.
        error: what the host raised, if it did. A layer that merely lacks something, as a fused convolution lacks its
            norm, is told of only where this error is about that.
        source: how to name the model, where it is not a path.

    Returns:
        The sentence for the user; None where nothing of that kind is seen, or the file cannot be read.
    """
    name = "the model" if source is None else repr(str(source))
    if isinstance(model, str | os.PathLike):
        name = repr(str(model))
    stored = _stored(Path(model)) if isinstance(model, str | os.PathLike) else model
    for path, cls, holds in _layers(stored) if stored is not None else ():
        built, mentioned = _built(cls), _mentioned(cls)
        missing = sorted(built - holds)
        strange = sorted(holds - mentioned - {"attention"})  # where foveal attaches
        if missing and (strange or getattr(error, "name", None) in missing):
            row = path.split(".")[1] if path.startswith("model.") else path
            version = getattr(sys.modules.get(_PACKAGE), "__version__", "")
            return UserError(
                f"{name} comes from another Ultralytics, such as a fork: {cls.__name__} in row {row} holds "
                f"{' and '.join(strange) or f'no {missing[0]}'} where this release ({version}) has "
                f"{' and '.join(missing)}",
                "use that Ultralytics, or the weights that were made for this release",
            )
    return None


def _stored(path: Path) -> Node | None:
    """The model in a file, as the host would take it."""
    if path.suffix != ".pt" or not path.is_file():
        return None
    try:
        return read(path).model
    except UserError:
        return None


def _layers(model: nn.Module | Node) -> Iterator[tuple[str, type, set[str]]]:
    """Dotted name, installed class, and names of the children and parameters of every layer that is the host's."""
    parts = model.walk() if isinstance(model, Node) else model.named_modules()
    for path, part in parts:
        state = part.state if isinstance(part, Node) else vars(part)
        cls = _installed(part.path) if isinstance(part, Node) else getattr(type(part), "_attended_base", type(part))
        if path and cls is not None and cls.__module__.startswith(f"{_PACKAGE}.nn.modules"):
            yield path, cls, {*state["_modules"], *state["_parameters"], *state["_buffers"]}


def _installed(name: str) -> type | None:
    """The class of that name, of the modules that are loaded."""
    module, _, last = name.rpartition(".")
    cls = vars(sys.modules.get(module, object)).get(last)
    return cls if isinstance(cls, type) and issubclass(cls, nn.Module) else None


@functools.cache
def _tree(cls: type) -> ast.ClassDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, SyntaxError, TypeError):
        return None
    return tree if isinstance(tree, ast.ClassDef) else None


def _ancestry(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if issubclass(base, nn.Module) and base.__module__.startswith(_PACKAGE)]


@functools.cache
def _mentioned(cls: type) -> frozenset[str]:
    """Every attribute of `self` that the class or one it inherits from names."""
    trees = [tree for base in _ancestry(cls) if (tree := _tree(base))]
    return frozenset(
        node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_self(node)
    )


@functools.cache
def _built(cls: type) -> frozenset[str]:
    """The layers that the constructor makes whatever its arguments are."""
    made: set[str] = set()
    for base in _ancestry(cls):
        tree = _tree(base)
        own = (
            next((f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
            if tree
            else None
        )
        if own is None:
            continue
        for statement in own.body:
            if isinstance(statement, ast.Assign):
                made |= {
                    target.attr
                    for targets in statement.targets
                    for target, value in _pairs(targets, statement.value)
                    if isinstance(target, ast.Attribute) and _is_self(target) and _makes_a_layer(value)
                }
        if "super().__init__" not in ast.unparse(own):
            break  # what its bases would have made, it makes itself or not at all
    return frozenset(made)


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """`self.a, self.b = A(), B()` one by one."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def _is_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def _makes_a_layer(value: ast.expr) -> bool:
    """Whether an expression calls a class, `Conv(...)` or `nn.Conv2d(...)`."""
    if not isinstance(value, ast.Call):
        return False
    called = ast.unparse(value.func).rpartition(".")[2]
    return called[:1].isupper()
