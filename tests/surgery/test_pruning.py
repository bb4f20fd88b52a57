"""Widths come from the tensors: what is left when channels are cut away runs, trains, exports, and is right."""

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import foveal
from foveal import ATTENTIONS, IdentityStart, UserError
from foveal.attention import forms
from foveal.surgery import attachment
from helpers import draw, filled, fitting, hinted, swept

WIDE, NARROW = 64, 32
attentions = pytest.mark.parametrize("cls", ATTENTIONS.values(), ids=ATTENTIONS)


def pair(cls) -> tuple[nn.Module, nn.Module]:
    """The same attention with the same arguments at two widths, drawn anew."""
    narrow = fitting(cls, NARROW)
    try:
        cls(NARROW)
        arguments = {}
    except UserError as refusal:
        arguments = hinted(refusal) | {"channels": WIDE}
    return filled(cls(**{"channels": WIDE} | arguments)), filled(narrow, seed=1)


def cut(module: nn.Module, like: nn.Module) -> nn.Module:
    """`module` with the tensors of `like`, as a tool puts them in that knows layers of torch but not ours."""
    for part, other in zip(module.modules(), like.modules(), strict=True):
        for name, tensor in other.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(tensor.detach().clone()))
        for name, tensor in other.named_buffers(recurse=False):
            setattr(part, name, tensor.clone())
        if type(part).__module__.startswith("torch."):  # its own numbers
            for name in ("groups", "normalized_shape", "num_features", "num_groups", "num_channels"):
                if hasattr(other, name):
                    setattr(part, name, getattr(other, name))
    return module


@attentions
@pytest.mark.parametrize("start", ["identity", "paper"])
def test_what_was_cut_is_what_is_built_at_that_width(cls, start):
    wide, narrow = pair(cls)
    if start == "identity":
        wide, narrow = IdentityStart(wide, WIDE), IdentityStart(narrow, NARROW)
        narrow.gain.data = draw(3, NARROW).float()
    pruned = cut(wide, narrow)
    attention = pruned.attention if start == "identity" else pruned
    x = draw(1, 2, NARROW, 7, 9).float().requires_grad_()
    for form in forms(cls):
        if form == "kernel" and attention.why_not(x):
            continue
        for each in (pruned, narrow):
            for part in each.modules():
                part.form = form
        assert torch.equal(pruned(x), narrow(x))
    attention.form = "auto"
    assert attention.channels == (NARROW if attention.width_of else WIDE)
    pruned.train()(x).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.shape == parameter.shape for parameter in pruned.parameters()
    )
    assert [*attention.gates(x)] == [*fitting(cls, NARROW).gates(x)]
    pruned.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(pruned, x, check_trace=False)
    torch.testing.assert_close(traced(x), pruned(x), rtol=1e-4, atol=1e-5)
    fused = foveal.fuse(nn.Sequential(pruned).eval())
    torch.testing.assert_close(fused(x), pruned(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(copy.deepcopy(pruned)(x), pruned(x))
    if cls.width_of or start == "identity":
        with pytest.raises(UserError, match=rf"must be \(B, {NARROW}, H, W\)"):
            pruned(draw(1, 1, NARROW + 1, 4, 4).float())


@pytest.mark.parametrize("arguments", ["ema(groups=8)", "placebo(groups=8)", "sa(groups=8)"])
@pytest.mark.parametrize("start", ["identity", "paper"])
def test_groups_that_share_their_tensors_may_become_fewer(arguments, start):
    module = attachment.build(foveal.Spec.parse(arguments.replace(")", f", start={start})")), WIDE)
    attention = filled(module.attention if start == "identity" else module)
    alone = filled(type(attention)(NARROW, groups=4))
    x = draw(1, 2, NARROW, 5, 6).float()
    if start == "identity":
        with pytest.raises(UserError, match=r"must be \(B, 64, H, W\)"):
            module(x)  # whose gain was left as it was
        module.gain = nn.Parameter(torch.ones(NARROW))
    torch.testing.assert_close(module(x), alone(x))
    fused = foveal.fuse(nn.Sequential(module).eval())
    torch.testing.assert_close(fused(x), alone(x))
    if start == "identity":
        module.gain = nn.Parameter(torch.ones(NARROW + 1))
    with pytest.raises(UserError, match=r"left 33, not whole groups of 8; .*round_to=8"):
        module(torch.cat([x, x[:, :1]], 1))


@pytest.mark.parametrize("cls", [cls for cls in ATTENTIONS.values() if fitting(cls, WIDE).heads > 1])
def test_heads_that_do_not_divide_are_said(cls):
    module = fitting(cls, WIDE)
    for layer in [part for name, part in module.named_modules() if name in ("qkv", "q.conv")]:
        layer.weight = nn.Parameter(layer.weight[3:])
    with pytest.raises(
        UserError, match=f"{cls.card.name}: pruning left widths that its {module.heads} heads do not cut"
    ):
        module(torch.ones(1, WIDE, 6, 6))


def test_heads_between_channels_that_do_not_divide_are_said():
    module = cut(foveal.SCSA(WIDE, heads=8), foveal.SCSA(36))
    with pytest.raises(UserError, match="scsa: pruning left widths that its 8 heads do not cut into equal parts: 36;"):
        module(torch.ones(1, 36, 9, 9))


@pytest.mark.parametrize("start", swept(["identity", "paper"], "identity"))
def test_torch_pruning_cuts_a_detector_with_attentions(start, tmp_path):
    tp = pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
    host = pytest.importorskip("foveal.hosts.ultralytics")
    model = host.load("yolo11n.yaml").model.requires_grad_().eval()
    placed = {2: "coord", 4: "ema(groups=8)", 6: "se", 13: "nam", 16: "simam"}
    for row, spec in placed.items():
        width = model.model[row].cv2.conv.out_channels
        attention = attachment.build(replace(foveal.Spec.parse(spec), start=start), width)
        if start == "identity":
            attention.gain.data = draw(row, width).float()
        attachment.attach(model.model[row], attention).foveal = host.Registered
    x = draw(1, 1, 3, 64, 64).float()
    for row in placed:
        layer = model.model[row]
        width, before = layer.cv2.conv.out_channels, copy.deepcopy(layer.attention)
        graph = tp.DependencyGraph().build_dependency(model, x, verbose=False)
        graph.get_pruning_group(layer.cv2.conv, tp.prune_conv_out_channels, [*range(width // 4, width // 2)]).prune()
        kept = [*range(width // 4), *range(width // 2, width)]
        assert layer.cv2.conv.out_channels == len(kept)
        if start == "identity":
            assert torch.equal(layer.attention[0].gain, before[0].gain[kept])
    outputs = model.train()(x)
    sum(tensor.float().square().mean() for tensor in flat(outputs)).backward()
    assert all(part.grad is not None for row in placed for part in model.model[row].attention.parameters())
    torch.save(host.checkpoint(model.eval(), {}), tmp_path / "pruned.pt")
    assert not foveal.export(tmp_path / "pruned.pt", format="torchscript", imgsz=64, device="cpu").wrong


def flat(outputs) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for part in (outputs.values() if isinstance(outputs, dict) else outputs) for tensor in flat(part)]
