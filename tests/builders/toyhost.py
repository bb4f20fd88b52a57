"""A second host: a torch loop on drawn pictures, with everything that a study asks of whoever trains its models.

As a program it is what trains cells: python toyhost.py run FOLDER, or cell FOLDER KEY --device cpu.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

from foveal import Spec, UserError
from foveal.evidence import TASKS, Answers
from foveal.files import digest, write_text, write_whole
from foveal.hosts import SPLITS, Host, Inherited, Photographs, Record, Refused, Training, known
from foveal.surgery.attachment import attach, build

TASK = TASKS["classify"]
COLOURS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 60, 40)}
DEFAULTS = {"epochs": 4, "imgsz": 8, "batch": 6, "optimizer": "SGD", "lr0": 0.01, "momentum": 0.0, "patience": 0}
DEFAULTS |= {"warmup_bias_lr": 0.0, "plots": False, "time": None, "save": True, "val": True, "deterministic": True}
DEFAULTS |= {"pretrained": True, "fraction": 1.0, "amp": False, "pause": 0.0, "teacher": None}
WIDTH = 8


def draw(folder: Path, train: int = 8, val: int = 4) -> Path:
    """Pictures of 8 x 8 pixels in noisy colours, a folder for each split and in those one for each class."""
    noise = torch.Generator().manual_seed(0)
    for split, count in (("train", train), ("val", val)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.tensor(colour) + 70 * torch.randn(8, 8, 3, generator=noise)
                picture = Image.fromarray(pixels.clamp(0, 255).byte().numpy())
                picture.save(folder / split / name / f"{number}.png")
    return folder


class Data:
    """Folders of pictures, or a file that lists those of each split; a picture without a colour is refused."""

    def __init__(self, name: str, download: bool = False, task: str = "classify"):
        listed = json.loads(Path(name).read_text()) if name.endswith(".json") else {}
        self.name, self.root, self.absent = name, Path(name).parent if listed else Path(name), None
        self.more, self.label_folder = {}, "labels"
        there = {split: sorted((self.root / split).rglob("*.png")) for split in SPLITS}
        self._images = {split: [Path(file) for file in files] for split, files in (listed or there).items() if files}
        self.splits = tuple(split for split in SPLITS if split in self._images)
        if "train" not in self.splits:
            raise UserError(f"{name!r} has no folder 'train'", "name a folder of pictures")
        self.names = dict(enumerate(sorted({file.parent.name for file in self._images["train"]})))

    def images(self, split: str) -> list[Path]:
        return [file for file in self._images[split] if file.exists()]

    def classes(self, images: list[Path]) -> list[set[int]]:
        numbers = {name: number for number, name in self.names.items()}
        return [{numbers[file.parent.name]} for file in images]

    def labels(self, images: list[Path]) -> list[Path]:
        return []

    def has_labels(self, split: str) -> bool:
        return split in self.splits

    def photographs(self, images: list[Path]) -> Photographs:
        return Photographs(images, folders=1)

    def scan(self, splits, single_cls: bool = False) -> dict[str, Refused]:
        empty = {split: [file for file in self.images(split) if not file.stat().st_size] for split in splits}
        for split, out in empty.items():
            if out and len(out) == len(self.images(split)):
                raise UserError(f"no image of {split} in {self.name} is usable", "draw them again")
        return {split: Refused(len(out), 9, out[0].name, "empty") for split, out in empty.items() if out}

    def tensors(self, split: str) -> tuple[list[Path], torch.Tensor, torch.Tensor]:
        """Files, pictures and classes."""
        files, numbers = [file for file in self.images(split) if file.stat().st_size], list(self.names.values())
        pictures = [torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8) for file in files]
        images = torch.stack(pictures).view(-1, 8, 8, 3).permute(0, 3, 1, 2).float() / 255
        return files, images, torch.tensor([numbers.index(file.parent.name) for file in files])


def network(spec: Spec | None, seed: int, classes: int = 3) -> nn.Module:
    """One convolution with or without an attention, the mean of its map, and a layer of classes."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    made = nn.Sequential(*layers, nn.Linear(WIDTH, classes))
    if spec:
        attach(made[0], build(spec, WIDTH))
    return made


def start(model: nn.Module) -> dict[str, str]:
    """A digest of each tensor."""
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16] for name, tensor in model.state_dict().items()
    }


def inherited(model: str, weights: str) -> Inherited:
    """What fits of the convolution and the layer of classes in a file."""
    theirs, mine = loaded(Path(weights)).state_dict(), network(None, 0).state_dict()
    fit = [name for name in mine if name in theirs and theirs[name].shape == mine[name].shape]
    if not fit:
        raise UserError(f"nothing in {weights} fits {model}", "leave it out")
    counts = [sum(theirs[name].numel() for name in names) for names in (fit, theirs)]
    return Inherited(
        weights=Path(weights).name,
        tensors=(len(fit), len(theirs)),
        parameters=(counts[0], counts[1]),
        fresh=(len(mine) - len(fit), len(mine)),
        rows=tuple((row, row) for row in sorted({int(name[0]) for name in fit})),
        names={name: name for name in fit},
        digests={name: digest for name, digest in start(loaded(Path(weights))).items() if name in fit},
    )


def settings(given) -> dict:
    """All arguments of a training."""
    if unknown := given.keys() - DEFAULTS.keys():
        raise UserError(f"training arguments: there is no {min(unknown)}", "write for example epochs=4")
    return {**DEFAULTS, **given}


def train(asked: Training) -> Record:
    """From the last whole epoch, if that was of the same data; each draws from (seed, epoch) alone."""
    folder, terms, state = asked.folder, asked.settings, asked.folder / "resume.pt"
    model = network(asked.spec, asked.seed, len(asked.data.names))
    if asked.weights:
        theirs, fit = loaded(Path(asked.weights)).state_dict(), inherited(asked.model, asked.weights).names
        model.load_state_dict({name: theirs[name] for name in fit}, strict=False)
    record = {
        "start": start(model),
        "batches": [],
        "batch": terms["batch"],
        "seconds": [],
        "peak_bytes": 1,
        "resumed": 0,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=terms["lr0"], momentum=0.9)
    kept = torch.load(state, weights_only=False) if state.is_file() else {"data": ""}
    if kept["data"] == asked.contents.digest:
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        record = kept["record"] | {
            "resumed": kept["record"]["resumed"] + (len(kept["record"]["batches"]) < terms["epochs"])
        }
    write_text(folder / "args.yaml", yaml.safe_dump({**terms, "seed": asked.seed}))
    (folder / "weights").mkdir(exist_ok=True)
    _, images, classes = asked.data.tensors("train")
    for epoch in range(len(record["batches"]), terms["epochs"]):
        began, seen, loss = time.perf_counter(), hashlib.sha256(), torch.zeros(())
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1000 * asked.seed + epoch))
        for batch in order.split(terms["batch"]):
            loss = nn.functional.cross_entropy(model(images[batch]), classes[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.update(images[batch].numpy().tobytes())
            time.sleep(terms["pause"])
        record["batches"].append(seen.hexdigest()[:16])
        record["seconds"].append(time.perf_counter() - began)
        for kind in ("best", "last"):
            write_whole(folder / "weights" / f"{kind}.pt", lambda part: torch.save(model, part))
        right = float((answers(model, asked.data, "val").scores()).mean())
        rows = (
            (folder / "results.csv").read_text().splitlines()[: 1 + epoch]
            if epoch
            else ["epoch,time,train/loss," + TASK.metric.column]
        )
        rows.append(f"{epoch + 1},{sum(record['seconds']):.3f},{loss.item():.6f},{right:.6f}")
        write_text(folder / "results.csv", "\n".join(rows) + "\n")
        now = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "record": record}
        write_whole(state, lambda part, now=now: torch.save({**now, "data": asked.contents.digest}, part))
    return Record(**record)


@torch.no_grad()
def answers(model: nn.Module, data: Data, split: str) -> Answers:
    """What a network says of a split."""
    files, images, classes = data.tensors(split)
    ranked = model.eval()(images).argsort(1, descending=True)
    model.train()
    names = data.photographs(files)
    return Answers(np.array([names.name(file) for file in files]), ranked.numpy(), classes.numpy())


def divided(data: Data, splits, folder: Path) -> str:
    """A file that lists the pictures of other splits."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = {split: [str(file.resolve()) for file in files] for split, files in splits.items()}
    write_text(folder / "splits.json", json.dumps(listed))
    return str(folder / "splits.json")


def judge(weights: Path, data: str, split: str, folder: Path, given) -> tuple[Answers, dict[str, float]]:
    """Answers, and the accuracies by a count of its own."""
    found = answers(loaded(weights), Data(data), split)
    right = [best[0] == true for best, true in zip(found.ranked, found.label, strict=True)]
    return found, {"top1": sum(right) / len(right), "top5": 1.0}


def loaded(weights: Path) -> nn.Module:
    """The network in a file."""
    return torch.load(weights, weights_only=False)


def step(model, spec, task, terms, images, size, device):
    """A training step and a forward pass."""
    made, x = network(spec, 0), torch.rand(images, 3, size, size)
    return lambda: made(x).sum().backward(), lambda: made(x)


HOST = Host(
    owns=lambda model: model.endswith(".toy"),
    settings=settings,
    teachers=("teacher",),
    beside=lambda data, folder: str(folder / data) if (folder / data).is_dir() else data,
    task=lambda model, data: TASK,
    data=Data,
    divided=divided,
    made_for=lambda model, data: TASK.name,
    places=lambda model: ("0",),
    larger=lambda model: None,
    identity=lambda model: digest(Path(model)) if Path(model).is_file() else model,
    digests=lambda model: {},
    inherited=inherited,
    train=train,
    leftovers=("resume.pt",),
    judge=judge,
    network=loaded,
    deployed=lambda model: model,
    fuses=lambda model: False,
    channels=lambda model: 3,
    step=step,
)


def command(study, cell) -> list[str]:
    """What runs a cell, in place of `Study.command`."""
    return [sys.executable, __file__, "cell", str(study.folder), cell.key]


def main() -> int:
    """Train a study, or one cell of it."""
    from foveal.study import BUSY, Study, run
    from studies import Forking

    known.HOSTS[:] = ["toyhost"]
    torch.set_num_threads(1)
    word, folder, *more = sys.argv[1:]
    if word == "cell":
        return 0 if run(Path(folder), more[0], more[-1]) else BUSY
    Study.command = command
    with Forking(jobs=2) as executor:
        Study(Path(folder)).run(executor, print)
    return 0


if __name__ == "__main__":
    sys.exit(main())
