"""What one paper says and the contract cannot: the authors' numbers, and facts about the published mathematics."""

import json

import pytest
import torch

from foveal import EMAttention, UserError
from foveal.attention import costs
from foveal.attention._base import FORMS
from helpers import GOLDEN, draw, filled, run_form

ema_cases = json.loads((GOLDEN / "ema.json").read_text())


def slabs(x: torch.Tensor, groups: int) -> torch.Tensor:
    return x.reshape(x.shape[0] * groups, x.shape[1] // groups, *x.shape[2:])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ema_cases, ids=lambda c: f"{c['shape']}/{c['groups']}")
def test_ema_gives_the_authors_numbers(case, form):
    module = filled(EMAttention(case["shape"][1], groups=case["groups"]).double(), case["seed"])
    x, dy = 1.3 * draw(2 * case["seed"], *case["shape"]) + 0.4, draw(2 * case["seed"] + 1, *case["shape"])
    got = run_form(module, form, x, dy)
    assert set(got) == set(case) - {"shape", "groups", "seed"}
    for name, tensor in got.items():
        true = torch.tensor(case[name], dtype=torch.float64)
        assert float((tensor.flatten() - true).abs().max()) <= 1e-12 * max(1.0, float(true.abs().max())), name


def test_ema_loads_the_authors_checkpoints():
    shapes = {name: tuple(tensor.shape) for name, tensor in EMAttention(64, groups=8).state_dict().items()}
    assert shapes == {
        "gn.weight": (8,),
        "gn.bias": (8,),
        "conv1x1.weight": (8, 8, 1, 1),
        "conv1x1.bias": (8,),
        "conv3x3.weight": (8, 8, 3, 3),
        "conv3x3.bias": (8,),
    }


def test_ema_first_softmax_is_softmax_of_the_norms_bias():
    module = filled(EMAttention(64, groups=8).double())
    for seed in (1, 2):
        x = slabs(draw(seed, 2, 64, 7, 5), 8)
        gates = module.conv1x1(torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).mT], 2)).sigmoid()
        y1 = module.gn(x * gates[:, :, :7] * gates[:, :, 7:].mT)
        softmax = y1.mean((2, 3)).softmax(1).detach()
        assert float((softmax - module.gn.bias.detach().softmax(0)).abs().max()) < 1e-15
    fresh = EMAttention(64, groups=8)
    assert torch.equal(fresh.gn.bias.softmax(0), torch.full((8,), 1 / 8))


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (256, 32), (256, 8), (512, 8)])
def test_ema_parameter_count(channels, groups):
    k = channels // groups
    assert sum(p.numel() for p in EMAttention(channels, groups=groups).parameters()) == 10 * k * k + 4 * k


def test_ema_costs_are_the_papers():
    # Published class at C=256, 40 x 40, groups 32: 672 parameters, 30.474 million multiply-accumulates.
    cost = costs(EMAttention, 256, 40)
    assert cost["parameters"] == 672
    assert round(cost["flops_reference"] / 2e6, 3) == 30.474
    assert cost["flops_fast"] < cost["flops_reference"] / 7


@pytest.mark.parametrize("form", FORMS)
def test_ema_shares_its_weights_between_groups(form):
    module = filled(EMAttention(24, groups=4).double())
    module.form = form
    x, order = draw(3, 2, 24, 5, 6), [2, 0, 3, 1]
    permuted = x.unflatten(1, (4, 6))[:, order].flatten(1, 2)
    expected = module(x).unflatten(1, (4, 6))[:, order].flatten(1, 2)
    assert float((module(permuted) - expected).detach().abs().max()) < 1e-14


@pytest.mark.parametrize("form", FORMS)
def test_ema_reweighs_space_only(form):
    module = filled(EMAttention(24, groups=4).double())
    module.form = form
    x = draw(4, 1, 24, 5, 6)
    ratio = (module(x).detach() / x).unflatten(1, (4, 6))
    assert float((ratio - ratio[:, :, :1]).abs().max()) < 1e-12  # one map for all channels of a group
    assert float((ratio[:, :, 0] - module.gates(x)["spatial"]).detach().abs().max()) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_ema_with_one_channel_a_group_has_no_softmax_left(form):
    module = filled(EMAttention(6, groups=6).double())
    module.form = form
    x = draw(5, 2, 6, 4, 5)
    u = slabs(x, 6)
    gates = module.conv1x1(torch.cat([u.mean(3, keepdim=True), u.mean(2, keepdim=True).mT], 2)).sigmoid()
    logits = module.gn(u * gates[:, :, :4] * gates[:, :, 4:].mT) + module.conv3x3(u)
    assert float((module(x) - (u * logits.sigmoid()).view_as(x)).detach().abs().max()) < 1e-14


@pytest.mark.parametrize("form", FORMS)
def test_ema_on_a_single_pixel_has_a_dead_norm_branch(form):
    module = filled(EMAttention(8, groups=2).double())
    x, dy = draw(6, 2, 8, 1, 1), draw(7, 2, 8, 1, 1)
    got = run_form(module, form, x, dy)
    assert all(torch.isfinite(tensor).all() for tensor in got.values())
    for name in ("gn.weight", "conv1x1.weight", "conv1x1.bias"):
        assert float(got[name].abs().max()) < 1e-12, name


def test_ema_halves_its_input_when_fresh():
    torch.manual_seed(0)
    x = torch.randn(4, 64, 20, 20)
    module = EMAttention(64, groups=8)
    gate = module.gates(x)["spatial"]
    assert 0.4 < float(gate.mean()) < 0.6
    assert 0.4 < float(module(x).norm() / x.norm()) < 0.65


@pytest.mark.parametrize("scale", [0.0, 1e-6, 3e3], ids=["zeros", "tiny", "large"])
@pytest.mark.parametrize("form", FORMS)
def test_ema_is_finite_on_extreme_inputs(form, scale):
    module, dy = filled(EMAttention(64)), torch.ones(2, 64, 6, 6)
    got = run_form(module, form, scale * draw(8, 2, 64, 6, 6).float(), dy)
    assert all(torch.isfinite(tensor).all() for tensor in got.values())


@pytest.mark.parametrize(
    ("channels", "groups", "fits"), [(80, 32, 20), (48, 32, 24), (16, 32, 16), (7, 2, 1), (64, 0, 1)]
)
def test_ema_names_a_number_of_groups_that_fits(channels, groups, fits):
    with pytest.raises(UserError, match=rf"channels={channels}, groups={groups}.*; groups={fits} fits"):
        EMAttention(channels, groups=groups)
    EMAttention(channels, groups=fits)


def test_ema_takes_groups_by_keyword_only():
    with pytest.raises(TypeError):
        EMAttention(256, 8)
