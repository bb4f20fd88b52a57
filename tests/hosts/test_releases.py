"""The releases that were run, and how a run is read."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from foveal.hosts.ultralytics import NEWEST, OLDEST, RUN, numbers, releases
from foveal.hosts.ultralytics.releases import too_old

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("version", "expected"),
    [("8.3.200", (8, 3, 200)), ("8.3.200+mine", (8, 3, 200)), ("8.4.0rc1", (8, 4, 0)), ("main", ()), ("", ())],
)
def test_numbers_of_a_version(version, expected):
    assert numbers(version) == expected


def test_what_is_too_old():
    oldest = numbers(OLDEST)
    assert too_old("8.2.103")
    assert too_old(".".join(map(str, (*oldest[:-1], oldest[-1] - 1))))
    assert not any(map(too_old, (OLDEST, NEWEST, f"{OLDEST}+mine", f"{OLDEST}.post1", "main")))


def test_the_range_begins_and_ends_with_what_was_run():
    assert [OLDEST, NEWEST] == [min(RUN, key=numbers), max(RUN, key=numbers)]
    assert len(RUN) >= 6  # and what lies between is not guessed
    assert all({"python", "torch", "date", "steps"} == run.keys() for run in RUN.values())
    assert releases.FILE.name == "releases.json"


def test_a_run_is_read_from_the_report_of_pytest():
    path = ROOT / "benchmarks" / "releases.py"
    spec = importlib.util.spec_from_file_location("benchmarks_releases", path)
    spec.loader.exec_module(script := importlib.util.module_from_spec(spec))
    report = """<testsuite>
<testcase name="test_it_trains[x]"/>
<testcase name="test_a_file"><properties><property name="found" value="refused: no"/></properties></testcase>
<testcase name="test_export"><skipped message="it cannot"/></testcase>
<testcase name="test_child">
<failure message="AssertionError: 1/1&#10;Traceback (most recent call last):&#10; x&#10;KeyError: 1"/></testcase>
<testcase name="test_equal"><failure message="assert 1 == 0&#10; +  where 1 = f()"/></testcase>
<testcase name="test_setup"><error message="failed on setup"/></testcase>
</testsuite>"""
    steps = [tuple(script.step(case).values()) for case in ET.fromstring(report)]
    assert steps == [
        ("it trains (x)", "passed", ""),
        ("a file", "passed", "refused: no"),
        ("export", "skipped", "it cannot"),
        ("child", "failed", "KeyError: 1"),
        ("equal", "failed", "assert 1 == 0"),
        ("setup", "failed", "failed on setup"),
    ]
