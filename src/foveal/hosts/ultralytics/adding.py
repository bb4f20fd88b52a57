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

from ...attention import Custom, find
from ...errors import UserError
from ...evidence import Task
from ...files import named, require_free, write_whole
from ...surgery import Spec, inside, model_yaml, read
from ...tensors import count, counted
from . import models as host
from . import rebuilding


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
        carried: what the source keeps outside its tensors and this release would build otherwise from its rows, by
            name, as "model.9.cv1.act". The output has it as the source; a training builds it anew.
        width: how somebody else's class takes its width; "" of foveal's own.
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
    carried: tuple[str, ...] = ()
    width: str = ""


def add(
    model: str | os.PathLike,
    spec: str | Spec | type[nn.Module],
    *,
    at: str | int | Sequence[str | int] = (),
    start: str | None = None,
    output: str | os.PathLike | None = None,
    own_row: bool = False,
    force: bool = False,
    trust: bool = False,
) -> Added:
    """Put an attention into a model and write the result; the source stays as it is.

    Args:
        model: a .pt file, or a model YAML or its name such as "yolo11n.yaml".
        spec: the attention, e.g. "ema", "ema(groups=8)", "ema@neck" or "my_attention.py:BiFormer", or a class.
        at: places (`neck`, `P3`, `backbone`, `backbone.P4`, `sppf`, `psa`, `paper`) or row numbers; `neck` by default.
            Behind a dot a place inside these layers: `neck.bottleneck`, `psa.attention`, `head.box`, `16.m.*.cv2`.
        start: "identity" (the default: at step 0 the output equals the source's exactly) or "paper" (the bare module).
        output: file to write, of the same kind as the source; by default beside the current directory's other files,
            named after both, as in yolo11n-ema.pt.
        own_row: give the attention rows of its own, as published YAMLs do, instead of attaching it to the layers;
            behind the row of another attention it always has one.
        force: overwrite `output`.
        trust: load a .pt file that names more than layers of known packages, and run what it names.

    Raises:
        UserError: anything given that cannot work; nothing is written then.
    """
    model, spec = str(named(model, "a model")), _complete(spec, at, start)
    target = _target(model, spec, output, force)
    loaded = host.load(model, trust)
    before = loaded.model.eval()
    model_yaml.require_read(model_yaml.rows(before.yaml), host.split(before.yaml)[1])
    size = Task.of(loaded.task).image_size
    image = photograph(size, host.channels(before))
    with host.refusing(model):  # a file can hold anything
        strides = measured_strides(before)
        outputs, flops = _outputs_and_flops(before, image)
    after, number = _attended(before, model, spec, strides, own_row)
    host.parser.require_in_rows(before)
    attended_outputs, attended_flops = _outputs_and_flops(after, image)
    if spec.start == "identity" and not rebuilding.same(outputs, attended_outputs):
        raise _other_outputs(spec, model, rebuilding.first_difference(before, after, image, dict(enumerate(number))))
    carried = rebuilding.require_rebuilt(after, image, attended_outputs) if target.suffix == ".pt" else ()
    _write(after, loaded, target, image, attended_outputs)
    return Added(
        source=model,
        output=str(target),
        spec=str(spec),
        changes=_changes(before.yaml, after.yaml, number),
        tensors=_kept(before, after, number),
        parameters=(count(before), count(after)),
        flops=(flops, attended_flops),
        image_size=size,
        difference=_difference(outputs, attended_outputs),
        carried=carried,
        width=_width(spec),
    )


def _complete(spec: str | Spec | type[nn.Module], at: str | int | Sequence[str | int], start: str | None) -> Spec:
    spec = read(spec).given(at, start)
    return replace(spec.started("identity"), places=spec.places or ("neck",))


def _attended(
    before: host.Network, name: str, spec: Spec, strides: Sequence[float | None], own_row: bool
) -> tuple[host.Network, list[int]]:
    """The model with the attention at its places, and the number that each of the old rows has in it."""
    rows, paper = model_yaml.rows(before.yaml), find(spec.name).card.paper_place
    places = model_yaml.resolve(spec.places, model_yaml.places(before.yaml, strides), paper, len(rows))
    places = _there(before, places, spec)
    cfg, number = model_yaml.with_attention(before.yaml, spec, places, vars(host.tasks), own_row)
    with host.refusing(name):
        built = host.rebuild(before, cfg)
    return _grafted(before, built, number), number


def _there(model: host.Network, places: Sequence[model_yaml.Place], spec: Spec) -> list[model_yaml.Place]:
    """The places that this model has: of rows that one name means, those whose layers have the place inside them.

    Raises:
        UserError: no row has it, or something is to be replaced that is no part of a layer.
    """
    if spec.replace and not all(place.within for place in places):
        raise UserError(f"{spec} replaces a part of a layer, and names none", "--at psa.attention")
    refused: dict[model_yaml.Place, UserError] = {}
    for place in places:
        try:
            if place.within:
                inside.named(model.model[place.row], place.within)
        except UserError as error:
            refused[place] = error
    found = [place for place in places if place not in refused]
    for place, refusal in refused.items():
        if not any(place.within == each.within for each in found):
            raise refusal
    return found


def _width(spec: Spec) -> str:
    """How somebody else's class takes its width, in words; "" of foveal's own."""
    cls = find(spec.name)
    return f"{spec.label} {cls.card.constraints[0]}" if issubclass(cls, Custom) else ""


def _other_outputs(spec: Spec, model: str, found: str) -> UserError:
    return UserError(
        f"with {spec}, {model} would not compute what it does without: {found}; nothing was written",
        "report it with what foveal doctor prints",
    )


def _target(model: str, spec: Spec, output: str | os.PathLike | None, force: bool) -> Path:
    source = Path(model)
    target = Path(output) if output else Path(f"{source.stem}-{spec.label}{source.suffix}")
    if target.suffix != source.suffix:
        raise UserError(
            f"{model} is a {source.suffix} file, so {target} cannot be a {target.suffix or 'file without suffix'}",
            f"write to {target.with_suffix(source.suffix)}",
        )
    require_free(target, force)
    return target


@torch.no_grad()
def measured_strides(model: host.Network) -> list[float | None]:
    """Stride of each row's output, measured; None where it is not one feature map."""
    size = 256
    heights: dict[int, int | None] = {}

    def note(layer: host.Network, _inputs, out) -> None:
        heights[layer.i] = out.shape[2] if isinstance(out, Tensor) and out.dim() == 4 else None

    hooks = [layer.register_forward_hook(note) for layer in model.model]
    try:
        model(torch.zeros(1, host.channels(model), size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return [size / height if (height := heights[layer.i]) else None for layer in model.model]


def _grafted(before: host.Network, built: host.Network, number: Sequence[int]) -> host.Network:
    """A copy of a model with the attentions of one that the host built from its rows and theirs.

    The old layers, whose rows have other numbers now, stay as they are, with whatever they keep beside their tensors.
    """
    after = copy.deepcopy(before)
    layers = list(built.model)
    for old, new in enumerate(number):
        layer, fresh = after.model[old], layers[new]
        host.parser.require_same_class(old, model_yaml.rows(before.yaml)[old], layer, fresh)
        if inside.grow(layer, fresh):
            layer.foveal = host.Registered
        layer.i, layer.f, layer.np = fresh.i, fresh.f, count(layer)
        layers[new] = layer
    after.model, after.save, after.yaml = nn.Sequential(*layers), built.save, built.yaml
    return after.eval()


def _kept(before: nn.Module, after: nn.Module, number: Sequence[int]) -> tuple[int, int]:
    """How many tensors of one model the other has with equal values, its rows having other numbers, and of how many.

    An attention that replaces a part of a layer leaves out those of that part.
    """
    there, state = after.state_dict(), before.state_dict()
    renamed = {name: re.sub(r"^model\.(\d+)\.", lambda m: f"model.{number[int(m[1])]}.", name) for name in state}
    kept = [name for name in state if renamed[name] in there]
    return sum(torch.equal(state[name], there[renamed[name]]) for name in kept), len(state)


def _write(model: host.Network, loaded: host.YOLO, target: Path, image: Tensor, outputs: list[Tensor]) -> None:
    """Write a checkpoint or a model YAML, read it back and compare before it gets its name."""
    if target.suffix == ".pt":
        saved = host.checkpoint(model, loaded.ckpt)

        def check(part: Path) -> None:
            read = host.load(part, trust=True).model.eval()  # what was screened, or was trusted
            if not rebuilding.same(rebuilding.run(read, image), outputs):
                raise UserError(f"{target} was read back as another model than was written", "try another disk with -o")

        return write_whole(target, lambda path: torch.save(saved, path), check)
    cfg = _portable(model.yaml)
    text = _yaml_text(cfg)
    said = {key: model.yaml[key] for key in ("scale", "channels") if key in model.yaml}

    def check_text(part: Path) -> None:
        read = yaml.safe_load(part.read_text(encoding="utf-8"))
        if read != cfg:
            raise UserError(f"{target} was read back as another model than was written", "write a .pt file instead")
        rebuilding.require_same_tensors(model, host.rebuild(model, {**read, **said}))
        if type(loaded) is not host.YOLO:
            _require_kind(part, target, type(loaded).__name__, Path(model.yaml["yaml_file"]).stem)

    write_whole(target, lambda path: path.write_bytes(text.encode()), check_text)


def photograph(size: int, channels: int) -> Tensor:
    """The host's street scene as a (1, channels, size, size) batch with values in 0..1."""
    with Image.open(host.PHOTOGRAPH) as image:
        pixels = np.asarray(image.convert("RGB").resize((size, size)), dtype=np.float32) / 255
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[torch.arange(channels) % 3]
    return planes[None].contiguous()


def _outputs_and_flops(model: nn.Module, image: Tensor) -> tuple[list[Tensor], int]:
    return counted(lambda: rebuilding.run(model, image))


def _difference(some: list[Tensor], others: list[Tensor]) -> float:
    """Largest absolute difference; what is no number in both differs by nothing."""
    pairs = zip(some, others, strict=True)
    return max(float((one.nan_to_num() - other.nan_to_num()).abs().max()) for one, other in pairs if one.numel())


def _changes(before: dict, after: dict, number: Sequence[int]) -> tuple[Change, ...]:
    old, new = model_yaml.rows(before), model_yaml.rows(after)
    came_from = {there: here for here, there in enumerate(number)}
    texts = [(i, _row_text(old[came_from[i]]) if i in came_from else None, _row_text(row)) for i, row in enumerate(new)]
    return tuple(Change(*text) for text in texts if text[1] != text[2])


def _row_text(row: Sequence) -> str:
    return yaml.safe_dump(list(row), default_flow_style=True, width=10**6).strip()


def _require_kind(part: Path, target: Path, kind: str, stem: str) -> None:
    """A model YAML is read as the kind of model that it is, which the host tells by its name."""
    try:
        host.load(part)
    except UserError:
        raise UserError(
            f"Ultralytics tells a {kind} by its file's name, and {target.name} is no name of one",
            f"write to {stem}-ema.yaml",
        ) from None


def _portable(cfg: dict) -> dict:
    """The rows and settings of a model YAML.

    Of several scales only the one that was built is kept, so that the file's name need not say it.
    """
    cfg = copy.deepcopy(cfg)
    scale = cfg.pop("scale", "")
    for key in ("yaml_file", "channels"):
        cfg.pop(key, None)
    if scale and "scales" in cfg:
        cfg["scales"] = {scale: cfg["scales"][scale]}
    return cfg


def _yaml_text(cfg: dict) -> str:
    """A model YAML with one setting a line and one row a line."""
    lines = []
    for key, value in cfg.items():
        if key in ("backbone", "head"):
            lines += ["", f"{key}:", *(f"  - {_row_text(row)}" for row in value)]
        else:
            style = None if isinstance(value, dict | list) else False  # None sets a mapping of numbers in braces
            lines.append(yaml.safe_dump({key: value}, default_flow_style=style, sort_keys=False, width=10**6).strip())
    return "\n".join(lines) + "\n"
