"""EMA on CUDA, in Triton: the forward pass. docs/kernels.md derives the algebra.

Shapes: B samples, G groups (slabs of c channels, `CG`), H rows, W columns. What keeps the code short:

- In both memory formats the elements of a plane are `SP` apart in reading order (1, or all channels in channels_last)
  and planes are `SC` apart, so every kernel is written once; only the shapes of its tiles differ.
- A program works inside one sample and first moves its pointers there, so that offsets fit 32 bits.
- Tiles are of vectors (see `cuda_parts`): [columns, rows, channels, V] where rows and columns are summed apart,
  [vectors, channels, V] where planes are, and [vectors, groups, channels, V] where the channels of a group meet.
  Vectors run on through the rows, so that no lane idles because W is not a power of two.

All arithmetic is fp32, and what goes between launches lies plane after plane, whatever the format of x.
"""

import triton
import triton.language as tl

from .cuda_parts import between, blend, edge, over, place, rows_of, shifted, sigmoid, softmax, summed

# Three parts, each a launch of its own or all in one. H and W are not specialised: V says what a compiler needs.


@triton.jit
def sum_planes(
    X, ROWS, COLUMNS, WINDOWS, ch, ok, H, W, SC, SP,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Row sums, column sums, and the means that the nine taps of a zero-padded 3x3 see."""
    c = tl.arange(0, BW)
    v = tl.arange(0, V)
    wide = W // V
    step = wide * V
    there = (c < wide)[:, None] & ok[None, :]
    columns = tl.zeros([BW, BH, BC, V], tl.float32)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        inside = ((h < H)[None, :, None] & there[:, None, :])[:, :, :, None]
        at = (ch * SC)[None, None, :] + ((h[None, :] * wide + c[:, None]) * (V * SP))[:, :, None]
        x = tl.load(X + (at[:, :, :, None] + (v * SP)[None, None, None, :]), inside, 0.0).to(tl.float32)
        rows = tl.sum(tl.sum(x, 3), 0)
        tl.store(ROWS + (ch * H)[None, :] + h[:, None], rows, (h < H)[:, None] & ok[None, :])
        columns += x
    columns = tl.sum(columns, 1)
    at = ((ch * step)[None, :] + (c * V)[:, None])[:, :, None] + v[None, None, :]
    tl.store(COLUMNS + at, columns, there[:, :, None])
    # Upper taps miss the last row and lower ones the first; taps on the left the last column, on the right the first.
    at = ((ch * SC)[None, :] + (c * (V * SP))[:, None])[:, :, None] + (v * SP)[None, None, :]
    top = tl.load(X + at, there[:, :, None], 0.0).to(tl.float32)
    bottom = tl.load(X + (at + (H - 1) * step * SP), there[:, :, None], 0.0).to(tl.float32)
    w = (c * V)[:, None, None] + v[None, None, :]
    start, end = w == 0, w == W - 1
    all_of, all_top, all_bottom = over(columns), over(top), over(bottom)
    first, last = over(tl.where(start, columns, 0.0)), over(tl.where(end, columns, 0.0))
    for i in tl.static_range(3):
        seen, right, left = all_of, last, first
        if i == 0:
            seen -= all_bottom
            right -= tl.load(X + (ch * SC + ((H - 1) * step + step - 1) * SP), ok, 0.0).to(tl.float32)
            left -= tl.load(X + (ch * SC + ((H - 1) * step + 0) * SP), ok, 0.0).to(tl.float32)
        if i == 2:
            seen -= all_top
            right -= tl.load(X + (ch * SC + (step - 1) * SP), ok, 0.0).to(tl.float32)
            left -= tl.load(X + (ch * SC + (0) * SP), ok, 0.0).to(tl.float32)
        tl.store(WINDOWS + ch * 9 + 3 * i, (seen - right) / (H * W), ok)
        tl.store(WINDOWS + ch * 9 + 3 * i + 1, seen / (H * W), ok)
        tl.store(WINDOWS + ch * 9 + 3 * i + 2, (seen - left) / (H * W), ok)


@triton.jit
def mix(W3, B3, BETA, MIXED, i, CG: tl.constexpr, CP: tl.constexpr):
    """The 3x3 kernel of input channel i, its output channels mixed by softmax(gn.bias); behind the last, the bias."""
    o = tl.arange(0, CP)
    tap = tl.arange(0, 16)
    share = softmax(tl.load(BETA + o, o < CG, -float("inf")).to(tl.float32))
    mask = (o < CG)[:, None] & (tap < 9)[None, :]
    taps = tl.load(W3 + ((o * CG + i) * 9)[:, None] + tap[None, :], mask, 0.0).to(tl.float32)
    tl.store(MIXED + i * 9 + tap, summed(share[:, None] * taps, 0), tap < 9)
    if i == 0:
        tl.store(MIXED + 9 * CG, summed(share * tl.load(B3 + o, o < CG, 0.0).to(tl.float32), 0))


@triton.jit
def strip_gates(
    GATES, SUMS, W1, B1, ch, ok, size, other, CG: tl.constexpr, BC: tl.constexpr, BL: tl.constexpr, V: tl.constexpr
):
    """sigmoid(conv1x1) of strips `size` long, a multiple of V, whose sums run over `other` elements."""
    size = size // V * V
    o = ch % CG
    bias = tl.load(B1 + o, ok, 0.0).to(tl.float32)
    scale = 1.0 / other
    for l0 in range(0, size, BL):
        at = l0 + tl.arange(0, BL)
        known = (at < size)[:, None] & ok[None, :]
        z = tl.zeros([BL, BC], tl.float32)
        for i in range(CG):
            w1 = tl.load(W1 + (o * CG + i), ok, 0.0).to(tl.float32)
            z += w1[None, :] * tl.load(SUMS + (((ch - o + i) * size)[None, :] + at[:, None]), known, 0.0)
        gates = sigmoid(z * scale + bias[None, :])
        tl.store(GATES + ((ch * size)[None, :] + at[:, None]), gates, known)


@triton.jit
def gate_planes(
    X, ROWS, COLUMNS, WINDOWS, A, B, STATS, W1, B1, W3, B3, ch, ok, H, W, SC, SP, eps,
    CG: tl.constexpr, BC: tl.constexpr, BQ: tl.constexpr, V: tl.constexpr,
    BL: tl.constexpr, BJ: tl.constexpr, VH: tl.constexpr, VW: tl.constexpr,
):  # fmt: skip
    """The gates a and b, and of each plane the mean of t = x*a*b, 1 / its deviation, and the logit of weight 2."""
    strip_gates(A, ROWS, W1, B1, ch, ok, H, W, CG, BC, BL, VH)
    strip_gates(B, COLUMNS, W1, B1, ch, ok, W, H, CG, BC, BL, VW)
    tl.debug_barrier()  # the gates of these planes are read again, by other threads of this program
    v = tl.arange(0, V)
    wide = W // V
    step = wide * V
    # Deviations from a guess, the mean of the first tile. As that is a part of the plane, its square distance from the
    # mean is at most 1 / that part of the variance; E[t^2] - mean^2 would lose every digit at |mean| >> deviation.
    guess = tl.zeros([BC], tl.float32)
    total = tl.zeros([BQ, BC, V], tl.float32)
    squares = tl.zeros([BQ, BC, V], tl.float32)
    for q0 in range(-BQ, H * wide, BQ):
        q = tl.maximum(q0, 0) + tl.arange(0, BQ)
        h = rows_of(q, wide)
        column = (q - h * wide) * V
        there = (q < H * wide)[:, None] & ok[None, :]
        at = ((ch * SC)[None, :] + (q * (V * SP))[:, None])[:, :, None] + (v * SP)[None, None, :]
        x = tl.load(X + at, there[:, :, None], 0.0).to(tl.float32)
        a = tl.load(A + (ch * H)[None, :] + h[:, None], there, 0.0)[:, :, None]
        at = ((ch * step)[None, :] + column[:, None])[:, :, None] + v[None, None, :]
        b = tl.load(B + at, there[:, :, None], 0.0)
        off = x * a * b - tl.where(there, guess[None, :], 0.0)[:, :, None]
        if q0 < 0:
            guess = summed(summed(off, 2), 0) / (tl.minimum(BQ, H * wide) * V)  # less 0 it is a product
        else:
            total += off
            squares += off * off
    total = tl.sum(tl.sum(total, 2), 0) / (H * W)
    spread = tl.sum(tl.sum(squares, 2), 0) / (H * W) - total * total
    o = ch % CG
    logit = tl.zeros([BC], tl.float32) + tl.load(B3 + o, ok, 0.0).to(tl.float32)
    for j0 in range(0, 9 * CG, BJ):
        j = j0 + tl.arange(0, BJ)
        known = (j < 9 * CG)[:, None] & ok[None, :]
        taps = tl.load(W3 + (o * 9 * CG)[None, :] + j[:, None], known, 0.0).to(tl.float32)
        logit += summed(taps * tl.load(WINDOWS + ((ch - o) * 9)[None, :] + j[:, None], known, 0.0), 0)
    tl.store(STATS + ch * 3, guess + total, ok)
    tl.store(STATS + ch * 3 + 1, tl.rsqrt(tl.where(spread < 0.0, 0.0, spread) + eps), ok)
    tl.store(STATS + ch * 3 + 2, logit, ok)


@triton.jit
def pooled(STATS, MIXED, BETA, g, ok, CG: tl.constexpr, CP: tl.constexpr):
    """Of groups: the peak of the logits of weight 2, the sum of their powers, and what shifts the whole map; [G]."""
    o = tl.arange(0, CP)
    mask = ok[:, None] & (o < CG)[None, :]
    logits = tl.load(STATS + (g * CG * 3)[:, None] + (o * 3 + 2)[None, :], mask, -float("inf"))
    peak = tl.where(ok, tl.max(logits, 1), 0.0)
    mass = tl.sum(tl.exp(logits - peak[:, None]), 1)
    beta = tl.load(BETA + o, o < CG, 0.0).to(tl.float32)
    shift = summed(tl.exp(logits - peak[:, None]) * beta[None, :], 1) / mass + tl.load(MIXED + 9 * CG)
    return peak, mass, shift


@triton.jit
def gate_map(
    X, A, B, STATS, MIXED, GAMMA, BETA, g, ok, q, H, W, SC, SP,
    CG: tl.constexpr, CP: tl.constexpr, BQ: tl.constexpr, BG: tl.constexpr, BI: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """sigmoid(z) at consecutive vectors q, [BQ, BG, V]; the first and the last lack a neighbour and may be wrong."""
    across = W // V
    step = across * V  # this is W, and the compiler sees that it is a multiple of V
    inside = (q >= 0) & (q < H * across)
    h = rows_of(q, across)
    v = tl.arange(0, V)
    column = (q - h * across) * V
    peak, mass, shift = pooled(STATS, MIXED, BETA, g, ok, CG, CP)
    left = tl.zeros([BQ, BG, BI, V], tl.float32)
    middle = tl.zeros([BQ, BG, BI, V], tl.float32)
    right = tl.zeros([BQ, BG, BI, V], tl.float32)
    for i0 in range(0, CG, BI):
        i = i0 + tl.arange(0, BI)
        ch = (g * CG)[:, None] + i[None, :]
        known = ok[:, None] & (i < CG)[None, :]
        at = (ch * SC)[None, :, :, None] + (q * (V * SP))[:, None, None, None] + (v * SP)[None, None, None, :]
        here = (inside[:, None, None] & known[None, :, :])[:, :, :, None]
        above = tl.load(X + (at - step * SP), here & (h > 0)[:, None, None, None], 0.0).to(tl.float32)
        x = tl.load(X + at, here, 0.0).to(tl.float32)
        below = tl.load(X + (at + step * SP), here & (h < H - 1)[:, None, None, None], 0.0).to(tl.float32)
        # Three sums over the group's channels, shifted once afterwards, instead of nine loads for each channel.
        tap = MIXED + i * 9
        for j in tl.static_range(3):
            up = tl.load(tap + j, i < CG, 0.0)[None, None, :, None]
            level = tl.load(tap + 3 + j, i < CG, 0.0)[None, None, :, None]
            down = tl.load(tap + 6 + j, i < CG, 0.0)[None, None, :, None]
            if j == 0:
                left += up * above
                left += level * x
                left += down * below
            if j == 1:
                middle += up * above
                middle += level * x
                middle += down * below
            if j == 2:
                right += up * above
                right += level * x
                right += down * below
        mean = tl.load(STATS + ch * 3, known, 0.0)
        rstd = tl.load(STATS + ch * 3 + 1, known, 0.0)
        weight2 = tl.exp(tl.load(STATS + ch * 3 + 2, known, 0.0) - peak[:, None]) / mass[:, None]
        scale = weight2 * rstd * tl.load(GAMMA + i, i < CG, 0.0).to(tl.float32)[None, :]
        a = tl.load(A + (ch * H)[None, :, :] + h[:, None, None], inside[:, None, None] & known[None, :, :], 0.0)
        at = (ch * step)[None, :, :, None] + column[:, None, None, None] + v[None, None, None, :]
        b = tl.load(B + at, here, 0.0)
        middle += scale[None, :, :, None] * (x * a[:, :, :, None] * b - mean[None, :, :, None])
    left, middle, right = tl.sum(left, 2), tl.sum(middle, 2) + shift[None, :, None], tl.sum(right, 2)
    n = tl.arange(0, BQ)[:, None] + tl.zeros([BQ, BG], tl.int32)
    before = tl.gather(edge(left, True), tl.maximum(n - 1, 0), 0)
    after = tl.gather(edge(right, False), tl.minimum(n + 1, BQ - 1), 0)
    middle += shifted(left, tl.where((column > 0)[:, None], before, 0.0), True)
    middle += shifted(right, tl.where((column < step - V)[:, None], after, 0.0), False)
    return sigmoid(middle)


@triton.jit
def apply_map(
    X, Y, SIGMA, A, B, STATS, MIXED, GAMMA, BETA, GAIN, g, ok, tile, H, W, SC, SP,
    KEEP: tl.constexpr, GAINED: tl.constexpr, CG: tl.constexpr, CP: tl.constexpr,
    BQ: tl.constexpr, HALO: tl.constexpr, BG: tl.constexpr, BI: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """The output on a tile of positions, x + GAIN * (x * sigmoid(z) - x), and the map itself if it is kept."""
    q, own = place(tile, H, W, BQ, HALO, V)
    v = tl.arange(0, V)
    sigma = gate_map(X, A, B, STATS, MIXED, GAMMA, BETA, g, ok, q, H, W, SC, SP, CG, CP, BQ, BG, BI, V)
    if KEEP:
        at_map = (g * (H * (W // V)))[None, :] + q[:, None]
        tl.store(SIGMA + (at_map * V)[:, :, None] + v[None, None, :], sigma, (own[:, None] & ok[None, :])[:, :, None])
    for i0 in range(0, CG, BI):
        i = i0 + tl.arange(0, BI)
        ch = (g * CG)[:, None] + i[None, :]
        known = ok[:, None] & (i < CG)[None, :]
        at = (ch * SC)[None, :, :, None] + (q * (V * SP))[:, None, None, None] + (v * SP)[None, None, None, :]
        mask = (own[:, None, None] & known[None, :, :])[:, :, :, None]
        factor = sigma[:, :, None, :]
        if GAINED:
            factor = blend(factor, tl.load(GAIN + ch, known, 0.0).to(tl.float32)[None, :, :, None])
        x = tl.load(X + at, mask, 0.0).to(tl.float32)
        tl.store(Y + at, (x * factor).to(Y.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["H", "W"])
def sums_kernel(
    X, ROWS, COLUMNS, WINDOWS, W3, B3, BETA, MIXED, C, H, W, SC, SP, BLOCKS,
    CG: tl.constexpr, CP: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """The first programs mix the 3x3 kernels, one for each input channel; the others sum planes."""
    n = tl.program_id(0) - CG
    if n < 0:
        mix(W3, B3, BETA, MIXED, n + CG, CG, CP)
    else:
        plane = (n // BLOCKS).to(tl.int64) * C
        ch = n % BLOCKS * BC + tl.arange(0, BC)
        size = H * (W // V) * V
        channel = between(SC, size, V)
        X, ROWS, COLUMNS, WINDOWS = X + plane * size, ROWS + plane * H, COLUMNS + plane * W, WINDOWS + plane * 9
        sum_planes(X, ROWS, COLUMNS, WINDOWS, ch, ch < C, H, W, channel, SP, BC, BH, BW, V)


@triton.jit(do_not_specialize=["H", "W"])
def gates_kernel(
    X, ROWS, COLUMNS, WINDOWS, A, B, STATS, W1, B1, W3, B3, C, H, W, SC, SP, BLOCKS, eps,
    CG: tl.constexpr, BC: tl.constexpr, BQ: tl.constexpr, V: tl.constexpr,
    BL: tl.constexpr, BJ: tl.constexpr, VH: tl.constexpr, VW: tl.constexpr,
):  # fmt: skip
    """The second of three launches: of the sums of each plane its gates A and B, and the statistics of the norm."""
    n = tl.program_id(0)
    plane = (n // BLOCKS).to(tl.int64) * C
    ch = n % BLOCKS * BC + tl.arange(0, BC)
    size = H * (W // V) * V
    SC = between(SC, size, V)
    X, WINDOWS, STATS = X + plane * size, WINDOWS + plane * 9, STATS + plane * 3
    ROWS, COLUMNS = ROWS + plane * (H // VH * VH), COLUMNS + plane * (W // VW * VW)
    A, B = A + plane * (H // VH * VH), B + plane * (W // VW * VW)
    gate_planes(
        X, ROWS, COLUMNS, WINDOWS, A, B, STATS, W1, B1, W3, B3, ch, ch < C, H, W, SC, SP, eps,
        CG, BC, BQ, V, BL, BJ, VH, VW,
    )  # fmt: skip


@triton.jit(do_not_specialize=["H", "W"])
def apply_kernel(
    X, Y, SIGMA, A, B, STATS, MIXED, GAMMA, BETA, GAIN, C, H, W, SC, SP, BLOCKS, TILES,
    KEEP: tl.constexpr, GAINED: tl.constexpr, CG: tl.constexpr, CP: tl.constexpr,
    BQ: tl.constexpr, HALO: tl.constexpr, BG: tl.constexpr, BI: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """The last launch: one tile of positions, of every channel of some groups, times its map."""
    n = tl.program_id(0) // TILES
    g = n % BLOCKS * BG + tl.arange(0, BG)
    sample = (n // BLOCKS).to(tl.int64)
    plane = sample * C
    size = H * (W // V) * V
    SC = between(SC, size, V)
    X, Y, SIGMA = X + plane * size, Y + plane * size, SIGMA + sample * (C // CG * size)
    A, B, STATS = A + plane * H, B + plane * (W // V * V), STATS + plane * 3
    tile = tl.program_id(0) % TILES
    apply_map(
        X, Y, SIGMA, A, B, STATS, MIXED, GAMMA, BETA, GAIN, g, g * CG < C, tile, H, W, SC, SP, KEEP, GAINED,
        CG, CP, BQ, HALO, BG, BI, V,
    )  # fmt: skip


@triton.jit(do_not_specialize=["H", "W"])
def single_kernel(
    X, Y, SIGMA, ROWS, COLUMNS, WINDOWS, A, B, STATS, MIXED, MINE, W1, B1, GAMMA, BETA, W3, B3, GAIN,
    C, H, W, SC, SP, BLOCKS, eps, KEEP: tl.constexpr, GAINED: tl.constexpr, CG: tl.constexpr, CP: tl.constexpr,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BN: tl.constexpr,
    BL: tl.constexpr, BJ: tl.constexpr, VH: tl.constexpr, VW: tl.constexpr,
    BQ: tl.constexpr, HALO: tl.constexpr, BG: tl.constexpr, BS: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """The whole forward pass of BG slabs, which the second and third time are read from the cache.

    What one part stores and the next loads goes through global memory within one program. A barrier between them is
    enough: `bar.sync` makes a thread's earlier writes visible to its whole block, and no other program touches them
    (MINE is this program's own mixed kernel; program 0 also leaves the one that backward reads).
    """
    n = tl.program_id(0)
    sample = (n // BLOCKS).to(tl.int64)
    plane = sample * C
    size = H * (W // V) * V
    SC = between(SC, size, V)
    X, Y, SIGMA = X + plane * size, Y + plane * size, SIGMA + sample * (C // CG * size)
    ROWS, COLUMNS = ROWS + plane * (H // VH * VH), COLUMNS + plane * (W // VW * VW)
    A, B = A + plane * (H // VH * VH), B + plane * (W // VW * VW)
    WINDOWS, STATS, MINE = WINDOWS + plane * 9, STATS + plane * 3, MINE + n * (9 * CG + 1)
    first = n % BLOCKS * BG * CG
    for i in range(CG):
        mix(W3, B3, BETA, MINE, i, CG, CP)
        if n == 0:
            mix(W3, B3, BETA, MIXED, i, CG, CP)
    for c0 in range(0, BG * CG, BC):
        c = c0 + tl.arange(0, BC)
        ok = (c < BG * CG) & (first + c < C)
        sum_planes(X, ROWS, COLUMNS, WINDOWS, first + c, ok, H, W, SC, SP, BC, BH, BW, V)
    tl.debug_barrier()
    for c0 in range(0, BG * CG, BC):
        c = c0 + tl.arange(0, BC)
        ok = (c < BG * CG) & (first + c < C)
        gate_planes(
            X, ROWS, COLUMNS, WINDOWS, A, B, STATS, W1, B1, W3, B3, first + c, ok, H, W, SC, SP, eps,
            CG, BC, BN, V, BL, BJ, VH, VW,
        )  # fmt: skip
    tl.debug_barrier()
    g = n % BLOCKS * BG + tl.arange(0, BG)
    for tile in range(0, tl.cdiv(H * W, (BQ - 2 * HALO) * V)):
        apply_map(
            X, Y, SIGMA, A, B, STATS, MINE, GAMMA, BETA, GAIN, g, g * CG < C, tile, H, W, SC, SP, KEEP, GAINED,
            CG, CP, BQ, HALO, BG, BS, V,
        )  # fmt: skip
