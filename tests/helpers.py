"""What several test files need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers in fp64 that are the same on every machine and in every release."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with every parameter drawn anew: at their initial zeros and ones wrong forms can agree."""
    for offset, (_, parameter) in enumerate(sorted(module.named_parameters())):
        parameter.data.copy_(0.7 * draw(1000 + 100 * seed + offset, *parameter.shape))
    return module


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


def last_json(printed: str) -> object:
    """The last line of what a program printed, as JSON."""
    return json.loads(printed.strip().splitlines()[-1])
