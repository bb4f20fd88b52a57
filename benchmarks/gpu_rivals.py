"""EMA's kernel against the article's class, eager, compiled and as a CUDA graph: milliseconds, launches, memory."""

import copy
import gc
from collections.abc import Callable

import torch
from gpu_tuning import GROUPS, graphed
from torch import nn

from foveal import EMAttention, IdentityStart
from foveal.bench import rivals, shapes, timing
from foveal.bench.agreement import Evaluation, drawn

COMPILED = "article, compiled"
SHAPES = ("yolo11n:P3", "yolo11x:P3", "yolo11n:P5", "yolo11x:P4")


def compare(desk) -> None:
    """The contenders of each case in turns; most of the time goes into compiling the article's class."""
    cases = [(name, batch, mode) for batch in (16, 1) for name in SHAPES for mode in ("forward", "train")]
    if desk.pretends:
        cases = [("32x3x4", 2, "forward"), ("32x3x4", 2, "train")]
    dtype = torch.float32 if desk.pretends else torch.bfloat16
    for name, batch, mode in desk.each(cases):
        (shape,) = shapes.read(name)
        few = drawn(EMAttention(shape[0], groups=GROUPS), shape, batch, dtype, desk.device, 0)
        x, dy = (t.repeat(batch // len(t), 1, 1, 1) for t in few[1:])
        modules, y = contenders(few[0], x, desk), torch.empty_like(x)
        with torch.inference_mode(mode == "forward"):
            calls: dict[str, Callable[[], object]] = {}
            for of, module in modules.items():
                calls[of] = Evaluation(module, x, dy, mode == "train")
                calls[of]()
                if of != COMPILED:
                    calls[f"{of}, as a graph"] = graphed(calls[of], desk.device)
            counts = {of: launches(call, desk.device) for of, call in calls.items()}
            gc.collect()
            peaks = {of: timing.peak(call, desk.device) for of, call in calls.items()}
            times, _ = timing.interleaved(calls | {"copy": lambda x=x, y=y: y.copy_(x)}, desk.device, 5)
        case = {"shape": shape, "batch": batch, "dtype": str(dtype)[6:], "mode": mode}
        for of, ms in times.items():
            counted = {"launches": counts.get(of), "peak_bytes": peaks.get(of)}
            desk.add(case | {"contender": of, "milliseconds": timing.quartiles(ms)} | counted)
        torch.compiler.reset()  # torch gives up after a few shapes


def contenders(module: EMAttention, x: torch.Tensor, desk) -> dict[str, nn.Module]:
    """What takes part, by name."""
    article, own = rivals.article(module), copy.deepcopy(module)
    assert article is not None
    own.form = "auto" if desk.pretends else "kernel"
    start = IdentityStart(copy.deepcopy(own), x.shape[1]).to(x)
    start.gain.data.fill_(0.5)
    found = {"article": article, "kernel": own, "kernel, identity start": start}
    if not desk.pretends and not rivals.why_not_compiled(desk.device):
        found[COMPILED] = rivals.compiled(copy.deepcopy(article))
    return found


def launches(call: Callable[[], object], device: torch.device) -> int:
    """Kernels and copies that one call starts on the GPU; where there is none, operators of torch."""
    kind = "CPU" if device.type == "cpu" else "CUDA"
    with torch.profiler.profile(activities=[getattr(torch.profiler.ProfilerActivity, kind)]) as seen:
        call()
        if kind == "CUDA":
            torch.cuda.synchronize()
    return sum(event.device_type.name == kind for event in seen.events())
