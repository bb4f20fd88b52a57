import copy
import operator
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from foveal import Spec, UserError
from foveal.deploy import Zero, fuse, left
from foveal.surgery import attachment
from helpers import draw, in_fresh_process, swept


def lively(model: nn.Module) -> nn.Module:
    """In fp64 and eval mode, with batch norms that do something in every one of their tensors; always the same."""
    torch.manual_seed(0)
    for module in model.modules():
        getattr(module, "reset_parameters", lambda: None)()
    for offset, (_, norm) in enumerate(sorted(model.named_modules())):
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
            noise = draw(7 + offset, 4, norm.num_features).float()
            norm.running_mean.copy_(noise[0])
            norm.running_var.copy_(0.5 + noise[1].abs())
            if norm.affine:
                norm.weight.data.copy_(noise[2])
                norm.bias.data.copy_(noise[3])
    return model.double().eval()


def tensors(output) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in tensors(part)]


@torch.no_grad()
def assert_same(left: nn.Module, right: nn.Module, x: torch.Tensor, tolerance: float = 1e-12):
    """Equal outputs, to a part of the largest value; bit for bit at a tolerance of 0."""
    for a, b in zip(tensors(left(x)), tensors(right(x)), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert float((a - b).abs().max()) <= tolerance * float(a.abs().max())


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def zeros(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Zero)]


def assert_untouched(model: nn.Module, x: torch.Tensor):
    """Nothing to fuse: the copy has every tensor of the model and the same output, bit for bit."""
    fused = fuse(model)
    before, after = model.state_dict(), fused.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert_same(model, fused, x, 0)


class Pair(nn.Module):
    """Registered against the order of the calls, under names that say nothing."""

    def __init__(self, conv=None, norm=None):
        super().__init__()
        self.a = norm or nn.BatchNorm2d(8)
        self.b = conv or nn.Conv2d(4, 8, 3)

    def forward(self, x):
        return self.a(self.b(x)).relu()


X = draw(0, 2, 4, 6, 7)


# Pairs


@st.composite
def pairs(draw_):
    """A convolution of any kind, its batch norm, and the shape of an input."""
    dims, groups = draw_(st.integers(1, 3)), draw_(st.integers(1, 3))

    def per_dim(low, high):
        return draw_(st.tuples(*[st.integers(low, high)] * dims))

    transposed = draw_(st.booleans())
    options = {
        "kernel_size": per_dim(1, 3),
        "stride": per_dim(1, 2),
        "padding": per_dim(0, 1),
        "dilation": per_dim(1, 2),
        "groups": groups,
        "bias": draw_(st.booleans()),
    }
    if not transposed:
        options["padding_mode"] = draw_(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    ins, outs = groups * draw_(st.integers(1, 3)), groups * draw_(st.integers(1, 3))
    conv = getattr(nn, f"Conv{'Transpose' * transposed}{dims}d")(ins, outs, **options)
    norm = getattr(nn, f"BatchNorm{dims}d")(outs, affine=draw_(st.booleans()), eps=draw_(st.sampled_from([1e-5, 1e-1])))
    return conv, norm, (2, ins, *[6] * dims)


@given(pairs())
@settings(max_examples=settings().max_examples // 2)
def test_any_convolution_takes_up_its_norm(drawn):
    conv, norm, shape = drawn
    model = lively(nn.Sequential(conv, norm))
    fused = fuse(model)
    assert_same(model, fused, draw(1, *shape))
    assert [name for name, _ in fused.named_parameters()] == ["0.weight", "0.bias"]
    saved = norm.num_features * (2 * norm.affine - (conv.bias is None))
    assert parameters(model) - parameters(fused) == saved


def test_string_padding_and_output_padding():
    for conv in (nn.Conv2d(4, 8, 5, padding="same"), nn.ConvTranspose2d(4, 8, 3, 2, 1, output_padding=1, groups=2)):
        model = lively(Pair(conv))
        assert not norms(fuse(model))
        assert_same(model, fuse(model), X)


def test_data_flow_and_not_names_makes_a_pair():
    model = lively(Pair())
    fused = fuse(model)
    assert type(fused.a) is nn.Identity
    assert type(fused.b) is nn.Conv2d
    assert list(fused.state_dict()) == ["b.weight", "b.bias"]
    assert not any(module.training for module in fused.modules())
    assert_same(model, fused, X)


def test_the_argument_is_left_as_it_is():
    model = lively(nn.Sequential(Pair(), Pair(nn.Conv2d(8, 8, 1))))
    before, modules = copy.deepcopy(model), list(model.modules())
    fused = fuse(model)
    assert list(model.modules()) == modules
    assert_same(before, model, X, 0)
    fused[0].b.weight.data.zero_()
    assert_same(before, model, X, 0)


def test_fusing_twice_changes_nothing_more():
    for model in (Pair(), RepVGG(4), nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8))):
        fused = fuse(lively(model))
        assert not norms(fused)
        assert_same(model, fused, X)
        assert_untouched(fused, X)


def test_a_norm_without_weight_or_without_bias():
    model = lively(Pair())
    model.a.bias = None
    assert_same(model, fuse(model), X)
    model.a.weight = None
    assert_same(model, fuse(model), X)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_result_is_rounded_once(dtype):
    model = lively(Pair(nn.Conv2d(4, 8, 3, bias=False))).to(dtype)
    exact = fuse(copy.deepcopy(model).double()).state_dict()
    for name, tensor in fuse(model).state_dict().items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, exact[name].to(dtype))


@pytest.mark.parametrize("trainable", [True, False])
def test_weight_and_bias_are_as_trainable_as_the_weight_was(trainable):
    model = lively(Pair())
    model.b.weight.requires_grad_(trainable)
    fused = fuse(model)
    assert fused.b.weight.requires_grad == fused.b.bias.requires_grad == trainable
    assert fused.b.weight.is_leaf
    assert fused.b.bias.is_leaf


def test_memory_format_is_kept():
    fused = fuse(lively(Pair()).to(memory_format=torch.channels_last))
    assert fused.b.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_norm_of_a_class_that_only_adds_to_it():
    class Named(nn.BatchNorm2d):
        """Same forward."""

    model = lively(Pair(norm=Named(8)))
    assert type(fuse(model).a) is nn.Identity
    assert_same(model, fuse(model), X)


# What is not fused


def test_train_mode_is_refused():
    model = lively(nn.Sequential(Pair()))
    with pytest.raises(UserError, match="model is in train mode") as error:
        fuse(model.train())
    assert error.value.hint == "call model.eval() first"
    model.eval()[0].a.train()
    with pytest.raises(UserError, match=r"0\.a is in train mode"):
        fuse(model)
    model.eval()[0].b.train()
    assert not norms(fuse(model))


class Sub(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).abs()


class SubNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).abs()


class SubIdentity(nn.Identity):
    def forward(self, x):
        return x.abs()


class SubForward(nn.Sigmoid, nn.BatchNorm2d):
    """Torch's forward, though not a norm's."""


class SubCall(nn.BatchNorm2d):
    def __call__(self, x):
        return super().__call__(x).abs()


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, padding=1)),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)),
        Pair(norm=nn.GroupNorm(2, 8)),
        Pair(norm=nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
        Pair(norm=nn.BatchNorm2d(8, track_running_stats=False)),
        Pair(norm=SubNorm(8)),
        Pair(norm=SubForward(8)),
        Pair(norm=SubCall(8)),
        Pair(Sub(4, 8, 3)),
        nn.Sequential(nn.Conv2d(4, 8, 3), SubIdentity(), nn.BatchNorm2d(8)),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(2), nn.BatchNorm1d(8)),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.Sequential()),
    ],
    ids=repr,
)
def test_layers_that_are_no_pair(model):
    assert_untouched(lively(model), X)


@pytest.mark.parametrize("shape", [(5, 4), (5, 8, 4)], ids=str)
def test_linear_is_left_alone_for_its_norm_may_take_another_dimension(shape):
    assert_untouched(lively(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))), draw(0, *shape))


def test_an_unbatched_map_has_its_rows_normalised():
    # The reason why dimensions must agree: this BatchNorm1d takes rows for channels.
    assert_untouched(lively(nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm1d(6))), X[0])


class Flow(Pair):
    def __init__(self, flow):
        super().__init__(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.flow = flow

    def forward(self, x):
        return self.flow(self, x)


def in_place(self, x):
    y = self.b(x)
    y.mul_(2)
    return self.a(y)


@pytest.mark.parametrize(
    "flow",
    [
        lambda self, x: (y := self.b(x), self.a(y)),
        lambda self, x: self.a(self.b(x)) + self.a(x),
        lambda self, x: self.a(self.b(self.b(x))),
        lambda self, x: self.a(self.b(x)) * self.b.weight.mean(),
        lambda self, x: self.a(self.b(x)) * self.a.running_var.mean(),
        in_place,
    ],
)
def test_layers_that_serve_something_else_too(flow):
    assert_untouched(lively(Flow(flow)), X)


def test_layers_registered_twice():
    model = Pair()
    model.again = model.b
    assert_untouched(lively(model), X)
    inner = lively(Pair())
    outer = nn.ModuleList([inner, nn.ModuleList([inner.a])]).eval()
    assert isinstance(fuse(outer)[0].a, nn.BatchNorm2d)


@pytest.mark.parametrize("which", ["a", "b"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_layers_with_hooks(kind, which):
    seen = []
    model = lively(Pair())
    getattr(getattr(model, which), f"register_{kind}_hook")(lambda *args: seen.append(args[-1]))
    fused = fuse(model)
    assert not seen
    assert fused.state_dict().keys() == model.state_dict().keys()
    fused(X.requires_grad_()).sum().backward()
    model(X).sum().backward()
    ours, theirs = (value[0] if isinstance(value, tuple) else value for value in seen)
    assert torch.equal(ours, theirs)


def test_an_identity_with_a_hook_is_none():
    model = lively(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Identity(), nn.BatchNorm2d(8)))
    assert not norms(fuse(model))
    model[1].register_forward_hook(lambda module, inputs, output: output.abs())
    assert_untouched(model, X)


def test_hooks_around_a_pair_stay_and_see_no_stand_in():
    seen = []
    model = lively(nn.Sequential(Pair(), Pair(nn.Conv2d(8, 8, 1))))
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    fused = fuse(model)
    assert not seen
    assert not norms(fused)
    assert_same(model, fused, X)
    torch.testing.assert_close(seen[0], seen[1])


def test_a_replaced_forward_is_what_counts():
    model = lively(nn.Sequential(Pair()))
    model[0].forward = lambda x: model[0].b(x)
    assert_untouched(model, X)
    model = lively(Pair())
    model.b.forward = lambda x: F.conv2d(x, model.b.weight, model.b.bias).abs()
    assert_untouched(model, X)


def test_parametrized_weights():
    model = Pair()
    nn.utils.parametrizations.weight_norm(model.b)
    assert_untouched(lively(model), X)


# Attended layers


def attended_pair(which, attention):
    model = Pair()
    attention = attachment.build(Spec.parse(attention), 8) if isinstance(attention, str) else attention
    attachment.attach(getattr(model, which), attention)
    return lively(model)


@pytest.mark.parametrize("attention", [nn.Sigmoid(), nn.Identity(), "eca(start=paper)"], ids=str)
def test_an_attention_inside_a_pair_keeps_it_apart(attention):
    model = attended_pair("b", attention)
    assert_untouched(model, X)
    assert left(fuse(model)) == ["a"]


@pytest.mark.parametrize(
    "attention", [nn.Sigmoid(), nn.Identity(), "eca(start=paper)", "coord(start=identity)"], ids=str
)
def test_an_attention_after_a_pair_stays_behind_the_convolution(attention):
    model = attended_pair("a", attention)
    for start in model.modules():
        if isinstance(start, attachment.IdentityStart):
            start.gain.data.copy_(draw(9, 8))
    fused = fuse(model)
    assert left(fused) == []
    kept = {name for name in model.state_dict() if name.startswith("a.attention.") and ".norm." not in name}
    assert kept <= fused.state_dict().keys() <= {*model.state_dict(), "a.attention.0.attention.reduce.conv.bias"}
    assert_same(model, fused, X)
    assert_untouched(fused, X)
    assert_same(fused, pickle.loads(pickle.dumps(fused)), X, 0)


@pytest.mark.parametrize("attention", [nn.Sigmoid(), "ema(groups=4, start=paper)"], ids=str)
@pytest.mark.parametrize(
    "wrap", [lambda pair: pair, nn.Sequential, lambda pair: nn.Sequential(pair, nn.BatchNorm2d(8))]
)
def test_an_attended_block_is_fused_inside(wrap, attention):
    attention = attachment.build(Spec.parse(attention), 8) if isinstance(attention, str) else attention
    model = wrap(attachment.attach(Pair(), attention))
    fused = fuse(lively(model))
    assert len(norms(fused)) == len(norms(model)) - 1
    assert_same(model, fused, X)


def test_an_attended_upsampling_hides_no_pair():
    # Its forward looks at its input, but is torch's and need not be traced.
    up = attachment.attach(nn.Upsample(scale_factor=2), nn.Sigmoid())
    model = lively(nn.Sequential(up, nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)))
    assert not norms(fuse(model))
    assert_same(model, fuse(model), X)


# Norms that call more


class NormAct(nn.BatchNorm2d):
    """A batch norm that goes on, as in much code that is copied."""

    def __init__(self, act, how=None, **options):
        super().__init__(8, **options)
        self.drop, self.act, self.how = nn.Identity(), act, how or F.batch_norm

    def forward(self, x):
        torch._assert(x.ndim == 4, "a map")
        statistics = self.running_mean, self.running_var
        return self.act(self.drop(self.how(x, *statistics, self.weight, bias=self.bias, training=False, eps=self.eps)))


class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return x * self.slope if x.mean() > 0 else x


@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.PReLU(8), Slope(), nn.Identity()], ids=repr)
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}], ids=str)
def test_what_a_norm_calls_next_is_left_of_it(act, options):
    model = lively(Pair(norm=NormAct(act, **options)))
    fused = fuse(model)
    assert left(model) == ["a"]
    assert left(fused) == []
    assert {name for name in fused.state_dict() if "act" in name} == {
        name for name in model.state_dict() if "act" in name
    }
    assert_same(model, fused, X)
    assert_untouched(fused, X)


def test_a_norm_that_calls_more_is_a_branch_of_a_sum_if_it_calls_nothing():
    for act, branches in ((nn.Identity(), ["branches.1"]), (nn.Sigmoid(), [])):
        norm = NormAct(act)
        norm.num_features = 8
        model = lively(Sum(lambda x, a, b: a + b, nn.Conv2d(8, 8, 3, padding=1), norm))
        fused = fuse(model)
        assert zeros(fused) == branches
        assert_same(model, fused, draw(1, 2, 8, 5, 6))


@pytest.mark.parametrize(
    "norm",
    [
        NormAct(nn.ReLU(), lambda x, mean, var, *args, **options: F.batch_norm(x, mean + 1, var, *args, **options)),
        NormAct(nn.ReLU(), lambda x, *args, **options: F.batch_norm(x.abs(), *args, **options)),
        NormAct(nn.ReLU(), lambda x, *args, **options: F.batch_norm(x, *args, **options) * 2),
        NormAct(nn.ReLU(), lambda x, *args, **options: F.batch_norm(x, *args, **{**options, "eps": 1.0})),
        NormAct(nn.ReLU(), lambda x, *args, **options: F.batch_norm(x, *args, **{**options, "training": True})),
        NormAct(nn.ReLU(), lambda x, mean, var, *_, **__: F.batch_norm(x, mean, var)),
    ],
    ids=["others", "abs", "times", "eps", "training", "bare"],
)
def test_norms_that_do_something_else_are_left_and_named(norm):
    model = lively(Pair(norm=norm))
    assert_untouched(model, X)
    assert left(fuse(model)) == ["a"]


@pytest.mark.parametrize("name", swept(["repvgg_a0", "mobilenetv3_small_050", "regnetx_002"], "mobilenetv3_small_050"))
def test_timm(name):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = lively(timm.create_model(name))
    assert any(type(norm).__name__ == "BatchNormAct2d" for norm in norms(model))
    fused = fuse(model)
    assert left(fused) == []
    assert_same(model, fused, draw(0, 1, 3, 64, 64), 1e-10)


# Forwards that fx cannot follow


class Chooses(nn.Module):
    """A forward that looks at values, and takes a Sequential apart."""

    def __init__(self):
        super().__init__()
        self.block = Pair()
        self.parts = nn.Sequential(
            nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        )

    def forward(self, x):
        x = self.block(x) if x.mean() > -9 else x
        conv, norm, (other, last) = self.parts
        return norm(conv(x).relu()) + last(other(x).sigmoid())


def test_a_module_that_cannot_be_traced_is_taken_apart():
    model = lively(Chooses())
    fused = fuse(model)
    assert [name for name, module in fused.named_modules() if isinstance(module, _BatchNorm)] == [
        "parts.1",
        "parts.2.1",
    ]
    assert_same(model, fused, X)
    assert not norms(fuse(model.parts))


class Checks(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.block, self.error = Pair(), error

    def forward(self, x):
        if not isinstance(x, torch.Tensor):
            raise self.error
        return self.block(x)


@pytest.mark.parametrize("error", [AssertionError, KeyError, TypeError, ValueError, RuntimeError, AttributeError])
def test_a_forward_that_refuses_stand_ins(error):
    model = lively(Checks(error))
    assert not norms(fuse(model))
    assert_same(model, fuse(model), X)


def test_a_forward_that_calls_what_is_not_registered():
    model = lively(Flow(lambda self, x: self.hidden[0](self.a(self.b(x)))))
    model.hidden = [nn.ReLU()]
    assert_untouched(model, X)


def test_a_forward_that_holds_its_layers_in_a_list_too():
    model = lively(Flow(lambda self, x: self.held[1](self.held[0](x)) + self.held[2](x)))
    model.third = lively(nn.BatchNorm2d(4))
    model.held = [model.b, model.a, model.third]
    fused = fuse(model)
    assert not norms(fused)
    assert zeros(fused) == ["third"]
    assert_same(model, fused, X)


def test_a_forward_may_keep_what_it_computes():
    def keep(self, x):
        self.kept = self.a(self.b(x))
        self.seen.append(x)
        return self.kept

    model = lively(Flow(keep))
    model.kept, model.seen = None, []
    fused = fuse(model)
    assert model.kept is fused.kept is None
    assert model.seen == fused.seen == []
    assert not norms(fused)


# Branches


class RepVGG(nn.Module):
    """Ding et al. 2021, as a block."""

    def __init__(self, width, stride=1, groups=1):
        super().__init__()
        self.dense = nn.Sequential(
            nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(width)
        )
        self.point = nn.Sequential(nn.Conv2d(width, width, 1, stride, groups=groups), nn.BatchNorm2d(width))
        self.same = nn.BatchNorm2d(width) if stride == 1 else None

    def forward(self, x):
        same = 0 if self.same is None else self.same(x)
        return (self.dense(x) + self.point(x) + same).relu()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_repvgg_block_becomes_one_convolution(stride, groups):
    model = lively(nn.Sequential(RepVGG(4, stride, groups), RepVGG(4, stride, groups)))
    fused = fuse(model)
    assert parameters(fused) == 2 * (4 * 4 // groups * 9 + 4)
    assert zeros(fused)[:2] == (["0.point.0", "0.same"] if stride == 1 else ["0.point.0", "1.point.0"])
    assert not norms(fused)
    assert not any(module.training for module in fused.modules())
    assert_same(model, fused, X)


@pytest.mark.parametrize("bn", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_repconv_of_the_host(bn, groups):
    from ultralytics.nn.modules.conv import RepConv

    model = lively(RepConv(4, 4, g=groups, bn=bn))
    fused = fuse(model)
    assert list(fused.state_dict()) == ["conv1.conv.weight", "conv1.conv.bias"]
    assert_same(model, fused, X)


class Sum(nn.Module):
    def __init__(self, join, *branches):
        super().__init__()
        self.branches, self.join = nn.ModuleList(branches), join

    def forward(self, x):
        return self.join(x, *[branch(x) for branch in self.branches])


def conv(kernel, padding=None, width=4, **options):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(k // 2 for k in kernel) if padding is None else padding
    return nn.Conv2d(4, width, kernel, padding=padding, **options)


@st.composite
def sums(draw_):
    """Parallel branches of a few sizes whose centres meet; one is as large as any."""
    smallest, dilation, stride = draw_(st.integers(1, 3)), draw_(st.integers(1, 2)), draw_(st.integers(1, 2))
    options = {"groups": draw_(st.sampled_from([1, 2, 4])), "stride": stride, "dilation": dilation}
    options["padding_mode"] = draw_(st.sampled_from(["zeros", "circular", "replicate"]))
    branches = []
    for rows, columns in [(2, 1), *draw_(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1))]:
        kernel, padding = (smallest + 2 * rows, smallest + 2 * columns), (dilation * rows, dilation * columns)
        branch = nn.Conv2d(4, 4, kernel, padding=padding, bias=draw_(st.booleans()), **options)
        branches.append(nn.Sequential(branch, nn.BatchNorm2d(4)) if draw_(st.booleans()) else branch)
    if smallest == stride == 1 and draw_(st.booleans()):
        branches.append(nn.BatchNorm2d(4, affine=draw_(st.booleans())))
    return draw_(st.permutations(branches))


@given(sums())
@settings(max_examples=settings().max_examples // 2)
def test_any_branches_become_the_largest_one(branches):
    model = lively(Sum(lambda x, *ys: sum(ys), *branches))
    fused = fuse(model)
    assert len(zeros(fused)) == len(branches) - 1
    assert not norms(fused)
    assert_same(model, fused, draw(2, 2, 4, 12, 13))


def chain(x, a, b, c):
    a += b
    a += c
    return a


@pytest.mark.parametrize(
    "join",
    [
        lambda x, a, b, c: a + b + c,
        lambda x, a, b, c: c + (b + a),
        lambda x, a, b, c: sum([a, b, c]),
        lambda x, a, b, c: torch.add(torch.add(a, b), c),
        lambda x, a, b, c: a.add(b).add(c),
        lambda x, a, b, c: a.add(c + b),
        lambda x, a, b, c: operator.iadd(c, b) + a,
        lambda x, a, b, c: 0.5 + a + b + c,
        chain,
    ],
)
def test_every_way_to_write_a_sum(join):
    model = lively(Sum(join, conv(3), conv(1), nn.BatchNorm2d(4)))
    fused = fuse(model)
    assert zeros(fused) == ["branches.1", "branches.2"]
    assert_same(model, fused, X)


@pytest.mark.parametrize(
    "join",
    [
        lambda x, a, b: torch.add(a, b, alpha=2),
        lambda x, a, b: a.add(b, alpha=2),
        lambda x, a, b: torch.add(b, a),  # would start with a Zero
        lambda x, a, b: torch.add(a, torch.add(b, b)),
        lambda x, a, b: b.add(a),
        lambda x, a, b: a - b,
        lambda x, a, b: (a + b) + a,
        lambda x, a, b: (a + b) * b,
        lambda x, a, b: (s := b + b) + a + s,
        lambda x, a, b: x + a + b,
        lambda x, a, b: a.relu() + b,
    ],
)
def test_sums_that_are_left_alone(join):
    assert_untouched(lively(Sum(join, conv(3), conv(1))), X)


def test_a_sum_inside_a_residual_sum():
    model = lively(Sum(lambda x, a, b: a + b + x, conv(3), conv(1)))
    assert zeros(fuse(model)) == ["branches.1"]
    assert_same(model, fuse(model), X)


@pytest.mark.parametrize(
    "branches",
    [
        (conv((5, 3)), conv((3, 5))),  # neither has room for the other
        (conv(3), conv(1, width=1)),  # broadcast
        (conv(3), conv(1, groups=2)),
        (conv(3), conv(3, (2, 2), dilation=2)),
        (conv(3, (1, 1), dilation=2), conv(2, (0, 0), dilation=2)),  # same outputs, but no common centre
        (conv(3, (2, 2), stride=8), conv(1, stride=8)),  # likewise, by the padding
        (conv(3, stride=7), conv(1, stride=8)),
        (conv(1, stride=8), nn.Sequential(nn.MaxPool2d(8, ceil_mode=True), nn.BatchNorm2d(4))),
        (conv(3, (0, 0)), nn.Sequential(nn.ZeroPad2d(-1), nn.BatchNorm2d(4))),
        (conv(3), conv(3, padding_mode="circular")),
        (conv(3), conv(1, padding="valid")),
        (conv(3, padding="same"), conv(1, padding="valid")),
        (conv(3), nn.ConvTranspose2d(4, 4, 1)),
        (conv(3), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())),
        (conv(3), nn.GroupNorm(2, 4)),
        (conv(3), nn.BatchNorm2d(4, track_running_stats=False)),
        (conv(3), SubNorm(4)),
        (conv(3), Sub(4, 4, 1)),
        (nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
    ],
    ids=str,
)
def test_branches_that_do_not_fit(branches):
    assert_untouched(lively(Sum(lambda x, a, b: a + b, *branches)), X)


def test_a_norm_fits_only_a_grid_that_is_its_inputs():
    for first in (conv(3, (0, 0), stride=6), conv(3, stride=7), conv(3, (4, 4), stride=2)):
        x = draw(0, 1, 4, 1, 1) if first.padding != (0, 0) else X[..., :3, :3]
        model = lively(Sum(lambda x, a, b: a + b, first, nn.BatchNorm2d(4)))
        assert_untouched(model, x)


class Between(nn.Module):
    """Something else runs between two branches of one tensor."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = conv(3), conv(1), between

    def forward(self, x):
        x = x + 0
        a = self.a(x)
        self.between(x)
        return a + self.b(x)


def test_branches_between_which_the_input_is_changed():
    assert_untouched(lively(Between(nn.ReLU(inplace=True))), X)
    assert_untouched(lively(Between(lambda x: x.mul_(2))), X)
    assert zeros(fuse(lively(Between(lambda x: x)))) == ["b"]


def test_branches_of_different_tensors():
    def flow(self, x):
        other = x.flip(1)
        return self.a(x) + self.b(other)

    model = Flow(flow)
    model.a = conv(1)
    assert_untouched(lively(model), X)


def test_a_module_named_add_is_no_addition():
    model = Flow(lambda self, x: self.add(self.b(x), self.a(x)))
    model.a, model.add = conv(1), nn.Bilinear(7, 7, 7)
    assert_untouched(lively(model), X)


def test_branches_with_hooks_or_registered_twice():
    model = lively(Sum(lambda x, a, b: a + b, conv(3), conv(1)))
    model.again = model.branches[1]
    assert_untouched(model, X)
    del model.again
    model.branches[1].register_forward_hook(lambda *_: None)
    assert_untouched(model, X)


# Whole models


def test_copies_and_pickles():
    model = lively(RepVGG(4))
    fused = fuse(model)
    assert Zero.__module__ == "foveal.fusion"
    for each in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert zeros(each) == ["point.0", "same"]
        assert_same(fused, each, X, 0)


def test_restricted_loading_knows_the_zero(tmp_path):
    torch.save(fuse(lively(RepVGG(4))), tmp_path / "fused.pt")
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "fused.pt")
    assert not [name for name in unknown if "foveal" in name]


def test_a_model_that_tells_whether_it_is_fused():
    class Host(Pair):
        def is_fused(self):
            return False

    class Head(Pair):
        is_fused = False

    fused = fuse(lively(nn.Sequential(Host(), Head(nn.Conv2d(8, 8, 1)))))
    assert fused[0].is_fused() is True
    assert fused[1].is_fused is False
    assert pickle.loads(pickle.dumps(fused[0].is_fused))() is True


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision(name):
    torchvision = pytest.importorskip("torchvision")
    model = lively(getattr(torchvision.models, name)())
    fused = fuse(model)
    assert not norms(fused)
    assert not zeros(fused)
    assert parameters(model) - parameters(fused) == sum(norm.num_features for norm in norms(model))
    assert_same(model, fused, draw(0, 2, 3, 64, 64))


def test_yolo11n_as_the_host_fuses_it():
    from ultralytics.nn.tasks import DetectionModel

    model, x = lively(DetectionModel("yolo11n.yaml", verbose=False)), draw(0, 1, 3, 64, 96)
    fused = fuse(model)
    assert not norms(fused)
    assert not left(fused)
    assert fused.is_fused()
    assert not model.is_fused()
    assert_same(model, fused, x, 1e-10)
    theirs = copy.deepcopy(model).fuse(verbose=False)
    assert parameters(fused) == parameters(theirs)
    assert_same(theirs, fused, x, 1e-10)
    assert_same(fused, copy.deepcopy(fused).fuse(verbose=False), x, 0)
    assert_same(theirs, fuse(theirs), x, 0)


class YOLOv5s(nn.Module):
    """The published v6 layout at depth 0.33 and width 0.50, up to the three maps of its anchor-based head."""

    def __init__(self):
        from ultralytics.nn.modules import C3, SPPF, Concat, Conv

        super().__init__()
        up = nn.Upsample(scale_factor=2)
        self.rows = [
            (-1, Conv(3, 32, 6, 2, 2)),
            (-1, Conv(32, 64, 3, 2)),
            (-1, C3(64, 64, 1)),
            (-1, Conv(64, 128, 3, 2)),
            (-1, C3(128, 128, 2)),
            (-1, Conv(128, 256, 3, 2)),
            (-1, C3(256, 256, 3)),
            (-1, Conv(256, 512, 3, 2)),
            (-1, C3(512, 512, 1)),
            (-1, SPPF(512, 512, 5)),
            (-1, Conv(512, 256)),
            (-1, up),
            ([-1, 6], Concat()),
            (-1, C3(512, 256, 1, False)),
            (-1, Conv(256, 128)),
            (-1, up),
            ([-1, 4], Concat()),
            (-1, C3(256, 128, 1, False)),
            (-1, Conv(128, 128, 3, 2)),
            ([-1, 14], Concat()),
            (-1, C3(256, 256, 1, False)),
            (-1, Conv(256, 256, 3, 2)),
            ([-1, 10], Concat()),
            (-1, C3(512, 512, 1, False)),
        ]
        self.sources = [source for source, _ in self.rows]
        self.rows = nn.ModuleList(layer for _, layer in self.rows)
        self.heads = nn.ModuleList(nn.Conv2d(width, 255, 1) for width in (128, 256, 512))

    def forward(self, x):
        maps = []
        for source, row in zip(self.sources, self.rows, strict=True):
            x = row(x if source == -1 else [x, maps[source[1]]])
            maps.append(x)
        return [head(maps[i]) for head, i in zip(self.heads, (17, 20, 23), strict=True)]


def test_yolov5s_has_the_published_number_of_parameters():
    model = lively(YOLOv5s())
    fused = fuse(model)
    assert parameters(model) == 7_235_389
    assert parameters(fused) == 7_225_885
    assert sum(norm.num_features for norm in norms(model)) == 9_504
    assert not norms(fused)
    assert_same(model, fused, draw(0, 1, 3, 64, 64))


def test_no_host_is_needed(tmp_path):
    code = "import sys; sys.modules['ultralytics'] = None; import foveal; print(foveal.fuse.__name__)"
    assert in_fresh_process(code, tmp_path).split() == ["fuse"]
