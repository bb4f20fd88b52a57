"""Writes the schemas of what `foveal bench` and `foveal study` leave behind, from the records that they are."""

import dataclasses
import enum
import json
import types
import typing
from pathlib import Path

from foveal.bench.benchmark import SCHEMA, Benchmark
from foveal.results import StudyResults
from foveal.results.schema import SCHEMA_VERSION

ROOT = Path(__file__).parents[1]
_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", types.NoneType: "null"}


def describe(kind: object) -> dict:
    """JSON Schema of a type: a dataclass, an enumeration, a tuple, a mapping, a union, or one that JSON has."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is object:
        return {}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = {field.name: describe(hints[field.name]) for field in dataclasses.fields(kind)}
        missing = dataclasses.MISSING  # what has a default was not always written
        required = [f.name for f in dataclasses.fields(kind) if (f.default, f.default_factory) == (missing, missing)]
        return {"type": "object", "additionalProperties": False, "required": required, "properties": fields}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [one.value for one in kind]}
    if origin is types.UnionType:
        return {"anyOf": [describe(argument) for argument in arguments]}
    if origin is dict:
        return {"type": "object", "additionalProperties": describe(arguments[1])}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": describe(arguments[0])}
    if origin is tuple:
        items = [describe(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    return {"type": _PLAIN[origin or kind]}


def schemas() -> dict[Path, str]:
    """The text of each file."""
    found = {}
    for file, title, record, version in (
        ("benchmarks/schema.json", "A report of foveal bench", Benchmark, {"schema": SCHEMA}),
        ("studies/schema.json", "results.json of foveal study", StudyResults, {"schema_version": SCHEMA_VERSION}),
    ):
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **describe(record)}
        schema["properties"] |= {key: {"const": value} for key, value in version.items()}
        found[ROOT / file] = json.dumps(schema, indent=1) + "\n"
    return found


if __name__ == "__main__":
    for file, text in schemas().items():
        file.write_text(text, encoding="utf-8")
