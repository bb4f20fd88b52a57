"""EMA on CUDA, in Triton: what the kernels of both passes are made of.

What lies along the rows is cut into vectors of V numbers, 16 bytes of x, that a thread loads at once; their places in a
plane are counted by q. In channels_last channels are what follows each other, and V is 1.
"""

import triton
import triton.language as tl


@triton.jit
def softmax(logits):
    """Softmax over the rows of a tile."""
    powers = tl.exp(logits - tl.max(logits, 0))
    return powers / tl.sum(powers, 0)


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(-z)), to some 4e-7 of itself: 5 instructions, where the exact division makes them 14."""
    root = tl.rsqrt(1.0 + tl.exp2(z * -1.4426950408889634))
    return root * root


@triton.jit
def blend(sigma, gain):
    """What x is multiplied by: with a gain of 0 it is 1 exactly, with a gain of 1 the map."""
    return sigma * gain + (1.0 - gain)


@triton.jit
def rows_of(q, across):
    """The rows of vectors q, `across` to a row, where neither rows nor `across` exceed 1024.

    An integer division takes three times as many instructions. Of these roundings all together are less than 1 / 2048,
    which is the least distance to an integer.
    """
    return ((q.to(tl.float32) + 0.5) * (1.0 / across)).to(tl.int32)


@triton.jit
def between(SC, size, V: tl.constexpr):
    """Steps from channel to channel, of planes of `size`, where the compiler sees that it is a multiple of V."""
    return SC if V == 1 else size


@triton.jit
def over(x):
    """Sums over the rows of planes, [W / V, C, V] to [C]."""
    return tl.sum(tl.sum(x, 2), 0)


@triton.jit
def edge(x, LAST: tl.constexpr):
    """The first or the last number of each vector: of [Q, G, V] it is [Q, G]."""
    Q: tl.constexpr = x.shape[0]
    G: tl.constexpr = x.shape[1]
    V: tl.constexpr = x.shape[2]
    if V == 1:
        return tl.reshape(x, [Q, G])
    else:
        even, odd = tl.split(tl.reshape(x, [Q, G, V // 2, 2]))
        if LAST:
            return edge(odd, LAST)
        else:
            return edge(even, LAST)


@triton.jit
def shifted(x, fill, LEFT: tl.constexpr):
    """Of [Q, G, V] what stands to the left, or to the right, of each number; `fill` [Q, G] stands beyond the vector.

    A vector lies in one thread, so that splits and joins only rename registers.
    """
    Q: tl.constexpr = x.shape[0]
    G: tl.constexpr = x.shape[1]
    V: tl.constexpr = x.shape[2]
    if V == 1:
        return fill[:, :, None]
    else:
        even, odd = tl.split(tl.reshape(x, [Q, G, V // 2, 2]))
        if LEFT:
            both = tl.join(shifted(odd, fill, LEFT), even)
        else:
            both = tl.join(odd, shifted(even, fill, LEFT))
        return tl.reshape(both, [Q, G, V])


@triton.jit
def place(tile, H, W, BQ: tl.constexpr, HALO: tl.constexpr, V: tl.constexpr):
    """The vectors of a tile, and which of them are its own: with a halo neither the first nor the last."""
    n = tl.arange(0, BQ)
    q = tile * (BQ - 2 * HALO) - HALO + n
    return q, (n >= HALO) & (n < BQ - HALO) & (q < H * (W // V))


@triton.jit
def row_of(SLOPE, at, there, first, last, V: tl.constexpr):
    """Vectors of the slope [Q, G, V] at `at` [Q, G], zero unless `there`, and what stands left and right of each."""
    middle = tl.load(SLOPE + (at[:, :, None] + tl.arange(0, V)[None, None, :]), there[:, :, None], 0.0)
    left = shifted(middle, tl.load(SLOPE + (at - 1), there & ~first, 0.0), True)
    right = shifted(middle, tl.load(SLOPE + (at + V), there & ~last, 0.0), False)
    return left[:, :, None, :], middle[:, :, None, :], right[:, :, None, :]
