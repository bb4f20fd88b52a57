r"""Efficient Multi-Scale Attention (EMA).

Paper: Ouyang et al., "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", ICASSP 2023,
arXiv:2305.13563. Read: the authors' release (YOLOonMe/EMA-attention-module, no licence); written from the mathematics.

The channels are cut into groups, and all groups share one small set of weights. For a group's slab x of C channels:

    a, b = sigmoid(conv1x1(row means of x)), sigmoid(conv1x1(column means of x))
    y1   = GN(x * a * b)                           GN: one norm group per channel, an affine instance norm
    y2   = conv3x3(x)
    z    = softmax(mean(y1)) . y2 + softmax(mean(y2)) . y1
    out  = x * sigmoid(z)                          one map per group, shared by the group's channels

Three facts make `fast`, exact up to rounding (docs/ema.md derives them):

1. The mean of an instance norm is its bias, so softmax(mean(y1)) = softmax(gn.bias): it depends on no input. In the
   published EMA, cross-spatial learning is one-sided.
2. A fixed mix of a convolution's output channels is one convolution with mixed weights: C outputs become one.
3. The mean of a 3x3 convolution needs only its input's mean over nine windows.

`kernel` is the same in C++ or Triton, a slab at a time (docs/kernels.md). `fast` on a CPU has its backward written out.

Shapes: B batch, G groups, N = B*G slabs, C channels per group, H rows, W columns.
Multiply-accumulates of a slab: reference 9*C*C*H*W + C*C*(H+W) + 2*C*H*W; fast 9*C*H*W + C*C*(H+W) + O(C*C).
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.ema import closed_form, transformed, why_not
from ..kernels.ema import ema as operator
from ._base import Attention, Card, Form, Number, exporting, instance_norm, require_divisor, size

_TAPS = [(i, j) for i in range(3) for j in range(3)]
_BLOCK = 16  # groups that a convolution sums at a time: as many outputs as the widest vectors of a CPU have


class EMAttention(Attention):
    """Efficient Multi-Scale Attention (Ouyang et al. 2023, arXiv:2305.13563).

    Parameters have the authors' names and shapes (`conv1x1`, `conv3x3`, `gn`), so their checkpoints load with
    `load_state_dict`. The name is not `EMA` because Ultralytics calls its weight average so.

    Args:
        channels: width of the input; a multiple of `groups`.
        groups: slabs that share the weights (`factor` in the authors' code). More groups are fewer parameters: with
            k = channels / groups there are 10*k*k + 4*k. At k = 1 both softmaxes are the constant 1.

    Raises:
        UserError: `channels` is not a positive multiple of `groups`.
    """

    card = Card(
        name="ema",
        title="Efficient Multi-Scale Attention",
        paper="https://arxiv.org/abs/2305.13563",
        year=2023,
        source="YOLOonMe/EMA-attention-module",
        licence="none",
        kind="one map per group",
        paper_place="backbone.P4,backbone.P5",
        avoid="in narrow layers: with one channel a group both of its softmaxes are the constant 1",
        aliases=("EMA",),
        constraints=("channels must be a multiple of groups", "any height and width"),
        differs=(
            "no difference known; the figure was not compared",
            "one of the two softmaxes is softmax(gn.bias) and sees no input: cross-spatial learning is one-sided",
        ),
        copies=(
            "groups=32 is the authors' default, groups=8 that of most copies; the two are different modules",
            "EMA(256, 8): the authors' code ignores the second number, most copies take it as the number of groups",
            "adaptive pools to (None, 1) export to ONNX files that are wrong at every size but the traced one",
        ),
        rows=(Form((Number("groups", (4, 8, 16, 32, 64)),), alone=True),),
        inside={"groups": 8},
        notes=(
            "nothing to do with EMA the weight average, which Ultralytics keeps for every model",
            "a fresh gate is about 0.5 and halves its input: hence the identity start in pretrained models",
            "the paper reports single runs and no spread; whether it helps on your data is to be measured",
        ),
    )
    width_of = "gn.weight", 0  # of one group

    def __init__(self, channels: int, *, groups: int = 32):
        super().__init__(channels)
        require_divisor(type(self), channels, "groups", groups)
        self.groups = groups
        width = channels // groups
        self.gn = nn.GroupNorm(width, width)
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)

    @property
    def channels(self) -> int:
        """C of all groups."""
        return self.groups * self.group_width

    @property
    def group_width(self) -> int:
        """Channels of a group."""
        return size(self.gn.weight, 0)

    def _groups(self, x: Tensor) -> int:
        """How many groups x has: fewer than `groups` where a model was pruned around this."""
        return size(x, 1) // self.group_width

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, groups={self.groups}"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        return self._weigh(x, self._reference_map(x))

    def chosen(self, x: Tensor) -> str:
        """The kernel where it can run; else `fast`, but on a GPU outside torch.compile `reference`."""
        form = super().chosen(x)
        if form == "fast" and x.is_cuda and not exporting() and not torch.compiler.is_compiling():
            return "reference"  # `fast` starts more operations and moves more bytes in its backward
        return form

    def why_not(self, x: Tensor) -> str:
        """Why the kernel cannot run on `x`, in one sentence, or ""."""
        return why_not(x, self._groups(x))

    def fast(self, x: Tensor) -> Tensor:
        """The same function without the C-channel convolution and without the norm's affine output."""
        if x.device.type == "cpu" and not (exporting() or torch.compiler.is_compiling() or transformed()):
            return closed_form.ema(x, self._weights(), self._groups(x), self.gn.eps)
        return self._weigh(x, self._fast_map(x))

    def kernel(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """The same function and gradients, a slab at a time in one pass over memory."""
        return operator(x, self._weights(), gain, self._groups(x), self.gn.eps)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`spatial`: the map of each group, (B, groups, H, W)."""
        return {"spatial": self._fast_map(x)}

    def _weights(self) -> tuple[Tensor, ...]:
        """The parameters, as kernels take them."""
        layers = self.conv1x1, self.gn, self.conv3x3
        return tuple(tensor for layer in layers for tensor in (layer.weight, layer.bias) if tensor is not None)

    def _weigh(self, x: Tensor, gate_BGHW: Tensor) -> Tensor:
        """Each channel times its group's map; x keeps its memory format."""
        batch, _, height, width = x.shape
        slabs = x.reshape(batch, self._groups(x), self.group_width, height, width)
        return (slabs * gate_BGHW.unsqueeze(2).to(x.dtype)).reshape(batch, size(x, 1), height, width)

    def _reference_map(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        groups, per_group = self._groups(x), self.group_width
        x = x.reshape(batch * groups, per_group, height, width)
        strips = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)  # [N, C, H + W, 1]
        gates = self.conv1x1(strips).sigmoid()
        a, b = gates[:, :, :height], gates[:, :, height:].transpose(2, 3)
        y1 = instance_norm(x * a * b, per_group, self.gn.eps, self.gn.weight, self.gn.bias)
        y2 = self.conv3x3(x)
        weights1 = y1.mean((2, 3)).softmax(1).unsqueeze(1)  # [N, 1, C]
        weights2 = y2.mean((2, 3)).softmax(1).unsqueeze(1)
        logits = weights1 @ y2.flatten(2) + weights2 @ y1.flatten(2)
        return logits.sigmoid().view(batch, groups, height, width)

    def _fast_map(self, x: Tensor) -> Tensor:
        # Channel counts are Python numbers throughout: an exporter sees batch, height and width as unknowns.
        batch, _, height, width = x.shape
        channels, groups, per_group = size(x, 1), self._groups(x), self.group_width

        per_row = _window_means(x, 3)  # [B, G*C, H, 3]
        a = self._strip_gate(per_row[..., 1]).unsqueeze(3)
        b = self._strip_gate(x.mean(2)).unsqueeze(2)

        # Fact 3: mean(conv3x3(x)). The windows lie (column, row), so the kernel is transposed to meet them.
        windows = _window_means(per_row, 2).reshape(batch * groups, per_group * 9)
        taps = self.conv3x3.weight.transpose(2, 3).reshape(per_group, per_group * 9)
        weights2 = F.linear(windows, taps, self.conv3x3.bias).softmax(1)  # [N, C]

        # As a depthwise convolution whose outputs are summed, because CPU libraries gain nothing from one with a single
        # output channel; for a compiler as shifted slices, which it fuses with what follows.
        kernel, offset = self._mixed(groups)
        if torch.compiler.is_compiling() and not exporting():
            padded = F.pad(x, (1, 1, 1, 1))
            pairs = [(kernel[:, :, i, j, None], padded[:, :, i : i + height, j : j + width]) for i, j in _TAPS]
            local = sum(tap * shifted for tap, shifted in pairs)
        else:
            local = F.conv2d(x, kernel, padding=1, groups=channels)

        scale = (weights2 * self.gn.weight).reshape(batch, channels, 1, 1)
        shift = (weights2 @ self.gn.bias + offset).reshape(batch, groups, 1, 1)
        terms = local + instance_norm(x * (a * b), channels, self.gn.eps) * scale
        logits = terms.reshape(batch, groups, per_group, height, width).sum(2) + shift
        return logits.sigmoid()

    def _mixed(self, groups: int) -> tuple[Tensor, Tensor]:
        """Facts 1 and 2: softmax(gn.bias) mixes the 3x3 kernels into one, (channels, 1, 3, 3), and their biases."""
        weights1 = self.gn.bias.softmax(0)
        kernel = (weights1 @ self.conv3x3.weight.flatten(1)).view(-1, 1, 3, 3).repeat(groups, 1, 1, 1)
        assert self.conv3x3.bias is not None
        return kernel, weights1 @ self.conv3x3.bias

    def folded(self, gain: Tensor | None = None) -> nn.Module | None:
        """A copy for inference: what depends on parameters only is computed, the gain of an identity start inside."""
        if type(self) is not EMAttention:  # another function with the same parameters
            return None
        groups = self.groups if gain is None else len(gain) // self.group_width
        folded = copy.deepcopy(self).requires_grad_(False)
        folded.__class__ = _Folded
        assert isinstance(folded, _Folded)
        for name, tensor in zip(("mixed_kernel", "offset", "gain"), (*self._mixed(groups), gain), strict=True):
            folded.register_buffer(name, None if tensor is None else tensor.detach(), persistent=False)
        folded.prepare()
        return folded

    def _strip_gate(self, strip: Tensor) -> Tensor:
        """sigmoid(conv1x1) along a strip of row or column means, (B, channels, L) to the same."""
        batch, _, length = strip.shape
        slabs = strip.reshape(batch * self._groups(strip), self.group_width, length)
        assert self.conv1x1.bias is not None
        # A product and a sum, because starting a convolution costs more than one so small computes.
        logits = self.conv1x1.weight.flatten(1) @ slabs + self.conv1x1.bias.unsqueeze(1)
        return logits.sigmoid().reshape(batch, size(strip, 1), length)


class _Folded(EMAttention):
    """EMA with constants in the place of what depends on its parameters only: x * (1 - gain + gain * gate).

    What is exported is written for the layouts of runtimes, which keep the channels of a pixel together and copy a
    whole map before an operation that cannot read it so, as a product, a gather and a reshape that cuts channels. All
    that touches a whole map is therefore a convolution, a mean, a norm or a multiplication. Sums over the channels of a
    group and the way back are 1x1 convolutions with ones in them, `_BLOCK` groups at a time.
    """

    mixed_kernel: Tensor  # (channels, 1, 3, 3)
    offset: Tensor
    gain: Tensor | None
    strip_kernel: Tensor  # conv1x1 for all groups, (channels, C, 1, 1)
    strip_bias: Tensor
    edge_kernel: Tensor  # conv3x3 for all groups, of `_edges`, (channels, C, 3, 3)
    edge_bias: Tensor
    norm_scale: Tensor  # of all groups, (channels,)
    norm_shift: Tensor
    sum_kernel: Tensor  # from channels to groups, (groups, _BLOCK * C, 1, 1)
    sum_bias: Tensor
    spread_kernel: Tensor  # from groups to channels, (channels, _BLOCK, 1, 1)
    spread_bias: Tensor

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Complete what was pickled before the exported form had constants of its own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's
        if "strip_kernel" not in self._buffers:
            self.prepare()

    def prepare(self) -> None:
        """Compute the constants that the exported form has besides the mixed kernel."""
        groups, width = size(self.mixed_kernel, 0) // self.group_width, self.group_width
        like = self.gn.weight.detach()
        block = _BLOCK if groups % _BLOCK == 0 else groups
        one_hot = torch.eye(block).to(like).repeat(groups // block, 1)  # [groups, block]
        gain = like.new_ones(groups * width) if self.gain is None else self.gain.to(like)
        # A window is all of an axis, less its last or its first entry: (edge, mean, edge) to taps -1, 0, +1.
        taps = torch.tensor([[0.0, 1.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 1.0, 0.0]]).to(like)
        edges = torch.einsum("ocuv,ui,vj->ocij", self.conv3x3.weight.detach(), taps, taps)
        constants = {
            "strip_kernel": self.conv1x1.weight.detach().repeat(groups, 1, 1, 1),
            "strip_bias": _bias(self.conv1x1).repeat(groups),
            "edge_kernel": edges.repeat(groups, 1, 1, 1),
            "edge_bias": _bias(self.conv3x3).repeat(groups),
            "norm_scale": like.repeat(groups),
            "norm_shift": self.gn.bias.detach().repeat(groups),
            "sum_kernel": one_hot.repeat_interleave(width, 1)[..., None, None],
            "sum_bias": self.offset.expand(groups).clone(),
            "spread_kernel": (one_hot.repeat_interleave(width, 0) * gain[:, None])[..., None, None],
            "spread_bias": 1 - gain,
        }
        for name, tensor in constants.items():
            self.register_buffer(name, tensor.contiguous(), persistent=False)

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """The attended input, blended with the input by the gain that is inside."""
        return super().forward(x, self.gain)

    def _mixed(self, groups: int) -> tuple[Tensor, Tensor]:
        fits = size(self.mixed_kernel, 0) == groups * self.group_width
        return (self.mixed_kernel, self.offset) if fits else super()._mixed(groups)

    def _written(self, x: Tensor, gain: Tensor | None) -> Tensor | None:
        if size(x, 1) != size(self.mixed_kernel, 0):  # in a model that was pruned around this
            return None
        batch, channels, per_group = x.shape[0], size(x, 1), self.group_width
        groups = channels // per_group
        blocks, eps = groups // size(self.spread_kernel, 1), self.gn.eps

        a, b = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        weights2 = F.conv2d(_edges(x, b), self.edge_kernel, self.edge_bias, groups=groups)
        weights2 = weights2.reshape(batch * groups, per_group).softmax(1).reshape(batch, channels, 1, 1)
        a, b = (F.conv2d(strip, self.strip_kernel, self.strip_bias, groups=groups).sigmoid() for strip in (a, b))

        # Not `instance_norm`, whose reshapes would cut the channels; its weights as constants, which NCNN asks for.
        normed = torch.instance_norm(x * (a * b), self.norm_scale, self.norm_shift, None, None, True, 0.0, eps, False)

        # The sum of two convolutions, not the convolution of a sum: a runtime adds while it convolves.
        local = F.conv2d(x, self.mixed_kernel, padding=1, groups=channels)
        logits = F.conv2d(normed * weights2, self.sum_kernel, groups=blocks)
        logits = logits + F.conv2d(local, self.sum_kernel, self.sum_bias, groups=blocks)
        return x * F.conv2d(logits.sigmoid(), self.spread_kernel, self.spread_bias, groups=blocks)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias.detach()


def _edges(x: Tensor, column_means: Tensor) -> Tensor:
    """First entry, mean and last entry along columns and then rows, (B, channels, 3, 3); edges divided by their length.

    They say what each tap of a zero-padded 3x3 convolution sees on average, as `_window_means` does.
    """
    height, width = x.shape[2:]
    rows = torch.cat([x[:, :, :1], column_means, x[:, :, -1:]], 2)
    found = torch.cat([rows[..., :1], rows.mean(3, keepdim=True), rows[..., -1:]], 3)
    one = x.new_ones(1, 1)
    down, across = (torch.cat([one / length, one, one / length], 1) for length in (height, width))
    return found * (down.transpose(0, 1) * across)


def _window_means(x: Tensor, dim: int) -> Tensor:
    """Sums over `dim` without its last entry, of all, and without its first, each divided by the whole length.

    They are what the taps -1, 0 and +1 of a zero-padded convolution see on average. Adds a last dimension of 3.
    """
    size = x.shape[dim]
    mean = x.mean(dim)
    return torch.stack([mean - x.select(dim, -1) / size, mean, mean - x.select(dim, 0) / size], -1)
