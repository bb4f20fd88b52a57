"""Models of timm and torchvision by name: `timm:resnet50`, `torchvision:resnet50`.

What stands behind a dot names weights, `timm:resnet50.a1_in1k`, which the library then downloads; else they are fresh.
"""

import difflib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from . import attaching
from .attaching import Row
from .errors import UserError
from .files import write_whole
from .spec import Spec


@dataclass(frozen=True)
class Grown:
    """What `add` did.

    Attributes:
        source: the model's name.
        output: the file that was written.
        spec: the attention, its start and its places.
        rows: what was attached.
        parameters: before and after.
        difference: largest absolute difference of the two models' outputs on noise.
    """

    source: str
    output: str
    spec: str
    rows: tuple[Row, ...]
    parameters: tuple[int, int]
    difference: float


def add(
    name: str, spec: str, *, at: str = "", start: str | None = None, output: str | None = None, force: bool = False
) -> Grown:
    """Put an attention into a model of a zoo and write the whole model, as `torch.save` does.

    Args:
        name: such as "timm:resnet50".
        spec: the attention.
        at: places, as `foveal.attach` takes them.
        start: "identity" (the default) or "paper".
        output: a .pt file; by default named after both, as in resnet50-ema.pt. In a process that can import foveal and
            the zoo, `torch.load(output, weights_only=False)` is the model.
        force: overwrite `output`.

    Raises:
        UserError: anything given that cannot work; nothing is written then.
    """
    wanted = Spec.parse(spec).given(at, start)
    target = Path(output or f"{name.partition(':')[2].partition('.')[0]}-{wanted.name}.pt")
    if target.exists() and not force:
        raise UserError(f"{target} exists", "choose another name with -o, or overwrite it with --force")
    if target.suffix != ".pt" or not target.parent.is_dir():
        raise UserError(f"cannot write {target}", "give a .pt file in a folder that is there")
    model = load(name).eval()
    noise = torch.rand(attaching.image(model).shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, count = model(noise), _count(model)
        rows = attaching.attach(model, wanted)
        difference = float((model(noise) - before).abs().max())
    write_whole(target, lambda part: torch.save(model, part))
    written = str(replace(wanted, start=wanted.start or "identity"))
    return Grown(name, str(target), written, tuple(rows), (count, _count(model)), difference)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def load(name: str) -> nn.Module:
    """Build a model.

    Args:
        name: such as "timm:resnet50" or "torchvision:resnet50.IMAGENET1K_V2".

    Raises:
        UserError: the package is missing, has no such model or weights, or cannot download them.
    """
    zoo, _, rest = name.partition(":")
    if importlib.util.find_spec(zoo) is None:
        raise UserError(f"{name} needs {zoo}, which is not installed", f"pip install {zoo}")
    model, _, weights = rest.partition(".")
    try:
        return {"timm": _timm, "torchvision": _torchvision}[zoo](model, weights)
    except OSError as error:  # what both raise where there is no network
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the weights of {name} cannot be had: {said}", f"for fresh ones write {zoo}:{model}") from None


def _timm(model: str, weights: str) -> nn.Module:
    import timm

    if not timm.is_model(model):
        raise _unknown("timm", model, timm.list_models())
    named = f"{model}.{weights}" if weights else model
    if weights and named not in (there := timm.list_pretrained(f"{model}.*")):
        raise _unknown("timm", named, there)
    return timm.create_model(named, pretrained=bool(weights))


def _torchvision(model: str, weights: str) -> nn.Module:
    from torchvision import models

    if model not in (there := models.list_models()):
        raise _unknown("torchvision", model, there)
    enum = models.get_model_weights(model)
    if weights and weights not in enum.__members__:
        raise _unknown("torchvision", f"{model}.{weights}", [f"{model}.{each}" for each in enum.__members__])
    return models.get_model(model, weights=enum[weights] if weights else None)


def _unknown(zoo: str, given: str, there: list[str]) -> UserError:
    near = difflib.get_close_matches(given, there, n=1, cutoff=0.0) or [given.partition(".")[0]]
    return UserError(f"{zoo} has no {given!r}", f"for example {zoo}:{near[0]}")
