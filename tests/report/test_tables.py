"""The tables beside the page, and the files."""

import csv
import io
import re

import pytest

from foveal import UserError
from foveal.evidence import TASKS
from foveal.report import page as report
from foveal.report import tables
from foveal.results import ArmResults
from foveal.results import read as results_of
from helpers import GOLDEN
from reports import VARIANTS, classifiers, complete, half_finished, hostile, page, written


def test_table_for_a_paper():
    golden = (GOLDEN / "report" / "table.md").read_text(encoding="utf-8")
    assert tables.for_a_paper(results_of(complete())) == golden
    heads, *rows = tables.for_a_paper(results_of(classifiers())).splitlines()
    assert heads == golden.splitlines()[0].replace("mAP50-95", "top-1 accuracy").replace("mAP50", "top-5 accuracy")
    assert rows == golden.splitlines()[1:]
    rows = tables.for_a_paper(results_of(hostile())).splitlines()
    assert len(rows) == 6
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {13}
    assert "<" not in "".join(rows)
    heads, _, first, *_ = tables.for_a_paper(results_of(VARIANTS["masks"]())).splitlines()
    assert "| mask mAP50-95 | mask mAP50 | box mAP50-95 |" in heads
    assert len(first.split("|")) == len(heads.split("|"))
    assert "| 54.3 |" in first, "the mean of what stands beside it, 1.07 times 50.8"
    larger = complete()
    larger["arms"][2]["cost"]["image_size"] *= 2
    marked = tables.for_a_paper(results_of(larger)).splitlines()
    assert [row for row in marked if row not in golden.splitlines()] == [
        golden.splitlines()[4].replace("6.569", "6.569 (1280 px)")
    ]
    last = tables.for_a_paper(results_of(half_finished())).splitlines()[-1]
    assert last == ("| placebo@neck | – | – | – | – | – | – | – | – | – | – |")


@pytest.mark.parametrize("variant", VARIANTS)
def test_table_for_pandas_keeps_all_digits(variant):
    results = VARIANTS[variant]()
    first, *others = TASKS[results["task"]].judged(results["statistics"]["metric"]).metrics
    keys = (first.key, first.second_key, first.last, *(key for one in others for key in (one.key, one.second_key)))
    rows = [*csv.DictReader(io.StringIO(tables.for_pandas(results_of(results))))]
    baseline = results["arms"][0]
    wanted = [(arm, place) for arm in results["arms"] for place in range(len(arm["seeds"]))]
    assert len(rows) == len(wanted)
    for row, (arm, place) in zip(rows, wanted, strict=True):
        lost = {f"lost_to_{one['name']}": one["costs"][place] for one in arm.get("errors", ())}
        assert tuple(row) == ("arm", "role", "seed", *keys, "difference", "train_seconds", *lost)
        assert [float(row[key]) for key in lost] == [*lost.values()]
        assert (row["arm"], row["role"], int(row["seed"])) == (arm["name"], arm["role"], arm["seeds"][place])
        assert [float(row[key]) for key in keys] == [arm["scores"][key][place] for key in keys]
        if arm is baseline:
            assert row["difference"] == ""
        else:
            mine, theirs = (each["scores"][keys[0]][place] for each in (arm, baseline))
            assert float(row["difference"]) == mine - theirs
        seconds = arm["cost"] and arm["cost"]["train_seconds"][place]
        assert row["train_seconds"] == ("" if seconds is None else repr(seconds))


def test_a_paper_gets_the_slices_and_the_errors_in_tables_of_their_own():
    arms, slices = tables.for_a_paper(results_of(VARIANTS["sliced"]())).split("\n\n")
    assert f"{arms}\n" == tables.for_a_paper(results_of(complete()))
    results = VARIANTS["sliced"]()
    heads, _, *rows = (line.strip("| ").split(" | ") for line in slices.splitlines())
    assert heads == ["Arm", "Slice", "Images", "Objects", "mAP50-95", "Difference [95 % interval]", "p"]
    assert [row[:4] for row in rows[4:8]] == [
        ["A/A", "day/night: day", "41", "1,107"],
        ["A/A", "day/night: night", "31", "837"],
        ["A/A", "camera &amp; lens: &lt;north>", "63", "1,701"],
        ["A/A", "camera &amp; lens: s", "9", "243"],
    ]
    one = results["arms"][2]["slices"][1]
    difference, low, high = (written(one[key], "signed-points") for key in ("difference", "low", "high"))
    assert rows[9][4:] == [written(one["average"], "points"), f"{difference} [{low}, {high}]", "0.310"]
    assert rows[3][4:] == ["–", "–", "–"]
    _, errors = tables.for_a_paper(results_of(VARIANTS["with errors"]())).split("\n\n")
    heads, _, *rows = (line.strip("| ").split(" | ") for line in errors.splitlines())
    assert heads[:3] == ["Arm", "mAP50 lost to classification", "mAP50 lost to localisation"]
    costs = VARIANTS["with errors"]()["arms"][2]["errors"][1]["costs"]
    assert rows[2][0] == "ema@neck"
    assert rows[2][2] == f"{written(costs, 'mean-points')} ± {written(costs, 'deviation-points')}"
    _, errors = tables.for_a_paper(results_of(VARIANTS["with errors, half finished"]())).split("\n\n")
    assert errors.splitlines()[-1] == "| placebo@neck | – | – | – | – | – | – |"


def test_differences_are_paired_by_seed_and_not_by_place():
    baseline = ArmResults("baseline", "baseline", (4, 1, 7), {"map": (0.5, 0.25, 0.75)})
    arm = ArmResults("ema@neck", "treatment", (1, 2, 4), {"map": (0.375, 0.9, 0.375)})
    assert tables.paired(arm, baseline, "map") == {1: 0.125, 4: -0.125}


# Files ---------------------------------------------------------------------------------------------------------------


def test_three_files_are_written(tmp_path):
    (tmp_path / "report.html").write_text("older")
    paths = report.write(results_of(complete()), tmp_path, "zh")
    assert [path.name for path in paths] == ["report.html", "table.md", "table.csv"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert paths[0].read_text(encoding="utf-8") == page(complete(), "zh").render()
    assert paths[1].read_text(encoding="utf-8") == tables.for_a_paper(results_of(complete()))
    assert paths[2].read_bytes().decode() == tables.for_pandas(results_of(complete()))


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(UserError, match="no report in language 'fr'; languages: en, zh"):
        report.write(results_of(complete()), tmp_path, "fr")
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(UserError, match=r"cannot write .*report\.html"):
        report.write(results_of(complete()), tmp_path / "none")
