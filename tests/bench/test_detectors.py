"""Benchmarks beyond single modules: whole models, another commit, and the tables made of the results."""

import importlib.util
import itertools
import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from foveal import UserError, attention
from foveal.bench import bench, detectors, revision, rivals, timing
from foveal.bench.benchmark import SCHEMA, Benchmark, Row
from foveal.evidence import TASKS
from foveal.hosts.ultralytics import steps

ROOT = Path(__file__).parents[2]
EMA = ["article", *attention.forms(attention.EMAttention)]

# Whole models -----------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(detectors, "IMAGE_SIZE", 64)
    monkeypatch.setattr(timing, "FEWEST", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_whole_models_are_measured_in_every_form(quick):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    measured = bench("ema@P3,P4", models="yolo11n:2", rounds=2)
    assert measured.rows == ()
    assert [(r.mode, r.contender) for r in measured.models] == [
        (mode, name) for mode in ("forward", "train") for name in ("plain", "plain again", *EMA)
    ]
    assert not any(row.why_not for row in measured.models if row.contender != "kernel")
    for row in measured.models:
        assert (row.model, row.attention, row.image_size) == ("yolo11n", "ema@P3,P4", 64)
        assert row.batch == (2 if row.mode == "train" else 1)
        assert (row.rounds, row.added is not None) == (2, True) if not row.why_not else (0, False)
        if row.contender == "plain":
            assert (row.added, row.resolution) == ((0, 0, 0), 0)


def test_a_form_that_is_wrong_in_a_model_is_not_timed(quick, monkeypatch):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    monkeypatch.setattr(rivals.ArticleEMA, "forward", lambda self, x: 0.9 * x * self.gn.weight.mean())
    rows = bench("ema", models="yolo11n", passes="forward", rounds=1).models
    (article,) = [row for row in rows if row.contender == "article"]
    assert article.why_not.startswith("output is off by ")
    assert (article.milliseconds, article.added) == (None, None)


@pytest.mark.host
@pytest.mark.sweep
def test_the_attention_is_there_bare_and_the_host_trains(quick):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    _, attended = detectors._with_and_without("yolo11n", attention_spec("ema"))
    names = [type(module).__name__ for module in attended.modules()]
    assert (names.count("EMAttention"), names.count("IdentityStart")) == (3, 0)
    written = detectors._in_form(attended, "article")
    names = [type(module).__name__ for module in written.modules()]
    assert (names.count("EMAttention"), names.count("ArticleEMA")) == (0, 3)
    step = steps.step(written, steps.labelled(TASKS["detect"], 2, 64, 0, 3), torch.float32, torch.device("cpu"))
    step()
    trained = [p for p in written.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(trained) > 0.9 * len([*written.parameters()])
    identity = detectors._with_and_without("yolo11n", attention_spec("ema(start=identity)"))[1]
    assert "IdentityStart" in [type(module).__name__ for module in identity.modules()]


def attention_spec(text):
    from foveal.surgery import Spec

    return Spec.parse(text)


@pytest.mark.parametrize(
    ("models", "message"),
    [("yolo11n:x", "cannot read 'yolo11n:x' as a model"), ("yolo11n:0", "cannot read 'yolo11n:0' as a model")],
)
def test_models_that_cannot_be_read(models, message):
    with pytest.raises(UserError, match=message):
        bench("ema", models=models)


# Another commit -----------------------------------------------------------------------------------------------------


def test_rows_of_two_commits_are_compared_turn_by_turn():
    def report(milliseconds):
        row = {"shape": [8, 4, 4], "batch": 1, "dtype": "float32", "layout": "contiguous"}
        row |= {"attention": "ema", "contender": "fast", "mode": "forward", "milliseconds": [0, milliseconds, 9]}
        lost = {**row, "contender": "kernel", "milliseconds": None}
        model = {"model": "yolo11n", "attention": "ema", "contender": "fast", "mode": "train", "batch": 4}
        model |= {"dtype": "float32", "milliseconds": [0, 2 * milliseconds, 9]}
        return {"rows": [row, lost], "models": [model]}

    slowing = [10, 20, 40, 80]
    base = [revision._times(report(2.0 * ms)) for ms in slowing]
    this = [revision._times(report(1.0 * ms)) for ms in slowing]
    fast, kernel, model = revision._compare(base, this)
    assert fast.case == "8x4x4, batch 1, float32, contiguous"
    assert (fast.speedup, fast.spread) == ((2, 2, 2), 0)  # though either side slows down
    assert fast.base_milliseconds == tuple(2 * ms for ms in fast.milliseconds)
    assert (kernel.base_milliseconds, kernel.milliseconds, kernel.speedup) == (None, None, None)
    assert (model.case, model.speedup) == ("yolo11n, batch 4, float32", (2, 2, 2))
    wild = [revision._times(report(ms)) for ms in (10, 40, 40, 200)]
    assert revision._compare(wild, this)[0].speedup is None


def test_the_turns_alternate_and_their_arguments_are_those_given(monkeypatch, tmp_path):
    ran = []

    def run(source, arguments, base, folder):
        ran.append((source, base))
        options = "shapes=16x2x2 batch=1,2 dtype=float32 layout=contiguous passes=forward device=cpu rounds=1"
        assert arguments == ["se", *(f"--{option}" for option in options.split())]
        return {"rows": [], "models": []}

    monkeypatch.setattr(revision, "export", lambda base, folder: tmp_path)
    monkeypatch.setattr(revision, "_run", run)
    measured = bench("se", shapes="16x2x2", batch="1,2", passes="forward", rounds=1, base="HEAD~1")
    assert ran == [(tmp_path, "HEAD~1"), (revision.HERE, "")] * revision.TURNS
    assert (measured.rows, measured.base) == ((), ())


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A git checkout of a package like ours, whose first commit answers and whose second refuses."""
    root = tmp_path / "checkout"
    package = root / "src" / "foveal"
    package.mkdir(parents=True)
    monkeypatch.setattr(revision, "HERE", root / "src")
    (package / "__init__.py").write_text("")

    def commit(main):
        (package / "__main__.py").write_text(main)
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
            git = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x@x", *command]
            subprocess.run(git, check=True, capture_output=True)

    commit('print(\'{"rows": [], "models": []}\')')
    commit("import sys; print('error: No such option: --shapes', file=sys.stderr); sys.exit(2)")
    return root


def test_a_base_runs_from_its_own_sources(checkout, tmp_path):
    (folder := tmp_path / "made").mkdir()
    source = revision.export("HEAD~1", folder)
    assert revision._run(source, [], "HEAD~1", str(folder)) == {"rows": [], "models": []}
    with pytest.raises(UserError, match=r"foveal bench of 'HEAD' cannot run these settings: error: No such option"):
        revision.measure("HEAD", [], print)
    assert revision.here()
    assert not revision.here().endswith("-dirty")
    (checkout / "src" / "foveal" / "__init__.py").write_text("x = 1")
    assert revision.here().endswith("-dirty")


@pytest.mark.parametrize(
    ("setup", "message"),
    [("import sys; sys.exit('gcc: not found')", "the kernels of 'HEAD' cannot be built: gcc: not found"), ("", "")],
)
def test_kernels_of_a_base_are_built_there(setup, message, checkout, tmp_path):
    (checkout / "setup.py").write_text(setup or "open('built', 'w')")
    for command in (["add", "."], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(checkout), *command], check=True)
    (folder := tmp_path / "made").mkdir()
    if message:
        with pytest.raises(UserError, match=message):
            revision.export("HEAD", folder)
    else:
        assert (revision.export("HEAD", folder).parent / "built").exists()


def test_a_base_that_is_not_there(checkout, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="this checkout has no commit 'v99'; name a branch, a tag or a commit"):
        revision.export("v99", tmp_path)
    with pytest.raises(UserError, match="this checkout has no commit '--output=x'"):
        revision.export("--output=x", tmp_path)
    monkeypatch.setattr(revision, "HERE", tmp_path)
    with pytest.raises(UserError, match=r"--base needs a git checkout, and .* is not in one; install from a clone"):
        revision.export("HEAD", tmp_path)
    assert revision.here() is None


# Tables -------------------------------------------------------------------------------------------------------------


def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "kernels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report() -> dict:
    """Made-up results, as JSON gives them back."""
    rows = []
    for mode, shape, (contender, times) in itertools.product(
        ("forward", "train"),
        ((64, 80, 80), (768, 20, 20)),
        {"article": 1, "reference": 1.2, "fast": 2, "kernel": 8}.items(),
    ):
        size = 4 * shape[0] * shape[1] * shape[2]
        ratio = (0.9 * times, 1.0 * times, 1.1 * times)
        row = Row("ema", contender, mode, shape, 1, "float32", "contiguous", milliseconds=(1, 8 / times, 9))
        row = replace(row, speedup=ratio, spread=0.2, copy_share=(0.1, times / 20, 0.9), copy_rate=2e10)
        rows.append(replace(row, input_bytes=size, least_bytes=2 * size, saved_bytes=size // 2, rounds=5))
    rows[2] = replace(rows[2], speedup=None)
    rows[3] = replace(rows[3], why_not="no compiler", milliseconds=None, speedup=None, copy_share=None, copy_rate=None)
    model = detectors.ModelRow("yolo11n", "ema", "plain", "train", 4, 640, "float32", "", (90, 100, 110), (0, 0, 0), 0)
    kernel = replace(model, contender="kernel", added=(0.5, 1.0, 2.0), resolution=1.5)
    where = {"gpu": None, "cpu": "a processor", "threads": 2, "torch": "2.15", "date": "2026-01-01"}
    where |= {"foveal": "0.1.0", "commit": "abc"}
    made = Benchmark(SCHEMA, where, {"dtype": ["float32"]}, tuple(rows), (model, kernel))
    return json.loads(json.dumps(asdict(made)))


def test_tables_say_what_was_measured():
    page = tables()
    sections = page.sections({"cpu": report(), "models": report()}, "en")
    assert "a processor, threads: 2; torch 2.15; 2026-01-01; foveal 0.1.0 (abc)." in sections["cpu"]
    lines = [line for line in sections["cpu"].splitlines() if line.startswith("|")]
    assert lines[0] == "| input | B | x, MB | article, ms | `fast` | `kernel` | kernel / copying |"
    assert lines[2] == "| yolo11n:P3 64x80x80 | 1 | 1.64 | 8 | noise | not run |  |"
    assert lines[3] == "| yolo11x:P5 768x20x20 | 1 | 1.23 | 8 | 2.0 (1.8 to 2.2) | 8.0 (7.2 to 8.8) | 40 % |"
    assert lines[4] == "| geometric mean |  |  |  | 2.0, 1 refused | 8.0 |  |"
    assert lines[7].endswith("| 8.0 (7.2 to 8.8) | 40 % | 0.50 | 0.50 |")
    assert "| yolo11n | `ema` | training step | 4 | 100 | kernel | +1.0 (+0.5 to +2.0) | 1.5 |" in sections["models"]
    assert sections["gpu"] == "Not measured on a GPU yet."
    assert "| `kernel` | 8.0 (at least 8.0) | 8.0 (at least 8.0) |" in sections["speed"]
    assert "| `kernel` | 8.0 (最低 8.0) |" in page.sections({"cpu": report()}, "zh")["speed"]


def test_sections_are_replaced_between_their_marks():
    page = tables()
    text = "a\n<!-- begin cpu -->\nold\n<!-- end cpu -->\nb\n"
    once = page.filled(text, {"cpu": "new"})
    assert once == "a\n<!-- begin cpu -->\nnew\n<!-- end cpu -->\nb\n"
    assert page.filled(once, {"cpu": "new"}) == once
    for wrong in (text.replace("end cpu", "end"), text.replace("begin cpu", "begin nothing")):
        with pytest.raises(ValueError, match="cannot fill <!-- begin"):
            page.filled(wrong, {"cpu": "new"})


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    page = tables()
    for name in ("a.svg", "b.svg"):
        page.draw(report(), tmp_path / name)
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    assert drawn.startswith("<?xml")


def test_committed_tables_are_those_of_the_results():
    page = tables()
    reports = page.load(page.RESULTS)
    for path in page.PAGES:
        text = path.read_text()
        written = page.filled(text, page.sections(reports, "zh" if "zh" in path.name else "en"))
        assert written == text, "make docs writes it anew"
