"""Models of timm and torchvision by name: `timm:resnet50`, `torchvision:resnet50`.

What stands behind a dot names weights, `timm:resnet50.a1_in1k`, which the library then downloads; else they are fresh.
"""

import difflib
import importlib.util

from torch import nn

from .errors import UserError

ZOOS = ("timm", "torchvision")


def known(name: str) -> bool:
    """Whether a name is one of a zoo's models, as far as its form tells."""
    return name.partition(":")[0] in ZOOS and ":" in name


def load(name: str, **arguments: object) -> nn.Module:
    """Build a model.

    Args:
        name: such as "timm:resnet50" or "torchvision:resnet50.IMAGENET1K_V2".
        arguments: of its constructor, such as `num_classes`.

    Raises:
        UserError: the package is missing, or has no such model or weights.
    """
    zoo, _, rest = name.partition(":")
    if importlib.util.find_spec(zoo) is None:
        raise UserError(f"{name} needs {zoo}, which is not installed", f"pip install {zoo}")
    model, _, weights = rest.partition(".")
    return {"timm": _timm, "torchvision": _torchvision}[zoo](name, model, weights, arguments)


def _timm(name: str, model: str, weights: str, arguments: dict[str, object]) -> nn.Module:
    import timm

    if not timm.is_model(model):
        raise _unknown(name, model, timm.list_models())
    if weights and f"{model}.{weights}" not in timm.list_pretrained(f"{model}.*"):
        raise _unknown(name, f"{model}.{weights}", timm.list_pretrained(f"{model}.*"))
    return timm.create_model(f"{model}.{weights}" if weights else model, pretrained=bool(weights), **arguments)


def _torchvision(name: str, model: str, weights: str, arguments: dict[str, object]) -> nn.Module:
    from torchvision import models

    if model not in models.list_models():
        raise _unknown(name, model, models.list_models())
    enum = models.get_model_weights(model)
    if weights and weights not in enum.__members__:
        raise _unknown(name, f"{model}.{weights}", [f"{model}.{each}" for each in enum.__members__])
    return models.get_model(model, weights=enum[weights] if weights else None, **arguments)


def _unknown(name: str, given: str, there: list[str]) -> UserError:
    near = difflib.get_close_matches(given, there, n=1, cutoff=0.0)
    zoo = name.partition(":")[0]
    return UserError(
        f"{zoo} has no {given!r}", f"for example {zoo}:{near[0]}" if near else "without what is behind the dot"
    )
