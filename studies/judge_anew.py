"""Judges the studies here anew whose results an older release wrote: python studies/judge_anew.py.

What those results do not hold (whether an attention left its identity start) stays unknown; averages, differences by
seed, costs and findings stay as they were measured.
"""

from pathlib import Path

from foveal import report, results


def main() -> None:
    """Write results.json, report.html and the tables of each study."""
    for file in sorted(Path(__file__).parent.rglob("results.json")):
        found = results.load(file)
        results.write(found, file.parent)
        report.write(found, file.parent)
        print(file.parent.name, report.sentence(found))


if __name__ == "__main__":
    main()
