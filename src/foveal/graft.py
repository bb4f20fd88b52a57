"""Put an attention into a model file, keep every pretrained tensor, and prove it."""

import copy
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from . import insert
from . import yolo as host
from .attention import find
from .errors import UserError
from .files import write_text, write_whole
from .spec import Spec


@dataclass(frozen=True)
class Change:
    """One row that is new or not as before: its number, and the row before (None if new) and after."""

    row: int
    before: str | None
    after: str


@dataclass(frozen=True)
class Added:
    """What `add` did.

    Attributes:
        source: the model file or name that was read.
        output: the file that was written.
        spec: the attention, its start and its places.
        changes: rows that are new or changed.
        tensors: how many tensors of the source are in the output, and how many the source has.
        parameters: before and after.
        flops: before and after, of one image of `image_size`; a multiply-accumulate counts as two.
        image_size: side of the square image in pixels.
        difference: largest absolute difference of the two models' raw outputs on a photograph.
    """

    source: str
    output: str
    spec: str
    changes: tuple[Change, ...]
    tensors: tuple[int, int]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    image_size: int
    difference: float


def add(
    model: str | os.PathLike,
    spec: str | Spec,
    *,
    at: str | Sequence[str] = (),
    start: str | None = None,
    output: str | os.PathLike | None = None,
    own_row: bool = False,
    force: bool = False,
) -> Added:
    """Put an attention into a model and write the result; the source stays as it is.

    Args:
        model: a .pt file, or a model YAML or its name such as "yolo11n.yaml".
        spec: the attention, e.g. "ema", "ema(groups=8)" or "ema@neck".
        at: places (`neck`, `P3`, `backbone`, `backbone.P4`, `sppf`, `psa`, `paper`) or row numbers; `neck` by default.
        start: "identity" (the default: at step 0 the output equals the source's exactly) or "paper" (the bare module).
        output: file to write, of the same kind as the source; by default beside the current directory's other files,
            named after both, as in yolo11n-ema.pt.
        own_row: give the attention rows of its own, as published YAMLs do, instead of attaching it to the layers.
        force: overwrite `output`.

    Raises:
        UserError: anything given that cannot work; nothing is written then.
    """
    model, spec = str(model), _complete(spec, at, start)
    target = _target(model, spec, output, force)
    loaded = host.load(model)
    with host.refusing(model):  # a file can hold anything
        before = loaded.model.eval()
        strides = _strides(before)
    rows = insert.rows(before.yaml)
    indices = insert.resolve(
        spec.places, insert.places(before.yaml, strides), find(spec.name).card.paper_place, len(rows)
    )
    if own_row:
        cfg, number = insert.with_rows(before.yaml, spec, indices)
    else:
        cfg, number = insert.with_suffix(before.yaml, spec, indices), range(len(rows))
    image_size = 224 if loaded.task == "classify" else 640
    with host.refusing(model):
        after = host.rebuild(before, cfg).eval()
        tensors = _carry_over(before, after, number)
        image = _photograph(image_size, cfg.get("channels", 3))
        outputs, flops = zip(*(_run(m, image) for m in (before, after)), strict=True)
        difference = max(float((a - b).abs().max()) for a, b in zip(*outputs, strict=True))

    if target.suffix == ".pt":
        saved = host.checkpoint(after, loaded.ckpt)
        write_whole(target, lambda path: torch.save(saved, path))
    else:
        write_text(target, _yaml_text(cfg))
    return Added(
        source=model,
        output=str(target),
        spec=str(spec),
        changes=_changes(before.yaml, cfg, number),
        tensors=tensors,
        parameters=tuple(sum(p.numel() for p in m.parameters()) for m in (before, after)),
        flops=flops,
        image_size=image_size,
        difference=difference,
    )


def _complete(spec: str | Spec, at: str | Sequence[str], start: str | None) -> Spec:
    spec = (Spec.parse(spec) if isinstance(spec, str) else spec).given(at, start)
    return replace(spec, places=spec.places or ("neck",), start=spec.start or "identity")


def _target(model: str, spec: Spec, output: str | os.PathLike | None, force: bool) -> Path:
    source = Path(model)
    target = Path(output) if output else Path(f"{source.stem}-{spec.name}{source.suffix}")
    if target.suffix != source.suffix:
        raise UserError(
            f"{model} is a {source.suffix} file, so {target} cannot be a {target.suffix or 'file without suffix'}",
            f"write to {target.with_suffix(source.suffix)}",
        )
    if target.exists() and not force:
        raise UserError(f"{target} exists", "choose another name with -o, or overwrite it with --force")
    if not target.parent.is_dir():
        raise UserError(f"there is no folder {str(target.parent)!r} to write to", "create it first")
    return target


@torch.no_grad()
def _strides(model: nn.Module) -> list[float | None]:
    """Stride of each row's output, measured; None where it is not one feature map."""
    size, heights = 256, {}

    def note(layer: nn.Module, _inputs, out) -> None:
        heights[layer.i] = out.shape[2] if isinstance(out, Tensor) and out.dim() == 4 else None

    hooks = [layer.register_forward_hook(note) for layer in model.model]
    try:
        model(torch.zeros(1, model.yaml.get("channels", 3), size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return [size / heights[layer.i] if heights[layer.i] else None for layer in model.model]


def _carry_over(before: nn.Module, after: nn.Module, number: Sequence[int]) -> tuple[int, int]:
    """Load every tensor of one model into the other, whose rows have other numbers."""
    state = {
        re.sub(r"^model\.(\d+)\.", lambda m: f"model.{number[int(m[1])]}.", name): tensor
        for name, tensor in before.state_dict().items()
    }
    there = after.state_dict()
    fits = {name: tensor for name, tensor in state.items() if name in there and there[name].shape == tensor.shape}
    if len(fits) < len(state):
        raise UserError(
            f"only {len(fits)} of {len(state)} tensors fit the model that the file's own YAML describes, "
            "so its layers were changed by hand",
            "start from the file as it was trained",
        )
    after.load_state_dict(fits, strict=False)
    return len(fits), len(state)


def _photograph(size: int, channels: int) -> Tensor:
    """The host's street scene as a (1, channels, size, size) batch with values in 0..1."""
    with Image.open(host.PHOTOGRAPH) as image:
        pixels = np.asarray(image.convert("RGB").resize((size, size)), dtype=np.float32) / 255
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[torch.arange(channels) % 3]
    return planes[None].contiguous()


@torch.no_grad()
def _run(model: nn.Module, image: Tensor) -> tuple[list[Tensor], int]:
    with FlopCounterMode(display=False) as counter:
        out = model(image)
    return _tensors(out), counter.get_total_flops()


def _tensors(out: object) -> list[Tensor]:
    """All tensors in a nest of tuples, lists and dicts."""
    if isinstance(out, Tensor):
        return [out]
    parts = out.values() if isinstance(out, dict) else out if isinstance(out, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _changes(before: dict, after: dict, number: Sequence[int]) -> tuple[Change, ...]:
    old, new = insert.rows(before), insert.rows(after)
    came_from = {there: here for here, there in enumerate(number)}
    texts = [(i, _row_text(old[came_from[i]]) if i in came_from else None, _row_text(row)) for i, row in enumerate(new)]
    return tuple(Change(*text) for text in texts if text[1] != text[2])


def _row_text(row: Sequence) -> str:
    return yaml.safe_dump(list(row), default_flow_style=True, width=10**6).strip()


def _yaml_text(cfg: dict) -> str:
    """A model YAML with one row a line.

    Of several scales only the one that was built is kept, so that the file's name need not say it.
    """
    cfg = copy.deepcopy(cfg)
    scale = cfg.pop("scale", "")
    for key in ("yaml_file", "channels"):
        cfg.pop(key, None)
    if scale and "scales" in cfg:
        cfg["scales"] = {scale: cfg["scales"][scale]}
    parts = {part: cfg.pop(part) for part in ("backbone", "head")}
    text = yaml.safe_dump(cfg, sort_keys=False, default_flow_style=None)
    for part, its_rows in parts.items():
        text += f"\n{part}:\n" + "".join(f"  - {_row_text(row)}\n" for row in its_rows)
    return text
