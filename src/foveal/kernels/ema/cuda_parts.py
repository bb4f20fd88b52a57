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
def summed(products, AXIS: tl.constexpr):
    """The sum of products over an axis, the same in every bit in all threads that get it.

    Without the 0 a product would be fused with the first addition in the thread that has it, and not in the others,
    which get it rounded. Of the sums of several threads, which store them to one place, any may then be the one.
    """
    if products.shape[AXIS] > 1:
        products += 0.0
    return tl.sum(products, AXIS)


@triton.jit
def over(x):
    """Sums over the rows of planes, [W / V, C, V] to [C]."""
    return tl.sum(tl.sum(x, 2), 0)


@triton.jit
def apart(x, LAST: tl.constexpr):
    """Every second number of vectors [Q, G, V], beginning with the second if LAST, and the others: [Q, G, V / 2]."""
    even, odd = tl.split(tl.reshape(x, [x.shape[0], x.shape[1], x.shape[2] // 2, 2]))
    if LAST:
        return odd, even
    else:
        return even, odd


@triton.jit
def together(some, others, LAST: tl.constexpr):
    """What is `apart`, in turns again: `some` come first if LAST."""
    both = tl.join(some, others) if LAST else tl.join(others, some)
    return tl.reshape(both, [some.shape[0], some.shape[1], some.shape[2] * 2])


@triton.jit
def edge(x, LAST: tl.constexpr):
    """The first or the last number of each vector of up to 8: of [Q, G, V] it is [Q, G]."""
    if x.shape[2] == 8:
        x, _ = apart(x, LAST)
    if x.shape[2] == 4:
        x, _ = apart(x, LAST)
    if x.shape[2] == 2:
        x, _ = apart(x, LAST)
    return tl.reshape(x, [x.shape[0], x.shape[1]])


@triton.jit
def shifted(x, fill, LEFT: tl.constexpr):
    """Of [Q, G, V], V up to 8, what stands to the left, or right, of each number; beyond the vector `fill` [Q, G].

    A vector lies in one thread, so that splits and joins only rename registers. Not recursive: before 3.5 Triton takes
    no function that calls itself.
    """
    V: tl.constexpr = x.shape[2]
    found = fill[:, :, None]
    if V == 8:
        x, of_four = apart(x, LEFT)
    if V >= 4:
        x, of_two = apart(x, LEFT)
    if V >= 2:
        _, of_one = apart(x, LEFT)
        found = together(found, of_one, LEFT)
    if V >= 4:
        found = together(found, of_two, LEFT)
    if V == 8:
        found = together(found, of_four, LEFT)
    return found


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
