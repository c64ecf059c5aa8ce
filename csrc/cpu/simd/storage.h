// How results are rounded to the storage type and written: a block of four vectors of float32
// lanes, or one vector of float64 lanes.
#pragma once

#include <type_traits>

#include "cpu/simd/lanes.h"
#include "math/core/scalar.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

using F32 = Lanes32::F;
using F64 = Lanes64::F;

struct StoreFloat32 {
  using Item = float;
  static INITSTATS_HD void store_block(float* p, const F32 (&v)[4]) { memcpy(p, v, sizeof(v)); }
};

struct StoreFloat64 {
  using Item = double;
  static INITSTATS_HD void store(double* p, F64 a) { memcpy(p, &a, sizeof(a)); }
};

struct StoreBFloat16 {
  using Item = uint16_t;
#if INITSTATS_VECTORS
  // to_bfloat16 of scalar.h: the result is the high half of each lane.
  static INITSTATS_HD Lanes32::U rounded(F32 a) {
    const Lanes32::U bits = Lanes32::bits(a);
    return bits + 0x7FFFu + ((bits >> 16) & 1u);
  }
#endif
  static INITSTATS_HD void store_block(uint16_t* p, const F32 (&v)[4]) {
#if defined(__AVX512F__)
    typedef uint16_t Items __attribute__((vector_size(64)));
    const Items high_halves = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                               33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    for (int j = 0; j < 4; j += 2) {
      const __m512i pair = _mm512_permutex2var_epi16((__m512i)rounded(v[j]), (__m512i)high_halves,
                                                     (__m512i)rounded(v[j + 1]));
      _mm512_storeu_si512(p + j * Lanes32::kWidth, pair);
    }
#elif defined(__AVX2__)
    for (int j = 0; j < 4; j += 2) {
      const __m256i pair =
          _mm256_packus_epi32((__m256i)(rounded(v[j]) >> 16), (__m256i)(rounded(v[j + 1]) >> 16));
      _mm256_storeu_si256((__m256i*)(p + j * Lanes32::kWidth),
                          _mm256_permute4x64_epi64(pair, 0xD8));
    }
#elif INITSTATS_VECTORS
    for (int j = 0; j < 4; j += 2)
      Lanes32::store_high_halves(p + j * Lanes32::kWidth, rounded(v[j]), rounded(v[j + 1]));
#else
    for (int j = 0; j < 4; ++j) p[j] = to_bfloat16(v[j]);
#endif
  }
};

struct StoreFloat16 {
  using Item = uint16_t;
#if INITSTATS_VECTORS && !defined(__AVX2__) && !defined(__aarch64__)
  // to_float16 of scalar.h, in the low half of each lane.
  static INITSTATS_HD Lanes32::U rounded(F32 a) {
    using U = Lanes32::U;
    typedef Lanes32::I I;  // magnitudes compare as signed numbers, which SSE2 has
    const U bits = Lanes32::bits(a), magnitude = bits & 0x7FFFFFFFu;
    const U subnormal = Lanes32::bits(Lanes32::from_bits(magnitude) + 0.5f) - 0x3F000000u;
    const U normal = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    const U finite = (I)magnitude < 0x38800000 ? subnormal : normal;
    return ((bits >> 16) & 0x8000u) | ((I)magnitude < 0x477FF000 ? finite : Lanes32::splat(0x7C00));
  }
#endif
  static INITSTATS_HD void store_block(uint16_t* p, const F32 (&v)[4]) {
    for (int j = 0; j < 4; ++j) {
#if defined(__AVX512F__)
      _mm256_storeu_si256((__m256i*)(p + j * 16), _mm512_cvtps_ph(v[j], _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
      _mm_storeu_si128((__m128i*)(p + j * 8), _mm256_cvtps_ph(v[j], _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
      vst1_u16(p + j * 4, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v[j])));
#elif INITSTATS_VECTORS
      Lanes32::store_low_halves(p + j * 4, rounded(v[j]));
#else
      p[j] = to_float16(v[j]);
#endif
    }
  }
};

// How a Real is stored as it is.
template <class Real>
using StoreReal = std::conditional_t<sizeof(Real) == 8, StoreFloat64, StoreFloat32>;

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
