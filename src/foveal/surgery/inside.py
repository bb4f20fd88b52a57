"""Places inside a layer: behind one of its parts, or in the place of one.

bottleneck       the end of the branch of each bottleneck, before its shortcut is added
attention        the layer's own attention, behind it, or in its place (`replace`)
box, cls         of a detection head, what its last convolutions read, for boxes and for classes
m.*.cv2          a glob over the names of the layer's parts, as `named_modules` has them
"""

import fnmatch
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..errors import UserError
from . import attachment
from .tracing import trace

# The part of a block that ends the branch beside its shortcut, by the name of the block's class.
_BRANCHES = {"Bottleneck": "cv2", "CIB": "cv1", "GhostBottleneck": "conv", "HGBlock": "ec", "RepBottleneck": "cv2"}
_BRANCHES |= {"ResNetBlock": "cv3"}
_ATTENTIONS = ("AAttn", "Attention")  # classes of Ultralytics that map a map to another
# The parts of a detection head, each with one sequence of layers for each map that it reads.
_BOX, _CLS = (("cv2", "one2one_cv2"), ("cv3", "one2one_cv3"))
_SIZE = 8  # of the smallest map with which widths are found


def _bottlenecks(layer: nn.Module) -> list[str]:
    modules = [(name, _BRANCHES.get(attachment.class_name(part))) for name, part in layer.named_modules()]
    return [f"{name}.{end}".lstrip(".") for name, end in modules if end]


def _own_attention(layer: nn.Module) -> list[str]:
    modules = layer.named_modules()
    return [name for name, part in modules if name and attachment.class_name(part) in _ATTENTIONS]


def _branches(parts: Sequence[str]) -> Callable[[nn.Module], list[str]]:
    def found(layer: nn.Module) -> list[str]:
        if not hasattr(layer, "stride"):  # which is how the host's heads are told from blocks with a cv2
            return []
        lists = [(part, getattr(layer, part, None)) for part in parts]
        return [
            f"{part}.{index}.{len(branch) - 2}"
            for part, branches in lists
            if isinstance(branches, nn.ModuleList)
            for index, branch in enumerate(branches)
            if isinstance(branch, nn.Sequential) and len(branch) > 1
        ]

    return found


RULES: dict[str, Callable[[nn.Module], list[str]]] = {
    "bottleneck": _bottlenecks,
    "attention": _own_attention,
    "box": _branches(_BOX),
    "cls": _branches(_CLS),
}


def named(layer: nn.Module, places: Sequence[str]) -> list[str]:
    """Names of the parts of a layer that places inside it mean, in the layer's order.

    Args:
        layer: of a model.
        places: rules, or globs.

    Raises:
        UserError: one that means no part of this layer.
    """
    found: set[str] = set()
    parts = [name for name, part in layer.named_modules() if name and owner(layer, name) == name]
    for place in places:
        names = RULES[place](layer) if place in RULES else [n for n in parts if fits(n.split("."), place.split("."))]
        if not names:
            kind = attachment.class_name(layer)
            has = [rule for rule, of in RULES.items() if of(layer)]
            some = [n for n in parts if not n.endswith((".bn", ".act"))][:3]
            raise UserError(
                f"a {kind} has no {place!r} inside it", f"places inside it: {', '.join([*has, *some])}, ..."
            )
        found |= set(names)
    return [name for name in parts if name in found]


def owner(model: nn.Module, name: str) -> str:
    """The module itself, or the one whose attached attention it is; "" for a part of such an attention."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        above = ".".join(parts[:place])
        if part == "attention" and attachment.attended(model.get_submodule(above)):
            return above if len(parts) <= place + 2 else ""
    return name


def fits(parts: list[str], pattern: list[str]) -> bool:
    """Whether a name fits a glob, part by part; `**` stands for any number of parts."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(fits(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])


def widths(layer: nn.Module, names: Sequence[str], read: Sequence[int], *more: Tensor) -> list[int]:
    """Channels of the maps that parts of a layer return.

    What the next layer of a sequence reads says it; for other parts the layer runs once.

    Args:
        layer: of a model.
        names: of the parts.
        read: channels of the maps that the layer reads, each of half the height of the one before.
        more: what it reads besides.

    Raises:
        UserError: a part that returns no map, or is not called once.
    """
    known = [_read_next(layer, name) for name in names]
    if all(known):
        return [width for width in known if width]
    like = next(layer.parameters())
    sizes = [_SIZE << (len(read) - 1 - place) for place in range(len(read))]
    maps = [like.new_zeros(1, width, size, size) for width, size in zip(read, sizes, strict=True)]
    traced = trace(layer, maps if len(maps) > 1 else maps[0], *more, as_training=hasattr(layer, "stride"))
    found = []
    for name in names:
        call, count = traced.of(name), traced.counts[name]
        if count != 1 or call is None or call.returned.dim() != 4:
            why = "returns no map" if count == 1 else f"is called {count or 'no'} times in one forward"
            raise UserError(f"{name} of a {attachment.class_name(layer)} {why}", "choose a part that returns one map")
        found.append(call.returned.shape[1])
    return found


def _read_next(layer: nn.Module, name: str) -> int | None:
    """How many channels the convolution reads that follows a part in a sequence; None where none does."""
    parent, _, index = name.rpartition(".")
    sequence = layer.get_submodule(parent)
    if not (isinstance(sequence, nn.Sequential) and index.isdecimal() and int(index) + 1 < len(sequence)):
        return None
    following = sequence[int(index) + 1]
    convolution = following if isinstance(following, nn.Conv2d) else getattr(following, "conv", None)
    return convolution.in_channels if isinstance(convolution, nn.Conv2d) else None


def replace(layer: nn.Module, name: str, attention: nn.Module) -> None:
    """Put an attention in the place of a part of a layer."""
    layer.set_submodule(name, attention.train(layer.training))


def additions(fresh: nn.Module, layer: nn.Module, name: str = "") -> list[tuple[str, list[nn.Module]]]:
    """What a layer has of attentions that another of the same parts has not.

    Args:
        fresh: the layer that has them.
        layer: the other.
        name: of both, in a layer whose parts they are.

    Returns:
        For each part the name of what carries new ones, and these in order; or the name of what one replaces, and it.
    """
    if attachment.is_attention(fresh):
        return [] if attachment.is_attention(layer) else [(name, [fresh])]
    found = []
    if attachment.attended(fresh):
        before = len(attachment.attached(layer)) if attachment.attended(layer) else 0
        found.append((name, attachment.attached(fresh)[before:]))
    theirs = dict(layer.named_children())  # which lacks some where a layer was changed by hand
    for child, part in fresh.named_children():
        if child in theirs and not (child == "attention" and attachment.attended(fresh)):
            found += additions(part, theirs[child], f"{name}.{child}".lstrip("."))
    return [(part, new) for part, new in found if new]


def grow(layer: nn.Module, fresh: nn.Module) -> bool:
    """Give a layer the attentions that another of the same parts has beyond its own; whether there are any."""
    found = additions(fresh, layer)
    for name, new in found:
        if attachment.is_attention(fresh.get_submodule(name)):
            replace(layer, name, *new)
        else:
            for attention in new:
                attachment.attach(layer.get_submodule(name), attention)
    return bool(found)
