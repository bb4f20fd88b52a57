r"""Squeeze-enhanced Axial attention (Sea) of SeaFormer.

Paper: Wan et al., "SeaFormer: Squeeze-enhanced Axial Transformer for Mobile Semantic Segmentation", ICLR 2023,
arXiv:2301.13156. Read: the authors' release (fudan-zvg/SeaFormer, Apache-2.0); written from the mathematics.

    q, k, v = BN(conv1x1(x))                               n heads of kappa channels for q, k and ratio * kappa for v
    D       = BN(conv1x1(relu6(BN(depthwise 3x3([q | k | v])))))
    rows    = BN(conv1x1(relu6(softmax(q . k / sqrt(kappa)) . v)))       q, k, v averaged over W, q and k + a table each
    columns = the same over H
    out     = hardsigmoid(BN(conv1x1(relu6(v + rows + columns)))) * D

The tables have 16 entries and are interpolated to H or W.

Shapes: B batch, n heads, e channels of v per head, L = H or W.
Multiply-accumulates: with E = 2*n*kappa + n*e channels of [q | k | v], (2*C*n*kappa + 2*C*n*e + 9*E + E*C) * H*W +
(n*e)^2 * (H + W) + (n*kappa + n*e) * (H*H + W*W).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._base import Attention, Card, ConvNorm, Form, Number, size


class SeaAttention(Attention):
    """Squeeze-enhanced Axial attention (Wan et al. 2023, arXiv:2301.13156).

    Args:
        channels: width of the input.
        heads: number of heads.
        key_dim: kappa, channels of q and k per head.
        attn_ratio: channels of v per head, in key_dim.

    Raises:
        UserError: an argument that leaves no channel.
    """

    card = Card(
        name="sea",
        title="Squeeze-enhanced Axial Attention",
        paper="https://arxiv.org/abs/2301.13156",
        year=2023,
        source="fudan-zvg/SeaFormer",
        licence="Apache-2.0",
        kind="attention along rows and columns, as a gate per element",
        paper_place="backbone.P4,backbone.P5",
        avoid="for latency on small maps: some twenty small operations, each quick and none of them free",
        aliases=("Sea_Attention",),
        constraints=("any width, height and channels",),
        differs=(
            "the class starts three norms at weight 0, so that a fresh module is half of the detail branch; the "
            "segmentation code then sets them to 1, the classification code does not; here they start at 0",
            "the class has no default activation and fails without one; here it is ReLU6, as in the networks",
        ),
        copies=(
            "write-ups in which every pixel's query attends to squeezed keys: the query is squeezed, too",
            "tables that are drawn and never trained; a ratio of 4; seven plain convolutions instead of these",
        ),
        rows=(
            Form((Number("key_dim", (8, 16, 32)), Number("heads", (2, 4, 8)))),
            Form((Number("key_dim", (8, 16, 32)), Number("heads", (2, 4, 8)), Number("attn_ratio", (1, 2, 4)))),
        ),
        notes=(
            "it replaces its input: bare, it needs the shortcut that its block has",
            "its `fast` form gains nothing that could be measured on a CPU (0.94 to 1.10)",
            "exported at its place in yolo11n it adds 15 % in ONNX Runtime and 13 % in OpenVINO, which are "
            "its convolutions",
        ),
    )
    width_of = "proj.conv.weight", 0
    renamed = {
        f"{theirs}.{part}": f"{ours}.{kind}"
        for theirs, ours in {
            "to_q": "q",
            "to_k": "k",
            "to_v": "v",
            "dwconv": "depthwise",
            "pwconv": "detail",
            "proj.1": "proj",
            "proj_encode_row.1": "row_proj",
            "proj_encode_column.1": "column_proj",
        }.items()
        for part, kind in (("c", "conv"), ("bn", "norm"))
    } | {
        "pos_emb_rowq.pos_embed": "row_q",
        "pos_emb_rowk.pos_embed": "row_k",
        "pos_emb_columnq.pos_embed": "column_q",
        "pos_emb_columnk.pos_embed": "column_k",
    }

    def __init__(self, channels: int, *, heads: int = 8, key_dim: int = 16, attn_ratio: float = 2):
        super().__init__(channels)
        keys, values = heads * key_dim, heads * int(attn_ratio * key_dim)
        if heads < 1 or key_dim < 1 or values < 1:
            raise UserError(
                f"SeaAttention(heads={heads}, key_dim={key_dim}, attn_ratio={attn_ratio}): leaves no channel",
                "heads=8, key_dim=16, attn_ratio=2 fits",
            )
        self.heads = heads
        joined = 2 * keys + values
        self.q, self.k, self.v = (_pointwise(channels, width) for width in (keys, keys, values))
        self.depthwise = ConvNorm(nn.Conv2d(joined, joined, 3, padding=1, groups=joined, bias=False))
        self.detail = _pointwise(joined, channels)
        self.row_proj, self.column_proj = _pointwise(values, values), _pointwise(values, values)
        self.proj = _pointwise(values, channels)
        for closed in (self.row_proj, self.column_proj, self.proj):
            nn.init.zeros_(closed.norm.weight)
        self.row_q, self.row_k, self.column_q, self.column_k = (
            nn.Parameter(torch.randn(1, keys, 16)) for _ in range(4)
        )

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"{self.channels}, heads={self.heads}, key_dim={self.row_q.shape[1] // self.heads}"

    def reference(self, x: Tensor) -> Tensor:
        """The paper, box by box."""
        gate, detail = self._branches(x, _attend)
        return gate * detail

    def fast(self, x: Tensor) -> Tensor:
        """The same function by `scaled_dot_product_attention`."""
        gate, detail = self._branches(x, F.scaled_dot_product_attention)
        return gate * detail

    def gates(self, x: Tensor, *, matrix: bool = False) -> dict[str, Tensor]:
        """`elements` (B, C, H, W), the gate of the detail branch.

        With `matrix`, `attention_rows` (B, heads, H, H) and `attention_columns` (B, heads, W, W).
        """
        found = {"elements": self._branches(x, F.scaled_dot_product_attention)[0]}
        if matrix:
            q, k = self.q(x), self.k(x)
            for name, axis, tables in (
                ("attention_rows", 3, (self.row_q, self.row_k)),
                ("attention_columns", 2, (self.column_q, self.column_k)),
            ):
                found[name] = _probabilities(
                    *(self._profile(t.mean(axis), p) for t, p in zip((q, k), tables, strict=True))
                )
        return found

    def _cut(self) -> tuple[int, ...]:
        return tuple(size(part.conv.weight, 0) for part in (self.q, self.k, self.v))

    def _branches(self, x: Tensor, attend: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        """The gate and the detail, both (B, C, H, W)."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        detail = self.detail(F.relu6(self.depthwise(torch.cat([q, k, v], 1))))
        rows = self._axis(q, k, v, 3, self.row_q, self.row_k, attend)
        columns = self._axis(q, k, v, 2, self.column_q, self.column_k, attend)
        rows = self.row_proj(F.relu6(rows.unsqueeze(3)))
        columns = self.column_proj(F.relu6(columns.unsqueeze(2)))
        gate = self.proj(F.relu6(v + rows + columns))
        return F.relu6(gate + 3) / 6, detail  # F.hardsigmoid's gradient is of single precision only

    def _axis(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        squeezed: int,
        table_q: Tensor,
        table_k: Tensor,
        attend: Callable[..., Tensor],
    ) -> Tensor:
        """Attention along what is left when an axis is averaged away, (B, heads * e, L)."""
        q, k = self._profile(q.mean(squeezed), table_q), self._profile(k.mean(squeezed), table_k)
        out = attend(q, k, self._heads(v.mean(squeezed)))
        return out.transpose(2, 3).flatten(1, 2)

    def _profile(self, squeezed: Tensor, table: Tensor) -> Tensor:
        """A strip (B, heads * d, L) with its position table, as (B, heads, L, d)."""
        position = F.interpolate(table, squeezed.shape[2:], mode="linear", align_corners=False)
        return self._heads(squeezed + position)

    def _heads(self, strip: Tensor) -> Tensor:
        batch, width, length = strip.shape
        return strip.reshape(batch, self.heads, width // self.heads, length).transpose(2, 3)


def _pointwise(inputs: int, outputs: int) -> ConvNorm:
    return ConvNorm(nn.Conv2d(inputs, outputs, 1, bias=False))


def _probabilities(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * q.shape[3] ** -0.5).softmax(3)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _probabilities(q, k) @ v
