"""The rules that are about what becomes of the module in other programs: traced, and as an ONNX file."""

import importlib.util
import io
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..files import stdout_to
from ..tensors import sides
from .findings import Finding, Rule, State, Subject, apart, tried

FIRST, SECOND = (16, 16), (12, 20)  # the map that is traced, and another
CLOSE = 1e-4
WRONG = "files that are exported from it are wrong at every size but one"


def traced(subject: Subject) -> Finding:
    """A trace taken at one size is right at another."""
    module = subject.build(dtype=torch.float32)
    first, second = (subject.draw(1, subject.width, *size, dtype=torch.float32) for size in (FIRST, SECOND))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program, said = tried(torch.jit.trace, module, first)
        if said:
            return Finding(
                "traced",
                State.FAILS,
                f"cannot be traced: {said}",
                "it exports to no format",
                "compute with tensors alone in its forward",
            )
        out, said = tried(program, second)
    if not said and apart(out, module(second)) <= CLOSE:
        return Finding("traced", State.OK, f"traced at {sides(FIRST)}, right at {sides(SECOND)}")
    return Finding(
        "traced",
        State.FAILS,
        f"traced at {sides(FIRST)}, at {sides(SECOND)} it {_differs(said, out, module(second))}",
        f"TorchScript {WRONG}",
        causes(module),
    )


def onnx(subject: Subject) -> Finding:
    """An ONNX file with dynamic sizes is right at another size."""
    if importlib.util.find_spec("onnxruntime") is None:
        return Finding("onnx", State.UNTRIED, "ONNX Runtime is not installed", hint="pip install 'foveal[export]'")
    import onnxruntime

    module = subject.build(dtype=torch.float32)
    first, second = (subject.draw(1, subject.width, *size, dtype=torch.float32) for size in (FIRST, SECOND))
    axes, file = {name: {0: "batch", 2: "height", 3: "width"} for name in ("x", "y")}, io.BytesIO()
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    # Of what it cannot write, the exporter prints the whole graph, past Python.
    with warnings.catch_warnings(), open(os.devnull, "wb") as nowhere, stdout_to(nowhere.fileno()):
        warnings.simplefilter("ignore")
        # The exporter that Ultralytics uses, whose hints know no files in memory.
        _, said = tried(lambda: torch.onnx.export(module, (first,), file, dynamo=False, **names))  # type: ignore[arg-type]
    if said:
        alone = "it can be exported for images of one size only"
        return Finding("onnx", State.FAILS, f"cannot be exported with dynamic sizes: {said}", alone, causes(module))
    providers = ["CPUExecutionProvider"]
    session, said = tried(lambda: onnxruntime.InferenceSession(file.getvalue(), providers=providers))
    for x in (first, second):
        if not said:
            found, said = tried(session.run, None, {"x": x.numpy()})
        out = None if said else torch.from_numpy(found[0])
        if out is None or apart(out, module(x)) > CLOSE:
            where = f"exported at {sides(FIRST)}, at {sides(x.shape[2:])} the file"
            return Finding("onnx", State.FAILS, f"{where} {_differs(said, out, module(x))}", WRONG, causes(module))
    return Finding("onnx", State.OK, f"exported at {sides(FIRST)}, right there and at {sides(SECOND)}")


def causes(module: nn.Module) -> str:
    """What in a module is known to fix a size when it is exported, with what to write instead."""
    found = []
    for name, each in module.named_modules():
        pooling = isinstance(each, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        if pooling and each.output_size not in (1, (1, 1)):
            reduce = "mean" if isinstance(each, nn.AdaptiveAvgPool2d) else "amax"
            kept = [dim for dim, size in zip((2, 3), _pair(each.output_size), strict=True) if size is not None]
            if all(size in (1, None) for size in _pair(each.output_size)):
                dims = kept[0] if len(kept) == 1 else tuple(kept)
                instead = f"write x.{reduce}({dims}, keepdim=True)"
            else:
                instead = "pool with a fixed kernel, nn.AvgPool2d"
            called = name.removeprefix("module.")
            fixed = f"adaptive pooling to {each.output_size}: wrong at every exported size but one"
            found.append(f"{called}, {fixed}; {instead}")
    return "; ".join(found) or "take sizes from x.shape with reshape(b, c, -1), and make no constants of them"


def _pair(size: object) -> tuple[object, ...]:
    return tuple(size) if isinstance(size, tuple | list) else (size, size)


def _differs(said: str, out: object, true: Tensor) -> str:
    if said:
        return f"raises {said}"
    return f"differs by {apart(out, true):.0%} of the largest value" if isinstance(out, Tensor) else "returns no map"


RULES: tuple[Rule, ...] = (traced, onnx)
