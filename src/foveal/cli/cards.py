"""The commands `foveal list` and `foveal show`: the attentions' cards, and what each costs.

Both read a table that is written from the classes (`docs/cards.py`), because importing and counting them takes seconds.
Somebody else's class is imported, and counted at each call.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..kernels.ema import library
from .printing import Json, print_json, print_table

if TYPE_CHECKING:
    from ..attention import Attention

TABLE = Path(__file__).with_name("cards.json")
_CHANNELS, _SIZE = 256, 40


def list_attentions(as_json: Json = False) -> None:
    """The attentions and what they cost (at 256 channels, 40 x 40)."""
    entries = [*_stored().values()]
    if as_json:
        return print_json(entries)
    heads = ("name", "title", "year", "parameters", "MFLOPs", "forms", "place", "licence of the source")
    body = [
        (
            *(e[key] for key in ("name", "title", "year")),
            f"{e['parameters']:,}",
            f"{e['flops_reference'] / 1e6:.1f}",
            *(", ".join(e[key]) for key in ("forms", "places")),
            e["licence"],
        )
        for e in entries
    ]
    print_table(heads, body)


def show(
    name: Annotated[str, typer.Argument(help="Short name, class name or alias: ema.")], as_json: Json = False
) -> None:
    """One attention's card: mathematics, costs, honest notes."""
    entry = _entry(name)
    if as_json:
        return print_json(entry)
    if entry["mathematics"]:
        print(entry["mathematics"], end="\n\n")
    for key in ("name", "year", "paper", "source", "licence", "kind"):
        if entry[key]:  # of somebody else's class most are not known
            print(f"{key:<12} {entry[key]}")
    print(f"{'place':<12} {', '.join(entry['places'])}")
    row = [*entry["aliases"], entry["name"]][0]
    print(f"{'in YAML':<12} C3k2+{entry['name']}, or a row [-1, 1, {row}, []]")
    for form in entry["in_rows"]:
        print(f"{'in rows':<12} {form}")
    print(f"{'parameters':<12} {entry['parameters']:,} at 256 channels")
    for form in entry["forms"]:
        if flops := entry.get(f"flops_{form}"):
            print(f"{form:<12} {flops / 1e6:.1f} MFLOPs at 256 channels, 40 x 40")
        else:
            print(f"{form:<12} {entry['why_not'] or 'fused; runs on the CPU here'}")
    print(f"{'auto':<12} {entry['auto']} on the CPU here, at 256 channels, 40 x 40")
    for key, label in {"constraints": "asks for", "differs": "differs", "copies": "in copies", "notes": "note"}.items():
        for sentence in entry[key]:
            print(f"{label:<12} {sentence}")
    if entry["avoid"]:
        print(f"{'avoid':<12} {entry['avoid']}")


def _stored() -> dict[str, dict]:
    """What is known of each of foveal's attentions, by the name of its class."""
    stored = json.loads(TABLE.read_text(encoding="utf-8"))
    why_not = "" if library.load() else library.NOT_BUILT
    for entry in stored.values():
        if "kernel" in entry["forms"]:
            entry |= {"auto": "fast" if why_not else "kernel", "why_not": why_not}
    return stored


def _entry(name: str) -> dict:
    """What is known of the attention with this name."""
    folded = name.casefold().removeprefix("foveal.")
    for cls, entry in _stored().items():
        if folded in map(str.casefold, (cls, entry["name"], *entry["aliases"])):
            return entry
    from ..attention import find

    return counted(find(name))


def counted(cls: "type[Attention]") -> dict:
    """The same, from its class."""
    import torch

    from ..attention import costs, forms, mathematics

    module, x = cls(_CHANNELS), torch.zeros(1, _CHANNELS, _SIZE, _SIZE)
    return {
        **dataclasses.asdict(cls.card),
        "places": cls.card.paper_place.split(","),
        "in_rows": [str(form) for form in cls.card.rows],
        "forms": forms(cls),
        "mathematics": mathematics(cls.card.name),
        "auto": module.chosen(x),
        "why_not": module.why_not(x),
        **costs(cls, _CHANNELS, _SIZE),
    }


def table() -> str:
    """The table that is read, from the classes; whether a kernel runs is no property of a class, and not in it."""
    from ..attention import ATTENTIONS

    entries = {cls.__name__: counted(cls) for cls in ATTENTIONS.values()}
    for entry in entries.values():
        if "kernel" in entry["forms"]:
            del entry["auto"], entry["why_not"]
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
