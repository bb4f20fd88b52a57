// A slab of EMA, one (sample, group): c channels of h x w pixels, copied into padded fp32 planes that stay in the
// second-level cache, and written from there.

#pragma once

#include <cstdlib>
#include <cstring>
#include <vector>

#include "lanes.h"

namespace {

struct Tensor {
  void* data;
  const int64_t* strides;  // batch, channel, row, column; in elements; the column's or the channel's is 1
};

struct Weights {
  const float *w1, *b1, *gamma, *beta, *w3, *b3;
  std::vector<float> first;   // softmax(beta), (c)
  std::vector<float> kernel;  // first . w3: one 3 x 3 kernel for each input channel, (c, 9)
  float bias;                 // first . b3
};

struct Problem {
  Tensor x, dy, out;  // out is y or dx
  Weights weights;
  const float* gain;  // of each channel, (groups * c): out = x (1 + gain (map - 1)); ones for EMA itself
  bool learns_gain;
  std::vector<float> ones;
  float* stats;   // of each slab, per channel: mean of t in two parts, 1 / its deviation, the second softmax; (n, 4, c)
  float* map;     // of each slab: sigmoid of its logits, (n, h, w); null if the backward pass computes it again
  float* shares;  // of each slab: what it adds to the parameters' gradients, (n, Share::size)
  int64_t batch, groups, c, h, w;
  float eps;

  int64_t wide, tall;  // w and h, up to whole vectors
  int64_t row;         // floats of a padded row; a zero follows each row and so precedes the next
  int64_t padded;      // floats of a padded plane: a zero row above and below, a zero vector before and behind

  int64_t slabs() const { return batch * groups; }
  int64_t pixels() const { return h * w; }
};

struct Share {  // offsets in a slab's share
  int64_t logits, w1, b1, gamma, gain, kernel, windows, total, size;
  explicit Share(int64_t c)
      : logits(0), w1(c), b1(w1 + c * c), gamma(b1 + c), gain(gamma + c), kernel(gain + c), windows(kernel + 9 * c),
        total(windows + 9 * c), size(total + 1) {}
};

// The backward pass of the norm: dt = scale dz + slope t + constant.
struct Norm {
  float scale, slope, constant;
};

// Neighbouring slabs of one sample, and the memory that they are worked on in.
struct Bundle {
  int64_t first, count;
  float *x, *g, *map;  // padded planes of x, of dy and then dx, (count * c, padded); sigmoids, (count, h, wide)
  float* rest;         // of one slab at a time

  static int64_t floats(const Problem& p, int64_t count, bool backward) {
    const int64_t strip = p.tall + p.wide;
    const int64_t rest = 2 * p.c * strip + 9 * p.c + (backward ? p.padded + p.c * strip + 13 * p.c + 2 * p.h : 0);
    return count * ((backward ? 2 : 1) * p.c * p.padded + p.h * p.wide) + rest + 16 * LANES;
  }
  Bundle(const Problem& p, int64_t first, int64_t count, float* at, bool backward) : first(first), count(count) {
    x = at, g = x + count * p.c * p.padded, map = g + (backward ? count * p.c * p.padded : 0);
    rest = map + count * p.h * p.wide;
  }
};

struct Slab {
  const Problem& p;
  int64_t index;
  float *x, *g, *map;
  int64_t strip;   // floats of a strip: a value for each row, padded to `tall`, then one for each column
  float* means;    // of the rows and columns of x, zero in the padding; (c, strip)
  float* gates;    // a and b; b is zero in the padding
  float* dgates;   // gradient before their sigmoid, later of `means`
  float* windows;  // mean of x over what each tap of the 3 x 3 sees, (c, 9)
  float* dwindows; // its gradient, per pixel
  float* dz;       // gradient at the logits, a padded plane
  float* dsecond;  // gradient of the second softmax, (c)
  Norm* norms;     // (c)
  double* totals;  // of dz along each row, (h)
  const float* gain;  // (c)
  float *mean, *rest, *scale, *second;  // in `stats`; the mean is mean + rest, more digits than a float has

  Slab(const Problem& p, const Bundle& b, int64_t i) : p(p), index(b.first + i), strip(p.tall + p.wide) {
    x = b.x + i * p.c * p.padded, g = b.g + i * p.c * p.padded, map = b.map + i * p.h * p.wide;
    float* at = b.rest;
    auto take = [&](int64_t n) { float* from = at; at += (n + LANES - 1) / LANES * LANES; return from; };
    means = take(p.c * strip), gates = take(p.c * strip), windows = take(9 * p.c);
    totals = (double*)take(2 * p.h), dz = take(p.padded), dgates = take(p.c * strip);
    dsecond = take(p.c), dwindows = take(9 * p.c), norms = (Norm*)take(3 * p.c);
    gain = p.gain + index % p.groups * p.c;
    mean = p.stats + index * 4 * p.c, rest = mean + p.c, scale = rest + p.c, second = scale + p.c;
  }

  float* pixel(float* planes, int64_t channel) const { return planes + channel * p.padded + LANES + p.row; }
  float* share() const { return p.shares + index * Share(p.c).size; }
  double total() const {
    double all = 0;
    for (int64_t y = 0; y < p.h; y++) all += totals[y];
    return all;
  }
};

struct Range {
  int64_t from, to;
  Range(int64_t count, int64_t part, int64_t parts) : from(count * part / parts), to(count * (part + 1) / parts) {}
};

void softmax(const float* in, float* out, int64_t n) {
  float most = in[0], total = 0;
  for (int64_t i = 1; i < n; i++) most = in[i] > most ? in[i] : most;
  for (int64_t i = 0; i < n; i++) total += out[i] = std::exp(in[i] - most);
  for (int64_t i = 0; i < n; i++) out[i] /= total;
}

// ---- between tensors and padded planes ------------------------------------------------------------------------------

template <class T> INLINE T* slab_data(const Problem& p, const Tensor& t, int64_t slab) {
  return (T*)t.data + slab / p.groups * t.strides[0] + slab % p.groups * p.c * t.strides[1];
}

INLINE void zero_border(const Problem& p, float* plane) {
  std::memset(plane, 0, (LANES + p.row) * sizeof(float));
  std::memset(plane + LANES + (p.h + 1) * p.row, 0, (p.row + LANES) * sizeof(float));
}

// Channels [from, to), counted from the first of slab `first`.
template <class T>
INLINE void read(const Problem& p, const Tensor& t, int64_t first, float* planes, int64_t from, int64_t to) {
  const int64_t h = p.h, w = p.w, row = p.row, whole = w / LANES * LANES, padded = p.padded;
  const int64_t channel = t.strides[1], line = t.strides[2], step = t.strides[3];
  const T* data = slab_data<T>(p, t, first);
  for (int64_t c = from; c < to; c++) zero_border(p, planes + c * padded);
  planes += LANES + row;
  int64_t c = from;
  if (channel == 1)
    for (; c + LANES <= to; c += LANES)
      for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < row; x += LANES) {
          Vec pixels[8] = {};
          for (int64_t i = 0; i < LANES && x + i < w; i++) pixels[i] = load(data + c + y * line + (x + i) * step);
          transpose(pixels);
          for (int64_t i = 0; i < LANES; i++) store(planes + (c + i) * padded + y * row + x, pixels[i]);
        }
  for (; c < to; c++)
    for (int64_t y = 0; y < h; y++) {
      const T* source = data + c * channel + y * line;
      float* target = planes + c * padded + y * row;
      if (step == 1 && w >= LANES) {
        for (int64_t x = 0; x < whole; x += LANES) store(target + x, load(source + x));
        store(target + w - LANES, load(source + w - LANES));
      } else {
        for (int64_t x = 0; x < w; x++) {
          T one[LANES] = {source[x * step]};
          target[x] = load(one)[0];
        }
      }
      store(target + w, Vec{});  // the beginning of the next row is overwritten, and that of the border is zero
      if (row - w > LANES) store(target + row - LANES, Vec{});
    }
}

// What x is multiplied by. With a gain of 0 it is 1 exactly, with a gain of 1 the map.
INLINE Vec blend(Vec map, float gain) { return map * gain + (1.f - gain); }

// Each plane, blended with itself times its slab's map if there are maps.
template <class T>
INLINE void write(
    const Problem& p, const Tensor& t, int64_t first, const float* planes, const float* maps, int64_t from,
    int64_t to) {
  const int64_t h = p.h, w = p.w, row = p.row, wide = p.wide, whole = w / LANES * LANES, padded = p.padded;
  const int64_t channel = t.strides[1], line = t.strides[2], step = t.strides[3];
  T* data = slab_data<T>(p, t, first);
  const float* gain = p.gain + first % p.groups * p.c;
  planes += LANES + row;
  int64_t c = from;
  if (channel == 1)
    for (; c + LANES <= to; c += LANES)
      for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x += LANES) {
          Vec pixels[8];
          for (int64_t i = 0; i < LANES; i++) {
            pixels[i] = load(planes + (c + i) * padded + y * row + x);
            if (maps) pixels[i] *= blend(load(maps + ((c + i) / p.c * h + y) * wide + x), gain[c + i]);
          }
          transpose(pixels);
          for (int64_t i = 0; i < LANES && x + i < w; i++) store(data + c + y * line + (x + i) * step, pixels[i]);
        }
  for (; c < to; c++)
    for (int64_t y = 0; y < h; y++) {
      T* target = data + c * channel + y * line;
      const float *source = planes + c * padded + y * row, *map = maps ? maps + (c / p.c * h + y) * wide : nullptr;
      const float share = gain[c];
      auto value = [=](int64_t x) INLINED {
        return map ? load(source + x) * blend(load(map + x), share) : load(source + x);
      };
      if (step == 1 && w >= LANES) {
        for (int64_t x = 0; x < whole; x += LANES) store(target + x, value(x));
        store(target + w - LANES, value(w - LANES));
      } else {
        for (int64_t x = 0; x < w; x += LANES) {
          T some[LANES];
          store(some, value(x));
          for (int64_t i = 0; i < LANES && x + i < w; i++) target[(x + i) * step] = some[i];
        }
      }
    }
}

}  // namespace
