"""One training on several devices: its processes, and what two of them on a CPU leave of a cell."""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import torch
from torch.utils.data import DistributedSampler

import ranked
from foveal import UserError, tensors
from foveal.hosts.ultralytics import ranks, recorder
from foveal.study import LOG, Study
from foveal.study.cell import LOCK
from helpers import until
from studies import PLAN, prepared, values


def free(path: Path) -> bool:
    """Whether no process holds the lock."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def asked(folder: Path, then: str) -> dict[str, str]:
    return {"folder": str(folder), "then": then}


def test_each_process_knows_its_place(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ranks.train(ranked.Ranked, asked(tmp_path, "end"), 12345, 3)
    for number in range(3):
        told = json.loads((tmp_path / f"{number}.json").read_text())
        assert told == dict(zip(ranked.PLACE, [str(number), str(number), "3", "127.0.0.1", "12345", "1"], strict=True))


@pytest.mark.parametrize(
    ("then", "error", "said"),
    [("refuse", UserError, "files were changed; start again"), ("fail", RuntimeError, "KeyError: 'gone'")],
)
def test_what_one_raises_ends_all(then, error, said, tmp_path):
    with pytest.raises(error) as raised:
        ranks.train(ranked.Ranked, asked(tmp_path, then), 1, 2)
    assert type(raised.value) is error
    assert str(raised.value) == said
    until(lambda: all(free(tmp_path / f"{number}.lock") for number in range(2)), 10)


@pytest.mark.parametrize("whom", ["one of them", "all that waits"])
def test_who_is_killed_takes_all_along(whom, tmp_path):
    code = f"""
import ranked
from foveal.hosts.ultralytics import ranks
ranks.train(ranked.Ranked, {asked(tmp_path, "die" if whom == "one of them" else "stay")}, 1, 2)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], env=env) as process:
        if whom == "all that waits":
            until(lambda: len([*tmp_path.glob("*.held")]) == 2)
            assert not any(free(tmp_path / f"{number}.lock") for number in range(2))
            process.kill()
        assert process.wait(60) == -signal.SIGKILL, "as it is for a training of one process"
    until(lambda: all(free(tmp_path / f"{number}.lock") for number in range(2)), 10)


# Of the host ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
import gloo
from foveal.hosts.ultralytics import recorder
from foveal.study import run
recorder.trainer = lambda model, task: gloo.DetectionTrainer
folder, key = Path(sys.argv[1]), sys.argv[2]
print(run(folder, key), file=sys.stderr)
"""


class Loader(torch.utils.data.DataLoader):
    def reset(self) -> None:
        pass


def read_by(rank: int, seed: int, epoch: int) -> list[int]:
    """What one of two devices reads in an epoch."""
    sampler = DistributedSampler(range(40), num_replicas=2, rank=rank)
    sampler.set_epoch(epoch)  # as the host does
    loader = Loader(range(40), batch_size=4, sampler=sampler, generator=torch.Generator())
    known = SimpleNamespace(args=SimpleNamespace(seed=seed), epoch=epoch)
    trainer = SimpleNamespace(
        begin_epoch=lambda: None,
        drawn=lambda rank=-1: recorder._Recording.drawn(known, rank),
        end_epoch=lambda: None,
    )
    return torch.cat(list(recorder._Epochs(loader, trainer))).tolist()


def test_devices_share_an_order_that_is_the_seeds_and_the_epochs_own(monkeypatch):
    found = {}
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        parts = []
        for rank in range(2):
            monkeypatch.setattr(recorder, "RANK", rank)
            parts.append(read_by(rank, seed, epoch))
        assert sorted(parts[0] + parts[1]) == [*range(40)], "each image is read by one of them"
        found[seed, epoch] = str(parts)
    assert len({*found.values()}) == 4, "the host's order would be that of the epoch, or of seed + epoch"


@pytest.mark.parametrize("changed", ["nothing", "digest", "peak"])
def test_what_is_noted_of_an_epoch_is_what_all_devices_saw(changed, monkeypatch):
    def noted(theirs: tuple[bytes, int]) -> tuple[str, int]:
        def gathered(into: list, mine: tuple[bytes, int]) -> None:
            into[:] = [mine, theirs]

        monkeypatch.setattr(recorder.distributed, "all_gather_object", gathered)
        trainer = SimpleNamespace(device=torch.device("cpu"), world_size=2, record={"peak_bytes": 1})
        trainer._digest = hashlib.blake2b(b"mine", digest_size=8)
        trainer._note_peak = functools.partial(recorder._Recording._note_peak, trainer)
        recorder._Recording.end_epoch(trainer)
        return trainer._digest.hexdigest(), trainer.record["peak_bytes"]

    monkeypatch.setattr(recorder, "_peak_bytes", lambda device: 5)
    assert noted((b"theirs", 3))[1] == 5
    other = (b"others" if changed == "digest" else b"theirs", 7 if changed == "peak" else 3)
    digest, peak = noted(other)
    assert (digest != noted((b"theirs", 3))[0]) is (changed == "digest")
    assert peak == (7 if changed == "peak" else 5)


def cell(study: Study) -> subprocess.Popen:
    """What trains the first cell of a study on two devices."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(study.folder), study.cells[0].key]
    folder = study.path(study.cells[0])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(command, cwd=study.folder, env=env, stdout=log, stderr=log)


def at_work(folder: Path) -> list[int]:
    """Processes that were started in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.host
@pytest.mark.seldom
@pytest.mark.sweep  # each of its processes imports torch by itself
def test_a_cell_on_two_devices(tmp_path):
    study = prepared(tmp_path, train={**PLAN["train"], "epochs": 1})
    folder = study.path(study.cells[0])
    assert cell(study).wait(600) == 0, (folder / LOG).read_text()[-3000:]
    (result,) = study.results().values()
    assert (result.resumed, result.epochs, result.batch, len(result.batches)) == (0, 1, 4, 1)
    assert result.seconds > 0
    assert (folder / LOG).read_text().count("Starting training") == 1, "the folder stays, which the host deletes"
    assert (folder / LOCK).is_file()


@pytest.mark.sweep
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_a_killed_cell_on_two_devices_ends_as_an_undisturbed_one_does(tmp_path):
    study, other = prepared(tmp_path / "a"), prepared(tmp_path / "b")
    folder = study.path(study.cells[0])
    with cell(study) as process:
        until((folder / "resume.pt").exists, 600)
        assert len(at_work(study.folder)) >= 3
        process.kill()
    until(lambda: not at_work(study.folder), 10)
    assert cell(study).wait(600) == 0, (folder / LOG).read_text()[-3000:]
    (result,) = study.results().values()
    assert (result.resumed, result.epochs, len({*result.batches})) == (1, 2, 2)
    assert cell(other).wait(600) == 0
    assert values(study) == values(other)
    trained = [torch.load(of.path(of.cells[0]) / "weights/last.pt", weights_only=False) for of in (study, other)]
    first, second = (tensors.digests(checkpoint["model"]) for checkpoint in trained)
    assert first == second
