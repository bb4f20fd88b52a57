"""The order of the house: who may import whom, what stays unloaded, and what every attention must bring along."""

import ast
import re
from pathlib import Path

import pytest

import foveal
from foveal import ATTENTIONS
from foveal.attention import costs
from foveal.releases import NEWEST, OLDEST, RUN
from helpers import GOLDEN, in_fresh_process

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "foveal"

# A file imports only from rungs below its own.
LADDER = [
    {"errors", "charts", "printing", "typeset", "releases"},
    {"files", "carrying", "fusion", "verdict", "kernels", "executors", "timing", "agreement", "shapes", "unpickling"},
    {"view_album", "tracing", "metric", "recipe", "foreign", "fitting", "screening"},
    {"older"},
    {"attention"},
    {"detections", "spec", "report", "revision", "cam", "copies"},
    {"surgery", "spelling", "answers", "pasted", "arguments"},
    {"insert"},
    {"layers", "parser"},
    {"trainers"},
    {"yolo"},
    {"attaching", "idle"},
    {"zoo"},
    {"arms", "dataset", "inference", "runtime"},
    {"bound"},
    {"rebuilding"},
    {"oldcode"},
    {"choosing"},
    {"transplant"},
    {"graft", "convert", "exporter", "plan", "recording", "evaluation", "averages", "rivals", "ablation", "album"},
    {"parity", "departure", "gates", "classifier", "rehearsal"},
    {"cell", "whole", "deploy", "explain"},
    {"verdicts"},
    {"study", "fairness", "runs", "bench", "forecast"},
    {"costs", "judging", "demo", "study_gates", "doctor"},
    {"audit"},
    {"results", "view_study"},
    {"view"},
    {"cli_study", "cli_bench", "cli_deploy", "cli_explain", "cli_view"},
    {"cli"},
    {"__main__"},
]
# Packages that enter by one door.
DOORS = {
    "ultralytics": {"yolo", "arguments", "parser", "trainers", "dataset", "inference", "runtime", "exporter", "doctor"},
    "onnx": {"departure"},
    "onnxruntime": {"departure"},
    "openvino": {"runtime"},
    "triton": {"kernels"},
    "typer": {"printing", "cli", "cli_study", "cli_bench", "cli_deploy", "cli_explain", "cli_view"},
    "PIL": {"graft", "demo", "view", "album", "explain"},
    "timm": {"zoo"},
    "torchvision": {"zoo", "recording"},
    "scipy": {"verdict", "older"},
    "jinja2": {"report", "view", "album"},
    "starlette": {"view"},
    "uvicorn": {"view"},
    "markupsafe": {"report", "album"},
    "matplotlib": {"album"},
    "pytorch_grad_cam": {"cam"},
    "ray": {"executors"},
    "filelock": {"cell"},
}
OPTIONAL = ("torch", "numpy", "ultralytics", "typer", "jinja2", "ray", "onnx", "PIL", "yaml", "scipy")


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Rooms of ours and outside packages that a file imports, anywhere in it."""
    ours, others = set(), set()
    depth = len(path.relative_to(SOURCE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            ours |= {node.module.partition(".")[0]} if node.module else {alias.name for alias in node.names}
    return ours, others


def files() -> dict[str, Path]:
    return {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}


@pytest.mark.parametrize("name", [name for name in files() if name != "__init__.py"])
def test_imports_go_down_the_ladder_and_through_the_doors(name):
    room = name.partition("/")[0].removesuffix(".py")
    rung = next(i for i, rooms in enumerate(LADDER) if room in rooms)
    ours, others = imports(files()[name])
    below = set().union(*LADDER[:rung])
    assert ours <= below, f"{name} imports {ours - below}"
    for package, doors in DOORS.items():
        assert package not in others or room in doors, f"{name} imports {package}"


def test_importing_foveal_loads_nothing(tmp_path):
    code = f"import sys, foveal; print([name for name in {OPTIONAL} if name in sys.modules], len(dir(foveal)))"
    assert in_fresh_process(code, tmp_path).split() == ["[]", str(len(foveal.__all__))]


@pytest.mark.parametrize("name", foveal.__all__)
def test_public_names_resolve_and_belong_to_the_package(name):
    assert getattr(foveal, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'EMA'"):
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
