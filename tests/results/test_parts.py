"""Arms on slices of the images, and what errors cost them, from averages that no study made."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from foveal.evidence import averages
from foveal.results import parts
from foveal.results.schema import ErrorType, Slicing
from foveal.verdict import two_level

SEEDS = range(6)
ARMS = [("baseline", "baseline"), ("a", "treatment"), ("b", "treatment"), ("A/A", "control")]
LABELS = (("time", "day"), ("time", "night"), ("camera", "north"))
INSIDE = np.array([np.arange(40) < 20, (np.arange(40) >= 20) & (np.arange(40) < 39), np.arange(40) < 9])


def finished(monkeypatch, averaged: dict, costs: dict | None = None, cut: object = True):
    """Finished cells as `parts` asks for them; what is averaged or costs is by the names of their folders."""
    monkeypatch.setattr(averages, "within", lambda folder, members, task: averaged[folder.name])
    monkeypatch.setattr(averages, "costs_of_errors", lambda folder, task: costs[folder.name])
    slices = SimpleNamespace(file="images.csv", digest="ab", labels=LABELS, members=lambda names: INSIDE)
    arms = [SimpleNamespace(name=name, role=role) for name, role in ARMS]
    return SimpleNamespace(
        study=SimpleNamespace(slices=slices if cut else None),
        plan=SimpleNamespace(arms=arms, task=None),
        truths=[
            SimpleNamespace(
                name=np.zeros(40, "U1"), objects=lambda images: {"small": 2 * int(images.sum()), "large": 1}
            )
        ],
        folders={(name, seed): Path("cells") / f"{name}-{seed}".replace("/", "") for name, _ in ARMS for seed in SEEDS},
        pairs=lambda arm: [*SEEDS],
    )


def drawn() -> dict:
    """By folder the averages on three slices, (3, 1 + 50)."""
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.01, (len(ARMS), 3, 51))
    return {
        f"{name}-{seed}".replace("/", ""): rng.normal(0.5, 0.02, (3, 1)) + images[index]
        for index, (name, _) in enumerate(ARMS)
        for seed in SEEDS
    }


def compared(averaged: dict, arm: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    each = np.array([averaged[f"{arm}-{seed}"][index] - averaged[f"baseline-{seed}"][index] for seed in SEEDS])
    return each[:, 0], each[:, 1:]


def test_slices_of_all_treatments_share_the_level_and_those_of_a_control_theirs(monkeypatch):
    averaged = drawn()
    found = parts.sliced(finished(monkeypatch, averaged))
    assert found.slicing == Slicing("images.csv", "ab", outside=1, fewest=10)
    wanted = {}
    for family in (["a", "b"], ["AA"]):
        where = [(arm, index) for arm in family for index in (0, 1)]
        wanted |= zip(where, two_level([compared(averaged, *one) for one in where]), strict=True)
    for name, _ in ARMS:
        assert [(of.column, of.name) for of in found.arms[name]] == [*LABELS]
        assert [(of.images, of.objects) for of in found.arms[name]] == [(20, 41), (19, 39), (9, 19)]
        for index, of in enumerate(found.arms[name]):
            mine = [averaged[f"{name}-{seed}".replace("/", "")][index, 0] for seed in SEEDS]
            assert of.average == pytest.approx(np.mean(mine))
            bounds = wanted.get((name.replace("/", ""), index), (None, None, None))
            assert (of.p, of.low, of.high) == bounds
            if name == "baseline":
                assert of.difference is None
            else:
                assert of.difference == pytest.approx(compared(averaged, name.replace("/", ""), index)[0].mean())
    assert parts.sliced(finished(monkeypatch, averaged, cut=False)) is None


def test_a_slice_on_which_a_run_has_no_average_has_no_difference_and_asks_nothing(monkeypatch):
    averaged = drawn()
    averaged["b-3"][1, 0] = np.nan
    found = parts.sliced(finished(monkeypatch, averaged)).arms
    of = found["b"][1]
    assert (of.average, of.difference, of.low, of.high, of.p) == (None,) * 5
    asked = [("a", 0), ("a", 1), ("b", 0)]
    wanted = two_level([compared(averaged, *one) for one in asked])
    assert [(found[arm][index].p, found[arm][index].low) for arm, index in asked] == [(p, low) for p, low, _ in wanted]


def test_errors_cost_what_they_cost_each_run_and_are_compared_by_pairs(monkeypatch):
    rng = np.random.default_rng(1)
    costs = {folder: dict(zip(("both", "missed"), rng.uniform(0, 0.3, 2).tolist(), strict=True)) for folder in drawn()}
    found = parts.errors(finished(monkeypatch, {}, costs))
    mine, theirs = (tuple(costs[f"{arm}-{seed}"]["missed"] for seed in SEEDS) for arm in ("b", "baseline"))
    assert found["b"][1] == ErrorType("missed", mine, tuple(np.subtract(mine, theirs).tolist()))
    assert found["baseline"][1] == ErrorType("missed", theirs, ())
    assert parts.errors(finished(monkeypatch, {}, costs | {"a-2": {}})) == {}, "not known of every run"
