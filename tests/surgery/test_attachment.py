import builtins
import copy
import io
import pickle
import sys

import pytest
import torch
from torch import nn

from foveal import EMAttention, IdentityStart, Spec, UserError
from foveal.surgery import attachment
from helpers import draw, filled

IDENTITY = Spec.parse("ema(groups=4, start=identity)")


class Block(nn.Conv2d):
    """A layer whose forward an exporter might replace."""


def attended(spec=IDENTITY):
    torch.manual_seed(0)
    layer = Block(3, 16, 3, padding=1)
    x = draw(0, 2, 3, 6, 5).float()
    before = layer(x)
    attachment.attach(layer, attachment.build(spec, 16))
    return layer, x, before


def test_identity_start_changes_nothing_and_can_be_trained_away():
    layer, x, before = attended()
    assert torch.equal(layer(x), before)
    layer(x).sum().backward()
    start = layer.attention[0]
    assert isinstance(start, IdentityStart)
    assert float(start.gain.grad.abs().max()) > 0
    start.gain.data.fill_(1)
    assert torch.allclose(layer(x), start.attention(before))


def test_paper_start_is_the_bare_module():
    layer, x, before = attended(Spec.parse("ema(groups=4, start=paper)"))
    assert isinstance(layer.attention[0], EMAttention)
    assert torch.equal(layer(x), layer.attention[0](before))
    assert not torch.allclose(layer(x), before)


def test_the_layer_stays_what_it_was():
    layer, _, _ = attended()
    assert isinstance(layer, Block)
    assert [name for name in layer.state_dict() if "attention" not in name] == ["weight", "bias"]


def test_a_replaced_forward_does_not_bypass_the_attention():
    # Exporters assign layer.forward.
    layer, x, before = attended(Spec.parse("ema(groups=4, start=paper)"))
    layer.forward = lambda y: nn.functional.conv2d(y, layer.weight, layer.bias, padding=1)
    assert torch.equal(layer(x), layer.attention[0](before))


def test_copies_and_pickles_in_every_way():
    layer, x, _ = attended()
    filled(layer)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False)]
    for each in copies:
        assert type(each) is type(layer)
        assert torch.equal(each(x), layer(x))
        assert each.attention[0].gain is not layer.attention[0].gain


def test_restricted_loading_knows_every_class_of_ours(tmp_path):
    layer, x, _ = attended()
    torch.save(layer, tmp_path / "layer.pt")
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "layer.pt")
    assert not [name for name in unknown if "foveal" in name]
    homes = {"Block": sys.modules[__name__], "set": builtins}
    others = [getattr(homes.get(n := name.rpartition(".")[2], nn), n) for name in unknown]
    with torch.serialization.safe_globals(others):
        assert torch.equal(torch.load(tmp_path / "layer.pt", weights_only=True)(x), layer(x))


def test_a_second_attention_runs_after_the_first_and_keeps_its_name():
    layer, x, before = attended(Spec.parse("ema(groups=4, start=paper)"))
    names = set(layer.state_dict())
    attachment.attach(layer, attachment.build(Spec.parse("ema(groups=2, start=paper)"), 16))
    assert names < set(layer.state_dict())
    assert torch.equal(layer(x), layer.attention[1](layer.attention[0](before)))


def test_a_sequential_is_attended_at_its_last_module():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.Conv2d(8, 16, 1)))
    x = draw(0, 1, 3, 4, 4).float()
    before = model(x)
    held = attachment.attach(model, attachment.build(Spec.parse("ema(groups=4, start=paper)"), 16))
    assert held is model[1][0]
    assert torch.equal(model(x), held.attention[0](before))


def test_the_attention_takes_the_layers_mode():
    layer = Block(3, 16, 1).eval()
    attachment.attach(layer, attachment.build(IDENTITY, 16))
    assert not any(module.training for module in layer.modules())


def test_layers_that_cannot_be_attended_are_explained():
    attention = attachment.build(IDENTITY, 16)
    with pytest.raises(UserError, match="an empty Sequential has no output"):
        attachment.attach(nn.Sequential(), attention)
    with pytest.raises(UserError, match="a ModuleList is never called"):
        attachment.attach(nn.ModuleList(), attention)
    taken = nn.Identity()
    taken.attention = nn.Identity()
    with pytest.raises(UserError, match="Identity already has an attribute 'attention'"):
        attachment.attach(taken, attention)
