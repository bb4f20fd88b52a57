"""Models of timm and torchvision as classifiers of Ultralytics, which trains, judges, loads and exports them.

The host's parser makes layers of a dictionary, and its trainers build their model anew from that of the model they are
given. So importing this module wraps the parser once more: of a dictionary with the key `zoo` it makes three layers,
`Normalise`, the zoo's model and `Answer`. A checkpoint names these classes, so loading one imports this module, and
everything works in a process that never heard of foveal.
"""

import functools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from ... import tensors
from ...errors import REFUSALS, UserError, one_line
from ...evidence import CLASSIFY
from ...surgery import Spec, attaching
from .. import zoo
from . import models as host

ZOO = "zoo"  # the key of the model's name in the host's dictionary


class Normalise(nn.Module):
    """The host's images, whose colours are 0..1, as a model of a zoo wants them; in the model, so that exports have it.

    Args:
        mean: to subtract from each colour.
        deviation: to divide by.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]):
        super().__init__()
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W), normalised."""
        return (x - self.mean) / self.deviation


class Answer(host.tasks.Classify):
    """The end of the host's head: what it returns where, without layers of its own.

    A subclass of the host's, because exporters look for that.

    Args:
        classes: how many.
    """

    def __init__(self, classes: int):
        nn.Module.__init__(self)
        self.linear = SimpleNamespace(out_features=classes)  # where the host looks up how many there are

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, classes) in training, else probabilities and logits; in an export probabilities alone."""
        if self.training:
            return x
        probabilities = x.softmax(1)
        return probabilities if self.export else (probabilities, x)


Normalise.__module__ = Answer.__module__ = "foveal.classifier"  # as files name them


def write(name: str, spec: Spec | None, names: dict[int, str], target: Path) -> None:
    """Write a checkpoint from which the host's trainer starts.

    What is drawn comes from torch's generator, and what a model shares with the same one without an attention is the
    same for both.

    Args:
        name: such as "timm:resnet50(stem=cifar)", see `zoo.load`.
        spec: an attention and its places, or None.
        names: of the classes, by index.
        target: a .pt file.

    Raises:
        UserError: no such model, one that is no classifier of colour images, or an attention that does not fit it.
    """
    cfg = {
        "nc": len(names),
        "channels": 3,
        ZOO: name,
        "attention": str(spec) if spec else "",
        "backbone": [],
        "head": [[-1, 1, "Classify", ["nc"]]],  # by which the host tells the task
    }
    model = host.tasks.ClassificationModel(cfg, verbose=False)
    _require_classifier(model.model[1], len(names), name)
    model.yaml[ZOO] = str(replace(zoo.Name.parse(name), weights=""))  # whoever builds it anew has the weights already
    model.names, model.task = dict(names), CLASSIFY
    host.save(model, {"train_args": {"task": model.task}}, target)


def digests(name: str) -> dict[str, str]:
    """A short digest of each downloaded tensor of a zoo's model, by its name in a classifier; none of a fresh one."""
    if not zoo.Name.parse(name).weights:
        return {}
    return {f"model.1.{tensor}": digest for tensor, digest in tensors.digests(zoo.load(name)).items()}


def _layers(cfg: dict) -> nn.Sequential:
    inner = zoo.load(cfg[ZOO], cfg["nc"])
    if cfg.get("attention"):
        attaching.attach(inner, cfg["attention"])
    layers = nn.Sequential(Normalise(*zoo.normalisation(inner)), inner, Answer(cfg["nc"]))
    for index, layer in enumerate(layers):  # what the host keeps on every layer
        vars(layer).update(i=index, f=-1, type=type(layer).__name__, np=tensors.count(layer))
    return layers


def _require_classifier(model: nn.Module, classes: int, name: str) -> None:
    zeros = attaching.example_input(model)
    if zeros.shape[1] != 3:
        raise UserError(f"{name} reads {zeros.shape[1]} channels, and an image has 3", "leave in_chans out")
    if getattr(model, "aux_logits", False):
        plain = name.partition("(")[0]
        raise UserError(f"{name} answers more than once in training", f"write {plain}(aux_logits=False)")
    training = model.training
    try:
        with torch.no_grad():
            out = model.eval()(zeros)
    except REFUSALS as error:
        said = f"{name} cannot answer for an image: {one_line(error, named=True)}"
        raise UserError(said, "choose a model that classifies images") from None
    model.train(training)
    if not isinstance(out, Tensor) or tuple(out.shape) != (1, classes):
        raise UserError(f"{name} does not return one number for each class", "choose a model that classifies images")


def _register() -> None:
    original = host.tasks.parse_model

    @functools.wraps(original)
    def parse(d: dict, ch: int, verbose: bool = True):
        return (_layers(d), []) if ZOO in d else original(d, ch, verbose)

    host.tasks.parse_model = parse


_register()
