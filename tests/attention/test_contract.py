"""What every attention promises, in every form, dtype and shape. Naming a class in ATTENTIONS puts it under test."""

import copy
import inspect
import io
import pickle
import shutil
import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import foveal
from foveal import ATTENTIONS, UserError
from foveal.attention import PLAIN, BatchNorm, forms, mathematics
from foveal.tensors import counted
from helpers import draw, filled, fitting, run_form, swept

SHAPES = [(2, 64, 7, 13), (1, 64, 8, 8), (2, 64, 1, 9), (3, 64, 9, 1), (2, 64, 1, 1), (1, 256, 5, 4), (2, 32, 6, 5)]
YOLO11_WIDTHS = (16, 32, 64, 128, 256, 384, 512, 768)

attentions = pytest.mark.parametrize("cls", ATTENTIONS.values(), ids=ATTENTIONS)
# Gates of means, a map of one channel, parts of tensors, windows that are cut out: what compilers do differently.
KINDS = ("ema", "cbam", "fla", "mhsa")
of_each_kind = pytest.mark.parametrize("cls", swept(ATTENTIONS.values(), *KINDS, ids=lambda cls: cls.card.name))
WITH_FAST = {name: cls for name, cls in ATTENTIONS.items() if "fast" in forms(cls)}  # of others it is the reference
with_fast = pytest.mark.parametrize("cls", WITH_FAST.values(), ids=WITH_FAST)
# "auto" picks a kernel where there is one, whose own dtypes and tolerances are in its own test, and else `fast`.
EVERY_FORM = [(cls, "auto" if form == "kernel" else form) for cls in ATTENTIONS.values() for form in forms(cls)]
attentions_and_forms = pytest.mark.parametrize(
    ("cls", "form"), EVERY_FORM, ids=[f"{cls.card.name}-{form}" for cls, form in EVERY_FORM]
)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
formats = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])


def make(cls, shape, dtype=torch.float64, training=False):
    """A module with drawn parameters and statistics, an input and an output gradient."""
    module = filled(fitting(cls, shape[1])).to(dtype).train(training)
    return module, (1.3 * draw(1, *shape) + 0.4).to(dtype), draw(2, *shape).to(dtype)


def error(got: torch.Tensor, true: torch.Tensor) -> float:
    return float((got - true).detach().abs().max()) if got.numel() else 0.0


@attentions
@pytest.mark.parametrize("channels", YOLO11_WIDTHS)
def test_builds_at_every_width_of_yolo11_or_says_what_fits(cls, channels):
    module = fitting(cls, channels).eval()
    assert module(torch.ones(1, channels, 3, 4)).shape == (1, channels, 3, 4)


@attentions
@torch.no_grad()
def test_operations_are_those_that_torch_counts(cls):
    module, x, _ = make(cls, (1, 64, 8, 8))
    for form in {*PLAIN} & {*forms(cls)}:
        run = getattr(module, form)
        with FlopCounterMode(display=False) as counter:
            expected = run(x)
        result, flops = counted(lambda run=run: run(x))
        assert torch.equal(result, expected)
        assert flops == counter.get_total_flops()


@attentions
def test_auto_picks_the_kernel_or_a_form_that_is_under_test(cls):
    module, x, _ = make(cls, (1, 64, 4, 4), torch.float32)
    runs = "kernel" in forms(cls) and not module.why_not(x)
    assert module.chosen(x) in (("kernel",) if runs else PLAIN)


@with_fast
@shapes
@formats
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_fast_form_equals_reference_with_every_gradient(cls, shape, memory_format, training):
    module, x, dy = make(cls, shape, training=training)
    x, other = x.contiguous(memory_format=memory_format), copy.deepcopy(module)
    true, got = run_form(module, "reference", x, dy), run_form(other, "fast", x, dy)
    for name in true:
        assert error(got[name], true[name]) <= 1e-12 * max(1.0, float(true[name].abs().max())), name
    for (name, tensor), updated in zip(module.named_buffers(), other.buffers(), strict=True):
        assert error(tensor.double(), updated.double()) <= 1e-14, name


@with_fast
@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fast_form_is_as_accurate_as_the_reference(cls, shape, dtype):
    low, x, dy = make(cls, shape, dtype)
    high = copy.deepcopy(low).double()
    true = run_form(high, "reference", x.double(), dy.double())
    reference, fast = (run_form(low, form, x, dy) for form in ("reference", "fast"))
    for name in true:
        # The reference's own rounding error, plus a few roundings of what the result is made of: a parameter's gradient
        # is a sum over all of the input.
        made_of = dy.abs().max() if name in ("output", "input") else (x * dy).double().norm()
        scale = max(float(true[name].abs().max()), float(made_of))
        budget = 2 * error(reference[name], true[name]) + 8 * torch.finfo(dtype).eps * scale
        assert error(fast[name], true[name]) <= budget, name


@attentions_and_forms
@formats
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_keeps_shape_dtype_and_memory_format(cls, form, memory_format, dtype):
    module, x, _ = make(cls, (2, 64, 7, 5), dtype)
    x = x.contiguous(memory_format=memory_format)
    module.form = form
    out = module(x)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert out.is_contiguous(memory_format=memory_format)


@attentions_and_forms
def test_empty_batch_and_strided_input(cls, form):
    module, x, _ = make(cls, (2, 64, 6, 8))
    module.form = form
    assert module(x[:0]).shape == (0, 64, 6, 8)
    strided = x[:, :, ::2, 1::3]
    assert error(module(strided), module(strided.contiguous())) <= 1e-13 * max(1.0, float(module(strided).abs().max()))


@attentions_and_forms
def test_gradcheck(cls, form):
    module, x, _ = make(cls, (1, 64, 2, 3))
    module.form = form
    assert torch.autograd.gradcheck(module, x.requires_grad_(), fast_mode=True)


@attentions_and_forms
@shapes
def test_a_sample_alone_equals_the_sample_in_a_batch(cls, form, shape):
    module, x, _ = make(cls, (3, *shape[1:]))
    module.form = form
    together = module(x)
    for index in range(3):
        assert error(module(x[index : index + 1]), together[index : index + 1]) <= 1e-13


@attentions
def test_one_state_dict_for_every_form(cls):
    keys = set()
    for form in ("auto", *forms(cls)):
        module, x, dy = make(cls, (1, 64, 4, 4), torch.float32)
        if form == "kernel" and module.why_not(x):
            continue
        run_form(module, form, x, dy)
        keys.add(tuple(module.state_dict()))
        fresh = fitting(cls, 64).eval()
        fresh.load_state_dict(module.state_dict())
        fresh.form = form
        assert torch.equal(fresh(x), module(x))
    assert len(keys) == 1


@attentions_and_forms
def test_copies_and_pickles(cls, form):
    module, x, _ = make(cls, (1, 64, 4, 5))
    module.form = form
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copies = copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(buffer, weights_only=False)
    assert all(torch.equal(each(x), module(x)) and each.form == form for each in copies)
    assert cls.__module__ == "foveal"  # the path in every pickle


@attentions_and_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)  # a layer before may have cast already
def test_autocast_follows_the_reference(cls, form, dtype):
    module, x, _ = make(cls, (2, 64, 6, 7), torch.float32)
    true = run_form(module, "reference", x, x)["output"]
    module.form, x = form, x.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.dtype == x.dtype
    assert error(out.double(), true) <= 0.05 * float(true.abs().max())


@attentions_and_forms
def test_deterministic_algorithms(cls, form):
    module, x, dy = make(cls, (2, 64, 6, 7), torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = run_form(module, form, x, dy), run_form(module, form, x, dy)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], second[name]) for name in first)


# Inductor once returned a wrong input gradient for a form of EMA whose output was right (docs/log.md). It takes half a
# minute for each, so here it compiles EMA, and in the sweep the one attention that cuts tensors in parts; of the others
# the graph and its gradient are traced, and run without its code.
@of_each_kind
def test_compiled_gradients_equal_eager_ones(cls, request):
    with_code = cls.card.name == "ema" or (cls.card.name == "fla" and request.config.getoption("--sweep"))
    if with_code and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler (g++)")
    module, x, dy = make(cls, (2, 64, 7, 5), torch.float32, training=True)
    module.form = "fast"  # where a kernel runs, its own test compiles it
    eager = run_form(copy.deepcopy(module), "fast", x, dy)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="inductor" if with_code else "aot_eager")
    leaf = x.clone().requires_grad_()
    out = compiled(leaf)
    out.backward(dy)
    got = {"output": out, "input": leaf.grad} | {name: p.grad for name, p in module.named_parameters()}
    for name in eager:
        assert error(got[name].double(), eager[name]) <= 2e-5 * max(1.0, float(eager[name].abs().max())), name


@of_each_kind
def test_torch_export_with_dynamic_sizes(cls):
    # More than one window of 8 along each axis: export takes a size of 1 for a promise.
    module, x, _ = make(cls, (2, 64, 20, 36), torch.float32)
    program = torch.export.export(module, (x,), dynamic_shapes=(dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),))
    other = draw(5, 4, 64, 17, 23).float()
    assert error(program.module()(other), module(other)) <= 1e-6 * max(1.0, float(module(other).abs().max()))


@attentions
def test_onnx_with_dynamic_sizes(cls):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    module, x, _ = make(cls, (1, 64, 8, 8), torch.float32)
    axes = {"x": {0: "batch", 2: "height", 3: "width"}, "y": {0: "batch", 2: "height", 3: "width"}}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the exporter Ultralytics uses
        torch.onnx.export(
            module.eval(), x, file, input_names=["x"], output_names=["y"], dynamic_axes=axes, dynamo=False
        )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for shape in [(1, 64, 8, 8), (3, 64, 5, 13), (4, 64, 1, 1), (1, 64, 20, 36)]:
        other = draw(7, *shape).float()
        (got,) = session.run(None, {"x": other.numpy()})
        assert error(torch.from_numpy(got), module(other)) <= 1e-5, shape


@attentions_and_forms
def test_fused_for_inference(cls, form):
    module, x, _ = make(cls, (2, 64, 7, 5))
    module.form = form
    fused = foveal.fuse(module)
    assert error(fused(x), module(x)) <= 1e-12 * max(1.0, float(module(x).abs().max()))
    # NAM's norm has no convolution before it.
    assert not any(isinstance(part, BatchNorm) for part in fused.modules()) or cls is foveal.NAM
    again = foveal.fuse(fused)
    assert torch.equal(again(x), fused(x))
    assert again.state_dict().keys() == fused.state_dict().keys()


@attentions
def test_gates_are_what_their_names_say_and_leave_nothing_behind(cls):
    module, x, _ = make(cls, (2, 64, 6, 7))
    before, state = set(vars(module)), {name: tensor.clone() for name, tensor in module.state_dict().items()}
    gates = module.gates(x)
    sizes = {"channel": (), "rows": (6,), "columns": (7,)}
    for name, gate in gates.items():
        assert name in ("spatial", "channel", "rows", "columns", "elements", "factor", "received")
        assert gate.shape[0] == 2
        assert gate.shape[2:] == sizes.get(name, (6, 7)), name
        assert name == "factor" or bool(((gate >= 0) & (gate <= 1)).all()), name
    assert gates
    assert set(vars(module)) == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


@attentions
def test_attention_matrices_come_on_request_and_their_rows_sum_to_1(cls):
    module, x, _ = make(cls, (2, 64, 6, 7))
    if "matrix" not in inspect.signature(module.gates).parameters:
        assert "received" not in module.gates(x)
        return
    plain, asked = module.gates(x), module.gates(x, matrix=True)
    matrices = [asked[name] for name in asked if name not in plain]
    assert matrices
    for matrix in matrices:
        assert bool((matrix >= 0).all())
        assert float(matrix.detach().sum(-1).max()) == pytest.approx(1, abs=1e-4)
    for name in plain.keys() & {"received"}:
        assert 0 < float(plain[name].detach().sum((2, 3)).max()) <= 1 + 1e-9


def fitting_like(module, channels):
    other = type(module)(channels)
    other.load_state_dict(module.state_dict())
    return other.train(module.training)


@attentions
def test_wrong_input_and_unknown_form_are_explained(cls):
    module = fitting(cls, 64)
    if cls.width_of:
        with pytest.raises(UserError, match=r"shape \(1, 32, 4, 4\), but must be \(B, 64, H, W\); .*channels=32"):
            module(torch.zeros(1, 32, 4, 4))
    else:  # nothing in it depends on the width
        assert not any(size in (32, 64) for tensor in module.parameters() for size in tensor.shape)
        assert torch.equal(module(x := draw(1, 1, 32, 4, 4).float()), fitting_like(module, 32)(x))
    with pytest.raises(UserError, match=r"shape \(64, 4, 4\).*x\[None\]"):
        module(torch.zeros(64, 4, 4))
    module.form = "fastest"
    with pytest.raises(UserError, match="no form is named 'fastest'; forms: auto, reference, fast, kernel"):
        module(torch.zeros(1, 64, 4, 4))


def test_a_card_is_shown_where_python_runs_without_docstrings(monkeypatch):
    assert "x" in mathematics("ema")
    monkeypatch.setattr("foveal.attention.ema.__doc__", None)  # as `python -OO` leaves it
    assert mathematics("ema") == ""
