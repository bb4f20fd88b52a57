// The steps of EMA on a slab. docs/kernels.md derives the mathematics; names follow attention/ema.py.

#pragma once

#include "slab.h"

namespace {

// ---- forward --------------------------------------------------------------------------------------------------------

// Sums of N rows, which are added to the columns, too.
template <int N>
INLINE void add_rows(const float* x, int64_t row, int64_t wide, float* sums, float* columns) {
  Vec along[N] = {};
  for (int64_t i = 0; i < wide; i += LANES) {
    Vec down = load(columns + i);
    for (int k = 0; k < N; k++) {
      const Vec v = load(x + k * row + i);
      along[k] += v;
      down += v;
    }
    store(columns + i, down);
  }
  for (int k = 0; k < N; k++) sums[k] = sum(along[k]);
}

// Means of a channel's rows and columns, and of what each tap of the 3 x 3 sees.
INLINE void pool(const Slab& s, int64_t c) {
  const Problem& p = s.p;
  const int64_t h = p.h, w = p.w;
  const float* x = s.pixel(s.x, c);
  float *rows = s.means + c * s.strip, *columns = rows + p.tall, *window = s.windows + 9 * c;
  std::memset(rows, 0, s.strip * sizeof(float));
  int64_t y = 0;
  for (; y + 4 <= h; y += 4) add_rows<4>(x + y * p.row, p.row, p.wide, rows + y, columns);
  for (; y < h; y++) add_rows<1>(x + y * p.row, p.row, p.wide, rows + y, columns);
  const float per_row = 1.f / w, per_column = 1.f / h, per_pixel = per_row * per_column;
  Vec all = {};
  for (int64_t i = 0; i < p.tall; i += LANES) store(rows + i, load(rows + i) * per_row);
  for (int64_t i = 0; i < p.wide; i += LANES) {
    const Vec mean = load(columns + i) * per_column;
    all += mean;
    store(columns + i, mean);
  }
  // Tap (i, j) misses the row and the column on the other side; their common pixel must not be taken off twice.
  const float mean = sum(all) * per_row, *last = x + (h - 1) * p.row;
  const float row[3] = {rows[h - 1] * per_column, 0, rows[0] * per_column};
  const float column[3] = {columns[w - 1] * per_row, 0, columns[0] * per_row};
  const float corner[3][3] = {{last[w - 1], 0, last[0]}, {}, {x[w - 1], 0, x[0]}};
  for (int i = 0; i < 3; i++)
    for (int j = 0; j < 3; j++) window[3 * i + j] = mean - row[i] - column[j] + corner[i][j] * per_pixel;
}

// out = start + sum over c of weights[c * step] in[c], for N vectors from i on.
template <int N>
INLINE void mix(
    const Slab& s, const float* in, const float* weights, int64_t step, int64_t i, Vec start, Vec (&out)[N]) {
  const int64_t channels = s.p.c, strip = s.strip;
  for (Vec& v : out) v = start;
  for (int64_t c = 0; c < channels; c++)
    for (int k = 0; k < N; k++) out[k] += load(in + c * strip + i + k * LANES) * weights[c * step];
}

// sigmoid(conv1x1(means)), output channel o.
INLINE void open_gates(const Slab& s, int64_t o) {
  const Problem& p = s.p;
  const float* weights = p.weights.w1 + o * p.c;
  const Vec bias = spread(p.weights.b1[o]);
  float* out = s.gates + o * s.strip;
  int64_t i = 0;
  for (Vec v[3]; i + 3 * LANES <= s.strip; i += 3 * LANES) {
    mix(s, s.means, weights, 1, i, bias, v);
    for (int k = 0; k < 3; k++) store(out + i + k * LANES, sigmoid(v[k]));
  }
  for (Vec v[1]; i < s.strip; i += LANES) {
    mix(s, s.means, weights, 1, i, bias, v);
    store(out + i, sigmoid(v[0]));
  }
  for (int64_t x = p.w; x < p.wide; x++) out[p.tall + x] = 0;
}

INLINE float dot(const float* u, const float* v, int64_t n) {
  Vec all = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) all += load(u + i) * load(v + i);
  float rest = 0;
  for (; i < n; i++) rest += u[i] * v[i];
  return sum(all) + rest;
}

// softmax of the mean of conv3x3(x), which follows from the window means.
INLINE void second_softmax(const Slab& s) {
  const int64_t taps = 9 * s.p.c;
  for (int64_t o = 0; o < s.p.c; o++)
    s.second[o] = s.p.weights.b3[o] + dot(s.p.weights.w3 + o * taps, s.windows, taps);
  softmax(s.second, s.second, s.p.c);
}

// Mean and 1 / deviation of t = x a b over a channel.
INLINE void moments(const Slab& s, int64_t c) {
  const Problem& p = s.p;
  const int64_t h = p.h, w = p.w, wide = p.wide, row = p.row;
  const float *x = s.pixel(s.x, c), *a = s.gates + c * s.strip, *b = a + p.tall;
  // Squares are of t less a guess of its mean: a large mean would leave no digits for the variance.
  double along = 0, across = 0, rest = 0, variance = 0;
  for (int64_t y = 0; y < h; y++) along += a[y];
  for (int64_t i = 0; i < w; i++) across += b[i];
  float guess = (float)(s.windows[9 * c + 4] * along / h * across / w);
  for (int attempt = 0; attempt < 2; attempt++) {
    const Vec whole = spread(guess), tail = first(w - wide + LANES, whole);  // nothing beyond the map, where x b is 0
    double squares = rest = 0;
    for (int64_t start = 0; start < h; start += 8) {
      Vec d1 = {}, d2 = {};
      auto add = [&](int64_t y, int64_t i, Vec less) INLINED {
        const Vec d = load(x + y * row + i) * (load(b + i) * a[y]) - less;
        d1 += d;
        d2 += d * d;
      };
      for (int64_t y = start; y < h && y < start + 8; y++) {
        for (int64_t i = 0; i < wide - LANES; i += LANES) add(y, i, whole);
        add(y, wide - LANES, tail);
      }
      rest += sum(d1);
      squares += sum(d2);
    }
    rest /= p.pixels();
    variance = squares / p.pixels() - rest * rest;
    if (attempt == 1 || !(rest * rest > 100 * variance)) break;
    guess = (float)(guess + rest);
  }
  if (variance < 0) variance = 0;
  s.mean[c] = guess;
  s.rest[c] = (float)rest;
  s.scale[c] = (float)(1 / std::sqrt(variance + p.eps));
}

// Puts into rows [from, to), for one vector of columns after the other, the 3 x 3 convolution of a padded plane and
// what `more` gives. Each row is loaded once and serves three rows of the output.
template <class More, class Put>
INLINE void stencil(
    const Problem& p, const float* in, const float* taps, int64_t from, int64_t to, More more, Put put) {
  const int64_t wide = p.wide, row = p.row;
  Vec k[9];
  for (int i = 0; i < 9; i++) k[i] = spread(taps[i]);
  for (int64_t i = 0; i < wide; i += LANES) {
    const float* at = in + (from - 1) * row + i;
    Vec left = load(at - 1), middle = load(at), right = load(at + 1), here = {};
    Vec next = left * k[0] + middle * k[1] + right * k[2];
    for (int64_t y = from; y < to; y++) {
      at += row;
      left = load(at - 1), middle = load(at), right = load(at + 1);
      if (y > from) put(y - 1, i, here + left * k[6] + middle * k[7] + right * k[8]);
      here = next + left * k[3] + middle * k[4] + right * k[5] + more(y, i);
      next = left * k[0] + middle * k[1] + right * k[2];
    }
    at += row;
    put(to - 1, i, here + load(at - 1) * k[6] + load(at) * k[7] + load(at + 1) * k[8]);
  }
}

// Adds channel c to the logits in rows [from, to). The first channel starts from the constant, the last one ends in the
// sigmoid.
template <bool FIRST, bool LAST>
INLINE void add_logits(const Slab& s, int64_t c, float constant, int64_t from, int64_t to) {
  const Problem& p = s.p;
  const int64_t row = p.row, wide = p.wide;
  const float *x = s.pixel(s.x, c), *a = s.gates + c * s.strip, *b = a + p.tall;
  const float share = s.second[c] * p.weights.gamma[c] * s.scale[c], mean = s.mean[c], rest = s.rest[c];
  float* map = s.map;
  auto norm = [=](int64_t y, int64_t i) INLINED {
    return (load(x + y * row + i) * (load(b + i) * a[y]) - mean - rest) * share;
  };
  auto put = [=](int64_t y, int64_t i, Vec v) INLINED {
    float* at = map + y * wide + i;
    v += FIRST ? spread(constant) : load(at);
    store(at, LAST ? sigmoid(v) : v);
  };
  stencil(p, x, &p.weights.kernel[9 * c], from, to, norm, put);
}

// sigmoid(first . conv3x3(x) + second . GN(t)) in rows [from, to).
INLINE void draw_map(const Slab& s, int64_t from, int64_t to) {
  const Problem& p = s.p;
  float constant = p.weights.bias;
  for (int64_t c = 0; c < p.c; c++) constant += s.second[c] * p.weights.beta[c];
  for (int64_t c = 0; c < p.c; c++) {
    const bool last = c == p.c - 1;
    if (c == 0 && last) add_logits<true, true>(s, c, constant, from, to);
    if (c == 0 && !last) add_logits<true, false>(s, c, constant, from, to);
    if (c > 0 && !last) add_logits<false, false>(s, c, constant, from, to);
    if (c > 0 && last) add_logits<false, true>(s, c, constant, from, to);
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------

// dz in rows [from, to): what reaches the logits.
INLINE void logit_gradient(const Slab& s, int64_t from, int64_t to) {
  const Problem& p = s.p;
  const int64_t channels = p.c, w = p.w, wide = p.wide, row = p.row, padded = p.padded;
  const float* gain = s.gain;
  for (int64_t y = from; y < to; y++) {
    const float *x = s.pixel(s.x, 0) + y * row, *g = s.pixel(s.g, 0) + y * row, *map = s.map + y * wide;
    float* dz = s.pixel(s.dz, 0) + y * row;
    Vec total = {};
    for (int64_t i = 0; i < wide; i += LANES) {
      Vec v = {}, m = load(map + i);
      for (int64_t c = 0; c < channels; c++) v += load(x + c * padded + i) * (load(g + c * padded + i) * gain[c]);
      v *= m * (1.f - m);
      if (i + LANES > w) v = first(w - i, v);
      total += v;
      store(dz + i, v);
    }
    for (int64_t i = wide; i < row; i += LANES) store(dz + i, Vec{});
    s.totals[y] = sum(total);
  }
}

// What channel c adds to the gradients of the mixed kernel and of the norm's weight, and dz on its way back through
// the norm and the product of the gates.
INLINE void channel_gradient(const Slab& s, int64_t c, double total) {
  const Problem& p = s.p;
  const Share at(p.c);
  const int64_t h = p.h, wide = p.wide, row = p.row;
  const float *x = s.pixel(s.x, c), *dz = s.pixel(s.dz, 0), *a = s.gates + c * s.strip, *b = a + p.tall;
  const float mean = s.mean[c], rest = s.rest[c];

  double taps[9] = {}, centred = 0;  // sums of dz x, one pixel apart, and of dz (t - mean)
  const int64_t columns = h > 2048 ? LANES : 2048 / h * LANES;  // each lane adds at most so many in fp32
  for (int64_t start = 0; start < wide; start += columns) {
    Vec t[9] = {}, onto = {};
    for (int64_t i = start; i < wide && i < start + columns; i += LANES) {
      const Vec across = load(b + i);
      Vec above = {}, here = load(dz + i);
      for (int64_t y = 0; y < h; y++) {
        const float* in = x + y * row + i;
        const Vec left = load(in - 1), middle = load(in), right = load(in + 1), below = load(dz + (y + 1) * row + i);
        t[0] += below * left, t[1] += below * middle, t[2] += below * right;
        t[3] += here * left, t[4] += here * middle, t[5] += here * right;
        t[6] += above * left, t[7] += above * middle, t[8] += above * right;
        onto += here * (middle * (across * a[y]) - mean - rest);
        above = here, here = below;
      }
    }
    for (int i = 0; i < 9; i++) taps[i] += sum(t[i]);
    centred += sum(onto);
  }
  float* share = s.share();
  for (int i = 0; i < 9; i++) share[at.kernel + 9 * c + i] = (float)taps[i];

  const double n = p.pixels(), scale = s.scale[c], factor = (double)s.second[c] * p.weights.gamma[c] * scale;
  share[at.gamma + c] = (float)(s.second[c] * scale * centred);
  s.dsecond[c] = (float)(p.weights.gamma[c] * scale * centred + p.weights.beta[c] * total);
  const double slope = -factor * scale * scale * centred / n;
  const double constant = -slope * ((double)mean + rest) - factor * total / n;
  const Norm norm = s.norms[c] = {(float)factor, (float)slope, (float)constant};

  float *da = s.dgates + c * s.strip, *db = da + p.tall;
  std::memset(da, 0, s.strip * sizeof(float));
  for (int64_t y = 0; y < h; y++) {
    Vec along = {};
    for (int64_t i = 0; i < wide; i += LANES) {
      const Vec v = load(x + y * row + i), across = load(b + i);
      const Vec dt = load(dz + y * row + i) * norm.scale + (v * (across * (a[y] * norm.slope)) + norm.constant);
      along += dt * v * across;
      store(db + i, load(db + i) + dt * v * a[y]);
    }
    da[y] = sum(along) * (a[y] * (1.f - a[y]));
  }
  for (int64_t i = 0; i < wide; i += LANES) {
    const Vec across = load(b + i);
    store(db + i, load(db + i) * (across * (1.f - across)));
  }
}

// What channel c adds to the gradient of its gain.
INLINE void gain_gradient(const Slab& s, int64_t c) {
  const Problem& p = s.p;
  const int64_t h = p.h, w = p.w, wide = p.wide, row = p.row;
  const float *x = s.pixel(s.x, c), *g = s.pixel(s.g, c), *map = s.map;
  double all = 0;
  for (int64_t y = 0; y < h; y++) {
    Vec along = {};
    for (int64_t i = 0; i < wide; i += LANES) {
      const Vec v = load(x + y * row + i) * load(g + y * row + i) * (load(map + y * wide + i) - 1.f);
      along += i + LANES > w ? first(w - i, v) : v;
    }
    all += sum(along);
  }
  s.share()[Share(p.c).gain + c] = (float)all;
}

// What the slab adds to the gradient of conv1x1, output channel o.
INLINE void gate_gradient(const Slab& s, int64_t o) {
  const Problem& p = s.p;
  const Share at(p.c);
  float* share = s.share();
  const float* d = s.dgates + o * s.strip;
  Vec all = {};
  for (int64_t i = 0; i < s.strip; i += LANES) all += load(d + i);
  share[at.b1 + o] = sum(all);
  for (int64_t c = 0; c < p.c; c++) share[at.w1 + o * p.c + c] = dot(d, s.means + c * s.strip, s.strip);
}

// Back through the second softmax to the window means.
INLINE void softmax_gradient(const Slab& s) {
  const Problem& p = s.p;
  const Share at(p.c);
  float* share = s.share();
  const int64_t taps = 9 * p.c;
  const float mean = dot(s.second, s.dsecond, p.c);
  for (int64_t o = 0; o < p.c; o++) share[at.logits + o] = s.second[o] * (s.dsecond[o] - mean);
  std::memset(s.dwindows, 0, taps * sizeof(float));
  for (int64_t o = 0; o < p.c; o++) {
    const float d = share[at.logits + o] / p.pixels(), *w3 = p.weights.w3 + o * taps;
    for (int64_t i = 0; i < taps; i++) s.dwindows[i] += d * w3[i];
  }
  std::memcpy(share + at.windows, s.windows, taps * sizeof(float));
}

// dx of channel c, in place of its dy.
INLINE void input_gradient(const Slab& s, int64_t c) {
  const Problem& p = s.p;
  const float* window = s.dwindows + 9 * c;
  // What every pixel of a row and of a column gets, in place of means that were last read in the step before.
  float *down = s.means + c * s.strip, *across = down + p.tall, all = 0;
  for (int i = 0; i < 9; i++) all += window[i];
  for (int64_t i = 0; i < s.strip; i += LANES) {
    Vec v[1];
    mix(s, s.dgates, p.weights.w1 + c, p.c, i, Vec{}, v);
    store(down + i, i < p.tall ? v[0] / (float)p.w + all : v[0] / (float)p.h);
  }
  down[p.h - 1] -= window[0] + window[1] + window[2];
  down[0] -= window[6] + window[7] + window[8];
  across[p.w - 1] -= window[0] + window[3] + window[6];
  across[0] -= window[2] + window[5] + window[8];

  const int64_t row = p.row, wide = p.wide;
  const Norm norm = s.norms[c];
  const float gain = s.gain[c];
  const float *x = s.pixel(s.x, c), *dz = s.pixel(s.dz, 0), *a = s.gates + c * s.strip, *b = a + p.tall, *map = s.map;
  float *g = s.pixel(s.g, c), flipped[9];
  for (int i = 0; i < 9; i++) flipped[i] = p.weights.kernel[9 * c + 8 - i];
  auto direct = [=](int64_t y, int64_t i) INLINED {
    const int64_t pixel = y * row + i;
    const Vec ab = load(b + i) * a[y];
    const Vec dt = load(dz + pixel) * norm.scale + (load(x + pixel) * (ab * norm.slope) + norm.constant);
    return load(g + pixel) * blend(load(map + y * wide + i), gain) + dt * ab + (load(across + i) + down[y]);
  };
  auto put = [=](int64_t y, int64_t i, Vec v) INLINED { store(g + y * row + i, v); };
  stencil(p, dz, flipped, 0, p.h, direct, put);
  float* last = g + (p.h - 1) * row;
  last[p.w - 1] += window[0];
  last[0] += window[2];
  g[p.w - 1] += window[6];
  g[0] += window[8];
}

}  // namespace
