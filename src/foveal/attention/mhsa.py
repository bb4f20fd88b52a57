r"""Multi-Head Self-Attention with relative positions (MHSA) of BoTNet.

Paper: Srinivas et al., "Bottleneck Transformers for Visual Recognition", CVPR 2021, arXiv:2101.11605. Read: a port of
the first author's TensorFlow code (lucidrains/bottleneck-transformer-pytorch, MIT); written from the mathematics.

    q, k, v = conv1x1(x) without bias, cut into heads of d channels; q is divided by sqrt(d)
    logits  = q . k + q . r_h[row of key - row of query] + q . r_w[column of key - column of query]
    out     = softmax over all positions(logits) . v                       no projection, no shortcut

The tables r_h and r_w have a row per offset of a map of the size they were made for. A smaller map needs fewer
offsets and takes exactly those; for a larger one the tables are stretched by linear interpolation.

Shapes: B batch, n heads, d channels per head, N = H*W positions.
Multiply-accumulates: 3*C*C*N + 2*C*N*N + C*N*(2*H - 1 + 2*W - 1). `fast` takes the offsets to
positions before the product, and never writes the N x N logits.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, exporting, require_divisor

CACHED, CACHED_TRAIN = 4e6, 24e6  # bytes of logits up to which `reference` measured faster (docs/log.md)


class MHSA(Attention):
    """Multi-Head Self-Attention with relative positions (Srinivas et al. 2021, arXiv:2101.11605).

    Args:
        channels: width of the input and of the output; a multiple of `heads`.
        heads: number of heads; each has channels / heads channels (the authors fix 128, for 512 channels in all).
        size: height and width, or both in this order, that the position tables are made for.

    Raises:
        UserError: `channels` is not a positive multiple of `heads`, or a size below 1.
    """

    card = Card(
        name="mhsa",
        title="Multi-Head Self-Attention of BoTNet",
        paper="https://arxiv.org/abs/2101.11605",
        year=2021,
        source="lucidrains/bottleneck-transformer-pytorch",
        licence="none seen; MIT for the port that was read",
        kind="attention over all positions",
        paper_place="backbone.P5",
        avoid="on large maps: work grows with the square of H * W; keep it to P5, and P4",
        aliases=("BoTMHSA",),
        constraints=("channels must be a multiple of heads", "any height and width"),
        differs=(
            "the first author's code is a TensorFlow gist that could not be read; two independent ports of it agree",
            "the ports fix the map's size; here a smaller map takes exactly its offsets, a larger one interpolates",
            "q is scaled before it meets the positions, as in the gist; timm does so only with scale_pos_embed=True",
        ),
        copies=(
            "the MHSA of YOLO tutorials is another module: absolute positions, unscaled, of fixed size, and the "
            "query's position meets the query of the key pixel; later copies switch positions off",
        ),
        notes=(
            "it replaces its input by a mix of all positions: bare, it needs the shortcut that its block has",
            "where a CPU's cache holds all logits, as on a 20 x 20 map, `reference` is faster, and runs by default",
            "NCNN cannot run it: its file ends the process",
            "exported at its place in yolo11n it adds 7 % in ONNX Runtime and 6 % in OpenVINO, which are its "
            "matrix products",
        ),
    )
    width_of = "qkv.weight", 1
    renamed = {
        "to_qkv": "qkv",
        "pos_emb.rel_height": "rel_h",
        "pos_emb.rel_width": "rel_w",
        "pos_embed.height_rel": "rel_h",
        "pos_embed.width_rel": "rel_w",
    }

    def __init__(self, channels: int, *, heads: int = 4, size: int | Sequence[int] = 40):
        super().__init__(channels)
        require_divisor(type(self), channels, "heads", heads)
        sizes = (size, size) if isinstance(size, int) else tuple(size)
        if len(sizes) != 2 or min(sizes) < 1:
            raise UserError(f"MHSA(size={size}): must be positive, one number or height and width", "size=40 fits")
        self.heads = heads
        height, width = sizes
        per_head = channels // heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.rel_h = nn.Parameter(torch.randn(2 * height - 1, per_head) * per_head**-0.5)
        self.rel_w = nn.Parameter(torch.randn(2 * width - 1, per_head) * per_head**-0.5)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        size = [len(self.rel_h) // 2 + 1, len(self.rel_w) // 2 + 1]
        return f"{self.channels}, heads={self.heads}, size={size}"

    def chosen(self, x: Tensor) -> str:
        """`fast`, but `reference` where a CPU's cache holds all logits."""
        form = super().chosen(x)
        if x.device.type != "cpu" or exporting():
            return form
        logits = x.shape[0] * self.heads * (x.shape[2] * x.shape[3]) ** 2 * x.element_size()
        return "reference" if logits <= (CACHED_TRAIN if torch.is_grad_enabled() else CACHED) else form

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        q, k, v = self._qkv(x)
        return self._map(self._probabilities(q, k, x.shape[2:]) @ v, x)

    def fast(self, x: Tensor) -> Tensor:
        """The same function by `scaled_dot_product_attention`, the positions in further dimensions of q and k.

        [q, q . r_h, q . r_w] . [k, one-hot row, one-hot column] = all three terms of the logits.
        """
        height, width = x.shape[2:]
        q, k, v = self._qkv(x)
        per_row, per_column = self._position_logits(q, height, width)
        rows = torch.eye(height, dtype=k.dtype, device=x.device).repeat_interleave(width, 0)
        columns = torch.eye(width, dtype=k.dtype, device=x.device).repeat(height, 1)
        onehot = torch.cat([rows, columns], 1).expand(*k.shape[:2], -1, -1)
        q = torch.cat([q, per_row, per_column], 3)
        k = torch.cat([k, onehot], 3)
        v = F.pad(v, (0, height + width))  # one width for all three is what the fused kernels take
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self._map(out[..., : self.channels // self.heads], x)

    def gates(self, x: Tensor, *, matrix: bool = False) -> dict[str, Tensor]:
        """`received` (B, heads, H, W); with `matrix`, `attention` (B, heads, N, N)."""
        q, k, _ = self._qkv(x)
        p = self._probabilities(q, k, x.shape[2:])
        found = {"received": p.mean(2).unflatten(2, x.shape[2:])}
        return found | ({"attention": p} if matrix else {})

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled q, k and v, each (B, n, N, d)."""
        batch, _, height, width = x.shape
        # A linear layer on channels-last positions leaves d contiguous, without which the fused kernels step aside.
        tokens = F.linear(x.flatten(2).transpose(1, 2), self.qkv.weight.flatten(1))
        qkv = tokens.reshape(batch, height * width, 3, self.heads, self.channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q * q.shape[3] ** -0.5, k, v

    def _probabilities(self, q: Tensor, k: Tensor, size: Sequence[int]) -> Tensor:
        """(B, n, N, N), by way of the logits of every offset."""
        (height, width), (batch, heads, _, per_head) = size, q.shape
        grid = q.reshape(batch, heads, height, width, per_head)
        per_dy = grid @ _stretched(self.rel_h, height).T  # [B, n, H, W, 2H - 1]
        per_dx = grid @ _stretched(self.rel_w, width).T
        by_row = _offsets(height, q.device)[:, None].expand(batch, heads, height, width, height)
        by_column = _offsets(width, q.device).expand(batch, heads, height, width, width)
        positions = per_dy.gather(4, by_row)[..., :, None] + per_dx.gather(4, by_column)[..., None, :]
        return (q @ k.transpose(-2, -1) + positions.reshape(batch, heads, height * width, height * width)).softmax(3)

    def _position_logits(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The products q . r_h for every row a key may be in, (B, n, N, H), and q . r_w for every column."""
        batch, heads, _, per_head = q.shape
        grid = q.reshape(batch, heads, height, width, per_head)
        rows = _stretched(self.rel_h, height)[_offsets(height, q.device)]  # [H of the query, H of the key, d]
        columns = _stretched(self.rel_w, width)[_offsets(width, q.device)]
        per_row = grid @ rows.transpose(-2, -1).unsqueeze(0).unsqueeze(0)
        per_column = (grid.transpose(2, 3) @ columns.transpose(-2, -1).unsqueeze(0).unsqueeze(0)).transpose(2, 3)
        return per_row.flatten(2, 3), per_column.flatten(2, 3)

    def _map(self, out: Tensor, x: Tensor) -> Tensor:
        """(B, n, N, d) to (B, C, H, W)."""
        return out.permute(0, 1, 3, 2).reshape(x.shape)


def _offsets(length: int, device: torch.device) -> Tensor:
    """Row of a table of offsets for each query and key, (length, length)."""
    position = torch.arange(length, device=device)
    return position - position[:, None] + (length - 1)


def _stretched(table: Tensor, length: int) -> Tensor:
    """The rows for the offsets of `length` positions, (2 * length - 1, d).

    One formula for both cases, so that an exported file has both: a table that is large enough is read at whole
    numbers, which interpolation leaves as they are.
    """
    reach = (len(table) - 1) // 2
    offsets = torch.arange(1 - length, length, device=table.device, dtype=torch.float32)
    at = reach + offsets * reach / offsets[-1:].clamp(min=max(reach, 1))
    below = at.floor().clamp(max=max(2 * reach - 1, 0))
    share = (at - below).to(table.dtype)[:, None]
    below = below.long()
    return table[below] * (1 - share) + table[(below + 1).clamp(max=2 * reach)] * share
