// EMA on the CPU, forward and backward, behind a plain C interface: no torch and no Python headers, so that one build
// serves every version of both.
//
// Slabs are shared out among the threads; if there are fewer slabs than threads, the steps of each are. No sum crosses
// two threads, so that results do not depend on their number.

#include <dlfcn.h>

#include <atomic>
#include <new>
#include <thread>

#include "steps.h"

namespace {

// A pass over a bundle in steps. The first reads the whole bundle, the last writes it, the others are of one slab.
// Parts of a step are independent of each other.
using Step = void (*)(const Problem&, const Bundle&, int step, int64_t slab, int64_t part, int64_t parts);
constexpr int FORWARD_LAST = 5, BACKWARD_LAST = 7;

template <class T>
INLINE void forward(const Problem& p, const Bundle& b, int step, int64_t slab, int64_t part, int64_t parts) {
  const Range all(b.count * p.c, part, parts), channels(p.c, part, parts), rows(p.h, part, parts);
  const Slab s(p, b, slab);
  switch (step) {
    case 0:
      read<T>(p, p.x, b.first, b.x, all.from, all.to);
      break;
    case 1:
      for (int64_t c = channels.from; c < channels.to; c++) pool(s, c);
      break;
    case 2:
      for (int64_t o = channels.from; o < channels.to; o++) open_gates(s, o);
      if (part == 0) second_softmax(s);
      break;
    case 3:
      for (int64_t c = channels.from; c < channels.to; c++) moments(s, c);
      break;
    case 4:
      if (rows.from == rows.to) break;
      draw_map(s, rows.from, rows.to);
      for (int64_t y = rows.from; p.map && y < rows.to; y++)
        std::memcpy(p.map + s.index * p.pixels() + y * p.w, s.map + y * p.wide, p.w * sizeof(float));
      break;
    case 5:
      write<T>(p, p.out, b.first, b.x, b.map, all.from, all.to);
  }
}

template <class T>
INLINE void backward(const Problem& p, const Bundle& b, int step, int64_t slab, int64_t part, int64_t parts) {
  const Range all(b.count * p.c, part, parts), channels(p.c, part, parts), rows(p.h, part, parts);
  const Slab s(p, b, slab);
  switch (step) {
    case 0:
      read<T>(p, p.x, b.first, b.x, all.from, all.to);
      read<T>(p, p.dy, b.first, b.g, all.from, all.to);
      break;
    case 1:
      for (int64_t c = channels.from; c < channels.to; c++) pool(s, c);
      if (part == 0) zero_border(p, s.dz);
      break;
    case 2:
      for (int64_t o = channels.from; o < channels.to; o++) open_gates(s, o);
      break;
    case 3:
      if (rows.from == rows.to) break;
      if (!p.map) draw_map(s, rows.from, rows.to);
      for (int64_t y = rows.from; p.map && y < rows.to; y++)
        std::memcpy(s.map + y * p.wide, p.map + s.index * p.pixels() + y * p.w, p.w * sizeof(float));
      logit_gradient(s, rows.from, rows.to);
      break;
    case 4: {
      const double total = s.total();
      if (part == 0) s.share()[Share(p.c).total] = (float)total;
      for (int64_t c = channels.from; c < channels.to; c++) {
        channel_gradient(s, c, total);
        if (p.learns_gain) gain_gradient(s, c);
      }
      break;
    }
    case 5:
      for (int64_t o = channels.from; o < channels.to; o++) gate_gradient(s, o);
      if (part == 0) softmax_gradient(s);
      break;
    case 6:
      for (int64_t c = channels.from; c < channels.to; c++) input_gradient(s, c);
      break;
    case 7:
      write<T>(p, p.out, b.first, b.g, nullptr, all.from, all.to);
  }
}

#define PASS(name, pass, target)                                                                                \
  template <class T>                                                                                            \
  target void name(const Problem& p, const Bundle& b, int step, int64_t slab, int64_t part, int64_t parts) {    \
    pass<T>(p, b, step, slab, part, parts);                                                                     \
  }
PASS(forward_plain, forward, )
PASS(backward_plain, backward, )
#if defined(__x86_64__)
// The same vectors of eight either way; AVX-512 has twice the registers to keep the taps of a stencil in.
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx2,fma,avx512f,avx512vl,avx512dq,avx512bw,prefer-vector-width=256")))
PASS(forward_avx2, forward, AVX2)
PASS(backward_avx2, backward, AVX2)
PASS(forward_avx512, forward, AVX512)
PASS(backward_avx512, backward, AVX512)
int best_instructions() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  for (bool has : {__builtin_cpu_supports("avx512f") != 0, __builtin_cpu_supports("avx512vl") != 0,
                   __builtin_cpu_supports("avx512dq") != 0, __builtin_cpu_supports("avx512bw") != 0})
    if (!has) return 1;
  return 2;
}
#else
#define forward_avx2 forward_plain
#define backward_avx2 backward_plain
#define forward_avx512 forward_plain
#define backward_avx512 backward_plain
int best_instructions() { return 0; }
#endif

#define BY_TYPE(name) {name<float>, name<Bfloat16>, name<Float16>}
constexpr Step FORWARD[3][3] = {BY_TYPE(forward_plain), BY_TYPE(forward_avx2), BY_TYPE(forward_avx512)};
constexpr Step BACKWARD[3][3] = {BY_TYPE(backward_plain), BY_TYPE(backward_avx2), BY_TYPE(backward_avx512)};

// Memory that a thread keeps from call to call: fresh pages cost more than the work that is done on them.
struct Buffer {
  float* data = nullptr;
  int64_t size = 0;
  ~Buffer() { std::free(data); }
  float* get(int64_t floats) {
    if (floats > size) {
      std::free(data);
      size = (floats + 15) / 16 * 16;
      data = (float*)std::aligned_alloc(64, size * sizeof(float));
      if (!data) size = 0;
    }
    if (!data) throw std::bad_alloc();
    return data;
  }
};

// f(i, slot) for every i below count, in torch's own OpenMP threads if it has such: a second pool would fight them for
// the cores. No two calls at a time have the same slot, which is below `threads`.
template <class F> void parallel(int64_t count, int64_t threads, const F& f) {
  struct Team {
    const F& f;
    int64_t count;
    std::atomic<int64_t> next, slots;
  } team{f, count, {0}, {0}};
  void (*work)(void*) = [](void* data) {
    Team& team = *(Team*)data;
    const int64_t slot = team.slots++;
    for (int64_t i; (i = team.next++) < team.count;) team.f(i, slot);
  };
  using Fork = void (*)(void (*)(void*), void*, unsigned, unsigned);
  static const Fork fork = (Fork)dlsym(RTLD_DEFAULT, "GOMP_parallel");
  threads = threads < count ? threads : count;
  if (threads <= 1) return work(&team);
  if (fork) return fork(work, &team, (unsigned)threads, 0);
  std::vector<std::thread> others;
  for (int64_t i = 1; i < threads; i++) others.emplace_back(work, &team);
  work(&team);
  for (std::thread& other : others) other.join();
}

// How many slabs are read and written together. In a channels_last tensor neighbours share vectors and cache lines.
int64_t bundle_size(const Problem& p, int64_t threads) {
  if (p.x.strides[1] != 1) return 1;
  for (int64_t n = 1; n <= 2 * LANES; n++)
    if (p.groups % n == 0 && n * p.c % LANES == 0 && n * p.c >= 2 * LANES)
      return p.slabs() / n >= threads ? n : 1;
  return 1;
}

void run(const Problem& p, Step step, bool back, int64_t threads) {
  static thread_local Buffer buffer;
  const int64_t slabs = p.slabs(), last = back ? BACKWARD_LAST : FORWARD_LAST;
  const bool few = slabs < threads;
  const int64_t count = few ? 1 : bundle_size(p, threads);
  const int64_t floats = (Bundle::floats(p, count, back) + 15) / 16 * 16, bundles = slabs / count;
  float* memory = buffer.get((bundles < threads ? bundles : threads) * floats);
  if (few) {
    const int64_t parts = (threads + slabs - 1) / slabs;
    for (int k = 0; k <= last; k++)
      parallel(slabs * parts, threads, [&](int64_t i, int64_t) {
        const Bundle bundle(p, i / parts, 1, memory + i / parts * floats, back);
        step(p, bundle, k, 0, i % parts, parts);
      });
    return;
  }
  parallel(bundles, threads, [&](int64_t i, int64_t slot) {
    const Bundle bundle(p, i * count, count, memory + slot * floats, back);
    step(p, bundle, 0, 0, 0, 1);
    for (int64_t slab = 0; slab < count; slab++)
      for (int k = 1; k < last; k++) step(p, bundle, k, slab, 0, 1);
    step(p, bundle, last, 0, 0, 1);
  });
}

// Adds up the shares of all slabs; `gradients` in the order of the weights, and of the gain.
void reduce(const Problem& p, float* const* gradients, int64_t threads) {
  const Share at(p.c);
  const Weights& k = p.weights;
  const int64_t slabs = p.slabs(), taps = 9 * p.c;
  std::vector<double> kernel(taps), first(p.c);
  double total = 0, mean = 0;
  for (int64_t n = 0; n < slabs; n++) {
    const float* share = p.shares + n * at.size;
    total += share[at.total];
    for (int64_t i = 0; i < taps; i++) kernel[i] += share[at.kernel + i];
  }
  for (int64_t o = 0; o < p.c; o++) {
    first[o] = k.b3[o] * total;
    for (int64_t i = 0; i < taps; i++) first[o] += k.w3[o * taps + i] * kernel[i];
    mean += k.first[o] * first[o];
  }
  parallel(p.c, threads, [&](int64_t o, int64_t) {
    std::vector<double> w1(p.c), w3(taps);
    double b1 = 0, gamma = 0, beta = k.first[o] * (first[o] - mean), b3 = k.first[o] * total;
    for (int64_t i = 0; i < taps; i++) w3[i] = k.first[o] * kernel[i];
    for (int64_t n = 0; n < slabs; n++) {
      const float* share = p.shares + n * at.size;
      const double logit = share[at.logits + o];
      b1 += share[at.b1 + o];
      gamma += share[at.gamma + o];
      beta += (double)p.stats[(n * 4 + 3) * p.c + o] * share[at.total];
      b3 += logit;
      for (int64_t c = 0; c < p.c; c++) w1[c] += share[at.w1 + o * p.c + c];
      for (int64_t i = 0; i < taps; i++) w3[i] += logit * share[at.windows + i];
    }
    for (int64_t c = 0; c < p.c; c++) gradients[0][o * p.c + c] = (float)w1[c];
    gradients[1][o] = (float)b1;
    gradients[2][o] = (float)gamma;
    gradients[3][o] = (float)beta;
    for (int64_t i = 0; i < taps; i++) gradients[4][o * taps + i] = (float)w3[i];
    gradients[5][o] = (float)b3;
  });
  if (!p.learns_gain) return;
  for (int64_t i = 0; i < p.groups * p.c; i++) {
    double all = 0;
    for (int64_t b = 0; b < p.batch; b++) all += p.shares[(b * p.groups + i / p.c) * at.size + at.gain + i % p.c];
    gradients[6][i] = (float)all;
  }
}

Problem problem(const int64_t* sizes, const float* const* weights, const float* gain, float eps) {
  Problem p{};
  p.batch = sizes[0], p.groups = sizes[1], p.c = sizes[2], p.h = sizes[3], p.w = sizes[4];
  p.eps = eps;
  if (!gain) p.ones.assign(p.groups * p.c, 1.f);
  p.gain = gain ? gain : p.ones.data(), p.learns_gain = gain;
  p.wide = (p.w + LANES - 1) / LANES * LANES, p.tall = (p.h + LANES - 1) / LANES * LANES;
  p.row = (p.w / LANES + 1) * LANES;
  p.padded = (p.h + 2) * p.row + 2 * LANES;
  Weights& k = p.weights;
  k.w1 = weights[0], k.b1 = weights[1], k.gamma = weights[2], k.beta = weights[3], k.w3 = weights[4], k.b3 = weights[5];
  k.first.resize(p.c), k.kernel.resize(9 * p.c);
  softmax(k.beta, k.first.data(), p.c);
  for (int64_t o = 0; o < p.c; o++) {
    k.bias += k.first[o] * k.b3[o];
    for (int64_t i = 0; i < 9 * p.c; i++) k.kernel[i] += k.first[o] * k.w3[o * 9 * p.c + i];
  }
  return p;
}

}  // namespace

#define PUBLIC extern "C" __attribute__((visibility("default")))

// sizes: batch, groups, channels of a group, height, width. strides: batch, channel, row, column, in elements.
// dtype: 0 fp32, 1 bf16, 2 fp16. instructions: at most what foveal_ema_instructions says.
// weights: conv1x1, its bias, gn, its bias, conv3x3, its bias, contiguous fp32.
// gain: null, or of each channel, for x + gain (ema(x) - x). What runs returns 0, or 1 where memory ran out.
PUBLIC int foveal_ema_version() { return 5; }
// 0 portable, 1 AVX2, 2 AVX-512: the best that this processor has.
PUBLIC int foveal_ema_instructions() { return best_instructions(); }

// stats (n, 4, c) and map (n, h, w) of the n = batch * groups slabs are for the backward pass; either may be null.
PUBLIC int foveal_ema_forward(
    int dtype, int instructions, int threads, const int64_t* sizes, const void* x, const int64_t* x_strides, void* y,
    const int64_t* y_strides, const float* const* weights, const float* gain, float eps, float* stats, float* map) {
  try {
    static thread_local Buffer own;
    Problem p = problem(sizes, weights, gain, eps);
    p.x = {(void*)x, x_strides}, p.out = {y, y_strides};
    p.stats = stats ? stats : own.get(p.slabs() * 4 * p.c), p.map = map;
    run(p, FORWARD[instructions][dtype], false, threads);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

// gradients: six arrays like the weights, and with a gain a seventh like it.
PUBLIC int foveal_ema_backward(
    int dtype, int instructions, int threads, const int64_t* sizes, const void* x, const int64_t* x_strides,
    const void* dy, const int64_t* dy_strides, void* dx, const int64_t* dx_strides, const float* const* weights,
    const float* gain, float eps, const float* stats, const float* map, float* const* gradients) {
  try {
    static thread_local Buffer own;
    Problem p = problem(sizes, weights, gain, eps);
    p.x = {(void*)x, x_strides}, p.dy = {(void*)dy, dy_strides}, p.out = {dx, dx_strides};
    p.stats = (float*)stats, p.map = (float*)map, p.shares = own.get(p.slabs() * Share(p.c).size);
    run(p, BACKWARD[instructions][dtype], true, threads);
    reduce(p, gradients, threads);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}
