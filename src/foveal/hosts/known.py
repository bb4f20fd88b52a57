"""The hosts that there are, and which of them trains a model."""

from importlib import import_module

from ..errors import UserError
from ..evidence import TASKS, Task
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


def task_of(model: str, data: str, by: str = "") -> Task:
    """What a study asks of a model on some data.

    Args:
        model: a file or a name.
        data: likewise.
        by: which of the task's metrics judges; the first if that is not said.

    Raises:
        UserError: no host owns the model, nothing is kept of what such models say, or there is no such metric.
    """
    task = host_of(model).task(model, data)
    if not task.metrics:
        said = f"{model} is a model for {task.name}, of which a study keeps nothing to be judged by"
        raise UserError(said, f"a study is for {', '.join(one.name for one in TASKS.values() if one.metrics)}")
    return task.judged(by) if by else task
