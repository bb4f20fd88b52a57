"""Studies on a host that trains in a second: the loop and what it survives, and that nobody knows Ultralytics."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import forks
import toyhost
from foveal import UserError, executors, tensors
from foveal.cli import study as commands
from foveal.evidence import Answers
from foveal.executors import Slurm
from foveal.files import digest
from foveal.hosts import known
from foveal.report import write
from foveal.results import assemble
from foveal.results.schema import Progress, Slicing
from foveal.study import LOG, Study, run
from foveal.view.study import Watched
from helpers import in_fresh_process, swept
from studies import Forking, full, kill_a_worker_of_ray, kill_in_a_loop, values

PLAN = {"model": "net.toy", "data": "pictures", "arms": ["se(reduction=2)", "A/A"], "seeds": 2, "split": "val"}


@pytest.fixture(autouse=True)
def _only_the_toy(monkeypatch):
    monkeypatch.setattr(known, "HOSTS", ["toyhost"])
    monkeypatch.setattr(Study, "command", toyhost.command)


def sliced(folder: Path) -> str:
    """Of all pictures the class, of those of val also a camera: ten times the one, once the other, and once none."""
    files = sorted((folder / "pictures").rglob("*.png"))
    cameras = iter(["north"] * 10 + ["south", ""])
    rows = [(file, next(cameras) if file.parts[-3] == "val" else "north") for file in files]
    lines = [f"{file.parent.name},{file.relative_to(folder)},{camera}" for file, camera in rows]
    return "\n".join(["colour,file,camera", *lines])


def prepared(folder: Path, **changes: object) -> Study:
    """Nothing trained yet; a cell takes a second or two of training."""
    toyhost.draw(folder / "pictures")
    (folder / "images.csv").write_text(sliced(folder), encoding="utf-8")
    plan = {**PLAN, "model": Path("net.toy"), "train": {"epochs": 4, "pause": 0.05}, **changes}
    return Study.prepare(plan, str(folder), str(folder))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "HOSTS", ["toyhost"])
        patch.setattr(Study, "command", toyhost.command)
        study = prepared(tmp_path_factory.mktemp("toy") / "study", slices="images.csv")
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


def test_a_dry_run_counts_what_is_finished_of_the_plan_that_is_asked_for(undisturbed, capsys):
    train = {"epochs": 4, "pause": 0.05}
    for asked, count in (({}, 6), ({"arms": ["A/A"]}, 4), ({"arms": ["A/A", "eca"]}, 4), ({"seeds": 1}, 3)):
        plan = {**PLAN, "train": train, **asked}
        commands._forecast_only(commands._Asked(plan, undisturbed.folder, undisturbed.folder), "cpu")
        said = capsys.readouterr().out
        assert f" trainings of 4 epochs, {count} of them finished" in said
        assert ("how long the others will take: foveal study status" in said) is ("eca" in asked.get("arms", ()))


def test_two_runners_share_the_work(undisturbed, tmp_path):
    study = prepared(tmp_path, seeds=1)
    both = [runner(study) for _ in range(2)]
    assert [one.wait(120) for one in both] == [0, 0]
    assert values(study) == {where: value for where, value in values(undisturbed).items() if where[1] == 0}
    assert not any(result.resumed for result in study.results().values())


def test_a_training_on_two_devices_is_another_one(tmp_path):
    """What the host makes of them is asked in tests/hosts/test_ranks.py."""
    study, one = prepared(tmp_path / "two", seeds=1, devices_per_cell=2), prepared(tmp_path / "one", seeds=1)
    assert not {cell.key for cell in study.cells} & {cell.key for cell in one.cells}
    assert all(command.endswith("--device 0,1") for command in study.commands())
    assert not any("--device" in command for command in one.commands())
    with pytest.raises(UserError, match=r"device cpu is 1 where each training of .* has 2; --device 0,1"):
        run(study.folder, study.cells[0].key, "cpu")
    with pytest.raises(UserError, match=r"device 0,1 is 2 where each training of .* has 1; --device 0"):
        run(one.folder, one.cells[0].key, "0,1")
    with Forking(1, ("0", "1", "2", "3"), 2) as executor:
        study.run(executor, print)
    assert {result.device for result in study.results().values()} == {"0,1", "2,3"}
    found = {finding.check: finding for finding in assemble(study).fairness}
    assert (found["device"].ok, found["device"].detail) == (True, "every run on 2 gpus")
    assert found["batch"].detail == "6 images in every batch, an equal share on each of 2 devices"


def test_the_command_shares_devices_out_by_the_plan(tmp_path, monkeypatch):
    study, one = prepared(tmp_path / "two", devices_per_cell=2), prepared(tmp_path / "one")
    made = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(UserError, match=r"there is no device '0,1,2,99': torch sees .*; device cpu is always there"):
        commands._runner(one, "local", 1, "0,1,2,99", "", "")
    monkeypatch.setattr(tensors, "require_device", lambda _: None)  # the toy trains on any
    for name in ("Local", "Ray", "Slurm"):
        monkeypatch.setattr(executors, name, lambda *given, name=name: made.append((name, *given)))
    for which in (one, study):
        for name in ("local", "ray", "slurm"):
            commands._runner(which, name, None, "0,1,2,3", "", "time=240")
    jobs = executors.AT_ONCE
    assert made == [
        ("Local", 1, ["0", "1", "2", "3"], 1),
        ("Ray", None, None, 1),
        ("Slurm", one.folder / "slurm", {"time": 240}, jobs, 1),
        ("Local", 1, ["0", "1", "2", "3"], 2),
        ("Ray", None, None, 2),
        ("Slurm", study.folder / "slurm", {"time": 240}, jobs, 2),
    ]
    with pytest.raises(UserError, match="each training has 2 devices, and the device is cpu; --device 0,1"):
        commands._runner(study, "local", None, "cpu", "", "")
    commands._runner(one, "ray", 3, "cpu", "head:1", "")
    assert made[-1] == ("Ray", "head:1", 3, 0)


@pytest.mark.slow
def test_jobs_of_slurm_train_a_study_and_a_killed_one_goes_on(undisturbed, tmp_path, monkeypatch):
    """With submitit's own processes in the place of a cluster."""
    pytest.importorskip("submitit", reason="submitit is not installed").core.core.Job._results_timeout_s = 1
    study, said = prepared(tmp_path, seeds=1, arms=["A/A"]), []
    killed = f'test -e {tmp_path}/killed || {{ touch {tmp_path}/killed; kill -9 $$; }}; exec "$@"'
    monkeypatch.setattr(Study, "command", lambda self, cell: ["sh", "-c", killed, "sh", *toyhost.command(self, cell)])
    with Slurm(study.folder / "slurm", {"time": 60}, jobs=2, cluster="local") as executor:
        study.run(executor, said.append)
    assert values(study).items() <= values(undisturbed).items()
    assert sum("killed by SIGKILL" in sentence and sentence.endswith("going on") for sentence in said) == 1
    assert all((study.path(cell) / LOG).is_file() for cell in study.cells)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_on_ray_a_killed_worker_costs_an_epoch_at_most(undisturbed, tmp_path):
    study = prepared(tmp_path, seeds=1, arms=["A/A"], train={"epochs": 4, "pause": 0.2})
    kill_a_worker_of_ray(study)
    assert any(result.resumed for result in study.results().values())
    assert values(study).items() <= values(undisturbed).items()


def test_a_full_disk_loses_nothing_that_is_finished(undisturbed, small_disk):
    study, said = prepared(small_disk, seeds=1), []
    finished = study.path(study.cells[0])
    shutil.copytree(undisturbed.path(undisturbed.cells[0]), finished)
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    with full(small_disk, 2**14), Forking() as executor:
        study.run(executor, said.append)
    assert list(study.results()) == [("baseline", 0)]
    assert {file: file.read_bytes() for file in before} == before
    assert "No space left" in "".join(said)
    with Forking() as executor:
        study.run(executor, said.append)
    assert values(study) == {where: value for where, value in values(undisturbed).items() if where[1] == 0}


def test_a_report_of_a_study_under_way_says_so(undisturbed, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(undisturbed.folder, folder)
    study = Study(folder)
    (lost,) = [cell for cell in study.cells if cell.pair == 1 and cell.arm.spec]
    shutil.rmtree(study.path(lost))
    found = assemble(study)
    assert not found.complete
    assert found.cells == Progress(planned=6, finished=5)
    assert found.verdict is None
    write(found, folder, "zh")
    page = re.sub("<[^>]+>", "", (folder / "report.html").read_text())
    assert "计划 6 次训练，已完成 5 次；以上并非最终结论。" in page


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


def test_a_study_is_reported_by_slices(undisturbed):
    found = assemble(undisturbed)
    assert found.slicing == Slicing("images.csv", digest(undisturbed.folder / "images.csv"), outside=0, fewest=10)
    labels = [("colour", "blue"), ("colour", "green"), ("colour", "red"), ("camera", "north"), ("camera", "south")]
    # Of each image whether it is answered rightly, by arm and seed: what a slice's average is of.
    folders = undisturbed.folders(undisturbed.results())
    answers = {where: Answers.load(folder / "best.npz") for where, folder in folders.items()}
    names = answers["baseline", 0].name.tolist()
    inside = [[names[i].startswith(value) for i in range(12)] for _, value in labels[:3]]
    inside += [[i < 10 for i in range(12)], [i == 10 for i in range(12)]]
    for arm in found.arms:
        assert [(of.column, of.name, of.images, of.objects) for of in arm.slices] == [
            (*label, sum(of), None) for label, of in zip(labels, inside, strict=True)
        ]
        for of, images in zip(arm.slices, inside, strict=True):
            mine, theirs = (
                [answers[name, seed].scores()[images].mean() for seed in (0, 1)] for name in (arm.name, "baseline")
            )
            assert of.average == pytest.approx(np.mean(mine))
            if arm.role == "baseline":
                assert of.difference is None
            else:
                assert of.difference == pytest.approx(np.mean(mine) - np.mean(theirs))
            assert (of.p is None) == (of.low is None) == (arm.role == "baseline" or of.images < 10)


def test_slices_are_no_part_of_a_cell_and_are_told_of_before_the_training(undisturbed, tmp_path):
    study = prepared(tmp_path)
    assert [cell.key for cell in study.cells] == [cell.key for cell in undisturbed.cells]
    assert study.slices is None
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/images.csv").write_text("image;camera\nnobody.png;north\n")
    plan = {**PLAN, "data": "../pictures", "slices": "images.csv"}
    said = r"names no image of val: 'nobody\.png' for example, where an image is 'blue/0\.png'"
    with pytest.raises(UserError, match=said):
        Study.prepare(plan, tmp_path / "plans", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "plans/images.csv").write_text("image;camera\nblue/0.png;north\n")
    moved = Study.prepare(plan, tmp_path / "plans", tmp_path / "new")
    assert moved.plan.text["slices"] == "../plans/images.csv"
    assert moved.slices.labels == (("camera", "north"),)
    # A cell is trained also where nobody sees the file; a report says what it misses.
    (tmp_path / "plans/images.csv").unlink()
    assert Study(tmp_path / "new").cells == moved.cells
    with pytest.raises(UserError, match=r"slices: cannot read .*images.csv: No such file"):
        _ = Study(tmp_path / "new").slices


def test_what_is_averaged_of_a_cell_is_there_when_a_study_ends(undisturbed):
    cells = undisturbed.folders(undisturbed.results()).values()
    assert all((cell / "slices.npz").is_file() for cell in cells)


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
