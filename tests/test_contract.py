"""What every attention promises, in every form, dtype and shape. Naming a class in ATTENTIONS puts it under test."""

import copy
import io
import pickle
import shutil
import warnings

import pytest
import torch

from foveal import ATTENTIONS, UserError
from foveal.attention._base import FORMS
from helpers import draw, filled, run_form

SHAPES = [(2, 64, 7, 13), (1, 64, 8, 8), (2, 64, 1, 9), (3, 64, 9, 1), (2, 64, 1, 1), (1, 256, 5, 4), (2, 32, 6, 5)]
YOLO11_WIDTHS = (16, 32, 64, 128, 256, 384, 512, 768)

attentions = pytest.mark.parametrize("cls", ATTENTIONS.values(), ids=ATTENTIONS)
forms = pytest.mark.parametrize("form", ["auto", *FORMS])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
formats = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])


def make(cls, shape, dtype=torch.float64):
    """A module with drawn parameters, an input and an output gradient."""
    module = filled(cls(shape[1])).to(dtype)
    return module, (1.3 * draw(1, *shape) + 0.4).to(dtype), draw(2, *shape).to(dtype)


def error(got: torch.Tensor, true: torch.Tensor) -> float:
    return float((got - true).detach().abs().max()) if got.numel() else 0.0


@attentions
@pytest.mark.parametrize("channels", YOLO11_WIDTHS)
def test_builds_at_every_width_of_yolo11_or_says_what_fits(cls, channels):
    refusal = None
    try:
        assert cls(channels)(torch.ones(1, channels, 3, 4)).shape == (1, channels, 3, 4)
    except UserError as error:
        refusal = error
    assert refusal is None or (str(channels) in refusal.message and "fits" in refusal.hint)


@attentions
@shapes
@formats
def test_fast_form_equals_reference_with_every_gradient(cls, shape, memory_format):
    module, x, dy = make(cls, shape)
    x = x.contiguous(memory_format=memory_format)
    true, got = run_form(module, "reference", x, dy), run_form(module, "fast", x, dy)
    for name in true:
        assert error(got[name], true[name]) <= 1e-12 * max(1.0, float(true[name].abs().max())), name


@attentions
@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fast_form_is_as_accurate_as_the_reference(cls, shape, dtype):
    low, x, dy = make(cls, shape, dtype)
    high = copy.deepcopy(low).double()
    true = run_form(high, "reference", x.double(), dy.double())
    reference, fast = (run_form(low, form, x, dy) for form in ("reference", "fast"))
    for name in true:
        # The reference's own rounding error, plus one rounding of the largest value it is made of.
        scale = max(float(true[name].abs().max()), float(dy.abs().max()))
        budget = 2 * error(reference[name], true[name]) + 8 * torch.finfo(dtype).eps * scale
        assert error(fast[name], true[name]) <= budget, name


@attentions
@forms
@formats
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_keeps_shape_dtype_and_memory_format(cls, form, memory_format, dtype):
    module, x, _ = make(cls, (2, 64, 7, 5), dtype)
    x = x.contiguous(memory_format=memory_format)
    module.form = form
    out = module(x)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert out.is_contiguous(memory_format=memory_format)


@attentions
@forms
def test_empty_batch_and_strided_input(cls, form):
    module, x, _ = make(cls, (2, 64, 6, 8))
    module.form = form
    assert module(x[:0]).shape == (0, 64, 6, 8)
    assert torch.equal(module(x[:, :, ::2, 1::3]), module(x[:, :, ::2, 1::3].contiguous()))


@attentions
@forms
def test_gradcheck(cls, form):
    module, x, _ = make(cls, (1, 64, 2, 3))
    module.form = form
    assert torch.autograd.gradcheck(module, x.requires_grad_(), fast_mode=True)


@attentions
@forms
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
    for form in ("auto", *FORMS):
        module, x, dy = make(cls, (1, 64, 4, 4))
        run_form(module, form, x, dy)
        keys.add(tuple(module.state_dict()))
        fresh = cls(64).double()
        fresh.load_state_dict(module.state_dict())
        assert torch.equal(fresh(x), module.train()(x)) or form == "reference"
    assert len(keys) == 1


@attentions
@forms
def test_copies_and_pickles(cls, form):
    module, x, _ = make(cls, (1, 64, 4, 5))
    module.form = form
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copies = copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(buffer, weights_only=False)
    assert all(torch.equal(each(x), module(x)) and each.form == form for each in copies)
    assert cls.__module__ == "foveal"  # the path in every pickle


@attentions
@forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)  # a layer before may have cast already
def test_autocast_follows_the_reference(cls, form, dtype):
    module, x, _ = make(cls, (2, 64, 6, 7), torch.float32)
    true = run_form(module, "reference", x, x)["output"]
    module.form, x = form, x.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.dtype == x.dtype
    assert error(out.double(), true) <= 0.05 * float(true.abs().max())


@attentions
@forms
def test_deterministic_algorithms(cls, form):
    module, x, dy = make(cls, (2, 64, 6, 7), torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = run_form(module, form, x, dy), run_form(module, form, x, dy)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], second[name]) for name in first)


@attentions
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler (g++)")
def test_compiled_gradients_equal_eager_ones(cls):
    # Inductor once returned a wrong input gradient for a form of EMA whose output was right (docs/log.md).
    module, x, dy = make(cls, (2, 64, 7, 5), torch.float32)
    eager = run_form(module, "auto", x, dy)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True)
    module.zero_grad()
    leaf = x.clone().requires_grad_()
    out = compiled(leaf)
    out.backward(dy)
    got = {"output": out, "input": leaf.grad} | {name: p.grad for name, p in module.named_parameters()}
    for name in eager:
        assert error(got[name].double(), eager[name]) <= 2e-5 * max(1.0, float(eager[name].abs().max())), name


@attentions
def test_torch_export_with_dynamic_sizes(cls):
    module, x, _ = make(cls, (2, 64, 8, 8), torch.float32)
    batch, height, width = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "height", "width"))
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch, 2: height, 3: width},))
    other = draw(5, 4, 64, 5, 13).float()
    assert error(program.module()(other), module(other)) <= 1e-6


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


@attentions
def test_gates_lie_between_0_and_1_and_leave_nothing_behind(cls):
    module, x, _ = make(cls, (2, 64, 6, 7))
    before = set(vars(module))
    gates = module.gates(x)
    assert gates
    assert all(bool(((gate >= 0) & (gate <= 1)).all()) and gate.shape[0] == 2 for gate in gates.values())
    assert set(vars(module)) == before


@attentions
def test_wrong_input_and_unknown_form_are_explained(cls):
    module = cls(64)
    with pytest.raises(UserError, match=r"shape \(1, 32, 4, 4\), but must be \(B, 64, H, W\); .*channels=32"):
        module(torch.zeros(1, 32, 4, 4))
    with pytest.raises(UserError, match=r"shape \(64, 4, 4\).*x\[None\]"):
        module(torch.zeros(64, 4, 4))
    module.form = "fastest"
    with pytest.raises(UserError, match="no form is named 'fastest'; forms: auto, reference, fast"):
        module(torch.zeros(1, 64, 4, 4))
