"""Studies on a host that trains in a second: the loop and what it survives, and that nobody knows Ultralytics."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import forks
import toyhost
from foveal.hosts import known
from foveal.report import write
from foveal.results import assemble
from foveal.study import Study
from foveal.view.study import Watched
from helpers import in_fresh_process, swept
from studies import kill_in_a_loop, values

PLAN = {"model": "net.toy", "data": "pictures", "arms": ["se(reduction=2)", "A/A"], "seeds": 2, "split": "val"}


@pytest.fixture(autouse=True)
def _only_the_toy(monkeypatch):
    monkeypatch.setattr(known, "HOSTS", ["toyhost"])
    monkeypatch.setattr(Study, "command", toyhost.command)


def prepared(folder: Path, **changes: object) -> Study:
    """Nothing trained yet; a cell takes a second or two of training."""
    toyhost.draw(folder / "pictures")
    return Study.prepare({**PLAN, "train": {"epochs": 4, "pause": 0.05}, **changes}, folder, folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "HOSTS", ["toyhost"])
        patch.setattr(Study, "command", toyhost.command)
        study = prepared(tmp_path_factory.mktemp("toy") / "study")
    assert runner(study).wait(120) == 0
    return study


def runner(study: Study) -> forks.Forked | subprocess.Popen:
    command = [sys.executable, toyhost.__file__, "run", str(study.folder)]
    with (study.folder / "runner.txt").open("a") as log:
        return forks.start(command, None, os.environ, log, log)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("rounds", swept([1, 3], "1"))
def test_killed_in_a_loop_it_ends_where_an_undisturbed_study_does(rounds, undisturbed, tmp_path):
    study = prepared(tmp_path)
    kills = kill_in_a_loop(study, runner, rounds=rounds, longest=0.3)  # in an epoch, while saving, ...
    assert kills > 2
    assert any(result.resumed for result in study.results().values())
    assert values(study) == values(undisturbed)
    assert not list(study.folder.rglob("resume.pt")), "finished cells keep no more than they need"


def test_two_runners_share_the_work(undisturbed, tmp_path):
    study = prepared(tmp_path, seeds=1)
    both = [runner(study) for _ in range(2)]
    assert [one.wait(120) for one in both] == [0, 0]
    assert values(study) == {where: value for where, value in values(undisturbed).items() if where[1] == 0}
    assert not any(result.resumed for result in study.results().values())


def test_a_study_is_reported_and_shown(undisturbed):
    found = assemble(undisturbed)
    assert found.complete
    assert found.task == "classify"
    assert [finding.check for finding in found.fairness if finding.ok is False] == []
    assert [arm.name for arm in found.arms] == ["baseline", "se(reduction=2)", "A/A"]
    assert found.arms[1].cost.parameters > found.baseline.cost.parameters
    assert all(path.is_file() for path in write(found, undisturbed.folder))
    shown = Watched(undisturbed.folder)
    assert {cell["state"] for cell in shown.data("progress")["cells"]} == {"finished"}
    image = shown.data("images", "1")["images"][0]["image"]
    assert shown.data("image", "1", "0", str(image))["photo"].startswith("picture/photo/")


def test_nothing_of_it_knows_ultralytics(undisturbed, tmp_path):
    """From the plan to the report, in a process in which Ultralytics cannot be imported."""
    code = f"""
import sys
sys.modules["ultralytics"] = None
sys.path.insert(0, {str(Path(toyhost.__file__).parent)!r})
from pathlib import Path
from foveal.hosts import known
known.HOSTS[:] = ["toyhost"]
from foveal.report import write
from foveal.results import assemble, before
from foveal.study import Study
from foveal.study.hours import forecast
from foveal.view.study import Watched
study = Study(Path({str(undisturbed.folder)!r}))
before(study.plan, study.results())
forecast(study.plan, "cpu")
write(assemble(study), Path())
print(Watched(study.folder).data("progress")["metric"])
"""
    assert in_fresh_process(code, tmp_path).splitlines()[-1] == "top-1 accuracy"
    assert (tmp_path / "report.html").is_file()


def test_a_plan_is_resolved_once(tmp_path, monkeypatch):
    """The training arguments are computed once, and the data set is described once, for all who ask."""
    study, asked = prepared(tmp_path), {"settings": 0, "data": 0}

    def counted(name: str):
        real = getattr(toyhost.HOST, name)

        def call(*given):
            asked[name] += 1
            return real(*given)

        return call

    host = toyhost.HOST.__class__(**vars(toyhost.HOST) | {name: counted(name) for name in asked})
    monkeypatch.setattr(toyhost, "HOST", host)
    study = Study(tmp_path)
    for arm in study.plan.arms:
        study.plan.complete(arm)
        study.plan.epochs(arm)
    study.states()
    study.news()
    _ = study.plan.dataset.names, study.plan.settings
    assert asked == {"settings": 1, "data": 1}
