"""The script for a machine with a GPU: walked on a CPU, cut off, failing, and its winners written into the code."""

import contextlib
import importlib
import json
import re
import runpy
import sys
import time
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

import pytest
import torch

from foveal.bench.benchmark import Row
from helpers import in_fresh_process

pytest.importorskip("triton", reason="Triton is not installed")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu(monkeypatch):
    """The script as a module."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module("gpu")


def _beyond(*wanted: str) -> list[str]:
    """What is installed and can be imported, but for these packages and those that they need."""
    needed, asked = set(), [*wanted]
    while asked:
        if (name := re.match(r"[\w.-]+", asked.pop())[0].lower().replace("_", "-")) not in needed:
            needed.add(name)
            with contextlib.suppress(metadata.PackageNotFoundError):  # of another platform, say
                asked += [need for need in metadata.requires(name) or () if "extra ==" not in need]
    found = metadata.packages_distributions()
    return [name for name, of in found.items() if not needed & {each.lower().replace("_", "-") for each in of}]


def test_a_pretended_walk_comes_through_every_part_on_a_bare_machine(gpu, tmp_path):
    arguments = [str(ROOT / "benchmarks" / "gpu.py"), "--pretend", "-o", str(tmp_path)]
    missing = [name for name in _beyond("torch", "triton", "numpy", "lazy_loader") if name != "foveal"]
    assert {"ultralytics", "scipy", "matplotlib"} & {*missing}
    code = f"import runpy, sys; sys.modules |= dict.fromkeys({missing}); sys.argv = {arguments}\n"
    in_fresh_process(code + "runpy.run_path(sys.argv[0], run_name='__main__')", tmp_path)
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["pretends"]
    assert [*report["parts"]] == [*gpu.PARTS]
    states = {name: part["state"] for name, part in report["parts"].items()}
    assert states.pop("sanitize") in ("done", "skipped: compute-sanitizer is not installed")
    assert "Ultralytics" in states.pop("models")
    assert {*states.values()} == {"done"}, states
    found = {name: report["parts"][name]["result"] for name in states if name != "card"}
    assert all(result["rows"] and not result["no_time_for"] for result in found.values())
    assert [row["wrong"] for row in found["agree"]["rows"]] == [[]]
    assert {"article", "reference"} <= {row["contender"] for row in found["tables"]["rows"] if row["milliseconds"]}
    assert {"kernel, identity start, as a graph", "copy"} <= {row["contender"] for row in found["rivals"]["rows"]}
    (swept,) = [row for row in found["tune"]["rows"] if "tried" in row]
    assert len(swept["tried"]) == 2
    assert all(tried["milliseconds"] for tried in swept["tried"]), swept
    assert {row["auto"] for row in found["others"]["rows"]} <= {"reference", "fast", "kernel"}


def test_launches_are_compared_by_what_they_write(tmp_path):
    code = f"""
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = {[str(ROOT / "benchmarks"), str(ROOT / "tests" / "builders")]}
import torch, gpu_tuning as tuning
from kernelcases import poisoned
problem, cpu = tuning.Problem((1, 1, 2), 1, "float32", "contiguous"), torch.device("cpu")
with poisoned():
    passes = tuning.Passes(problem, 1, cpu)
    for mode, kernel in (("three", "sums"), ("one", "single"), ("backward", "reduce")):
        row = tuning._sweep(problem, passes, mode, kernel, tuning.candidates(kernel)[:2], cpu)
        assert [tried["says"] for tried in row["tried"]] == ["", ""], row
"""
    in_fresh_process(code, tmp_path)


@pytest.mark.sweep
def test_whole_models_are_a_part_of_it(gpu, monkeypatch):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    monkeypatch.setattr(gpu.detectors, "IMAGE_SIZE", 32)
    told = []
    gpu.models(gpu.Desk(torch.device("cpu"), time.monotonic() + 100, told.append))
    rows = {row["contender"]: row for row in told[-1]["rows"]}
    assert {"plain", "plain again", "article", "reference"} <= {
        name for name, row in rows.items() if row["milliseconds"]
    }


def _raises(desk):
    desk.add({"before": 1})
    raise ValueError("of no use")


def _hangs(desk):
    desk.add({"before": 2})
    time.sleep(60)


def _dies(desk):
    desk.add({"before": 3})
    importlib.import_module("os")._exit(7)


def _works(desk):
    for case in desk.each([1, 2, 3]):
        desk.add(case)
        time.sleep(0.6)


def test_a_part_that_fails_hangs_or_dies_is_told_with_what_it_found_and_the_next_goes_on(gpu, monkeypatch, tmp_path):
    parts = {"raises": (_raises, 1), "hangs": (_hangs, 1), "dies": (_dies, 1), "works": (_works, 1)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "GRACE", 2)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--pretend", "-o", str(tmp_path), "--seconds", "4"])
    with pytest.raises(SystemExit) as left:
        gpu.main()
    assert left.value.code
    done = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert "ValueError: of no use" in done["raises"]["state"]
    assert done["hangs"]["state"].startswith("ended after")
    assert done["dies"]["state"] == "failed: its process ended with 7"
    assert [done[name]["result"]["rows"] for name in [*parts][:3]] == [[{"before": n}] for n in (1, 2, 3)]
    assert done["works"]["state"] == "done"
    rows, late = done["works"]["result"].values()
    assert rows
    assert [*map(str, rows), *late] == ["1", "2", "3"]


def test_what_won_is_written_as_a_table_that_decides_the_launches(gpu, monkeypatch, tmp_path):
    from foveal.kernels.ema import cuda

    tuning = importlib.import_module("gpu_tuning")
    x = torch.empty(1, 4, 6, 20, dtype=torch.float16)
    won, lost = cuda.shape_class("apply", x, 2), cuda.shape_class("sums", x, 2)
    rows = [
        {"class": [*won], "default": [*cuda.DEFAULTS["apply"]], "winner": [1024, 8, 2]},
        {"class": [*lost], "default": [*cuda.DEFAULTS["sums"]], "winner": [*cuda.DEFAULTS["sums"]]},
    ]
    # Small slabs are faster in one launch, large ones in three, and of few programs nothing is known.
    ways = [(1000, 200, 1.0, 2.0), (2000, 200, 1.0, 3.0), (4000, 200, 3.0, 1.0), (8000, 20, 1.0, 9.0)]
    rows += [{"program_bytes": b, "programs": p, "one": [one] * 3, "three": [three] * 3} for b, p, one, three in ways]
    parts = {"tune": {"result": {"rows": rows}}, "card": {"result": {"gpu": "A card", "multiprocessors": 132}}}
    table = tmp_path / "table.py"
    assert "1 launches" in tuning.adopt({"parts": parts}, table)
    written = runpy.run_path(str(table))
    assert (written["CARD"], written["ON_CHIP"]) == ("A card", 2000)
    assert written["__doc__"] == importlib.import_module("foveal.kernels.ema.cuda_tuned").__doc__
    monkeypatch.setattr(cuda, "TUNED", written["TUNED"])
    assert cuda.launch("apply", x, 2) == (1024, 8, 2)
    assert cuda.launch("apply", x.float(), 2) == cuda.DEFAULTS["apply"]
    assert cuda.launch("sums", x, 2) == cuda.DEFAULTS["sums"]


def test_every_kernel_is_swept_from_its_default(gpu):
    from foveal.kernels.ema import cuda

    tuning = importlib.import_module("gpu_tuning")
    assert {kernel for of in tuning.PASSES.values() for kernel in of} == {*cuda.DEFAULTS}
    for kernel, default in cuda.DEFAULTS.items():
        tried = tuning.candidates(kernel)
        assert tried[0] == default
        assert len({*tried}) == len(tried) > 10


def test_a_run_becomes_tables_that_say_how_its_parts_ended():
    page = runpy.run_path(str(ROOT / "docs" / "kernels.py"))
    row = Row("ema", "article", "forward", (64, 80, 80), 16, "bfloat16", "contiguous", milliseconds=(1, 8, 9))
    row = replace(row, speedup=(1, 1, 1), input_bytes=13_107_200)
    kernel = replace(row, contender="kernel", milliseconds=(1, 2, 3), speedup=(3, 4, 5), copy_share=(0.1, 0.25, 0.4))
    where = {"gpu": "A card", "torch": "2.15", "date": "2026-01-01", "foveal": "0.1.0", "commit": "abc"}
    rows = [asdict(row), asdict(kernel)]
    parts = {"card": where, "tables": {"rows": rows}, "models": None}
    parts = {name: {"state": "done", "result": result} for name, result in parts.items()}
    parts["models"]["state"] = "failed: Traceback\nValueError: no"
    section = page["sections"]({"gpu": {"parts": json.loads(json.dumps(parts))}}, "en")["gpu"]
    assert section.startswith("A card; torch 2.15; 2026-01-01; foveal 0.1.0 (abc).")
    assert "| yolo11n:P3 64x80x80 | 16 | 13.11 | 8 | 4.0 (3.0 to 5.0) | 25 % |" in section
    assert section.endswith("The parts of this run: `card`: done, `tables`: done, `models`: ValueError: no.")


def test_what_is_expected_is_the_longest_of_bytes_instructions_and_starts():
    expected = runpy.run_path(str(ROOT / "docs" / "expected.py"))
    size = 2 * 64 * 80 * 80 * 16
    row = {"shape": [64, 80, 80], "warps": 4, "programs": 1000}

    def seconds(**changed) -> dict[str, float]:
        names = {"forward": ("sums", "gates", "apply"), "forward in one launch": ("single",)}
        names["backward"] = ("slope", "reduce", "strips", "gradients")
        rows = [
            row | {"pass": mode, "kernel": k, "bytes": size, "instructions": 1} for mode in names for k in names[mode]
        ]
        for one in rows:
            one |= changed if one["kernel"] == "apply" else {}
        return expected["kernel"](rows, 16, False, 16, 0)

    started = 25e-6 + 3 * 12e-6
    assert seconds() == pytest.approx({"forward": started, "train": started + 25e-6 + 4 * 12e-6})
    two = 2 * expected["LEAST"]  # the other launches are so short
    assert seconds(bytes=3e9)["forward"] == pytest.approx(two + 3e9 / expected["COPY"])
    assert seconds(instructions=1e6)["forward"] == pytest.approx(two + 4e9 / expected["ISSUED"])
