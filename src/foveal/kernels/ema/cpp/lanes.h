// Eight numbers at a time: vectors that GCC and Clang lower to AVX2, SSE2 or NEON alike, and the types of tensors.

#pragma once

#include <cmath>
#include <cstdint>

#define INLINED __attribute__((always_inline))  // into code compiled for AVX2, and so as AVX2
#define INLINE static inline INLINED

constexpr int64_t LANES = 8;
typedef float Vec __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(16), aligned(2), may_alias));

struct Bfloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Ints){__VA_ARGS__})
#endif

INLINE Vec spread(float value) { return Vec{} + value; }
INLINE Bits choose(Ints condition, Bits yes, Bits no) { return ((Bits)condition & yes) | (~(Bits)condition & no); }
INLINE Vec choose(Ints condition, Vec yes, Vec no) { return (Vec)choose(condition, (Bits)yes, (Bits)no); }

// The first n lanes, zero in the others.
INLINE Vec first(int64_t n, Vec v) { return choose(Ints{0, 1, 2, 3, 4, 5, 6, 7} < (int32_t)n, v, Vec{}); }

INLINE float sum(Vec v) {
  v += SHUFFLE(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v += SHUFFLE(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  return v[0] + v[1];
}

INLINE Vec load(const float* p) { return *(const Vec*)p; }
INLINE void store(float* p, Vec v) { *(Vec*)p = v; }

INLINE Vec load(const Bfloat16* p) { return (Vec)(__builtin_convertvector(*(const Halves*)p, Bits) << 16); }

INLINE void store(Bfloat16* p, Vec v) {
  Bits u = (Bits)v, rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;  // to the nearest, ties to even
  *(Halves*)p = __builtin_convertvector(choose(v != v, (u >> 16) | 0x40, rounded), Halves);
}

INLINE Vec load(const Float16* p) {
  Bits h = __builtin_convertvector(*(const Halves*)p, Bits);
  // Exponent and mantissa go where fp32 has them; the product corrects the bias and makes subnormals normal.
  Bits magnitude = (Bits)((Vec)((h & 0x7FFF) << 13) * 0x1p112f);
  Bits special = choose((Ints)(h & 0x7FFF) >= 0x7C00, Bits{} + 0x7F800000u, Bits{});
  return (Vec)(magnitude | special | ((h & 0x8000) << 16));
}

INLINE void store(Float16* p, Vec v) {
  Bits u = (Bits)v, sign = (u >> 16) & 0x8000;
  u &= 0x7FFFFFFF;
  Bits normal = (u - (112u << 23) + 0xFFF + ((u >> 13) & 1)) >> 13;
  Bits tiny = (Bits)((Vec)u + 0.5f) - 0x3F000000u;  // the last place of 0.5 is the unit of fp16's subnormals
  Bits huge = choose((Ints)u > 0x7F800000, Bits{} + 0x7E00u, Bits{} + 0x7C00u);
  Bits out = choose((Ints)u < (113 << 23), tiny, normal);
  out = choose((Ints)u >= 0x47800000, huge, out);
  *(Halves*)p = __builtin_convertvector(out | sign, Halves);
}

// 1 / (1 + exp(-v)), exp by a polynomial on [-ln 2 / 2, ln 2 / 2], to a few units in the last place. NaN stays NaN.
INLINE Vec sigmoid(Vec v) {
  Vec x = v > 87.f ? spread(87.f) : v;  // in this order a NaN stays
  x = x < -88.f ? spread(-88.f) : x;
  Vec shifted = x * -1.44269504f + 12582912.f;  // 1.5 * 2^23: the sum's last bits are the nearest whole number
  Vec n = shifted - 12582912.f;
  Vec f = (-x - n * 0.693145752f) - n * 1.42860677e-6f;
  Vec p = f * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * (f * f) + f + 1.f;
  return 1.f / (1.f + p * (Vec)(((Bits)shifted << 23) + (127u << 23)));
}

// Rows become columns.
INLINE void transpose(Vec (&r)[8]) {
  Vec t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = SHUFFLE(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    t[i + 1] = SHUFFLE(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i : {0, 1, 4, 5}) {
    int to = i / 4 * 4 + i % 4 * 2;
    u[to] = SHUFFLE(t[i], t[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    u[to + 1] = SHUFFLE(t[i], t[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = SHUFFLE(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    r[i + 4] = SHUFFLE(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
