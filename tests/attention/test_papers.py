"""What one paper says and the contract cannot: the authors' numbers, and facts about the published mathematics."""

import json

import pytest
import torch

from foveal import (
    ATTENTIONS,
    CAA,
    CBAM,
    CPCA,
    ECA,
    GAM,
    LSKA,
    MHSA,
    MLCA,
    MSDA,
    NAM,
    SCSA,
    ChannelAttentionBlock,
    CoordAttention,
    EMAttention,
    FocusedLinearAttention,
    HybridAttentionBlock,
    LSKBlock,
    OverlappingCrossAttentionBlock,
    Placebo,
    SeaAttention,
    ShuffleAttention,
    SimAM,
    SqueezeExcitation,
    TripletAttention,
    UserError,
)
from foveal.attention import PLAIN, costs, mhsa
from helpers import GOLDEN, draw, drawn_state, filled, run_form

CASES = [
    pytest.param(cls, case, id=f"{name}-{case['shape']}-{case['arguments']}-{'train' if case['training'] else 'eval'}")
    for name, cls in ATTENTIONS.items()
    if cls.card.source
    for case in json.loads((GOLDEN / f"{name}.json").read_text())
]


@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize(("cls", "case"), CASES)
def test_gives_the_authors_numbers(cls, case, form):
    seed, shape = case["seed"], case["shape"]
    module = cls(shape[1], **case["arguments"]).double().train(case["training"])
    known = module.state_dict()
    module.load_state_dict(known | cls.from_official(drawn_state(case["state"], seed)))
    got = run_form(module, form, 1.3 * draw(2 * seed, *shape) + 0.4, draw(2 * seed + 1, *shape))
    got |= {name: tensor.double() for name, tensor in module.named_buffers() if case["buffers"]}

    stored = {name: number.view(case["state"][name]) for name, number in tensors(case["gradients"]).items()}
    true = cls.from_official(stored) | cls.from_official(tensors(case["buffers"]))
    true |= tensors({name: case[name] for name in ("output", "input")})
    assert set(true) <= set(got)
    assert set(dict(module.named_parameters())) <= set(true)
    for name, tensor in true.items():
        bound = 1e-12 * max(1.0, float(tensor.abs().max()))
        assert float((got[name].flatten() - tensor.flatten()).abs().max()) <= bound, name


def tensors(lists: dict[str, list[float]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in lists.items()}


def slabs(x: torch.Tensor, groups: int) -> torch.Tensor:
    return x.reshape(x.shape[0] * groups, x.shape[1] // groups, *x.shape[2:])


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


@pytest.mark.parametrize("form", PLAIN)
def test_ema_shares_its_weights_between_groups(form):
    module = filled(EMAttention(24, groups=4).double())
    module.form = form
    x, order = draw(3, 2, 24, 5, 6), [2, 0, 3, 1]
    permuted = x.unflatten(1, (4, 6))[:, order].flatten(1, 2)
    expected = module(x).unflatten(1, (4, 6))[:, order].flatten(1, 2)
    assert float((module(permuted) - expected).detach().abs().max()) < 1e-14


@pytest.mark.parametrize("form", PLAIN)
def test_ema_reweighs_space_only(form):
    module = filled(EMAttention(24, groups=4).double())
    module.form = form
    x = draw(4, 1, 24, 5, 6)
    ratio = (module(x).detach() / x).unflatten(1, (4, 6))
    assert float((ratio - ratio[:, :, :1]).abs().max()) < 1e-12  # one map for all channels of a group
    assert float((ratio[:, :, 0] - module.gates(x)["spatial"]).detach().abs().max()) < 1e-12


@pytest.mark.parametrize("form", PLAIN)
def test_ema_with_one_channel_a_group_has_no_softmax_left(form):
    module = filled(EMAttention(6, groups=6).double())
    module.form = form
    x = draw(5, 2, 6, 4, 5)
    u = slabs(x, 6)
    gates = module.conv1x1(torch.cat([u.mean(3, keepdim=True), u.mean(2, keepdim=True).mT], 2)).sigmoid()
    logits = module.gn(u * gates[:, :, :4] * gates[:, :, 4:].mT) + module.conv3x3(u)
    assert float((module(x) - (u * logits.sigmoid()).view_as(x)).detach().abs().max()) < 1e-14


@pytest.mark.parametrize("form", PLAIN)
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
@pytest.mark.parametrize("form", PLAIN)
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


# Costs and whole networks ----------------------------------------------------------------------------------------

# Of the authors' classes at 256 channels, 40 x 40: parameters, and millions of multiply-accumulates.
COSTS = {
    "ema": (672, 30.474),
    "coord": (6_680, 0.328),
    "lska": (69_888, 109.773),
    "lsk": (118_470, 187.910),
    "msda": (263_168, 426.803),
    "mhsa": (206_720, 1690.010),
    "fla": (673_856, 456.294),
    "sea": (475_648, 538.132),
    "cab": (396_381, 626.692),
    "hab": (925_285, 1517.982),
    "ocab": (529_992, 956.826),
    "se": (8_464, 0.008),
    "cbam": (8_564, 0.173),
    "eca": (5, 0.001),
    "sa": (12, 0.0),
    "nam": (512, 0.0),
    "simam": (0, 0.0),
    "triplet": (300, 2.164),
    "mlca": (10, 0.033),
    "gam": (1_639_680, 2621.440),
    "caa": (138_240, 218.726),
    "scsa": (4_096, 3.419),
    "cpca": (127_040, 356.827),
    "placebo": (672, 0.023),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_costs_are_the_authors(name):
    cost = costs(ATTENTIONS[name])
    assert (cost["parameters"], round(cost["flops_reference"] / 2e6, 3)) == COSTS[name]


@pytest.mark.parametrize(
    ("name", "arguments", "channels", "parameters"),
    [
        ("coord", {"reduction": 32}, 512, 25_648),
        ("lska", {"kernel_size": 23}, 256, 72_960),
        ("lska", {"kernel_size": 7}, 512, 270_848),
        ("lsk", {}, 64, 11_334),
        ("msda", {}, 64, 16_640),
        ("mhsa", {"size": 20}, 512, 796_416),
        ("fla", {"size": 20}, 512, 1_257_600),
        ("cab", {}, 128, 98_094),
        ("hab", {"window_size": 4, "heads": 4}, 128, 230_770),
        ("ocab", {"window_size": 4, "heads": 4}, 128, 132_804),
        ("sea", {"heads": 4}, 256, 205_568),
        ("se", {}, 64, 580),
        ("cbam", {}, 512, 33_412),
        ("sa", {"groups": 8}, 256, 96),
        ("mlca", {}, 64, 6),
        ("gam", {"groups": 4}, 256, 435_456),
        ("caa", {"norm": False}, 256, 137_728),
        ("scsa", {"heads": 8}, 64, 1_024),
        ("cpca", {"reduction": 16}, 256, 102_416),
    ],
)
def test_parameters_at_other_arguments_are_the_authors(name, arguments, channels, parameters):
    module = ATTENTIONS[name](channels, **arguments)
    assert sum(p.numel() for p in module.parameters()) == parameters


RESNET50 = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3  # width of each block's output


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("se", [{}] * 16, 28_088_024),
        ("se", [{"bias": False}] * 16, 28_071_976),
        ("cbam", [{}] * 16, 28_089_624),
        ("eca", [{"kernel_size": k} for k in [3] * 3 + [5] * 4 + [5] * 6 + [7] * 3], 25_557_112),
        ("sa", [{}] * 16, 25_557_032 + 708),
    ],
)
def test_resnet50_with_an_attention_has_the_published_number_of_parameters(name, arguments, parameters):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    with torch.device("meta"):
        added = [ATTENTIONS[name](width, **each) for width, each in zip(RESNET50, arguments, strict=True)]
        network = torch.nn.ModuleList([torchvision.models.resnet50(), *added])
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_mobilenetv2_with_coordinate_attention_has_the_published_number_of_parameters():
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    with torch.device("meta"):
        network = torchvision.models.mobilenet_v2()
        # In every inverted residual block that expands, at the expanded width.
        widths = [block.conv[1][0].in_channels for block in network.features if len(getattr(block, "conv", ())) == 4]
        network.added = torch.nn.ModuleList(ATTENTIONS["coord"](width) for width in widths)
    assert sum(p.numel() for p in network.parameters()) == 3_950_648


def test_botnet50_has_the_published_number_of_parameters():
    # The last stage's three 3x3 convolutions become attention of 512 channels in 4 heads of 128.
    bare = sum(p.numel() for name, p in MHSA(512).named_parameters() if not name.startswith("rel"))
    assert 25_557_032 - 3 * 9 * 512**2 + 3 * bare == 20_838_440


# One attention each ----------------------------------------------------------------------------------------------


def moved(x: torch.Tensor, forms_of: torch.nn.Module) -> list[torch.Tensor]:
    """What each form makes of x."""
    results = []
    for form in PLAIN:
        forms_of.form = form
        results.append(forms_of(x).detach())
    return results


def test_placebo_sees_no_input_and_has_emas_parameters():
    module = filled(Placebo(64).double())
    x = draw(0, 2, 64, 5, 7)
    for out in moved(x, module):
        gate = out / x
        assert float(gate.max() - gate.min()) < 1e-13
    assert {k: v.shape for k, v in module.state_dict().items()} == {
        k: v.shape for k, v in EMAttention(64).state_dict().items()
    }
    assert torch.equal(module.gates(x)["spatial"], module.gates(3 * x + 1)["spatial"])


@pytest.mark.parametrize(("kernel_size", "reach"), [(7, 3), (11, 5), (23, 11), (35, 17), (41, 20), (53, 26)])
def test_lska_sees_a_square_of_its_kernel_size(kernel_size, reach):
    module = LSKA(1, kernel_size=kernel_size).double()
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    seen = torch.autograd.functional.jacobian(lambda x: module.gates(x)["factor"][0, 0, 30, 30], draw(0, 1, 1, 61, 61))
    rows = seen[0, 0].abs().sum(1).nonzero().flatten()
    columns = seen[0, 0].abs().sum(0).nonzero().flatten()
    # The dilated pair adds dilation * (k // dilation - 1) / 2 on each side to the dense one.
    assert (int(rows[0]), int(rows[-1])) == (int(columns[0]), int(columns[-1])) == (30 - reach, 30 + reach)


@pytest.mark.parametrize("size", [(7, 7), (5, 7), (7, 2), (1, 1)])
def test_mhsa_on_a_smaller_map_takes_exactly_the_rows_of_its_offsets(size):
    large = filled(MHSA(16, heads=2, size=7).double())
    small = MHSA(16, heads=2, size=size).double()
    state = large.state_dict()
    for name, length in zip(("rel_h", "rel_w"), size, strict=True):
        state[name] = state[name][7 - length : 7 + length - 1]
    small.load_state_dict(state)
    x = draw(1, 2, 16, *size)
    for a, b in zip(moved(x, large), moved(x, small), strict=True):
        assert torch.equal(a, b)


def test_mhsa_on_a_larger_map_stretches_its_tables():
    module = filled(MHSA(16, heads=2, size=(3, 4)).double())
    ramp = torch.arange(5, dtype=torch.float64)[:, None].expand(5, 8) - 2
    module.rel_h.data.copy_(ramp)  # linear in the offset, as it must be after stretching
    wide = mhsa._stretched(module.rel_h, 9)
    assert torch.allclose(wide[:, 0], torch.linspace(-2, 2, 17, dtype=torch.float64), atol=1e-6)
    first, second = moved(draw(1, 1, 16, 9, 11), module)
    assert float((first - second).abs().max()) < 1e-12


def test_msda_counts_neighbours_outside_the_map_as_zeros():
    module = filled(MSDA(8, heads=2, dilations=[1, 2]).double())
    alone = draw(0, 1, 8, 1, 1)
    _, _, value = module.qkv(alone).chunk(3, 1)
    logits = [(q * k).sum(2).flatten() / 2 for _, q, k, _ in module._groups(alone)]
    share = torch.cat([each.exp() / (each.exp() + 8) for each in logits]).repeat_interleave(4)  # eight keys of logit 0
    for out in moved(alone, module):
        assert float((out - module.proj(value * share.view(1, 8, 1, 1))).abs().max()) < 1e-14


def test_fla_is_finite_in_half_precision_where_the_cube_overflows():
    module = filled(FocusedLinearAttention(64)).half()
    x = 500 * draw(0, 1, 64, 6, 7).half()
    reference, fast = moved(x, module)
    assert not reference.isfinite().all()
    assert fast.isfinite().all()
    true, _ = moved(x.double(), module.double())
    assert float((fast.double() - true).abs().max()) <= 0.02 * float(true.abs().max())


def test_sea_starts_as_half_of_its_detail_branch():
    module = SeaAttention(32).double().eval()
    x = draw(0, 2, 32, 5, 7)
    assert torch.equal(module.gates(x)["elements"], torch.full_like(x, 0.5))


def test_sa_starts_as_a_shuffle_times_sigmoid_1():
    module = ShuffleAttention(32, groups=4).double()
    x = draw(0, 2, 32, 5, 7)
    shuffled = x.unflatten(1, (2, 16)).transpose(1, 2).flatten(1, 2)
    assert torch.allclose(module(x), shuffled * torch.ones(()).double().sigmoid(), rtol=0, atol=1e-14)


def test_nam_starts_within_a_quarter_of_1_over_c_of_one_half():
    gates = NAM(64).double().train().gates(draw(0, 2, 64, 5, 7))["elements"]
    assert 0 < float((gates - 0.5).abs().max()) < 4 * 1 / (4 * 64)  # of a normed value below 4


def test_nam_without_any_weight_is_finite():
    module = NAM(8)
    torch.nn.init.zeros_(module.norm.weight)
    assert all(out.isfinite().all() for out in moved(draw(0, 2, 8, 3, 4).float(), module))


def test_simam_of_a_single_pixel_is_sigmoid_of_one_half():
    x = draw(0, 2, 8, 1, 1)
    assert torch.allclose(SimAM(8)(x), x * torch.tensor(0.5).double().sigmoid())


def test_cbam_is_not_the_hosts():
    pytest.importorskip("ultralytics", reason="Ultralytics is not installed")
    from ultralytics.nn.modules import CBAM as Hosts

    counts = [sum(p.numel() for p in module.parameters()) for module in (CBAM(256), Hosts(256))]
    assert counts == [8_564, 65_792 + 98]


@pytest.mark.parametrize(("channels", "kernel"), [(4, 1), (8, 3), (127, 3), (128, 5), (2047, 5), (2048, 7)])
def test_eca_kernel_follows_the_channels(channels, kernel):
    assert ECA(channels).conv.weight.shape == (1, 1, kernel)


def test_mlca_runs_its_local_kernel_from_one_window_into_the_next():
    module = MLCA(8, local_size=2, local_weight=1).double()
    torch.nn.init.ones_(module.local_conv.weight)  # of 3 values
    x = draw(0, 1, 8, 2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(module.gates(x)["elements"][0, 0, 0, 1], x)
    seen = {tuple(index) for index in gradient[0].nonzero().tolist()}
    assert seen == {(7, 0, 0), (0, 0, 1), (1, 0, 1)}  # the last channel of the window before


def test_mlca_of_equal_windows_is_a_gate_per_channel_at_any_size():
    module = filled(MLCA(8).double())
    x = draw(0, 2, 8, 1, 1).expand(2, 8, 7, 12)
    whole = module.global_conv(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
    module.local_weight = 0
    gates = module.gates(x)["elements"]
    assert torch.allclose(gates, whole[:, :, None, None].expand_as(x), rtol=0, atol=1e-14)


def test_gam_with_groups_shuffles_the_second_gate_alone():
    module = filled(GAM(16, groups=4).double())
    torch.nn.init.zeros_(module.spatial2.norm.weight)  # the second gate is that of its biases
    x = draw(0, 1, 16, 4, 5)
    second = module.gates(x)["elements"] / module._first(x)
    expected = module.spatial2.norm.bias.sigmoid().view(4, 4).T.flatten()
    assert torch.allclose(second, expected[:, None, None].expand_as(second), rtol=0, atol=1e-13)


def test_caa_has_no_gate_below_that_of_silus_minimum_but_without_norms():
    x = 30 * draw(0, 1, 8, 9, 9)
    with_norms, without = (filled(CAA(8, norm=norm).double()).gates(x)["elements"].detach() for norm in (True, False))
    assert float(with_norms.min()) >= 0.43
    assert float(without.min()) < 0.1


@pytest.mark.parametrize("size", [(5, 5), (3, 5), (5, 3), (1, 1)])
def test_scsa_on_a_map_smaller_than_its_window_has_one_window_as_large_as_the_map(size):
    large, small = (filled(SCSA(16, heads=2, window_size=side).double()) for side in (7, max(size)))
    x = draw(1, 2, 16, *size)
    first, second = moved(x, large)
    for out in (second, *moved(x, small)):
        assert float((out - first).abs().max()) < 1e-14
    rows, columns = large._profiles(x)
    normed = torch.nn.functional.group_norm((x * rows * columns).mean((2, 3)), 1, large.norm.weight, large.norm.bias)
    assert torch.allclose(
        large._qkv((x * rows * columns).mean((2, 3), keepdim=True))[2].flatten(1),
        normed * large.v.weight.flatten(),
        rtol=0,
        atol=1e-13,
    )


def test_scsa_hears_nothing_of_what_windows_leave_over():
    module = filled(SCSA(8).double())
    for norm in (module.row_norm, module.column_norm):
        torch.nn.init.zeros_(norm.weight)  # rows and columns weigh the same whatever they hold
    x = draw(2, 1, 8, 15, 20)
    changed = x.clone()
    changed[:, :, 14:] += 1
    changed[:, :, :, 14:] -= 1
    for form in PLAIN:
        module.form = form
        assert torch.equal(module(x)[:, :, :14, :14], module(changed)[:, :, :14, :14])
    assert torch.equal(module.gates(x)["channel"], module.gates(changed)["channel"])


def test_cpca_weighs_a_channel_by_up_to_two():
    module = filled(CPCA(8).double())
    torch.nn.init.constant_(module.fc2.bias, 40.0)
    gates = module.gates(draw(0, 1, 8, 4, 5))
    assert gates["channel"].shape == (1, 16)
    assert torch.allclose(gates["channel"], torch.ones(1, 16).double())


def test_hab_hides_what_only_wrapping_brought_together():
    module = filled(HybridAttentionBlock(32, heads=2, window_size=4, shift_size=2).double())
    x = draw(0, 1, 32, 8, 8).requires_grad_()
    with torch.no_grad():
        module.cab.conv2.weight.zero_()  # its convolutions and its mean see across windows
    # The corner's window, once rolled, also holds the three other corners.
    (gradient,) = torch.autograd.grad(module(x)[0, :, 0, 0].sum(), x)
    seen = gradient[0].abs().sum(0) > 1e-12
    assert seen[:2, :2].all()
    assert int(seen.sum()) == 4


def test_ocab_table_of_an_unknown_size_is_explained():
    with pytest.raises(UserError, match="no window has a table of 100 biases at overlap_ratio=0"):
        OverlappingCrossAttentionBlock.from_official({"relative_position_bias_table": torch.zeros(100, 4)})


def test_mhsa_reads_timms_names_and_parts():
    parts = {"pos_embed.height_rel": torch.zeros(13, 4), "pos_embed.width_rel": torch.zeros(13, 4)}
    parts["qkv.weight"] = torch.zeros(48, 16, 1, 1)
    MHSA(16, size=7).load_state_dict(MHSA.from_official(parts))


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: CoordAttention(64, reduction=0), "reduction=0.*reduction=32 fits"),
        (lambda: LSKA(64, kernel_size=21), "kernel_size=21.*7, 11, 23, 35, 41, 53; kernel_size=23 fits"),
        (lambda: LSKBlock(1), "channels=1.*channels=2 fits"),
        (lambda: MSDA(64, heads=6), "channels=64, heads=6.*heads=4 fits"),
        (lambda: MSDA(64, dilations=[1, 2, 3]), r"heads=8, dilations=\[1, 2, 3\].*dilations=\[1\] fits"),
        (lambda: MSDA(64, kernel_size=4), "kernel_size=4.*kernel_size=3 fits"),
        (lambda: MHSA(66), "channels=66, heads=4.*heads=3 fits"),
        (lambda: MHSA(64, size=0), "size=0.*size=40 fits"),
        (lambda: MHSA(64, size=[4, 5, 6]), r"size=\[4, 5, 6\].*size=40 fits"),
        (lambda: FocusedLinearAttention(60), "channels=60, heads=8.*heads=6 fits"),
        (lambda: FocusedLinearAttention(64, kernel_size=4), "kernel_size=4.*kernel_size=5 fits"),
        (lambda: FocusedLinearAttention(64, focusing_factor=0), "focusing_factor=0.*focusing_factor=3 fits"),
        (lambda: ChannelAttentionBlock(16), "channels=16, squeeze_factor=30.*squeeze_factor=16 fits"),
        (lambda: HybridAttentionBlock(64, mlp_ratio=0), "mlp_ratio=0 leaves no unit at 64 channels; mlp_ratio=2 fits"),
        (lambda: HybridAttentionBlock(64, shift_size=8), "shift_size=8.*window_size=8, shift_size=4 fits"),
        (lambda: OverlappingCrossAttentionBlock(64, window_size=7), r"overlap, not 3; window_size=8"),
        (lambda: SeaAttention(64, key_dim=0), "key_dim=0.*key_dim=16"),
        (lambda: SqueezeExcitation(8), "channels=8, reduction=16.*reduction=8 fits"),
        (lambda: CBAM(8), "channels=8, reduction=16.*reduction=8 fits"),
        (lambda: ECA(64, kernel_size=4), "kernel_size=4.*kernel_size=5 fits"),
        (lambda: ShuffleAttention(64), r"channels=64, groups=64.*multiple of 2 \* groups; groups=32 fits"),
        (lambda: ShuffleAttention(7, groups=1), "channels=7, groups=1.*channels=128, groups=1 fits"),
        (lambda: SimAM(8, e_lambda=0), "e_lambda=0.*e_lambda=0.0001 fits"),
        (lambda: TripletAttention(0), "channels=0.*channels=64"),
        (lambda: MLCA(64, local_size=0), "local_size=0.*local_size=5 fits"),
        (lambda: MLCA(64, local_weight=1.5), "local_weight=1.5.*between 0 and 1; local_weight=0.5 fits"),
        (lambda: GAM(2), "channels=2, rate=4.*rate=2 fits"),
        (lambda: GAM(64, rate=8, groups=6), "channels=64, rate=8, groups=6.*64 and 8 channels.*groups=4 fits"),
        (lambda: GAM(64, groups=0), "groups=0.*groups=1 fits"),
        (lambda: CAA(64, h_kernel_size=10), "h_kernel_size=10.*h_kernel_size=11 fits"),
        (lambda: CAA(64, v_kernel_size=-3), "v_kernel_size=-3.*v_kernel_size=3 fits"),
        (lambda: SCSA(62), "channels=62.*multiple of 4; channels=64 fits"),
        (lambda: SCSA(64, heads=6), "channels=64, heads=6.*heads=4 fits"),
        (lambda: SCSA(64, window_size=0), "window_size=0.*window_size=7 fits"),
        (lambda: CPCA(2), "channels=2, reduction=4.*reduction=2 fits"),
    ],
)
def test_what_cannot_be_built_names_what_fits(refused, message):
    with pytest.raises(UserError, match=message):
        refused()
