"""EMA's Triton kernels: run line by line under Triton's interpreter, and compiled for a GPU that need not be there.

Triton decides at its own import whether it interprets, so a child process does; this one keeps the Triton it has.
"""

import importlib
import itertools
import json
import subprocess
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

import foveal
from helpers import swept
from kernelcases import CASES, LARGE, NAMES, Case, given, judge, kernels, truth

ROOT = Path(__file__).parents[2]

pytest.importorskip("triton", reason="Triton is not installed")

KEPT = CASES[2:6] + CASES[11:13]  # of both ways: layouts, more channels than are kept, means far off, 16 bits


def interpreted(case: Case) -> dict[str, object]:
    """In the child process: results by name as arrays in fp64."""
    return {name: t.double().numpy() for name, t in kernels(case).items()}


def counted(case: Case) -> tuple[tuple[str, ...], ...]:
    """In the child process: the launches of the passes forward, backward, and forward without saving."""
    from foveal.kernels.ema import cuda as ema_cuda

    launches, passes = [], []
    originals = {name: kernel for name, kernel in vars(ema_cuda).items() if name.endswith("_kernel")}
    vars(ema_cuda).update({name: _Counted(kernel, name, launches) for name, kernel in originals.items()})
    originals |= {name: getattr(ema_cuda, name) for name in ("forward", "backward")}
    for name in ("forward", "backward"):
        setattr(ema_cuda, name, _passed(originals[name], launches, passes))
    try:
        kernels(case)
    finally:
        vars(ema_cuda).update(originals)
    return tuple(passes)


def _passed(function, launches, passes):
    def run(*args):
        launches.clear()
        results = function(*args)
        passes.append(tuple(launches))
        return results

    return run


def laid_out(transposed: bool, last: bool) -> list[tuple[object, ...]]:
    """In the child process: strides, shape and dtype of what the operators return, and of what they tell a compiler."""
    from foveal.kernels.ema import operator

    module, gain, x, dy = given(
        Case((1, 2, 2, 3), 1, last=last, gained=True, dtype=torch.bfloat16, weights=torch.float32)
    )
    x, dy = (t.transpose(2, 3) if transposed else t for t in (x, dy))
    state = dict(module.named_parameters())
    rest = *(state[name].detach() for name in NAMES), gain, 1, 1e-5
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        told = [mode.from_tensor(t) if torch.is_tensor(t) else t for t in (x, *rest)]
        told[0] = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")
        said = [*operator._fake_forward(*told, True)]
        said += operator._fake_backward(dy, told[0], said[1], *told[1:])
    done = [*operator._cuda_forward(x, *rest, True)]
    done += operator._cuda_backward(dy, x, done[1], *rest)
    return [tuple((t.shape, t.stride(), t.dtype) for t in pair) for pair in zip(done, said, strict=True)]


def at_gain(gain: float, name: str) -> tuple[object, object]:
    """In the child process: the output at this gain of every channel, and x or what comes out without a gain."""
    from foveal.kernels.ema import operator

    module, _, x, _ = given(Case((1, 2, 3, 4), 1, dtype=torch.bfloat16, weights=torch.float32))
    weights = [dict(module.named_parameters())[name].detach() for name in NAMES]
    blended, bare = (
        operator._cuda_forward(x, *weights, of, 1, 1e-5, False)[0].float().numpy()
        for of in (torch.full((2,), gain), None)
    )
    return blended, x.float().numpy() if name == "input" else bare


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


@pytest.fixture
def gpu() -> str:
    """The device that the kernels are for."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    return "cuda"


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


@pytest.mark.parametrize("case", swept(CASES, *(case.id for case in KEPT), ids=lambda case: case.id))
def test_interpreted_kernels_equal_the_reference_with_every_gradient(child, case):
    got = {name: torch.from_numpy(value) for name, value in child(interpreted, case).items()}
    assert judge(*truth(case), got) == []


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES + LARGE, ids=lambda case: case.id)
def test_compiled_kernels_equal_the_reference_and_themselves(gpu, case):
    first, *others = (kernels(case, gpu) for _ in range(3))
    assert judge(*truth(case), first) == []
    for again in others:  # what moves from run to run is a race
        assert all(torch.equal(again[name].nan_to_num(), first[name].nan_to_num()) for name in first)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_kernels_in_compiled_models_under_autocast(gpu, mode):
    module, gain, x, dy = given(Case((2, 16, 12, 12), 4, gained=True))
    start = foveal.IdentityStart(module, 16)
    start.gain.data.copy_(gain)
    net = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 1), start, torch.nn.Conv2d(16, 16, 1)).to(gpu)
    x, dy = x.to(gpu), dy.to(gpu)
    compiled = torch.compile(net, mode=mode, dynamic=False)
    results = []
    for run in (net, *[compiled] * 4):  # graphs are recorded in the second call, and replayed from the third on
        module.form = "kernel"
        with torch.autocast("cuda", torch.bfloat16):
            out = run(x)
        gradients = torch.autograd.grad(out, [*net.parameters()], dy.to(out.dtype))
        results.append([t.detach().float().clone() for t in (out, *gradients)])
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert float((got - want).abs().max()) <= 0.02 * float(want.abs().max()) + 1e-3


@pytest.mark.gpu
def test_a_recorded_graph_replays_the_kernels(gpu):
    case = CASES[2]
    module, gain, x, dy = (None if t is None else t.to(gpu) for t in given(case))
    module.form = "kernel"
    leaves = [x.requires_grad_(), *module.parameters(), gain.requires_grad_()]

    def step() -> list[torch.Tensor]:
        out = module(x, gain)
        return [out, *torch.autograd.grad(out, leaves, dy)]

    eager = [t.detach().clone() for t in step()]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = step()
    for t in recorded:
        t.detach().fill_(float("nan"))
    graph.replay()
    assert all(torch.equal(got, want) for got, want in zip(recorded, eager, strict=True))


@pytest.mark.parametrize("single", [False, True])
def test_at_most_three_launches_forward_and_four_backward(child, single):
    forward, backward, alone = child(counted, Case((1, 2, 2, 3), 1, single=single, gained=single))
    three = ("sums_kernel", "gates_kernel", "apply_kernel")
    assert forward == alone == (("single_kernel",) if single else three)
    assert backward == ("slope_kernel", "reduce_kernel", "strips_kernel", "gradients_kernel")


@pytest.mark.parametrize(("transposed", "last"), [(True, False), (False, True)], ids=["turned", "nhwc"])
def test_a_compiler_is_told_the_strides_that_come_out(child, transposed, last):
    for done, said in child(laid_out, transposed, last):
        assert done == said


def test_empty_batch_launches_nothing_and_has_zero_gradients(child):
    case = Case((0, 4, 5, 7), 2, gained=True)
    assert child(counted, case) == ((), (), ())
    got = child(interpreted, case)
    assert got["output"].shape == got["input"].shape == (0, 4, 5, 7)
    assert all(got[name].size and not got[name].any() for name in (*NAMES, "gain"))


def test_a_gain_of_0_is_x_and_a_gain_of_1_the_bare_attention(child):
    for gain, name in ((0.0, "input"), (1.0, "bare")):
        blended, want = child(at_gain, gain, name)
        assert (blended == want).all()


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


def _failing(error):
    class Driver:
        @property
        def active(self):
            raise error

    return Driver()


GCC = subprocess.CalledProcessError(1, ["gcc", "main.c"])  # as where Python.h is missing


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("triton.__version__", "3.3.1", "needs Triton 3.4, which torch 2.8 brings, but here is 3.3.1"),
        ("torch.version.hip", "6.4", "is for NVIDIA's GPUs"),
        ("torch.cuda.get_device_capability", lambda _: (7, 0), "needs compute capability 7.5, but Tesla V100 has less"),
        ("triton.runtime.driver", _failing(RuntimeError("Failed to find C compiler.\n")), "to find C compiler"),
        ("triton.runtime.driver", _failing(AssertionError()), "does not start: AssertionError"),
        ("triton.runtime.driver", _failing(GCC), "does not start: Command '['gcc', 'main.c']' returned"),
    ],
)
def test_what_a_machine_lacks_is_said_and_auto_goes_without(monkeypatch, place, value, says):
    from foveal.kernels.ema import cuda

    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr("triton.runtime.driver", SimpleNamespace(active=SimpleNamespace(get_current_device=int)))
    monkeypatch.setattr(cuda, "_start", cuda._start.__wrapped__)
    with FakeTensorMode(), torch.device("cuda"):
        module, x = foveal.EMAttention(8, groups=2), torch.empty(1, 8, 4, 4)
        assert module.why_not(x) == ""
        assert module.chosen(x) == "kernel"
        monkeypatch.setattr(place, value)
        assert says in module.why_not(x)
        assert "\n" not in module.why_not(x)
        assert module.chosen(x) == "reference"


def test_no_kernel_calls_itself():
    # Triton before 3.5 has no end of reading such a function, and the interpreter does not mind.
    from foveal.kernels.ema import cuda_backward, cuda_forward, cuda_parts

    kernels = {k.fn for of in (cuda_backward, cuda_forward, cuda_parts) for k in vars(of).values() if hasattr(k, "fn")}
    assert len(kernels) > 10
    assert [fn.__name__ for fn in kernels if fn.__name__ in fn.__code__.co_names] == []


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
        assert side % cut.vector == 0
        assert cut.vector * itemsize <= 16
        assert cut.columns * cut.vector >= side
        assert cut.vectors > 2 * cut.halo
        assert cut.halo or cut.vectors * cut.vector >= side * side
        assert cut.rows * cut.columns * cut.vector * cut.channels <= max(elements, cut.columns * cut.vector)
        assert cut.vectors * cut.groups * cut.inner * cut.vector <= 2 * max(elements, 256)
        assert cut.lanes * cut.channels <= elements


def test_one_launch_needs_enough_programs_and_slabs_that_stay_on_chip():
    from foveal.kernels.ema.cuda import ON_CHIP, one_launch

    large = 50 * 2**20  # bytes of L2: beside 132 multiprocessors an H100, beside 28 with 3 MB an RTX 3060
    assert one_launch(132, ON_CHIP, 132, large)
    assert not one_launch(131, ON_CHIP, 132, large)
    assert not one_launch(132, ON_CHIP + 1, 132, large)
    assert one_launch(512, 25_600, 28, 3 * 2**20)
    assert not one_launch(512, 51_200, 28, 3 * 2**20)


@pytest.fixture
def compiler(monkeypatch):
    """The module that compiles the kernels for GPUs that need not be there."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu_compiled")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "groups", "dtype", "layout", "capability"),
    swept(
        [
            ((16, 64, 80, 80), 32, torch.bfloat16, "contiguous", 90),
            ((16, 64, 80, 80), 32, torch.bfloat16, "contiguous", 80),
            ((16, 64, 80, 80), 32, torch.bfloat16, "contiguous", 100),
            # Loops over a group's channels run several times.
            ((1, 64, 160, 160), 1, torch.float32, "channels_last", 90),
        ],
        "90-contiguous-16x64x80x80",
        ids=lambda case: f"{case[4]}-{case[3]}-{'x'.join(map(str, case[0]))}",
    ),
)
def test_every_kernel_compiles_and_hardly_spills(compiler, tmp_path, shape, groups, dtype, layout, capability):
    stored = json.loads(compiler.RESULTS.read_text())
    known = {
        (row["pass"], row["kernel"]): row
        for row in stored["rows"]
        if (tuple(row["shape"]), row["dtype"]) == (shape[1:], str(dtype)[6:])
        and (row["layout"], row["capability"]) == (layout, capability)
    }
    passes = compiler.launches(shape, groups, dtype, layout)
    assert [len(launches) for launches in passes] == [3, 1, 4]
    for mode, launches in zip(compiler.PASSES, passes, strict=True):
        for launch in launches:
            built = compiler.compiled(launch, capability, tmp_path)
            assert built["spilled"] <= 32, launch.name  # bytes: eight registers, outside of loops
            assert built["registers"] * 32 * launch.options["num_warps"] <= 2**15, (
                "no two programs fit a multiprocessor"
            )
            if known and stored["versions"] == compiler.versions():
                row = known[mode, launch.name]
                now = built | {"bytes": launch.bytes, "programs": launch.programs}
                assert {name: row[name] for name in now} == now, "python benchmarks/gpu_compiled.py counts anew"


@pytest.mark.slow
@pytest.mark.sweep
def test_kernels_with_a_gain_compile_too(compiler, tmp_path):
    three, one, back = compiler.launches((16, 64, 80, 80), 32, torch.bfloat16, "contiguous", gained=True)
    bare = compiler.launches((16, 64, 80, 80), 32, torch.bfloat16, "contiguous")
    changed = [three[-1], *one, back[0], back[2], back[3]]
    assert all(launch.options["GAINED"] for launch in changed)
    for launch in (three[-1], back[0]):
        assert compiler.compiled(launch, 90, tmp_path)["spilled"] == 0
    # An identity start moves what it needs of itself, and no tensor of the size of x.
    more = [
        sum(launch.bytes for launch in with_) - sum(launch.bytes for launch in without)
        for with_, without in zip((three, one, back), bare, strict=True)
    ]
    assert all(0 < n < 0.02 * 16 * 64 * 80 * 80 * 2 for n in more), more
