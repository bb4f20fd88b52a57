"""EMA's Triton kernels: run line by line under Triton's interpreter, and compiled for a GPU that need not be there.

Triton decides at its own import whether it interprets, so a child process does; this one keeps the Triton it has.
"""

import itertools
import re
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import pytest
import torch

import foveal
from helpers import draw, filled, run_form, swept

pytest.importorskip("triton", reason="Triton is not installed")

NAMES = ("conv1x1.weight", "conv1x1.bias", "gn.weight", "gn.bias", "conv3x3.weight", "conv3x3.bias")
FORMATS = {False: torch.contiguous_format, True: torch.channels_last}
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int, int]
    groups: int
    single: bool = False  # the forward pass in one launch
    last: bool = False  # channels_last
    elements: int | None = None  # of a tile, to have several on a small map
    dtype: torch.dtype = torch.float32
    weights: torch.dtype | None = None  # under autocast they keep fp32
    offset: float = 0.4
    nan: bool = False

    @property
    def id(self) -> str:
        marks = ["single"] * self.single + ["nhwc"] * self.last + [str(self.dtype)[6:]] + ["nan"] * self.nan
        return "-".join(["x".join(map(str, self.shape)), f"g{self.groups}", *marks])


CASES = [
    Case((2, 4, 4, 5), 2),
    Case((2, 2, 5, 6), 1, single=True, elements=16),
    Case((1, 6, 5, 9), 2, last=True, elements=32),
    Case((2, 10, 6, 5), 5, last=True, single=True),
    Case((2, 12, 2, 3), 1),  # more than KEEP channels a group: the map is saved
    Case((2, 12, 3, 2), 1, single=True, last=True),
    Case((3, 2, 4, 3), 2, elements=32),
    Case((2, 4, 1, 9), 2),
    Case((2, 4, 9, 1), 2, single=True),
    Case((1, 3, 1, 1), 1, last=True),
    Case((1, 4, 5, 7), 2, offset=1000.0, elements=16),
    Case((1, 4, 5, 7), 2, offset=1000.0, single=True),
    Case((2, 4, 6, 5), 2, dtype=torch.bfloat16, weights=torch.float32),
    Case((2, 4, 6, 5), 2, dtype=torch.float16, single=True, last=True),
    Case((2, 4, 4, 5), 2, nan=True),
]
KEPT = CASES[2:6] + CASES[11:13]  # of both ways: layouts, more channels than are kept, means far off, 16 bits


def given(case: Case) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """The module in the weights' dtype, an input and an output gradient."""
    module = filled(foveal.EMAttention(case.shape[1], groups=case.groups))
    if case.offset > 1:  # gates almost constant, as is then x * a * b, and a map that is not saturated
        module.conv1x1.weight.data *= 1e-3
        module.conv3x3.weight.data -= module.conv3x3.weight.data.mean((2, 3), keepdim=True)
    x, dy = 1.3 * draw(1, *case.shape) + case.offset, draw(2, *case.shape)
    if case.nan:
        x[0, 1, 2, 3] = float("nan")
    memory_format = FORMATS[case.last]
    module = module.to(case.weights or case.dtype).to(memory_format=memory_format)
    return module, *(tensor.to(case.dtype).contiguous(memory_format=memory_format) for tensor in (x, dy))


def interpreted(case: Case) -> dict[str, object]:
    """In the child process: results by name as arrays in fp64, and how many launches both passes took."""
    from foveal.kernels.ema import cuda as ema_cuda

    module, x, dy = given(case)
    state = dict(module.named_parameters())
    weights = [state[name].detach() for name in NAMES]
    tiles, launches = (ema_cuda.FEW, ema_cuda.MANY), []
    originals = {name: kernel for name, kernel in vars(ema_cuda).items() if name.endswith("_kernel")}
    for name, kernel in originals.items():
        setattr(ema_cuda, name, _Counted(kernel, name, launches))
    ema_cuda.one_launch = lambda *_: case.single
    if case.elements:
        ema_cuda.FEW = ema_cuda.MANY = case.elements
    try:
        y, saved = ema_cuda.forward(x, weights, case.groups, module.gn.eps, True)
        forward = tuple(launches)
        gradients = ema_cuda.backward(dy, x, saved, weights, case.groups, module.gn.eps)
        backward = tuple(launches[len(forward) :])
        alone, nothing = ema_cuda.forward(x, weights, case.groups, module.gn.eps, False)
    finally:
        ema_cuda.FEW, ema_cuda.MANY = tiles
        vars(ema_cuda).update(originals)
    assert torch.equal(alone.nan_to_num(), y.nan_to_num())
    assert nothing.numel() == 0
    assert saved.dtype == torch.float32
    assert saved.numel() == ema_cuda.saved_numel(*x.shape, case.groups)
    assert y.stride() == gradients[0].stride() == x.stride()
    assert [t.dtype for t in (y, *gradients)] == [x.dtype, x.dtype, *(weight.dtype for weight in weights)]
    results = dict(zip(("output", "input", *NAMES), (y, *gradients), strict=True))
    return {name: t.double().numpy() for name, t in results.items()} | {"launches": (forward, backward)}


def refusal(shape: tuple[int, ...], dtype: torch.dtype, groups: int) -> str:
    """In the child process: why the kernels cannot run."""
    from foveal.kernels.ema import cuda as ema_cuda

    return ema_cuda.why_not(torch.empty(shape, dtype=dtype), groups)


class _Counted:
    def __init__(self, kernel, name, launches):
        self.kernel, self.name, self.launches = kernel, name, launches

    def __getitem__(self, grid):
        self.launches.append(self.name)
        return self.kernel[grid]


@pytest.fixture(scope="module")
def child():
    """A process whose Triton interprets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(int).result()  # started, with this environment
            patch.undo()
            yield lambda job, *args: pool.submit(job, *args).result(timeout=120)


def nudged(case: Case, x: torch.Tensor) -> list[torch.Tensor]:
    """Inputs that differ in their last bit, where that decides the reference's error: one draw may be a lucky one."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-1, 2, (8, *x.shape), generator=generator) * torch.finfo(x.dtype).eps
    return [*(x * (1 + bits))] if case.offset > 1 else []


@pytest.mark.parametrize("case", swept(CASES, *(case.id for case in KEPT), ids=lambda case: case.id))
def test_interpreted_kernels_equal_the_reference_with_every_gradient(child, case):
    module, x, dy = given(case)
    low = [run_form(module.to(case.dtype), "reference", each, dy) for each in (x, *nudged(case, x))]
    true = run_form(given(case)[0].double(), "reference", x.double(), dy.double())
    got = child(interpreted, case)
    for name in true:
        value, want = torch.from_numpy(got[name]), true[name]
        assert torch.equal(value.isnan(), want.isnan()), name
        value, want = value.nan_to_num(), want.nan_to_num()
        made_of = dy.abs().max() if name in ("output", "input") else (x * dy).nan_to_num().double().norm()
        scale = max(float(want.abs().max()), float(made_of))
        slack = 1e-5 if case.dtype == torch.float32 else 8 * torch.finfo(case.dtype).eps
        errors = [float((rough[name].nan_to_num() - want).abs().max()) for rough in low]
        own = max(errors) if case.dtype != torch.float32 or case.offset > 1 else 0.0
        budget = 2 * own + slack * scale
        assert float((value - want).abs().max()) <= budget, name


@pytest.mark.parametrize("single", [False, True])
def test_at_most_three_launches_forward_and_four_backward(child, single):
    forward, backward = child(interpreted, Case((1, 2, 2, 3), 1, single=single))["launches"]
    three = ("sums_kernel", "gates_kernel", "apply_kernel")
    assert forward == (("single_kernel",) if single else three)
    assert backward == ("slope_kernel", "reduce_kernel", "strips_kernel", "gradients_kernel")


def test_empty_batch_launches_nothing_and_has_zero_gradients(child):
    got = child(interpreted, Case((0, 4, 5, 7), 2))
    assert got.pop("launches") == ((), ())
    assert got["output"].shape == got["input"].shape == (0, 4, 5, 7)
    assert all(got[name].size and not got[name].any() for name in NAMES)


@pytest.mark.parametrize(
    ("shape", "dtype", "groups", "says"),
    [
        ((1, 8, 4, 4), torch.float32, 2, ""),
        ((1, 8, 4, 4), torch.float64, 2, "takes float32, float16 and bfloat16, but x is float64"),
        ((1, 8, 4, 1025), torch.float32, 2, "up to 1024 x 1024, but x is 4 x 1025"),
        ((1, 257, 1, 1), torch.float32, 1, "up to 256 channels a group, but here are 257"),
    ],
)
def test_what_does_not_fit_is_named(child, shape, dtype, groups, says):
    answer = child(refusal, shape, dtype, groups)
    assert says in answer
    assert bool(answer) == bool(says)


def test_tensors_on_the_cpu_are_refused_without_the_interpreter():
    assert refusal((1, 8, 4, 4), torch.float32, 2) == "the kernel runs on CUDA, but x is on cpu"


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_tiles_are_powers_of_two_within_their_budget(last):
    from foveal.kernels.ema.cuda import tiles

    for channels, side, groups, itemsize, elements in itertools.product(
        (1, 48, 64, 768), (1, 20, 80, 1024), (1, 16), (2, 4), (512, 2048, 4096)
    ):
        if channels % groups:
            continue
        cut = tiles(channels, side, side, groups, itemsize, last, elements)
        assert all(n & (n - 1) == 0 for n in cut)
        assert cut.columns >= side
        assert cut.positions > 2 or side == 1
        assert cut.rows * cut.columns * cut.channels <= max(elements, cut.columns)
        assert cut.positions * cut.groups * cut.inner <= 2 * max(elements, 256)


def test_one_launch_needs_enough_programs_and_a_slab_that_stays_on_chip():
    from foveal.kernels.ema.cuda import ON_CHIP, one_launch

    assert one_launch(132, ON_CHIP, 132)
    assert not one_launch(131, ON_CHIP, 132)
    assert not one_launch(132, ON_CHIP + 1, 132)


class _Noted:
    """In place of a kernel: notes what it would be launched with."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **options: self.launches.append((self.kernel, args, options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "groups", "dtype", "last"),
    [  # loops over a group's channels run once, and several times
        pytest.param((16, 64, 80, 80), 32, torch.bfloat16, False, id="n-P3"),
        pytest.param((1, 64, 160, 160), 1, torch.float32, True, id="wide-group", marks=pytest.mark.sweep),
    ],
)
def test_every_kernel_compiles_for_hopper_and_hardly_spills(monkeypatch, tmp_path, shape, groups, dtype, last):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas

    from foveal.kernels.ema import cuda as ema_cuda

    launches = []
    for name, kernel in list(vars(ema_cuda).items()):
        if name.endswith("_kernel"):
            monkeypatch.setattr(ema_cuda, name, _Noted(kernel, launches))
    x = torch.empty(shape, dtype=dtype).contiguous(memory_format=FORMATS[last])
    state = dict(foveal.EMAttention(shape[1], groups=groups).named_parameters())
    weights = [state[name].detach() for name in NAMES]
    for single in (True, False):
        monkeypatch.setattr(ema_cuda, "one_launch", lambda *_, single=single: single)
        _, saved = ema_cuda.forward(x, weights, groups, 1e-5, True)
    ema_cuda.backward(x, x, saved, weights, groups, 1e-5)
    assert len(launches) == 8
    for kernel, args, options in launches:
        built = triton.compile(_source(kernel, args, options), target=GPUTarget("cuda", 90, 32), options=_own(options))
        (tmp_path / "kernel.ptx").write_text(built.asm["ptx"])
        done = subprocess.run(
            [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", "kernel.ptx", "-o", "kernel.cubin"],
            cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        assert int(re.search(r"(\d+) bytes spill stores", printed)[1]) <= 16, (kernel, printed)


def _own(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name in ("num_warps", "enable_fp_fusion")}


def _source(kernel, args, options):
    """What Triton would compile for a launch: sizes of 1 are constants, multiples of 16 known to be such."""
    from triton.compiler import ASTSource

    loose = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    constants = {name: value for name, value in options.items() if name not in _own(options)}
    signature, aligned = dict.fromkeys(kernel.arg_names, "constexpr"), {}
    for index, (name, value) in enumerate(zip(kernel.arg_names, args, strict=False)):
        address = value.data_ptr() if torch.is_tensor(value) else value
        if isinstance(value, int) and value == 1 and name not in loose:
            constants[name] = value
            continue
        signature[name] = TYPES[value.dtype] if torch.is_tensor(value) else {int: "i32", float: "fp32"}[type(value)]
        if signature[name] != "fp32" and address % 16 == 0 and name not in loose:
            aligned[index,] = [["tt.divisibility", 16]]
    positions = {name: (index,) for index, name in enumerate(kernel.arg_names)}
    return ASTSource(kernel, signature, {positions[name]: value for name, value in constants.items()}, aligned)
