"""What the forms of an attention are measured against. Baselines of benchmarks: no model should use them.

`ArticleEMA` is EMA as tutorials and most copies have it, with everything that `attention/ema.py` finds to be avoidable
left in. The others are what a user could take instead: a compiler, or the attention blocks that the host brings along.
"""

import importlib.util
import os
import shutil

import torch
from torch import Tensor, nn

from ..attention import Attention, EMAttention

LARGEST_MATRIX = 2**30  # bytes; of an attention over all positions


class ArticleEMA(nn.Module):
    """EMA in the published formulation, a baseline to measure against; its state dict is `EMAttention`'s.

    Adaptive pools, the full 3x3 convolution, the affine group norm, both softmaxes and both matrix products are
    computed, although the first softmax sees no input. Its output is contiguous whatever its input is.

    Args:
        channels: width of the input; a multiple of `groups`.
        groups: slabs that share the weights.
    """

    def __init__(self, channels: int, *, groups: int = 32):
        super().__init__()
        width = channels // groups
        self.groups = groups
        self.along_rows = nn.AdaptiveAvgPool2d((None, 1))
        self.along_columns = nn.AdaptiveAvgPool2d((1, None))
        self.overall = nn.AdaptiveAvgPool2d((1, 1))
        self.softmax = nn.Softmax(2)
        self.gn = nn.GroupNorm(width, width)
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """(B, channels, H, W) to the same, with a gain (channels,) as in an identity start."""
        batch, channels, height, width = x.shape
        slabs = x.reshape(batch * self.groups, -1, height, width)
        strips = torch.cat([self.along_rows(slabs), self.along_columns(slabs).permute(0, 1, 3, 2)], 2)
        a, b = self.conv1x1(strips).split([height, width], 2)
        y1 = self.gn(slabs * a.sigmoid() * b.permute(0, 1, 3, 2).sigmoid())
        y2 = self.conv3x3(slabs)
        logits = self._descriptor(y1) @ y2.reshape(*y2.shape[:2], -1)
        logits = logits + self._descriptor(y2) @ y1.reshape(*y1.shape[:2], -1)
        gate = logits.reshape(batch * self.groups, 1, height, width).sigmoid()
        out = (slabs * gate).reshape(batch, channels, height, width)
        return out if gain is None else x + gain.view(-1, 1, 1) * (out - x)

    def _descriptor(self, y: Tensor) -> Tensor:
        return self.softmax(self.overall(y).reshape(y.shape[0], y.shape[1], 1).permute(0, 2, 1))


def article(module: Attention) -> nn.Module | None:
    """The article's formulation with the parameters of `module`; None for attentions other than EMA."""
    if type(module) is not EMAttention:  # the placebo is one of its kind, too
        return None
    made = ArticleEMA(module.channels, groups=module.groups).to(module.conv3x3.weight)
    made.load_state_dict(module.state_dict())
    return made.train(module.training)


def why_not_compiled(device: torch.device) -> str:
    """Why `torch.compile` cannot run here, in one sentence, or ""."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "torch.compile needs the package triton"
    compiler = os.environ.get("CXX", "g++")
    return "" if shutil.which(compiler) else f"torch.compile needs a C++ compiler, and there is no {compiler}"


def compiled(module: nn.Module) -> nn.Module:
    """`module` through `torch.compile`, for one shape at a time."""
    return torch.compile(module, dynamic=False)  # type: ignore[return-value]  # of a module it makes a module


def blocks(x: Tensor) -> dict[str, tuple[nn.Module | None, str]]:
    """Ultralytics' own attention blocks for inputs like `x`, or why one is not run: other functions, for their cost.

    Raises:
        UserError: Ultralytics is not installed.
    """
    from ..hosts import ultralytics as host

    found = {}
    for name, (module, heads) in host.blocks(x.shape[1]).items():
        needs = heads * x.shape[0] * (x.shape[2] * x.shape[3]) ** 2 * x.element_size()
        reason = f"its attention matrix would take {needs / 1e9:.1f} GB" if needs > LARGEST_MATRIX else ""
        found[f"ultralytics {name}"] = (None if reason else module.to(x.device, x.dtype), reason)
    return found
