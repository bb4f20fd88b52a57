"""Square windows of a channels-last map, and their position biases."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError


def whole(length: int, size: int) -> int:
    """The next multiple of `size`."""
    return length + -length % size


def padded(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) with zeros below and to the right, up to multiples of `size`."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % size, 0, -height % size))


def cut(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C), multiples of `size`, to windows (B, (H/size)*(W/size), size*size, C), both row by row."""
    batch, height, width, channels = x.shape
    grid = x.reshape(batch, height // size, size, width // size, size, channels)
    return grid.transpose(2, 3).reshape(batch, (height // size) * (width // size), size * size, channels)


def unfolded(x: Tensor, size: int, reach: int) -> Tensor:
    """Windows of reach * reach around those of `cut`, (B, (H/size)*(W/size), reach*reach, C); 0 outside the map."""
    batch, height, width, channels = x.shape
    columns = F.unfold(x.permute(0, 3, 1, 2), reach, padding=(reach - size) // 2, stride=size)
    return columns.reshape(batch, channels, reach**2, (height // size) * (width // size)).permute(0, 3, 2, 1)


def overlapping(x: Tensor, size: int, reach: int) -> Tensor:
    """The same as slices, which are faster than `unfold` and are not exported as a gather."""
    batch, height, width, channels = x.shape
    before = (reach - size) // 2
    after = whole(reach, size) - size - before
    x = F.pad(x, (0, 0, before, after, before, after))
    rows = _reaching(x, 1, height // size, size, reach)
    grid = _reaching(rows, 3, width // size, size, reach)
    return grid.transpose(2, 3).reshape(batch, (height // size) * (width // size), reach * reach, channels)


def _reaching(x: Tensor, axis: int, count: int, size: int, reach: int) -> Tensor:
    """An axis cut into `count` pieces of `reach`, each `size` after the one before: one axis more.

    From whole pieces of `size`, and slices of those that follow.
    """
    pieces = x.reshape(*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :])
    every = (slice(None),) * axis
    starts = range(0, reach, size)
    parts = [pieces[(*every, slice(i, i + count), slice(0, reach - start))] for i, start in enumerate(starts)]
    return torch.cat(parts, axis + 1)


def joined(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """The inverse of `cut` after `padded`, still padded; height and width are those before padding."""
    batch, _, _, channels = windows.shape
    height, width = whole(height, size), whole(width, size)
    grid = windows.reshape(batch, height // size, width // size, size, size, channels)
    return grid.transpose(2, 3).reshape(batch, height, width, channels)


def bias_index(queries: int, keys: int, sign: int) -> Tensor:
    """Row of the table of biases for each query and key, (queries^2, keys^2).

    The table holds one row per offset in both directions, ((queries + keys - 1)^2, heads), from the most negative.

    Args:
        queries: side of the window of queries.
        keys: side of the window of keys.
        sign: 1 where the authors count key - query, -1 where query - key.
    """
    span = queries + keys - 1
    along = sign * (torch.arange(keys) - torch.arange(queries)[:, None])  # [query, key]
    along = along + (queries if sign > 0 else keys) - 1
    index = along[:, None, :, None] * span + along[None, :, None, :]
    return index.reshape(queries**2, keys**2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention in each window as written: q (B, windows, heads, n, d), k and v (..., m, d), to (..., n, d).

    Args:
        q: queries.
        k: keys.
        v: values.
        bias: added to the logits, (heads, n, m) or (windows, heads, n, m).
    """
    return probabilities(q, k, bias) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same by `scaled_dot_product_attention`, whose kernels take four dimensions."""
    # The CPU's kernel has no gradient for a bias, and what torch then runs instead is slower than this.
    if bias.requires_grad and q.device.type == "cpu":
        return attend(q, k, v, bias)
    # One bias for all windows counts them as samples; a bias for each counts them as heads.
    first = 0 if bias.dim() == 3 else 1
    bias = bias if bias.dim() == 3 else bias.flatten(0, 1)
    q4, k4, v4 = (t.flatten(first, first + 1) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q4, k4, v4, attn_mask=bias.unsqueeze(0).to(q.dtype))
    batch, windows, heads, count, per_head = q.shape
    return out.reshape(batch, windows, heads, count, per_head)


def probabilities(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """The softmax over keys, (B, windows, heads, n, m)."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + bias).softmax(-1)


def perceptron(channels: int, ratio: float) -> tuple[nn.Linear, nn.Linear]:
    """The two layers of a block's perceptron.

    Raises:
        UserError: no unit is left between them.
    """
    width = int(channels * ratio)
    if width < 1:
        raise UserError(f"mlp_ratio={ratio} leaves no unit at {channels} channels", "mlp_ratio=2 fits")
    return nn.Linear(channels, width), nn.Linear(width, channels)
