"""Is a model what its own rows build? Training builds it anew from them, and a file holds more than rows and tensors.

What a model keeps outside its state dict is carried to the one that is built, and named where outputs need it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...tensors import sides
from . import models as host
from .carrying import carry

described = host.parser.described


def require_rebuilt(model: host.Network, image: Tensor, outputs: list[Tensor]) -> tuple[str, ...]:
    """Check that a model's rows build the model, its tensors and what it keeps beside them given.

    Args:
        model: in evaluation mode.
        image: (1, channels, rows, columns) with values in 0..1.
        outputs: the model's on that image.

    Returns:
        Names of what the model keeps outside its tensors and its rows do not bring back, as "model.9.cv1.act"; none
        where rows and tensors are enough for the same outputs.

    Raises:
        UserError: its rows build another model; the message names the first row that differs.
    """
    with host.refusing("the model's rows"):
        built = host.rebuild(model, model.yaml).eval()
    host.parser.require_same_classes(model, built)
    require_same_tensors(model, built)
    built.load_state_dict(model.state_dict())
    if same(run(built, image), outputs):
        return ()
    carried = carry(model, built)
    if not same(run(built, image), outputs):
        raise UserError(
            f"Ultralytics {host.ultralytics.__version__} builds another model from this one's rows: "
            f"{first_difference(model, built, image)}",
            "use the release of Ultralytics that trained it",
        )
    return carried


def require_same_tensors(model: host.Network, built: host.Network) -> None:
    """Check that two models have tensors of the same names and shapes.

    Raises:
        UserError: they have not; the message counts them and names a row.
    """
    mine, theirs = (_shapes(each) for each in (model, built))
    if mine == theirs:
        return
    fit = sum(theirs.get(name) == shape for name, shape in mine.items())
    name = next(name for name in [*mine, *theirs] if mine.get(name) != theirs.get(name))
    row = int(name.split(".")[1])
    layer, other = (each.model[row] for each in (model, built))
    found = f"row {row} is {described(layer)} in the file and {described(other)} as its row says; "
    if described(layer) == described(other):
        found = f"{name} is {_size(mine.get(name))} in the file and {_size(theirs.get(name))} as its row says; "
    if (lacking := theirs.keys() - mine.keys()) and all(".bn." in each for each in lacking):
        said = "the model is fused for inference: its batch norms are part of the convolutions before them"
        raise UserError(said, "give the file of its training, such as best.pt")
    raise UserError(
        f"{found}only {fit} of {len(mine)} tensors fit the model that the file's own YAML describes",
        "start from the file as it was trained, with the Ultralytics that trained it",
    )


def _shapes(model: nn.Module) -> Mapping[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _size(shape: torch.Size | None) -> str:
    return "not there" if shape is None else sides(shape) or "one number"


# Comparing -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def run(model: nn.Module, image: Tensor) -> list[Tensor]:
    """All tensors that a model returns for an image."""
    return tensors(model(image))


def tensors(out: object) -> list[Tensor]:
    """All tensors in a nest of tuples, lists and dicts."""
    if isinstance(out, Tensor):
        return [out]
    parts = out.values() if isinstance(out, dict) else out if isinstance(out, (tuple, list)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two models returned equal tensors; what is no number in both is equal."""
    return len(some) == len(others) and all(
        one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
        for one, other in zip(some, others, strict=True)
    )


def first_difference(
    model: host.Network, other: nn.Module, image: Tensor, number: Mapping[int, int] | None = None
) -> str:
    """The first row whose outputs differ between two models, in words.

    Args:
        model: the one whose rows are named.
        other: the one it is compared with.
        image: what both read.
        number: rows of the other model by rows of the first, where they are not the same.
    """
    mine, theirs = (_outputs(each, image) for each in (model, other))
    for row, out in mine.items():
        if not same(out, theirs[number[row] if number else row]):
            return f"row {row} ({described(model.model[row]).rpartition('.')[2]}) is the first whose output differs"
    return "no row differs, only what is made of them"


def _outputs(model: host.Network, image: Tensor) -> dict[int, list[Tensor]]:
    found: dict[int, list[Tensor]] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, _, out: found.update({layer.i: [t.clone() for t in tensors(out)]}))
        for layer in model.model
    ]
    try:
        run(model, image)
    finally:
        for hook in hooks:
            hook.remove()
    return found
