"""What a compiler makes of EMA's Triton kernels, which takes no GPU: registers, spills, instructions, bytes, launches.

python benchmarks/gpu_compiled.py

Written to benchmarks/results/gpu_compiled.json, of which docs/kernels.py makes a table, and what is expected of a GPU.
Both ways of the forward pass and the backward pass are compiled at the shapes of YOLO11's heads, 16 images, 32 groups.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from foveal import EMAttention
from foveal.bench import shapes
from foveal.files import write_text
from foveal.kernels.ema import cuda

RESULTS = Path(__file__).parent / "results" / "gpu_compiled.json"
NAMES = ("conv1x1.weight", "conv1x1.bias", "gn.weight", "gn.bias", "conv3x3.weight", "conv3x3.bias")
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
BATCH, GROUPS = 16, 32
LOOPS = ("apply", "slope", "strips", "gradients")  # kernels whose loops run over the channels of a group
APART = ("sums", "gradients")  # kernels of which a few programs do something else
PASSES = ("forward", "forward in one launch", "backward")


@dataclass(frozen=True)
class Launch:
    """One launch of a pass, as the module `cuda` would make it.

    Attributes:
        kernel: Triton's.
        name: its name.
        programs: how many.
        args: positional.
        options: the others.
    """

    kernel: triton.JITFunction
    name: str
    programs: int
    args: tuple[object, ...]
    options: dict[str, object]

    @property
    def bytes(self) -> int:
        """Of all tensors that it gets, each once: what it must move at least."""
        return sum(t.numel() * t.element_size() for t in self.args if torch.is_tensor(t))

    @property
    def compiler_options(self) -> dict[str, object]:
        """What of the options is Triton's."""
        return {name: value for name, value in self.options.items() if name in OPTIONS}


class Noted:
    """In the place of a kernel: hands on what would be launched."""

    def __init__(self, kernel: triton.JITFunction, name: str, take: Callable[[Launch], object]):
        self._kernel, self._name, self._take = kernel, name.removesuffix("_kernel"), take

    def __getitem__(self, grid: tuple[int, ...]):
        return lambda *args, **options: self._take(Launch(self._kernel, self._name, *grid, args, options))


def launches(
    shape: Sequence[int], groups: int, dtype: torch.dtype, layout: str, gained: bool = False
) -> tuple[list[Launch], list[Launch], list[Launch]]:
    """The launches of a forward pass in three, of one in one, and of the backward pass; nothing is run.

    Args:
        shape: of x, (B, C, H, W).
        groups: of the attention.
        dtype: of x; parameters keep fp32, as under autocast.
        layout: one of `LAYOUTS`.
        gained: with an identity start.
    """
    x = torch.empty(shape, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])
    state = dict(EMAttention(shape[1], groups=groups).named_parameters())
    rest = [state[name].detach() for name in NAMES], torch.empty(shape[1]) if gained else None, groups, 1e-5
    found: list[Launch] = []
    kernels = {name: kernel for name, kernel in vars(cuda).items() if name.endswith("_kernel")}
    noted = {name: Noted(kernel, name, found.append) for name, kernel in kernels.items()}
    passes = []
    with mock.patch.multiple(cuda, **noted):
        for single in (False, True):
            with mock.patch.object(cuda, "one_launch", lambda *_, single=single: single):
                _, saved = cuda.forward(x, *rest, True)
            passes.append(found[:])
            found.clear()
        cuda.backward(x, x, saved, *rest)
    return passes[0], passes[1], found


def compiled(launch: Launch, capability: int, folder: Path) -> dict[str, int]:
    """What Triton and ptxas make of a launch.

    Returns:
        registers: of a thread.
        spilled: bytes of a thread.
        shared: bytes of a program.
        instructions: that each warp of a program carries out, loops as often as the sizes say. An estimate: of branches
            both sides count, and what is masked counts like the rest.
    """
    built = triton.compile(source(launch), target=GPUTarget("cuda", capability, 32), options=launch.compiler_options)
    (folder / "kernel.ptx").write_text(built.asm["ptx"])
    tool = get_ptxas(capability).path
    suffix = "a" if capability >= 90 else ""
    command = [tool, "-v", f"--gpu-name=sm_{capability}{suffix}", "kernel.ptx", "-o", "kernel.cubin"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=120)
    printed = done.stdout + done.stderr
    numbers = {"registers": r"Used (\d+) registers", "spilled": r"(\d+) bytes spill stores"}
    found = {name: int(re.search(pattern, printed)[1]) for name, pattern in numbers.items()}
    command = [str(Path(tool).with_name("nvdisasm")), "-c", "kernel.cubin"]
    code = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=120).stdout
    return found | {"shared": built.metadata.shared, "instructions": _carried_out(code, launch)}


def _carried_out(code: str, launch: Launch) -> int:
    """Instructions of a disassembled kernel, those of loops several times."""
    labels, jumps, count = {}, [], 0
    for line in code.splitlines():
        if label := re.match(r"\.(L_x_\d+):", line):
            labels[label[1]] = count
        elif re.match(r"\s*/\*[0-9a-f]{4,}\*/", line):
            if jump := re.search(r"BRA.*`\(\.(L_x_\d+)\)", line):
                jumps.append((jump[1], count))
            count += 1
    loops = sorted((labels[there], here + 1) for there, here in jumps if labels[there] < here)
    passed = range(0)
    if launch.name in APART:  # the first jump passes by what a few programs do, which sum or mix parameters
        passed = range(jumps[0][1] + 1, labels[jumps[0][0]])
        loops = [loop for loop in loops if loop[0] not in passed]
    times = [0 if n in passed else 1 for n in range(count)]
    for (start, end), trips in zip(loops, _trips(launch, len(loops)), strict=False):  # some may be unrolled
        times[start:end] = [n * trips for n in times[start:end]]
    return sum(times)


def _trips(launch: Launch, loops: int) -> list[int]:
    """How often each of a kernel's loops goes round, in the order in which they begin."""
    sizes = dict(zip(launch.kernel.arg_names, launch.args, strict=False)) | launch.options
    rows, channels = -(-sizes["H"] // sizes.get("BH", 1)), -(-sizes["CG"] // sizes.get("BI", 1))
    vectors = -(-sizes["H"] * sizes["W"] // (sizes.get("BQ", 1) * sizes.get("V", 1)))
    if launch.name == "sums":
        return [rows]
    if launch.name == "reduce":
        return [vectors, rows]
    if launch.name == "gates":
        strips = [-(-sizes[side] // sizes["BL"]) for side in "HW"]
        inner = [channels] if loops > 3 else []  # few channels are not looped over
        return [strips[0], *inner, strips[1], *inner, vectors + 1]
    return [channels if launch.name in LOOPS else 1] * loops  # those of the one launch lie in each other


def source(launch: Launch) -> ASTSource:
    """What Triton would compile for a launch: sizes of 1 are constants, multiples of 16 known to be such."""
    kernel = launch.kernel
    loose = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    constants = {name: value for name, value in launch.options.items() if name not in OPTIONS}
    signature, aligned = dict.fromkeys(kernel.arg_names, "constexpr"), {}
    for index, (name, value) in enumerate(zip(kernel.arg_names, launch.args, strict=False)):
        address = value.data_ptr() if torch.is_tensor(value) else value
        if isinstance(value, int) and value == 1 and name not in loose:
            constants[name] = value
            continue
        signature[name] = TYPES[value.dtype] if torch.is_tensor(value) else {int: "i32", float: "fp32"}[type(value)]
        if signature[name] != "fp32" and address % 16 == 0 and name not in loose:
            aligned[index,] = [["tt.divisibility", 16]]
    positions = {name: (index,) for index, name in enumerate(kernel.arg_names)}
    return ASTSource(kernel, signature, {positions[name]: value for name, value in constants.items()}, aligned)


def versions() -> dict[str, str]:
    """Of what compiles."""
    return {"triton": triton.__version__, "ptxas": get_ptxas(90).version}


def rows() -> Iterator[dict[str, object]]:
    """A row of each launch: 16 bits, contiguous, on Hopper at every shape, on the others at two."""
    inputs = [shape for model in ("yolo11n", "yolo11x") for shape in shapes.read(model)]
    cases = [(shape, "bfloat16", "contiguous", 90) for shape in inputs]
    cases += [(shape, "bfloat16", "contiguous", c) for shape in (inputs[0], inputs[4]) for c in (80, 100)]
    with tempfile.TemporaryDirectory() as folder:
        for shape, dtype, layout, capability in cases:
            passes = launches((BATCH, *shape), GROUPS, getattr(torch, dtype), layout)
            for mode, found in zip(PASSES, passes, strict=True):
                for launch in found:
                    case = {"shape": shape, "dtype": dtype, "layout": layout, "capability": capability, "pass": mode}
                    case |= {"kernel": launch.name, "programs": launch.programs, "warps": launch.options["num_warps"]}
                    yield case | {"bytes": launch.bytes} | compiled(launch, capability, Path(folder))


def main() -> None:
    """Compile everything, and write the counts."""
    found = []
    for row in rows():
        found.append(row)
        print(row, flush=True)
    report = {"versions": versions(), "batch": BATCH, "groups": GROUPS, "rows": found}
    write_text(RESULTS, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
