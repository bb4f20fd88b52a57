"""EMA on CUDA, in Triton: the forward pass. docs/kernels.md derives the algebra.

Shapes: B samples, G groups (slabs of c channels, `CG`), H rows, W columns. What keeps the code short:

- In both memory formats the elements of a plane are `SP` apart in reading order (1, or all channels in channels_last)
  and planes are `SC` apart, so every kernel is written once; only the shapes of its tiles differ.
- A program works inside one sample and first moves its pointers there, so that offsets fit 32 bits.
- Tiles are [rows, columns, channels] where rows and columns are summed, and [positions, groups, channels] where the
  channels of a group meet: positions run on through the rows, so no lane idles because W is not a power of two.

All arithmetic is fp32, and what goes between launches lies plane after plane, whatever the format of x.
"""

import triton
import triton.language as tl


@triton.jit
def softmax(logits):
    """Softmax over the rows of a tile."""
    powers = tl.exp(logits - tl.max(logits, 0))
    return powers / tl.sum(powers, 0)


@triton.jit
def blend(sigma, gain):
    """What x is multiplied by: with a gain of 0 it is 1 exactly, with a gain of 1 the map."""
    return sigma * gain + (1.0 - gain)


# Forward: three parts, each a launch of its own or all in one.


@triton.jit
def sum_planes(X, ROWS, COLUMNS, WINDOWS, ch, ok, H, W, SC, SP, BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):
    """Row sums, column sums, and the means that the nine taps of a zero-padded 3x3 see."""
    w = tl.arange(0, BW)
    there = (w < W)[:, None] & ok[None, :]
    row = X + (ch * SC)[None, :] + (w * SP)[:, None]
    columns = tl.zeros([BW, BC], tl.float32)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        inside = (h < H)[:, None, None] & there[None, :, :]
        x = tl.load(row[None, :, :] + (h * W * SP)[:, None, None], inside, 0.0).to(tl.float32)
        tl.store(ROWS + (ch * H)[None, :] + h[:, None], tl.sum(x, 1), (h < H)[:, None] & ok[None, :])
        columns += tl.sum(x, 0)
    tl.store(COLUMNS + (ch * W)[None, :] + w[:, None], columns, there)
    for i in tl.static_range(3):
        seen = columns  # the upper taps miss the last row, the lower ones the first
        if i == 0:
            seen -= tl.load(row + (H - 1) * W * SP, there, 0.0).to(tl.float32)
        if i == 2:
            seen -= tl.load(row, there, 0.0).to(tl.float32)
        for j in tl.static_range(3):
            keep = (w >= j - 1) & (w < W + j - 1)  # likewise the columns; lanes beyond W hold zeros
            tl.store(WINDOWS + ch * 9 + 3 * i + j, tl.sum(tl.where(keep[:, None], seen, 0.0), 0) / (H * W * 1.0), ok)


@triton.jit
def mix(W3, B3, BETA, MIXED, i, CG: tl.constexpr, CP: tl.constexpr):
    """The 3x3 kernel of input channel i, its output channels mixed by softmax(gn.bias); behind the last, the bias."""
    o = tl.arange(0, CP)
    tap = tl.arange(0, 16)
    share = softmax(tl.load(BETA + o, o < CG, -float("inf")).to(tl.float32))
    mask = (o < CG)[:, None] & (tap < 9)[None, :]
    taps = tl.load(W3 + ((o * CG + i) * 9)[:, None] + tap[None, :], mask, 0.0).to(tl.float32)
    tl.store(MIXED + i * 9 + tap, tl.sum(share[:, None] * taps, 0), tap < 9)
    if i == 0:
        tl.store(MIXED + 9 * CG, tl.sum(share * tl.load(B3 + o, o < CG, 0.0).to(tl.float32), 0))


@triton.jit
def strip_gate(
    SUMS, W1, B1, ch, ok, at, size, other, CG: tl.constexpr, BI: tl.constexpr, BC: tl.constexpr, L: tl.constexpr
):
    """sigmoid(conv1x1) at the places `at` of strips `size` long, whose sums run over `other` elements: [L, BC]."""
    o = ch % CG
    z = tl.zeros([L, BC], tl.float32) + tl.load(B1 + o, ok, 0.0).to(tl.float32)[None, :]
    for i0 in range(0, CG, BI):
        i = i0 + tl.arange(0, BI)
        known = ok[:, None] & (i < CG)[None, :]
        w1 = tl.load(W1 + (o * CG)[:, None] + i[None, :], known, 0.0).to(tl.float32)
        strip = ((ch - o)[:, None] + i[None, :]) * size
        sums = tl.load(
            SUMS + strip[None, :, :] + at[:, None, None], (at < size)[:, None, None] & known[None, :, :], 0.0
        )
        z += tl.sum(w1[None, :, :] * sums, 2) / other
    return tl.sigmoid(z)


@triton.jit
def gate_planes(
    X, ROWS, COLUMNS, WINDOWS, A, B, STATS, W1, B1, W3, B3, ch, ok, H, W, SC, SP, eps,
    CG: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BI: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """The gates a and b, and of each plane the mean of t = x*a*b, 1 / its deviation, and the logit of weight 2."""
    w = tl.arange(0, BW)
    there = (w < W)[:, None] & ok[None, :]
    b = strip_gate(COLUMNS, W1, B1, ch, ok, w, W, H, CG, BI, BC, BW)
    tl.store(B + (ch * W)[None, :] + w[:, None], b, there)
    row = X + (ch * SC)[None, :] + (w * SP)[:, None]
    mean = tl.zeros([BC], tl.float32)
    spread = tl.zeros([BC], tl.float32)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        a = strip_gate(ROWS, W1, B1, ch, ok, h, H, W, CG, BI, BC, BH)
        tl.store(A + (ch * H)[None, :] + h[:, None], a, (h < H)[:, None] & ok[None, :])
        inside = (h < H)[:, None, None] & there[None, :, :]
        t = tl.load(row[None, :, :] + (h * W * SP)[:, None, None], inside, 0.0).to(tl.float32)
        t *= a[:, None, :] * b[None, :, :]
        # Deviations from the tile's own mean, then tiles merged: E[t^2] - mean^2 loses every digit at |mean| >> std.
        before = h0 * W * 1.0
        size = tl.minimum(H - h0, BH) * W * 1.0
        part = tl.sum(tl.sum(t, 1), 0) / size
        off = tl.where(inside, t - part[None, None, :], 0.0)
        step = part - mean
        mean += step * (size / (before + size))
        spread += tl.sum(tl.sum(off * off, 1), 0) + step * step * (before * size / (before + size))
    o = ch % CG
    logit = tl.zeros([BC], tl.float32) + tl.load(B3 + o, ok, 0.0).to(tl.float32)
    for j0 in range(0, 9 * CG, BJ):
        j = j0 + tl.arange(0, BJ)
        known = ok[:, None] & (j < 9 * CG)[None, :]
        taps = tl.load(W3 + (o * 9 * CG)[:, None] + j[None, :], known, 0.0).to(tl.float32)
        logit += tl.sum(taps * tl.load(WINDOWS + ((ch - o) * 9)[:, None] + j[None, :], known, 0.0), 1)
    tl.store(STATS + ch * 3, mean, ok)
    tl.store(STATS + ch * 3 + 1, tl.rsqrt(spread / (H * W * 1.0) + eps), ok)
    tl.store(STATS + ch * 3 + 2, logit, ok)


@triton.jit
def gate_map(
    X, A, B, STATS, MIXED, GAMMA, BETA, g, ok, pos, H, W, SC, SP,
    CG: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, BG: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """sigmoid(z) at consecutive positions, [BP, BG]; the first and the last lack a neighbour and are wrong."""
    inside = (pos >= 0) & (pos < H * W)
    h = pos // W
    w = pos % W
    o = tl.arange(0, CP)
    mask = ok[:, None] & (o < CG)[None, :]
    logits = tl.load(STATS + (g * CG * 3)[:, None] + (o * 3 + 2)[None, :], mask, -float("inf"))
    peak = tl.where(ok, tl.max(logits, 1), 0.0)
    mass = tl.sum(tl.exp(logits - peak[:, None]), 1)
    beta = tl.load(BETA + o, o < CG, 0.0).to(tl.float32)
    shift = tl.sum(tl.exp(logits - peak[:, None]) * beta[None, :], 1) / mass + tl.load(MIXED + 9 * CG)
    left = tl.zeros([BP, BG], tl.float32)
    middle = tl.zeros([BP, BG], tl.float32) + shift[None, :]
    right = tl.zeros([BP, BG], tl.float32)
    for i0 in range(0, CG, BI):
        i = i0 + tl.arange(0, BI)
        ch = (g * CG)[:, None] + i[None, :]
        known = ok[:, None] & (i < CG)[None, :]
        at = X + (ch * SC)[None, :, :] + (pos * SP)[:, None, None]
        here = inside[:, None, None] & known[None, :, :]
        above = tl.load(at - W * SP, here & (h > 0)[:, None, None], 0.0).to(tl.float32)
        x = tl.load(at, here, 0.0).to(tl.float32)
        below = tl.load(at + W * SP, here & (h < H - 1)[:, None, None], 0.0).to(tl.float32)
        # Three sums over the group's channels, shifted once afterwards, instead of nine loads for each channel.
        tap = MIXED + i * 9
        for j in tl.static_range(3):
            up = tl.load(tap + j, i < CG, 0.0)[None, None, :]
            level = tl.load(tap + 3 + j, i < CG, 0.0)[None, None, :]
            down = tl.load(tap + 6 + j, i < CG, 0.0)[None, None, :]
            part = tl.sum(up * above + level * x + down * below, 2)
            if j == 0:
                left += part
            if j == 1:
                middle += part
            if j == 2:
                right += part
        mean = tl.load(STATS + ch * 3, known, 0.0)
        rstd = tl.load(STATS + ch * 3 + 1, known, 0.0)
        weight2 = tl.exp(tl.load(STATS + ch * 3 + 2, known, 0.0) - peak[:, None]) / mass[:, None]
        scale = weight2 * rstd * tl.load(GAMMA + i, i < CG, 0.0).to(tl.float32)[None, :]
        a = tl.load(A + (ch * H)[None, :, :] + h[:, None, None], here, 0.0)
        b = tl.load(B + (ch * W)[None, :, :] + w[:, None, None], here, 0.0)
        middle += tl.sum(scale[None, :, :] * (x * a * b - mean[None, :, :]), 2)
    lane = tl.arange(0, BP)[:, None] + tl.zeros([BP, BG], tl.int32)
    middle += tl.where((w > 0)[:, None], tl.gather(left, tl.maximum(lane - 1, 0), 0), 0.0)
    middle += tl.where((w < W - 1)[:, None], tl.gather(right, tl.minimum(lane + 1, BP - 1), 0), 0.0)
    return tl.sigmoid(middle)


@triton.jit
def apply_map(
    X, Y, SIGMA, A, B, STATS, MIXED, GAMMA, BETA, GAIN, g, ok, tile, H, W, SC, SP,
    KEEP: tl.constexpr, GAINED: tl.constexpr,
    CG: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, BG: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """The output on a tile of positions, x + GAIN * (x * sigmoid(z) - x), and the map itself if it is kept."""
    pos = tile * (BP - 2) - 1 + tl.arange(0, BP)
    sigma = gate_map(X, A, B, STATS, MIXED, GAMMA, BETA, g, ok, pos, H, W, SC, SP, CG, CP, BP, BG, BI)
    inner = (tl.arange(0, BP) > 0) & (tl.arange(0, BP) < BP - 1) & (pos < H * W)
    if KEEP:
        tl.store(SIGMA + (g * H * W)[None, :] + pos[:, None], sigma, inner[:, None] & ok[None, :])
    for i0 in range(0, CG, BI):
        i = i0 + tl.arange(0, BI)
        ch = (g * CG)[:, None] + i[None, :]
        known = ok[:, None] & (i < CG)[None, :]
        at = (ch * SC)[None, :, :] + (pos * SP)[:, None, None]
        mask = inner[:, None, None] & known[None, :, :]
        factor = sigma[:, :, None]
        if GAINED:
            factor = blend(factor, tl.load(GAIN + ch, known, 0.0).to(tl.float32)[None, :, :])
        x = tl.load(X + at, mask, 0.0).to(tl.float32)
        tl.store(Y + at, (x * factor).to(Y.dtype.element_ty), mask)


@triton.jit
def sums_kernel(
    X, ROWS, COLUMNS, WINDOWS, W3, B3, BETA, MIXED, C, H, W, SC, SP, BLOCKS,
    CG: tl.constexpr, CP: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """The first programs mix the 3x3 kernels, one for each input channel; the others sum planes."""
    n = tl.program_id(0) - CG
    if n < 0:
        mix(W3, B3, BETA, MIXED, n + CG, CG, CP)
    else:
        plane = (n // BLOCKS).to(tl.int64) * C
        ch = n % BLOCKS * BC + tl.arange(0, BC)
        X, ROWS, COLUMNS, WINDOWS = X + plane * H * W, ROWS + plane * H, COLUMNS + plane * W, WINDOWS + plane * 9
        sum_planes(X, ROWS, COLUMNS, WINDOWS, ch, ch < C, H, W, SC, SP, BC, BH, BW)


@triton.jit
def gates_kernel(
    X, ROWS, COLUMNS, WINDOWS, A, B, STATS, W1, B1, W3, B3, C, H, W, SC, SP, BLOCKS, eps,
    CG: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BI: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """The second of three launches: of the sums of each plane its gates A and B, and the statistics of the norm."""
    n = tl.program_id(0)
    plane = (n // BLOCKS).to(tl.int64) * C
    ch = n % BLOCKS * BC + tl.arange(0, BC)
    X, ROWS, COLUMNS, WINDOWS = X + plane * H * W, ROWS + plane * H, COLUMNS + plane * W, WINDOWS + plane * 9
    A, B, STATS = A + plane * H, B + plane * W, STATS + plane * 3
    gate_planes(
        X, ROWS, COLUMNS, WINDOWS, A, B, STATS, W1, B1, W3, B3, ch, ch < C, H, W, SC, SP, eps, CG, BC, BH, BW, BI, BJ
    )


# H and W are not specialised where tiles are of positions: were they known to be multiples of 16, some loads would
# take four neighbours a thread, and the shifted ones, which cannot, would then touch four times as many cache lines.
@triton.jit(do_not_specialize=["H", "W"])
def apply_kernel(
    X, Y, SIGMA, A, B, STATS, MIXED, GAMMA, BETA, GAIN, C, H, W, SC, SP, BLOCKS, TILES,
    KEEP: tl.constexpr, GAINED: tl.constexpr,
    CG: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, BG: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """The last launch: one tile of positions, of every channel of some groups, times its map."""
    n = tl.program_id(0) // TILES
    g = n % BLOCKS * BG + tl.arange(0, BG)
    plane = (n // BLOCKS).to(tl.int64) * C
    X, Y, SIGMA = X + plane * H * W, Y + plane * H * W, SIGMA + plane // CG * H * W
    A, B, STATS = A + plane * H, B + plane * W, STATS + plane * 3
    tile = tl.program_id(0) % TILES
    apply_map(
        X, Y, SIGMA, A, B, STATS, MIXED, GAMMA, BETA, GAIN, g, g * CG < C, tile, H, W, SC, SP, KEEP, GAINED,
        CG, CP, BP, BG, BI,
    )  # fmt: skip


@triton.jit(do_not_specialize=["H", "W"])
def single_kernel(
    X, Y, SIGMA, ROWS, COLUMNS, WINDOWS, A, B, STATS, MIXED, MINE, W1, B1, GAMMA, BETA, W3, B3, GAIN,
    C, H, W, SC, SP, BLOCKS, eps, KEEP: tl.constexpr, GAINED: tl.constexpr, CG: tl.constexpr, CP: tl.constexpr,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BI: tl.constexpr, BJ: tl.constexpr,
    BP: tl.constexpr, BG: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """The whole forward pass of BG slabs, which the second and third time are read from the cache.

    What one part stores and the next loads goes through global memory within one program. A barrier between them is
    enough: `bar.sync` makes a thread's earlier writes visible to its whole block, and no other program touches them
    (MINE is this program's own mixed kernel; program 0 also leaves the one that backward reads).
    """
    n = tl.program_id(0)
    plane = (n // BLOCKS).to(tl.int64) * C
    X, Y, SIGMA = X + plane * H * W, Y + plane * H * W, SIGMA + plane // CG * H * W
    ROWS, COLUMNS, WINDOWS = ROWS + plane * H, COLUMNS + plane * W, WINDOWS + plane * 9
    A, B, STATS, MINE = A + plane * H, B + plane * W, STATS + plane * 3, MINE + n * (9 * CG + 1)
    first = n % BLOCKS * BG * CG
    for i in range(CG):
        mix(W3, B3, BETA, MINE, i, CG, CP)
        if n == 0:
            mix(W3, B3, BETA, MIXED, i, CG, CP)
    for c0 in range(0, BG * CG, BC):
        c = c0 + tl.arange(0, BC)
        ok = (c < BG * CG) & (first + c < C)
        sum_planes(X, ROWS, COLUMNS, WINDOWS, first + c, ok, H, W, SC, SP, BC, BH, BW)
    tl.debug_barrier()
    for c0 in range(0, BG * CG, BC):
        c = c0 + tl.arange(0, BC)
        ok = (c < BG * CG) & (first + c < C)
        gate_planes(
            X, ROWS, COLUMNS, WINDOWS, A, B, STATS, W1, B1, W3, B3, first + c, ok, H, W, SC, SP, eps,
            CG, BC, BH, BW, BI, BJ,
        )  # fmt: skip
    tl.debug_barrier()
    g = n % BLOCKS * BG + tl.arange(0, BG)
    for tile in range(0, tl.cdiv(H * W, BP - 2)):
        apply_map(
            X, Y, SIGMA, A, B, STATS, MINE, GAMMA, BETA, GAIN, g, g * CG < C, tile, H, W, SC, SP, KEEP, GAINED,
            CG, CP, BP, BG, BS,
        )  # fmt: skip
