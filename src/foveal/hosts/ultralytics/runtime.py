"""The runtimes of exported files, by which `yolo predict` runs them, too.

Run as a program, it is one of them in a process of its own:

    python -m foveal.hosts.ultralytics.runtime FILE DEVICE FOLDER
"""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import REFUSALS
from . import models  # noqa: F401  (before Ultralytics itself, because it says if that is missing or too old)

# isort: split
from ultralytics.nn.autobackend import AutoBackend

Outputs = list[Tensor]
Runtime = Callable[[Sequence[Tensor]], list[Outputs]]

# What converters raise for a model that they cannot write, and runtimes for an input that a file cannot take.
FAILURES = (*REFUSALS, ImportError, SystemError, subprocess.SubprocessError)
_BATCHES, _OUTPUTS, _WRONG = "batches.npz", "outputs.npz", "wrong.txt"


class CannotRunError(Exception):
    """A runtime refused a file, or an input of it."""


def start(path: Path, device: str | None, exact: bool = False) -> Runtime:
    """What runs a file on batches, by the runtime that the host takes for it.

    Args:
        path: of the file or folder.
        device: as the host takes it.
        exact: keep full precision where the runtime would round, which is OpenVINO's on some CPUs.

    Raises:
        CannotRunError: it does not load. What is returned raises the same for what it cannot run.
    """
    if path.name.endswith("_ncnn_model"):  # some of whose files do not fail but end the process
        return _in_another_process(path, device)
    return _in_this_process(path, device, exact)


def _in_this_process(path: Path, device: str | None, exact: bool) -> Runtime:
    with refusing():
        backend = AutoBackend(str(path), device=torch.device(device or "cpu"))
        compiled = _exact(path) if exact and hasattr(backend, "ov_compiled_model") else None

    @torch.no_grad()
    def run(images: Tensor) -> Outputs:
        with refusing():
            if compiled:
                return [torch.from_numpy(output.copy()) for output in compiled(images.numpy()).values()]
            return [output.float().cpu().clone() for output in listed(backend(images.to(backend.device)))]

    return lambda batches: [run(images) for images in batches]


def _exact(path: Path):
    import openvino

    core = openvino.Core()
    return core.compile_model(core.read_model(next(path.glob("*.xml"))), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _in_another_process(path: Path, device: str | None) -> Runtime:
    def run(batches: Sequence[Tensor]) -> list[Outputs]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.savez(folder / _BATCHES, *(images.numpy() for images in batches))
            words = [sys.executable, "-m", "foveal.hosts.ultralytics.runtime", str(path), device or "cpu", name]
            code = subprocess.run(words, capture_output=True, check=False).returncode
            if (folder / _WRONG).exists():
                raise CannotRunError((folder / _WRONG).read_text(encoding="utf-8"))
            if not (folder / _OUTPUTS).exists():
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise CannotRunError(f"its runtime ended the process ({how})")
            with np.load(folder / _OUTPUTS) as stored:
                outputs: list[Outputs] = [[] for _ in batches]
                for key in stored.files:
                    outputs[int(key.partition("-")[0])].append(torch.from_numpy(stored[key]))
                return outputs

    return run


def main(path: str, device: str, name: str) -> None:
    """Run a file on the batches in a folder, and leave there what came out or why nothing did."""
    folder = Path(name)
    with np.load(folder / _BATCHES) as stored:
        batches = [torch.from_numpy(stored[key]) for key in stored.files]
    try:
        found = _in_this_process(Path(path), device, exact=False)(batches)
    except CannotRunError as error:
        (folder / _WRONG).write_text(str(error), encoding="utf-8")
        return
    arrays = {f"{i}-{j}": out.numpy() for i, outputs in enumerate(found) for j, out in enumerate(outputs)}
    part = folder / f"part-{_OUTPUTS}"  # a runtime may still end the process after it has answered
    np.savez(part, **arrays)  # type: ignore[arg-type]  # none is called allow_pickle
    part.rename(folder / _OUTPUTS)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn what runtimes raise into `CannotRunError`, with what they say of it in one line."""
    try:
        yield
    except FAILURES + own_errors() as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # Torch's begins with a stack of calls.
        raise CannotRunError((lines[-1] if "Traceback" in str(error) else " ".join(lines))[:240]) from error


def own_errors() -> tuple[type[Exception], ...]:
    """The exceptions of a runtime that are no kinds of Python's."""
    state = sys.modules.get("onnxruntime.capi.onnxruntime_pybind11_state")
    named = vars(state or object).values()
    return tuple(kind for kind in named if isinstance(kind, type) and issubclass(kind, Exception))


def listed(outputs: Any) -> Outputs:
    """A tensor, or a nest of them, as a list."""
    return [outputs] if isinstance(outputs, Tensor) else [part for each in outputs for part in listed(each)]


if __name__ == "__main__":
    main(*sys.argv[1:])
