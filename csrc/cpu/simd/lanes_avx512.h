// Vector families of csrc/math/core/lanes.h for AVX-512 (F, BW, DQ, VL): 16 floats or 8 doubles.
#pragma once

#include <immintrin.h>

#include "math/core/lanes.h"

namespace initstats::cpu {

struct Avx512x32 {
  typedef float F __attribute__((vector_size(64)));
  typedef uint32_t U __attribute__((vector_size(64)));
  typedef int32_t I __attribute__((vector_size(64)));
  typedef uint64_t W __attribute__((vector_size(64)));
  static constexpr int kWidth = 16;
  static constexpr int kHalves = 2;
  static constexpr bool kComparesIntegers = true;

  static INITSTATS_HD F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static INITSTATS_HD F sqrt(F a) { return _mm512_sqrt_ps(a); }
  static INITSTATS_HD U bits(F a) { return (U)a; }
  static INITSTATS_HD F from_bits(U a) { return (F)a; }
  static INITSTATS_HD F from_int(U a) { return _mm512_cvtepi32_ps((__m512i)a); }
  static INITSTATS_HD F select(I where, F a, F b) { return where ? a : b; }
  static INITSTATS_HD bool any(I a) { return _mm512_movepi32_mask((__m512i)a) != 0; }
  static INITSTATS_HD F min(F a, F b) { return _mm512_min_ps(a, b); }
  static INITSTATS_HD F max(F a, F b) { return _mm512_max_ps(a, b); }
  static INITSTATS_HD F broadcast(float a) { return _mm512_set1_ps(a); }
  static INITSTATS_HD F load(const float* p) { return _mm512_loadu_ps(p); }
  static INITSTATS_HD void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static INITSTATS_HD U load(const uint32_t* p) { return (U)_mm512_loadu_si512(p); }
  static INITSTATS_HD void store(uint32_t* p, U a) { _mm512_storeu_si512(p, (__m512i)a); }
  static INITSTATS_HD U splat(uint32_t a) { return (U)_mm512_set1_epi32(static_cast<int>(a)); }
  static INITSTATS_HD U umin(U a, U b) { return (U)_mm512_min_epu32((__m512i)a, (__m512i)b); }
  static INITSTATS_HD U umax(U a, U b) { return (U)_mm512_max_epu32((__m512i)a, (__m512i)b); }
  // The greater one as two's complement.
  static INITSTATS_HD U smax(U a, U b) { return (U)_mm512_max_epi32((__m512i)a, (__m512i)b); }
  static INITSTATS_HD U one_where(I where) { return U{} - (U)where; }

  static INITSTATS_HD W mul_wide(W a, uint32_t b) {
    return (W)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
  }
  // Lanes 4g and 4g+1 of U come from lanes 2g and 2g+1 of half 0, the next two from half 1: one
  // shuffle. Lane 4g+k holds counter 4k+g, so that the 4x4 transposes inside the 128-bit groups
  // leave the words of consecutive counters in consecutive lanes: no permutation across groups.
  static INITSTATS_HD W counters(uint64_t first, int half) {
    const W even = {0, 4, 1, 5, 2, 6, 3, 7};
    const W odd = {8, 12, 9, 13, 10, 14, 11, 15};
    return (half == 0 ? even : odd) + first;
  }
  static INITSTATS_HD U join(W even, W odd) {
    return (U)_mm512_shuffle_ps((__m512)even, (__m512)odd, 0x88);
  }
  static INITSTATS_HD void transpose(U (&v)[4]) {
    const __m512i a = (__m512i)v[0], b = (__m512i)v[1], c = (__m512i)v[2], d = (__m512i)v[3];
    const __m512i ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
    const __m512i cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
    v[0] = (U)_mm512_unpacklo_epi64(ab_low, cd_low);
    v[1] = (U)_mm512_unpackhi_epi64(ab_low, cd_low);
    v[2] = (U)_mm512_unpacklo_epi64(ab_high, cd_high);
    v[3] = (U)_mm512_unpackhi_epi64(ab_high, cd_high);
  }
};

struct Avx512x64 {
  typedef double F __attribute__((vector_size(64)));
  typedef uint64_t U __attribute__((vector_size(64)));
  typedef int64_t I __attribute__((vector_size(64)));
  static constexpr int kWidth = 8;
  static constexpr bool kComparesIntegers = false;  // of 64 bits

  static INITSTATS_HD F fma(F a, F b, F c) { return _mm512_fmadd_pd(a, b, c); }
  static INITSTATS_HD F sqrt(F a) { return _mm512_sqrt_pd(a); }
  static INITSTATS_HD U bits(F a) { return (U)a; }
  static INITSTATS_HD F from_bits(U a) { return (F)a; }
  static INITSTATS_HD F from_int(U a) { return _mm512_cvtepi64_pd((__m512i)a); }
  static INITSTATS_HD F select(I where, F a, F b) { return where ? a : b; }
  static INITSTATS_HD bool any(I a) { return _mm512_movepi64_mask((__m512i)a) != 0; }
  static INITSTATS_HD F min(F a, F b) { return _mm512_min_pd(a, b); }
  static INITSTATS_HD F max(F a, F b) { return _mm512_max_pd(a, b); }
  static INITSTATS_HD F broadcast(double a) { return _mm512_set1_pd(a); }
  static INITSTATS_HD F load(const double* p) { return _mm512_loadu_pd(p); }
  static INITSTATS_HD void store(double* p, F a) { _mm512_storeu_pd(p, a); }
  static INITSTATS_HD U load(const uint64_t* p) { return (U)_mm512_loadu_si512(p); }
  static INITSTATS_HD U splat(uint64_t a) {
    return (U)_mm512_set1_epi64(static_cast<long long>(a));
  }
  // Of values below 2^63.
  static INITSTATS_HD U umin(U a, U b) { return (U)_mm512_min_epu64((__m512i)a, (__m512i)b); }
  static INITSTATS_HD U one_where(I where) { return U{} - (U)where; }
};

}  // namespace initstats::cpu
