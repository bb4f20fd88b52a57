"""The hosts that there are, and which of them trains a model."""

from importlib import import_module

from ..errors import UserError
from .interface import Host

HOSTS = ["foveal.hosts.ultralytics.host"]  # modules with a `HOST`


def owner(model: str) -> Host | None:
    """The host that owns a model, by the form of its name; None if none does."""
    return next((host for host in (import_module(name).HOST for name in HOSTS) if host.owns(model)), None)


def host_of(model: str) -> Host:
    """The host that owns a model.

    Raises:
        UserError: no host owns a model of such a name.
    """
    if found := owner(model):
        return found
    raise UserError(f"model: {model!r} is neither a .pt file nor a model YAML", "model: yolo11n.pt")
