"""Attentions in the rows of a model YAML: rows in, rows out. Knows the format, not the program that builds it.

A model is `{"backbone": [row, ...], "head": [row, ...], ...}` with `row = [from, repeats, module, args]`; rows are
numbered through both lists, and `from` is a row number, -1 for the row before, or a list of these. An attention is
written in one of two ways:

    [-1, 2, C3k2+ema, [512, False]]      suffix: attached to that row, numbers stay as they are
    [-1, 1, EMA, []]                     a row of its own, as most published YAMLs have it

Where the text says nothing else, a suffix starts as the identity, since it joins a layer that may be trained, and a row
of its own is the paper's bare module, which is what published YAMLs mean by it.
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .attention import known
from .errors import UserError, shown
from .spec import Spec

SUFFIX_START, ROW_START = "identity", "paper"
MOST_REPEATS = 1000  # of a row: a slip of the finger more would build layers until the memory is full

# Backbone rows behind a stage's last block: they have place names of their own.
_PLACES_BY_MODULE = {"sppf": ("SPPF", "SPP", "SPPELAN"), "psa": ("C2PSA", "C2fPSA", "PSA")}


@dataclass(frozen=True)
class Placed:
    """The attentions of one row.

    Attributes:
        specs: in the order they run; `start` is set.
        own_row: the row is the attention, rather than a layer with one attached.
        width: number of channels that the YAML claims for a row of its own, None where it leaves them out.
    """

    specs: tuple[Spec, ...]
    own_row: bool
    width: int | None = None


def rows(cfg: Mapping) -> list[list]:
    """All rows of a model in order.

    Raises:
        UserError: `cfg` is not a model YAML.
    """
    parts = [cfg.get(part) for part in ("backbone", "head")] if isinstance(cfg, Mapping) else []
    if not parts or not all(isinstance(part, list) for part in parts):
        raise UserError("this is not a model YAML: it needs the lists 'backbone' and 'head'", "see yolo11.yaml")
    for index, row in enumerate(together := parts[0] + parts[1]):
        if not (isinstance(row, list) and len(row) == 4 and _is_from(row[0]) and type(row[1]) is int) or not (
            row[1] <= MOST_REPEATS and isinstance(row[2], str) and isinstance(row[3], list)
        ):
            raise UserError(f"row {index} is {shown(row)}, not [from, repeats, module, args]", "write [-1, 1, EMA, []]")
    return together


def _is_from(written: object) -> bool:
    froms = written if isinstance(written, list) else [written]
    return bool(froms) and all(type(f) is int for f in froms)


def sources(row: Sequence, index: int) -> list[int]:
    """Numbers of the rows that row `index` reads; -1 is the model's input."""
    froms = row[0] if isinstance(row[0], list) else [row[0]]
    return [f if f >= 0 else max(index + f, -1) for f in froms]


def base_module(row: Sequence) -> str:
    """The row's module without attentions attached to it."""
    return row[2].partition("+")[0]


# Reading ---------------------------------------------------------------------------------------------------------


def split(cfg: Mapping) -> tuple[dict, dict[int, Placed]]:
    """Separate a model into rows that any parser knows and the attentions in them, by row number.

    A row of an attention's own becomes `nn.Identity`, so every number and every width stays right.

    Raises:
        UserError: an attention row that cannot be read, that reads several rows, or that no row reads.
    """
    cfg = copy.deepcopy(dict(cfg))
    together = rows(cfg)
    placed = {}
    for index, row in enumerate(together):
        if "+" in row[2]:
            row[2], *specs = _split_plus(row[2])
            if not row[2]:
                raise UserError(f"row {index}: no layer stands before '+{specs[0]}'", "write C3k2+ema, or EMA alone")
            placed[index] = Placed(tuple(_with_start(Spec.parse(s), SUFFIX_START) for s in specs), own_row=False)
        elif known(row[2]):
            placed[index] = _read_own_row(row, index)
            row[2:] = "nn.Identity", []
    unread(together, placed)
    return cfg, placed


def unread(together: Sequence[Sequence], placed: Mapping[int, Placed]) -> None:
    """Check that some row reads every attention.

    Raises:
        UserError: a row with an attention that nothing reads, or an attention on the head.
    """
    last = len(together) - 1
    read = {source for index, row in enumerate(together) for source in sources(row, index)}
    for index, at_row in placed.items():
        names = "+".join(spec.name for spec in at_row.specs)
        if index == last:
            raise UserError(
                f"row {index} ({names}) is the model's output", f"attach it to a row that {together[last][2]} reads"
            )
        if index not in read:
            raise UserError(
                f"no row reads row {index} ({names}), so it would change nothing",
                f"{together[last][2]} reads {sources(together[last], last)}: put {index} in its place there",
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


def _with_start(spec: Spec, default: str) -> Spec:
    return replace(spec, start=spec.start or default)


def _written(spec: Spec, default: str) -> Spec:
    """The spec as a row writes it: no places, and a start only where it is not the default."""
    return replace(spec, start=None if spec.start == default else spec.start, places=())


def _read_own_row(row: Sequence, index: int) -> Placed:
    source, _, module, args = row
    if isinstance(source, list):
        raise UserError(f"row {index} ({module}) reads rows {source}, but an attention reads one", "write [-1, 1, ...]")
    args = [a for a in args if a != "c2"]  # the idiom for "as wide as the row before", which is the default here
    settings = args.pop() if args and isinstance(args[-1], dict) else {}
    if len(args) > 1 or not all(type(a) is int for a in args):
        raise UserError(
            f"row {index} ({module}): cannot read the arguments {row[3]}",
            "name them, as in [-1, 1, EMA, [{groups: 8}]]: a second number is ignored by the authors' code and is "
            "the number of groups in most copies",
        )
    spec = _with_start(Spec.of(module, settings), ROW_START)
    return Placed((spec,), own_row=True, width=args[0] if args else None)


# Places ----------------------------------------------------------------------------------------------------------


def places(cfg: Mapping, strides: Sequence[float | None]) -> dict[str, tuple[int, ...]]:
    """Every place this model has, by name, as row numbers.

    Args:
        cfg: the model.
        strides: of each row's output relative to the image; None where the output is not one map.

    Returns:
        `neck` (what the head reads), `P3`, `P4` ... (the same by level: P3 has stride 8), `backbone` (last block of
        each stage) and `backbone.P3` ..., `sppf`, `psa`.
    """
    together = rows(cfg)
    found = {"neck": tuple(sorted(set(sources(together[-1], len(together) - 1))))}
    by_stride = sorted((strides[i], i) for i in found["neck"] if strides[i])
    found |= {f"P{_level(stride)}": (index,) for stride, index in by_stride}

    stages = {}
    tails = {module for modules in _PLACES_BY_MODULE.values() for module in modules}
    for index, row in enumerate(together[: len(cfg["backbone"])]):
        stride, source = strides[index], sources(row, index)[0]
        keeps_size = source >= 0 and strides[source] == stride
        if stride and keeps_size and base_module(row) not in tails:
            stages[stride] = index
    found["backbone"] = tuple(stages.values())
    found |= {f"backbone.P{_level(stride)}": (index,) for stride, index in stages.items()}

    for place, modules in _PLACES_BY_MODULE.items():
        found[place] = tuple(i for i, row in enumerate(together) if base_module(row) in modules)
    return {place: indices for place, indices in found.items() if indices}


def resolve(wanted: Sequence[str], available: Mapping[str, tuple[int, ...]], paper: str, count: int) -> list[int]:
    """Row numbers of the places `wanted`.

    Args:
        wanted: names of places, "paper", or row numbers.
        available: from `places`.
        paper: the card's `paper_place`.
        count: number of rows.

    Raises:
        UserError: a place that no model has (the hint gives the nearest name) or that this one lacks.
    """
    indices = set()
    for place in wanted:
        if place == "paper":
            indices.update(resolve(paper.split(","), available, paper, count))
        elif place in available:
            indices.update(available[place])
        elif place.isdecimal():
            if int(place) >= count - 1:
                raise UserError(
                    f"there is no row {place} to attach to", f"rows 0 to {count - 2} can carry an attention"
                )
            indices.add(int(place))
        else:
            near = difflib.get_close_matches(place, [*available, "paper"], n=1, cutoff=0.6)
            raise UserError(
                f"this model has no place {place!r}",
                (f"did you mean {near[0]!r}? " if near else "") + f"places: {', '.join([*available, 'paper'])}",
            )
    return sorted(indices)


def _level(stride: float) -> int:
    return int(stride).bit_length() - 1


# Writing ---------------------------------------------------------------------------------------------------------


def with_suffix(cfg: Mapping, spec: Spec, indices: Sequence[int]) -> dict:
    """Attach `spec` to the rows `indices`; numbers stay as they are."""
    cfg = copy.deepcopy(dict(cfg))
    together = rows(cfg)
    for index in indices:
        together[index][2] += f"+{_written(spec, SUFFIX_START)}"
    return cfg


def with_rows(cfg: Mapping, spec: Spec, indices: Sequence[int]) -> tuple[dict, list[int]]:
    """Give `spec` a row of its own after each of the rows `indices`; whoever read those rows reads it instead.

    Returns:
        The model, and the new number of each old row.
    """
    cfg = copy.deepcopy(dict(cfg))
    together, after = rows(cfg), set(indices)
    number = [index + sum(i < index for i in after) for index in range(len(together))]
    output = [number[index] + (index in after) for index in range(len(together))]  # the row that now carries its output
    settings = _written(spec, ROW_START).settings()
    grown = {"backbone": [], "head": []}
    for index, row in enumerate(together):
        part = grown["backbone" if index < len(cfg["backbone"]) else "head"]
        part.append([_rewire(row, index, number[index], output), *row[1:]])
        if index in after:
            part.append([-1, 1, spec.name, [settings] if settings else []])
    return {**cfg, **grown}, number


def _rewire(row: Sequence, old: int, new: int, output: Sequence[int]) -> int | list[int]:
    """What the row reads, renumbered; "the row before" stays -1 where it still is."""
    froms = row[0] if isinstance(row[0], list) else [row[0]]
    moved = [
        -1 if f < 0 and (source < 0 or output[source] == new - 1) else output[source]
        for f, source in zip(froms, sources(row, old), strict=True)
    ]
    return moved if isinstance(row[0], list) else moved[0]
