"""Which tiles, warps and stages EMA's Triton kernels are the fastest with, and when one launch is. Parts of gpu.py."""

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from foveal import EMAttention
from foveal.bench import shapes, timing
from foveal.files import write_text
from foveal.kernels.ema import cuda

TABLE = Path(cuda.__file__).with_name("cuda_tuned.py")
NAMES = ("conv1x1.weight", "conv1x1.bias", "gn.weight", "gn.bias", "conv3x3.weight", "conv3x3.bias")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = {
    "three": ("sums", "gates", "apply"),
    "one": ("single",),
    "backward": ("slope", "reduce", "strips", "gradients"),
}
ELEMENTS, WARPS, STAGES = (256, 512, 1024, 2048, 4096), (2, 4, 8), (1, 2)
GAIN = 1.02  # times as fast as the default a winner must be at least
GROUPS, BATCHES = 32, (1, 4, 16)


@dataclass(frozen=True)
class Problem:
    """An input of a class of shapes: C, H, W, then a batch, a dtype and a layout by name."""

    shape: tuple[int, int, int]
    batch: int
    dtype: str
    layout: str


class Passes:
    """The passes over the drawn numbers of a problem, by name."""

    def __init__(self, problem: Problem, groups: int, device: torch.device):
        generator, dtype = torch.Generator(device).manual_seed(0), getattr(torch, problem.dtype)
        shape, layout = (problem.batch, *problem.shape), LAYOUTS[problem.layout]
        self.x, self._dy = (
            torch.randn(shape, generator=generator, device=device).to(dtype).contiguous(memory_format=layout)
            for _ in range(2)
        )
        state = dict(EMAttention(problem.shape[0], groups=groups).to(device, dtype).named_parameters())
        weights = [
            (torch.randn(p.shape, generator=generator, device=device) / p[0].numel() ** 0.5).to(dtype)
            for p in (state[name] for name in NAMES)
        ]
        self.groups, self._rest = groups, (weights, None, groups, 1e-5)
        self.made_of = float((self.x * self._dy).float().norm())  # what gradients of parameters sum up
        self._saved = self._forward(False)[1]

    def three(self) -> Sequence[Tensor]:
        """Forward in three launches."""
        return self._forward(False)[:1]  # the output is made of all that is saved, between which nobody writes

    def one(self) -> Sequence[Tensor]:
        """Forward in one launch."""
        return self._forward(True)[:1]

    def _forward(self, single: bool) -> Sequence[Tensor]:
        with mock.patch.object(cuda, "one_launch", return_value=single):
            return cuda.forward(self.x, *self._rest, True)

    def backward(self) -> Sequence[Tensor]:
        """Backward."""
        return cuda.backward(self._dy, self.x, self._saved, *self._rest)

    def launched(self, mode: str, kernel: str, launch: cuda.Launch) -> Sequence[Tensor]:
        """A pass with a kernel launched so."""
        with mock.patch.dict(cuda.TUNED, {cuda.shape_class(kernel, self.x, self.groups): launch}):
            return getattr(self, mode)()


def candidates(kernel: str) -> list[cuda.Launch]:
    """The default launch, and others whose threads hold 2 to 32 elements of a tile."""
    default = cuda.DEFAULTS[kernel]
    found = [default, *(default._replace(stages=stages) for stages in STAGES)]
    pairs = itertools.product(ELEMENTS, WARPS)
    return found + [
        cuda.Launch(e, w) for e, w in pairs if 64 * w <= e <= 1024 * w and (e, w) != (default.elements, default.warps)
    ]


@contextmanager
def workers(cuda_here: bool):
    """A function that runs jobs in other processes, so that what they compile is on disk; they start at once.

    A process that has touched the GPU cannot be forked any more.
    """
    if not cuda_here:
        yield lambda job, cases: None
        return
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("fork")) as pool:
        pool.submit(int).result()
        yield lambda job, cases: [*pool.map(job, cases)]


def compile_passes(case: tuple[Problem, int, str, str, cuda.Launch | None]) -> None:
    """In another process: have a pass compiled, with a kernel launched in some way; what fails, fails again later."""
    problem, groups, mode, kernel, launch = case
    try:
        passes = Passes(problem, groups, torch.device("cuda"))
        passes.launched(mode, kernel, launch) if launch else getattr(passes, mode)()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception as error:
        print(f"{case}: {error}", flush=True)


def graphed(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The call recorded as a CUDA graph, which costs the processor one launch; itself where there is no GPU."""
    if device.type == "cpu":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()
    return lambda: (graph.replay(), kept)


def tune(desk) -> None:
    """A sweep for each class of shapes, kernel by kernel, and both ways of the forward pass for each batch."""
    inputs = [shape for level in ("P3", "P4", "P5") for m in "nx" for shape in shapes.read(f"yolo11{m}:{level}")]
    kinds = [("bfloat16", "contiguous"), ("float32", "contiguous"), ("bfloat16", "channels_last")]
    kinds += [("float32", "channels_last")]
    problems = [Problem(shape, 16, *kind) for kind in kinds for shape in inputs]
    groups = GROUPS
    swept = PASSES
    if desk.pretends:
        problems, groups, swept = [Problem((1, 1, 2), 1, "float32", "contiguous")], 1, {"three": ("sums",)}
    tried = {kernel: candidates(kernel)[: 2 if desk.pretends else None] for of in swept.values() for kernel in of}
    with workers(not desk.pretends) as ahead:
        for problem in desk.each(problems):
            jobs = [(mode, kernel, launch) for mode, of in swept.items() for kernel in of for launch in tried[kernel]]
            ahead(compile_passes, [(problem, groups, *job) for job in jobs])
            passes = Passes(problem, groups, desk.device)
            for _, mode, kernel in desk.each([(problem, mode, kernel) for mode, of in swept.items() for kernel in of]):
                desk.add(_sweep(problem, passes, mode, kernel, tried[kernel], desk.device))
            for batch in BATCHES[: 1 if desk.pretends else None]:
                desk.add(_ways(Problem(problem.shape, batch, *kinds[0]), groups, desk.device))


def _sweep(
    problem: Problem, passes: Passes, mode: str, kernel: str, tried: Sequence[cuda.Launch], device: torch.device
) -> dict[str, object]:
    """Milliseconds of the pass with each launch of the kernel, those that fail or disagree told, and the winner."""
    calls, said, default = {}, {}, tried[0]
    right = None
    for launch in tried:
        try:
            got = passes.launched(mode, kernel, launch)
            right = right or got  # the default's, which was judged before
            disagrees = _apart(got, right, passes)
            if disagrees:
                said[launch] = disagrees
                continue
            calls[launch] = graphed(lambda launch=launch: passes.launched(mode, kernel, launch), device)
        except Exception as error:  # too much shared memory, say: it is no candidate then
            said[launch] = f"{type(error).__name__}: {error}"
    times = timing.interleaved(calls, device, 1 if device.type == "cpu" else 5)[0] if calls else {}
    found = {launch: timing.quartiles(ms) for launch, ms in times.items()}
    best = min(found, key=lambda launch: found[launch][1], default=default)
    if best != default and default in times:
        ratio = timing.quartiles([a / b for a, b in zip(times[default], times[best], strict=True)])
        best = best if ratio[0] > 1 and ratio[1] >= GAIN else default
    row = {"class": cuda.shape_class(kernel, passes.x, passes.groups), "default": default, "winner": best}
    tried_rows = [{"launch": how, "milliseconds": found.get(how), "says": said.get(how, "")} for how in tried]
    return row | {"problem": asdict(problem), "tried": tried_rows}


def _apart(got: Sequence[Tensor], want: Sequence[Tensor], passes: Passes) -> str:
    """Whether two runs of a pass differ by more than another order of summing explains."""
    for one, other in zip(got, want, strict=True):
        if not one.numel():
            continue
        scale = max(1.0 if one.shape == passes.x.shape else passes.made_of, float(other.float().abs().max()))
        error = float((one.float() - other.float()).abs().max())
        if not error <= 16 * max(torch.finfo(one.dtype).eps, 1e-6) * scale:
            return f"off by {error:.1e}, of {scale:.1e}"
    return ""


def _ways(problem: Problem, groups: int, device: torch.device) -> dict[str, object]:
    """Milliseconds of the forward pass in three launches and in one."""
    passes = Passes(problem, groups, device)
    slabs = cuda.cut(passes.x, groups, "single")
    programs = problem.batch * -(-groups // slabs.groups)
    calls = {mode: graphed(getattr(passes, mode), device) for mode in ("three", "one")}
    times, _ = timing.interleaved(calls, device, 1 if device.type == "cpu" else 5)
    row = {"problem": asdict(problem), "programs": programs}
    row |= {"program_bytes": passes.x.numel() * passes.x.element_size() // programs}
    return row | {mode: timing.quartiles(found) for mode, found in times.items()}


def threshold(rows: Iterable[Mapping], multiprocessors: int) -> int | None:
    """The largest slab of the one launch with which the rows take the least time in all; None if no row decides."""
    rows = [row for row in rows if "three" in row and row["programs"] >= multiprocessors]
    if not rows:
        return None

    def total(most: int) -> float:
        return sum(row["one" if row["program_bytes"] <= most else "three"][1] for row in rows)

    return min([0, *sorted(row["program_bytes"] for row in rows)], key=total)


def adopt(report: Mapping, table: Path = TABLE) -> str:
    """Write what won into the code; the words say how much of it changed."""
    where, part = (report["parts"][name]["result"] for name in ("card", "tune"))
    won = {
        tuple(row["class"]): tuple(row["winner"])
        for row in part["rows"]
        if row.get("winner", 0) != row.get("default", 0)
    }
    most = threshold(part["rows"], where["multiprocessors"])
    head, _, _ = TABLE.read_text().partition("\nCARD = ")
    lines = [f"CARD = {where['gpu']!r}  # the GPU that decided".replace("'", '"')]
    lines += [f"ON_CHIP = {cuda.ON_CHIP if most is None else most}  # bytes of the largest slab of the one launch"]
    lines += ["# kernel, channels of a group, width, bytes, channels_last: elements of a tile, warps, stages"]
    lines += ["TUNED: dict[tuple[str, int, int, int, bool], tuple[int, int, int]] = {"]
    lines += [f"    {key}: {value},".replace("'", '"') for key, value in sorted(won.items())]
    write_text(table, "\n".join([head, *lines, "}"]) + "\n")
    return f"{len(won)} launches differ from the defaults; the one launch takes slabs up to {most} bytes"
