"""Plans: what is read, what is refused and how, and which changes give a cell another name."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from foveal import UserError
from foveal.attention import ATTENTIONS
from foveal.surgery import Spec

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

from foveal.files import beside
from foveal.hosts.ultralytics import host
from foveal.study import Arm, Plan, load, loop, plan
from foveal.study import arms as arm_names
from foveal.study.plan import ELSEWHERE, FAIR, UNFAIR
from helpers import GOLDEN
from own import MY_EMA

TABLE = {"train": "images/train", "val": "images/val", "test": "images/test", "names": ["ant", "bee"]}


def write_data(root: Path) -> Path:
    """As much of a data set as the host looks for in its file."""
    for part in ("images/val", "images/test", "labels/test"):
        (root / part).mkdir(parents=True)
    (root / "images/test/0.jpg").touch()
    (root / "labels/test/0.txt").touch()
    (root / "data.yaml").write_text(yaml.safe_dump(TABLE))
    return root / "data.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where plans lie: beside a data set, data without a test split, and files that only look like models."""
    folder = tmp_path_factory.mktemp("study")
    write_data(folder)
    (folder / "untested.yaml").write_text(yaml.safe_dump({k: v for k, v in TABLE.items() if k != "test"}))
    for name in ("yolo11n.pt", "own/other.pt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def read(folder):
    """A function that reads the smallest plan with some keys changed; None takes one out."""

    def of(**changed) -> Plan:
        written = {"model": "yolo11n.pt", "data": "data.yaml", "arms": ["ema@neck"], **changed}
        return Plan.of({key: value for key, value in written.items() if value is not None}, folder)

    return of


PAPER = {"source": "a title", "figures": {"baseline": 70, "ema": 72.5}, "images": {"train": 100}, "notes": ["alone"]}


# Reading -----------------------------------------------------------------------------------------------------------


def test_a_plan_in_full(folder):
    file = folder / "plan.yaml"
    file.write_text(
        "model: yolo11n.pt\ndata: data.yaml\nseeds: [3, 1, 4]\nsplit: val\nmargin: 0.02\n"
        "arms:\n- A/A\n- EMA(groups=8)@P3,P4\n- baseline\n- {model: own/other.pt}\n- model: yolo11s.yaml\n"
        "- placebo\n- placebo(start=paper)@P3\n- One Size Up\n- se(start=paper)\n"
        "train: {epochs: 7, lr0: 0.02, mosaic: 0.0}\n"
    )
    found = Plan.read(file)
    model = str(folder / "yolo11n.pt")
    assert found.arms == (
        Arm("baseline", "baseline", model),
        Arm("EMA(groups=8)@P3,P4", "treatment", model, Spec("ema", {"groups": 8}, "identity", ("P3", "P4"))),
        Arm("own/other.pt", "treatment", str(folder / "own/other.pt")),
        Arm("yolo11s.yaml", "treatment", "yolo11s.yaml"),
        Arm("placebo(start=paper)@P3", "control", model, Spec("placebo", {}, "paper", ("P3",))),
        Arm("se(start=paper)", "treatment", model, Spec("se", {}, "paper", ("neck",))),
        Arm("A/A", "control", model, shift=1000),
        Arm("placebo", "control", model, Spec("placebo", places=("P3", "P4"))),
        Arm("one size up", "control", "yolo11s.pt"),
    )
    assert (found.model, found.data) == (model, str(folder / "data.yaml"))
    assert (found.seeds, found.split, found.margin) == ((3, 1, 4), "val", 0.02)
    assert found.train == {**FAIR, "epochs": 7, "lr0": 0.02, "mosaic": 0.0}
    assert found.text == yaml.safe_load(file.read_text())


def test_what_a_plan_need_not_say(read):
    found = read()
    assert (found.seeds, found.split, found.margin, found.train) == ((0, 1, 2, 3, 4, 5), "test", 0.005, FAIR)
    assert found.text["split"] == "test"  # which a study keeps even if a test split is added later
    assert read(data="untested.yaml").split == "val"
    assert found.looks == (6,)
    # As few as can tell anything, for so many treatments.
    assert len(read(arms=["ema@neck", "se@neck", "A/A"], seeds=None).seeds) == 7
    assert read(seeds=2).seeds == (0, 1)
    assert (read(seeds="6..24").seeds, read(seeds="6..24").looks) == (tuple(range(24)), (6, 8, 12, 16, 24))
    assert read(arms=["ema@neck", "se@neck"], seeds="6..12").looks == (7, 12)
    assert read(seeds=1000).seeds[-1] == 999
    assert read(arms="ema@neck,P3, A/A").arms == read(arms=["ema@neck,P3", "a/a"]).arms


@pytest.mark.parametrize("name", ["A/A", "a/a", "placebo", "PLACEBO", "one size up", "One Size UP", "2X epochs"])
def test_controls_are_known_in_any_case(read, name):
    (_, control) = read(arms=[name]).arms
    assert (control.role, control.name.lower()) == ("control", name.lower())
    assert control.spec is None or control.spec.places == ("neck",)


def test_twice_as_many_epochs(read):
    found = read(arms="A/A,2x epochs,ema@neck", train={"epochs": 7, "lr0": 0.02})
    assert {arm.name: found.epochs(arm) for arm in found.arms} == {
        **dict.fromkeys(("baseline", "A/A", "ema@neck"), 7),
        "2x epochs": 14,
    }
    assert found.arguments(found.arms[-1]) == {**FAIR, "epochs": 14, "lr0": 0.02}
    fourteen = read(arms="A/A,ema@neck", train={"epochs": 14, "lr0": 0.02})
    names = {cell.arm.name: cell.key.rpartition("-")[2] for cell in found.cells("data") if cell.pair == 0}
    baseline = next(cell.key.rpartition("-")[2] for cell in fourteen.cells("data"))
    assert names["2x epochs"] == baseline != names["baseline"]
    assert read(arms="2x epochs").epochs(read(arms="2x epochs").arms[1]) == 200  # the host's own hundred, twice


@pytest.mark.parametrize(
    ("model", "larger"),
    [
        ("yolo11n.yaml", "yolo11s.yaml"),
        ("yolo11s.pt", "yolo11m.pt"),
        ("yolov8m-seg.pt", "yolov8l-seg.pt"),
        ("yolo26l-pose.yaml", "yolo26x-pose.yaml"),
        ("my3n.yaml", "my3s.yaml"),
        ("weights.v2/yolo12n.pt", "yolo12s.pt"),
        *((name, None) for name in ("yolo11x.pt", "yolo11.yaml", "mine.pt", "n.pt", "yolo11n-ema.best.pt")),
    ],
)
def test_one_size_up(read, model, larger):
    if larger:
        assert read(model=model, arms=["one size up"]).arms[1].model == larger
        return
    with pytest.raises(UserError, match=r"no name one size up from .*; write the arm as \{model: yolo11s.pt\}"):
        read(model=model, arms=["one size up"])


def test_one_size_up_lies_beside_the_model_if_anywhere(tmp_path):
    data = str(write_data(tmp_path))
    for name in ("yolo11n.pt", "yolo11n.yaml"):
        (tmp_path / name).touch()
    written = {"model": "yolo11n.pt", "data": data, "arms": ["one size up"]}
    assert Plan.of(written, tmp_path).arms[1].model == "yolo11s.pt"
    # The host's own file of this name would be of another architecture than one that lies here.
    assert Plan.of({**written, "model": "yolo11n.yaml"}, tmp_path).arms[1].model == str(tmp_path / "yolo11s.yaml")
    (tmp_path / "yolo11s.pt").touch()
    assert Plan.of(written, tmp_path).arms[1].model == str(tmp_path / "yolo11s.pt")


words = st.sampled_from(["neck", "P3", "backbone.P4", "sppf", "16", "-2", "paper"])
names = st.sampled_from([n for cls in ATTENTIONS.values() for n in (cls.card.name, cls.__name__, *cls.card.aliases)])
values = st.sampled_from(["8", "0.5", "paper", "(1, 2)", "[3,5]", "(1,2,3)", "None"])
arguments = st.lists(st.tuples(st.sampled_from(["groups", "k", "start"]), values).map("=".join), max_size=3)
written_specs = st.builds(
    lambda name, inside, comma, at: (
        name + (f"({comma.join(inside)})" if inside else "") + ("@" + ",".join(at)) * bool(at)
    ),
    *(names, arguments, st.sampled_from([",", ", "]), st.lists(words, max_size=3)),
)
others = st.sampled_from(["baseline", "A/A", "a/a", "placebo", "Placebo", "One size up", "yolo11s.pt", "runs/my.yaml"])


@given(st.lists(written_specs | others, max_size=6), st.sampled_from([",", ", ", " , "]))
@example(["ema@neck", "EMAttention", "CA@P3", "One Size Up"], ",")
@example(["msda(a=1, b=(2, 3))@neck,P3", "msda(b=(2, 3), a=[4, 5])"], ",")
def test_arms_in_one_text_come_back(arms, comma):
    assert arm_names.split(comma.join(arms)) == arms


# Refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 3}, "a plan has no key 'seed'; did you mean 'seeds'?"),
        ({"modle": "x"}, "no key 'modle'; did you mean 'model'?"),
        ({3: 4}, "no key 3; did you mean"),
        *(({key: None}, f"does not say {key!r}; {key}: ") for key in ("model", "data", "arms")),
        *(({key: ""}, f"does not say {key!r}; {key}: ") for key in ("model", "data", "arms")),
        ({"arms": []}, "does not say 'arms'; arms: [ema@neck]"),
        *(({key: 5}, f"{key}: 5 is not the name of a file") for key in ("model", "data")),
        ({"model": "yolo11n"}, "'yolo11n' is neither a .pt file nor a model YAML; model: yolo11n.pt"),
        ({"model": "x" * 300 + ".pt"}, "too long"),
        ({"data": "a\0b"}, "cannot look for 'a\\x00b'"),
        ({"data": "nowhere.yaml"}, "the data file 'nowhere.yaml' cannot be used"),
        *(
            ({"seeds": seeds}, f"seeds: {seeds!r} is no number of seeds, no range such as 6..24 and no list")
            for seeds in (0, -1, 1001, 10**20, True, 2.0, "6", [], [1.0], [True], [-1], [1000], [[1]], {"a": 1}, ["0"])
        ),
        ({"seeds": [0, 1, 0]}, "seeds: [0, 1, 0] says a seed twice"),
        ({"seeds": "24..6"}, "seeds: '24..6' does not rise from 2 or more to below 1000; seeds: 6..24"),
        ({"seeds": "1..6"}, "seeds: '1..6' does not rise"),
        ({"seeds": "6..1000"}, "seeds: '6..1000' does not rise"),
        *(
            ({"margin": margin}, f"margin: {margin!r} is not a difference of mAP50-95 between 0 and 1; margin: 0.005")
            for margin in (0.0, 1.0, -0.1, 1, "1e-3", True, [0.1], float("nan"), float("inf"))
        ),
        *(
            ({"split": split}, f"split: {split!r} is not a split of")
            for split in ("train", "dev", 0, False, ["val"], {})
        ),
        *(
            ({"devices_per_cell": count}, f"devices_per_cell: {count!r} is no number of devices; devices_per_cell: 2")
            for count in (0, -1, True, 2.0, "2")
        ),
        *(({"trust": trust}, f"trust: {trust!r} is neither true nor false; trust: true") for trust in (1, "yes", [])),
        (
            {"devices_per_cell": 3, "train": {"batch": 16}},
            "batch=16 of baseline gives 3 devices no equal shares; batch=15",
        ),
        (
            {"devices_per_cell": 2, "arms": [{"spec": "ema", "train": {"batch": 7}}], "train": {"batch": 4}},
            "gives 2 devices no equal shares; batch=6",
        ),
        ({"split": "test", "data": "untested.yaml"}, "split: 'test' is not a split of"),
        *(({"train": train}, f"train: {train!r} is not a mapping") for train in ("epochs=5", ["epochs"], [], 0, False)),
        ({"train": {"epohcs": 5}}, "'epohcs' is not a valid YOLO argument. Similar arguments are i.e. ['epochs=100'"),
        ({"train": {"epochs": "five"}}, "'epochs=five' is of invalid type"),
        ({"train": {"lr0": "1e-3"}}, "'lr0=1e-3' is of invalid type"),
        ({"train": {1: 2}}, "training arguments: "),
        ({"train": {"freeze": yaml.safe_load("2020-01-01")}}, "holds more than numbers and words"),
        *(({"train": {key: 1}}, f"{key!r} is not an argument of train in a plan") for key in ELSEWHERE),
        ({"recipe": {"padding": 4}}, "recipe: padding is for the images of classifiers"),
        ({"recipe": {"step": [0.5]}}, "a recipe has no key 'step'; did you mean 'steps'?"),
        *(({"rehearsal": share}, f"rehearsal: {share!r} is not a share") for share in (0.0, 1.0, 1, "0.1", [0.5])),
        *(
            ({"paper": {**PAPER, **wrong}}, "is not what a paper reports; paper: {source: a title")
            for wrong in (
                *({"source": 3}, {"figures": {"ema": "80"}}, {"figures": [80]}, {"images": {"all": 5}}, {"notes": [1]}),
                *({"images": {"train": 0.5}}, {"year": 2023}, {"notes": 5}),
            )
        ),
        ({"paper": "a title"}, "is not what a paper reports"),
        ({"arms": {"ema": 1}}, "arms: {'ema': 1} is not a list"),
        ({"arms": 5}, "arms: 5 is not a list; arms: [ema@neck, A/A, placebo]"),
        ({"arms": ["emma@neck"]}, "no attention is named 'emma'; did you mean 'ema'?"),
        ({"arms": ["ema(group=8)"]}, "ema has no argument 'group'"),
        ({"arms": ["ema(("]}, "cannot read 'ema(('"),
        *(
            ({"arms": [arm]}, f"cannot read the arm {arm!r}; write for example ema@neck, A/A, {{model: yolo11s.pt}} or")
            for arm in (5, None, ["ema"], {}, {"model": 5}, {"spec": 5}, {"train": 3}, {1: 2}, {"train": {1: 2}})
        ),
        ({"arms": [{"model": "ema@neck"}]}, "the arm {'model': 'ema@neck'} names no model: 'ema@neck'"),
        ({"arms": [{"spec": "ema@neck", "seeds": 3}]}, "the arm 'ema@neck seeds=3': "),
        ({"arms": [{"spec": "ema@neck", "batch": 0}]}, "the arm 'ema@neck batch=0': batch=0 cannot be compared"),
        ({"arms": [{"lr0": 0.1, "train": {"lr0": 0.2}}]}, "says lr0 twice"),
        ({"arms": [{"spec": "ema@neck"}, "ema"]}, "the arm 'ema' stands in the plan twice, first as 'ema@neck'"),
        ({"arms": ["ema", {"train": {}}]}, "stands in the plan twice"),
        *(({"arms": arms}, "nothing to compare: the only arm is the baseline") for arms in (["baseline"], "baseline")),
        ({"arms": ["ema@neck", "ema@neck"]}, "the arm 'ema@neck' stands in the plan twice; leave one out"),
        ({"arms": ["A/A", "a/a"]}, "the arm 'A/A' stands in the plan twice; leave one out"),
        # The same training under two names would be counted as two comparisons.
        ({"arms": ["ema@neck", "EMA"]}, "the arm 'EMA' stands in the plan twice, first as 'ema@neck'"),
        ({"arms": ["ema", "ema(start=identity)"]}, "'ema(start=identity)' stands in the plan twice, first as 'ema'"),
        ({"arms": ["placebo", "placebo@neck"]}, "the arm 'placebo' stands in the plan twice, first as 'placebo@neck'"),
        ({"arms": ["ema", {"model": "yolo11n.pt"}]}, "'yolo11n.pt' stands in the plan twice, first as 'baseline'"),
        ({"arms": ["one size up", "yolo11s.pt"]}, "'one size up' stands in the plan twice, first as 'yolo11s.pt'"),
    ],
)
def test_a_refusal_says_what_was_given_and_what_works(read, changed, said):
    with pytest.raises(UserError) as refused:
        read(**changed) if all(isinstance(key, str) for key in changed) else Plan.of(changed)
    assert said in str(refused.value)
    assert refused.value.message[0] not in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert refused.value.hint


def test_arms_with_arguments_of_their_own(read):
    written = [
        {"model": "yolo11s.pt", "imgsz": 960},
        {"imgsz": 960},
        {"spec": "ema@neck", "train": {"lr0": 0.002}, "batch": 8},
        {"model": "own/other.pt", "spec": "eca"},
        "ema@neck",
    ]
    plan = read(arms=written)
    named = ["yolo11s.pt imgsz=960", "imgsz=960", "ema@neck lr0=0.002 batch=8", "own/other.pt eca", "ema@neck"]
    assert [arm.name for arm in plan.arms[1:]] == named
    sizes = [plan.complete(arm)["imgsz"] for arm in plan.arms]
    assert sizes == [640, 960, 960, 640, 640, 640]
    assert (plan.complete(plan.arms[3])["lr0"], plan.complete(plan.arms[5])["lr0"]) == (0.002, 0.001)
    assert str(plan.arms[4].spec) == "eca(start=identity)@neck"
    assert {arm.role for arm in plan.arms[1:]} == {"treatment"}
    keys = [cell.key for cell in plan.cells("data") if cell.seed == 0]
    assert len(set(keys)) == 6
    assert keys == [cell.key for cell in read(arms=written).cells("data") if cell.seed == 0]


def test_a_plan_repeats_what_a_paper_reports(read):
    found = read(paper=PAPER, arms=["ema(groups=8)@neck", "se@neck"])
    assert [found.paper.figure(arm) for arm in found.arms] == [0.7, 0.725, None]
    assert found.paper.notes == ("alone",)
    assert read().paper is None


def test_a_file_of_several_models_is_a_plan_of_each():
    figures = {"a.pt": {"baseline": 1}, "b.pt": {"baseline": 2}}
    written = {"model": ["a.pt", "b.pt", "c.pt"], "seeds": 3, "paper": {**PAPER, "figures": figures}}
    found = [*plan.each(written)]
    assert [(one["model"], one["seeds"], one["paper"]["figures"]) for one in found] == [
        ("a.pt", 3, {"baseline": 1}),
        ("b.pt", 3, {"baseline": 2}),
        ("c.pt", 3, {}),
    ]
    # One of them alone has its own figures, too.
    (alone,) = plan.each({**written, "model": "b.pt"})
    assert alone["paper"]["figures"] == {"baseline": 2}
    assert [*plan.each({"model": "a.pt", "paper": PAPER})] == [{"model": "a.pt", "paper": PAPER}]
    assert [*plan.each({"model": []})] == [{"model": []}]


def test_null_stands_for_what_is_not_said(folder):
    written = {"model": "yolo11n.pt", "data": "data.yaml", "arms": ["ema"], "train": None, "split": None}
    assert (Plan.of(written, folder).train, Plan.of(written, folder).split) == (FAIR, "test")


def test_a_test_split_without_labels_is_no_default(tmp_path):
    data = write_data(tmp_path)
    written = {"model": "yolo11n.yaml", "data": str(data), "arms": ["ema"]}
    assert Plan.of(written).split == "test"
    (tmp_path / "labels/test/0.txt").unlink()
    assert Plan.of(written).split == "val"
    assert Plan.of({**written, "split": "test"}).split == "test"


@pytest.mark.parametrize(
    "data", ["train: [", "- a list", "names: {a: b}\ntrain: x\nval: x", "train: x\nval: 2020-13-45"]
)
def test_a_data_file_that_is_none(read, tmp_path, data):
    (tmp_path / "data.yaml").write_text(data)
    with pytest.raises(UserError):
        read(data=str(tmp_path / "data.yaml"))


@pytest.mark.parametrize("changed", [{"data": "own"}, {"arms": ["ema(groups={[]: 1})"]}])
def test_a_folder_without_data_and_arguments_that_cannot_be(read, changed):
    with pytest.raises(UserError):
        read(**changed)


FORBIDDEN = {
    "patience": [50],
    "epochs": [True, 0],
    "batch": [-1, 0, 0.7, True],
    "imgsz": [float("nan"), 0, [640, 480], 640.0, True],
    "optimizer": ["auto", "Auto"],
    "time": [1.0],
    "save": [False],
    "val": [False],
    "deterministic": [False],
    "pretrained": ["yolo11n.pt"],
    "fraction": [0.5],
}


def test_every_unfair_argument_is_tried():
    assert FORBIDDEN.keys() == UNFAIR.keys()


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in FORBIDDEN.items() for value in values])
def test_what_would_be_unfair_is_refused(read, key, value):
    with pytest.raises(UserError, match=f"{key}=") as refused:
        read(train={key: value})
    if "cannot be compared" in str(refused.value):  # else the host has refused it already
        why, instead = UNFAIR[key][1:]
        assert str(refused.value) == f"{key}={value} cannot be compared: {why}; write {instead}"
    assert "cannot be compared" in str(refused.value) or value == 0


def test_what_a_refusal_offers_instead_is_accepted(read):
    for refuses, _, instead in UNFAIR.values():
        key, _, value = instead.partition("=")
        if value:
            value = yaml.safe_load(value)
            assert read(train={key: value}).train[key] == value
            assert not (key in UNFAIR and UNFAIR[key][0](value)), refuses


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"- a", b"text", b"5", b"a: [", b"\xff\xfe\x00", b"a: \x00", b"[" * 500, b"? [a]\n: b", b"a: *b"),
        *(
            b"a: 2020-13-45",
            b"a: !!bool maybe",
            b"a: !!timestamp x",
            b"a: !!int x",
            b"a: 0b_",
            b"a: !!python/name:os.x",
        ),
        b"a: " + b"9" * 5000,
        *(None, "folder"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path, content):
    file = tmp_path / "plan.yaml"
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"the plan .*plan\.yaml.*; write"):
        load(file)


def test_other_files_in_the_place_of_a_plan_are_named(tmp_path):
    (tmp_path / "my.yaml").write_text("train: images/train\nval: images/val\nnames: [a]\n")
    with pytest.raises(UserError, match=r"my.yaml is a data file and no plan; foveal study run --model .*my.yaml"):
        load(tmp_path / "my.yaml")
    with pytest.raises(UserError, match=r"best.pt is a model and no plan; foveal study run --model best.pt --data"):
        load(Path("best.pt"))


def test_a_file_beside_a_plan_has_no_steps_back_in_its_name(tmp_path):
    for folder in ("study", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data/my.yaml").touch()
    assert beside("../data/my.yaml", tmp_path / "study") == str(tmp_path / "data/my.yaml")
    (tmp_path / "data/deep").mkdir()
    (tmp_path / "jump").symlink_to(tmp_path / "data/deep")  # from where a step back leads elsewhere
    assert beside("../my.yaml", tmp_path / "jump") == str(tmp_path / "jump/../my.yaml")


# No slashes, dots or stars: as a data file, the host would look for such names all over the disk.
text = st.text(st.characters(codec="utf-8", exclude_characters="/\\.*?[]~:"), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text | st.dates() | st.sampled_from([10**9, "ema"])
nested = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))
keys = ["model", "data", "arms", "seeds", "train", "split", "margin"]
host_arguments = [
    "epochs",
    "imgsz",
    "lr0",
    "batch",
    "optimizer",
    "freeze",
    "classes",
    "amp",
    "mosaic",
    "cache",
    "scale",
]
drawn = st.one_of(
    st.tuples(st.sampled_from(keys), nested),
    st.tuples(
        st.just("train"), st.dictionaries(st.sampled_from([*host_arguments, *UNFAIR]) | scalars, nested, max_size=3)
    ),
    st.tuples(st.just("arms"), st.lists(nested | written_specs | others, max_size=4) | text),
    st.tuples(st.just("seeds"), st.lists(st.integers(-1, 1001) | scalars, max_size=4)),
)


@settings(max_examples=200)
@given(drawn)
@example(("train", {"freeze": [{1: 2, "a": 3}]}))
def test_whatever_a_plan_says_it_is_read_or_refused(folder, said):
    written = {"model": "yolo11n.pt", "data": "data.yaml", "arms": ["ema@neck"], said[0]: said[1]}
    try:
        cells = Plan.of(written, folder).cells("digest")
    except UserError:
        return
    assert len({cell.key for cell in cells}) == len(cells) > 1


# Keys --------------------------------------------------------------------------------------------------------------


def keyed(found: Plan, digest: str = "data") -> dict[tuple[str, int], str]:
    cells = found.cells(digest)
    assert len({cell.key for cell in cells}) == len(cells) == len(found.arms) * len(found.seeds)
    assert [cell.pair for cell in cells] == [seed for seed in found.seeds for _ in found.arms]
    return {(cell.arm.name, cell.pair): cell.key for cell in cells}


def test_a_cell_is_an_arm_and_the_seed_it_draws_from(read):
    found = read(arms=["ema@neck", "A/A"], seeds=[0, 999])
    cells = found.cells("data")
    assert [(cell.arm.name, cell.pair, cell.seed) for cell in cells] == [
        *(("baseline", 0, 0), ("ema@neck", 0, 0), ("A/A", 0, 1000)),
        *(("baseline", 999, 999), ("ema@neck", 999, 999), ("A/A", 999, 1999)),
    ]
    assert not {c.seed for c in cells if c.arm.name == "A/A"} & {c.seed for c in cells if c.arm.name != "A/A"}
    for cell in cells:
        slug, seed, digest = cell.key.rsplit("-", 2)
        assert (slug, seed) == ({"A/A": "a"}.get(cell.arm.name, cell.arm.name.replace("@", "-")), str(cell.seed))
        assert len(digest) == 10


def test_keys_stay_as_they_are(read, monkeypatch):
    """With another one, each finished cell of every study would be trained again."""
    monkeypatch.setattr(plan, "versions", lambda: {"foveal": "1"})
    found = keyed(read(arms=["ema(groups=8)@neck", "A/A", "placebo"], seeds=1, train={"epochs": 5}))
    assert [*found.values()] == [
        *("baseline-0-ecf6ed4f34", "ema-groups-8-neck-0-3d32d1dd97", "a-1000-161312f83b", "placebo-0-c51c861413"),
    ]


def test_the_same_thing_written_otherwise_has_the_same_keys(read):
    once = keyed(read(train={"epochs": 5, "mosaic": 0.5}, margin=0.01, split="test"))
    for changed in (
        {"train": {"mosaic": 0.5, "epochs": 5}, "margin": 0.02},
        {"train": {"mosaic": 0.5, "epochs": 5, "lr0": 0.001, "optimizer": "AdamW"}},
        {"train": {"epochs": 5, "mosaic": 0.5}, "arms": "se,baseline,A/A,ema@neck,one size up", "seeds": 8},
        {"train": {"epochs": 5, "mosaic": 0.5}, "seeds": [7, 5, 4, 3, 2, 1, 0]},
        {"train": {"epochs": 5, "mosaic": 0.5}, "model": "own/../yolo11n.pt"},
        {"train": {"epochs": 5, "mosaic": 0.5}, "devices_per_cell": 1},
    ):
        assert once.items() <= keyed(read(**changed)).items(), changed
    # Other names of one arm give folders of other names, but the same digest.
    for arm in ("EMA@neck", "ema", "ema(start=identity)", "EMAttention@neck"):
        found = keyed(read(train={"epochs": 5, "mosaic": 0.5}, arms=[arm]))
        assert found[arm, 0].rsplit("-", 1)[1] == once["ema@neck", 0].rsplit("-", 1)[1]


@pytest.mark.parametrize(
    ("changed", "arms"),
    [
        ({"train": {"epochs": 6}}, "both"),
        ({"train": {"epochs": 5, "lr0": 0.002}}, "both"),
        ({"train": {"epochs": 5, "freeze": [1]}}, "both"),
        ({"recipe": {"steps": [0.5]}}, "both"),
        ({"devices_per_cell": 2}, "both"),
        ({"split": "val"}, "both"),
        ({"model": "own/other.pt"}, "both"),
        ({"model": "yolo11n.yaml"}, "both"),
        ({"arms": ["ema(groups=8)@neck"]}, "ema"),
        ({"arms": ["ema(start=paper)@neck"]}, "ema"),
        ({"arms": ["ema@P3"]}, "ema"),
        ({"arms": ["se@neck"]}, "ema"),
    ],
)
def test_what_decides_a_result_changes_the_key(read, changed, arms):
    def digests(found: dict[tuple[str, int], str]) -> list[str]:
        """Of the baseline and the arm, without the names."""
        return [key.rsplit("-", 1)[1] for key in found.values()]

    before = digests(keyed(read(train={"epochs": 5}, seeds=1)))
    after = digests(keyed(read(**({"train": {"epochs": 5}, "seeds": 1} | changed))))
    assert [a != b for a, b in zip(before, after, strict=True)] == [arms == "both", True]


def test_files_data_and_versions_change_the_key(tmp_path, monkeypatch):
    data = str(write_data(tmp_path))
    (tmp_path / "a.pt").write_text("weights")
    found = Plan.of({"model": "a.pt", "data": data, "arms": ["ema"]}, tmp_path)
    before = keyed(found)
    assert keyed(found) == before
    assert not set(keyed(found, "other data").values()) & set(before.values())
    (tmp_path / "a.pt").write_text("Weights")
    assert not set(keyed(found).values()) & set(before.values())
    (tmp_path / "a.pt").write_text("weights")
    for name in (versions := plan.versions()):
        monkeypatch.setattr(plan, "versions", lambda name=name: {**versions, name: "0"})
        # A release of foveal counts by the number of its protocol, so that a study goes on under the next one.
        assert bool(set(keyed(found).values()) & set(before.values())) is (name == "foveal"), name
    monkeypatch.setattr(plan, "PROTOCOL", 0)
    assert not set(keyed(found).values()) & set(before.values())


def test_cells_from_before_protocols_were_numbered_have_their_names(monkeypatch):
    folder = GOLDEN / "commit-0590590/study"
    names = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("cells/*/result.json")}
    monkeypatch.setattr(plan, "versions", lambda: next(iter(names.values()))["versions"])
    cells = Plan.read(folder / "plan.yaml").cells(next(iter(names.values()))["data"])
    assert {cell.earlier: cell.pair for cell in cells}.items() >= {key: of["pair"] for key, of in names.items()}.items()
    monkeypatch.setattr(plan, "PROTOCOL", 2)
    assert {cell.earlier for cell in Plan.read(folder / "plan.yaml").cells("")} == {""}


def test_the_version_of_a_zoo_decides_too(monkeypatch):
    monkeypatch.setattr(host, "version", lambda package: f"{package} 1.2")
    assert host.HOST.identity("timm:resnet18") == "timm:resnet18 timm 1.2"


def test_keys_do_not_know_where_a_study_lies(folder, tmp_path, monkeypatch):
    arms = ["ema@neck", "own/other.pt", "A/A", "one size up"]
    (folder / "plan.yaml").write_text(yaml.safe_dump({"model": "yolo11n.pt", "data": "data.yaml", "arms": arms}))
    moved = shutil.copytree(folder, tmp_path / "deeper" / "moved")
    there = keyed(Plan.read(folder / "plan.yaml"))
    assert keyed(Plan.read(moved / "plan.yaml")) == there
    monkeypatch.chdir(moved)
    assert keyed(Plan.read(Path("plan.yaml"))) == there
    monkeypatch.chdir(tmp_path)
    assert keyed(Plan.read(Path("deeper/moved/plan.yaml"))) == there


# Attentions of somebody else ---------------------------------------------------------------------------------------


@pytest.fixture
def own(folder, monkeypatch):
    """The folder of plans, with `my_ema.py` in it, and this process in another one."""
    (folder / "my_ema.py").write_text(MY_EMA)
    monkeypatch.setattr("foveal.attention._sources._LOADED", {})
    return folder / "my_ema.py"


def test_an_arm_of_somebody_elses_class_is_found_beside_the_plan(read, own):
    plan = read(arms=["my_ema.py:EMA(factor=8)@neck", "timm:eca@neck,P5", "my_ema.py:EMA"])
    assert [arm.name for arm in plan.arms[1:]] == ["my_ema.py:EMA(factor=8)@neck", "timm:eca@neck,P5", "my_ema.py:EMA"]
    assert [arm.role for arm in plan.arms[1:]] == ["treatment"] * 3
    assert plan.arms[1].spec.name == f"{own}:EMA"
    listed = ["my_ema.py:EMA(factor=8)@neck", "timm:eca@neck,P5", "ema@P3,P4", "my_ema.py:EMA@psa.attention", "A/A"]
    assert arm_names.split(",".join(listed)) == listed
    with pytest.raises(UserError, match=r"there is no file 'other_ema.py'"):
        read(arms=["other_ema.py:EMA@neck"])


def test_its_code_is_part_of_the_keys_and_its_folder_is_not(read, own, tmp_path, monkeypatch):
    def keys(**changed) -> list[str]:
        return [cell.key for cell in read(arms=["my_ema.py:EMA@neck", "ema@neck"], **changed).cells("data")]

    before = keys()
    own.write_text(MY_EMA + "\n# another\n")
    after = keys()
    assert [key for key in after if key not in before] == [key for key in after if key.startswith("my-ema")] != []
    own.write_text(MY_EMA)
    assert keys() == before
    moved = tmp_path / "moved"
    shutil.copytree(own.parent, moved)
    monkeypatch.setattr("foveal.attention._sources._LOADED", {})
    written = {"model": "yolo11n.pt", "data": "data.yaml", "arms": ["my_ema.py:EMA@neck", "ema@neck"]}
    assert [cell.key for cell in Plan.of(written, moved).cells("data")] == before


def test_a_study_in_another_folder_finds_it(own):
    written = {"model": "yolo11n.pt", "data": "data.yaml", "arms": "my_ema.py:EMA(factor=8)@neck,A/A"}
    moved = loop._seen_from(own.parent / "studies" / "one", written, own.parent)
    assert moved["arms"] == ["../../my_ema.py:EMA(factor=8)@neck", "A/A"]
    (own.parent / "studies" / "one").mkdir(parents=True)
    plan = Plan.of(moved, own.parent / "studies" / "one")
    assert plan.arms[1].name == "my_ema.py:EMA(factor=8)@neck"
    assert plan.arms[1].spec.identity == Spec.parse(f"{own}:EMA(factor=8)@neck").started("identity").identity


@pytest.mark.parametrize("named", [{}, {"split": "val"}])
def test_data_of_train_alone_are_refused(tmp_path, named):
    for name in ("ant", "bee"):
        (tmp_path / "insects/train" / name).mkdir(parents=True)
        (tmp_path / "insects/train" / name / "0.jpg").touch()
    written = {"model": "yolo11n-cls.yaml", "data": "insects", "arms": ["ema@neck"], **named}
    with pytest.raises(UserError, match=r"insects has neither val nor test, .*; take a part of the images"):
        Plan.of(written, tmp_path)
