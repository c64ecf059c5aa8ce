// Vector families of csrc/math/core/lanes.h for AVX2 with FMA and F16C: 8 floats or 4 doubles.
#pragma once

#include <immintrin.h>

#include "math/core/lanes.h"

namespace initstats::cpu {

struct Avx2x32 {
  typedef float F __attribute__((vector_size(32)));
  typedef uint32_t U __attribute__((vector_size(32)));
  typedef int32_t I __attribute__((vector_size(32)));
  typedef uint64_t W __attribute__((vector_size(32)));
  static constexpr int kWidth = 8;
  static constexpr int kHalves = 2;
  static constexpr bool kComparesIntegers = true;

  static INITSTATS_HD F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static INITSTATS_HD F sqrt(F a) { return _mm256_sqrt_ps(a); }
  static INITSTATS_HD U bits(F a) { return (U)a; }
  static INITSTATS_HD F from_bits(U a) { return (F)a; }
  static INITSTATS_HD F from_int(U a) { return _mm256_cvtepi32_ps((__m256i)a); }
  static INITSTATS_HD F select(I where, F a, F b) { return _mm256_blendv_ps(b, a, (__m256)where); }
  static INITSTATS_HD bool any(I a) { return _mm256_movemask_ps((__m256)a) != 0; }
  static INITSTATS_HD F min(F a, F b) { return _mm256_min_ps(a, b); }
  static INITSTATS_HD F max(F a, F b) { return _mm256_max_ps(a, b); }
  static INITSTATS_HD F broadcast(float a) { return _mm256_set1_ps(a); }
  static INITSTATS_HD F load(const float* p) { return _mm256_loadu_ps(p); }
  static INITSTATS_HD void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  static INITSTATS_HD U load(const uint32_t* p) { return (U)_mm256_loadu_si256((const __m256i*)p); }
  static INITSTATS_HD void store(uint32_t* p, U a) { _mm256_storeu_si256((__m256i*)p, (__m256i)a); }
  static INITSTATS_HD U splat(uint32_t a) { return (U)_mm256_set1_epi32(static_cast<int>(a)); }
  static INITSTATS_HD U umin(U a, U b) { return (U)_mm256_min_epu32((__m256i)a, (__m256i)b); }
  static INITSTATS_HD U umax(U a, U b) { return (U)_mm256_max_epu32((__m256i)a, (__m256i)b); }
  // The greater one as two's complement.
  static INITSTATS_HD U smax(U a, U b) { return (U)_mm256_max_epi32((__m256i)a, (__m256i)b); }
  static INITSTATS_HD U one_where(I where) { return U{} - (U)where; }

  static INITSTATS_HD W mul_wide(W a, uint32_t b) {
    return (W)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
  }
  // As in lanes_avx512.h: lane 4g+k of U holds counter 2k+g, half h holds the lanes 4g+2h+{0,1}.
  static INITSTATS_HD W counters(uint64_t first, int half) {
    const W even = {0, 2, 1, 3};
    const W odd = {4, 6, 5, 7};
    return (half == 0 ? even : odd) + first;
  }
  static INITSTATS_HD U join(W even, W odd) {
    return (U)_mm256_shuffle_ps((__m256)even, (__m256)odd, 0x88);
  }
  static INITSTATS_HD void transpose(U (&v)[4]) {
    const __m256i a = (__m256i)v[0], b = (__m256i)v[1], c = (__m256i)v[2], d = (__m256i)v[3];
    const __m256i ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
    const __m256i cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
    v[0] = (U)_mm256_unpacklo_epi64(ab_low, cd_low);
    v[1] = (U)_mm256_unpackhi_epi64(ab_low, cd_low);
    v[2] = (U)_mm256_unpacklo_epi64(ab_high, cd_high);
    v[3] = (U)_mm256_unpackhi_epi64(ab_high, cd_high);
  }
};

struct Avx2x64 {
  typedef double F __attribute__((vector_size(32)));
  typedef uint64_t U __attribute__((vector_size(32)));
  typedef int64_t I __attribute__((vector_size(32)));
  static constexpr int kWidth = 4;
  static constexpr bool kComparesIntegers = false;  // of 64 bits

  static INITSTATS_HD F fma(F a, F b, F c) { return _mm256_fmadd_pd(a, b, c); }
  static INITSTATS_HD F sqrt(F a) { return _mm256_sqrt_pd(a); }
  static INITSTATS_HD U bits(F a) { return (U)a; }
  static INITSTATS_HD F from_bits(U a) { return (F)a; }
  static INITSTATS_HD F from_int(U a) { return __builtin_convertvector((I)a, F); }
  static INITSTATS_HD F select(I where, F a, F b) { return _mm256_blendv_pd(b, a, (__m256d)where); }
  static INITSTATS_HD bool any(I a) { return _mm256_movemask_pd((__m256d)a) != 0; }
  static INITSTATS_HD F min(F a, F b) { return _mm256_min_pd(a, b); }
  static INITSTATS_HD F max(F a, F b) { return _mm256_max_pd(a, b); }
  static INITSTATS_HD F broadcast(double a) { return _mm256_set1_pd(a); }
  static INITSTATS_HD F load(const double* p) { return _mm256_loadu_pd(p); }
  static INITSTATS_HD void store(double* p, F a) { _mm256_storeu_pd(p, a); }
  static INITSTATS_HD U load(const uint64_t* p) { return (U)_mm256_loadu_si256((const __m256i*)p); }
  static INITSTATS_HD U splat(uint64_t a) {
    return (U)_mm256_set1_epi64x(static_cast<long long>(a));
  }
  // Of values below 2^63.
  static INITSTATS_HD U umin(U a, U b) { return (I)a < (I)b ? a : b; }
  static INITSTATS_HD U one_where(I where) { return U{} - (U)where; }
};

}  // namespace initstats::cpu
