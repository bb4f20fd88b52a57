"""EMA on CUDA, in Triton: the backward pass in closed form. Shapes and tiles as in the forward pass.

With s = sigmoid(z), `slope` = dL/dz (one plane per group) and t = x*a*b, of each plane
    D = sum(slope), Z = sum(slope * (t - mean)), k = weight2 * gamma / deviation,
    dL/dt = k * (slope - D/N - (t - mean) * Z / (N * deviation^2)),
and dL/dx adds up dy*s, the mixed 3x3 kernel over slope, a*b * dL/dt, and what the row means, the column means and the
nine window means pass on: a vector along the rows, one along the columns, and a number for each corner. With a gain,
dy is gain * dy in `slope` and dy * blend(s, gain) in dL/dx, and dL/d(gain) is the sum of dy * x * (s - 1).
"""

import triton
import triton.language as tl

from .cuda_forward import gate_map
from .cuda_parts import between, blend, place, row_of, rows_of, shifted, softmax, summed

# About a plane: D, Z / (N * deviation^2), k, weight2, Z / deviation, dL/d(logit of weight2), dL/d(gain).
NUMBERS = tl.constexpr(7)


@triton.jit(do_not_specialize=["H", "W"])
def slope_kernel(
    X, DY, SIGMA, SLOPE, SHARES, A, B, STATS, MIXED, GAMMA, BETA, GAIN, C, H, W, SC, SP, BLOCKS, TILES,
    KEPT: tl.constexpr, GAINED: tl.constexpr, CG: tl.constexpr, CP: tl.constexpr,
    BQ: tl.constexpr, HALO: tl.constexpr, BG: tl.constexpr, BI: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """dL/dz of each group's map, from sum(x * dy) over its channels; the map itself where forward did not keep it.

    With a gain also each tile's share of the gradient of each channel's: SHARES is [planes, TILES].
    """
    n = tl.program_id(0) // TILES
    g = n % BLOCKS * BG + tl.arange(0, BG)
    ok = g * CG < C
    sample = (n // BLOCKS).to(tl.int64)
    plane = sample * C
    size = H * (W // V) * V
    SC = between(SC, size, V)
    X, DY = X + plane * size, DY + plane * size
    SIGMA, SLOPE = SIGMA + sample * (C // CG * size), SLOPE + sample * (C // CG * size)
    A, B, STATS, SHARES = A + plane * H, B + plane * (W // V * V), STATS + plane * 3, SHARES + plane * TILES
    tile = tl.program_id(0) % TILES
    q, own = place(tile, H, W, BQ, HALO, V)
    v = tl.arange(0, V)
    here = (own[:, None] & ok[None, :])[:, :, None]
    at_map = (((g * (H * (W // V)))[None, :] + q[:, None]) * V)[:, :, None] + v[None, None, :]
    if KEPT:
        sigma = tl.load(SIGMA + at_map, here, 0.0)
    else:
        sigma = gate_map(X, A, B, STATS, MIXED, GAMMA, BETA, g, ok, q, H, W, SC, SP, CG, CP, BQ, BG, BI, V)
        tl.store(SIGMA + at_map, sigma, here)
    slope = tl.zeros([BQ, BG, V], tl.float32)
    for i0 in range(0, CG, BI):
        i = i0 + tl.arange(0, BI)
        ch = (g * CG)[:, None] + i[None, :]
        known = ok[:, None] & (i < CG)[None, :]
        at = (ch * SC)[None, :, :, None] + (q * (V * SP))[:, None, None, None] + (v * SP)[None, None, None, :]
        mask = (own[:, None, None] & known[None, :, :])[:, :, :, None]
        product = tl.load(X + at, mask, 0.0).to(tl.float32) * tl.load(DY + at, mask, 0.0).to(tl.float32)
        if GAINED:
            share = summed(summed(product * (sigma[:, :, None, :] - 1.0), 3), 0)
            tl.store(SHARES + ch * TILES + tile, share, known)
            product *= tl.load(GAIN + ch, known, 0.0).to(tl.float32)[None, :, :, None]
        slope += summed(product, 2)
    tl.store(SLOPE + at_map, slope * sigma * (1.0 - sigma), here)


@triton.jit(do_not_specialize=["H", "W"])
def reduce_kernel(
    X, SLOPE, A, B, STATS, GAMMA, ROWS, COLUMNS, DA, DB, TAPS, PLANES, C, H, W, SC, SP, BLOCKS, CG: tl.constexpr,
    CP: tl.constexpr, BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BQ: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """All sums over planes: D, Z, the correlations of slope and x, and the gradients at the strips' logits (DA, DB)."""
    n = tl.program_id(0)
    sample = (n // BLOCKS).to(tl.int64)
    plane = sample * C
    ch = n % BLOCKS * BC + tl.arange(0, BC)
    ok = ch < C
    wide = W // V
    step = wide * V
    SC = between(SC, H * step, V)
    X, SLOPE = X + plane * (H * step), SLOPE + sample * (C // CG * (H * step))
    A, DA, ROWS = A + plane * H, DA + plane * H, ROWS + plane * H
    B, DB, COLUMNS = B + plane * step, DB + plane * step, COLUMNS + plane * step
    STATS, TAPS, PLANES = STATS + plane * 3, TAPS + plane * 9, PLANES + plane * NUMBERS
    first = ch // CG * CG
    v = tl.arange(0, V)
    mean = tl.load(STATS + ch * 3, ok, 0.0)
    rstd = tl.load(STATS + ch * 3 + 1, ok, 0.0)
    d_sum = tl.zeros([BQ, BC, V], tl.float32)
    z_sum = tl.zeros([BQ, BC, V], tl.float32)
    t00 = tl.zeros([BQ, BC, V], tl.float32)
    t01 = tl.zeros([BQ, BC, V], tl.float32)
    t02 = tl.zeros([BQ, BC, V], tl.float32)
    t10 = tl.zeros([BQ, BC, V], tl.float32)
    t11 = tl.zeros([BQ, BC, V], tl.float32)
    t12 = tl.zeros([BQ, BC, V], tl.float32)
    t20 = tl.zeros([BQ, BC, V], tl.float32)
    t21 = tl.zeros([BQ, BC, V], tl.float32)
    t22 = tl.zeros([BQ, BC, V], tl.float32)
    for q0 in range(0, H * wide, BQ):
        q = q0 + tl.arange(0, BQ)
        h = rows_of(q, wide)
        column = (q - h * wide) * V
        there = (q < H * wide)[:, None] & ok[None, :]
        inside = there[:, :, None]
        at = (ch * SC)[None, :] + (q * (V * SP))[:, None]
        x = tl.load(X + (at[:, :, None] + (v * SP)[None, None, :]), inside, 0.0).to(tl.float32)
        before = tl.load(X + (at - SP), there & (column > 0)[:, None], 0.0).to(tl.float32)
        after = tl.load(X + (at + V * SP), there & (column < step - V)[:, None], 0.0).to(tl.float32)
        before, after = shifted(x, before, True), shifted(x, after, False)
        a = tl.load(A + (ch * H)[None, :] + h[:, None], there, 0.0)[:, :, None]
        b = tl.load(B + ((ch * step)[None, :] + column[:, None])[:, :, None] + v[None, None, :], inside, 0.0)
        at = ((ch // CG * (H * step))[None, :] + (q * V)[:, None])[:, :, None] + v[None, None, :]
        slope = tl.load(SLOPE + at, inside, 0.0)
        d_sum += slope
        z_sum += slope * (x * a * b - mean[None, :, None])
        t10 += slope * before
        t11 += slope * x
        t12 += slope * after
        slope = tl.load(SLOPE + (at + step), inside & (h < H - 1)[:, None, None], 0.0)
        t00 += slope * before
        t01 += slope * x
        t02 += slope * after
        slope = tl.load(SLOPE + (at - step), inside & (h > 0)[:, None, None], 0.0)
        t20 += slope * before
        t21 += slope * x
        t22 += slope * after
    at_taps = TAPS + ch * 9
    tl.store(at_taps, tl.sum(tl.sum(t00, 2), 0), ok)
    tl.store(at_taps + 1, tl.sum(tl.sum(t01, 2), 0), ok)
    tl.store(at_taps + 2, tl.sum(tl.sum(t02, 2), 0), ok)
    tl.store(at_taps + 3, tl.sum(tl.sum(t10, 2), 0), ok)
    tl.store(at_taps + 4, tl.sum(tl.sum(t11, 2), 0), ok)
    tl.store(at_taps + 5, tl.sum(tl.sum(t12, 2), 0), ok)
    tl.store(at_taps + 6, tl.sum(tl.sum(t20, 2), 0), ok)
    tl.store(at_taps + 7, tl.sum(tl.sum(t21, 2), 0), ok)
    tl.store(at_taps + 8, tl.sum(tl.sum(t22, 2), 0), ok)

    d_all = tl.sum(tl.sum(d_sum, 2), 0)
    z_all = tl.sum(tl.sum(z_sum, 2), 0)
    o = tl.arange(0, CP)
    logits = tl.load(
        STATS + (first * 3 + 2)[None, :] + (o * 3)[:, None], (o < CG)[:, None] & ok[None, :], -float("inf")
    )
    weight2 = tl.sum(tl.where(o[:, None] == (ch - first)[None, :], softmax(logits), 0.0), 0)
    k = weight2 * rstd * tl.load(GAMMA + ch - first, ok, 0.0).to(tl.float32)
    e = d_all / (H * W * 1.0)
    steep = z_all * rstd * rstd / (H * W * 1.0)
    at_numbers = PLANES + ch * NUMBERS
    tl.store(at_numbers, d_all, ok)
    tl.store(at_numbers + 1, steep, ok)
    tl.store(at_numbers + 2, k, ok)
    tl.store(at_numbers + 3, weight2, ok)
    tl.store(at_numbers + 4, z_all * rstd, ok)

    c = tl.arange(0, BW)
    whole = (c < wide)[:, None] & ok[None, :]
    at = ((ch * step)[None, :] + (c * V)[:, None])[:, :, None] + v[None, None, :]
    b = tl.load(B + at, whole[:, :, None], 0.0)
    columns = tl.zeros([BW, BH, BC, V], tl.float32)
    db = tl.zeros([BW, BH, BC, V], tl.float32)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        strip = (h < H)[:, None] & ok[None, :]
        at_strip = (ch * H)[None, :] + h[:, None]
        a = tl.load(A + at_strip, strip, 0.0)
        q = h[None, :] * wide + c[:, None]
        inside = ((h < H)[None, :, None] & whole[:, None, :])[:, :, :, None]
        at_x = (ch * SC)[None, None, :, None] + (q * (V * SP))[:, :, None, None] + (v * SP)[None, None, None, :]
        x = tl.load(X + at_x, inside, 0.0).to(tl.float32)
        at_map = ((ch // CG * (H * step))[None, None, :] + (q * V)[:, :, None])[:, :, :, None]
        slope = tl.load(SLOPE + (at_map + v[None, None, None, :]), inside, 0.0)
        t = x * a[None, :, :, None] * b[:, None, :, :] - mean[None, None, :, None]
        dt = (slope - e[None, None, :, None] - steep[None, None, :, None] * t) * x
        tl.store(ROWS + at_strip, tl.sum(tl.sum(x, 3), 0), strip)
        da = summed(summed(dt * b[:, None, :, :], 3), 0)
        tl.store(DA + at_strip, k[None, :] * da * a * (1.0 - a), strip)
        columns += x
        db += dt * a[None, :, :, None]
    tl.store(COLUMNS + at, tl.sum(columns, 1), whole[:, :, None])
    tl.store(DB + at, k[None, :, None] * tl.sum(db, 1) * b * (1.0 - b), whole[:, :, None])


@triton.jit
def strips_kernel(
    DA, DB, ROWS, COLUMNS, PLANES, SHARES, ALONG, ACROSS, CORNERS, DW1, DB1, W1, GAMMA, BETA, W3, H, W, TILES,
    GAINED: tl.constexpr, CG: tl.constexpr, CP: tl.constexpr, BL: tl.constexpr, BI: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """For each plane: what its means pass on to dL/dx, and its share of the gradients of conv1x1 and the gain."""
    n = tl.program_id(0).to(tl.int64)
    c = (n % CG).to(tl.int32)
    base = n - c
    DA, DB, PLANES = DA + base * H, DB + base * W, PLANES + base * NUMBERS
    o = tl.arange(0, CP)
    weight2 = tl.load(PLANES + o * NUMBERS + 3, o < CG, 0.0)
    d_weight2 = tl.load(GAMMA + o, o < CG, 0.0).to(tl.float32) * tl.load(PLANES + o * NUMBERS + 4, o < CG, 0.0)
    d_weight2 += tl.load(BETA + o, o < CG, 0.0).to(tl.float32) * tl.load(PLANES + o * NUMBERS, o < CG, 0.0)
    d_logit = weight2 * (d_weight2 - summed(weight2 * d_weight2, 0))
    tl.store(PLANES + c * NUMBERS + 5, tl.sum(tl.where(o == c, d_logit, 0.0), 0))
    if GAINED:
        shares = tl.zeros([BT], tl.float32)
        for t0 in range(0, TILES, BT):
            t = t0 + tl.arange(0, BT)
            shares += tl.load(SHARES + n * TILES + t, t < TILES, 0.0)
        tl.store(PLANES + c * NUMBERS + 6, tl.sum(shares, 0))

    tap = tl.arange(0, 16)
    mask = (o < CG)[:, None] & (tap < 9)[None, :]
    taps = tl.load(W3 + ((o * CG + c) * 9)[:, None] + tap[None, :], mask, 0.0).to(tl.float32)
    d_window = summed(d_logit[:, None] * taps, 0) / (H * W * 1.0)
    # Every element is in all nine windows but for the edges: see `sum_planes`. Corners were taken away twice.
    i = tap // 3
    j = tap % 3
    at = tl.arange(0, BL)  # of a row or a column: all strips are tiles of one length
    in_row, in_column = at < W, at < H
    along = tl.where(at == 0, 0.0, tl.sum(tl.where(i == 2, d_window, 0.0), 0))
    along += tl.where(at == H - 1, 0.0, tl.sum(tl.where(i == 0, d_window, 0.0), 0))
    along += tl.sum(tl.where(i == 1, d_window, 0.0), 0)
    across = -tl.where(at == 0, tl.sum(tl.where(j == 2, d_window, 0.0), 0), 0.0)
    across -= tl.where(at == W - 1, tl.sum(tl.where(j == 0, d_window, 0.0), 0), 0.0)
    tl.store(CORNERS + n * 9 + tap, d_window, tap < 9)

    rows = tl.load(ROWS + n * H + at, in_column, 0.0) / W
    columns = tl.load(COLUMNS + n * W + at, in_row, 0.0) / H
    to_rows, to_columns = tl.zeros([BL, BI], tl.float32), tl.zeros([BL, BI], tl.float32)
    for u0 in range(0, CG, BI):
        u = u0 + tl.arange(0, BI)
        w1 = tl.load(W1 + u * CG + c, u < CG, 0.0).to(tl.float32)
        da = tl.load(DA + (u * H)[None, :] + at[:, None], (u < CG)[None, :] & in_column[:, None], 0.0)
        db = tl.load(DB + (u * W)[None, :] + at[:, None], (u < CG)[None, :] & in_row[:, None], 0.0)
        to_rows += w1[None, :] * da
        to_columns += w1[None, :] * db
        share = tl.sum(da * rows[:, None] + db * columns[:, None], 0)
        tl.store(DW1 + (base + u) * CG + c, share, u < CG)
    own = tl.load(DA + c * H + at, in_column, 0.0) + tl.load(DB + c * W + at, in_row, 0.0)
    tl.store(DB1 + n, tl.sum(own, 0))
    tl.store(ALONG + n * H + at, along + tl.sum(to_rows, 1) / W, in_column)
    tl.store(ACROSS + n * W + at, across + tl.sum(to_columns, 1) / H, in_row)


@triton.jit
def sum_parameters(
    o, STATS, WINDOWS, PLANES, TAPS, DW1, DB1, BETA, W3, B3, G_W1, G_B1, G_GAMMA, G_BETA, G_W3, G_B3, SLABS,
    CG: tl.constexpr, CP: tl.constexpr, JP: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """The gradients of what belongs to output channel o, over all slabs in a fixed order."""
    c = tl.arange(0, CP)
    j = tl.arange(0, JP)
    g_w3 = tl.zeros([JP], tl.float32)
    mixed = tl.zeros([JP], tl.float32)
    g_w1 = tl.zeros([CP], tl.float32)
    sums = tl.zeros([BS], tl.float32)  # one lane a slab; lanes are summed at the end
    g_b1, g_b3, g_gamma, g_beta = sums, sums, sums, sums
    for s0 in range(0, SLABS, BS):
        s = (s0 + tl.arange(0, BS)).to(tl.int64)
        ok = s < SLABS
        n = s * CG + o
        d = tl.load(PLANES + n * NUMBERS, ok, 0.0)
        weight2 = tl.load(PLANES + n * NUMBERS + 3, ok, 0.0)
        d_logit = tl.load(PLANES + n * NUMBERS + 5, ok, 0.0)
        sums += d
        g_gamma += weight2 * tl.load(PLANES + n * NUMBERS + 4, ok, 0.0)
        g_beta += weight2 * d
        g_b1 += tl.load(DB1 + n, ok, 0.0)
        g_b3 += d_logit
        at = (s * CG * 9)[:, None] + j[None, :]
        known = ok[:, None] & (j < CG * 9)[None, :]
        g_w3 += summed(d_logit[:, None] * tl.load(WINDOWS + at, known, 0.0), 0)
        mixed += tl.sum(tl.load(TAPS + at, known, 0.0), 0)
        known = ok[:, None] & (c < CG)[None, :]
        g_w1 += tl.sum(tl.load(DW1 + (n * CG)[:, None] + c[None, :], known, 0.0), 0)
    d_all = tl.sum(sums, 0)
    share = softmax(tl.load(BETA + c, c < CG, -float("inf")).to(tl.float32))
    own = tl.sum(tl.where(c == o, share, 0.0), 0)
    total = 0.0
    mine = 0.0
    for k in range(CG):  # dL/d(share of k), then through the softmax
        d_share = summed(mixed * tl.load(W3 + k * CG * 9 + j, j < CG * 9, 0.0).to(tl.float32), 0)
        d_share += tl.load(B3 + k).to(tl.float32) * d_all
        total += d_share * tl.sum(tl.where(c == k, share, 0.0), 0)
        mine += tl.where(k == o, d_share, 0.0)
    tl.store(G_W1 + o * CG + c, g_w1.to(G_W1.dtype.element_ty), c < CG)
    tl.store(G_B1 + o, tl.sum(g_b1, 0).to(G_B1.dtype.element_ty))
    tl.store(G_GAMMA + o, tl.sum(g_gamma, 0).to(G_GAMMA.dtype.element_ty))
    tl.store(G_BETA + o, (tl.sum(g_beta, 0) + own * (mine - total)).to(G_BETA.dtype.element_ty))
    tl.store(G_W3 + o * CG * 9 + j, (g_w3 + own * mixed).to(G_W3.dtype.element_ty), j < CG * 9)
    tl.store(G_B3 + o, (tl.sum(g_b3, 0) + own * d_all).to(G_B3.dtype.element_ty))


@triton.jit
def sum_gain(o, PLANES, G_GAIN, SLABS, C, CG: tl.constexpr, BS: tl.constexpr):
    """The gradients of the gains of channel o of each group, over the samples in their order."""
    groups = C // CG
    for g0 in range(0, groups, BS):
        g = g0 + tl.arange(0, BS)
        total = tl.zeros([BS], tl.float32)
        for s0 in range(0, SLABS, groups):
            n = (s0 + g).to(tl.int64) * CG + o
            total += tl.load(PLANES + n * NUMBERS + 6, g < groups, 0.0)
        tl.store(G_GAIN + g * CG + o, total.to(G_GAIN.dtype.element_ty), g < groups)


@triton.jit
def sum_input(
    n, X, DY, DX, SIGMA, SLOPE, A, B, STATS, MIXED, PLANES, ALONG, ACROSS, CORNERS, GAIN,
    C, H, W, SC, SP, BLOCKS, TILES, GAINED: tl.constexpr,
    CG: tl.constexpr, BQ: tl.constexpr, BG: tl.constexpr, BI: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """dL/dx on one tile of positions; slope and its neighbours are loaded once for all channels of a group."""
    block = n // TILES
    g = block % BLOCKS * BG + tl.arange(0, BG)
    ok = g * CG < C
    sample = (block // BLOCKS).to(tl.int64)
    plane = sample * C
    wide = W // V
    step = wide * V
    SC = between(SC, H * step, V)
    X, DY, DX = X + plane * (H * step), DY + plane * (H * step), DX + plane * (H * step)
    maps = sample * (C // CG * (H * step))
    SIGMA, SLOPE = SIGMA + maps, SLOPE + maps
    A, ALONG, B, ACROSS = A + plane * H, ALONG + plane * H, B + plane * step, ACROSS + plane * step
    STATS, PLANES, CORNERS = STATS + plane * 3, PLANES + plane * NUMBERS, CORNERS + plane * 9
    q = n % TILES * BQ + tl.arange(0, BQ)
    v = tl.arange(0, V)
    h = rows_of(q, wide)
    column = (q - h * wide) * V
    inside = q < H * wide
    top, bottom, first, last = h == 0, h == H - 1, column == 0, column == step - V
    here = inside[:, None] & ok[None, :]
    at = (g * (H * step))[None, :] + (q * V)[:, None]
    sigma = tl.load(SIGMA + (at[:, :, None] + v[None, None, :]), here[:, :, None], 0.0)[:, :, None, :]
    # s<i><j>: the slope that meets this element through tap (i, j) of the mixed kernel.
    s02, s01, s00 = row_of(SLOPE, at + step, here & ~bottom[:, None], first[:, None], last[:, None], V)
    s12, s11, s10 = row_of(SLOPE, at, here, first[:, None], last[:, None], V)
    s22, s21, s20 = row_of(SLOPE, at - step, here & ~top[:, None], first[:, None], last[:, None], V)
    for i0 in range(0, CG, BI):
        i = i0 + tl.arange(0, BI)
        ch = (g * CG)[:, None] + i[None, :]
        known = ok[:, None] & (i < CG)[None, :]
        of_row = inside[:, None, None] & known[None, :, :]
        mask = of_row[:, :, :, None]
        element = (ch * SC)[None, :, :, None] + (q * (V * SP))[:, None, None, None] + (v * SP)[None, None, None, :]
        x = tl.load(X + element, mask, 0.0).to(tl.float32)
        factor = sigma
        if GAINED:
            factor = blend(sigma, tl.load(GAIN + ch, known, 0.0).to(tl.float32)[None, :, :, None])
        dx = factor * tl.load(DY + element, mask, 0.0).to(tl.float32)
        at_row = (ch * H)[None, :, :] + h[:, None, None]
        at_column = ((ch * step)[None, :, :] + column[:, None, None])[:, :, :, None] + v[None, None, None, :]
        a = tl.load(A + at_row, of_row, 0.0)[:, :, :, None]
        ab = a * tl.load(B + at_column, mask, 0.0)
        mean = tl.load(STATS + ch * 3, known, 0.0)[None, :, :, None]
        e = tl.load(PLANES + ch * NUMBERS, known, 0.0)[None, :, :, None] * (1.0 / (H * W))
        steep = tl.load(PLANES + ch * NUMBERS + 1, known, 0.0)[None, :, :, None]
        k = tl.load(PLANES + ch * NUMBERS + 2, known, 0.0)[None, :, :, None]
        dx += tl.load(ALONG + at_row, of_row, 0.0)[:, :, :, None] + tl.load(ACROSS + at_column, mask, 0.0)
        dx += k * ab * (s11 - e - steep * (x * ab - mean))
        tap = MIXED + i * 9
        dx += tl.load(tap, i < CG, 0.0)[None, None, :, None] * s00
        dx += tl.load(tap + 1, i < CG, 0.0)[None, None, :, None] * s01
        dx += tl.load(tap + 2, i < CG, 0.0)[None, None, :, None] * s02
        dx += tl.load(tap + 3, i < CG, 0.0)[None, None, :, None] * s10
        dx += tl.load(tap + 4, i < CG, 0.0)[None, None, :, None] * s11
        dx += tl.load(tap + 5, i < CG, 0.0)[None, None, :, None] * s12
        dx += tl.load(tap + 6, i < CG, 0.0)[None, None, :, None] * s20
        dx += tl.load(tap + 7, i < CG, 0.0)[None, None, :, None] * s21
        dx += tl.load(tap + 8, i < CG, 0.0)[None, None, :, None] * s22
        corner = CORNERS + ch * 9
        start = tl.where(bottom[:, None, None], tl.load(corner + 2, known, 0.0)[None, :, :], 0.0)
        start += tl.where(top[:, None, None], tl.load(corner + 8, known, 0.0)[None, :, :], 0.0)
        end = tl.where(bottom[:, None, None], tl.load(corner, known, 0.0)[None, :, :], 0.0)
        end += tl.where(top[:, None, None], tl.load(corner + 6, known, 0.0)[None, :, :], 0.0)
        start = tl.where(first[:, None, None], start, 0.0)[:, :, :, None]
        end = tl.where(last[:, None, None], end, 0.0)[:, :, :, None]
        dx = tl.where((v == 0)[None, None, None, :], dx + start, dx)
        dx = tl.where((v == V - 1)[None, None, None, :], dx + end, dx)
        tl.store(DX + element, dx.to(DX.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["H", "W"])
def gradients_kernel(
    X, DY, DX, SIGMA, SLOPE, A, B, STATS, WINDOWS, MIXED, PLANES, TAPS, ALONG, ACROSS, CORNERS, DW1, DB1,
    BETA, W3, B3, GAIN, G_W1, G_B1, G_GAMMA, G_BETA, G_W3, G_B3, G_GAIN, SLABS, C, H, W, SC, SP, BLOCKS, TILES,
    GAINED: tl.constexpr, CG: tl.constexpr, CP: tl.constexpr, JP: tl.constexpr, BS: tl.constexpr,
    BQ: tl.constexpr, BG: tl.constexpr, BI: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """The first programs sum parameters, one for each channel of a group, while the others write dL/dx."""
    n = tl.program_id(0)
    if n < CG:
        sum_parameters(
            n, STATS, WINDOWS, PLANES, TAPS, DW1, DB1, BETA, W3, B3, G_W1, G_B1, G_GAMMA, G_BETA, G_W3, G_B3, SLABS,
            CG, CP, JP, BS,
        )  # fmt: skip
        if GAINED:
            sum_gain(n, PLANES, G_GAIN, SLABS, C, CG, BS)
    else:
        sum_input(
            n - CG, X, DY, DX, SIGMA, SLOPE, A, B, STATS, MIXED, PLANES, ALONG, ACROSS, CORNERS, GAIN,
            C, H, W, SC, SP, BLOCKS, TILES, GAINED, CG, BQ, BG, BI, V,
        )  # fmt: skip
