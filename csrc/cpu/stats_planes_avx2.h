// The bit planes of stats_planes.h with vectors of 256 bits.
#pragma once

#include "cpu/stats_levels.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

struct Planes {
  alignas(64) uint64_t plane[kCodeBits][kPlaneWords];
};

inline bool has_population_count() { return true; }  // count_bits below needs no instruction for it

// Codes of 16 elements, as in stats_planes_avx512.h.
INITSTATS_HD __m256i level_codes(__m256i places, __m256i top) {
  const __m256i below = _mm256_sub_epi16(top, _mm256_and_si256(places, _mm256_set1_epi16(0xFF)));
  const __m256i level = _mm256_min_epu16(below, _mm256_set1_epi16(kDeepest));
  const __m256i sign =
      _mm256_and_si256(_mm256_srli_epi16(places, 8 - kSignBit), _mm256_set1_epi16(1 << kSignBit));
  return _mm256_or_si256(level, sign);
}

// The order of elements inside 32 bits is that of the pack instructions.
inline void fill_planes(const float* x, uint32_t top, Planes& planes) {
  const __m256i tops = _mm256_set1_epi16(static_cast<short>(top)), one = _mm256_set1_epi32(1);
  const auto places = [&](const float* p) {
    return _mm256_srli_epi32(_mm256_sub_epi32(_mm256_loadu_si256((const __m256i*)p), one), 23);
  };
  for (int half = 0; half < 2 * kPlaneWords; ++half, x += 32) {
    const __m256i low = level_codes(_mm256_packus_epi32(places(x), places(x + 8)), tops);
    const __m256i high = level_codes(_mm256_packus_epi32(places(x + 16), places(x + 24)), tops);
    // movemask takes the highest bits: bit k is moved there, the highest one first.
    __m256i codes = _mm256_slli_epi16(_mm256_packus_epi16(low, high), 7 - kSignBit);
#pragma GCC unroll 5
    for (int k = kSignBit; k >= 0; --k) {
      const uint32_t bits = static_cast<uint32_t>(_mm256_movemask_epi8(codes));
      memcpy(reinterpret_cast<uint32_t*>(planes.plane[k]) + half, &bits, sizeof(bits));
      codes = _mm256_add_epi8(codes, codes);
    }
  }
}

// Adds the number of ones in every byte of `bits` to those of `sum`, by table of half bytes.
INITSTATS_HD __m256i count_bits(__m256i sum, __m256i bits) {
  const __m256i ones = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2,
                                        1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i four = _mm256_set1_epi8(0xF);
  const __m256i low = _mm256_and_si256(bits, four);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), four);
  return _mm256_add_epi8(
      sum, _mm256_add_epi8(_mm256_shuffle_epi8(ones, low), _mm256_shuffle_epi8(ones, high)));
}

INITSTATS_HD int64_t sum_of_bytes(__m256i bytes) {
  const __m256i sums = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
  return _mm256_extract_epi64(sums, 0) + _mm256_extract_epi64(sums, 1) +
         _mm256_extract_epi64(sums, 2) + _mm256_extract_epi64(sums, 3);
}

inline void count_levels(const Planes& planes, int64_t (&all)[kLevels],
                         int64_t (&negative)[kLevels]) {
  static_assert(kPlaneWords / 4 * 8 < 256, "the sums of a tile fit in bytes");
  const auto at = [&](int k, int word) {
    return _mm256_load_si256((const __m256i*)(planes.plane[k] + word));
  };
  const __m256i full = _mm256_set1_epi8(-1), none = _mm256_setzero_si256();
  for (int level = 0; level < kLevels; level += 2) {  // two that differ in bit 0
    __m256i flip[kSignBit];
    for (int k = 1; k < kSignBit; ++k) flip[k] = (level >> k & 1) != 0 ? none : full;
    __m256i even = none, odd = none, even_negative = none, odd_negative = none;
    for (int word = 0; word < kPlaneWords; word += 4) {
      const __m256i pair =
          _mm256_and_si256(_mm256_xor_si256(at(1, word), flip[1]),
                           _mm256_and_si256(_mm256_xor_si256(at(2, word), flip[2]),
                                            _mm256_xor_si256(at(3, word), flip[3])));
      const __m256i low = at(0, word), sign = at(kSignBit, word);
      const __m256i in_even = _mm256_andnot_si256(low, pair), in_odd = _mm256_and_si256(low, pair);
      even = count_bits(even, in_even);
      odd = count_bits(odd, in_odd);
      even_negative = count_bits(even_negative, _mm256_and_si256(in_even, sign));
      odd_negative = count_bits(odd_negative, _mm256_and_si256(in_odd, sign));
    }
    all[level] = sum_of_bytes(even);
    all[level + 1] = sum_of_bytes(odd);
    negative[level] = sum_of_bytes(even_negative);
    negative[level + 1] = sum_of_bytes(odd_negative);
  }
}

// Counts the non-zero elements of the deepest level one by one.
inline void count_deep(const float* x, uint32_t top, const Planes& planes,
                       HistogramTables& tables) {
  const __m256i limit = _mm256_set1_epi32(static_cast<int>((top - (kDeepest - 1)) << 23));
  for (int word = 0; word < kPlaneWords; ++word) {
    if ((planes.plane[0][word] & planes.plane[1][word] & planes.plane[2][word] &
         planes.plane[3][word]) == 0)
      continue;
    for (int i = word * 64; i < word * 64 + 64; i += 8) {
      const __m256i bits = _mm256_loadu_si256((const __m256i*)(x + i));
      const __m256i size = _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF));
      const __m256i is_deep = _mm256_andnot_si256(
          _mm256_cmpeq_epi32(size, _mm256_setzero_si256()),
          _mm256_xor_si256(_mm256_cmpgt_epi32(size, limit), _mm256_set1_epi32(-1)));
      unsigned deep = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(is_deep)));
      for (; deep != 0; deep &= deep - 1) {
        const int k = __builtin_ctz(deep);
        ++tables.count[k % kTables][bucket_place(bit_cast<uint32_t>(x[i + k]), 0)];
      }
    }
  }
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
