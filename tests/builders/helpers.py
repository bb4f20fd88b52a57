"""What several test files need."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

import forks
from draws import draw as draw
from draws import drawn_state as drawn_state
from draws import filled as filled
from foveal import UserError

GOLDEN = Path(__file__).parents[1] / "golden"


def fitting(cls: type, channels: int) -> torch.nn.Module:
    """`cls` at its defaults, or with the arguments of which its refusal says that they fit."""
    try:
        return cls(channels)
    except UserError as refusal:
        said = refusal
    assert str(channels) in said.message, said
    assert said.hint.endswith(" fits"), said
    return cls(**{"channels": channels} | hinted(said))


def hinted(refusal: UserError) -> dict[str, int]:
    """The arguments that a refusal says fit."""
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", refusal.hint)}


def run_form(module: torch.nn.Module, form: str, x: torch.Tensor, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output and the gradient of the input and of every parameter, by name, in fp64."""
    module.form = form
    module.zero_grad()
    x = x.detach().clone().requires_grad_()
    out = module(x)
    out.backward(dy.to(out.dtype))
    results = {"output": out, "input": x.grad}
    results |= {name: parameter.grad for name, parameter in module.named_parameters()}
    return {name: tensor.detach().double() for name, tensor in results.items()}


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def run(command: list[str], cwd: Path, **env: str) -> str:
    """What a command prints; fails with its stderr, and never waits for ever."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def in_fresh_process(code: str, cwd: Path, **env: str) -> str:
    """What `code` prints in an interpreter that has imported nothing."""
    return run([sys.executable, "-c", code], cwd, **env)


def in_fork(code: str, cwd: Path) -> str:
    """What `code` prints in an interpreter that has imported torch and Ultralytics, and nothing of foveal."""
    return run_forked([sys.executable, "-c", code], cwd)


def run_forked(command: list[str], cwd: Path, **env: str) -> str:
    """`run` in such an interpreter."""
    done = forks.run(command, cwd, **env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def entered(modules: Iterable[str], cwd: Path, before: str = "", **env: str) -> dict[str, str]:
    """What importing each module of foveal says, as the first that is imported: its error, or ""."""
    groups = [[*modules]] if hasattr(os, "fork") else [[name] for name in modules]
    printed = [in_fresh_process(before + _ENTER.format(group), cwd, **env) for group in groups]
    return dict(json.loads(line) for text in printed for line in text.splitlines() if line.startswith("["))


_ENTER = """
import importlib, json, os, torch
copies = hasattr(os, "fork")
for name in {}:
    if not (child := copies and os.fork()):
        said = ""
        try:
            importlib.import_module(name)
        except Exception as error:
            said = f"{{type(error).__name__}}: {{error}}"
        print(json.dumps([name, said]), flush=True)
        copies and os._exit(0)
    os.waitpid(child, 0) if copies else None
"""


def last_json(printed: str) -> object:
    """The last line of what a program printed, as JSON."""
    return json.loads(printed.strip().splitlines()[-1])


def swept(values: Iterable, *kept: object, ids: Callable[[object], str] = str) -> list:
    """All values of a long list for `parametrize`; those that are not kept run with `--sweep` only (`make sweep`).

    A tuple is a value for each of several arguments.
    """
    values = [*values]
    assert {*kept} <= {ids(value) for value in values}
    marks = [() if ids(value) in kept else pytest.mark.sweep for value in values]
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*row, id=ids(value), marks=m) for row, value, m in zip(rows, values, marks, strict=True)]


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait, because a busy machine may take its time, but not for ever."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
