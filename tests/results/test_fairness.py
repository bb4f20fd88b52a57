"""Findings: each one true, broken, and where nobody can tell, on results made by hand."""

import dataclasses
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from foveal.evidence.averages import AGREEMENT
from foveal.hosts import Inherited
from foveal.results import Finding, differing
from foveal.results.fairness import OWN, apart, check
from foveal.study import Arm, Plan, Result
from foveal.surgery import Spec

MODEL, LARGER, FRESH = "yolo11n.pt", "yolo11s.pt", "yolo11n.yaml"
ARMS = {
    "baseline": Arm("baseline", "baseline", MODEL),
    "ema@neck": Arm("ema@neck", "treatment", MODEL, Spec("ema", places=("neck",))),
    "A/A": Arm("A/A", "control", MODEL, shift=1000),
    "one size up": Arm("one size up", "control", LARGER),
}
SOURCES = {MODEL: {"conv": "c", "bn": "b", "head": "of 80 classes"}, LARGER: {"conv": "C", "bn": "B"}, FRESH: {}}
EPOCHS = 2
ARGUMENTS = {"optimizer": "AdamW", "lr0": 0.001, "epochs": EPOCHS, "mosaic": 1.0}


def result(arm: Arm, pair: int, **changed) -> Result:
    """A result as a fair study has it: batches come from the seed alone, starts from model and seed."""
    seed = pair + arm.shift
    kept = {name: digest for name, digest in SOURCES[arm.model].items() if name != "head"}
    return Result(
        **{
            **{"arm": arm.name, "pair": pair, "seed": seed, "epochs": EPOCHS, "batch": 16, "resumed": 0},
            "scores": {"map": 0.4, "map50": 0.6, "map_last": 0.4, "map50_last": 0.6},
            "disagreement": 1e-9,
            "batches": [f"seed {seed}, epoch {epoch}" for epoch in range(EPOCHS)],
            "start": {**kept, "head": f"drawn from {seed}"} | ({"attention": "a"} if arm.spec else {}),
            **{"finite": True, "parameters": 5, "seconds": 1.0, "peak_bytes": None, "device": "cpu", "data": "d"},
            **{"versions": {"torch": "2.6", "python": "3.10"}, "finished": "2025-01-01T00:00:00+00:00"},
            **changed,
        }
    )


@pytest.fixture
def findings(tmp_path):
    """A function that checks a study of two pairs, some of its cells changed or (None) not finished."""

    def of(
        *arms: Arm,
        split: str = "test",
        chosen_on: str = "val",
        arguments: dict | None = None,
        given: dict | None = None,
        **cells: dict | None,
    ) -> dict[str, tuple[bool | None, str]]:
        arms = arms or tuple(ARMS.values())
        changed = {name.replace("_", " "): values for name, values in cells.items()}
        results, folders = {}, {}
        for arm in arms:
            for pair in (0, 1):
                key = f"{arm.name.partition('@')[0].replace('/', '')} {pair}"
                changes = changed.pop(key, {})
                if changes is None:
                    continue
                results[arm.name, pair] = result(arm, pair, **changes)
                folder = folders[arm.name, pair] = tmp_path / key
                folder.mkdir(exist_ok=True)
                written = {**ARGUMENTS, **{name: f"{name} of {key}" for name in OWN}, **(arguments or {}).get(key, {})}
                (folder / "args.yaml").write_text(yaml.safe_dump(written))
        assert not changed, "no such cells"
        plan = Plan(MODEL, "data.yaml", arms, (0, 1), split=split)
        planned = {arm.name: arm.train.get("epochs", EPOCHS) for arm in arms}
        found = check(plan, planned, results, folders, SOURCES, chosen_on, given=given or {})
        assert len({finding.check for finding in found}) == len(found)
        return {finding.check: (finding.ok, finding.detail) for finding in found}

    return of


def test_a_fair_study_breaks_nothing(findings):
    assert findings() == {
        "batches": (True, "all arms saw the same batches at each seed, in every epoch"),
        "seeds": (True, "no two seeds saw the same batches"),
        "epochs": (True, "all 2 epochs in every run, none stopped early"),
        "batch": (True, "16 images in every batch"),
        "optimizer": (True, "AdamW, lr0 0.001; all training arguments are the same"),
        "pretrained": (True, "pretrained tensors kept: 2/3 in A/A, baseline, ema@neck; 2/2 in one size up"),
        "start": (True, "every tensor shared with the baseline starts at the same value, at each seed"),
        "finite": (True, "all trained weights are finite"),
        "learned": (True, "mAP50-95 is above 0"),
        "agreement": (
            True,
            "mAP50-95 computed again from what is stored is Ultralytics' own, within 1e-09",
        ),
        "split": (True, "judged on test, which chose nothing"),
        "versions": (True, "the same versions everywhere"),
        "device": (True, "every run on cpu"),
        "resumed": (True, "no run was interrupted"),
    }


def test_images_that_are_trained_on_and_judged_are_a_caveat(tmp_path):
    files = {"train": ["a", "b"], "val": ["c", "d", "e"]}
    data = SimpleNamespace(root=tmp_path, images=lambda split: [tmp_path / split / name for name in files[split]])
    plan, digests = SimpleNamespace(folds=None, split="val", dataset=data), {"train/a": "1", "train/b": "2"}
    assert apart(plan, digests | {"train/b": "", "val/c": "3", "val/d": "", "val/e": "4"}) == []
    (found,) = apart(plan, digests | {"val/c": "3", "val/d": "2", "val/e": "1"})
    assert (found.check, found.ok) == ("apart", None)
    assert found.detail == "2 of 3 images of val are in train as well: every arm looks better than it is"


LONGER = Arm("2x epochs", "control", MODEL, train={"epochs": 2 * EPOCHS})


def test_an_arm_that_is_meant_to_differ_is_said_and_breaks_nothing(findings):
    trained = {"epochs": 2 * EPOCHS, "batches": [str(epoch) for epoch in range(2 * EPOCHS)]}
    cells = {
        f"2x_epochs_{pair}": {**trained, "batches": [f"{pair} {b}" for b in trained["batches"]]} for pair in (0, 1)
    }
    own = {"epochs": 2 * EPOCHS, "close_mosaic": 2 * EPOCHS}
    written = {f"2x epochs {pair}": own for pair in (0, 1)}
    found = findings(ARMS["baseline"], LONGER, arguments=written, **cells)
    assert found["epochs"] == (True, "all 2 or 4 epochs in every run, none stopped early")
    said = "AdamW, lr0 0.001; all other training arguments are the same; 2x epochs is meant to differ in epochs"
    assert found["optimizer"] == (True, said)
    assert [found[check][0] for check in ("batches", "seeds", "start")] == [True] * 3
    assert found["batches"][1] == "all arms saw the same batches at each seed, in every epoch, 2x epochs aside"
    written["2x epochs 1"] = {**own, "lr0": 0.002}
    assert findings(ARMS["baseline"], LONGER, arguments=written, **cells)["optimizer"] == (
        False,
        "training arguments differ: lr0",
    )
    cells["2x_epochs_0"] |= {"epochs": EPOCHS}
    found = findings(ARMS["baseline"], LONGER, arguments=written, **cells)["epochs"]
    assert found == (False, "not all epochs in every run: 2 of 4")


def test_a_declared_batch_and_a_part_that_is_replaced_are_no_unfairness(findings):
    smaller = Arm("batch=8", "treatment", MODEL, train={"batch": 8})
    replaced = Arm("mhsa", "treatment", MODEL, Spec("mhsa", places=("psa.attention",), replace=True))
    cells = {f"batch=8_{pair}": {"batch": 8, "batches": [f"eights of {pair}"] * EPOCHS} for pair in (0, 1)}
    cells |= {f"mhsa_{pair}": {"start": {"conv": "c", "head": f"drawn from {pair}"}} for pair in (0, 1)}
    written = {f"batch=8 {pair}": {"batch": 8} for pair in (0, 1)}
    found = findings(ARMS["baseline"], smaller, replaced, arguments=written, **cells)
    assert {check for check, (ok, _) in found.items() if ok is not True} == set()
    assert found["batch"] == (True, "16 images in every batch")
    assert found["pretrained"][1] == "pretrained tensors kept: 2/3 in baseline, batch=8; 1/3 in mhsa"
    cells["mhsa_1"] = {"start": {"head": "drawn from 1"}}  # one of them lost what the other kept
    assert findings(ARMS["baseline"], smaller, replaced, arguments=written, **cells)["pretrained"][0] is False


def test_arms_that_learned_nothing_are_no_answer(findings):
    nothing = {"scores": {"map": 0.0, "map50": 0.1, "map_last": 0.0, "map50_last": 0.1}}
    cells = {f"{arm}_{seed}": nothing for arm in ("baseline", "ema", "AA", "one_size_up") for seed in (0, 1)}
    assert findings(**cells)["learned"][0] is False
    del cells["ema_1"]
    assert findings(**cells)["learned"] == (True, "mAP50-95 is above 0")


def test_nothing_finished_yet():
    plan = Plan(MODEL, "data.yaml", tuple(ARMS.values()), (0, 1))
    assert check(plan, {}, {}, {}, SOURCES) == [Finding("evaluator", None, "nothing is finished yet")]


BROKEN = [
    ("batches", "ema_1", {"batches": ["seed 1, epoch 0", "another"]}, "arms saw different batches at seed 1"),
    ("batches", "ema_0", {"batches": ["seed 0, epoch 0"]}, "arms saw different batches at seed 0"),
    # Another model draws the same batches too.
    ("batches", "one_size_up_0", {"batches": ["another"] * 2}, "arms saw different batches at seed 0"),
    ("seeds", "AA_0", {"batches": ["seed 0, epoch 0", "seed 0, epoch 1"]}, "two seeds saw the same batches"),
    ("epochs", "baseline_1", {"epochs": 1}, "not all epochs in every run: 1 of 2"),
    ("batch", "AA_1", {"batch": 8}, "not the same in all runs: 16, 8"),
    ("finite", "ema_1", {"finite": False}, "1 runs: weights that are not finite"),
    (
        "agreement",
        "ema_1",
        {"disagreement": 2e-6},
        "1 runs: mAP50-95 computed again differs from Ultralytics' by up to 2e-06",
    ),
    ("agreement", "ema_1", {"disagreement": float("nan")}, "1 runs: mAP50-95 computed again differs from Ultralytics'"),
    ("versions", "AA_0", {"versions": {"torch": "2.7", "python": "3.10"}}, "not the same in all runs: "),
    ("device", "AA_0", {"device": "0"}, "not the same in all runs: cpu, gpu"),
    ("device", "AA_0", {"device": "0,1"}, "not the same in all runs: 2 gpus, cpu"),
    ("start", "ema_1", {"start": {"conv": "c", "bn": "b", "head": "drawn from 0"}}, "start elsewhere in ema@neck"),
    ("start", "ema_0", {"start": {"conv": "c", "bn": "B", "head": "drawn from 0"}}, "start elsewhere in ema@neck"),
    (
        "pretrained",
        "ema_0",
        {"start": {"conv": "c", "bn": "drawn", "head": "drawn from 0"}},
        "2/3 in A/A, baseline, ema@neck; 1/3 in ema@neck; 2/2 in one size up",
    ),
    ("pretrained", "one_size_up_1", {"start": {"conv": "C"}}, "2/2 in one size up; 1/2 in one size up"),
]


@pytest.mark.parametrize(("name", "cell", "changes", "said"), BROKEN)
def test_what_is_not_alike_is_found_and_only_that(findings, name, cell, changes, said):
    found = findings(**{cell: changes})
    ok, detail = found.pop(name)
    assert ok is False
    assert said in detail
    # A tensor that should be pretrained and is not starts elsewhere, too.
    others = {"start", "pretrained"} - {name} if "start" in changes else set()
    assert {check for check, (ok, _) in found.items() if ok is not True} <= others


def test_every_run_may_have_stopped_early_alike(findings):
    alike = {f"{name}_{pair}": {"epochs": 1} for name in ("baseline", "ema", "AA", "one_size_up") for pair in (0, 1)}
    assert findings(**alike)["epochs"] == (False, "not all epochs in every run: 1 of 2")


def test_agreement_is_bounded(findings):
    assert findings(ema_0={"disagreement": AGREEMENT})["agreement"][0]
    assert not findings(ema_0={"disagreement": AGREEMENT * 1.01})["agreement"][0]


def test_arguments_may_differ_where_cells_do_and_nowhere_else(findings):
    found = findings(arguments={"ema 1": {"lr0": 0.002, "mosaic": 0.0}, "AA 0": {"mixup": 0.5}})
    assert found["optimizer"] == (False, "training arguments differ: lr0, mixup, mosaic")
    assert {check for check, (ok, _) in found.items() if not ok} == {"optimizer"}
    assert differing([{"a": 1, "seed": 0}, {"a": 1, "seed": 1}]) == []
    assert differing([{"a": 1}, {"a": 1, "b": 0}, {}]) == ["a", "b"]


def test_an_arm_of_another_model_starts_where_that_model_does(findings):
    # Nothing of a larger model is compared with the baseline, and it keeps a share of its own.
    found = findings(ARMS["baseline"], ARMS["one size up"])
    assert found["start"] == (None, "no arm shares the baseline's model and seeds yet")
    assert found["pretrained"] == (True, "pretrained tensors kept: 2/3 in baseline; 2/2 in one size up")


def test_an_arm_with_other_seeds_is_not_compared_seed_by_seed(findings):
    found = findings(ARMS["baseline"], ARMS["A/A"])
    assert found["start"][0] is None
    assert found["batches"][0] is True
    assert found["seeds"][0] is True
    # Nor one whose baseline is not finished, until it is.
    assert findings(ARMS["baseline"], ARMS["ema@neck"], baseline_0=None, ema_1=None)["start"][0] is None
    assert findings(ARMS["baseline"], ARMS["ema@neck"], baseline_0=None)["start"][0] is True


def test_fresh_weights_have_nothing_to_keep(findings):
    fresh = {name: dataclasses.replace(ARMS[name], model=FRESH) for name in ("baseline", "ema@neck")}
    found = findings(*fresh.values())
    assert found["pretrained"] == (None, "every arm starts from fresh weights")
    assert found["start"][0] is True
    elsewhere = findings(*fresh.values(), ema_0={"start": {"head": "drawn from 7"}})
    assert elsewhere["start"] == (False, "tensors shared with the baseline start elsewhere in ema@neck")
    assert findings(fresh["baseline"], ARMS["one size up"])["pretrained"][1].endswith(
        ": 2/2 in one size up; none in baseline"
    )


def test_the_split_that_chose_the_weights_is_a_caveat(findings):
    assert findings(split="val")["split"] == (None, "judged on val, on which best.pt was chosen in every arm")
    chosen = (None, "judged on test, on which best.pt was chosen in every arm")
    assert findings(split="test", chosen_on="test")["split"] == chosen
    assert findings(split="val", chosen_on="test")["split"] == (True, "judged on val, which chose nothing")


def test_a_run_that_went_on_is_no_unfair_one(findings):
    """The host writes its arguments down before it sets the workers of a CPU to 0, and again where a run goes on."""
    found = findings(arguments={"ema 0": {"workers": 0}}, ema_0={"resumed": 1})
    assert found["optimizer"][0] is True


def test_a_resumed_run_is_exact_on_a_cpu_only(findings):
    went_on = "runs were interrupted and went on after their last whole epoch"
    assert findings(ema_0={"resumed": 2}, AA_1={"resumed": 1})["resumed"] == (True, f"2 {went_on}, exactly")
    devices = {
        f"{name}_{pair}": {"device": "0"} for name in ("baseline", "ema", "AA", "one_size_up") for pair in (0, 1)
    }
    on_gpu = findings(**devices | {"ema_0": {"device": "1", "resumed": 1}})
    assert on_gpu["resumed"] == (None, f"1 {went_on}")
    assert on_gpu["device"] == (True, "every run on gpu")


def test_a_study_under_way_is_judged_by_what_is_there(findings):
    found = findings(
        **{f"{name}_{pair}": None for name in ("ema", "AA", "one_size_up") for pair in (0, 1)}, baseline_1=None
    )
    assert {check for check, (ok, _) in found.items() if ok is not True} == {"start"}


def test_a_tensor_that_an_arm_lacks_is_not_shared(findings):
    start = {"conv": "c", "bn": "b", "attention": "a"}
    assert findings(ema_0={"start": start}, ema_1={"start": start})["start"][0] is True


def test_what_was_carried_into_another_model_starts_where_the_baseline_does(findings):
    """Row 1 of the file became row 4; the head is drawn for each model by itself, as the data have other classes."""
    grown = Arm("grown", "treatment", FRESH, weights=MODEL)
    names = {"conv": "conv", "4.bn": "bn", "head": "head"}
    digests = {new: SOURCES[MODEL][old] for new, old in names.items()}
    given = Inherited(MODEL, (3, 3), (30, 30), (1, 4), ((0, 0), (1, 4)), names, digests)
    start = {"conv": "c", "4.bn": "b", "bn": "drawn", "head": "drawn for it"}
    cells = {f"grown_{pair}": {"start": start} for pair in (0, 1)}
    found = findings(ARMS["baseline"], ARMS["ema@neck"], grown, given={"grown": given}, **cells)
    assert {check for check, (ok, _) in found.items() if ok is not True} == set()
    assert found["pretrained"][1] == "pretrained tensors kept: 2/3 in baseline, ema@neck; 2/3 in grown"
    cells["grown_1"] = {"start": {**start, "4.bn": "elsewhere"}}
    found = findings(ARMS["baseline"], grown, given={"grown": given}, **cells)
    assert found["start"] == (False, "tensors shared with the baseline start elsewhere in grown")
    assert found["pretrained"][0] is False
    # Of other weights than the baseline's nothing is shared with it.
    other = dataclasses.replace(grown, weights=LARGER)
    assert findings(ARMS["baseline"], other, given={"grown": given}, **cells)["start"][0] is None
