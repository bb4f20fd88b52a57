"""The main job on real files in a few minutes: train YOLO11n without and with EMA on equal terms, and look at both.

Without data of the user's, small objects are drawn here: nothing is downloaded.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .errors import UserError

SHAPES = ("disc", "square", "cross")
COLOURS = np.array([[220, 70, 60], [60, 190, 80], [70, 90, 220]])
IMAGE_SIZE = 96

# Equal terms: what decides a run is said here, and nothing is left for the trainer to choose by what it sees.
TERMS = {
    "optimizer": "AdamW",
    "seed": 0,
    "deterministic": True,
    "patience": 0,
    "workers": 0,
    "device": "cpu",
    "amp": False,
    "plots": False,
    "verbose": False,
}
# Found by trying: the drawn images are learned from nothing in 15 epochs only without augmentation by scale.
DRAWN = {"imgsz": IMAGE_SIZE, "batch": 8, "lr0": 0.004, "warmup_epochs": 3, "mosaic": 0.0, "scale": 0.0}
YOURS = {"imgsz": 320, "batch": 16, "lr0": 0.001}


def draw_data(folder: Path, train: int = 192, val: int = 48, seed: int = 0) -> Path:
    """Draw a detection data set of small objects, the same on every machine.

    Each image is 96 x 96 with up to 6 shapes 11 to 19 pixels wide on a patchy, noisy ground.

    Args:
        folder: gets `images/`, `labels/` and `data.yaml`.
        train: number of training images.
        val: number of validation images.
        seed: of the generator.

    Returns:
        The path of `data.yaml`.
    """
    from PIL import Image

    generator = np.random.RandomState(seed)  # its stream is frozen across NumPy releases
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels, boxes = _draw_image(generator)
            Image.fromarray(pixels).save(folder / "images" / split / f"{index:04}.png")
            lines = [f"{label} " + " ".join(f"{value:.6f}" for value in box) for label, *box in boxes]
            (folder / "labels" / split / f"{index:04}.txt").write_text("\n".join(lines) + "\n")
    data = folder / "data.yaml"
    data.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames: [{', '.join(SHAPES)}]\n")
    return data


def _draw_image(generator: np.random.RandomState) -> tuple[np.ndarray, list[tuple]]:
    """Pixels (H, W, 3) and boxes (label, x, y, width, height), relative to the image."""
    size = IMAGE_SIZE
    patches = generator.uniform(90, 160, (4, 4, 3)).repeat(size // 4, 0).repeat(size // 4, 1)
    pixels = patches + generator.normal(0, 12, (size, size, 3))
    rows, columns = np.mgrid[:size, :size]
    taken, boxes = np.zeros((size, size), bool), []
    for _ in range(generator.randint(3, 7)):
        radius = generator.randint(5, 10)
        x, y = generator.randint(radius + 1, size - radius - 1, 2)
        away, down = np.abs(columns - x), np.abs(rows - y)
        square = np.maximum(away, down) <= radius
        label = generator.randint(len(SHAPES))
        mask = (away**2 + down**2 <= radius**2, square, square & (np.minimum(away, down) <= radius // 3))[label]
        colour = COLOURS[label] + generator.uniform(-60, 60, 3)
        if taken[square].any():
            continue
        taken |= square
        pixels[mask] = colour + generator.normal(0, 6, (mask.sum(), 3))
        width = (2 * radius + 1) / size
        boxes.append((label, (x + 0.5) / size, (y + 0.5) / size, width, width))
    return pixels.clip(0, 255).astype(np.uint8), boxes


def run(data: str, weights: str, output: Path, epochs: int, image_size: int | None = None) -> dict[str, dict]:
    """Train a detector without and with EMA on equal terms, draw predictions and gates.

    Args:
        data: a data.yaml, or "" for drawn images.
        weights: a .pt file to start both from, or "" for a fresh YOLO11n.
        output: folder for everything that is written; the runs of an earlier call are replaced.
        epochs: of each of the two trainings.
        image_size: side in pixels; 96 for drawn images and 320 for others by default.

    Returns:
        What was measured, by arm (`plain`, `ema`); the same stands in `results.json`.

    Raises:
        UserError: files that cannot be used.
    """
    import torch

    from . import yolo as host
    from .graft import add

    if data and not Path(data).is_file():
        raise UserError(f"there is no data file {data!r}", "leave it out to use drawn images")
    terms = {**TERMS, **(YOURS if data else DRAWN), "epochs": epochs}
    terms |= {"imgsz": image_size} if image_size else {}
    torch.manual_seed(0)
    source = host.load(weights or "yolo11n.yaml")
    if source.task != "detect":
        raise UserError(
            f"{weights} is a model for the task {source.task!r}", "give one that detects, as yolo11n.pt does"
        )

    output.mkdir(parents=True, exist_ok=True)
    data = str(Path(data).resolve()) if data else str(draw_data(output / "data"))
    files = {"plain": output / "start.pt", "ema": output / "start-ema.pt"}
    torch.save(host.checkpoint(source.model, source.ckpt or {}), files["plain"])
    added = add(str(files["plain"]), "ema", at="neck", output=files["ema"], force=True)
    rows = ", ".join(str(change.row) for change in added.changes)
    _say(
        f"EMA goes behind rows {rows} of {weights or 'a fresh YOLO11n'}: {added.tensors[0]}/{added.tensors[1]} tensors"
    )
    _say(f"kept, and before training the outputs differ by {added.difference:g}")

    arms, models = {}, {}
    for position, (name, file) in enumerate(files.items()):
        trainee = host.YOLO(file)
        trainee.add_callback("on_fit_epoch_end", _reporter(name, epochs))
        began = time.perf_counter()
        metrics = trainee.train(data=data, project=str(output.resolve()), name=name, exist_ok=True, **terms)
        seconds = time.perf_counter() - began
        models[name] = host.YOLO(output / name / "weights" / "best.pt")
        arms[name] = {
            "parameters": sum(p.numel() for p in models[name].model.parameters()),
            "GFLOPs at 640": round(added.flops[position] / 1e9, 3),
            "milliseconds": 0.0,
            "mAP50": round(float(metrics.box.map50), 4),
            "mAP50-95": round(float(metrics.box.map), 4),
            "training seconds": round(seconds, 1),
        }
    for name, latency in _latency({name: model.model for name, model in models.items()}, terms["imgsz"]).items():
        arms[name]["milliseconds"] = round(latency, 1)
    (output / "results.json").write_text(json.dumps({"data": data, "terms": terms, "arms": arms}, indent=2) + "\n")

    pictures = host.validation_images(data)[:3]
    _draw_predictions(models, pictures, terms["imgsz"], output / "predictions.png")
    _draw_gates(models["ema"].model, pictures[0], terms["imgsz"], output / "gates.png")
    return arms


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _reporter(name: str, epochs: int) -> Callable:
    def after_epoch(trainer) -> None:
        if trainer.epoch < epochs:  # called once more after the last
            _say(f"{name:>6}  epoch {trainer.epoch + 1:>3}/{epochs}  mAP50 {trainer.metrics['metrics/mAP50(B)']:.3f}")

    return after_epoch


def _latency(models: dict, size: int, rounds: int = 30) -> dict[str, float]:
    """Median milliseconds of one image, the models taking turns so that the machine's moods hit them alike."""
    import torch

    image = torch.zeros(1, 3, size, size)
    times = {name: [] for name in models}
    with torch.inference_mode():
        for turn in range(rounds + 3):
            for name, model in models.items():
                began = time.perf_counter()
                model.eval()(image)
                if turn >= 3:  # the first ones warm up
                    times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def _draw_predictions(models: dict, pictures: list[Path], size: int, target: Path) -> None:
    """One row for each model, one column for each picture."""
    from PIL import Image

    large = []
    for picture in pictures:  # enlarged first, so that boxes and words fit small images
        with Image.open(picture) as image:
            large.append(image.convert("RGB").resize((480, 480)))
    grid = []
    for model in models.values():
        results = model.predict(large, imgsz=size, conf=0.25, device="cpu", verbose=False)
        drawn = [r.plot(line_width=2, font_size=12)[..., ::-1] for r in results]
        grid.append(np.concatenate(drawn, 1))
    Image.fromarray(np.concatenate(grid)).save(target)


def _draw_gates(model, picture: Path, size: int, target: Path) -> None:
    """The picture and, for each attention, its map averaged over groups on the absolute scale 0..1."""
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    from .attention import Attention

    with Image.open(picture) as image:
        pixels = np.array(image.convert("RGB").resize((size, size)))
    attentions = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    inputs = {}
    hooks = [
        module.register_forward_pre_hook(lambda _module, args, name=name: inputs.update({name: args[0]}))
        for name, module in attentions.items()
    ]
    try:
        with torch.inference_mode():
            model.eval()(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    finally:
        for hook in hooks:
            hook.remove()

    figure = Figure(figsize=(3.2 * (len(inputs) + 1), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(inputs) + 1)
    axes[0].imshow(pixels)
    axes[0].set_title(picture.name, fontsize=9)
    for axis, (name, x) in zip(axes[1:], inputs.items(), strict=True):
        gate = attentions[name].gates(x)["spatial"][0]
        drawn = axis.imshow(gate.mean(0).numpy(), vmin=0, vmax=1)
        spread = float(gate.std(0).mean())
        axis.set_title(f"row {name.split('.')[1]}: mean of {len(gate)} groups, spread {spread:.3f}", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes, label="gate (0.5 when fresh)")
    figure.savefig(target, dpi=110)
