"""Models of timm and torchvision by name: `timm:resnet50`, `torchvision:resnet50`.

What stands behind a dot names weights, `timm:resnet50.a1_in1k`, which the library then downloads; else they are fresh.
What stands in parentheses is given to the library's builder, `timm:mobilenetv2_100(drop_rate=0.2)`, but for
`stem=cifar`, which is ours: the stem that ResNets have for images of 32 x 32 pixels.
"""

import contextlib
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import REFUSALS, UserError, one_line, require_installed
from ..files import require_free, write_whole
from ..surgery import Row, Spec, attaching, read_arguments
from ..tensors import count

ZOOS = ("timm", "torchvision")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of its colours in 0..1

_FORM = re.compile(r"(?P<zoo>\w+):(?P<model>[^.()]+)(?:\.(?P<weights>[^()]+))?(?:\((?P<arguments>.*)\))?")
_EXAMPLE = "timm:resnet50(stem=cifar)"


@dataclass(frozen=True)
class Name:
    """A model's name in its parts.

    Attributes:
        zoo: "timm" or "torchvision".
        model: as the library calls it.
        weights: as the library calls them; empty for fresh ones.
        arguments: of the library's builder, and `stem`.
    """

    zoo: str
    model: str
    weights: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Read the form `str` writes.

        Raises:
            UserError: the text has another form.
        """
        match = _FORM.fullmatch(text)
        if not match or match["zoo"] not in ZOOS:
            raise UserError(f"cannot read {text!r} as a model of a zoo", f"write for example {_EXAMPLE}")
        arguments = read_arguments(match["arguments"] or "", text, _EXAMPLE)
        return cls(match["zoo"], match["model"], match["weights"] or "", arguments)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        return (
            f"{self.zoo}:{self.model}"
            + (f".{self.weights}" if self.weights else "")
            + (f"({inside})" if inside else "")
        )


def is_name(text: str) -> bool:
    """Whether a text is the name of a zoo's model, by its beginning."""
    return text.startswith(tuple(f"{zoo}:" for zoo in ZOOS))


@dataclass(frozen=True)
class Added:
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
) -> Added:
    """Put an attention into a model of a zoo and write the whole model, as `torch.save` does.

    Args:
        name: such as "timm:resnet50" or "timm:resnet50(stem=cifar)".
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
    target = Path(output or f"{Name.parse(name).model}-{wanted.label}.pt")
    require_free(target, force)
    if target.suffix != ".pt":
        raise UserError(f"{target} is no name for a checkpoint", f"write to {target.with_suffix('.pt')}")
    model = load(name).eval()
    noise = torch.rand(attaching.example_input(model).shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, size = model(noise), count(model)
        rows = attaching.attach(model, wanted)
        after = model(noise)
    difference = float((after - before).abs().max())
    if wanted.start != "paper" and difference != 0:
        raise UserError(
            f"with {wanted}, {name} would not compute what it does without: outputs differ by {difference:g}",
            "report it with what foveal doctor prints",
        )

    @torch.no_grad()
    def check(part: Path) -> None:
        if not torch.equal(torch.load(part, weights_only=False)(noise), after):
            raise UserError(f"{target} was read back as another model than was written", "try another disk with -o")

    write_whole(target, lambda part: torch.save(model, part), check)
    written = str(wanted.started("identity"))
    return Added(name, str(target), written, tuple(rows), (size, count(model)), difference)


def load(name: str, classes: int | None = None) -> nn.Module:
    """Build a model.

    Args:
        name: such as "timm:resnet50", "timm:resnet50(stem=cifar)" or "torchvision:resnet50.IMAGENET1K_V2".
        classes: outputs of its last layer, which is fresh if the weights are for another number; by default the
            library's own number.

    Raises:
        UserError: the package is missing, has no such model or weights, cannot download them, or refuses an argument.
    """
    wanted = Name.parse(name)
    require_installed(name, (wanted.zoo,), wanted.zoo)
    arguments = dict(wanted.arguments)
    stem = arguments.pop("stem", None)
    if classes is not None and "num_classes" in arguments:
        raise UserError(f"{name} says num_classes, but the data set has {classes}", "leave num_classes out")
    model = {"timm": _timm, "torchvision": _torchvision}[wanted.zoo](wanted, arguments, classes)
    if stem is not None:
        _small(model, stem, name)
    return model


def normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each colour, in 0..1, by which a model wants its images normalised."""
    known = getattr(model, "pretrained_cfg", None) or {}  # of timm's models
    mean, deviation = (known.get(key) or default for key, default in zip(("mean", "std"), IMAGENET, strict=True))
    return tuple(mean), tuple(deviation)


def _timm(wanted: Name, arguments: dict[str, Any], classes: int | None) -> nn.Module:
    import timm

    if not timm.is_model(wanted.model):
        raise _unknown("timm", wanted.model, timm.list_models())
    named = f"{wanted.model}.{wanted.weights}" if wanted.weights else wanted.model
    if wanted.weights and named not in (there := timm.list_pretrained(f"{wanted.model}.*")):
        raise _unknown("timm", named, there)
    if classes is not None:
        arguments = {**arguments, "num_classes": classes}
    with _refusing(wanted):
        return timm.create_model(named, pretrained=bool(wanted.weights), **arguments)


def _torchvision(wanted: Name, arguments: dict[str, Any], classes: int | None) -> nn.Module:
    from torchvision import models

    if wanted.model not in (there := models.list_models()):
        raise _unknown("torchvision", wanted.model, there)
    enum = models.get_model_weights(wanted.model)
    if wanted.weights and wanted.weights not in enum.__members__:
        raise _unknown(
            "torchvision", f"{wanted.model}.{wanted.weights}", [f"{wanted.model}.{each}" for each in enum.__members__]
        )
    if classes is not None and not wanted.weights:
        arguments = {**arguments, "num_classes": classes}
    with _refusing(wanted):
        model = models.get_model(wanted.model, weights=enum[wanted.weights] if wanted.weights else None, **arguments)
    if classes is not None and wanted.weights:  # torchvision loads weights with all of their classes only
        _replace_last(model, classes)
    return model


@contextlib.contextmanager
def _refusing(wanted: Name) -> Iterator[None]:
    plain = f"{wanted.zoo}:{wanted.model}"
    try:
        yield
    except OSError as error:  # what both raise where there is no network
        said = f"the weights of {wanted} cannot be had: {one_line(error)}"
        raise UserError(said, f"for fresh ones write {plain}") from None
    except REFUSALS as error:
        if not wanted.arguments:
            raise
        said = f"{wanted} cannot be built: {one_line(error, named=True)}"
        raise UserError(said, f"write for example {plain}") from None


def _replace_last(model: nn.Module, classes: int) -> None:
    """A fresh last layer with so many outputs."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    name, old = layers[-1]
    parent, _, child = name.rpartition(".")
    if isinstance(old, nn.Conv2d):
        height, width = old.kernel_size
        new: nn.Module = nn.Conv2d(old.in_channels, classes, (height, width))
    else:
        new = nn.Linear(old.in_features, classes)
    setattr(model.get_submodule(parent), child, new)


def _small(model: nn.Module, stem: object, name: str) -> None:
    """Give a ResNet the stem for small images, which keeps their size."""
    if stem != "cifar":
        raise UserError(f"{name}: stem={stem!r} is not a stem", "write stem=cifar")
    old, pool = (getattr(model, part, None) for part in ("conv1", "maxpool"))
    if not (isinstance(old, nn.Conv2d) and old.kernel_size == (7, 7) and isinstance(pool, nn.Module)):
        raise UserError(
            f"{name} has no 7 x 7 convolution 'conv1' and 'maxpool' that stem=cifar could replace",
            f"write for example {_EXAMPLE}",
        )
    model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as ResNets draw theirs
    model.maxpool = nn.Identity()
    known = getattr(model, "pretrained_cfg", None) or {}
    vars(model)["pretrained_cfg"] = {**known, "input_size": (old.in_channels, 32, 32)}  # of what it is traced with


def _unknown(zoo: str, given: str, there: list[str]) -> UserError:
    near = difflib.get_close_matches(given, there, n=1, cutoff=0.0) or [given.partition(".")[0]]
    return UserError(f"{zoo} has no {given!r}", f"for example {zoo}:{near[0]}")
