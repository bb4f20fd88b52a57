"""Attention classes as they circulate: other names, layers built otherwise, parts left out, other functions."""

import torch
from torch import Tensor, nn


class Squeeze(nn.Module):
    """Squeeze-and-excitation of two linear layers."""

    def __init__(self, channels):
        super().__init__()
        self.avgpool, self.relu, self.sig = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Sigmoid()
        self.l1, self.l2 = (
            nn.Linear(channels, channels // 4, bias=False),
            nn.Linear(channels // 4, channels, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sig(self.l2(self.relu(self.l1(self.avgpool(x).flatten(1)))))[:, :, None, None]


class SqueezeOfConvolutions(nn.Module):
    """The same of convolutions, one of them with a bias."""

    def __init__(self, channels):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.body(self.pool(x))


class _TwoGates(nn.Module):
    """A gate per channel, then a map of (mean, maximum)."""

    max_first, bias, size = False, False, 7

    def __init__(self, channels):
        super().__init__()
        self.avg, self.max = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)
        self.layers(channels, channels // 4)
        self.map = nn.Conv2d(2, 1, self.size, padding=self.size // 2, bias=self.bias)
        self.sigmoid = nn.Sigmoid()

    def layers(self, channels, hidden):
        self.fc1, self.relu1 = nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU()
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def mlp_of(self, pooled):
        return self.fc2(self.relu1(self.fc1(pooled)))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.sigmoid(self.mlp_of(self.avg(x)) + self.mlp_of(self.max(x)))
        maps = [y.mean(1, keepdim=True), y.amax(1, keepdim=True)]
        return y * self.sigmoid(self.map(torch.cat(maps[::-1] if self.max_first else maps, 1)))


class TwoGates(_TwoGates):
    """Two convolutions of one pixel."""


class TwoGatesInSequence(_TwoGates):
    """One sequence of convolutions, a bias in the map."""

    bias = True

    def layers(self, channels, hidden):
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )

    def mlp_of(self, pooled):
        return self.mlp(pooled)


class TwoGatesOfLinearLayers(_TwoGates):
    """Linear layers with biases, and a small kernel."""

    size = 3

    def layers(self, channels, hidden):
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def mlp_of(self, pooled):
        return self.mlp(pooled)[:, :, None, None]


class MaximumFirst(_TwoGates):
    """The pool of the maximum is made first, and its map comes first."""

    max_first = True

    def layers(self, channels, hidden):
        del self.avg, self.max
        self.maxpool, self.avgpool = nn.AdaptiveMaxPool2d(1), nn.AdaptiveAvgPool2d(1)
        super().layers(channels, hidden)
        self.avg, self.max = self.avgpool, self.maxpool


class MaximumFirstUnseen(_TwoGates):
    """Its map comes first, and nothing in the file says so."""

    max_first = True


class TwoGatesAndInput(_TwoGates):
    """Adds its input, which no file tells."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Sides(nn.Module):
    """Coordinate attention under other names, without biases."""

    def __init__(self, channels):
        super().__init__()
        self.rows, self.columns = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.squeeze, self.norm = nn.Conv2d(channels, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.act = nn.Hardswish()
        self.F_h, self.F_w = nn.Conv2d(8, channels, 1, bias=False), nn.Conv2d(8, channels, 1, bias=False)

    def profiles(self, x):
        height, width = x.shape[2:]
        strip = torch.cat([self.rows(x), self.columns(x).transpose(2, 3)], 2)
        return self.act(self.norm(self.squeeze(strip))).split([height, width], 2)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.profiles(x)
        return x * self.F_h(rows).sigmoid() * self.F_w(columns.transpose(2, 3)).sigmoid()


class SidesInOtherOrder(Sides):
    """What was made first acts on columns."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.profiles(x)
        return x * self.F_w(rows).sigmoid() * self.F_h(columns.transpose(2, 3)).sigmoid()


class Slabs(nn.Module):
    """EMA with a factor and layers of other names."""

    def __init__(self, channels, factor=8):
        super().__init__()
        self.factor, width = factor, channels // factor
        self.weigh, self.pool = nn.Softmax(-1), nn.AdaptiveAvgPool2d((1, 1))
        self.along_h, self.along_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.norm = nn.GroupNorm(width, width)
        self.small, self.large = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        slabs = x.reshape(batch * self.factor, -1, height, width)
        strip = self.small(torch.cat([self.along_h(slabs), self.along_w(slabs).transpose(2, 3)], 2)).sigmoid()
        near = self.norm(slabs * strip[:, :, :height] * strip[:, :, height:].transpose(2, 3))
        far = self.large(slabs)
        first, second = (self.weights(self.pool(each).flatten(1)) for each in (near, far))
        gate = first @ far.flatten(2) + second @ near.flatten(2)
        return (slabs * gate.reshape(-1, 1, height, width).sigmoid()).reshape(x.shape)

    def weights(self, pooled):
        return self.weigh(pooled)[:, None]


class SlabsOverAll(Slabs):
    """Its softmax goes over a dimension of size 1, so that every weight is 1."""

    def __init__(self, channels):
        super().__init__(channels)
        self.weigh = nn.Softmax(1)

    def weights(self, pooled):
        return self.weigh(pooled[:, None])


class SlabsFlat(Slabs):
    """Its softmax over dimension 1 is the authors', because what it gets is flat."""

    def __init__(self, channels):
        super().__init__(channels)
        self.weigh = nn.Softmax(1)


class Neighbours(nn.Module):
    """ECA whose convolution has another name."""

    def __init__(self, _):
        super().__init__()
        self.gap, self.mix, self.gate = nn.AdaptiveAvgPool2d(1), nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.mix(self.gap(x).flatten(2).transpose(1, 2))).transpose(1, 2)[..., None]


class _Convolution(nn.Module):
    """What a detector calls a convolution: with its norm and its activation."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Cross(nn.Module):
    """CAA of a detector's convolutions, whose norms have torch's eps."""

    def __init__(self, channels):
        super().__init__()
        self.pool = nn.AvgPool2d(7, 1, 3)
        self.first = _Convolution(channels)
        self.wide = nn.Conv2d(channels, channels, (1, 9), padding=(0, 4), groups=channels)
        self.high = nn.Conv2d(channels, channels, (11, 1), padding=(5, 0), groups=channels)
        self.last = _Convolution(channels)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.last(self.high(self.wide(self.first(self.pool(x))))))


class Energy(nn.Module):
    """SimAM, its constant under the name that a class gives it."""

    name = "lambda_val"

    def __init__(self, _=None):
        super().__init__()
        self.act = nn.Sigmoid()
        setattr(self, self.name, 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        far = (x - x.mean((2, 3), keepdim=True)) ** 2
        spread = far.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
        return x * self.act(far / (4 * (spread + getattr(self, self.name))) + 0.5)


class EnergyOfEps(Energy):
    """SimAM whose constant is called eps."""

    name = "eps"


class EnergyAsReleased(Energy):
    """SimAM with the authors' name."""

    name = "e_lambda"


class NoEnergy(EnergyAsReleased):
    """Stores what SimAM stores, and is another function."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.act(x / (x.var((2, 3), keepdim=True) + self.e_lambda))
