"""What others see of an attended layer and put on it: hooks, extractors, distillation, forwards of their own."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from foveal import Spec, UserError
from foveal.surgery import attachment
from helpers import draw, filled

BARE = Spec.parse("ema(groups=4, start=paper)")


class Layer(nn.Module):
    """A layer as the host has them: with another forward for exporters, and one for after it was fused."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x):
        return self.conv(x)

    def forward_split(self, x):
        return self.conv(x) * 2


class Model(nn.Module):
    """An attended layer between two others."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.stem, self.layer, self.end = nn.Conv2d(3, 3, 1), layer, nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.end(self.layer(self.stem(x)))


# One that tracers look into, and one that is a single node to them.
LAYERS = {"block": Layer, "leaf": lambda: nn.Conv2d(3, 16, 3, padding=1)}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request) -> nn.Module:
    torch.manual_seed(0)
    return filled(attachment.attach(request.param(), attachment.build(BARE, 16))).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return draw(0, 2, 3, 6, 5).float()


def bare(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The map that the attention reads."""
    return type(layer)._attended_base.forward(layer, x)


def watched(layer: nn.Module) -> list[torch.Tensor]:
    seen = []
    layer.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    return seen


# Hooks ---------------------------------------------------------------------------------------------------------------


def test_a_forward_hook_sees_the_map_behind_the_attention(layer, x):
    seen = watched(layer)
    first = watched(layer.attention)
    out = layer(x)
    assert torch.equal(seen[0], out)
    assert torch.equal(first[0], out)
    assert torch.equal(out, layer.attention(bare(layer, x)))
    assert not torch.allclose(out, bare(layer, x))
    handle = layer.register_forward_hook(lambda _module, _inputs, out: out + 1)
    assert torch.equal(layer(x), out + 1), "what a hook changes, no attention comes behind"
    handle.remove()
    assert torch.equal(layer(x), out)


def test_a_forward_pre_hook_changes_what_the_layer_reads(layer, x):
    layer.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 2,))
    assert torch.equal(layer(x), layer.attention(bare(layer, x * 2)))


def test_a_backward_hook_sees_the_gradient_behind_the_attention(layer, x):
    seen = []
    layer.register_full_backward_hook(lambda _module, _inputs, outputs: seen.append(outputs[0]))
    dy = draw(1, 2, 16, 6, 5).float()
    layer(x.requires_grad_()).backward(dy)
    assert torch.equal(seen[0], dy)


def test_hooks_of_others_never_take_the_attention_away(layer, x):
    expected = layer(x)
    restored = pickle.loads(pickle.dumps(layer))
    for each in (layer, restored):
        handles = [each.register_forward_hook(lambda *_: None) for _ in range(40)]
        for handle in handles:
            handle.remove()
        each._forward_hooks.clear()
        assert torch.equal(each(x), expected)


# Forwards that are assigned ------------------------------------------------------------------------------------------


def scaled(forward: Callable) -> Callable:
    return lambda x: forward(x) * 2


def test_an_attention_follows_every_assigned_forward_once(layer, x):
    plain, before = bare(layer, x), layer.forward
    seen = watched(layer)
    for replacement, expected in (
        (lambda y: plain + 1, plain + 1),
        (scaled(before), plain * 2),  # the usual way to wrap a forward
        (before, plain),  # and to undo it
    ):
        layer.forward = replacement
        assert torch.equal(layer(x), layer.attention(expected))
        assert torch.equal(layer.forward(x), layer.attention(expected))
        assert torch.equal(seen[-1], layer.attention(expected))
    layer.forward = scaled(before)
    layer.forward = scaled(layer.forward)
    assert torch.equal(layer(x), layer.attention(plain * 4))
    del layer.forward
    assert torch.equal(layer(x), layer.attention(plain))


def test_an_assigned_forward_stays_in_copies_and_pickles(x):
    layer = filled(attachment.attach(Layer(), attachment.build(BARE, 16))).eval()
    layer.forward = layer.forward_split
    expected = layer.attention(bare(layer, x) * 2)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False)]
    layer.attention[0].conv3x3.weight.data.zero_()
    for each in copies:
        assert torch.equal(each(x), expected)
        assert isinstance(each, Layer)


def test_a_layer_keeps_the_forward_it_had_before_its_attention_and_after(x):
    layer = Layer().eval()
    layer.forward = layer.forward_split
    plain = layer(x)
    attachment.attach(layer, attachment.build(BARE, 16))
    assert torch.equal(layer(x), layer.attention(plain))
    attachment.detach(layer)
    assert type(layer) is Layer
    assert torch.equal(layer(x), plain)
    del layer.forward
    assert torch.equal(layer(x), plain / 2)


def test_checkpoints_of_older_releases_have_the_forward_as_it_was_assigned(x):
    layer = filled(attachment.attach(Layer(), attachment.build(BARE, 16))).eval()
    state = {**vars(layer), "forward": layer.forward_split}
    restored = attachment._restore(Layer)
    restored.__setstate__(state)
    assert torch.equal(restored(x), layer.attention(bare(layer, x) * 2))


# Compilers and tracers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assigned", [False, True])
@pytest.mark.parametrize("part", ["model", "layer", "in place", "forward"])
def test_compiled_it_is_the_same_in_one_graph(layer, x, part, assigned):
    model = Model(layer).eval()
    if assigned:
        layer.forward = scaled(layer.forward)
    layer.register_forward_hook(lambda _module, _inputs, out: out + 1)
    plain = bare(layer, model.stem(x)) * (1 + assigned)
    expected = model.end(layer.attention(plain) + 1)
    torch.compiler.reset()
    options = {"backend": "eager", "fullgraph": True}
    if part == "in place":
        layer.compile(**options)
    elif part == "layer":
        model.layer = torch.compile(layer, **options)
    elif part == "forward":
        layer.forward = torch.compile(layer.forward, **options)
    compiled = torch.compile(model, **options) if part == "model" else model
    assert torch.allclose(compiled(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("assigned", [False, True])
def test_exported_and_traced_it_is_the_same(layer, x, assigned):
    model = Model(layer).eval()
    if assigned:
        layer.forward = scaled(layer.forward)
    expected = model(x)
    for program in (torch.export.export(model, (x,)).module(), torch.jit.trace(model, x)):
        assert torch.allclose(program(x), expected, rtol=1e-5, atol=1e-6)


def test_torch_fx_sees_one_node_of_the_attention(layer, x):
    model = Model(layer).eval()
    graph = torch.fx.symbolic_trace(model)
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    inside = ["layer.conv", "layer.attention"] if isinstance(layer, Layer) else ["layer"]
    assert called == ["stem", *inside, "end"]
    assert torch.allclose(graph(x), model(x), rtol=1e-5, atol=1e-6)
    alone = torch.fx.symbolic_trace(layer)
    assert "attention" in [node.target for node in alone.graph.nodes]
    assert torch.allclose(alone(x), layer(x), rtol=1e-5, atol=1e-6)


def test_feature_extractors_see_the_map_behind_the_attention(layer, x):
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="torchvision is not installed")
    model = Model(layer).eval()
    seen = watched(layer)
    features = extraction.create_feature_extractor(model, {"layer": "map"})(x)["map"]
    model(x)
    assert torch.allclose(features, seen[-1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(features, bare(layer, model.stem(x)), atol=1e-3)


def test_activation_maps_are_of_the_map_behind_the_attention(layer, x):
    cams = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    model = nn.Sequential(Model(layer), nn.Flatten()).eval()
    with cams.GradCAM(model, [layer]) as method:
        method(x, [lambda out: out.sum()] * len(x))
        (seen,) = method.activations_and_grads.activations
    assert torch.allclose(seen, layer(model[0].stem(x)), rtol=1e-5, atol=1e-6)


# The host ------------------------------------------------------------------------------------------------------------


@pytest.mark.host
def test_distilled_are_the_features_behind_the_attentions():
    distillation = pytest.importorskip("ultralytics.nn.distill_model", reason="this host does not distil")
    from types import SimpleNamespace

    from foveal import IdentityStart, attach
    from foveal.hosts import ultralytics as host

    teacher, student = (host.load("yolo11n.yaml").model for _ in range(2))
    attach(student, "ema", at="neck")
    for start in student.modules():
        if isinstance(start, IdentityStart):
            start.gain.data.fill_(0.5)
    student.args = SimpleNamespace(imgsz=64, dis=1.0)
    model = distillation.DistillationModel(teacher, student)
    seen = {}
    for index in (rows := model.feats_idx[:-1]):
        student.model[index].attention.register_forward_hook(
            lambda _module, _inputs, out, index=index: seen.update({index: out})
        )
    with torch.no_grad():
        student.eval()(draw(0, 1, 3, 64, 64).float())
    assert len(rows) == 3
    kept = model._student_feats
    for level, index in enumerate(rows):
        assert torch.equal(kept[index if index in kept else level], seen[index])  # by rows in some hosts


@pytest.mark.host
def test_a_fused_host_and_its_exporter_keep_the_attention():
    block = pytest.importorskip("ultralytics.nn.modules.block", reason="Ultralytics is not installed")
    x = draw(0, 1, 16, 8, 8).float()
    layer = filled(attachment.attach(block.C2f(16, 16), attachment.build(BARE, 16))).eval()
    expected = layer(x)
    layer.forward = layer.forward_split
    assert torch.allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
    layer = filled(attachment.attach(block.RepVGGDW(16), attachment.build(BARE, 16))).eval()
    expected = layer(x)
    layer.fuse()
    layer.forward = layer.forward_fuse
    assert torch.allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_only_what_is_called_can_be_attended():
    with pytest.raises(UserError, match="a ModuleList is never called"):
        attachment.attach(nn.ModuleList([nn.Conv2d(3, 16, 1)]), attachment.build(BARE, 16))
