"""The plans of studies/paper: each can be read, says what it costs, and runs to its report on a few images."""

import re
import shutil
from concurrent.futures import Future
from pathlib import Path

import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("timm", reason="timm is not installed")

from typer.testing import CliRunner

from foveal import results
from foveal.cli.app import app
from foveal.study import cell
from foveal.study import plan as plans
from foveal.study.demo import draw_data
from helpers import swept

FOLDER = Path(__file__).parents[2] / "studies/paper"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml") if "arms" in plans.load(path))
ONE = {
    "cifar100.yaml": ["--model", "timm:resnet50(stem=cifar, zero_init_last=False)"],
    "coco.yaml": ["--model", "yolo11n.yaml"],
}


class InThisProcess:
    """An executor that spares its cells the start of a process; that one can be killed is tested elsewhere."""

    slots = 1

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, command: list[str], log: Path) -> Future:
        done = Future()
        cell.run(Path(command[-2]), command[-1])
        done.set_result(0)
        return done


def called(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["study", "run", *arguments])
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output


def read(name: str) -> list[plans.Plan]:
    return [plans.Plan.of(written, FOLDER, look=False) for written in plans.each(plans.load(FOLDER / name))]


def test_there_are_four():
    assert FILES == ["cifar100.yaml", "coco.yaml", "imagenet.yaml", "visdrone.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_a_plan_compares_what_its_paper_does(name):
    """Enough seeds to call something a help, no arm without a figure but in models that the paper lacks."""
    for plan in read(name):
        claims = sum(arm.role == "treatment" for arm in plan.arms)
        assert claims * 2.0 ** (1 - len(plan.seeds)) <= 0.05 < claims * 2.0 ** (2 - len(plan.seeds))
        assert plan.paper.notes
        assert {"train", plan.split} <= plan.paper.images.keys()
        names = [arm.spec.name if arm.spec else arm.name for arm in plan.arms]
        assert names[-1] == "ema"
        assert set(plan.paper.figures) <= set(names)
        assert not plan.paper.figures or {"baseline", "ema"} <= plan.paper.figures.keys()
        assert all(arm.spec.start == "paper" for arm in plan.arms if arm.spec)


def test_the_recipe_of_cifar_is_the_papers():
    for plan in read("cifar100.yaml"):
        rates = [plan.train["lr0"] * plan.recipe.rate(epoch, 200) for epoch in (0, 59, 60, 119, 120, 159, 160, 199)]
        assert rates == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008])
        # The host divides the decay by nbs and multiplies it by the batch.
        assert plan.train["nbs"] == plan.train["batch"] == 128
        assert (plan.train["momentum"], plan.train["weight_decay"], plan.train["epochs"]) == (0.9, 5e-4, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", swept(FILES))
def test_a_plan_says_what_it_costs_and_downloads_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.hosts.ultralytics.dataset.DATASETS_DIR", tmp_path)
    small = [] if name == "cifar100.yaml" else ["imgsz=64", "batch=2"]
    said = called(str(FOLDER / name), "--dry-run", *ONE.get(name, ()), *small)
    (hours,) = re.findall(r"about ([\d,.]+) CPU hours by a measured step of each arm, ([\d,]+) images", said)
    assert float(hours[0].replace(",", "")) > 10
    assert int(hours[1].replace(",", "")) == read(name)[0].paper.images["train"]
    assert re.search(r"\d seeds find a difference of 1\.\d\d standard deviations", said)
    assert not list(FOLDER.glob("*/")) or not (FOLDER / name.removesuffix(".yaml")).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", swept(FILES))
def test_a_plan_is_rehearsed_to_its_report(name, tmp_path, request, monkeypatch):
    """On real images where they exist: CIFAR-100's for classifiers; detectors take drawn ones."""
    shutil.copy(FOLDER / name, tmp_path)
    shutil.copy(FOLDER / "yolo11n-p2.yaml", tmp_path)
    (plan,) = [plan for plan in read(name) if plan.model.endswith(ONE.get(name, ["", plan.model])[1])]
    if plan.task.name == "classify":
        data = shutil.copytree(request.getfixturevalue("cifar100"), tmp_path / "data")
        (data / "test").rename(data / plan.split)
        arguments = ["imgsz=32"]
    else:
        data = draw_data(tmp_path / "data", train=8, val=8)
        arguments = ["imgsz=64"]
    monkeypatch.setattr("foveal.executors.local.Local", InThisProcess)
    arguments += ["epochs=2", "workers=0", "--arms", plan.arms[-1].name, "--seeds", "2"]
    said = called(str(tmp_path / name), *ONE.get(name, ()), "--scale", "0.25", "--data", str(data), *arguments)
    folder = tmp_path / f"{name.removesuffix('.yaml')}-rehearsal"
    found = results.load(folder / "results.json")
    metric = plan.metric
    assert found.complete
    assert (found.task, found.scale, found.statistics.metric) == (plan.task.name, 0.25, metric.name)
    assert [arm.name for arm in found.arms] == ["baseline", plan.arms[-1].name]
    assert all(len(arm.scores[metric.key]) == len(arm.scores[metric.last]) == 2 for arm in found.arms)
    # A detector from fresh weights learns nothing in an epoch.
    assert {finding.check for finding in found.fairness if finding.ok is False} <= {"learned"}
    figures = [plan.paper.figures.get(key) for key in ("baseline", "ema")]
    assert [arm.paper and 100 * arm.paper for arm in found.arms] == pytest.approx(figures)
    assert bool(found.paper) == any(figures)
    assert "rehearsal" in said
    page = (folder / "report.html").read_text()
    assert all(figure is None or f">{figure}<" in page for figure in figures)
    if plan.task.name == "classify":
        ema, images = found.arms[1], found.arms[1].images
        assert [row.seed for row in ema.mcnemar] == [0, 1]
        assert len(ema.classes) == 10
        assert images.better + images.worse + images.equal == found.data.images == 10
        linked = [image.gates for image in (*images.won, *images.lost)]
        assert all(gate.startswith("gates/") for gate in linked)
