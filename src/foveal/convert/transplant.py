"""The model of a file anew, from its own rows, with the old one's tensors; and what was written, read back.

Nothing of the file is built here but what the host's parser builds of rows that name layers, and every setting of its
layers is compared with the stored one's.
"""

import copy
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..attention import ATTENTIONS, PARTS, find, known
from ..checkpoints import SETTINGS, Node, foreign
from ..errors import UserError
from ..hosts import ultralytics as host
from ..hosts.ultralytics import rebuilding
from ..surgery import IdentityStart, attachment, model_yaml
from . import oldcode
from .choosing import Chooser
from .fitting import differing
from .recognition import Pasted

OURS = {f"{cls.__module__}.{cls.__name__}" for cls in (*ATTENTIONS.values(), *PARTS, IdentityStart)}
OURS |= {f"{host.Registered.__module__}.{host.Registered.__name__}"}
_MODULES = "ultralytics.nn.modules"  # one file in 8.0.0, so that this was the name of all layers
_LAYERS = tuple(f"{_MODULES}.{name}" for name in ("activation", "block", "conv", "head", "transformer"))
HOST = (*_LAYERS, "ultralytics.nn.tasks", "ultralytics.utils.loss", "ultralytics.utils.tal")
# What the host and its exporter set on layers while a model runs.
_RUNNING = (
    "type",
    "i",
    "f",
    "np",
    "shape",
    "dynamic",
    "export",
    "format",
    "max_det",
    "agnostic_nms",
    "xyxy",
    "inplace",
)


@dataclass(frozen=True)
class Part:
    """A layer, or a part of one, with the beginnings of its tensors' names before and after."""

    node: Node
    before: str
    after: str
    pasted: Pasted | None = None


def is_known(name: str) -> bool:
    """Whether a name is torch's, this host's or ours."""
    return name in OURS or installed(name) is not None


def installed(name: str) -> type | None:
    """The class of torch or this host with that name. Asks modules that are loaded, and imports none."""
    module, _, last = name.rpartition(".")
    if module not in (*HOST, _MODULES) and not module.startswith("torch.nn.modules."):
        return None
    cls = vars(sys.modules.get(module, object)).get(last)
    homes = _LAYERS if module == _MODULES else (module,)
    return cls if isinstance(cls, type) and cls.__module__ in homes else None


# Building --------------------------------------------------------------------------------------------------------


def require_layer(index: int, written: str, layer: Node) -> None:
    """The row names a layer, and one that is built without fetching anything.

    Raises:
        UserError: it does not, or it names one of ours where the file holds one of the host's.
    """
    name = model_yaml.base_module([None, None, written])
    stored = installed(layer.path)
    own = stored is not None and stored.__module__ in _LAYERS and vars(host.tasks).get(name) is not stored
    if stored and own and stored.__name__ == name.rpartition(".")[2]:
        another = f", another module than foveal's {find(name).card.name}" if known(name) else ""
        raise UserError(
            f"row {index} is Ultralytics' own {name} ({stored.__module__}){another}: there is nothing to convert",
            f"the file predicts as it is; training it anew needs that class in the parser: "
            f"ultralytics.nn.tasks.{name} = {stored.__module__}.{name}",
        )
    if known(name):
        return
    cls = vars(nn).get(name[3:]) if name.startswith("nn.") else vars(host.tasks).get(name)
    layers = isinstance(cls, type) and issubclass(cls, nn.Module) and name != "TorchVision"
    if not layers or not cls.__module__.startswith(("torch.nn.modules.", *_LAYERS)):
        raise UserError(f"row {index} names {name!r}, which is no layer of this host", "rows may name layers only")


def build(model: Node, cfg: dict) -> nn.Module:
    """The new model, with the settings of the old one."""
    like = vars(host.tasks)[model.path.rpartition(".")[2]]
    like = like.__new__(like)  # never initialised: `rebuild` asks for its class and its settings
    kept = {"args": {}, **{name: model.state[name] for name in host.SETTINGS if name in model.state}}
    vars(like).update({name: plain_data(value) for name, value in kept.items()})
    return host.rebuild(like, cfg, _class_width(model))


def _class_width(model: Node) -> int | None:
    """As `class_width` of the host's models."""
    *_, head = model.children["model"].children.values()
    weights = [tensor for name, tensor in head.tensors().items() if re.fullmatch(r"cv3\.0\.\d+\.weight", name)]
    return weights[-1].shape[1] if weights else None


def carry_over(
    parts: list[Part], built: nn.Module, model: Node
) -> tuple[tuple[int, int], tuple[str, ...], tuple[str, ...]]:
    """Load every tensor into the new model, whose layers must have the old one's classes and settings.

    Returns:
        Tensors in the new model and in the old one, and the names of those that were shifted and added.
    """
    state: dict[str, Tensor] = {}
    for part in parts:
        tensors = part.pasted.state if part.pasted else part.node.tensors()
        state |= {part.after + name: tensor for name, tensor in tensors.items()}
    there = built.state_dict()
    taken, total = (sum(len(node.tensors()) for node in nodes) for nodes in ([p.node for p in parts], [model]))
    odd = [name for name in {*state, *there} if name not in state or name not in there]
    odd += [name for name in state if name in there and state[name].shape != there[name].shape]
    odd += [name for part in parts if not part.pasted for name in _changed(part, built)]
    if odd or taken != total:
        raise foreign.diagnosed(model) or UserError(
            f"{len(odd)} parts of the model are not as its own rows say, for example {min(odd, default='a tensor')}: "
            "its layers, or this host's, are others than when it was trained",
            f"convert with the Ultralytics it was trained with; here is {host.ultralytics.__version__}",
        )
    built.load_state_dict(state)
    shifted, added = (
        tuple(part.after + name for part in parts if part.pasted for name in getattr(part.pasted, which))
        for which in ("shifted", "added")
    )
    return (taken, total), shifted, added


def _changed(part: Part, built: nn.Module) -> list[str]:
    """Names of the modules that are not what they were."""
    found = []
    for path, node in part.node.walk():
        name = part.after + path if path else part.after.rstrip(".")
        layer = built.get_submodule(name)
        same = attachment.base(layer) is installed(node.path) or rebuilding.described(layer) == node.path
        same = same and {key for key, _ in layer.named_children()} - {"attention"} == {*node.children} - {"attention"}
        if not same or differing({k: v for k, v in node.state.items() if k not in _RUNNING}, vars(layer), name):
            found.append(name)
    return found


# Reading back ----------------------------------------------------------------------------------------------------


def require_same(target: Path, built: nn.Module, read_back: nn.Module) -> None:
    """What was written holds what was meant, computes it, and its own rows build it anew.

    Raises:
        UserError: it does not.
    """
    wanted, found = built.state_dict(), read_back.eval().state_dict()
    odd = [name for name in {*wanted, *found} if name not in wanted or not torch.equal(wanted[name], found[name])]
    image = oldcode.image(vars(built)["yaml"].get("channels", 3)).float()
    outputs = rebuilding.run(read_back, image)
    if odd or not rebuilding.same(outputs, rebuilding.run(built.eval(), image)):
        raise UserError(
            f"{target} cannot be written: what is read back differs in {min(odd, default='its outputs')}",
            "try another disk with -o",
        )
    rebuilding.require_rebuilt(read_back, image, outputs)


def require_same_outputs(chooser: Chooser, read_back: nn.Module, cfg: dict, *, rounded: bool) -> None:
    """The whole of what was written computes what the old model did.

    Raises:
        UserError: it does not.
    """
    assert chooser.old is not None
    try:
        apart, rounding = oldcode.whole_apart(chooser.old, read_back, cfg.get("channels", 3))
    except oldcode.CannotRunError as error:
        chooser.untested = f"the old model as a whole does not run in this release: {error}"
        return
    if apart > (max(oldcode.ROUNDING, rounding) if rounded else oldcode.ROUNDING):
        raise UserError(
            "the new model as a whole computes something else than the old code: its outputs differ by "
            f"{apart:.2g} of the largest",
            f"convert with the Ultralytics it was trained with; here is {host.ultralytics.__version__}",
        )
    chooser.apart = max(chooser.apart, apart)


def plain_data(value: object) -> object:
    """Plain data in plain types.

    Raises:
        TypeError: there is something else in it.
    """
    if isinstance(value, Node) and value.path == SETTINGS:
        value = value.state
    if isinstance(value, dict):
        return {plain_data(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_data(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return copy.copy(value)
    raise TypeError(f"{type(value).__name__} among the settings")
