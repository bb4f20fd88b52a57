"""Runs the life of a model on several releases of Ultralytics, and keeps what was found.

python benchmarks/releases.py [RELEASE ...]

Each release is installed into a folder of its own beside the environment's, with nothing that it depends on, and
tests/whole/test_life.py runs with it. Without arguments these are the releases of releases.json beside
foveal.hosts.ultralytics, where results are kept, and the one of the environment; docs/releases.py makes the page. Exit
code 1: a step failed.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from datetime import datetime, timezone
from pathlib import Path

from foveal.files import write_text
from foveal.hosts.ultralytics import OLDEST, RUN, numbers
from foveal.hosts.ultralytics.releases import FILE

ROOT = Path(__file__).parents[1]
LIFE = ROOT / "tests" / "whole" / "test_life.py"
WORDS = {"failure": "failed", "error": "failed", "skipped": "skipped"}  # pytest's for what is no pass


def installed(release: str, hosts: Path) -> Path:
    """The folder of a release among those of all, which is made if it is not there."""
    folder = hosts / release
    if not (folder / "ultralytics" / "__init__.py").exists():
        only = ("--quiet", "--no-deps", "--no-compile", "--target", str(folder))
        subprocess.run([sys.executable, "-m", "pip", "install", *only, f"ultralytics=={release}"], check=True)
    return folder


def lived(host: Path, oldest: Path) -> list[dict[str, str]]:
    """What every step of a model's life came to with a release: its name, a state, and what there is to say."""
    paths = os.pathsep.join(filter(None, [str(host), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": paths, "FLOOR": str(oldest), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(LIFE), "-q", "--numprocesses=2"]
        command += ["--sweep", "-m", "host and not newest"]
        command += [f"--junitxml={report}", "-o", "junit_family=xunit1"]  # which has properties of a test
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=sys.stderr)
        if not report.exists():
            sys.exit(f"pytest ended with exit code {done.returncode} and no report: nothing is known of {host.name}")
        cases = ET.parse(report).iter("testcase")
        return sorted((step(case) for case in cases), key=lambda each: each["step"])


def step(case: ET.Element) -> dict[str, str]:
    """One test of pytest's report."""
    outcome = next((child for child in case if child.tag in WORDS), None)
    if outcome is not None:
        lines = outcome.get("message", "").strip().splitlines()
        # What a process said that failed ends with its reason, what pytest says of an assertion begins with it.
        state, said = WORDS[outcome.tag], lines[-1 if "Traceback (most recent call last):" in lines else 0].strip()
    else:
        found = case.find("properties/property[@name='found']")
        state, said = "passed", "" if found is None else found.get("value")
    words = case.get("name").removeprefix("test_").replace("_", " ")
    return {"step": words.replace("[", " (").replace("]", ")"), "state": state, "said": said}


def main() -> None:
    """Run, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help="as in 8.4.0")
    parser.add_argument(
        "--hosts", type=Path, default=Path(sys.prefix) / "hosts", help="where the releases are [%(default)s]"
    )
    given = parser.parse_args()
    asked, failed = given.releases or [*RUN, importlib.metadata.version("ultralytics")], False
    for release in sorted(set(asked), key=numbers):
        steps = lived(*(installed(each, given.hosts.absolute()) for each in (release, OLDEST)))
        conditions = {
            "python": platform.python_version(),
            "torch": importlib.metadata.version("torch"),
            "date": datetime.now(timezone.utc).date().isoformat(),
        }
        RUN[release] = {**conditions, "steps": steps}
        kept = {name: RUN[name] for name in sorted(RUN, key=numbers)}
        write_text(FILE, json.dumps(kept, indent=1) + "\n")
        wrong = [each["step"] for each in steps if each["state"] == "failed"]
        failed |= bool(wrong)
        print(release, f"{len(steps)} steps;", f"failed: {', '.join(wrong)}" if wrong else "none failed", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
