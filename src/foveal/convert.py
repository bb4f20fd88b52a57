"""Checkpoints made with pasted code in, checkpoints of foveal out; the pasted code is neither needed nor run.

`unpickling` reads the file without building anything, `pasted` recognises the attentions in what it read. Here the host
builds the model anew from its own rows, with foveal's attention in place of the pasted one, and every tensor must find
its place: names, shapes and the settings of all layers are compared, so the new model computes what the old one did.

Rows are a program as well: the host calls whatever a row names, and evaluates the text of `activation`. Here rows may
name layers only, and that text must be a layer with plain arguments.
"""

import copy
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import insert
from . import yolo as host
from .attention import ATTENTIONS, PARTS, known
from .errors import UserError
from .files import write_whole
from .pasted import Pasted, differing, recognise
from .surgery import IdentityStart
from .unpickling import SETTINGS, UNREADABLE, Contents, Node, read

_OURS = {f"{cls.__module__}.{cls.__name__}" for cls in (*ATTENTIONS.values(), *PARTS, IdentityStart)}
_OURS |= {f"{host.Registered.__module__}.{host.Registered.__name__}"}
_KINDS = (
    *("DetectionModel", "SegmentationModel", "PoseModel", "OBBModel", "ClassificationModel"),
    "RTDETRDetectionModel",
)
_LAYERS = tuple(f"ultralytics.nn.modules.{name}" for name in ("activation", "block", "conv", "head", "transformer"))
_HOST = (*_LAYERS, "ultralytics.nn.tasks", "ultralytics.utils.loss", "ultralytics.utils.tal")
_SEQUENTIAL = "torch.nn.modules.container.Sequential"
_ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Z]\w*\([\w=., -]*\)")
_SETTINGS_KEPT = ("names", "task", "nc", "kpt_shape", "kpt_names")


@dataclass(frozen=True)
class Replaced:
    """One pasted attention: its row, the class it was pickled as, and what it is in foveal's terms."""

    row: int
    was: str
    spec: str


@dataclass(frozen=True)
class Converted:
    """What `convert` did.

    Attributes:
        source: the file that was read.
        output: the file that was written.
        attentions: what was replaced.
        tensors: how many tensors of the old model are in the new one, and how many the old one has: all, or nothing is
            written. Each has the old one's values.
        shifted: batch norms whose running variance took up the difference between the host's eps and the paper's.
        weights: "ema", the host's weight average, or "model" where the file has none.
    """

    source: str
    output: str
    attentions: tuple[Replaced, ...]
    tensors: tuple[int, int]
    shifted: tuple[str, ...]
    weights: str


@dataclass(frozen=True)
class _Part:
    """A layer, or a part of one, with the beginnings of its tensors' names before and after."""

    node: Node
    before: str
    after: str
    pasted: Pasted | None = None


def convert(source: str | os.PathLike, *, output: str | os.PathLike | None = None, force: bool = False) -> Converted:
    """Write a foveal checkpoint with the weights and outputs of one that was trained with pasted attentions.

    Args:
        source: a .pt file of Ultralytics, from code that need not be there any more and is not run if it is.
        output: by default in the current directory, named after `source`, as in best-foveal.pt.
        force: overwrite `output`.

    Raises:
        UserError: a file that is damaged, that names what no checkpoint needs, that has no pasted attention or one that
            foveal cannot take over exactly; nothing is written then.
    """
    source = Path(source)
    target = _target(source, output, force)
    contents = read(source)
    try:
        which, model = _model(contents, source)
        parts, cfg = _plan(model, source)
        _require_known(contents, parts)
        built = _build(model, cfg)
        tensors, shifted = _carry_over(parts, built, model)
        saved = host.checkpoint(built, _kept(contents.saved))
    except UserError:
        raise
    except UNREADABLE as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{str(source)!r} cannot be rebuilt ({type(error).__name__}: {said})",
            "give a checkpoint that Ultralytics wrote, such as best.pt",
        ) from None
    write_whole(target, lambda path: torch.save(saved, path))
    replaced = [(int(part.before.split(".")[1]), part.pasted) for part in parts if part.pasted]
    return Converted(
        source=str(source),
        output=str(target),
        attentions=tuple(Replaced(row, pasted.path, str(pasted.spec)) for row, pasted in replaced),
        tensors=tensors,
        shifted=shifted,
        weights=which,
    )


def _target(source: Path, output: str | os.PathLike | None, force: bool) -> Path:
    target = Path(output) if output else Path(f"{source.stem}-foveal.pt")
    if target.suffix != ".pt":
        raise UserError(f"{target} is no name for a checkpoint", f"write to {target.with_suffix('.pt')}")
    if target.exists() and not force:
        raise UserError(f"{target} exists", "choose another name with -o, or overwrite it with --force")
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {str(target.parent)!r} to write to", "create it first")
    return target


# Reading ---------------------------------------------------------------------------------------------------------


def _model(contents: Contents, source: Path) -> tuple[str, Node]:
    """The model that the host would take, and where it stood; nothing but modules may have unknown names."""
    for name in sorted(contents.names - contents.modules):
        if not _is_known(name):
            raise _unwanted(name)
    saved = contents.saved
    for which in ("ema", "model"):
        model = saved.get(which) if isinstance(saved, dict) else None
        if isinstance(model, Node) and model.is_module:
            kinds = [f"ultralytics.nn.tasks.{kind}" for kind in _KINDS]
            if model.path not in kinds:
                raise UserError(
                    f"the model in {str(source)!r} is a {model.path}, not one of {', '.join(_KINDS)}",
                    "give a checkpoint that Ultralytics' own trainer wrote",
                )
            return which, model
    raise UserError(
        f"{str(source)!r} holds no model but a {saved.path if isinstance(saved, Node) else type(saved).__name__}",
        "give a checkpoint such as best.pt; tensors alone do not say which rows they belong to",
    )


def _is_known(name: str) -> bool:
    """Whether a name is torch's, this host's or ours. Asks modules that are loaded, and imports none."""
    module, _, last = name.rpartition(".")
    if name in _OURS:
        return True
    if module not in _HOST and not module.startswith("torch.nn.modules."):
        return False
    cls = vars(sys.modules.get(module, object)).get(last)
    return isinstance(cls, type) and cls.__module__ == module


def _unwanted(name: str) -> UserError:
    return UserError(
        f"the file names {name}, which is no part of a model that foveal knows: nothing of it was executed",
        "convert only files from people you trust; a pasted attention must be a layer of the model",
    )


def _require_known(contents: Contents, parts: list[_Part]) -> None:
    """All classes of modules are known, or belong to an attention that was recognised."""
    taken = {node.path for part in parts if part.pasted for _, node in part.node.walk()}
    for name in sorted(contents.modules - taken):
        if not _is_known(name):
            raise _unwanted(name)


# Recognising -----------------------------------------------------------------------------------------------------


def _plan(model: Node, source: Path) -> tuple[list[_Part], dict]:
    """The layers' parts, and the model's rows with foveal's attentions in them."""
    cfg = _plain(model.state["yaml"])
    rows = insert.rows(cfg)
    layers = model.children["model"].children
    if list(layers) != [str(index) for index in range(len(rows))]:
        raise ValueError(f"{len(layers)} layers, but {len(rows)} rows")
    parts = []
    for index, (layer, row) in enumerate(zip(layers.values(), rows, strict=True)):
        mine = _parts(index, layer)
        parts += mine
        specs = [part.pasted.spec for part in mine if part.pasted]
        if mine[0].pasted:
            row[2:] = specs[0].name, [specs[0].arguments] if specs[0].arguments else []
        else:
            row[2] += "".join(f"+{spec}" for spec in specs)
        _require_layer(index, row[2])
    activation = cfg.get("activation")
    if activation and not (isinstance(activation, str) and _ACTIVATION.fullmatch(activation)):
        raise UserError(
            f"the model's activation is {activation!r}, which the host would execute", "write for example nn.SiLU()"
        )
    if not any(part.pasted for part in parts):
        ours = any(node.path in _OURS for _, node in model.walk())
        raise UserError(
            f"{str(source)!r} " + ("is a foveal checkpoint already" if ours else "has no pasted attention in it"),
            "use it as it is" if ours else "use it as it is, or put an attention in with foveal add",
        )
    return parts, cfg


def _parts(index: int, layer: Node) -> list[_Part]:
    """One layer, taken apart where pasted attentions stand in it.

    Raises:
        UserError: it is, or has within, a module that is neither the host's nor an attention in a place of its own.
    """
    name = f"model.{index}."
    if found := _recognised(index, layer):
        return [_Part(layer, name, name, found)]
    if layer.path == _SEQUENTIAL and layer.children:
        children = list(layer.children.values())
        found = [_recognised(index, child) for child in children]
        if all(found) and all(one.spec == found[0].spec for one in found):  # a row with repeats
            return [
                _Part(c, f"{name}{k}.", f"{name}{k}.", f) for k, (c, f) in enumerate(zip(children, found, strict=True))
            ]
        if len(found) > 1 and not found[0] and all(found[1:]):  # put behind a layer by hand
            behind = zip(children[1:], found[1:], strict=True)
            return [
                *(_Part(part.node, part.before, name) for part in _whole(index, children[0], f"{name}0.")),
                *(_Part(c, f"{name}{k + 1}.", f"{name}attention.{k}.", f) for k, (c, f) in enumerate(behind)),
            ]
    return _whole(index, layer, name)


def _whole(index: int, layer: Node, name: str) -> list[_Part]:
    inside = [(path, _recognised(index, node)) for path, node in layer.walk() if path]
    for path, found in inside:
        if found:
            raise UserError(
                f"row {index} is a {layer.path} with {found.spec.name} inside it ({path}, a {found.path}); where in it "
                "that acts stands in code that the file does not hold, and no row can say it",
                f"train a model with the attention behind that row: foveal add MODEL.pt {found.spec.name} --at {index}",
            )
    for path, node in layer.walk():
        if not _is_known(node.path):
            raise UserError(
                f"row {index}{f' ({path})' if path else ''} is a {node.path}, which is none of foveal's attentions by "
                f"what it stores: {_described(node)}",
                "foveal list names the attentions; a copy that differs from its paper cannot be taken over",
            )
    return [_Part(layer, name, name)]


def _recognised(index: int, node: Node) -> Pasted | None:
    if node.path in _OURS or node.path.startswith("torch."):
        return None
    found = recognise(node)
    if len(found) > 1:
        raise UserError(
            f"row {index} is a {node.path}, which can be {' or '.join(str(one.spec) for one in found)} by what it "
            f"stores: {_described(node)}",
            "put the right one in with foveal add and train again",
        )
    return found[0] if found else None


def _described(node: Node) -> str:
    """Tensors and plain values of a module, in at most a few lines."""
    shown = [f"{name} {tuple(tensor.shape)}" for name, tensor in node.tensors().items()]
    plain = [f"{key}={value!r}" for key, value in node.state.items() if isinstance(value, int | float | str)]
    more = f" and {len(shown) - 8} more tensors" if len(shown) > 8 else ""
    return (", ".join(shown[:8]) + more or "no tensors") + "".join(f", {text[:80]}" for text in plain[:12])


# Building --------------------------------------------------------------------------------------------------------


def _require_layer(index: int, written: str) -> None:
    """The row names a layer, and one that is built without fetching anything."""
    name = insert.base_module([None, None, written])
    if known(name):
        return
    cls = vars(nn).get(name[3:]) if name.startswith("nn.") else vars(host.tasks).get(name)
    layers = isinstance(cls, type) and issubclass(cls, nn.Module) and name != "TorchVision"
    if not layers or not cls.__module__.startswith(("torch.nn.modules.", *_LAYERS)):
        raise UserError(f"row {index} names {name!r}, which is no layer of this host", "rows may name layers only")


def _build(model: Node, cfg: dict) -> nn.Module:
    """The new model, with the settings of the old one."""
    like = vars(host.tasks)[model.path.rpartition(".")[2]]
    like = like.__new__(like)  # never initialised: `rebuild` asks for its class and its settings
    vars(like).update({name: _plain(model.state[name]) for name in _SETTINGS_KEPT if name in model.state})
    vars(like)["args"] = _plain(model.state.get("args", {}))
    return host.rebuild(like, cfg)


def _carry_over(parts: list[_Part], built: nn.Module, model: Node) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Load every tensor into the new model, whose layers must have the old one's classes and settings."""
    state: dict[str, Tensor] = {}
    for part in parts:
        tensors = part.pasted.state if part.pasted else part.node.tensors()
        state |= {part.after + name: tensor for name, tensor in tensors.items()}
    there, total = built.state_dict(), len(model.children["model"].tensors())
    odd = [name for name in {*state, *there} if name not in state or name not in there]
    odd += [name for name in state if name in there and state[name].shape != there[name].shape]
    odd += [name for part in parts if not part.pasted for name in _differing(part, built)]
    if odd or len(state) != total:
        raise UserError(
            f"{len(odd)} parts of the model are not as its own rows say, for example {min(odd, default='a tensor')}: "
            "its layers, or this host's, are others than when it was trained",
            f"convert with the Ultralytics it was trained with; here is {host.ultralytics.__version__}",
        )
    built.load_state_dict(state)
    kept = sum(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in built.state_dict().items())
    shifted = [part.after + name for part in parts if part.pasted for name in part.pasted.shifted]
    return (kept, total), tuple(shifted)


def _differing(part: _Part, built: nn.Module) -> list[str]:
    """Names of the modules that are not what they were."""
    found = []
    for path, node in part.node.walk():
        name = part.after + path if path else part.after.rstrip(".")
        layer = built.get_submodule(name)
        cls = getattr(type(layer), "_attended_base", type(layer))
        same = f"{cls.__module__}.{cls.__qualname__}" == node.path
        same = same and {key for key, _ in layer.named_children()} - {"attention"} == {*node.children} - {"attention"}
        if not same or differing(node, layer):
            found.append(name)
    return found


def _kept(saved: dict) -> dict:
    return {key: _plain(saved[key]) for key in ("train_args", "license", "docs") if key in saved}


def _plain(value: object) -> object:
    """Plain data in plain types.

    Raises:
        TypeError: there is something else in it.
    """
    if isinstance(value, Node) and value.path == SETTINGS:
        value = value.state
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return copy.copy(value)
    raise TypeError(f"{type(value).__name__} among the settings")
