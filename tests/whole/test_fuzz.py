"""Damaged and odd inputs through the commands: a right answer or a clear error, soon, and nothing written half.

Each case is drawn from its name alone, so that one is run again by it: pytest tests/whole/test_fuzz.py -k plans-17
"""

import copy
import json
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
pytest.importorskip("starlette", reason="Starlette is not installed")

from starlette.testclient import TestClient

from damage import FOREIGN, MOST, ODD, PICTURES, TEXTS, changed, cut_or_flipped, octets, repacked, written
from foveal import ATTENTIONS, UserError
from foveal.cli import app
from foveal.evidence import TASKS, THRESHOLDS, Detections
from foveal.explain import explain
from foveal.hosts import ultralytics as host
from foveal.hosts.ultralytics import exporter
from foveal.report import page as report
from foveal.study import Study
from foveal.study.cell import FAILURE, RESULT
from foveal.study.demo import draw_data
from foveal.view import server
from helpers import fitting

COUNTS = {"images": 40, "models": 80, "plans": 60, "checkpoints": 80, "runs": 24, "folders": 60, "options": 0}
PATIENCE = 60  # seconds for one case; all but a few take less than one, and a busy machine is no failure
TINY = {
    "nc": 3,
    "scales": {"n": [0.5, 0.25, 64]},
    "backbone": [
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 2, "C3k2", [64, False, 0.25]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "SPPF", [64, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 1, "C3k2", [64, False]],
        [[8, 5], 1, "Detect", ["nc"]],
    ],
}
PLAN = {"model": "tiny.yaml", "data": "data/data.yaml", "arms": ["se(reduction=4)@neck"], "seeds": 2}
PLAN |= {"split": "val", "margin": 0.005, "train": {"epochs": 2, "imgsz": 32, "batch": 2}}
SE = "se(reduction=4)"


class SE_Block(nn.Module):
    """An attention as copies of its code have it, for checkpoints that `convert` reads."""

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        down, up = (
            nn.Linear(*s, bias=False) for s in ((channels, channels // reduction), (channels // reduction, channels))
        )
        self.fc = nn.Sequential(down, nn.ReLU(), up, nn.Sigmoid())

    def forward(self, x):
        return x * self.fc(self.avg_pool(x).flatten(1))[..., None, None]


# What is given when nothing is wrong ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with one of everything: images, data, a plan, models, a study, two runs, and an explanation."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    draw_data(folder / "data", train=2, val=3)
    with Image.open(folder / "data/images/val/0000.png") as image:
        image.save(folder / "photo.png")
        image.save(folder / "photo.jpg")
    torch.manual_seed(0)
    pasted = copy.deepcopy(TINY)
    pasted["backbone"].append([-1, 1, "nn.Identity", []])
    pasted["head"][0][0], pasted["head"][1][0], pasted["head"][3][0] = 6, [-1, 3], [9, 6]
    models = {"tiny": TINY, "tiny-se": copy.deepcopy(TINY), "pasted": pasted}
    models["tiny-se"]["head"][2][2] += f"+{SE}"
    for name, cfg in models.items():
        model = host.tasks.DetectionModel(cfg, verbose=False)
        model.names, model.args, model.task = dict(enumerate(("disc", "square", "cross"))), {"imgsz": 32}, "detect"
        if name == "pasted":
            old = model.model[6]
            model.model[6] = SE_Block(16)
            for key in ("i", "f", "type", "np"):
                setattr(model.model[6], key, getattr(old, key))
            model.yaml["backbone"][6] = [-1, 1, "SE_Block", [16]]
        like = {
            "train_args": {"imgsz": 32, "epochs": 2, "model": "tiny.yaml", "data": "data/data.yaml", "task": "detect"}
        }
        torch.save(host.checkpoint(model, like), folder / f"{name}.pt")
    _make_study(folder)
    for name, weights in (("a", "tiny.pt"), ("b", "tiny-se.pt")):
        _make_run(folder / name, folder / weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        explain("tiny-se.pt", ["photo.png"], output="explained", imgsz=32)
    return folder


def _make_run(folder: Path, weights: Path) -> None:
    (folder / "weights").mkdir(parents=True)
    for kind in ("best", "last"):
        shutil.copyfile(weights, folder / f"weights/{kind}.pt")
    arguments = {"task": "detect", "mode": "train", "model": "tiny.yaml", "data": "data/data.yaml", "epochs": 2}
    arguments |= {"patience": 0, "batch": 2, "imgsz": 32, "optimizer": "AdamW", "lr0": 0.001, "seed": 0, "workers": 0}
    (folder / "args.yaml").write_text(yaml.safe_dump(arguments | {"pretrained": True, "device": "cpu"}))
    (folder / "results.csv").write_text(f"epoch,time,{TASKS['detect'].metric.column}\n1,3.1,0.11\n2,6.3,0.12\n")


def _make_study(folder: Path) -> None:
    """A finished study whose report has been written."""
    (folder / "study").mkdir()
    shutil.copyfile(folder / "tiny.yaml", folder / "study/tiny.yaml")
    shutil.copytree(folder / "data", folder / "study/data")
    study = Study.prepare(PLAN, folder / "study", folder / "study")
    for number, cell in enumerate(study.cells):
        mine = study.path(cell)
        _make_run(mine, folder / ("tiny.pt" if cell.arm.spec is None else "tiny-se.pt"))
        (mine / "weights/last.pt").unlink()
        scores = {"map": 0.3 + number / 20, "map50": 0.6, "map_last": 0.5, "map50_last": 0.6}
        values = dict(arm=cell.arm.name, pair=cell.pair, seed=cell.seed, scores=scores)
        values |= dict(disagreement=0.0, epochs=2, batch=2, batches=[f"a{cell.seed}"], start={}, resumed=0)
        values |= dict(
            finite=True, parameters=9, seconds=6.0, peak_bytes=1, device="cpu", data="", versions={}, finished=""
        )
        (mine / RESULT).write_text(json.dumps(values))
        (mine / FAILURE).write_text(json.dumps({"reason": "none"}))
        boxes = np.array([[5, 5, 30, 30], [40, 40, 60, 60], [5, 50, 20, 70]], np.float32)
        found = (
            np.arange(3),
            boxes + number,
            np.array([0.9, 0.5, 0.2], np.float32),
            np.array([0, 1, number % 3], np.int32),
        )
        hits = np.ones((3, len(THRESHOLDS)), bool)
        names = np.array([f"{image:04}.png" for image in range(3)])
        for kind in ("best", "last"):
            Detections(names, *found, hits, np.arange(3), boxes, np.arange(3, dtype=np.int32)).save(
                mine / f"{kind}.npz"
            )
    from foveal import results

    found = results.assemble(Study(study.folder))
    results.write(found, study.folder)
    report.write(found, study.folder, "en")


# Cases: each changes the files in a folder and returns the words of a command ----------------------------------------


def images(draw: random.Random, number: int, folder: Path) -> list[str]:
    suffix = draw.choice(("png", "jpg"))
    file = folder / f"photo.{suffix}"
    content, kinds = file.read_bytes(), list(PICTURES)
    if number < len(kinds):
        file.unlink()
        file = PICTURES[kinds[number]](content, folder)
    else:
        file.write_bytes(octets(draw, content))
    if number % 4 == 3:
        shutil.copyfile(file, folder / "study/data/images/val/0000.png")
        for picture in (folder / "explained/pictures").iterdir():
            shutil.copyfile(file, picture)
        return ["view", draw.choice(("study", "explained"))]
    return ["explain", "tiny-se.pt", file.name, "--imgsz", "32", "-o", "out"]


def models(draw: random.Random, number: int, folder: Path) -> list[str]:
    """A model YAML, or the YAML of a data set."""
    file = folder / ("data/data.yaml" if number % 8 == 7 else "tiny.yaml")
    written(draw, number, file)
    if number % 8 == 7:
        if number % 16 == 7:
            return ["explain", "tiny-se.pt", "--data", "data/data.yaml", "--imgsz", "32", "-o", "out"]
        return ["study", "run", "plan.yaml", "-o", "new"]
    return draw.choice(_over("tiny.yaml"))


def _over(model: str) -> list[list[str]]:
    """Commands on a model."""
    out, study = (
        f"out{Path(model).suffix}",
        ["study", "run", "--model", model, "--data", "data/data.yaml", "--arms", SE],
    )
    return [
        *(["add", model, spec, "-o", out] for spec in (SE, f"{SE}@P3")),
        ["add", model, "ema(groups=4)", "--own-row", "--json", "-o", out],
        ["export", model, "format=torchscript", "imgsz=32"],
        [*study, "-o", "new", "epochs=1", "imgsz=32"],
    ]


def plans(draw: random.Random, number: int, folder: Path) -> list[str]:
    written(draw, number, folder / "plan.yaml")
    more = draw.choice(([], [], ["epochs=3"], ["--seeds", "1"], ["--arms", "A/A"]))
    return ["study", "run", "plan.yaml", "-o", "new", *more]


def checkpoints(draw: random.Random, number: int, folder: Path) -> list[str]:
    name = ("pasted.pt", "tiny.pt", "tiny-se.pt")[number % 3]
    file = folder / name
    ways = (cut_or_flipped, repacked, changed, changed, changed)
    if number < len(FOREIGN):
        FOREIGN[number](file)
    else:
        ways[number // 3 % len(ways)](draw, file)
    if name == "pasted.pt":
        return ["convert", name, "-o", "out.pt"]
    explain = ["explain", name, "photo.png", "--imgsz", "32", "-o", "out"]
    return draw.choice([*_over(name), explain] if name == "tiny.pt" else [explain, explain, *_over(name)])


def runs(draw: random.Random, number: int, folder: Path) -> list[str]:
    file = folder / draw.choice(("a", "b")) / draw.choice(("args.yaml", "args.yaml", "results.csv", "weights/best.pt"))
    if number < len(TEXTS) and file.suffix != ".pt":
        file.write_bytes(TEXTS[number])
    elif file.suffix == ".yaml":
        written(draw, MOST, file)
    elif file.suffix == ".pt":
        draw.choice((cut_or_flipped, repacked, changed, changed))(draw, file)
    else:
        file.write_bytes(octets(draw, file.read_bytes()))
    return ["audit", "a", "b", *([] if number % 6 == 5 else ["--no-evaluate"])]


def folders(draw: random.Random, number: int, folder: Path) -> list[str]:
    """A study, or an explanation, with one file of it changed."""
    if number % 4 == 3:
        file = folder / "explained/manifest.json"
        written(draw, number, file)
        return draw.choice(
            (["view", "explained"], ["view", "explained"], ["explain", "tiny-se.pt", "photo.png", "-o", "explained"])
        )
    cells = sorted((folder / "study/cells").iterdir())
    files = sorted(file for cell in cells for file in cell.rglob("*") if file.is_file() and file.suffix != ".pt")
    files += [file for file in sorted((folder / "study").iterdir()) if file.suffix in (".json", ".yaml")]
    file = draw.choice(files)
    match draw.randrange(5), file.suffix:
        case 0, _:
            file.unlink()
        case 1, _:
            file.write_bytes(draw.choice(TEXTS))
        case _, (".json" | ".yaml"):
            written(draw, MOST, file)
        case _:
            file.write_bytes(octets(draw, file.read_bytes()))
    if draw.random() < 0.2:
        (file.parent / RESULT).unlink(missing_ok=True)
    if draw.random() < 0.3 and file.parent.parent.name == "cells":  # so that averages are computed anew
        for kept in file.parent.glob("averages-*.npz"):
            kept.unlink()
    return draw.choice(
        (["study", "status", "study"], ["study", "report", "study"], ["study", "cells", "study"], ["view", "study"])
    )


# One a line; LONG stands for a name longer than any file system takes.
SPECS = """
ema
ema(
ema)
ema()
ema(groups)
ema(groups=)
ema(groups=0)
ema(groups=-1)
emma
ema(groups=1e9)
ema(groups=1.5)
ema(groups='a')
ema(groups=[1])
ema(groups=4, groups=4)
ema(x=1)
ema(4)
ema(**{'groups': 4})
ema(groups=4)@
ema@@
ema@neck,
ema@,
ema@99
ema@-1
ema@0
ema(start=warm)
ema(groups=__import__('os'))
ema(groups=LONG)
ema(groups=((((((((((((((((((((((((((((((((((((((((1))))))))))))))))))))))))))))))))))))))))
é
../ema
se(reduction=4)
se(reduction=0)
se(reduction=100000000000000000000)
eca(kernel=2)
simam(eps=nan)
-x
lsk@neck,P3,9
mhsa(heads=3)
msda(dilations=[])
placebo
coord(reduction=True)
ema(groups=0x4)@P3
"""
LINES = {
    "": ("list / show / show x / nothing / add / add tiny.yaml / convert / study / study nonsense / export tiny.pt"),
    "export tiny.pt": (
        "format / format= / format=x / imgsz=0 / imgsz=[1 / imgsz=a / half=7 / = / format=onnx imgsz=33,x "
        "/ format=onnx batch=0 / format=onnx dynamic=maybe / format=onnx nonsense=1 / format=onnx "
        "imgsz=-32"
    ),
    "bench se(reduction=4) --rounds 1 --shapes": (
        "8x4 / 0x4x4 / 8x4x4x4 / yolo11q / yolo11n:P9 / x / , / 8x-4x4 / 8x4x4, / 64x1x1 / 2x2x2 / 8x4.5x4"
    ),
    "bench se(reduction=4) --rounds 1 --shapes 8x4x4": (
        "--batch 0 / --batch x / --batch , / --dtype float31 / --layout upside / --passes sideways / "
        "--device cuda:x / --device tpu / --threads 0 / --threads x / --models yolo99 / --base no-such / "
        "--output no/such/x.json / --output data / --rounds -1 / --batch 999999999999999999999999 / "
        "--output x.json"
    ),
    "study": (
        "status / report / cells / cell / run / status data / status no-such / status photo.png / status "
        "status LONG / cell study x / cell study ../.. / report study --lang xx"
    ),
    "study run plan.yaml -o new": (
        "epochs / epochs= / =3 / x=1 / epochs=0 / epochs=1e9 / lr0=a / device=cpu / seed=1 / --seeds 0 / "
        "--seeds x / --seeds -3 / --jobs 0 / --executor slurm / plan.yaml / --arms , / --arms A/A,A/A / "
        "--arms ema@ / --model no.pt / --data no.yaml"
    ),
    "audit": "a / a a / a no-such / photo.png b / a b --data no.yaml",
    "view": "no-such / data / study --port x / study --port 99999 / LONG",
    "explain tiny-se.pt": "--imgsz 32 / no.jpg / data / LONG.jpg / --data no.yaml / --data data/data.yaml --split x",
    "explain tiny-se.pt photo.png": (
        "--imgsz 0 / --imgsz x / --device tpu / -o data / -o no/such / -o photo.png / -o LONG / "
        "--batch 0 --data data/data.yaml --imgsz 32"
    ),
    "convert pasted.pt -o": "no/such.pt / x / data / tiny.pt / LONG.pt / out.pt",
    "add tiny.pt se(reduction=4) -o": "no/such.pt / x.yaml / data / tiny-se.pt / LONG.pt / out.pt",
    "add": (
        "no.pt ema / no.yaml ema / photo.png ema / . ema / data ema ema / .pt ema / LONG.pt ema "
        "/ data/data.yaml ema / tiny.pt se@neck --at P3"
    ),
}
WORDS = [["add", "tiny.yaml", spec, "-o", "out.yaml"] for spec in SPECS.strip().splitlines()]
WORDS += [[*first.split(), *more.split()] for first, lines in LINES.items() for more in lines.split(" / ")]
COUNTS["options"] = len(WORDS)


def options(draw: random.Random, number: int, folder: Path) -> list[str]:
    return [word.replace("LONG", "x" * 300) for word in WORDS[number]]


CASES = {case.__name__: case for case in (images, models, plans, checkpoints, runs, folders, options)}
ALL = {"study", "a", "b", "explained"}  # which take longest to copy
UNNEEDED = {"images": {"a", "b"}, "models": ALL, "plans": ALL, "checkpoints": ALL, "runs": {"study", "explained"}}
UNNEEDED |= {"folders": {"a", "b"}}
# What commands may write over: their own results, and the host's caches.
OWN = re.compile(
    r".*\.cache|data/labels/.*|study/(results\.json|report.*|table\..*|costs\.json|data\.json|contents\.json|scan\.lock)"
    r"|study/cells/[^/]+/(averages-.*|lock|failure\.json)|explained/.*"
)


def _cases() -> list:
    """All cases, of which a part runs always: more of the commands of `options`, each of which is another one."""
    cases = [(kind, number) for kind, count in COUNTS.items() for number in range(count)]
    every = {"options": 2}
    marks = [() if number % every.get(kind, 8) == 0 else pytest.mark.sweep for kind, number in cases]
    return [
        pytest.param(*case, id="-".join(map(str, case)), marks=mark) for case, mark in zip(cases, marks, strict=True)
    ]


@pytest.mark.parametrize(("kind", "number"), _cases())
def test_a_command(kind, number, whole, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "here"
    unneeded = UNNEEDED[kind] if kind in UNNEEDED else ALL - set(WORDS[number])
    shutil.copytree(whole, folder, ignore=lambda at, _: unneeded if Path(at) == whole else ())
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    words = CASES[kind](random.Random(f"{kind}-{number}"), number, folder)
    before = files(folder)
    monkeypatch.setattr(Study, "run", lambda *_: None)  # then the report finds nothing: exit code 2
    monkeypatch.setattr(exporter, "write", _not_exported)
    monkeypatch.setattr(server, "serve", looked_at)
    code, out, err = run(words, monkeypatch, capfd)

    said = f"foveal {' '.join(words)}\nexit code {code}\n{out[-2000:]}\n{err[-3000:]}"
    print(said)
    assert code in (0, 1, 2) or (code == 3 and words[0] == "audit"), said  # 3: the files of the runs do not tell
    assert "Traceback" not in out + err, said
    if code == 2:
        assert explained(err), said
    else:
        assert out.strip() or words[:2] == ["study", "cells"], said  # of which none may be missing
    after = files(folder)
    new = set(after) - set(before)
    assert not [name for name in before if after.get(name) != before[name] and not OWN.fullmatch(name)], said
    assert not [name for name in new if re.search(r"(^|/)\.|\.part|\.tmp|~$", name)], (new, said)
    assert not list((tmp_path / "temporary").iterdir()), said
    if code == 2 and words[0] not in ("study", "view"):
        assert all(OWN.fullmatch(name) for name in new), (new, said)
    if code == 0 and "-o" in words and words[0] in ("add", "convert", "explain"):
        target = folder / words[words.index("-o") + 1]
        assert (target / "manifest.json" if words[0] == "explain" else target).is_file(), said


def _not_exported(*_: object) -> None:
    raise exporter.CannotExportError("that takes too long here", (32, 32))


def looked_at(folder: Path, port: int, ready: Callable[[str], None]) -> None:
    """Every page and picture, instead of a server."""
    asked = TestClient(server.application(folder), base_url="http://127.0.0.1")
    ready("http://127.0.0.1/")
    pages = ["", "data/progress", "data/images/1", "data/boxes/1/0/0", "data/boxes/1/1/2", "data/album"]
    pages += ["picture/photo/0", "picture/map/0", "picture/map/1", "picture/map/1/0", "index.html", "report.html"]
    for page in pages:
        answer = asked.get(f"/{page}")
        assert answer.status_code in (200, 404, 409), (page, answer.text)
        if answer.status_code == 409:
            assert answer.json()["message"], page


def run(words: list[str], monkeypatch, capfd) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["foveal", *words])
    capfd.readouterr()
    code = 0
    alarm = hasattr(signal, "setitimer")
    if alarm:
        old = signal.signal(
            signal.SIGALRM, lambda *_: pytest.fail(f"hangs: {words}")
        )  # no Exception, so nobody takes it
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        app.main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
    return code, *capfd.readouterr()


def explained(err: str) -> bool:
    """Whether the last thing said is one error and one hint, or what the parser of the command line says."""
    if "Usage: " in err and ("\nError: " in err or err.startswith("Usage: ")):
        return True
    lines = err.rstrip("\n").split("\n")
    starts = [line.partition(":")[0] for line in lines]
    fine = lines[-3:][0].startswith("error: ") and lines[-2:] == ["", lines[-1]] and lines[-1].startswith("hint: ")
    return fine and starts.count("error") == starts.count("hint") == 1 and len(lines[-1]) > 8 and len(lines[-3]) < 2000


def files(folder: Path) -> dict[str, bytes | None]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


# State dicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ATTENTIONS.values(), ids=ATTENTIONS)
def test_a_state_dict_fits_or_is_refused(cls):
    draw = random.Random(cls.card.name)
    module = fitting(cls, 64)
    back = {ours: theirs for theirs, ours in cls.renamed.items()}
    whole = {}
    for name, tensor in module.state_dict().items():
        first = next((ours for ours in back if name == ours or name.startswith(f"{ours}.")), None)
        whole[name if first is None else back[first] + name[len(first) :]] = tensor
    changes = [
        lambda of, name: of.pop(name),
        lambda of, name: of.update({f"{name}.more": torch.zeros(2)}),
        lambda of, name: of.update({name: torch.zeros(*of[name].shape, 2)}),
        lambda of, name: of.update({name: of[name].flatten()[:0]}),
        lambda of, name: of.update({name: torch.tensor(0.5)}),
        lambda of, name: of.update({name: draw.choice(ODD)}),
        lambda of, name: of.update({draw.choice((3, None, ("a", 1))): of.pop(name)}),
        lambda of, name: of.update(state_dict=of.copy()),
    ]
    for number, change in enumerate(changes):
        for name in whole or {"": None}:
            given = dict(whole) or {"": torch.zeros(2)}
            change(given, name)
            try:
                module.load_state_dict(cls.from_official(given))
            except UserError as error:
                said = error.hint
            except RuntimeError as error:  # torch's own, which names what is missing, unexpected or of another shape
                said = "Error(s) in loading state_dict" in str(error)
            else:
                said = number in (0, 4) and (not whole or "num_batches_tracked" in name)  # which torch does not ask for
            assert said, (number, name)
