"""Writes the schema of reports of `foveal bench`: python benchmarks/schema.py > benchmarks/schema.json."""

import dataclasses
import json
import types
import typing

from foveal.bench.benchmark import SCHEMA, Benchmark

_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", types.NoneType: "null", dict: "object"}


def describe(kind: object) -> dict:
    """JSON Schema of a type: a dataclass, a tuple, a union, or one that JSON has."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = {field.name: describe(hints[field.name]) for field in dataclasses.fields(kind)}
        return {"type": "object", "additionalProperties": False, "required": [*fields], "properties": fields}
    if origin is types.UnionType:
        return {"anyOf": [describe(argument) for argument in arguments]}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": describe(arguments[0])}
    if origin is tuple:
        items = [describe(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    return {"type": _PLAIN[origin or kind]}


def main() -> None:
    """Print the schema."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A report of foveal bench"}
    schema |= describe(Benchmark)
    schema["properties"]["schema"] = {"const": SCHEMA}
    print(json.dumps(schema, indent=1))


if __name__ == "__main__":
    main()
