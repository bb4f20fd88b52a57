"""Attentions in the rows of a model YAML: rows in, rows out. Knows the format, not the program that builds it.

A model is `{"backbone": [row, ...], "head": [row, ...], ...}` with `row = [from, repeats, module, args]`; rows are
numbered through both lists, and `from` is a row number, -1 for the row before, or a list of these. An attention is
written in one of two ways:

    [-1, 2, C3k2+ema, [512, False]]      suffix: attached to that row, numbers stay as they are
    [-1, 2, C3k2+ema@bottleneck, [...]]  attached inside that row's layer, see `inside`
    [-1, 1, EMA, []]                     a row of its own, as most published YAMLs have it
    [-1, 2, C3k2_EMA, [512, False]]      inside the layer, as other published YAMLs have it

Where the text says nothing else, a suffix starts as the identity, since it joins a layer that may be trained, and a row
of its own is the paper's bare module, which is what published YAMLs mean by it, as they do by `C3k2_EMA`. `foveal.ema`
means ours wherever the host has a class of the same name.
"""

import copy
import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..attention import find, known
from ..errors import UserError, shown
from . import spelling
from .spec import Spec

HEAD = "head"  # the last row, which has places inside it only
SUFFIX_START, ROW_START = "identity", "paper"
MOST_REPEATS = 1000  # of a row: a slip of the finger more would build layers until the memory is full

# Backbone rows behind a stage's last block: they have place names of their own.
_PLACES_BY_MODULE = {"sppf": ("SPPF", "SPP", "SPPELAN"), "psa": ("C2PSA", "C2fPSA", "PSA")}

# Layers behind whose published names, as in `Detect_EMA`, attentions stand in the branches of a detection head.
_HEADS = ("Detect", "OBB", "OBB26", "Pose", "Pose26", "Segment", "Segment26", "v10Detect")

# Rows that change what runs later without being read: YOLO-World's updates the text that its other rows compare with.
_READ_BY_THE_HOST = ("ImagePoolingAttn",)


class Place(NamedTuple):
    """Where an attention goes: a row, and places inside its layer, none for its output."""

    row: int
    within: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowAttentions:
    """The attentions of one row.

    Attributes:
        specs: in the order they run; `start` is set, and places are inside the layer, none its output.
        own_row: the row is the attention, rather than a layer with one attached.
        numbers: what a row of its own says by position: its width, or arguments, see `read`.
        published: the row's name, where it is one such as `C3k2_EMA`.
    """

    specs: tuple[Spec, ...]
    own_row: bool
    numbers: tuple[object, ...] = ()
    published: str = ""

    def read(self, width: int, scaled: Callable[[int], int]) -> tuple[Spec, ...]:
        """The attentions, their arguments complete.

        Args:
            width: channels of the row.
            scaled: what the model's scale makes of a width, see `scaled`.

        Raises:
            UserError: the numbers do not fit; the message has no subject.
        """
        if not self.numbers:
            return self.specs
        return (spelling.read(self.specs[0], self.numbers, width, scaled),)


def rows(cfg: Mapping[str, Any]) -> list[list[Any]]:
    """All rows of a model in order.

    Raises:
        UserError: `cfg` is not a model YAML.
    """
    parts = [cfg.get(part) for part in ("backbone", "head")] if isinstance(cfg, Mapping) else []
    lists = [part for part in parts if isinstance(part, list)]
    if len(lists) < 2:
        raise UserError("this is not a model YAML: it needs the lists 'backbone' and 'head'", "see yolo11.yaml")
    for index, row in enumerate(together := lists[0] + lists[1]):
        if not (isinstance(row, list) and len(row) == 4 and _is_from(row[0]) and type(row[1]) is int) or not (
            row[1] <= MOST_REPEATS and isinstance(row[2], str) and isinstance(row[3], list)
        ):
            raise UserError(f"row {index} is {shown(row)}, not [from, repeats, module, args]", "write [-1, 1, EMA, []]")
    return together


def _is_from(written: object) -> bool:
    froms = written if isinstance(written, list) else [written]
    return bool(froms) and all(type(f) is int for f in froms)


def sources(row: Sequence[Any], index: int) -> list[int]:
    """Numbers of the rows that row `index` reads; -1 is the model's input."""
    froms = row[0] if isinstance(row[0], list) else [row[0]]
    return [f if f >= 0 else max(index + f, -1) for f in froms]


def scaled(cfg: Mapping[str, Any]) -> Callable[[int], int]:
    """What the model's scale makes of a width that its rows name."""
    scales, factor, most = cfg.get("scales"), cfg.get("width_multiple", 1), math.inf
    if scales:  # the first where none is named, as the host has it
        _, factor, most = scales[cfg.get("scale") or next(iter(scales))]
    return lambda width: math.ceil(min(width, most) * factor / 8) * 8


def base_module(row: Sequence[Any]) -> str:
    """The row's module without attentions attached to it or named behind it."""
    module = str(row[2]).partition("+")[0]
    block, _, attention = module.rpartition("_")
    return block if block and known(attention) else module


# Reading ---------------------------------------------------------------------------------------------------------


def split(cfg: Mapping[str, Any], theirs: Collection[str] = ()) -> tuple[dict[str, Any], dict[int, RowAttentions]]:
    """Separate a model into rows that any parser knows and the attentions in them, by row number.

    A row of an attention's own becomes `nn.Identity`, so every number and every width stays right.

    Args:
        cfg: the model.
        theirs: names of modules that the host or the user has; a row of that very name is no attention of ours.

    Raises:
        UserError: an attention row that cannot be read or that reads several rows, or a row that no row reads.
    """
    plain = copy.deepcopy(dict(cfg))
    together = rows(plain)
    placed = {}
    for index, row in enumerate(together):
        base, *suffixes = _split_plus(row[2])
        published = _published(base, theirs)
        if suffixes and not base:
            raise UserError(f"row {index}: no layer stands before '+{suffixes[0]}'", "write C3k2+ema, or EMA alone")
        attached = tuple(Spec.parse(suffix).started(SUFFIX_START) for suffix in suffixes)
        name, base = (base, published[0]) if published else ("", base)
        attached = (*(published[1:] if published else ()), *attached)
        if known(base) and base not in theirs:
            if attached:
                raise UserError(
                    f"row {index} ({row[2]}) is an attention, which carries no other",
                    f"write a row behind it: [-1, 1, {suffixes[0]}, []]",
                )
            placed[index] = _read_own_row(row, index)
            row[2:] = "nn.Identity", []
        elif attached:
            row[2], placed[index] = base, RowAttentions(attached, own_row=False, published=name)
    if placed:
        require_read(together, placed)
    return plain, placed


def require_read(together: Sequence[Sequence[Any]], placed: Mapping[int, RowAttentions]) -> None:
    """Check that some row reads every row but the last, which is the model's output.

    Raises:
        UserError: a row that nothing reads, or an attention on the head.
    """
    last = len(together) - 1
    read = {source for index, row in enumerate(together) for source in sources(row, index)}
    head, head_reads = together[last][2], sources(together[last], last)
    for index, row in enumerate(together):
        names = "+".join(spec.name for spec in placed[index].specs) if index in placed else row[2]
        if index == last and index in placed and not all(spec.places for spec in placed[index].specs):
            raise UserError(f"row {index} ({names}) is the model's output", f"attach it to a row that {head} reads")
        if index not in (last, *read) and row[2] not in _READ_BY_THE_HOST:
            raise UserError(
                f"no row reads row {index} ({names}), so it would change nothing",
                f"{head} reads {head_reads}: put {index} in its place there",
            )


def _split_plus(module: str) -> list[str]:
    """Cut at each plus that is not inside parentheses (1e+3 may be an argument)."""
    parts, depth = [""], 0
    for char in module:
        depth += (char == "(") - (char == ")")
        if char == "+" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _published(base: str, theirs: Collection[str]) -> tuple[str, Spec] | None:
    """The host's layer and the attention inside it that a name such as `C3k2_EMA` most often means; None for others."""
    block, _, name = base.rpartition("_")
    if base in theirs or block not in theirs or not known(name):
        return None
    usual = dict(find(name).card.inside)
    if block in _HEADS:
        return block, Spec(name, usual, "paper", ("box", "cls"))
    if block in _PLACES_BY_MODULE["psa"]:
        return block, Spec(name, usual, "paper", ("attention",), replace=True)
    return block, Spec(name, usual, "paper", ("bottleneck",))


def _written(spec: Spec, default: str, places: tuple[str, ...] = ()) -> Spec:
    """The spec as a row writes it: with places inside the layer only, and a start only where it is not the default."""
    return replace(spec, start=None if spec.start == default else spec.start, places=places)


def _read_own_row(row: Sequence[Any], index: int) -> RowAttentions:
    source, _, module, args = row
    if isinstance(source, list):
        raise UserError(f"row {index} ({module}) reads rows {source}, but an attention reads one", "write [-1, 1, ...]")
    args = [a for a in args if a != "c2"]  # the idiom for "as wide as the row before", which is the default here
    settings = args.pop() if args and isinstance(args[-1], dict) else {}
    spec = Spec.of(module, settings).started(ROW_START)
    if spec.replace:
        raise UserError(
            f"row {index} ({module}) is a row of its own and replaces nothing",
            "write C2PSA+ema(replace=True)@attention",
        )
    return RowAttentions((spec,), own_row=True, numbers=tuple(args))


# Places ----------------------------------------------------------------------------------------------------------


def places(cfg: Mapping[str, Any], strides: Sequence[float | None]) -> dict[str, tuple[int, ...]]:
    """Every place this model has, by name, as row numbers.

    Args:
        cfg: the model.
        strides: of each row's output relative to the image; None where the output is not one map.

    Returns:
        `neck` (what the head reads), `P3`, `P4` ... (the same by level: P3 has stride 8), `backbone` (last block of
        each stage, also one that changes the size itself) and `backbone.P3` ..., `sppf`, `psa`.
    """
    together = rows(cfg)
    found = {"neck": tuple(sorted(set(sources(together[-1], len(together) - 1))))}
    by_stride = sorted((stride, i) for i in found["neck"] if (stride := strides[i]))
    found |= {f"P{_level(stride)}": (index,) for stride, index in by_stride}

    stages: dict[float, int] = {}
    halved: dict[float, int] = {}
    stem: dict[float, int] = {}
    tails = {module for modules in _PLACES_BY_MODULE.values() for module in modules}
    for index, row in enumerate(together[: len(cfg["backbone"])]):
        stride, source = strides[index], sources(row, index)[0]
        if stride and base_module(row) not in tails:
            keeps_size = source >= 0 and strides[source] == stride
            (stages if keeps_size else halved if source >= 0 else stem)[stride] = index
    # A block that halves the map itself, as those of a ResNet do, ends its stage where nothing follows it.
    stages = dict(sorted((halved | stages or stem).items()))
    found["backbone"] = tuple(stages.values())
    found |= {f"backbone.P{_level(stride)}": (index,) for stride, index in stages.items()}

    for place, modules in _PLACES_BY_MODULE.items():
        found[place] = tuple(i for i, row in enumerate(together) if base_module(row) in modules)
    return {place: indices for place, indices in found.items() if indices}


def is_place(text: str, available: Collection[str]) -> bool:
    """Whether a text names rows of a model, or what is inside them."""
    outer, _ = _outer(text, available)
    return outer in available or outer in ("paper", HEAD) or outer.isdecimal()


def _outer(place: str, available: Collection[str]) -> tuple[str, str]:
    """The rows that a place names, and the place inside them, "" for their output."""
    parts = place.split(".")
    for cut in range(len(parts), 0, -1):
        outer, inner = ".".join(parts[:cut]), ".".join(parts[cut:])
        known_here = outer in available or outer == "paper" or outer.isdecimal() or (outer == HEAD and inner)
        if known_here and not re.match(r"P\d", inner):  # a level of the backbone that this model lacks
            return outer, inner
    return place, ""


def resolve(wanted: Sequence[str], available: Mapping[str, tuple[int, ...]], paper: str, count: int) -> list[Place]:
    """The places `wanted`, in order.

    Args:
        wanted: names of places, "paper", or row numbers, a place inside the layer behind a dot or not.
        available: from `places`.
        paper: the card's `paper_place`.
        count: number of rows.

    Raises:
        UserError: a place that no model has (the hint gives the nearest name) or that this one lacks.
    """
    found: set[Place] = set()
    for text in wanted:
        place, inner = _outer(text, available)
        within = (inner,) if inner else ()
        if place == "paper":
            found |= {Place(each.row, within) for each in resolve(paper.split(","), available, paper, count)}
        elif place in available:
            found |= {Place(index, within) for index in available[place]}
        elif place == HEAD:
            found.add(Place(count - 1, within))
        elif place.isdecimal():
            if int(place) >= count - (not inner):
                raise UserError(
                    f"there is no row {place} to attach to", f"rows 0 to {count - 2} can carry an attention"
                )
            found.add(Place(int(place), within))
        else:
            named = (text, text.partition(".")[0])
            near = [hit for each in named for hit in difflib.get_close_matches(each, [*available, "paper"], 1)]
            raise UserError(
                f"this model has no place {text!r}",
                (f"did you mean {near[0]!r}? " if near else "") + f"places: {', '.join([*available, 'paper'])}",
            )
    return sorted(found)


def _level(stride: float) -> int:
    return int(stride).bit_length() - 1


# Writing ---------------------------------------------------------------------------------------------------------


def with_attention(
    cfg: Mapping[str, Any],
    spec: Spec,
    places: Sequence[Place],
    theirs: Collection[str] = (),
    own_row: bool = False,
) -> tuple[dict[str, Any], list[int]]:
    """Put `spec` where it is wanted: attached to rows or inside them, or in rows of its own behind other attentions.

    Args:
        cfg: the model.
        spec: the attention and its start.
        places: as `resolve` gives them.
        theirs: names of modules that the host or the user has, as in `split`.
        own_row: whether it has rows of its own everywhere.

    Returns:
        The model, and the new number of each old row.
    """
    placed = split(cfg, theirs)[1]
    rowed = {index for index, each in placed.items() if each.own_row}
    behind = [each.row for each in places if not each.within and (own_row or each.row in rowed)]
    attached = dict(cfg)
    for row, within in places:
        if within or row not in behind:
            attached = with_suffix(attached, spec, [row], within)
    return with_rows(attached, spec, behind)


def with_suffix(
    cfg: Mapping[str, Any], spec: Spec, indices: Sequence[int], within: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Attach `spec` to the rows `indices`, or at places inside them; numbers stay as they are."""
    plain = copy.deepcopy(dict(cfg))
    together = rows(plain)
    for index in indices:
        together[index][2] += f"+{_written(spec, SUFFIX_START, within)}"
    return plain


def with_rows(cfg: Mapping[str, Any], spec: Spec, indices: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
    """Give `spec` a row of its own after each of the rows `indices`; whoever read those rows reads it instead.

    Returns:
        The model, and the new number of each old row.
    """
    plain = copy.deepcopy(dict(cfg))
    together, after = rows(plain), set(indices)
    number = [index + sum(i < index for i in after) for index in range(len(together))]
    output = [number[index] + (index in after) for index in range(len(together))]  # the row that now carries its output
    settings = _written(spec, ROW_START).settings()
    grown: dict[str, list[list[Any]]] = {"backbone": [], "head": []}
    for index, row in enumerate(together):
        part = grown["backbone" if index < len(plain["backbone"]) else "head"]
        part.append([_rewire(row, index, number[index], output), *row[1:]])
        if index in after:
            part.append([-1, 1, spec.row, [settings] if settings else []])
    return {**plain, **grown}, number


def _rewire(row: Sequence[Any], old: int, new: int, output: Sequence[int]) -> int | list[int]:
    """What the row reads, renumbered; "the row before" stays -1, "the one before that" -2, where it still is."""
    froms = row[0] if isinstance(row[0], list) else [row[0]]
    moved = [
        f if f < 0 and (source < 0 or output[source] == new + f) else output[source]
        for f, source in zip(froms, sources(row, old), strict=True)
    ]
    return moved if isinstance(row[0], list) else moved[0]
