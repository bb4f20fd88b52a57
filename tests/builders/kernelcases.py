"""Inputs that try EMA's Triton kernels, and a judge of what comes out; for tests, and for a bare machine with a GPU.

The truth is the `reference` form in fp64. Allowed is twice the reference's own rounding error in 16 bits or with a mean
far off, and a few roundings of what a sum is made of.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

import foveal
from draws import draw, filled

NAMES = ("conv1x1.weight", "conv1x1.bias", "gn.weight", "gn.bias", "conv3x3.weight", "conv3x3.bias")
FORMATS = {False: torch.contiguous_format, True: torch.channels_last}

Results = dict[str, torch.Tensor]


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
    gained: bool = False  # an identity start

    @property
    def id(self) -> str:
        marks = ["single"] * self.single + ["nhwc"] * self.last + [str(self.dtype)[6:]]
        marks += ["nan"] * self.nan + ["gain"] * self.gained
        return "-".join(["x".join(map(str, self.shape)), f"g{self.groups}", *marks])


CASES = [
    Case((2, 4, 4, 5), 2),
    Case((2, 2, 5, 6), 1, single=True, elements=16),
    Case((1, 6, 5, 9), 2, last=True, elements=32, gained=True),
    Case((2, 10, 6, 5), 5, last=True, single=True),
    Case((2, 12, 2, 3), 1),  # more than KEEP channels a group: the map is saved
    Case((2, 12, 3, 2), 1, single=True, last=True, gained=True),
    Case((2, 2, 12, 4), 2, elements=32),
    Case((2, 4, 1, 9), 2),
    Case((2, 4, 9, 1), 2, single=True),
    Case((1, 3, 1, 1), 1, last=True, gained=True),
    Case((1, 4, 5, 7), 2, offset=1000.0, elements=16, gained=True),
    Case((1, 4, 5, 7), 2, offset=1000.0, single=True),
    Case((1, 4, 4, 16), 2, elements=32, dtype=torch.bfloat16, weights=torch.float32, gained=True),  # vectors of 8
    Case((2, 4, 6, 5), 2, dtype=torch.float16, single=True, last=True),
    Case((2, 4, 4, 5), 2, nan=True),
]
# As large as in detectors, where a tile is not the whole map, and a loop goes round more than once.
LARGE = [
    Case((2, 64, 80, 80), 32, dtype=torch.bfloat16, weights=torch.float32, gained=True),
    Case((1, 384, 80, 80), 32, dtype=torch.bfloat16, weights=torch.float32, last=True),
    Case((2, 768, 20, 20), 32, single=True, gained=True),
    Case((1, 256, 33, 47), 1, last=True),
    Case((2, 64, 40, 40), 8, dtype=torch.float16, weights=torch.float32, single=True, last=True, gained=True),
]


def given(case: Case) -> tuple[foveal.EMAttention, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """The module in the weights' dtype, a gain, an input and an output gradient."""
    channels, dtype = case.shape[1], case.weights or case.dtype
    module = filled(foveal.EMAttention(channels, groups=case.groups))
    if case.offset > 1:  # gates almost constant, as is then x * a * b, and a map that is not saturated
        module.conv1x1.weight.data *= 1e-3
        module.conv3x3.weight.data -= module.conv3x3.weight.data.mean((2, 3), keepdim=True)
    x, dy = 1.3 * draw(1, *case.shape) + case.offset, draw(2, *case.shape)
    if case.nan:
        x[0, 1, 2, 3] = float("nan")
    memory_format = FORMATS[case.last]
    gain = draw(3, channels).to(dtype) if case.gained else None
    if gain is not None:
        gain[0] = 0  # where dL/d(gain) is all there is
    module = module.to(dtype).to(memory_format=memory_format)
    return module, gain, *(tensor.to(case.dtype).contiguous(memory_format=memory_format) for tensor in (x, dy))


def reference(
    module: foveal.EMAttention, gain: torch.Tensor | None, x: torch.Tensor, dy: torch.Tensor, dtype: torch.dtype
) -> Results:
    """What form `reference` computes in some dtype: the output and every gradient, in fp64."""
    module = module.to(dtype)
    module.form = "reference"
    gains = [] if gain is None else [gain.to(dtype).requires_grad_()]
    leaves = [x.to(dtype).detach().requires_grad_(), *dict(module.named_parameters()).values(), *gains]
    out = module(leaves[0], *gains)
    gradients = torch.autograd.grad(out, leaves, dy.to(dtype))
    names = ["output", "input", *dict(module.named_parameters()), *["gain"] * len(gains)]
    return {name: t.detach().double() for name, t in zip(names, (out, *gradients), strict=True)}


@contextmanager
def poisoned():
    """Memory that nobody has written to is NaN, so that it shows if a kernel leaves out what it should write."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def launched(case: Case):
    """The module `cuda` as the case wants it: in one launch or not, and with tiles of its size."""
    from foveal.kernels.ema import cuda

    before = {name: getattr(cuda, name) for name in ("one_launch", "DEFAULTS", "TUNED")}
    cuda.one_launch = lambda *_: case.single
    if case.elements:
        small = {name: how._replace(elements=case.elements) for name, how in cuda.DEFAULTS.items()}
        cuda.DEFAULTS, cuda.TUNED = small, {}
    try:
        yield cuda
    finally:
        vars(cuda).update(before)


def kernels(case: Case, device: str = "cpu") -> Results:
    """What the kernels compute: the output and every gradient, on the device and in the dtypes that they have."""
    module, gain, x, dy = given(case)
    state = dict(module.named_parameters())
    weights = [state[name].detach().to(device) for name in NAMES]
    gain, x, dy = (None if t is None else t.to(device) for t in (gain, x, dy))
    with poisoned(), launched(case) as cuda:
        y, saved = cuda.forward(x, weights, gain, case.groups, module.gn.eps, True)
        gradients = cuda.backward(dy, x, saved, weights, gain, case.groups, module.gn.eps)
        alone, nothing = cuda.forward(x, weights, gain, case.groups, module.gn.eps, False)
    assert torch.equal(alone.nan_to_num(), y.nan_to_num())
    assert nothing.numel() == 0
    assert saved.dtype == torch.float32
    assert saved.numel() == cuda.saved_numel(*x.shape, case.groups)
    assert y.stride() == gradients[0].stride() == x.stride()
    likes = [x, x, *weights, gain if case.gained else x]
    assert [t.dtype for t in (y, *gradients)] == [like.dtype for like in likes]
    results = dict(zip(("output", "input", *NAMES, "gain"), (y, *gradients), strict=True))
    if gain is None:
        assert not results.pop("gain").numel()
    return results


def truth(case: Case) -> tuple[Results, Results]:
    """What is right, and how far it may be off: tensors like it."""
    module, gain, x, dy = given(case)
    low = [reference(given(case)[0], gain, near, dy, case.dtype) for near in (x, *_nudged(case, x))]
    true = reference(module, gain, x, dy, torch.float64)
    slack = 1e-5 if case.dtype == torch.float32 else 8 * torch.finfo(case.dtype).eps
    allowed = {}
    for name, want in true.items():
        made_of = dy.abs().max() if name in ("output", "input") else (x * dy).nan_to_num().double().norm()
        scale = max(float(want.nan_to_num().abs().max()), float(made_of))
        errors = [float((rough[name].nan_to_num() - want.nan_to_num()).abs().max()) for rough in low]
        own = max(errors) if case.dtype != torch.float32 or case.offset > 1 else 0.0
        allowed[name] = torch.tensor(2 * own + slack * scale)
    return true, allowed


def judge(true: Results, allowed: Results, got: Mapping[str, torch.Tensor]) -> list[str]:
    """What is wrong, in words."""
    said = [] if got.keys() == true.keys() else [f"there are {[*got]}, and not {[*true]}"]
    for name in got.keys() & true.keys():
        value, want = got[name].detach().cpu().double(), true[name]
        error = float((value.nan_to_num() - want.nan_to_num()).abs().max())
        if not torch.equal(value.isnan(), want.isnan()):
            said.append(f"{name} is NaN elsewhere")
        elif error > allowed[name]:
            said.append(f"{name} is off by {error:.1e}, allowed {float(allowed[name]):.1e}")
    return said


def _nudged(case: Case, x: torch.Tensor) -> list[torch.Tensor]:
    """Inputs that differ in their last bit, where that decides the reference's error: one draw may be a lucky one."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-1, 2, (8, *x.shape), generator=generator) * torch.finfo(x.dtype).eps
    return [*(x * (1 + bits))] if case.offset > 1 else []
