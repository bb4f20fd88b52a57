"""Frozen gates: what is replaced, by what, and what the score says to it."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("ultralytics", reason="Ultralytics is not installed")

import foveal
from data import SHARED
from foveal import ATTENTIONS
from foveal.attention import EMAttention, ShuffleAttention, SimAM
from foveal.explain import ablation
from foveal.hosts import ultralytics as host
from foveal.surgery import attachment
from helpers import filled, fitting

# By their formulas: all others add to their input, or leave nothing of it.
MULTIPLY = {"ema", "coord", "lska", "lsk", "se", "cbam", "eca", "sa", "nam", "simam", "triplet", "placebo"}
MULTIPLY |= {"mlca", "gam", "caa", "scsa"}


@pytest.mark.parametrize("cls", ATTENTIONS.values(), ids=ATTENTIONS)
def test_which_attentions_multiply_is_found_by_trying(cls):
    torch.manual_seed(0)
    attention = filled(fitting(cls, 64)).eval()
    source = ablation.multiplied(attention, (7, 9))
    assert (source is not None) == (cls.card.name in MULTIPLY)
    if source is None:
        return
    assert sorted(source.tolist()) == [*range(64)]
    assert (source.tolist() == [*range(64)]) == (cls is not ShuffleAttention)
    x = torch.randn(2, 64, 5, 6)
    x[0, 3, 2] = 0
    with torch.no_grad():
        factor, known = ablation.factor(attention, x, source)
        out = attention(x)
    assert known.sum() == x.numel() - 6
    torch.testing.assert_close((factor * x[:, source]).float() * known, out, rtol=1e-5, atol=1e-7)


class Map(foveal.Attention):
    """Multiplies by a map that is steep across the image, or by its inverse."""

    card = EMAttention.card

    def __init__(self, channels: int, power: int):
        super().__init__(channels)
        self.power = power

    def gate(self, x):
        return (torch.linspace(-2, 2, x.shape[3]) * self.power).exp().expand(x.shape[2], -1)

    def reference(self, x):
        return x * self.gate(x)

    def gates(self, x):
        return {"factor": self.gate(x).expand_as(x)}


class Blur(Map):
    """Adds neighbours within each channel: silent where a channel is, and no factor of it."""

    def reference(self, x):
        return x + nn.functional.avg_pool2d(x, 3, 1, 1)


def test_what_mixes_within_a_channel_does_not_multiply():
    assert ablation.multiplied(Map(8, 1).eval(), (6, 7)).tolist() == [*range(8)]
    assert ablation.multiplied(Blur(8, 1).eval(), (6, 7)) is None


def test_a_factor_that_was_never_seen_is_one():
    net = network(Map(4, 1))
    means = ablation._Means(net)
    means.start()
    x = torch.rand(2, 4, 5, 6) + 0.1
    x[:, 2] = 0
    with torch.no_grad():
        net.model(x)
    (frozen,) = means.frozen()
    assert float(frozen.mean[2]) == 1
    assert float(frozen.mean[1]) == pytest.approx(float(net.model[0].gate(x).mean()), rel=1e-6)


def network(*attentions) -> nn.Module:
    holder = nn.Module()
    holder.model = nn.Sequential(*attentions)
    return holder.eval()


def test_means_are_over_all_images_and_positions():
    torch.manual_seed(0)
    plain, adds = SimAM(8), filled(fitting(ATTENTIONS["msda"], 32))
    batches = [torch.randn(2, 8, 6, 5), torch.randn(1, 8, 3, 4)]
    for attention, width in ((plain, 8), (adds, 32)):
        net = network(attention)
        means = ablation._Means(net)
        inputs = [batch.repeat(1, width // 8, 1, 1) for batch in batches]
        with torch.no_grad():
            net.model(100 * inputs[0])  # before the data: the host tries a network out
            means.start()
            for x in inputs:
                copy.deepcopy(net).model(x)  # the host evaluates a copy
            (frozen,) = means.frozen()
            values = [attention(x) / x if attention is plain else attention(x) - x for x in inputs]
        expected = torch.cat([value.transpose(0, 1).flatten(1) for value in values], 1).double().mean(1)
        assert frozen.kind == ("multiplied" if attention is plain else "added")
        torch.testing.assert_close(frozen.mean, expected, rtol=1e-5, atol=1e-6)


def test_what_is_frozen_keeps_its_gain_and_its_order():
    torch.manual_seed(0)
    start = attachment.IdentityStart(ShuffleAttention(16, groups=2), 16)
    start.gain.data.uniform_(-1, 1)
    source, mean = torch.randperm(16), torch.randn(16)
    net = network(start)
    changed = ablation.replaced(net, {0: ablation.Frozen(source, mean)})
    x = torch.randn(2, 16, 4, 5)
    wide = (slice(None), None, None)
    expected = x + start.gain[wide] * (x[:, source] * mean[wide] - x)
    with torch.no_grad():
        torch.testing.assert_close(changed.model(x), expected)
        assert not torch.equal(net.model(x), changed.model(x))
        assert torch.equal(ablation.replaced(net, {0: ablation._identity}).model(x), x)
        torch.testing.assert_close(ablation.Frozen(None, mean)(x), x + mean[wide])


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    """A data file of a few photographs with the classes of the weights."""
    if not (SHARED / "coco256").is_dir():
        pytest.skip(f"no COCO images at {SHARED / 'coco256'}")
    root = tmp_path_factory.mktemp("coco")
    for source in sorted((SHARED / "coco256/images/val2017").iterdir())[:12]:
        for part, suffix in (("images", ".jpg"), ("labels", ".txt")):
            file = SHARED / f"coco256/{part}/val2017/{source.stem}{suffix}"
            (root / part / "val").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, root / part / "val" / file.name)
    names = (SHARED / "coco256/classes.txt").read_text().split("\n")[:80]
    data = root / "data.yaml"
    data.write_text(f"path: {root}\ntrain: images/val\nval: images/val\nnames: {names}\n")
    return data


@pytest.mark.sweep
def test_a_constant_gate_loses_nothing_and_one_that_matters_does(weights, coco, tmp_path):
    foveal.add(str(weights), "placebo(groups=8)", at="P3", output=tmp_path / "x.pt")
    model = host.load(tmp_path / "x.pt")
    (start,) = model.model.model[16].attention
    filled(start.attention)
    start.gain.data.fill_(0.3)
    for power in (1, -1):  # together they change nothing, each alone does
        model.model.model[19] = attachment.attach(model.model.model[19], Map(128, power))
    found = ablation.ablate(model, ["a", "b", "c"], str(coco), "val", imgsz=160, batch=4, device="cpu")
    constant, steep, flat = found["rows"]
    assert found["metric"] == "mAP50-95"
    assert found["trained"] > 0.15
    assert [row["kind"] for row in found["rows"]] == ["multiplied"] * 3
    assert [row["attention"] for row in found["rows"]] == ["a", "b", "c"]
    assert constant["frozen"] == pytest.approx(found["trained"], abs=1e-6)
    assert abs(constant["removed"] - found["trained"]) > 1e-4
    for row in (steep, flat):
        assert row["frozen"] < found["trained"] - 0.02
        assert row["removed"] < found["trained"] - 0.02
    assert found["all"]["frozen"] != found["all"]["removed"]
    assert not model.model.model[16].attention[0].attention._forward_pre_hooks
    assert "forward" not in vars(start.attention)
