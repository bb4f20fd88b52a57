"""Two runs of the stock trainer side by side: a fair pair is found fair, and each kind of unfairness is named."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import ultralytics
from scipy import stats
from typer.testing import CliRunner
from ultralytics.nn import tasks

import detectors
import foveal
from boxes import plain_map, rated
from foveal import UserError
from foveal.audit import audit, findings, judging, runs
from foveal.audit.comparison import Audit
from foveal.cli.app import app
from foveal.evidence import TASKS, Detections
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import validators
from foveal.study import demo
from foveal.verdict import Estimate, draw_images

TRAIN = {"epochs": 2, "imgsz": 64, "batch": 8, "optimizer": "AdamW", "patience": 0, "workers": 0, "device": "cpu"}
TRAIN |= {"amp": False, "plots": False, "verbose": False}
COLUMN = TASKS["detect"].metric.column


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Runs `a` of a plain start, `b` of the same with EMA by `foveal.add`, `c` of a YAML whose rows moved."""
    root = tmp_path_factory.mktemp("audit")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine threads that wait for each other take most of the time
    data = demo.draw_data(root / "data", train=16, val=8)
    torch.manual_seed(0)
    source = host.load("yolo11n.yaml")
    torch.save(host.checkpoint(source.model, {}), root / "start.pt")
    foveal.add(str(root / "start.pt"), "ema", at="neck", output=root / "start-ema.pt")
    moved = tasks.yaml_model_load("yolo11n.yaml")
    moved["backbone"].append([-1, 1, "EMA", []])
    moved["head"][-1][0] = [17, 20, 23]
    for row, skipped in ((1, 6), (4, 4), (7, 14), (10, 11)):
        moved["head"][row][0] = [-1, skipped]
    (root / "yolo11n-moved.yaml").write_text(yaml.safe_dump(moved))
    for name, start, more in (
        ("a", "start.pt", {}),
        ("b", "start-ema.pt", {}),
        ("c", "yolo11n-moved.yaml", {"pretrained": str(root / "start.pt")}),
    ):
        model = ultralytics.YOLO(root / start)
        model.train(data=str(data), project=str(root), name=name, **TRAIN, **more)
    for seed, name in enumerate("ab"):
        change_weights(root / name, "best", lambda c, seed=seed: detectors.guess(c["model"], seed, root / "data"))
    yield root
    torch.set_num_threads(threads)


def change_weights(run: Path, kind: str, change: Callable[[dict], None]) -> None:
    file = run / "weights" / f"{kind}.pt"
    checkpoint = torch.load(file, weights_only=False)
    change(checkpoint)
    file.unlink()  # it may be linked
    torch.save(checkpoint, file)


def change_arguments(run: Path, **values) -> None:
    file = run / "args.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | values))


@pytest.fixture
def pair(trained, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Copies of `a` and `b` to be changed, in an empty working directory; what was loaded once is loaded no more."""
    for name in "ab":
        shutil.copytree(trained / name, tmp_path / name, copy_function=linked)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(runs.Weights, "read", once(runs.Weights.read))
    monkeypatch.setattr(findings, "_model", once(findings._model))
    return tmp_path / "a", tmp_path / "b"


def linked(source: str, target: str) -> None:
    os.link(source, target) if source.endswith(".pt") else shutil.copy2(source, target)


LOADED = {}


def once(load: Callable) -> Callable:
    def of(file, *trust):
        found = Path(file).stat() if Path(file).is_file() else None
        key = load, found and (found.st_ino, found.st_mtime_ns)
        LOADED[key] = LOADED[key] if key in LOADED else load(file, *trust)
        return LOADED[key]

    return of


def finding(found: Audit, check: str) -> tuple[bool | None, str]:
    (one,) = [f for f in found.findings if f.check == check]
    return one.ok, one.detail


def one(found: Audit) -> Estimate:
    (difference,) = found.differences
    return difference


def with_state(found: Audit, state: bool | None) -> set[str]:
    return {f.check for f in found.findings if f.ok is state}


def listing(*folders: Path) -> dict[Path, tuple]:
    files = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


# Judging -------------------------------------------------------------------------------------------------------------


def test_a_fair_pair_is_fair_and_nothing_is_written(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = listing(trained / "a", trained / "b", tmp_path)
    found = audit(trained / "a", trained / "b")
    assert listing(trained / "a", trained / "b", tmp_path) == before
    assert with_state(found, False) == set(), found
    assert with_state(found, None) == {"split", "runs"}
    assert found.runs == (str(trained / "a"), str(trained / "b"))
    assert (found.split, found.images) == ("val", 8)
    assert min(found.maps) > 1e-4
    assert one(found).value == found.maps[1] - found.maps[0] != 0
    assert one(found).low < one(found).value < one(found).high
    plain = torch.load(trained / "start.pt", weights_only=False)["model"]
    assert found.parameters[1] - found.parameters[0] > 1000
    assert found.parameters[0] < sum(p.numel() for p in plain.parameters())  # 3 classes, not 80
    assert finding(found, "agreement")[0]
    kept = [fitting(trained / start, trained / name) for start, name in (("start.pt", "a"), ("start-ema.pt", "b"))]
    assert finding(found, "pretrained")[1].endswith(f"A kept {kept[0]} of 499 and B kept {kept[1]} of 520")
    assert 440 < kept[0] == kept[1] - 21 < 499  # what depends on the number of classes is lost
    assert "foveal study run" in finding(found, "runs")[1]
    for word in ("help", "hurt", "better", "worse"):
        assert word not in found.sentence
    assert found.sentence.startswith("Nothing unfair was found. The mAP50-95 of B less that of A is ")

    monkeypatch.setattr(validators, "evaluate", evaluated := once_evaluated())
    swapped, again = audit(trained / "b", trained / "a"), audit(trained / "a", trained / "b")
    assert evaluated.calls == 2
    assert one(swapped).value == pytest.approx(-one(found).value, abs=1e-12)
    assert (one(swapped).low, one(swapped).high) == pytest.approx((-one(found).high, -one(found).low), abs=1e-12)
    assert swapped.parameters == found.parameters[::-1]
    assert with_state(swapped, False) == set()
    assert again == found


def once_evaluated() -> Callable:
    evaluate, known = validators.evaluate, {}

    def of(file, *args, **settings):
        if file.path not in known:
            known[file.path] = evaluate(file, *args, **settings)
            of.calls += 1
        return known[file.path]

    of.calls = 0
    return of


def test_a_run_against_its_copy_differs_by_exactly_nothing(pair):
    a, b = pair
    shutil.rmtree(b)
    shutil.copytree(a, b)
    found = audit(a, b)
    assert found.maps[0] == found.maps[1] > 1e-4
    assert one(found) == Estimate(0, 0, 0, 1)
    assert with_state(found, False) == set()
    assert "no more than the choice of images" in found.sentence


@pytest.fixture
def drawn_pair(pair, monkeypatch) -> dict[str, Detections]:
    """Detections that an evaluation gives for `a` and `b`, and settings it was called with, by folder name."""
    of = {"a": rated(1, bare=1), "b": rated(3, bare=1), "off": 0.0, "settings": []}

    def evaluate(file, data, split, folder, **settings):
        found = of[file.path.parts[-3]]
        of["settings"].append((split, {**settings, "folder": folder}))
        map50, whole = plain_map(found, np.ones(len(found.name), int)) if len(found.true_image) else (0.0, 0.0)
        return found, {"map50": map50, "map": whole + of["off"]}

    monkeypatch.setattr(validators, "evaluate", evaluate)
    monkeypatch.setattr(judging.averages, "RESAMPLES", 150)
    return of


def test_the_interval_is_of_paired_resamples(pair, drawn_pair):
    found = audit(*pair)
    counts = draw_images(12, 150)
    resampled = [[plain_map(drawn_pair[name], one)[1] for one in counts] for name in "ab"]
    reach = stats.t.ppf(0.975, 11) * np.std(np.subtract(*resampled), ddof=1) * np.sqrt(12 / 11)
    assert found.maps == pytest.approx([plain_map(drawn_pair[name], np.ones(12, int))[1] for name in "ab"])
    difference = one(found).value
    assert difference == pytest.approx(found.maps[1] - found.maps[0])
    assert (one(found).low, one(found).high) == pytest.approx((difference - reach, difference + reach))
    assert one(found).excludes_zero or "no more than the choice of images" in found.sentence
    split, settings = drawn_pair["settings"][0]
    assert (split, settings["imgsz"], settings["device"], len(drawn_pair["settings"])) == ("val", 64, "cpu", 2)
    assert not settings["folder"].exists()  # where the host may have written, in no run


def test_a_difference_beyond_the_images_is_said_without_a_claim(pair, drawn_pair):
    drawn_pair["b"].hit[::2] = True
    drawn_pair["a"].hit[4:] = False
    found = audit(*pair)
    assert 0 < one(found).low
    assert "more than the choice of images makes" in found.sentence
    assert "What another seed would give, one run of each cannot tell." in found.sentence


def test_draws_without_objects_do_not_count(pair, drawn_pair):
    for name in "ab":
        few = rated(1 if name == "a" else 3, images=2, bare=1)
        drawn_pair[name] = few
    found = audit(*pair)
    assert np.isfinite([one(found).low, one(found).high]).all()


def test_disagreement_with_the_host_is_broken(pair, drawn_pair):
    drawn_pair["off"] = 2e-6
    assert finding(audit(*pair), "agreement") == (
        False,
        "mAP computed again from the detections and Ultralytics' own are within 2e-06",
    )


def test_other_images_are_broken_and_have_no_interval(pair, drawn_pair):
    drawn_pair["b"].name[0] = "other.png"
    found = audit(*pair)
    assert finding(found, "evaluator") == (False, "judged on other images (A: 12; B: 12)")
    assert one(found) == Estimate(pytest.approx(found.maps[1] - found.maps[0]))
    assert found.images is None
    assert found.sentence.startswith("Not a fair comparison: evaluator.")
    assert "there is no interval" in found.sentence


@pytest.mark.parametrize(("labelled", "split"), [("all", "test"), ("none", "val"), ("nowhere", "val")])
def test_test_is_judged_where_it_has_labels(labelled, split, trained, pair, drawn_pair, tmp_path):
    for kind in ("images", "labels")[: 1 if labelled == "none" else 2]:
        if labelled != "nowhere":
            shutil.copytree(trained / "data" / kind / "val", tmp_path / "t" / kind / "test")
    described = yaml.safe_load((trained / "data" / "data.yaml").read_text())
    described |= {"path": str(trained / "data"), "test": str(tmp_path / "t/images/test")}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(described))
    found = audit(*pair, data=str(tmp_path / "other.yaml"))
    assert found.split == drawn_pair["settings"][0][0] == split
    assert finding(found, "split")[0] is (True if split == "test" else None)


def test_what_the_runs_wrote_down_is_enough_for_an_answer(pair):
    for run, values in zip(pair, ((0.25, 0.125), (0.25, 0.75)), strict=True):
        header, *lines = (run / "results.csv").read_text().splitlines()
        column = header.split(",").index(COLUMN)
        for number, (line, value) in enumerate(zip(lines, values, strict=True)):
            fields = line.split(",")
            fields[column] = str(value)
            lines[number] = ",".join(fields)
        (run / "results.csv").write_text("\n".join([header, *lines, "3,0.1"]) + "\n")  # one cut short is no epoch
    found = audit(*pair, evaluate=False)
    assert (found.maps, found.differences) == ((0.25, 0.75), (Estimate(0.5),))
    assert (found.images, found.split) == (None, "val")
    assert finding(found, "evaluator")[0] is None
    assert with_state(found, False) == set()
    (pair[0] / "results.csv").unlink()
    found = audit(*pair, evaluate=False)
    assert (found.maps, found.differences) == (None, ())
    assert "not written down" in found.sentence


# Unfairness ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("both", "mine", "check", "ok", "words"),
    [
        ({}, {"epochs": 3}, "epochs", False, "A: 2 epochs trained, 2 asked for; B: 2 epochs trained, 3 asked for"),
        ({}, {"epochs": 3}, "complete", False, "B has 2 of 3 epochs: it was ended before"),
        ({"epochs": 4}, {"patience": 3}, "patience", None, "and did not (patience of A: 0; B: 3)"),
        ({}, {"patience": 1}, "patience", None, "and did not (patience of A: 0; B: 1)"),
        ({}, {"patience": 2}, "patience", True, "could not"),
        ({}, {"time": 0.5}, "time", False, "(A: None; B: 0.5)"),
        ({}, {"batch": -1}, "batch", False, "A: 8, which became 8; B: -1, which became 8"),
        ({}, {"batch": 0.7}, "batch", False, "B: 0.7, which became 8"),
        ({}, {"optimizer": "SGD"}, "optimizer", False, "A: AdamW; B: SGD"),
        ({}, {"optimizer": "auto"}, "optimizer", False, "A: AdamW; B: auto"),
        ({"optimizer": "auto"}, {}, "optimizer", None, "auto in both"),
        ({"optimizer": "auto"}, {"lr0": 0.5}, "arguments", True, "the same"),
        ({}, {"lr0": 0.5}, "arguments", False, "lr0 is 0.01 in A and 0.5 in B"),
        ({}, {"mosaic": 0.5, "imgsz": 96}, "arguments", False, "imgsz is 64 in A and 96 in B; mosaic is 1.0 in A"),
        ({}, {"plots": True, "name": "b", "of_a_later_release": 1}, "arguments", True, "the same"),
        ({"of_another_release": 1}, {"of_another_release": 2}, "arguments", None, "does not know what that does"),
        ({"of_another_release": 1}, {"of_another_release": 2, "lr0": 0.5}, "arguments", False, "lr0 is 0.01 in A"),
        ({}, {"amp": True}, "arguments", True, "the same"),  # on a CPU
        ({"device": "0"}, {"amp": True}, "arguments", False, "amp is False in A and True in B"),
        ({}, {"amp": "bf16"}, "arguments", False, "amp is False in A and bf16 in B"),
        ({}, {"classes": [0]}, "arguments", False, "classes is None in A and [0] in B"),
        ({}, {"pretrained": False, "model": "yolo11n.yaml"}, "arguments", True, "the same"),
        ({}, {"seed": 1}, "seeds", None, "seed 0 in A and 1 in B"),
        ({"device": "0"}, {}, "seeds", None, "without workers"),
        ({}, {"device": "0"}, "seeds", None, "without workers"),
        ({}, {"resume": "last.pt"}, "resumed", None, "resumed: B;"),
        ({}, {"resume": "last.pt"}, "pretrained", None, "B from what, nobody can tell"),
        ({}, {"device": "0"}, "device", None, "A: cpu; B: 0"),
        ({}, {"data": "nowhere.yaml"}, "data", True, "in both"),  # the checkpoint knows it, too
    ],
    ids=str,
)
def test_arguments_are_compared(both, mine, check, ok, words, pair):
    for run, values in zip(pair, (both, {**both, **mine}), strict=True):
        change_arguments(run, **values)
    found = audit(*pair, evaluate=False)
    said, detail = finding(found, check)
    assert (said, words in detail) == (ok, True), (said, detail)
    if ok is False:
        assert check in found.sentence.partition(".")[0]
    if ok is True:
        assert with_state(found, False) <= {"data"}


def test_what_chooses_the_outputs_of_an_end_to_end_head_counts_where_there_is_one(pair):
    change_arguments(pair[0], nms=None)
    change_arguments(pair[1], nms=False)
    assert finding(audit(*pair, evaluate=False), "arguments")[0]
    change_weights(pair[0], "best", lambda c: c.update(model=host.load("yolov10n.yaml").model.half()))
    ok, detail = finding(audit(*pair, evaluate=False), "arguments")
    assert (ok, detail) == (False, "nms is None in A and False in B")


def poison(checkpoint: dict) -> None:
    next(checkpoint["model"].parameters())[0, 0, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("kind", "change", "check", "ok", "words"),
    [
        ("best", poison, "finite", False, "not finite: best.pt of B"),
        ("last", poison, "finite", False, "not finite: last.pt of B"),
        ("last", lambda c: c.update(version="8.3.201"), "versions", False, "B: 8.3.201"),
        ("last", lambda c: c["train_args"].update(batch=4), "batch", False, "A: 8; B: 4"),
        ("best", lambda c: c["model"].names.update({0: "ball"}), "classes", False, "B: ['ball', 'square', 'cross']"),
    ],
    ids=["best", "last", "version", "batch lowered", "classes"],
)
def test_checkpoints_are_compared(kind, change, check, ok, words, pair):
    change_weights(pair[1], kind, change)
    found = audit(*pair, evaluate=False)
    said, detail = finding(found, check)
    assert (said, words in detail) == (ok, True), (said, detail)
    assert with_state(found, False) == {check}


def test_models_of_other_classes_are_not_evaluated(pair, drawn_pair):
    change_weights(pair[1], "best", lambda c: c["model"].names.update({0: "ball"}))
    found = audit(*pair)
    assert finding(found, "evaluator")[0] is None
    assert drawn_pair["settings"] == []


@pytest.mark.parametrize("ended", [True, False])
def test_a_cut_table_is_an_unfinished_run(ended, pair):
    lines = (pair[1] / "results.csv").read_text().splitlines(keepends=True)
    (pair[1] / "results.csv").write_text("".join(lines[:2]))
    for kind in ("best", "last"):
        change_weights(pair[1], kind, lambda checkpoint: checkpoint.update(epoch=-1 if ended else 0))
    found = audit(*pair, evaluate=False)
    why = "it was ended before" if ended else "interrupted, or still at it"
    assert finding(found, "complete") == (False, f"B has 1 of 2 epochs: {why}")
    assert with_state(found, False) == {"complete", "epochs"}


def test_missing_weights_are_named_and_the_rest_is_told(pair, drawn_pair):
    (pair[1] / "weights" / "best.pt").unlink()
    found = audit(*pair)
    assert finding(found, "complete") == (None, "B has no best.pt")
    assert finding(found, "classes")[0] is None
    assert found.parameters[1] is None
    assert found.images is None
    assert (found.fair, unknown(found)) == (None, {"classes", "pretrained"})
    for run in pair:
        shutil.rmtree(run / "weights")
    found = audit(*pair)
    assert finding(found, "complete")[1] == "A has no last.pt; A has no best.pt; B has no last.pt; B has no best.pt"
    assert finding(found, "finite")[1] == "cannot be told, because no weights of A and B are read"
    assert (found.fair, unknown(found)) == (None, {"classes", "pretrained", "versions", "finite"})
    assert found.sentence.startswith("Whether the comparison is fair cannot be told from these files: classes, pretrai")
    change_arguments(pair[1], lr0=0.5)
    assert audit(*pair).sentence.startswith("Not a fair comparison: arguments.")


def unknown(found: Audit) -> set[str]:
    return {f.check for f in found.findings if f.unknown}


@pytest.mark.parametrize(
    ("change", "told"),
    [({}, 3), ({"lr0": 0.5}, 1)],
    ids=["nothing is known to be unfair", "one thing is"],
)
def test_the_exit_code_tells_unfair_from_unknown(change, told, pair, tmp_path):
    for run in pair:
        shutil.rmtree(run / "weights")
    change_arguments(pair[1], **change)
    assert CliRunner().invoke(app, ["audit", *map(str, pair)]).exit_code == told


@pytest.mark.parametrize(
    ("version", "ok", "words"),
    [
        ("8.4.129", None, "before Ultralytics 8.4.130"),
        ("8.4.130", True, "the same batches"),
        ("8.10.0", True, "the same batches"),
        (None, None, "does not say its release"),
    ],
)
def test_seeds_reach_workers_since_a_release(version, ok, words, pair):
    for run in pair:
        change_arguments(run, workers=4)
        change_weights(run, "last", lambda checkpoint: checkpoint.update(version=version))
    said, detail = finding(audit(*pair, evaluate=False), "seeds")
    assert (said, words in detail) == (ok, True), detail


@pytest.mark.parametrize("damage", ["no model", "code that is not here"])
def test_weights_that_cannot_be_read_are_a_line_and_the_rest_is_told(damage, pair):
    for run in pair:  # linked files are not written to
        (run / "weights" / "best.pt").unlink()
        shutil.copy2(run / "weights" / "last.pt", run / "weights" / "best.pt")
    if damage == "no model":
        (pair[1] / "weights" / "best.pt").write_bytes(b"x")
    else:
        change_weights(pair[1], "best", lambda c: c["model"].add_module("pasted", Pasted()))
        foreign = (pair[1] / "weights" / "best.pt").read_bytes().replace(b"test_comparison", b"test_comparisom")
        (pair[1] / "weights" / "best.pt").write_bytes(foreign)
    found = audit(*pair)
    ok, detail = finding(found, "complete")
    assert ok is None
    assert detail.startswith("best.pt of B is not read: ")
    assert detail.endswith("read it where the code that trained it is installed")
    assert finding(found, "arguments")[0]
    assert (found.fair, unknown(found)) == (None, {"classes", "pretrained"})


class Pasted(torch.nn.Module):
    """A class that is in a checkpoint and, under another name, nowhere."""


# Early stopping ------------------------------------------------------------------------------------------------------


def shared(folder: Path, rows: list[tuple[float, float]], **values) -> Path:
    """A run as people share it, without weights: its arguments, and mAP50 and mAP50-95 of each epoch."""
    folder.mkdir()
    given = {"task": "detect", "mode": "train", "model": "yolo11n.pt", "epochs": 30, "patience": 5, **values}
    (folder / "args.yaml").write_text(yaml.safe_dump(host.train_arguments(given)))
    lines = [",".join(("epoch", *runs.COLUMNS))]
    lines += [f"{epoch},0.5,0.5,{map50:.5g},{whole:.5g}" for epoch, (map50, whole) in enumerate(rows, 1)]
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    return folder


def rising(best: int, epochs: int) -> list[tuple[float, float]]:
    return [(0.6 - 0.01 * abs(best - epoch), 0.4 - 0.01 * abs(best - epoch)) for epoch in range(1, epochs + 1)]


NOTHING = (0.0, 0.0)


@pytest.mark.parametrize(
    ("rows", "values", "stopped"),
    [
        (rising(8, 13), {}, True),
        (rising(8, 12), {}, False),
        (rising(8, 14), {}, False),
        (rising(8, 30), {}, False),
        (rising(8, 13), {"patience": 0}, False),
        (rising(8, 13), {"patience": 30}, False),
        (rising(8, 13), {"val": False}, False),
        ([*rising(8, 8), (0.6, 0.4), *rising(8, 13)[8:12]], {}, True),  # the best twice: the first counts, or the last
        ([NOTHING] * 13, {}, False),  # the host waits for something to be found
        ([*[NOTHING] * 4, (0.1, 0.1), *[NOTHING] * 5], {}, True),
        # By mAP50-95 the 8th is the best, by a tenth of mAP50 besides the 7th: releases differ.
        ([*rising(8, 6), (0.9, 0.38), *rising(8, 13)[7:]], {}, None),
        ([*rising(8, 6), (0.9, 0.38), *rising(8, 12)[7:]], {}, None),
        ([], {}, None),
        (rising(8, 12), {"resume": "last.pt"}, None),
    ],
    ids=str,
)
def test_early_stopping_is_read_from_the_table(rows, values, stopped, tmp_path):
    run = runs.Run.read("A", shared(tmp_path / "a", rows, **values))
    assert run.stopped is stopped


def test_the_host_stops_where_its_table_says(trained):
    """The trainer's own class, fed with the fitness that `runs` computes, ends where the table is said to end."""
    from ultralytics.utils.torch_utils import EarlyStopping

    drawn = np.random.default_rng(0).uniform(0, 1, (40, 4, 60))
    for precision, recall, map50, whole in drawn:
        stopper = EarlyStopping(patience=4)
        rows = list(zip(precision, recall, map50, whole, strict=True))
        ended = next((e for e, row in enumerate(rows, 1) if stopper(e, host.fitness(*row))), None)
        assert ended  # of 60 epochs of noise
        arguments = {"epochs": 60, "patience": 4}
        for epochs in (ended - 1, ended, ended + 1):
            table = dict(enumerate(rows[:epochs], 1))
            run = runs.Run("A", Path(), arguments, table, {}, {})
            best = run._best_epochs()[0]
            assert (epochs - 4 in best) is (epochs == ended) or epochs > ended


def test_two_runs_that_were_stopped_early_are_told_so(tmp_path):
    pair = [shared(tmp_path / name, rising(best, best + 5)) for name, best in (("a", 8), ("b", 11))]
    found = audit(*pair)
    ok, detail = finding(found, "patience")
    assert ok is False
    assert "early stopping ended both runs" in detail
    assert "13 in A, 16 in B" in detail
    assert "A has 13 of 30 epochs: early stopping ended it" in finding(found, "complete")[1]
    assert "interrupted" not in finding(found, "complete")[1]


def test_a_run_without_weights_is_not_said_to_be_interrupted(tmp_path):
    pair = [shared(tmp_path / name, rising(8, 12)) for name in "ab"]
    assert finding(audit(*pair), "complete")[1].count("12 of 30 epochs: why, its files do not tell") == 2
    shared(tmp_path / "c", [*rising(8, 6), (0.9, 0.38), *rising(8, 13)[7:]])
    ok, detail = finding(audit(pair[0], tmp_path / "c"), "patience")
    assert ok is None
    assert "whether early stopping ended B cannot be told" in detail


def test_best_pt_says_which_epoch_was_the_best(pair):
    """Whatever the fitness of its release was."""
    rows = [*rising(8, 6), (0.9, 0.38), *rising(8, 13)[7:]]
    shutil.rmtree(pair[1])
    for seventh, stopped in ((True, False), (False, True)):
        shared(pair[1], rows)
        shutil.copytree(pair[0] / "weights", pair[1] / "weights")
        judged = dict(zip(runs.COLUMNS, (0.5, 0.5, *rows[6 if seventh else 7]), strict=True))
        change_weights(pair[1], "best", lambda c, judged=judged: c.update(train_metrics=judged))
        assert runs.Run.read("B", pair[1]).stopped is stopped
        shutil.rmtree(pair[1])


# Pretraining ---------------------------------------------------------------------------------------------------------


def forget_start(run: Path) -> None:
    """As releases leave a checkpoint that do not note what a training started from."""
    for kind in ("best", "last"):
        change_weights(run, kind, lambda checkpoint: checkpoint["model"].__dict__.pop("pt_path", None))


def fitting(start: Path, run: Path) -> int:
    """How many tensors of a file have a place in a trained model."""
    files = (start, run / "weights" / "last.pt")
    source, trained = (torch.load(file, weights_only=False)["model"].state_dict() for file in files)
    return sum(name in trained and trained[name].shape == tensor.shape for name, tensor in source.items())


def test_a_start_that_lost_half_of_its_tensors_is_broken(trained, pair):
    found = audit(pair[0], trained / "c", evaluate=False)
    ok, detail = finding(found, "pretrained")
    assert not ok
    assert detail.endswith(
        f"of its tensors A kept {fitting(trained / 'start.pt', pair[0])} of 499 and B kept 240 of 499"
    )
    assert with_state(found, False) == {"pretrained"}


@pytest.mark.parametrize(
    ("values", "ok", "words"),
    [
        pytest.param({"model": "{root}/start-ema.pt"}, True, "B kept {ema} of 520", marks=pytest.mark.sweep),
        ({"model": "yolo11n.yaml"}, False, "B from fresh weights"),
        pytest.param(
            {"model": "yolo11n.yaml", "pretrained": "{root}/start.pt"},
            True,
            "B kept {plain} of 499",
            marks=pytest.mark.sweep,
        ),
        pytest.param(
            {"model": "yolo11n.yaml", "pretrained": "nowhere.pt"},
            None,
            "B from nowhere.pt; not all files are here",
            marks=pytest.mark.sweep,
        ),
        pytest.param(
            {"model": "{root}/start.pt", "pretrained": False},
            False,
            "pretrained is True in A and False in B; A started",
            marks=pytest.mark.sweep,
        ),
        ({"model": "{root}/other.pt"}, False, "B kept {plain} of 499, and the two files hold other weights"),
        ({"model": "{root}/damaged.pt"}, None, "damaged.pt; not all files are here"),
    ],
    ids=str,
)
def test_where_the_host_notes_no_start_the_arguments_tell(values, ok, words, trained, pair):
    checkpoint = torch.load(trained / "start.pt", weights_only=False)
    checkpoint["model"].model[0].conv.weight.data += 1
    torch.save(checkpoint, trained / "other.pt")
    (trained / "damaged.pt").write_bytes(b"no model")
    forget_start(pair[1])
    values = {k: v.format(root=trained) if isinstance(v, str) else v for k, v in values.items()}
    change_arguments(pair[1], **values)
    said, detail = finding(audit(*pair, evaluate=False), "pretrained")
    plain, ema = fitting(trained / "start.pt", pair[0]), fitting(trained / "start-ema.pt", pair[1])
    assert (said, words.format(plain=plain, ema=ema) in detail) == (ok, True), (said, detail)


@pytest.mark.parametrize(
    ("mine", "theirs", "ok", "words"),
    [
        ({"model": "yolov8n.pt"}, {"model": "yolov8n.yaml"}, False, "A started from yolov8n.pt; B from fresh weights"),
        ({"model": "yolov8n.pt"}, {"model": "yolov8n.pt", "pretrained": False}, False, "is True in A and False in B"),
        ({"model": "a.yaml"}, {"model": "a.yaml", "pretrained": "yolov8n.pt"}, False, "B from yolov8n.pt"),
        ({"model": "a.yaml"}, {"model": "a.yaml", "pretrained": False}, None, "A started from fresh weights; B from f"),
        ({"model": "yolov8n.pt"}, {"model": "yolov8n.pt"}, None, "tensors cannot be counted"),
    ],
    ids=str,
)
def test_arguments_tell_of_a_start_where_no_weights_are(mine, theirs, ok, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = [shared(tmp_path / name, rising(8, 30), **values) for name, values in (("a", mine), ("b", theirs))]
    said, detail = finding(audit(*pair), "pretrained")
    assert (said, words in detail) == (ok, True), detail


def test_two_fresh_starts_are_no_more_than_a_caveat(pair):
    for run in pair:
        forget_start(run)
        change_arguments(run, model="yolo11n.yaml")
    assert finding(audit(*pair, evaluate=False), "pretrained")[0] is None


def test_what_the_host_noted_counts_more_than_the_arguments(trained, pair):
    # As after `YOLO("yolo11n.yaml").load("start.pt")`, of which the arguments of recent releases say nothing.
    change_arguments(pair[0], model="yolo11n.yaml")
    for kind in ("best", "last"):
        change_weights(pair[0], kind, lambda c: setattr(c["model"], "pt_path", str(trained / "start.pt")))
    ok, detail = finding(audit(*pair, evaluate=False), "pretrained")
    assert ok, detail


# Data ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def other_data(trained, pair, tmp_path) -> Path:
    """A copy of the data on which `b` says it was trained."""
    shutil.copytree(trained / "data", tmp_path / "data", ignore=shutil.ignore_patterns("*.cache"))
    file = tmp_path / "data" / "data.yaml"
    described = yaml.safe_load(file.read_text())
    described.pop("path", None)  # and so it is the file's own folder
    file.write_text(yaml.safe_dump(described))
    change_arguments(pair[1], data=str(file))
    return tmp_path / "data"


def test_data_is_compared_by_content(other_data, pair):
    ok, detail = finding(audit(*pair, evaluate=False), "data")
    assert ok
    assert "hold the same images" in detail
    (other_data / "labels" / "train" / "0003.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    found = audit(*pair, evaluate=False)
    ok, detail = finding(found, "data")
    assert not ok
    assert detail.endswith(f"B: {other_data / 'data.yaml'}; they differ in labels/train/0003.txt")
    assert with_state(found, False) == {"data"}
    assert not list(other_data.rglob("*.cache"))


def test_data_that_is_not_here_is_not_downloaded(other_data, pair, tmp_path, drawn_pair):
    shutil.rmtree(other_data / "images")
    script = f"from pathlib import Path; Path({str(tmp_path / 'downloaded')!r}).touch()"
    described = yaml.safe_load((other_data / "data.yaml").read_text()) | {"download": script}
    (other_data / "data.yaml").write_text(yaml.safe_dump(described))
    for run in pair:
        change_arguments(run, data=str(other_data / "data.yaml"))
        for kind in ("best", "last"):
            change_weights(run, kind, lambda c: c["train_args"].update(data="nowhere.yaml"))
    found = audit(*pair)
    assert not (tmp_path / "downloaded").exists()
    assert finding(found, "data")[0] is None
    assert finding(found, "evaluator")[1].startswith("not evaluated here (the data is not here: say where)")
    assert found.images is None


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: shutil.rmtree(b), "b is no folder; name a folder such as runs/detect/train"),
        (lambda b: (b / "args.yaml").unlink(), "b is no run of Ultralytics: it has no args.yaml"),
        (lambda b: (b / "args.yaml").write_text("a: [b"), "results.csv that cannot be read: while parsing"),
        (lambda b: (b / "args.yaml").write_text("task: detect"), "does not hold the arguments of a training"),
        (lambda b: change_arguments(b, task="segment"), "is a run of 'segment train', and only 'detect train'"),
        (lambda b: change_arguments(b, mode="val"), "is a run of 'detect val', and only"),
        (lambda b: (b / "results.csv").write_text(f"epoch,{COLUMN}\n1,much\n"), "cannot be read: could not convert"),
    ],
    ids=["folder", "no args", "args damaged", "other args", "task", "mode", "table damaged"],
)
def test_what_is_no_run_is_refused(change, message, pair):
    change(pair[1])
    with pytest.raises(UserError, match=message):
        audit(*pair, evaluate=False)


def test_the_same_folder_twice_is_refused(pair):
    with pytest.raises(UserError, match="there is no device 'cuda:99': torch sees"):
        audit(*map(str, pair), device="cuda:99")
    with pytest.raises(UserError, match="are the same folder; name the folders of two runs"):
        audit(pair[0], pair[0] / ".." / "a")


def test_data_that_does_not_fit_is_refused(other_data, pair, drawn_pair, tmp_path):
    file = other_data / "data.yaml"
    drawn_pair["a"] = Detections(
        **{**vars(rated(1, bare=1)), **{k: v[:0] for k, v in vars(rated(1, bare=1)).items() if "true" in k}}
    )
    with pytest.raises(UserError, match=r"no image of val in .* has an object; give data with labels"):
        audit(*pair, data=str(file))
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"names": ["one", "two", "three"]}))
    with pytest.raises(UserError, match=r"has the classes .*'one', .*; give the data of the runs"):
        audit(*pair, data=str(file))
    with pytest.raises(UserError, match=r"the data file 'nowhere.yaml' cannot be used"):
        audit(*pair, data="nowhere.yaml")
