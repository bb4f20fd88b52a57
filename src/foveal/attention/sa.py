r"""Shuffle Attention (SA).

Paper: Zhang, Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", ICASSP 2021, arXiv:2102.00240.
Read: the authors' release (wofmanaf/SA-Net, no licence); written from the mathematics.

The channels are cut into G groups that share all weights, and each group into halves u and v:

    u * sigmoid(w1 * mean over H, W of u + b1)                             a gate per channel
    v * sigmoid(w2 * IN(v) + b2)                                           a gate per element, IN an instance norm

The halves are joined again, and all channels are shuffled with two groups: channel k of the first half of all channels
goes to 2k, of the second half to 2k + 1.

No multiply-accumulates. There is no `fast` form of its own.
"""

import torch
from torch import Tensor, nn

from ._base import Attention, Card, Form, Number, instance_norm, require_divisor, size


class ShuffleAttention(Attention):
    """Shuffle Attention (Zhang and Yang 2021, arXiv:2102.00240).

    Args:
        channels: width of the input; a multiple of 2 * `groups`.
        groups: parts of the channels that share the weights.

    Raises:
        UserError: `channels` is not a positive multiple of 2 * `groups`.
    """

    card = Card(
        name="sa",
        title="Shuffle Attention",
        paper="https://arxiv.org/abs/2102.00240",
        year=2021,
        source="wofmanaf/SA-Net",
        licence="none",
        kind="one gate per channel in half of the channels, one per element in the others",
        paper_place="backbone",
        avoid="bare in a pretrained model: it permutes the channels, so no values of its weights make it the identity",
        constraints=("channels must be a multiple of 2 * groups", "any height and width"),
        differs=("the paper counts 300 more parameters in a ResNet-50, the release has 708 more; here as released",),
        copies=("most copies default to 8 groups instead of 64: another module",),
        rows=(
            Form((Number("groups", (4, 8, 16, 32, 64)),)),
            Form((Number("reduction", (8, 16, 32)),), implies={"groups": 8}),
            Form((Number("reduction", (8, 16, 32)), Number("groups", (4, 8, 16, 32, 64)))),
        ),
        notes=(
            "fresh, it multiplies every channel by sigmoid(1) = 0.73 and shuffles",
            "exported at its place in yolo11n it adds 12 % in ONNX Runtime and 15 % in OpenVINO: its norm, its "
            "gates and its shuffle are passes over the largest maps, which no convolution takes up",
        ),
    )
    width_of = "norm.weight", 0  # of one group
    renamed = {
        "cweight": "channel_weight",
        "cbias": "channel_bias",
        "sweight": "spatial_weight",
        "sbias": "spatial_bias",
        "gn": "norm",
    }

    def __init__(self, channels: int, *, groups: int = 64):
        super().__init__(channels)
        require_divisor(type(self), channels, "groups", groups, multiple=2)
        self.groups = groups
        half = channels // (2 * groups)
        self.channel_weight, self.spatial_weight = (nn.Parameter(torch.zeros(1, half, 1, 1)) for _ in range(2))
        self.channel_bias, self.spatial_bias = (nn.Parameter(torch.ones(1, half, 1, 1)) for _ in range(2))
        self.norm = nn.GroupNorm(half, half)

    @property
    def channels(self) -> int:
        """C of all groups."""
        return self.groups * self.group_width

    @property
    def group_width(self) -> int:
        """Channels of a group, of which each tensor has half."""
        return 2 * size(self.channel_weight, 1)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, groups={self.groups}"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        u, v, channel, element = self._halves(x)
        return _shuffled(torch.cat([u * channel, v * element], 1).reshape(x.shape))

    def exported(self, x: Tensor, gain: Tensor | None) -> Tensor:
        """All channels at once, because runtimes copy a map whose channels are cut into groups.

        A channel of either half has the gate 2 * sigmoid(normed) * sigmoid(pooled), of which one logit is 0.
        """
        half, groups = self.group_width // 2, size(x, 1) // self.group_width
        nothing = self.norm.weight.new_zeros(half)

        def everywhere(first: Tensor, second: Tensor) -> Tensor:
            return torch.cat([first.flatten(), second.flatten()]).repeat(groups)

        scale = everywhere(nothing, self.spatial_weight.flatten() * self.norm.weight)
        shift = everywhere(nothing, self.spatial_weight.flatten() * self.norm.bias + self.spatial_bias.flatten())
        normed = torch.instance_norm(x, scale, shift, None, None, True, 0.0, self.norm.eps, False)
        weight, bias = everywhere(self.channel_weight, nothing), everywhere(self.channel_bias, nothing)
        pooled = weight.view(-1, 1, 1) * x.mean((2, 3), keepdim=True) + bias.view(-1, 1, 1)
        gates = 2 * pooled.sigmoid()
        if gain is None:
            return _shuffled(x * (normed.sigmoid() * gates))
        kept = gain.view(-1, 2).transpose(0, 1).reshape(-1, 1, 1)  # of the channel that each one becomes
        return _shuffled(x * (normed.sigmoid() * (gates * kept))) + x * (1 - gain.view(-1, 1, 1))

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """`channel` (B, C / 2) of the first half of each group, `elements` (B, C / 2, H, W) of the second."""
        batch, _, height, width = x.shape
        _, _, channel, element = self._halves(x)
        half = size(x, 1) // 2
        return {"channel": channel.reshape(batch, half), "elements": element.reshape(batch, half, height, width)}

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both halves of every group, (B * G, C / 2G, H, W), and their gates."""
        batch, _, height, width = x.shape
        half = self.group_width // 2
        slabs = x.reshape(batch * (size(x, 1) // self.group_width), 2 * half, height, width)
        u, v = slabs[:, :half], slabs[:, half:]
        channel = (self.channel_weight * u.mean((2, 3), keepdim=True) + self.channel_bias).sigmoid()
        normed = instance_norm(v, half, self.norm.eps, self.norm.weight, self.norm.bias)
        return u, v, channel, (self.spatial_weight * normed + self.spatial_bias).sigmoid()


def _shuffled(x: Tensor) -> Tensor:
    """Channel k of the first half goes to 2k, of the second half to 2k + 1."""
    batch, _, height, width = x.shape
    return x.reshape(batch, 2, size(x, 1) // 2, height, width).transpose(1, 2).reshape(x.shape)
