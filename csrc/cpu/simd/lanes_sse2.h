// Vector families of csrc/math/core/lanes.h for x86-64 without FMA: SSE2, which every x86-64 has,
// and fused multiply-adds made of other operations, with the same bits.
#pragma once

#include <emmintrin.h>

#include "cpu/simd/lanes_128.h"

namespace initstats::cpu {

// Note [Emulated fma]. Where the processor has no fused multiply-add the C library's takes a
// hundred times as long as a product and a sum. These take ten times as long.
//   float32: in float64 the product of two is exact, and the sum s with c is rounded once. Rounding
// that to float32 goes wrong only if s lies exactly between two float32 and a b + c on one side of
// it. Where s is such a midpoint, s is rounded to odd instead: towards zero, its last bit set if
// that was inexact. A midpoint is left only where a b + c is one; else s lies on the right side.
// The same for subnormal results, whose midpoints are others, and for zero.
//   float64: the product is a pair of float64, and its low one and the error of the sum are added
// with rounding to odd; the last addition rounds once.
//   Source: Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums: proved
// algorithms using rounding to odd"; Dekker 1971 for the product. tests/kernels/native/fma_test.cpp
// compares them with the processor's own.
struct Sse2x64 : Vector128x64 {
  static constexpr uint64_t kNoSign = 0x7FFFFFFFFFFFFFFF;
  // Of a product: its error is then a float64 for certain.
  static constexpr double kLeastSplit = 0x1p-900;

  static INITSTATS_HD F sqrt(F a) { return _mm_sqrt_pd(a); }
  static INITSTATS_HD bool any(I a) { return _mm_movemask_pd((__m128d)a) != 0; }
  // From the two halves of an integer, each exact, in one addition.
  static INITSTATS_HD F from_int(U a) {
    constexpr uint64_t kTwo52 = 0x4330000000000000, kTwo84And63 = 0x4530000080000000;
    constexpr double kBoth = 0x1p84 + 0x1p63 + 0x1p52;
    const F low = from_bits((a & 0xFFFFFFFFu) | kTwo52), high = from_bits((a >> 32) ^ kTwo84And63);
    return (high - kBoth) + low;
  }

  // The rounding error of sum = a + b, exact unless the sum overflows (Knuth's TwoSum).
  static INITSTATS_HD F sum_error(F a, F b, F sum) {
    const F b_part = sum - a;
    return (a - (sum - b_part)) + (b - b_part);
  }
  // A sum rounded to odd, given what it is rounded to nearest and the error of that. An error that
  // is NaN leaves it as it is.
  static INITSTATS_HD F to_odd(F nearest, F error) {
    const U inexact = (U)(from_bits(bits(error) & kNoSign) > 0.0);
    const U too_large = ((bits(nearest) ^ bits(error)) >> 63) & inexact;
    return from_bits((bits(nearest) - too_large) | (inexact >> 63));
  }

  static INITSTATS_HD F fma(F a, F b, F c) {
    I sure = (I)splat(~uint64_t{0});
    const F result = fma(Halves(a), Halves(b), c, sure);
    sure &= result - result == 0.0;  // not where anything has overflowed
    if (__builtin_expect(_mm_movemask_pd((__m128d)sure) != 3, 0)) return rare_fma(a, b, c);
    return result;
  }

  // polynomials() of math/random/special.h.
  template <int M, int N>
  static INITSTATS_HD void horner(const F (&x)[M], const double (&c)[N], F (&sum)[M]) {
    for (int j = 0; j < M; ++j) {
      const double* const one[1] = {c};
      horner<1>(x[j], one, N, &sum[j]);
    }
  }
  // two_polynomials() of the same.
  template <int N>
  static INITSTATS_HD void horner(F x, const double (&a)[N], const double (&b)[N], F (&sums)[2]) {
    const double* const both[2] = {a, b};
    horner<2>(x, both, N, sums);
  }

 private:
  // a as the sum of two numbers of 26 bits (Veltkamp).
  struct Halves {
    F whole, high, low;
    INITSTATS_HD explicit Halves(F a) : whole(a) {
      const F wide = a * 134217729.0;  // 2^27 + 1
      high = wide - (wide - a);
      low = a - high;
    }
  };

  static INITSTATS_HD F fma(const Halves& a, const Halves& b, F c, I& sure) {
    const F product = a.whole * b.whole;
    const F product_error =
        ((a.high * b.high - product) + a.high * b.low + a.low * b.high) + a.low * b.low;
    const F sum = product + c;
    const F error = sum_error(product, c, sum);
    const F rest = error + product_error;
    sure &= from_bits(bits(product) & kNoSign) >= kLeastSplit;
    return sum + to_odd(rest, sum_error(error, product_error, rest));
  }
  // Very small and very large products, and those with zero, which are exact.
  static __attribute__((noinline, cold)) F rare_fma(F a, F b, F c) {
    F result = a * b + c;
    for (int i = 0; i < kWidth; ++i) {
      if (a[i] != 0 && b[i] != 0) result[i] = __builtin_fma(a[i], b[i], c[i]);
    }
    return result;
  }

  // P polynomials in the same x.
  template <int P>
  static INITSTATS_HD void horner(F x, const double* const (&c)[P], int n, F* sum) {
    if (__builtin_expect(fast_horner<P>(x, c, n, sum), 1)) return;
    for (int k = 0; k < P; ++k) sum[k] = careful_horner(x, c[k], n);
  }
  // Returns false where a result may be wrong.
  template <int P>
  static __attribute__((noinline)) bool fast_horner(F x, const double* const* c, int n, F* sum) {
    const Halves halves(x);
    I sure = (I)splat(~uint64_t{0});
    F s[P];
    for (int k = 0; k < P; ++k) s[k] = broadcast(c[k][n - 1]);
    for (int i = n - 2; i >= 0; --i) {
#pragma GCC unroll 4
      for (int k = 0; k < P; ++k) s[k] = fma(Halves(s[k]), halves, broadcast(c[k][i]), sure);
    }
    for (int k = 0; k < P; ++k) {
      sum[k] = s[k];
      sure &= s[k] - s[k] == 0.0;
    }
    return _mm_movemask_pd((__m128d)sure) == 3;
  }
  static __attribute__((noinline, cold)) F careful_horner(F x, const double* c, int n) {
    F sum = broadcast(c[n - 1]);
    for (int i = n - 2; i >= 0; --i) sum = rare_fma(sum, x, broadcast(c[i]));
    return sum;
  }
};

struct Sse2x32 : Vector128x32 {
  using D = Sse2x64::F;

  static constexpr bool kComparesIntegers = false;

  static INITSTATS_HD F sqrt(F a) { return _mm_sqrt_ps(a); }
  static INITSTATS_HD bool any(I a) { return _mm_movemask_ps((__m128)a) != 0; }
  // Of values below 2^31: SSE2 compares signed numbers.
  static INITSTATS_HD U umin(U a, U b) { return (I)a < (I)b ? a : b; }
  static INITSTATS_HD W mul_wide(W a, uint32_t b) {
    return (W)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
  }
  // Adds the products of all lanes to two vectors; which go where is left open.
  static INITSTATS_HD void add_products(U a, U b, W& one, W& other) {
    one += (W)_mm_mul_epu32((__m128i)a, (__m128i)b);
    other += (W)_mm_mul_epu32(_mm_srli_epi64((__m128i)a, 32), _mm_srli_epi64((__m128i)b, 32));
  }

  static INITSTATS_HD U join(W low_half, W high_half) {
    return (U)_mm_shuffle_ps((__m128)low_half, (__m128)high_half, 0x88);
  }
  static INITSTATS_HD void transpose(U (&v)[4]) {
    const __m128i a = (__m128i)v[0], b = (__m128i)v[1], c = (__m128i)v[2], d = (__m128i)v[3];
    const __m128i ab_low = _mm_unpacklo_epi32(a, b), ab_high = _mm_unpackhi_epi32(a, b);
    const __m128i cd_low = _mm_unpacklo_epi32(c, d), cd_high = _mm_unpackhi_epi32(c, d);
    v[0] = (U)_mm_unpacklo_epi64(ab_low, cd_low);
    v[1] = (U)_mm_unpackhi_epi64(ab_low, cd_low);
    v[2] = (U)_mm_unpacklo_epi64(ab_high, cd_high);
    v[3] = (U)_mm_unpackhi_epi64(ab_high, cd_high);
  }
  static INITSTATS_HD void store_high_halves(uint16_t* p, U a, U b) {
    const __m128i low = _mm_srai_epi32((__m128i)a, 16), high = _mm_srai_epi32((__m128i)b, 16);
    _mm_storeu_si128((__m128i*)p, _mm_packs_epi32(low, high));
  }
  static INITSTATS_HD void store_low_halves(uint16_t* p, U a) {
    const __m128i signs = _mm_srai_epi32(_mm_slli_epi32((__m128i)a, 16), 16);  // for packs
    _mm_storel_epi64((__m128i*)p, _mm_packs_epi32(signs, signs));
  }

  static INITSTATS_HD F fma(F a, F b, F c) {
    const D low = wide(a) * wide(b) + wide(c);
    const D high = wide_high(a) * wide_high(b) + wide_high(c);
    const F result = narrow(low, high);
    const I rare = is_midpoint(low, high) | ((I)(bits(result) & 0x7FFFFFFFu) < 0x00800000);
    if (__builtin_expect(any(rare), 0)) return rare_fma(a, b, c);
    return result;
  }

  // polynomials() of math/random/special.h, with one look for midpoints at the end. A
  // subnormal sum needs none if no coefficient is close to zero: then it comes of a difference
  // between two numbers that are close to each other, which is exact in float64.
  template <int M, int N>
  static INITSTATS_HD void horner(const F (&x)[M], const float (&c)[N], F (&sum)[M]) {
    bool fast = true;
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) fast = fast && (c[i] >= 0x1p-100f || c[i] <= -0x1p-100f);
    if (__builtin_expect(fast && fast_horner<M>(x, c, N, sum), 1)) return;
    careful_horner(x, c, N, M, sum);
  }

 private:
  // Returns false where a result may be wrong.
  template <int M>
  static __attribute__((noinline)) bool fast_horner(const F* x, const float* c, int n, F* sum) {
    D x_low[M], x_high[M], low[M], high[M];
    for (int j = 0; j < M; ++j) {
      x_low[j] = wide(x[j]);
      x_high[j] = wide_high(x[j]);
      low[j] = high[j] = Sse2x64::broadcast(c[n - 1]);
    }
    I midpoint = {};
#pragma GCC unroll 1
    for (int i = n - 2; i >= 0; --i) {
      const D next = Sse2x64::broadcast(c[i]);
#pragma GCC unroll 4
      for (int j = 0; j < M; ++j) {
        low[j] = low[j] * x_low[j] + next;
        high[j] = high[j] * x_high[j] + next;
        midpoint |= is_midpoint(low[j], high[j]);
        low[j] = wide(_mm_cvtpd_ps(low[j]));
        high[j] = wide(_mm_cvtpd_ps(high[j]));
      }
    }
    for (int j = 0; j < M; ++j) sum[j] = narrow(low[j], high[j]);
    return !any(midpoint);
  }
  static __attribute__((noinline, cold)) void careful_horner(const F* x, const float* c, int n,
                                                             int vectors, F* sum) {
    for (int j = 0; j < vectors; ++j) {
      sum[j] = broadcast(c[n - 1]);
      for (int i = n - 2; i >= 0; --i) sum[j] = rare_fma(sum[j], x[j], broadcast(c[i]));
    }
  }

  // Where a float64 lies between two float32: of the 29 bits that rounding drops, only the first is
  // set.
  static INITSTATS_HD I is_midpoint(D low, D high) {
    return (join((W)low, (W)high) << 3) == 0x80000000u;
  }
  static INITSTATS_HD D wide(F a) { return _mm_cvtps_pd(a); }
  static INITSTATS_HD D wide_high(F a) { return _mm_cvtps_pd(_mm_movehl_ps(a, a)); }
  static INITSTATS_HD F narrow(D low, D high) {
    return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
  }
  static INITSTATS_HD D sum_to_odd(D a, D b) {
    const D sum = a + b;
    return Sse2x64::to_odd(sum, Sse2x64::sum_error(a, b, sum));
  }
  static __attribute__((noinline, cold)) F rare_fma(F a, F b, F c) {
    return narrow(sum_to_odd(wide(a) * wide(b), wide(c)),
                  sum_to_odd(wide_high(a) * wide_high(b), wide_high(c)));
  }
};

}  // namespace initstats::cpu

template <>
inline constexpr bool initstats::kEmulatesFma<initstats::cpu::Sse2x32> = true;
template <>
inline constexpr bool initstats::kEmulatesFma<initstats::cpu::Sse2x64> = true;
