"""How a report writes what stands in its results: points, minutes, p values, each form by a name of its own."""

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping

NOTHING = "–"


def _decimals(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "−")  # zero has no sign


def _signed(value: float, digits: int) -> str:
    text = _decimals(value, digits)
    return text if text.startswith("−") or not text.strip("0.") else f"+{text}"


def _printed(fraction: float) -> str:
    """A paper's figure in points, with as many digits as it has: rounded, it would not be found in the paper."""
    return str(round(100 * fraction, 4)).replace("-", "−")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _yaml(plan: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """Lines of YAML: what is no mapping is written as JSON, which YAML reads."""
    for key, value in plan.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _yaml(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}"


# Each takes values of a kind of its own. A list with nothing in it is shown like a value that is missing.
FORMATS: dict[str, Callable[..., str]] = {
    "text": str,
    "yaml": lambda plan: "\n".join(_yaml(plan)),
    "integer": lambda value: f"{value:,}",
    "count": lambda values: f"{len(values):,}",
    "points": lambda value: _decimals(100 * value, 1),
    # A bound that is not 0 must not look like it.
    "signed-points": lambda value: _signed(100 * value, 1 if not value or abs(value) >= 0.0005 else 2),
    "mean-points": lambda values: _decimals(100 * statistics.fmean(values), 1),
    "signed-mean-points": lambda values: _signed(100 * statistics.fmean(values), 1),
    "deviation-points": lambda values: _decimals(100 * statistics.stdev(values), 1) if values[1:] else NOTHING,
    "printed-points": _printed,
    "signed-printed-points": lambda value: _printed(value) if value <= 0 else f"+{_printed(value)}",
    "per-cent": lambda value: f"{100 * value:g}",
    "score": lambda value: _decimals(value, 2),
    "signed-score": lambda value: _signed(value, 2),
    "p": _p,
    "p-relation": lambda value: _p(value) if value < 0.001 else f"= {_p(value)}",
    "coverage": lambda value: f"{100 * (1 - value):g}",
    "whole-per-cent": lambda value: _decimals(100 * value, 0),
    "listed": lambda values: ", ".join(map(str, values)),
    "half-per-cent": lambda value: f"{50 * value:g}",
    "times": lambda value: _decimals(value, 1 if value < 10 else 0),
    "too-few-seeds": lambda level: str(math.ceil(-math.log2(level))),  # the most n with 2^(1 - n) > level
    "giga": lambda value: _decimals(value / 1e9, 3),
    "mebibytes": lambda value: _decimals(value / 2**20, 0),
    "milliseconds": lambda value: _decimals(value, 1 if value >= 10 else 2),
    "ratio": lambda value: f"{_decimals(value, 2)}×",
    "mean-minutes": lambda values: _decimals(statistics.fmean(values) / 60, 1),
}


def look_up(results: object, path: str) -> object:
    """The value at a path of names and indices joined by dots; None where the results end before it does.

    Args:
        results: records, mappings and sequences.
        path: such as "arms.2.verdict.mean".
    """
    value = results
    for step in path.split("."):
        if isinstance(value, tuple | list):
            value = value[int(step)] if int(step) < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else getattr(value, step, None)
    return value


def shown(value: object, form: str) -> str:
    """A value as it is written; one that is missing or without end is a dash."""
    return NOTHING if value is None or value in ([], (), math.inf) else FORMATS[form](value)
