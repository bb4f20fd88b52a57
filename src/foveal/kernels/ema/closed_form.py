"""EMA with its backward written out, in plain torch operations: what a CPU trains with where no kernel was built.

Autograd keeps four times the bytes of x for EMA and moves fifty times as many through memory. This keeps half at most,
and its traffic stays in the cache, chunk by chunk. docs/kernels.md derives it; for a slab of C channels and N pixels:

    a, b     = sigmoid(conv1x1(row means)), sigmoid(conv1x1(column means))
    t        = x * a * b;  rstd = 1 / sqrt(var(t) + eps);  centred = t - mean(t)
    weights1 = softmax(gn.bias);  kernel = sum over o of weights1[o] * conv3x3.weight[o]
    weights2 = softmax(mean(conv3x3(x)));  scale = weights2 * gn.weight * rstd
    logits   = sum over c of (kernel[c] * x[c] + scale[c] centred[c]) + shift
    y        = x * gate;  gate = sigmoid(logits)

It is `centred` everywhere: where a mean is far above the deviation, sums of t and their differences would lose it.
A chunk is [B', G'*C, H, W]: some samples of a channels_last tensor, or any run of slabs of a contiguous one, which is
then a single sample of many groups. n counts the slabs of a chunk.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ...tensors import memory_format

CHUNK_BYTES = 4_000_000  # of x: with a handful of temporaries as large it still fits the last cache of most machines


class _Weights(NamedTuple):
    """The parameters in the dtype of the computation, and what follows from them alone."""

    conv1x1: Tensor  # [C, C]
    bias1x1: Tensor  # [C, 1]
    gamma: Tensor  # [C]
    beta: Tensor  # [C]
    conv3x3: Tensor  # [C, C * 9]
    bias3x3: Tensor  # [C]
    weights1: Tensor  # [C]
    kernel: Tensor  # [C * 9]
    eps: float


class _Small(NamedTuple):
    """What describes a chunk besides x itself: H + W + 12 numbers per channel."""

    strips: Tensor  # row means, then column means, [n, C, H + W]
    windows: Tensor  # the mean of what each of the nine taps sees, [n, C * 9]
    weights2: Tensor  # [n, C]
    mean: Tensor  # of t, [B', G'*C, 1, 1]
    rstd: Tensor  # [n, C]


def ema(x: Tensor, weights: tuple[Tensor, ...], groups: int, eps: float) -> Tensor:
    """EMA's output. For the backward it keeps x and at most half as many bytes again.

    16-bit inputs are computed in fp32, whatever autocast says, and the results rounded.

    Args:
        x: (B, C, H, W). Output and gradient keep its memory format; what is neither contiguous nor channels_last is
            copied first.
        weights: conv1x1.weight, conv1x1.bias, gn.weight, gn.bias, conv3x3.weight, conv3x3.bias, of any dtype.
        groups: slabs that share the weights; a divisor of C.
        eps: of the norm.

    Raises:
        UserError: by the backward, if it is to be differentiated itself (`create_graph=True`).
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *weights)):
        return _ClosedForm.apply(x, groups, eps, *weights)
    return _forward(x, groups, eps, weights, keep=False)[0]


class _ClosedForm(torch.autograd.Function):
    # `ctx` takes attributes of any name.
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, eps: float, *weights: Tensor) -> Tensor:
        y, kept = _forward(x, groups, eps, weights, keep=True)
        ctx.save_for_backward(x, *weights, *kept)
        ctx.groups, ctx.eps = groups, eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            message = "ema: the closed-form backward cannot be differentiated again, which create_graph=True asks for"
            raise UserError(message, 'form="reference" can')
        x, *others = ctx.saved_tensors
        weights, kept = others[:6], others[6:]
        wants_x, wants_weights = ctx.needs_input_grad[0], ctx.needs_input_grad[3:]
        x = x.contiguous(memory_format=memory_format(x))
        dy = dy.contiguous(memory_format=memory_format(x))
        dx = torch.empty_like(x) if wants_x else None
        with torch.autocast(x.device.type, enabled=False):
            w = _prepare(weights, x.dtype, ctx.eps)
            totals = [torch.zeros_like(weight, dtype=w.gamma.dtype) for weight in weights]
            chunks = [_chunks(whole, ctx.groups) for whole in (x, dy, x if dx is None else dx)]
            for i, (chunk, d_out, d_in) in enumerate(zip(*chunks, strict=True)):
                chunk, d_out = chunk.to(w.gamma.dtype), d_out.to(w.gamma.dtype)
                recalled = _recall(chunk, kept[6 * i : 6 * i + 6], w)
                shares = _backward(chunk, d_out, recalled, w, d_in if wants_x else None, any(wants_weights))
                for total, share in zip(totals, shares, strict=any(wants_weights)):
                    total += share.view_as(total)
        gradients = zip(totals, weights, wants_weights, strict=True)
        return dx, None, None, *(total.to(weight.dtype) if wants else None for total, weight, wants in gradients)


def _forward(
    x: Tensor, groups: int, eps: float, weights: tuple[Tensor, ...], keep: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """The output, and of every chunk `_Small` and the gate, with None for what would be too much to keep."""
    x = x.contiguous(memory_format=memory_format(x))
    y, spare = torch.empty_like(x), 0
    kept: list[Tensor | None] = []
    with torch.autocast(x.device.type, enabled=False):
        w = _prepare(weights, x.dtype, eps)
        for raw, out in zip(_chunks(x, groups), _chunks(y, groups), strict=True):
            chunk = raw.to(w.gamma.dtype)
            small, _, centred = _describe(chunk, w)
            gate = _gate(chunk, centred, small, w)
            torch.mul(_slabs(chunk, w), gate, out=_slabs(out, w))
            # Half the bytes of x, over the chunks so far: with 2 channels in a group the gate alone has as many, and on
            # a tiny map `_Small` has more.
            spare += raw.nbytes // 2
            for tensors in (small, (gate,)) if keep else ():
                size = sum(tensor.nbytes for tensor in tensors)
                kept += tensors if size <= spare else [None] * len(tensors)
                spare -= size if size <= spare else 0
    return y, kept


def _recall(x: Tensor, kept: list[Tensor | None], w: _Weights) -> tuple[_Small, Tensor, Tensor, Tensor, Tensor]:
    """`_Small`, a, b, centred and gate, as kept or computed again."""
    *described, gate = kept
    if there := [tensor for tensor in described if tensor is not None]:
        small = _Small(*there)
        a, b = _strip_gates(x, small.strips, w)
        centred = torch.mul(x, a).mul_(b).sub_(small.mean)
    else:
        small, (a, b), centred = _describe(x, w)
    return small, a, b, centred, _gate(x, centred, small, w) if gate is None else gate


def _backward(
    x: Tensor,
    dy: Tensor,
    recalled: tuple[_Small, Tensor, Tensor, Tensor, Tensor],
    w: _Weights,
    dx: Tensor | None,
    wants_weights: bool,
) -> tuple[Tensor, ...]:
    """Write a chunk's gradient to `dx`, unless None, and return the chunk's share in those of the parameters."""
    small, a, b, centred, gate = recalled
    # At the logits there is one map per group, dz. A depthwise convolution takes it once per channel: `spread`.
    spread = dy * x
    dz = _slabs(spread, w).sum(2, keepdim=True) * (gate * (1 - gate))
    _slabs(spread, w).copy_(dz)
    total = dz.sum((2, 3, 4)).view(-1, 1)  # D, [n, 1]
    dx_local, dkernel = _convolution_backward(x, spread, w, dx is not None, wants_weights)

    # Through the norm to t: less what a shift or a scaling of the whole channel would do, which the norm undoes.
    product = (centred * spread).sum((2, 3)).view_as(small.rstd)  # P, [n, C]
    pixels = x.shape[2] * x.shape[3]
    scale = small.weights2 * w.gamma * small.rstd
    slope = small.rstd.square() * product / pixels  # q
    dt = torch.addcmul(_planes(-scale * total / pixels, x), centred, _planes(-scale * slope, x), out=centred)
    dt.addcmul_(spread, _planes(scale, x))

    # Through the gates to the row and column means, through the pooled softmax to the windows.
    gates = torch.cat([a, b.transpose(2, 3)], 2).view_as(small.strips)
    dlogits1 = torch.cat(_strip_sums(dt * x, a, b), 2).view_as(small.strips) * (gates * (1 - gates))
    dlogits2 = _softmax_backward(w.gamma * small.rstd * product + w.beta * total, small.weights2)

    if dx is not None and dx_local is not None:
        dx_local.addcmul_(dt.mul_(a), b)
        _add_means_backward(dx_local, w.conv1x1.T @ dlogits1, dlogits2 @ w.conv3x3)
        torch.addcmul(_slabs(dx_local, w), _slabs(dy, w), gate, out=_slabs(dx, w))
    if dkernel is None:
        return ()
    dweights1 = w.conv3x3 @ dkernel + w.bias3x3 * total.sum()
    return (
        (dlogits1 @ small.strips.transpose(1, 2)).sum(0),
        dlogits1.sum((0, 2)),
        (small.weights2 * small.rstd * product).sum(0),
        (small.weights2 * total).sum(0) + _softmax_backward(dweights1, w.weights1),
        dlogits2.T @ small.windows + torch.outer(w.weights1, dkernel),
        dlogits2.sum(0) + w.weights1 * total.sum(),
    )


def _prepare(weights: tuple[Tensor, ...], dtype: torch.dtype, eps: float) -> _Weights:
    dtype = torch.promote_types(dtype, torch.float32)
    conv1x1, bias1x1, gamma, beta, conv3x3, bias3x3 = (weight.to(dtype) for weight in weights)
    conv1x1, conv3x3, weights1 = conv1x1.flatten(1), conv3x3.flatten(1), beta.softmax(0)
    return _Weights(conv1x1, bias1x1[:, None], gamma, beta, conv3x3, bias3x3, weights1, weights1 @ conv3x3, eps)


def _chunks(x: Tensor, groups: int) -> list[Tensor]:
    """Views of `x`, which is contiguous or channels_last, each of whole slabs and about `CHUNK_BYTES`."""
    if not x.numel():
        return []
    batch, channels, height, width = x.shape
    dim, slabs, unit = 0, batch, 1
    if x.is_contiguous():
        x, dim, slabs, unit = x.view(1, -1, height, width), 1, batch * groups, channels // groups
    return list(x.split(max(1, CHUNK_BYTES * slabs // x.nbytes) * unit, dim))


def _slabs(x: Tensor, w: _Weights) -> Tensor:
    """[B', G'*C, H, W] as [B', G', C, H, W]."""
    return x.unflatten(1, (-1, len(w.gamma)))


def _planes(values: Tensor, x: Tensor) -> Tensor:
    """One number per slab and channel, for multiplying x."""
    return values.view(*x.shape[:2], 1, 1)


def _describe(x: Tensor, w: _Weights) -> tuple[_Small, tuple[Tensor, Tensor], Tensor]:
    """`_Small`, a and b, and `centred`, [B', G'*C, H, W]."""
    width = len(w.gamma)
    per_row = _window_means(x, 3)  # [B', G'*C, H, 3]
    windows = _window_means(per_row, 2).view(-1, width * 9)
    strips = torch.cat([per_row[..., 1], _mean(x, 2)], 2).view(-1, width, x.shape[2] + x.shape[3])
    weights2 = F.linear(windows, w.conv3x3, w.bias3x3).softmax(1)
    a, b = _strip_gates(x, strips, w)
    t = torch.mul(x, a).mul_(b)
    mean = t.mean((2, 3), keepdim=True)
    centred = t.sub_(mean)
    variance = _squares(centred).view_as(weights2) / (x.shape[2] * x.shape[3])
    return _Small(strips, windows, weights2, mean, (variance + w.eps).rsqrt()), (a, b), centred


def _strip_gates(x: Tensor, strips: Tensor, w: _Weights) -> tuple[Tensor, Tensor]:
    """a, [B', G'*C, H, 1], and b, [B', G'*C, 1, W]."""
    height, width = x.shape[2:]
    gates = (w.conv1x1 @ strips + w.bias1x1).sigmoid_().view(*x.shape[:2], height + width, 1)
    return gates[:, :, :height], gates[:, :, height:].transpose(2, 3)


def _gate(x: Tensor, centred: Tensor, small: _Small, w: _Weights) -> Tensor:
    """The map of each group, [B', G', 1, H, W]."""
    kernel = w.kernel.view(-1, 1, 3, 3).repeat(x.shape[1] // len(w.gamma), 1, 1, 1)
    # A depthwise convolution and a sum, as a convolution with a single output channel gains little on a CPU.
    terms = F.conv2d(x, kernel, padding=1, groups=x.shape[1])
    terms.addcmul_(centred, _planes(small.weights2 * w.gamma * small.rstd, x))
    logits = _slabs(terms, w).sum(2, keepdim=True)
    shift = small.weights2 @ w.beta + w.weights1 @ w.bias3x3
    return logits.add_(shift.view(*logits.shape[:2], 1, 1, 1)).sigmoid_()


def _convolution_backward(
    x: Tensor, spread: Tensor, w: _Weights, wants_x: bool, wants_kernel: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the depthwise convolution in `_gate`, with respect to x and to `w.kernel`."""
    groups = x.shape[1] // len(w.gamma)
    kernel = w.kernel.view(-1, 1, 3, 3).repeat(groups, 1, 1, 1)
    mask = [wants_x, wants_kernel, False]
    dx, dkernel, _ = torch.ops.aten.convolution_backward(
        spread, x, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], x.shape[1], mask
    )
    return dx, dkernel.view(groups, -1).sum(0) if wants_kernel else None


def _softmax_backward(gradient: Tensor, softmax: Tensor) -> Tensor:
    return softmax * (gradient - (softmax * gradient).sum(-1, keepdim=True))


def _mean(x: Tensor, dim: int) -> Tensor:
    """Over rows or columns, [B', G'*C, H or W], in the order of memory: in any other torch is ten times slower."""
    return x.mean(dim) if x.is_contiguous() else x.permute(0, 2, 3, 1).mean(dim - 1).transpose(1, 2)


def _squares(x: Tensor) -> Tensor:
    """Sum of squares over each plane, [B', G'*C]."""
    if not x.is_contiguous():
        return x.square().sum((2, 3))
    # Without a temporary; row by row, because over a whole plane torch's norm adds up with too few digits.
    return torch.linalg.vector_norm(x, dim=3).square().sum(2)


def _strip_sums(u: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of u * b over each row and of u * a over each column, [B', G'*C, H or W]."""
    if u.is_contiguous():
        return (u * b).sum(3), (a.transpose(2, 3) @ u).squeeze(2)
    return _mean(u * b, 3) * u.shape[3], _mean(u * a, 2) * u.shape[2]


def _window_means(x: Tensor, dim: int) -> Tensor:
    """Sums over `dim` without its last entry, of all, and without its first, each divided by the whole length.

    They are what the taps -1, 0 and +1 of a zero-padded convolution see on average, in a new dimension there.
    """
    size = x.shape[dim]
    mean = _mean(x, dim)
    return torch.stack([mean - x.select(dim, -1) / size, mean, mean - x.select(dim, 0) / size], dim)


def _add_means_backward(dx: Tensor, dstrips: Tensor, dwindows: Tensor) -> None:
    """Add to `dx` what reaches x through `strips` and `windows`: the row and column vectors and the border terms."""
    batch, channels, height, width = dx.shape
    dstrips = dstrips.view(batch, channels, height + width)
    per_row = torch.zeros(batch, channels, height, 3, dtype=dx.dtype, device=dx.device)
    per_row[..., 1] = dstrips[:, :, :height]
    _add_window_means_backward(per_row, dwindows.view(batch, channels, 3, 3), 2)
    _add_window_means_backward(dx, per_row, 3)
    dx += (dstrips[:, :, height:] / height).unsqueeze(2)


def _add_window_means_backward(into: Tensor, gradient: Tensor, dim: int) -> None:
    """Add to `into`, the input of `_window_means`, what comes from its output."""
    gradient = gradient / into.shape[dim]
    into += gradient.sum(dim, keepdim=True)
    into.select(dim, -1).sub_(gradient.select(dim, 0))
    into.select(dim, 0).sub_(gradient.select(dim, 2))
