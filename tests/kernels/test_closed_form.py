"""EMA's written-out backward: the same numbers as autograd's, kept small, in any number of chunks."""

import collections
import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from foveal import EMAttention, UserError
from foveal.kernels.ema import closed_form as _ema_closed
from helpers import draw, filled

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
formats = pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
shapes = st.tuples(*(st.integers(*bounds) for bounds in ((0, 3), (1, 6), (1, 5), (1, 9), (1, 9))))


def make(batch, per_group, groups, height, width, dtype=torch.float64, memory_format=torch.contiguous_format):
    """A module with drawn parameters, an input and an output gradient."""
    module = filled(EMAttention(per_group * groups, groups=groups)).to(dtype)
    shape = (batch, per_group * groups, height, width)
    x, dy = (1.3 * draw(1, *shape) + 0.4, draw(2, *shape))
    return module, *(tensor.to(dtype).contiguous(memory_format=memory_format) for tensor in (x, dy))


def weights(module):
    parts = (module.conv1x1, module.gn, module.conv3x3)
    return tuple(parameter for part in parts for parameter in (part.weight, part.bias))


def closed(module, x):
    return _ema_closed.ema(x, weights(module), module.groups, module.gn.eps)


def results(module, function, x, dy):
    """Output and all gradients by name, in fp64."""
    module.zero_grad()
    x = x.detach().requires_grad_()
    out = function(x)
    out.backward(dy.to(out.dtype))
    found = {"output": out, "input": x.grad} | {name: p.grad for name, p in module.named_parameters()}
    return {name: tensor.detach().double() for name, tensor in found.items()}


def error(got, true):
    return float((got - true).abs().max()) if true.numel() else 0.0


def assert_equal(got, true, tolerance=1e-12):
    for name in true:
        largest = float(true[name].abs().max()) if true[name].numel() else 0.0
        assert error(got[name], true[name]) <= tolerance * max(1.0, largest), name


@given(shapes, st.sampled_from(list(FORMATS)))
@example((2, 1, 3, 1, 1), "nhwc")
@example((1, 2, 1, 1, 9), "nchw")
@settings(max_examples=150)
def test_equals_the_reference_with_every_gradient(shape, layout):
    module, x, dy = make(*shape, memory_format=FORMATS[layout])
    before = x.clone(), dy.clone()
    assert_equal(results(module, lambda x: closed(module, x), x, dy), results(module, module.reference, x, dy))
    assert torch.equal(x, before[0])
    assert torch.equal(dy, before[1])


def assert_as_accurate_as_the_reference(module, x, dy):
    high = copy.deepcopy(module).double()
    true = results(high, high.reference, x.double(), dy.double())
    reference = results(module, module.reference, x, dy)
    got = results(module, lambda x: closed(module, x), x, dy)
    for name in true:
        # The reference's own error, and a few roundings of what the result is made of: a parameter's gradient is a sum
        # over all of the input, and may cancel.
        made_of = dy.double().abs() if name in ("output", "input") else (x * dy).double().norm()
        scale = max((float(tensor.abs().max()) for tensor in (true[name], made_of) if tensor.numel()), default=0.0)
        budget = 2 * error(reference[name], true[name]) + 4 * torch.finfo(x.dtype).eps * scale
        assert error(got[name], true[name]) <= budget, name


dtypes = [torch.float32, torch.bfloat16, torch.float16]


@given(shapes, st.sampled_from(list(FORMATS)), st.sampled_from(dtypes))
@settings(max_examples=60)
def test_is_as_accurate_as_the_reference(shape, layout, dtype):
    assert_as_accurate_as_the_reference(*make(*shape, dtype, FORMATS[layout]))


@formats
@pytest.mark.parametrize("dtype", dtypes, ids=str)
def test_is_as_accurate_on_larger_maps(memory_format, dtype):
    assert_as_accurate_as_the_reference(*make(4, 4, 8, 40, 40, dtype, memory_format))


@formats
@pytest.mark.parametrize("bytes_per_chunk", [1, 3000, 10_000])
def test_chunks_change_nothing(monkeypatch, memory_format, bytes_per_chunk):
    module, x, dy = make(5, 3, 4, 6, 7, memory_format=memory_format)
    whole = results(module, lambda x: closed(module, x), x, dy)
    monkeypatch.setattr(_ema_closed, "CHUNK_BYTES", bytes_per_chunk)
    assert len(_ema_closed._chunks(x, 4)) > 1
    assert_equal(results(module, lambda x: closed(module, x), x, dy), whole, 1e-14)


def test_chunks_are_of_the_size_they_say():
    x = torch.zeros(8, 64, 80, 80)
    sizes = [chunk.nbytes for chunk in _ema_closed._chunks(x, 32)]
    assert sum(sizes) == x.nbytes
    assert 0.9 * _ema_closed.CHUNK_BYTES < max(sizes) <= _ema_closed.CHUNK_BYTES
    assert len(_ema_closed._chunks(torch.zeros(2, 64, 200, 200), 1)) == 2  # a slab is never cut


@given(shapes.filter(lambda shape: shape[0] > 0), st.sampled_from(list(FORMATS)), st.sampled_from([1, 2000, 4_000_000]))
@example((1, 2, 32, 80, 80), "nchw", 4_000_000)
@example((8, 2, 32, 20, 20), "nhwc", 400_000)
@example((1, 8, 32, 20, 20), "nchw", 4_000_000)
@settings(max_examples=40)
def test_keeps_at_most_half_of_the_input_besides_it(shape, layout, bytes_per_chunk):
    module, x, _ = make(*shape, torch.float32, FORMATS[layout])
    x.requires_grad_()
    given_storages = {tensor.untyped_storage().data_ptr() for tensor in (x, *module.parameters())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given_storages:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with pytest.MonkeyPatch.context() as patch, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        patch.setattr(_ema_closed, "CHUNK_BYTES", bytes_per_chunk)
        closed(module, x)
    assert sum(kept.values()) <= 0.5 * x.nbytes
    assert kept or x.shape[2] * x.shape[3] < 81  # a real map does keep something


# Per chunk half of x may be kept, and what is over serves the chunks after it.
@pytest.mark.parametrize(("per_group", "computed_again"), [(1, 4), (2, 1), (3, 0)])
def test_gates_that_do_not_fit_are_computed_again(monkeypatch, per_group, computed_again):
    module, x, dy = make(6, per_group, 2, 40, 40)
    true = results(module, module.reference, x, dy)
    gates = []
    monkeypatch.setattr(_ema_closed, "CHUNK_BYTES", x[:1].nbytes)
    monkeypatch.setattr(_ema_closed, "_gate", lambda *args, gate=_ema_closed._gate: gates.append(1) or gate(*args))
    assert_equal(results(module, lambda x: closed(module, x), x, dy), true)
    assert len(gates) == 6 + computed_again


@formats
def test_gradients_that_nobody_wants_are_not_computed(monkeypatch, memory_format):
    module, x, dy = make(2, 3, 2, 5, 4, memory_format=memory_format)
    true = results(module, module.reference, x, dy)
    module.zero_grad()
    asked = []
    inner = _ema_closed._convolution_backward
    monkeypatch.setattr(_ema_closed, "_convolution_backward", lambda *args: asked.append(args[3:]) or inner(*args))

    closed(module.requires_grad_(False), x.requires_grad_()).backward(dy)
    assert error(x.grad, true["input"]) <= 1e-12
    assert all(parameter.grad is None for parameter in module.parameters())
    module.zero_grad()
    closed(module.requires_grad_(True), x.detach()).backward(dy)
    for name, parameter in module.named_parameters():
        assert error(parameter.grad, true[name]) <= 1e-12 * max(1.0, float(true[name].abs().max())), name
    module.requires_grad_(False).zero_grad()
    module.gn.bias.requires_grad_()
    closed(module, x.detach()).backward(dy)
    assert error(module.gn.bias.grad, true["gn.bias"]) <= 1e-12 * float(true["gn.bias"].abs().max())
    assert module.conv1x1.weight.grad is None
    assert asked == [(True, False), (False, True), (False, True)]


@formats
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_keeps_dtype_and_memory_format(memory_format, dtype):
    module, x, dy = make(2, 3, 4, 6, 5, dtype, memory_format)
    out = closed(module, x.requires_grad_())
    assert (out.dtype, out.stride()) == (dtype, x.stride())
    out.backward(dy.contiguous())
    assert (x.grad.dtype, x.grad.stride()) == (dtype, x.stride())
    assert all(parameter.grad.dtype == dtype for parameter in module.parameters())


@formats
def test_half_inputs_with_full_weights_and_autocast_compute_in_full_precision(memory_format):
    module, x, dy = make(2, 3, 4, 6, 5, torch.float32, memory_format)
    x, dy = x.bfloat16(), dy.bfloat16()
    true = results(module, lambda x: closed(module, x), x.float(), dy.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = results(module, lambda x: closed(module, x), x, dy)
    for name in true:
        assert error(got[name], true[name]) <= (2**-8 if name in ("output", "input") else 1e-5) * float(
            true[name].abs().max()
        ), name
    assert module.conv3x3.weight.grad.dtype == torch.float32


def test_without_gradients_nothing_is_kept_and_the_output_is_the_same():
    module, x, _ = make(3, 2, 4, 6, 5)
    true = closed(module, x)
    assert true.grad_fn is not None
    with torch.no_grad():
        out = closed(module, x)
        assert torch.equal(out, true)
        assert not out.requires_grad
    with torch.inference_mode():
        assert torch.equal(closed(module, x), true)
    assert closed(module.requires_grad_(False), x).grad_fn is None


@formats
def test_a_mean_far_above_the_deviation(memory_format):
    # E(t * t) - E(t) * E(t) has no correct digit left of a variance that is a millionth of them. Both forms' errors are
    # chance here, so they are added up over several inputs.
    mine, theirs = collections.Counter(), collections.Counter()
    for seed in range(6):
        module, _, dy = make(3, 4, 4, 20, 20, torch.float32, memory_format)
        x = (1.3 * draw(10 + seed, *dy.shape) + 1000).float().contiguous(memory_format=memory_format)
        with torch.no_grad():
            module.conv1x1.weight /= 1000  # at thousands, sigmoid and softmax are 0 or 1
            module.conv3x3.weight /= 1000
        high = copy.deepcopy(module).double()
        true = results(high, high.reference, x.double(), dy.double())
        reference = results(module, module.reference, x, dy)
        got = results(module, lambda x, module=module: closed(module, x), x, dy)
        for name in true:
            mine[name] += float((got[name] - true[name]).norm() / true[name].norm())
            theirs[name] += float((reference[name] - true[name]).norm() / true[name].norm())
    for name in mine:
        assert mine[name] <= 2 * theirs[name], name
    assert mine["output"] < 6e-4


def test_strided_inputs_and_expanded_gradients():
    module, x, _ = make(2, 3, 2, 8, 9)
    strided = x[:, :, ::2, 1::3]
    dy = torch.ones((), dtype=x.dtype).expand(strided.shape)  # what .sum() sends back
    true = results(module, module.reference, strided, dy)
    assert_equal(results(module, lambda x: closed(module, x), strided, dy), true)


@formats
def test_a_nan_stays_in_its_slab(memory_format):
    module, x, dy = make(2, 3, 2, 5, 4, memory_format=memory_format)
    true = closed(module, x)
    x[1, 1, 2, 2] = torch.nan
    out = closed(module, x.requires_grad_())
    assert out[1, :3].isnan().all()
    clean = torch.ones_like(out, dtype=torch.bool)
    clean[1, :3] = False
    assert torch.equal(out[clean], true[clean])
    out.backward(dy)
    assert x.grad[1, :3].isnan().all()
    assert not x.grad[clean].isnan().any()


@formats
def test_the_same_bits_every_time(memory_format):
    module, x, dy = make(4, 2, 8, 20, 20, torch.float32, memory_format)
    first, second = (results(module, lambda x: closed(module, x), x, dy) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@formats
def test_gradcheck(memory_format):
    module, x, _ = make(2, 3, 2, 3, 2, memory_format=memory_format)
    inputs = (x.requires_grad_(), *weights(module))
    assert torch.autograd.gradcheck(lambda x, *w: _ema_closed.ema(x, w, 2, 1e-5), inputs, fast_mode=True)


def test_differentiating_twice_is_refused_by_name():
    module, x, _ = make(1, 2, 2, 3, 4)
    out = closed(module, x.requires_grad_())
    with pytest.raises(UserError, match=r'ema: .* create_graph=True .*; form="reference" can'):
        torch.autograd.grad(out.sum(), x, create_graph=True)
