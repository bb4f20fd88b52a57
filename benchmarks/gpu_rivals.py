"""EMA's kernel against the article's class, eager, compiled and as a CUDA graph: milliseconds, launches, memory."""

import copy
import gc
from collections.abc import Callable

import torch
from gpu_tuning import GROUPS, LAYOUTS, graphed
from torch import nn

from foveal import EMAttention, IdentityStart
from foveal.bench import rivals, shapes, timing
from foveal.bench.agreement import Evaluation, drawn

SHAPES = ("yolo11n:P3", "yolo11x:P3", "yolo11n:P5", "yolo11x:P4")


def compare(desk) -> None:
    """The contenders of each case in turns; most of the time goes into compiling the article's class."""
    cases = [(name, batch, mode) for batch in (16, 1) for name in SHAPES for mode in ("forward", "train")]
    for name, batch, mode in desk.each([("32x3x4", 2, "train")] if desk.pretends else cases):
        dtype = torch.float32 if desk.pretends else torch.bfloat16
        (shape,) = shapes.read(name)
        with torch.inference_mode(mode == "forward"):
            calls = contenders(shape, batch, dtype, mode == "train", desk)
            counts = {of: launches(call, desk.device) for of, call in calls.items()}
            gc.collect()
            peaks = {of: timing.peak(call, desk.device) for of, call in calls.items()}
            x = torch.empty(batch, *shape, dtype=dtype, device=desk.device)
            y = torch.empty_like(x)
            times, _ = timing.interleaved(calls | {"copy": lambda x=x, y=y: y.copy_(x)}, desk.device, 5)
        case = {"shape": shape, "batch": batch, "dtype": str(dtype)[6:], "mode": mode}
        for of, ms in times.items():
            counted = {"launches": counts.get(of), "peak_bytes": peaks.get(of)}
            desk.add(case | {"contender": of, "milliseconds": timing.quartiles(ms)} | counted)
        torch.compiler.reset()  # torch gives up after a few shapes


def contenders(
    shape: tuple[int, int, int], batch: int, dtype: torch.dtype, training: bool, desk
) -> dict[str, Callable[[], object]]:
    """What takes part, by name; all of it has run."""
    module, x, dy = drawn(EMAttention(shape[0], groups=GROUPS), shape, batch, dtype, desk.device, 0)
    x, dy = (t.repeat(batch // len(t), 1, 1, 1).contiguous(memory_format=LAYOUTS["contiguous"]) for t in (x, dy))
    article, own = rivals.article(module), copy.deepcopy(module)
    assert article is not None
    own.form = "auto" if desk.pretends else "kernel"
    start = IdentityStart(own, shape[0]).to(x)
    start.gain.data.fill_(0.5)
    modules: dict[str, nn.Module] = {"article": article, "kernel": own, "kernel, identity start": start}
    calls: dict[str, Callable[[], object]] = {}
    for name, one in modules.items():
        calls[name] = Evaluation(one, x, dy, training)
        calls[name]()
    for name in modules:
        calls[f"{name}, as a graph"] = graphed(calls[name], desk.device)
    if not rivals.why_not_compiled(desk.device) and not desk.pretends:
        calls["article, compiled"] = Evaluation(rivals.compiled(copy.deepcopy(article)), x, dy, training)
    for call in calls.values():
        call()
    return calls


def launches(call: Callable[[], object], device: torch.device) -> int:
    """Kernels and copies that one call starts on the GPU; where there is none, operators of torch."""
    kind = "CPU" if device.type == "cpu" else "CUDA"
    with torch.profiler.profile(activities=[getattr(torch.profiler.ProfilerActivity, kind)]) as seen:
        call()
        if kind == "CUDA":
            torch.cuda.synchronize()
    return sum(event.device_type.name == kind for event in seen.events())
