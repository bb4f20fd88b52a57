"""A model built from a model YAML, with the weights of a file: row by row where the two mean the same.

The host's own loader goes by names, and those hold the numbers of rows. Behind the first row that only one of two
models has, it carries what happens to have the same shape under the same number, or nothing. Here the two lists of rows
are aligned: rows mean the same that have one class, one stride, tensors of one shape, and stand in the same part of the
model, backbone or head, and in the same order. A row that reads several maps, as a head does, has a part for each, and
those are matched by the strides of the maps.
"""

import difflib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...files import stamp
from ...surgery import attachment, model_yaml
from ...tensors import count, digests
from .. import Inherited
from . import models as host
from .adding import measured_strides
from .carrying import carry_modules

_Names = dict[str, str]  # of the tensors of a model, by those of another that have them


def inherited(model: str, weights: str) -> Inherited:
    """What of a file's weights a model would start from.

    Args:
        model: a model YAML or its name.
        weights: a .pt file.

    Raises:
        UserError: the model has weights of its own, the file holds another kind of model, or nothing in it fits.
    """
    return _inherited(model, weights, stamp(Path(model)), stamp(Path(weights)))


@functools.lru_cache(16)
def _inherited(model: str, weights: str, *_: object) -> Inherited:
    """Kept while the files stay as they are: a study asks before, while and after it runs."""
    return _built(model, weights)[2]


def write(model: str, weights: str, target: Path) -> Inherited:
    """Write a checkpoint of a model whose weights are those of a file as far as they fit, the others drawn.

    Raises:
        UserError: as `inherited`, or the file cannot be written.
    """
    built, loaded, found = _built(model, weights)
    host.save(built, loaded.ckpt, target)
    return found


def _built(model: str, weights: str) -> tuple[host.Network, host.YOLO, Inherited]:
    """A model with a file's weights as far as they fit, what was in the file, and what of it that is."""
    if not model.endswith((".yaml", ".yml")):
        raise UserError(f"{model} is no model YAML, and only those are given weights", "model: yolo11n.yaml")
    if not weights.endswith(".pt"):
        raise UserError(f"{weights!r} is no file of weights", "weights: yolo11n.pt")
    loaded, rows = host.load(weights), host.load(model).model
    source = loaded.model.float().eval()
    if type(source) is not type(rows):
        kinds = f"{weights} is a {type(source).__name__}, and {model} a {type(rows).__name__}"
        raise UserError(f"{kinds}: weights are carried between models of one kind", "give weights of the same task")
    # As many classes as the file has: what the host does about the data's is then the same as for the file itself.
    kept = {key: source.yaml[key] for key in ("nc", "channels", "kpt_shape") if key in source.yaml}
    with host.refusing(model):
        built = host.rebuild(source, {**rows.yaml, **kept}).eval()
        names, pairs = _matched(source, built)
    mine, theirs = built.state_dict(), source.state_dict()
    if all(torch.equal(mine[new], theirs[old]) for new, old in names.items()):  # also where there are but constants
        raise UserError(
            f"nothing in {weights} fits {model}: no row has the same class, stride and shapes", "leave weights out"
        )
    built.load_state_dict({**mine, **{new: theirs[old] for new, old in names.items()}})
    parameters = dict(source.named_parameters())
    of_source = digests(source)
    found = Inherited(
        weights=Path(weights).name,
        tensors=(len(names), len(theirs)),
        parameters=(sum(parameters[old].numel() for old in names.values() if old in parameters), count(source)),
        fresh=(len(mine) - len(names), len(mine)),
        rows=tuple(pairs),
        names=names,
        digests={new: of_source[old] for new, old in names.items()},
    )
    return built, loaded, found


# Matching ----------------------------------------------------------------------------------------------------------


def _matched(source: host.Network, built: host.Network) -> tuple[_Names, list[tuple[int, int]]]:
    """Names in the source by those in the built model, and the pairs of their rows that share any tensor or have none.

    The layers of a row keep activations that they were trained with and that this release would build otherwise.
    """
    strides = [measured_strides(model) for model in (source, built)]
    described = [_described(*each) for each in zip((source, built), strides, strict=True)]
    aligned = difflib.SequenceMatcher(None, described[0], described[1], autojunk=False).get_matching_blocks()
    names: _Names = {}
    pairs = []
    levels = [_levels(*each) for each in zip((source, built), strides, strict=True)]
    for old, new in ((block.a + i, block.b + i) for block in aligned for i in range(block.size)):
        layer, fresh = source.model[old], built.model[new]
        shared = _shared(layer, fresh, levels[0][old], levels[1][new])
        if shared or not fresh.state_dict():
            pairs.append((old, new))
        names |= {f"model.{new}.{name}": f"model.{old}.{other}" for name, other in shared.items()}
        if len(shared) == len(fresh.state_dict()):
            carry_modules(layer, fresh)
    return names, pairs


def _described(model: host.Network, strides: Sequence[float | None]) -> list[tuple[object, ...]]:
    """What each row is: rows of two models that are described alike mean the same."""
    backbone = len(model.yaml["backbone"])
    return [
        (host.parser.described(layer), strides[index], index < backbone, () if _by_level(layer) else _shapes(layer))
        for index, layer in enumerate(model.model)
    ]


def _by_level(layer: host.Network) -> tuple[str, ...]:
    """Names of those lists in a row's layer that have a member for each map that the row reads."""
    read = len(layer.f) if isinstance(layer.f, list) else 0
    lists = ((name, part) for name, part in layer.named_children() if isinstance(part, nn.ModuleList))
    return tuple(name for name, part in lists if len(part) == read)


def _levels(model: host.Network, strides: Sequence[float | None]) -> list[list[tuple[float | None, int]]]:
    """For each row the maps that it reads: their strides, and how many of the same stride came before."""
    rows = enumerate(model_yaml.rows(model.yaml))
    read = [[strides[f] if f >= 0 else None for f in model_yaml.sources(row, index)] for index, row in rows]
    return [[(stride, row[:index].count(stride)) for index, stride in enumerate(row)] for row in read]


def _shared(layer: host.Network, fresh: host.Network, levels: list, fresh_levels: list) -> _Names:
    """Names of tensors in the layer of one row by those in another's, part by part where all of a part fits."""
    lists = _by_level(fresh)
    number = {str(fresh_levels.index(level)): str(i) for i, level in enumerate(levels) if level in fresh_levels}
    parts: dict[str, str] = {"": ""}
    if lists:
        parts = {f"{name}.": f"{name}." for name, _ in fresh.named_children() if name not in lists}
        parts |= {f"{name}.{new}.": f"{name}.{old}." for name in lists for new, old in number.items()}
    same = _attentions(layer) == _attentions(fresh)
    mine, theirs = (each.state_dict() if same else _plain(each) for each in (fresh, layer))
    shared: _Names = {}
    for new, old in parts.items():
        renamed = {name: old + name.removeprefix(new) for name in mine if name.startswith(new)}
        if all(name in theirs and theirs[name].shape == mine[own].shape for own, name in renamed.items()):
            shared |= renamed
    return shared


def _attentions(layer: nn.Module) -> dict[str, tuple[type, list[torch.Size]]]:
    found = ((name, part) for name, part in layer.named_modules() if attachment.is_attention(part))
    return {name: (type(part), [tensor.shape for tensor in part.state_dict().values()]) for name, part in found}


def _plain(layer: nn.Module) -> Mapping[str, Tensor]:
    """The tensors of a layer outside the attentions that are attached to it."""
    inside = tuple(f"{name}." for name in _attentions(layer))
    return {name: tensor for name, tensor in layer.state_dict().items() if not name.startswith(inside)}


def _shapes(layer: nn.Module) -> tuple[tuple[str, torch.Size], ...]:
    return tuple((name, tensor.shape) for name, tensor in _plain(layer).items())
