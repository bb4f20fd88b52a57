r"""Focused Linear Attention (FLA) of the FLatten Transformer.

Paper: Han et al., "FLatten Transformer: Vision Transformer using Focused Linear Attention", ICCV 2023,
arXiv:2308.00442. Read: the authors' release (LeapLabTHU/FLatten-Transformer, no licence), its Swin form; written from
the mathematics.

    q, k, v = linear(x);  k = k + position table
    t       = (relu(t) + 1e-6) / softplus(scale)           for t = q and k, scale learned per channel
    t       = |t| * t^p / |t^p|                            norms over all C channels, before the cut into heads
    z       = 1 / (q . mean of k + 1e-6)
    out     = linear(z * q . (k^T v / N) + depthwise 5x5(v))     one depthwise kernel of d channels for all heads

Shapes: B batch, n heads, d channels per head, N = H*W positions.
Multiply-accumulates: (4*C*C + 2*C*d + C + k*k*C) * N: linear in N. `fast` differs in half precision only, where powers
and products of norms overflow: there it divides t by its largest value before the power, which cancels, and multiplies
q, k and v in single precision.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, require_divisor

_TINY = 1e-6  # the authors'
_HALF = (torch.float16, torch.bfloat16)


class FocusedLinearAttention(Attention):
    """Focused Linear Attention (Han et al. 2023, arXiv:2308.00442).

    Args:
        channels: width of the input; a multiple of `heads`.
        heads: number of heads.
        focusing_factor: p, the power that sharpens queries and keys.
        kernel_size: odd side of the depthwise kernel.
        size: height and width that the position table is made for; other maps interpolate it.

    Raises:
        UserError: one of these rules is broken.
    """

    card = Card(
        name="fla",
        title="Focused Linear Attention",
        paper="https://arxiv.org/abs/2308.00442",
        year=2023,
        source="LeapLabTHU/FLatten-Transformer",
        licence="none",
        kind="linear attention over all positions, and a depthwise convolution",
        paper_place="P3",
        avoid="on small maps, where mhsa costs no more and is exact",
        aliases=("FLAttention",),
        constraints=("channels must be a multiple of heads", "any height and width"),
        differs=(
            "not in the paper's equations but in the release, and here: the learned scale, the position table, both "
            "1e-6, and norms over all channels instead of each head's",
            "the release fixes a square map of the table's size; here the table is interpolated",
        ),
        copies=(
            "the fork for YOLO lacks the last linear layer and the bias of the first, and fixes the resolution",
            "copies with softmax(q k^T), or x * softmax(linear(x)), are not linear attention",
            "older copies divide by sums instead of means, so their 1e-6 weighs differently",
        ),
        notes=(
            "the table has channels * size * size parameters: most of the module at the default size of 40",
            "it replaces its input: bare, it needs the shortcut that its block has",
            "its `fast` form gains nothing that could be measured on a CPU (0.99 to 1.03)",
            "NCNN cannot run it, its file ends the process, and MNN computes something else, boxes apart by pixels",
            "exported at its place in yolo11n it adds 18 % in ONNX Runtime and 13 % in OpenVINO: its "
            "products, and the transposes before them",
        ),
    )
    width_of = "proj.weight", 0

    def __init__(
        self, channels: int, *, heads: int = 8, focusing_factor: float = 3, kernel_size: int = 5, size: int = 40
    ):
        super().__init__(channels)
        require_divisor(type(self), channels, "heads", heads)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"{type(self).__name__}(kernel_size={kernel_size}): must be odd", "kernel_size=5 fits")
        if focusing_factor <= 0:
            raise UserError(
                f"{type(self).__name__}(focusing_factor={focusing_factor}): must be positive", "focusing_factor=3 fits"
            )
        if size < 1:
            raise UserError(f"{type(self).__name__}(size={size}): must be positive", "size=40 fits")
        self.heads, self.focusing_factor = heads, focusing_factor
        per_head = channels // heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.dwc = nn.Conv2d(per_head, per_head, kernel_size, padding=kernel_size // 2, groups=per_head)
        self.scale = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos = nn.Parameter(torch.zeros(1, channels, size, size))

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, heads={self.heads}, focusing_factor={self.focusing_factor}, size={self.pos.shape[2]}"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        return self._attend(x, _focus, _mix)

    def fast(self, x: Tensor) -> Tensor:
        """The same function within the range of half precision."""
        return self._attend(x, _safe_focus, _safe_mix)

    def gates(self, x: Tensor, *, matrix: bool = False) -> dict[str, Tensor]:
        """`received` (B, heads, H, W); with `matrix`, `attention` (B, heads, N, N), which is never formed otherwise."""
        q, k, _ = self._qkv(x, _safe_focus)
        zq = _normaliser(q, k) * q
        count = x.shape[2] * x.shape[3]
        received = (zq.mean(2, keepdim=True) @ k.transpose(2, 3) / count).squeeze(2)
        found = {"received": received.unflatten(2, x.shape[2:])}
        return found | ({"attention": zq @ k.transpose(2, 3) / count} if matrix else {})

    def _attend(self, x: Tensor, focus: Callable[..., Tensor], mix: Callable[..., Tensor]) -> Tensor:
        batch, _, height, width = x.shape
        q, k, v = self._qkv(x, focus)
        maps = v.transpose(2, 3).reshape(batch * self.heads, self.channels // self.heads, height, width)
        local = self.dwc(maps).reshape(x.shape)
        tokens = mix(q, k, v).transpose(1, 2).flatten(2) + local.flatten(2).transpose(1, 2)
        return self.proj(tokens).transpose(1, 2).reshape(x.shape)

    def _qkv(self, x: Tensor, focus: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Focused q and k, and v, each (B, n, N, d)."""
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, 2)
        pos = F.interpolate(self.pos, x.shape[2:], mode="bilinear", align_corners=False)
        k = k + pos.flatten(2).transpose(1, 2)
        scale = F.softplus(self.scale)
        q, k = (focus((t.relu() + _TINY) / scale, self.focusing_factor) for t in (q, k))
        batch, _, height, width = x.shape  # not unflatten, which makes sizes constants of an exported file
        shape = batch, height * width, self.heads, self.channels // self.heads
        q, k, v = (t.reshape(shape).transpose(1, 2) for t in (q, k, v))
        return q, k, v

    @classmethod
    def from_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our names; the position table, which is square, becomes a map."""
        named = super().from_official(state_dict)
        table = named.get("positional_encoding")
        if table is not None and table.dim() == 3 and (side := round(table.shape[1] ** 0.5)) ** 2 == table.shape[1]:
            named["pos"] = named.pop("positional_encoding").transpose(1, 2).unflatten(2, (side, side))
        return named


def _focus(t: Tensor, power: float) -> Tensor:
    """Sharpen each position's vector (B, N, C) and keep its norm."""
    raised = t**power
    return t.norm(dim=2, keepdim=True) / raised.norm(dim=2, keepdim=True) * raised


def _safe_focus(t: Tensor, power: float) -> Tensor:
    if t.dtype not in _HALF:
        return _focus(t, power)
    # The largest value cancels, so it needs no gradient.
    return t.norm(dim=2, keepdim=True) * F.normalize((t / t.detach().amax(2, keepdim=True)) ** power, dim=2)


def _normaliser(q: Tensor, k: Tensor) -> Tensor:
    """z, (B, n, N, 1)."""
    return 1 / (q @ k.mean(2, keepdim=True).transpose(2, 3) + _TINY)


def _mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Linear attention, (B, n, N, d)."""
    return _normaliser(q, k) * (q @ ((k.transpose(2, 3) / k.shape[2]) @ v))


def _safe_mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if v.dtype not in _HALF:
        return _mix(q, k, v)
    with torch.autocast(q.device.type, enabled=False):  # which would choose half precision again
        return _mix(q.float(), k.float(), v.float()).to(v.dtype)
