"""Writes the page of the verdict's error rates: python docs/calibration.py > docs/calibration.md."""

import json
from pathlib import Path

FILE = Path(__file__).parents[1] / "benchmarks" / "results" / "calibration.json"

HEAD = """# How often a verdict is wrong

Simulated studies, judged by the code that judges real ones: `benchmarks/calibration.py` runs them and keeps all figures
in [calibration.json](../benchmarks/results/calibration.json), of which this page is made. All figures are per cent of
studies with their 95 % interval, unless a heading says otherwise. The margin is {margin} points. A study is wrong that
says helps or hurts of any arm where there is no effect; it is covered where all its intervals hold the truth.
"""

PARTS = {
    "Real average precision, no effect": (
        "Simulated detectors on 80 images of three classes, one with about ten objects. All arms share the baseline.",
        lambda row: row["kind"] == "precision",
    ),
    "Scores that are means over images, no effect": (
        "Standard deviation of a paired difference: 0.5 points by seed, 0.15 by image and 0.15 by both.",
        lambda row: row["kind"] == "some images" and isinstance(row["seeds"], int) and not row["effect"],
    ),
    "Skewed seeds, no effect, one arm": (
        "The mean of the differences is 0 and their median is not. No test of a mean keeps its level for a handful of "
        "such seeds. The rules about one run bring the error down; that they do not bring it to 5 % is why the report "
        "shows every seed and the interquartile mean.",
        lambda row: "seeds" in row["name"] and row["kind"] in (*SKEWED, "seeds") and not row["effect"] and one(row),
    ),
    "Planned looks": (
        "Seeds 6..24. Deviations: 0.5 points by seed; by image and by both 0, 0.15 (some images) or 0.3 (few images). "
        "The mean seeds are those that an arm had at its last look.",
        lambda row: not isinstance(row["seeds"], int) and not folds(row),
    ),
    "A fixed number of seeds, with an effect": (
        "The same, judged once.",
        lambda row: row["effect"] and isinstance(row["seeds"], int) and not folds(row),
    ),
    "Folds of classifiers that are really trained, no effect": (
        "Classifiers of 200 images, fitted by least squares and judged by accuracy on the fold that each seed holds "
        "out. Each arm sees features of its own, equally good in the population; on the images of one study either may "
        "be better in all folds. Noisy seeds leave out three features in ten. Some rows are judged again as if seeds "
        "shared no images: the interval misses the truth then, the more often the more seeds there are, and only the "
        "rules about one run keep most of such studies from a word.",
        lambda row: folds(row) and row["kind"].startswith("learners"),
    ),
    "Folds, with an effect": (
        "Five folds of 100 images. Standard deviation of a paired difference on all of them: 0.5 points by seed, 0.3 "
        "by image, 0.3 by both, and 0.15 by the images that were trained on.",
        lambda row: folds(row) and not row["kind"].startswith("learners"),
    ),
}
SKEWED = ("log-normal seeds", "one run in eight collapses")


def folds(row: dict) -> int:
    """How many there are; rows of before there were any do not say it."""
    return row.get("folds", 0)


def one(row: dict) -> bool:
    """Whether a row has one arm and one look."""
    return row["arms"] == 1 and isinstance(row["seeds"], int)


def share(found: list[float]) -> str:
    """A share with its interval, in per cent."""
    return f"{100 * found[0]:.1f} ({100 * found[1]:.1f} to {100 * found[2]:.1f})"


def main() -> None:
    """Print the page."""
    found = json.loads(FILE.read_text())
    print(HEAD.format(margin=found["margin"]))
    for title, (said, belongs) in PARTS.items():
        rows = [row for row in found["rows"] if belongs(row)]
        effects = any(row["effect"] for row in rows)
        print(f"## {title}\n\n{said}\n")
        divided = any(folds(row) for row in rows)
        heads = [
            "what varies",
            *(["folds", "corrected"] if divided else []),
            "arms",
            "seeds",
            *(["effect, in margins"] if effects else []),
            "studies",
        ]
        heads += ["helps or hurts", "wrong", "covered", "arms equivalent, %"]
        heads += ["arms inconclusive, %", "mean seeds"] if effects else []
        print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
        for row in rows:
            seeds = row["seeds"] if isinstance(row["seeds"], int) else "..".join(map(str, row["seeds"]))
            fold = [folds(row), "yes" if row["corrected"] else "no"] if divided else []
            cells = [row["kind"], *fold, row["arms"], seeds, *([row["effect"]] if effects else []), row["studies"]]
            cells += [share(row["claims"]), share(row["wrong"]), share(row["covered"])]
            cells.append(f"{100 * row['words']['equivalent']:.1f}")
            cells += [f"{100 * row['words']['inconclusive']:.1f}", f"{row['mean_seeds']:.1f}"] if effects else []
            print(f"| {' | '.join(map(str, cells))} |")
        print()


if __name__ == "__main__":
    main()
