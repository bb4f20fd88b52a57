"""EMA's kernel on the CPU: the function and gradients of the reference, in every dtype, layout and company."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from foveal import EMAttention, IdentityStart, UserError
from foveal.kernels.ema import cpu as ema_cpu
from foveal.kernels.ema import library
from helpers import draw, filled, in_fork, in_fresh_process, run, run_forked, run_form

ROOT = Path(__file__).parents[2]
YOLO11 = [(64, 80), (128, 40), (256, 20), (384, 80), (768, 40), (768, 20)]  # channels and size of n and x, P3 to P5

pytestmark = pytest.mark.skipif(ema_cpu._LIBRARY is None, reason="the C++ kernel was not built: no C++ compiler")


@pytest.fixture(params=[0, 1, 2], ids=["portable", "avx2", "avx512"])
def instructions(request, monkeypatch):
    """Each of the kernel's builds."""
    if request.param > ema_cpu._INSTRUCTIONS:
        pytest.skip("this processor does not have these instructions")
    monkeypatch.setattr(ema_cpu, "_INSTRUCTIONS", request.param)


@pytest.fixture
def threads():
    """Sets the number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make(shape, groups, dtype=torch.float32, *, shift=0.4, scale=1.3, layout=torch.contiguous_format, seed=0):
    """A module with drawn parameters, an input and an output gradient."""
    module = filled(EMAttention(shape[1], groups=groups), seed).to(dtype)
    x = (scale * draw(1, *shape) + shift).to(dtype).contiguous(memory_format=layout)
    return module, x, draw(2, *shape).to(dtype).contiguous(memory_format=layout)


def errors(module, form, x, dy) -> dict[str, float]:
    """Of the output and of each gradient, relative to the largest value or to what its sum is made of."""
    true = run_form(copy.deepcopy(module).double(), "reference", x.double(), dy.double())
    got = run_form(module, form, x, dy)
    made_of = {name: float((x.double() * dy.double()).norm()) for name in true}
    made_of |= {name: float(dy.double().abs().max()) for name in ("output", "input")}
    return {
        name: float((got[name] - true[name]).abs().max()) / max(float(true[name].abs().max()), made_of[name])
        for name in true
    }


@settings(max_examples=2 * settings().max_examples)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 9),
    per_group=st.integers(1, 14),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 99),
)
def test_equals_the_reference_with_every_gradient(batch, groups, per_group, height, width, layout, seed):
    shape = (batch, groups * per_group, height, width)
    module, x, dy = make(shape, groups, layout=layout, seed=seed)
    found = errors(module, "kernel", x, dy)
    assert max(found.values()) <= 1e-5, found


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    "shape", [(2, 64, 20, 20), (1, 96, 13, 7), (2, 16, 1, 9), (2, 16, 9, 1), (3, 40, 5, 8)], ids=str
)
def test_errors_are_no_larger_than_the_references_own(dtype, layout, shape):
    groups = 8
    module, x, dy = make(shape, groups, dtype, layout=layout)
    own, found = errors(module, "reference", x, dy), errors(module, "kernel", x, dy)
    assert all(found[name] <= 2 * own[name] + 4 * torch.finfo(dtype).eps for name in own), (own, found)
    if dtype != torch.float32:  # computed in fp32 and rounded once
        assert max(found.values()) <= torch.finfo(dtype).eps


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(("shift", "scale"), [(1000, 1), (0, 1e-6), (0, 1e3), (5, 0)])
def test_large_tiny_and_constant_inputs(shift, scale, layout):
    module, x, dy = make((2, 32, 9, 20), 4, shift=shift, scale=scale, layout=layout)
    with torch.no_grad():
        module.conv3x3.weight /= max(1, shift, scale)  # or the logits saturate, and every form is right
        module.conv1x1.weight /= max(1, shift, scale)
    own, found = errors(module, "reference", x, dy), errors(module, "kernel", x, dy)
    assert all(found[name] <= 4 * own[name] + 1e-6 for name in own), (own, found)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_comes_out_where_the_reference_has_it(dtype, bad):
    module, x, dy = make((2, 16, 5, 9), 4, dtype)
    x[0, 5, 2, 3] = bad
    true, got = (run_form(module, form, x, dy) for form in ("reference", "kernel"))
    assert torch.equal(got["output"].isnan(), true["output"].isnan())
    assert bool(got["output"][0, 4:8].isnan().all())
    assert bool(got["output"][1].isfinite().all())


def test_every_bit_pattern_of_16_bit_numbers(instructions):
    for dtype in (torch.bfloat16, torch.float16):
        # With a gate of 1/2 in every pixel, y is x / 2, which rounds only among subnormals.
        module = EMAttention(4, groups=4).to(dtype)
        for parameter in module.parameters():
            torch.nn.init.zeros_(parameter)
        numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
        numbers = numbers[numbers.abs() < 1e4].view(4, 1, -1, 1)[:, :, : 2**12]
        x = numbers.reshape(1, 4, -1, 8)
        module.form = "kernel"
        assert torch.equal(module(x).view(torch.int16), (x / 2).view(torch.int16)), dtype


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("groups", [3, 12])  # in channels_last slabs are worked on together, or are not
def test_a_gain_is_part_of_the_kernel(groups, layout):
    module, x, dy = make((2, 24, 9, 11), groups, layout=layout)
    start = IdentityStart(module, 24)
    module.form = "kernel"
    assert torch.equal(start(x), x)
    with torch.no_grad():
        start.gain.copy_(torch.ones(24))
    assert torch.equal(start(x), module(x))
    results = {}
    for form in ("reference", "kernel"):
        wide = copy.deepcopy(start).to(torch.float64 if form == "reference" else torch.float32)
        wide.attention.form = form
        with torch.no_grad():
            wide.gain.copy_(draw(3, 24))
        leaf = x.detach().to(wide.gain.dtype).requires_grad_()
        out = wide(leaf)
        out.backward(dy.to(out.dtype))
        results[form] = [out, leaf.grad, *(parameter.grad for parameter in wide.parameters())]
    for got, true in zip(results["kernel"], results["reference"], strict=True):
        assert float((got.detach() - true.detach()).abs().max()) <= 1e-5 * max(1, float(true.detach().abs().max()))


@pytest.mark.parametrize("shape", [(2, 24, 9, 11), (1, 24, 40, 33)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("groups", [1, 2, 12])  # fewer slabs than threads share out each step
def test_results_do_not_depend_on_the_number_of_threads(shape, layout, groups, threads):
    module, x, dy = make(shape, groups, layout=layout)
    threads(1)
    alone = run_form(module, "kernel", x, dy)
    for count in (2, 3, 5):
        threads(count)
        together = run_form(module, "kernel", x, dy)
        assert all(torch.equal(together[name], alone[name]) for name in alone), count


@pytest.mark.parametrize("form", ["kernel", "fast"])
@pytest.mark.parametrize(("channels", "size"), YOLO11)
def test_saves_at_most_half_of_x_for_the_backward_pass(form, channels, size):
    module = EMAttention(channels)
    module.form = form
    x = torch.zeros(1, channels, size, size, requires_grad=True)
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(x)
    for tensor in (x, *module.parameters()):
        saved.pop(tensor.untyped_storage().data_ptr(), None)
    assert 0 < sum(saved.values()) <= 0.5 * x.nbytes


def test_any_strides_and_empty_batches():
    module, x, dy = make((2, 32, 12, 15), 4)
    module.form = "kernel"
    for view in (x[:, :, ::2, 1::3], x.transpose(2, 3), x[:, :, :, :1].expand(-1, -1, -1, 4)):
        assert float((module(view) - module(view.contiguous())).abs().max()) <= 1e-5
    assert module(x[:0]).shape == (0, 32, 12, 15)
    leaf = x[:0].clone().requires_grad_()
    module(leaf).sum().backward()
    assert all(bool((parameter.grad == 0).all()) for parameter in module.parameters())
    # The gradient of a sum has strides of zero.
    leaf = x.clone().requires_grad_()
    module.zero_grad()
    module(leaf).sum().backward()
    true = run_form(module, "reference", x, torch.ones_like(dy))
    assert float((leaf.grad.double() - true["input"]).abs().max()) <= 1e-5


def test_operator_follows_the_rules_of_torch():
    module, x, _ = make((2, 16, 6, 9), 4)
    weights = [weight.detach() for weight in module._weights()]
    for gain in (None, draw(3, 16).float()):
        torch.library.opcheck(torch.ops.foveal.ema.default, (x, *weights, gain, 4, 1e-5, False))
        leaf = x.clone().requires_grad_()
        torch.library.opcheck(torch.ops.foveal.ema.default, (leaf, *weights, gain, 4, 1e-5, True))


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler (g++)")
def test_compiles_into_one_graph():
    module, x, dy = make((2, 16, 6, 9), 4)
    true = run_form(copy.deepcopy(module), "kernel", x, dy)
    assert module.chosen(x) == "kernel"
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True)
    leaf = x.clone().requires_grad_()
    module.zero_grad()
    compiled(leaf).backward(dy)
    assert float((leaf.grad.double() - true["input"]).abs().max()) <= 1e-6
    for name, parameter in module.named_parameters():
        assert float((parameter.grad.double() - true[name]).abs().max()) <= 1e-5, name


def test_under_autocast_weights_stay_fp32_and_the_output_follows_x():
    module, x, dy = make((2, 16, 6, 9), 4)
    module.form = "kernel"
    true = run_form(module, "kernel", x, dy)
    for dtype in (torch.float32, torch.bfloat16):
        leaf = x.detach().to(dtype).requires_grad_()
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = module(leaf)
        out.backward(dy.to(dtype))
        assert out.dtype == leaf.grad.dtype == dtype
        assert module.gn.weight.grad.dtype == torch.float32
        assert float((out.double() - true["output"]).abs().max()) <= 0.03


def test_torch_func_takes_the_plain_form(monkeypatch):
    module, x, _ = make((3, 16, 5, 6), 4)

    def loss(parameters, x):
        return torch.func.functional_call(module, parameters, (x,)).square().sum()

    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    got = torch.func.grad(loss)(parameters, x)
    module.form = "reference"
    true = torch.func.grad(loss)(parameters, x)
    assert all(torch.allclose(got[name], true[name], rtol=1e-3, atol=1e-3) for name in true)
    module.form = "kernel"
    with pytest.raises(UserError, match=r"does not run inside the transforms of torch\.func; form=.auto."):
        torch.func.grad(loss)(parameters, x)


@pytest.mark.parametrize("form", ["kernel", "fast"])
def test_a_second_derivative_names_the_form_that_has_one(form):
    module, x, _ = make((1, 8, 3, 4), 2)
    module.form = form
    leaf = x.requires_grad_()
    with pytest.raises(UserError, match='form="reference"'):
        torch.autograd.grad(module(leaf).square().sum(), leaf, create_graph=True)


def test_distributed_training(tmp_path):
    code = """
import torch, torch.distributed as dist, sys
from foveal import EMAttention
dist.init_process_group("gloo", init_method="file://" + sys.argv[1] + "/rendezvous", rank=0, world_size=1)
torch.manual_seed(0)
layers = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), EMAttention(16, groups=4))
module = torch.nn.parallel.DistributedDataParallel(layers)
module(torch.randn(2, 3, 9, 9)).sum().backward()
print(module.module[1].chosen(torch.zeros(1, 16, 4, 4)), all(p.grad is not None for p in module.parameters()))
dist.destroy_process_group()
"""
    assert run_forked([sys.executable, "-c", code, str(tmp_path)], tmp_path).split() == ["kernel", "True"]


def test_flops_are_those_of_fast():
    module, x, _ = make((2, 32, 12, 15), 4)
    counts = {}
    for form in ("fast", "kernel"):
        module.form = form
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(x)
        counts[form] = counter.get_total_flops()
    assert counts["kernel"] == counts["fast"] > 0


def test_what_cannot_run_says_why_and_auto_goes_on(monkeypatch):
    module, x, _ = make((1, 16, 4, 4), 4)
    assert (module.chosen(x), module.why_not(x)) == ("kernel", "")
    assert module.chosen(x.double()) == "fast"
    module.form = "kernel"
    with pytest.raises(UserError, match=r"takes float32, bfloat16 and float16, but x is float64; form=.auto."):
        module(x.double())
    with pytest.raises(UserError, match="kernels for cpu and cuda, but x is on meta"):
        module.to("meta")(x.to("meta"))
    monkeypatch.setattr(ema_cpu, "_LIBRARY", None)
    module, x, _ = make((1, 16, 4, 4), 4)
    assert module.chosen(x) == "fast"
    module(x)
    module.form = "kernel"
    with pytest.raises(UserError, match="was not built: foveal was installed without a C"):
        module(x)


def test_a_library_of_another_version_is_not_called(monkeypatch):
    monkeypatch.setattr(library, "VERSION", 0)
    assert library.load() is None
    monkeypatch.setattr(library, "LIBRARY", ROOT / "nothing.so")
    assert library.load() is None


def test_without_triton_a_gpu_is_told_so(tmp_path):
    code = """
import sys; sys.modules["triton"] = None
import torch
from foveal.kernels import ema
class OnGpu: device = torch.device("cuda")
print(ema.why_not(OnGpu(), 4))
"""
    assert "needs Triton, which cannot be imported" in in_fork(code, tmp_path)


@pytest.mark.sweep  # it takes half a minute to compile
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_no_access_out_of_bounds(tmp_path):
    # Traps compile in half the time of messages.
    flags = "-std=c++17 -O0 -fsanitize=address,undefined -fsanitize-undefined-trap-on-error -Wno-psabi -pthread".split()
    program = str(tmp_path / "memory")
    source = [f"-I{ROOT / 'src/foveal/kernels/ema/cpp'}", str(ROOT / "tests/kernels/cpu_memory.cpp")]
    built = subprocess.run(["g++", *flags, *source, "-o", program, "-ldl"], capture_output=True, text=True, check=False)
    if "cannot find -lasan" in built.stderr:
        pytest.skip("this compiler comes without sanitizers")
    assert built.returncode == 0, built.stderr
    assert run([program], tmp_path).strip() == "400 rounds"


@pytest.mark.slow
@pytest.mark.sweep
def test_installs_without_a_compiler_and_says_so(tmp_path):
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*install, "--target", str(tmp_path / "site"), str(source)], tmp_path, CC="false", CXX="false")
    code = """
import torch, foveal
module, x = foveal.EMAttention(32), torch.zeros(1, 32, 4, 4)
print(foveal.__file__, module.why_not(x), module(x).shape)
"""
    said = in_fresh_process(code, tmp_path, PYTHONPATH=str(tmp_path / "site") + os.pathsep)
    assert said.startswith(str(tmp_path / "site"))
    assert "was not built" in said
