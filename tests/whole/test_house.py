"""The order of the house: who may import whom, what stays unloaded, and what every attention must bring along."""

import ast
import functools
import importlib
import re
import runpy
import types
from pathlib import Path

import pytest

import foveal
from foveal import ATTENTIONS
from foveal.attention import costs
from foveal.hosts.ultralytics import NEWEST, OLDEST, RUN
from helpers import GOLDEN, entered, in_fresh_process

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "foveal"

# A wing imports only from wings on lower rungs, through their faces; in the first rung only from ROOT.
LADDER = [
    ["verdict", "pages", "kernels", "kernels/ema", "executors", "checkpoints"],
    ["attention", "evidence"],
    ["surgery"],
    ["hosts"],
    ["hosts/ultralytics"],
    ["convert", "explain", "bench", "judging"],
    ["deploy"],
    ["contract"],
    ["study"],
    ["results"],
    ["report", "audit"],
    ["view"],
    ["cli"],
]
ROOT_FILES = {"checks", "errors", "files", "tensors"}  # any wing may import from these; the rest are doors of the house
DOORS = {
    "ultralytics": {"hosts/ultralytics"},
    "thop": {"hosts/ultralytics"},
    "timm": {"hosts"},
    "torchvision": {"hosts", "hosts/ultralytics"},
    "triton": {"kernels/ema"},
    "onnx": {"deploy"},
    "onnxruntime": {"deploy", "contract"},
    "openvino": {"hosts/ultralytics"},
    "nncf": {"deploy"},
    "pytorch_grad_cam": {"explain"},
    "matplotlib": {"explain"},
    "scipy": {"verdict", "results"},
    "hotcoco": {"evidence"},
    "jinja2": {"pages"},
    "ray": {"executors"},
    "submitit": {"executors"},
    "filelock": {"study"},
    "imagehash": {"study"},
    "sklearn": {"study"},
    "msgspec": {"results"},
    "starlette": {"view"},
    "uvicorn": {"view"},
    "typer": {"cli"},
}
OPTIONAL = ("torch", "numpy", "ultralytics", "typer", "jinja2", "ray", "submitit", "onnx", "PIL", "yaml", "scipy")


def files() -> dict[str, Path]:
    return {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}


@functools.cache
def faces() -> dict[str, set[str]]:
    """The public names of each wing."""
    found = {}
    for path in SOURCE.rglob("__init__.py"):
        wing, stub = str(path.parent.relative_to(SOURCE)), path.with_suffix(".pyi")
        tree = ast.parse((stub if stub.exists() else path).read_text())
        names = {alias.asname or alias.name for node in ast.walk(tree) for alias in getattr(node, "names", [])}
        made = [getattr(node, "name", getattr(getattr(node, "target", None), "id", "")) for node in tree.body]
        assigned = [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        found[wing] = names | {*made, *assigned} - {""}
    return found


@functools.cache
def wing_of(path: str) -> str:
    """The innermost wing that a file lies in; "" for the root."""
    return next(
        wing for wing in sorted(faces(), key=len, reverse=True) if wing == "." or f"{path}/".startswith(f"{wing}/")
    )


def wrong(name: str, text: str) -> list[str]:
    """What a file imports that its wing may not."""
    wing, here, said = wing_of(name), Path(name).parent.parts, []
    below = {below for rung in LADDER[: next(i for i, rung in enumerate(LADDER) if wing in rung)] for below in rung}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            home = "/".join((*here[: len(here) - node.level + 1], *(node.module or "").split("."))).strip("/")
            for imported in (alias.name for alias in node.names):
                target = f"{home}/{imported}".strip("/")
                if target in faces():
                    allowed = target in below or target == wing
                elif home in ROOT_FILES or target in ROOT_FILES or wing_of(home) == wing:
                    allowed = True
                else:
                    allowed = home in below and imported in faces()[home]
                said += [] if allowed else [f"{name} takes {imported} from {home or 'the root'}"]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            packages = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module}
            outside = {package.partition(".")[0] for package in packages}
            said += [f"{name} opens {package}" for package in outside if wing not in DOORS.get(package, {wing})]
    return said


WINGS = [name for name in files() if "/" in name]


@pytest.mark.parametrize("name", WINGS)
def test_imports_go_down_the_ladder_through_faces_and_doors(name):
    assert wrong(name, files()[name].read_text()) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("surgery/spec.py", "from ..hosts import zoo"),
        ("surgery/spec.py", "from ..surgery.model_yaml import resolve\nfrom ..study import Plan"),
        ("verdict/looks.py", "from ..evidence import Detections"),
        ("pages/charts.py", "from ..verdict import LEVEL"),
        ("study/plan.py", "from ultralytics import YOLO"),
        ("study/plan.py", "def f():\n    import ultralytics.nn.tasks"),
        ("study/plan.py", "from ..hosts.ultralytics.dataset import contents"),
        ("hosts/ultralytics/dataset.py", "from ...kernels import ema as _\nfrom ...kernels.ema.cpu import forward"),
        ("report/page.py", "from ..results import _private"),
        ("study/plan.py", "from .. import yolo"),
    ],
)
def test_an_arrow_up_a_second_door_and_a_name_past_a_face_are_seen(name, line):
    assert len(wrong(name, line)) == 1


# Functions that may be longer than 60 lines, and why.
LONG = {
    "kernels/ema/cuda.py:forward": "it launches the kernels of one pass in turn, each with all of its arguments",
    "kernels/ema/cuda.py:backward": "it launches the kernels of one pass in turn, each with all of its arguments",
    "kernels/ema/cuda_backward.py:reduce_kernel": "Triton compiles a kernel as one function",
    "kernels/ema/cuda_backward.py:sum_input": "Triton compiles a kernel as one function",
}


def test_files_and_functions_are_short():
    assert [name for name, path in files().items() if len(path.read_text().splitlines()) > 400] == []
    functions = [
        (f"{name}:{node.name}", node.end_lineno - node.lineno + 1)
        for name, path in files().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert {name for name, lines in functions if lines > 60} == {*LONG}


def test_the_picture_is_drawn_from_the_imports():
    house = runpy.run_path(str(ROOT / "docs/house.py"))
    assert (ROOT / "docs/house.svg").read_text() == house["svg"](), "make docs"
    rungs = {wing: number for number, rung in enumerate(LADDER) for wing in rung}
    assert {*house["taken"]()} == {wing for wing in rungs if "/" not in wing}
    assert all(rungs[other] < rungs[wing] for wing, below in house["taken"]().items() for other in below)


def test_the_root_holds_no_rooms():
    root = {path.name for path in SOURCE.glob("*.py")}
    assert root == {"__init__.py", "__main__.py", "yolo.py", *(f"{name}.py" for name in ROOT_FILES)}
    assert {wing for rung in LADDER for wing in rung} | {"."} == {*faces()}


@pytest.mark.parametrize("wing", [wing for wing in faces() if wing not in (".", "attention")])
def test_every_name_of_a_face_resolves(wing):
    if wing not in ("verdict", "pages", "kernels", "kernels/ema", "executors", "checkpoints", "surgery"):
        pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    face = importlib.import_module("foveal." + wing.replace("/", "."))
    assert {*face.__all__} == faces()[wing]
    for name in face.__all__:  # else it would be the one or the other, depending on what was imported first
        assert isinstance(getattr(face, name), types.ModuleType) or not (SOURCE / wing / f"{name}.py").exists(), name
    assert [name for name in face.__all__ if getattr(face, name) is None] == []


ROOMS = [Path(name).stem for name in files() if wing_of(name) == "hosts/ultralytics" and "__" not in name]


def test_each_room_of_the_host_can_be_entered_first_and_says_if_the_host_is_missing(tmp_path):
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    rooms = [f"foveal.hosts.ultralytics.{room}" for room in ROOMS]
    assert entered(rooms, tmp_path, "import ultralytics.models, torch._dynamo\n") == dict.fromkeys(rooms, "")
    said = entered(rooms, tmp_path, "import sys, torch._dynamo; sys.modules['ultralytics'] = None\n")
    assert said.keys() == {*rooms}
    assert {one.partition(":")[0] for one in said.values()} == {"", "UserError"}, said


def test_importing_foveal_loads_nothing(tmp_path):
    code = f"import sys, foveal; print([name for name in {OPTIONAL} if name in sys.modules], len(dir(foveal)))"
    assert in_fresh_process(code, tmp_path).split() == ["[]", str(len(foveal.__all__))]


@pytest.mark.parametrize("name", foveal.__all__)
def test_public_names_resolve_and_belong_to_the_package(name):
    assert getattr(foveal, name) is not None
    with pytest.raises(AttributeError, match="No foveal attribute EMA"):
        _ = foveal.EMA


def test_attentions_load_without_ultralytics(tmp_path):
    code = "import sys; sys.modules['ultralytics'] = None; import foveal; print(foveal.EMAttention(64).channels)"
    assert in_fresh_process(code, tmp_path).split() == ["64"]


@pytest.mark.parametrize("cls", ATTENTIONS.values(), ids=ATTENTIONS)
def test_every_attention_is_complete(cls):
    card = cls.card
    assert cls.__name__ in foveal.__all__
    assert files()[f"attention/{card.name}.py"]
    notice = (ROOT / "NOTICE").read_text()
    if card.source:  # the control arm has none
        assert (GOLDEN / f"{card.name}.json").exists(), "no golden numbers"
        assert card.source in notice
        assert card.source in (GOLDEN / "README.md").read_text() or card.name == "se"  # whose numbers are a port's
    assert card.paper.rsplit("/", 1)[-1] in notice, "not in NOTICE"
    assert cls.reference.__doc__
    assert cls.gates.__doc__
    assert card.differs
    assert card.constraints
    for readme in ("README.md", "README.zh-CN.md"):
        (row,) = re.findall(rf"^\| `{card.name}` \|.*", (ROOT / readme).read_text(), re.MULTILINE)
        assert card.paper in row, readme
        assert f"| {costs(cls)['parameters']:,} |" in row, readme


def test_every_attention_file_is_in_the_tuple():
    listed = {f"attention/{name}.py" for name in ATTENTIONS}
    assert {name for name in files() if name.startswith("attention/") and "_" not in name} == listed


def test_the_supported_range_is_what_was_run():
    # It is said in releases.json; what cannot read it there says the same.
    assert f'"ultralytics>={OLDEST}"' in (ROOT / "pyproject.toml").read_text()
    assert f"ultralytics=={NEWEST};" in (ROOT / "constraints.txt").read_text()
    for readme in ("README.md", "README.zh-CN.md"):
        assert re.search(rf"Ultralytics \S* ?{OLDEST} \S+ {NEWEST}", (ROOT / readme).read_text()), readme
    for release in (OLDEST, NEWEST):
        states = {step["step"]: step["state"] for step in RUN[release]["steps"]}
        assert states
        assert "failed" not in states.values(), states
