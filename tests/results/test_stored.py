"""What results.json keeps, and that whoever wrote it, it is read."""

import functools
import json
import runpy
from pathlib import Path

import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from foveal import UserError, results
from foveal.results.schema import SCHEMA_VERSION
from reports import VARIANTS, complete

ROOT = Path(__file__).parents[2]


@functools.cache
def checked():
    """What checks by our schema, which is found to be one itself."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json.loads((ROOT / "studies/schema.json").read_text())
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


def test_the_schemas_are_those_of_the_records():
    for file, text in runpy.run_path(str(ROOT / "docs/schemas.py"))["schemas"]().items():
        assert file.read_text() == text, "make docs writes it anew"


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "one epoch"])  # in which losses are nan
def test_what_is_written_follows_the_schema_and_is_read_as_it_was(variant, tmp_path):
    schema = checked()
    found = results.read(VARIANTS[variant]())
    written = json.loads(results.write(found, tmp_path).read_text(encoding="utf-8"))
    schema.validate(written)
    assert results.load(tmp_path / "results.json") == results.load(str(tmp_path)) == found
    written["arms"][0]["seeds"] = ["first"]
    assert not schema.is_valid(written)


@pytest.mark.parametrize("file", sorted((ROOT / "studies").rglob("results.json")), ids=lambda path: path.parent.name)
def test_committed_results_follow_the_schema(file):
    checked().validate(json.loads(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, f"and this release reads up to {SCHEMA_VERSION}"),
        ({"schema_version": "two"}, "Expected `int`, got `str` - at `$.schema_version`"),
        ({"arms": [{"name": 3}]}, "Expected `str`, got `int` - at `$.arms[0].name`"),
        ({"verdict": {"arm": "ema@neck", "outcome": "splendid"}}, "Invalid enum value 'splendid'"),
        ({"cells": None}, "Expected `object`, got `null` - at `$.cells`"),
    ],
)
def test_what_is_no_result_is_said_with_its_place(change, said, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(complete() | change))
    with pytest.raises(UserError) as refused:
        results.load(file)
    assert str(refused.value).startswith(f"{file} cannot be read: ")
    assert said in str(refused.value)


def test_nobody_changes_results():
    found = results.read(complete())
    with pytest.raises(AttributeError):
        found.name = "another"
    with pytest.raises(AttributeError):
        found.arms[0].role = "treatment"
