// Counting a tile by its codes with vectors of 512 bits: bit planes and population counts.
#pragma once

#include "cpu/stats/stats_histogram.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Five bits tell a value's place: the sign and the code. Bit k of 64 elements side by side is a
// word of plane k, and the elements of one code are the ones in an AND of planes.
constexpr int kCodeBits = 5, kSignBit = 4, kDeepest = 15;
constexpr int kPlaneWords = kTile / 64;

struct Codes {
  alignas(64) uint64_t plane[kCodeBits][kPlaneWords];
  alignas(64) uint64_t inverse[kSignBit][kPlaneWords];
};

inline bool has_codes(uint32_t top) {
  static const bool has_population_count = __builtin_cpu_supports("avx512vpopcntdq") != 0;
  return has_population_count && top >= kDeepest;
}

// Codes of 32 elements from their places (9 bits: sign, exponent); a zero's place lies 255 above
// the bottom.
INITSTATS_HD __m512i codes_of(__m512i places, __m512i top) {
  const __m512i below = _mm512_sub_epi16(top, _mm512_and_si512(places, _mm512_set1_epi16(0xFF)));
  const __m512i level = _mm512_min_epu16(below, _mm512_set1_epi16(kDeepest));
  const __m512i sign =
      _mm512_and_si512(_mm512_srli_epi16(places, 8 - kSignBit), _mm512_set1_epi16(1 << kSignBit));
  return _mm512_or_si512(level, sign);
}

// The order of elements inside a word is that of the pack instructions.
inline void take_codes(const float* x, uint32_t top, const Ahead& ahead, Codes& codes) {
  CountAhead prefetch(ahead, 2 * kPlaneWords);
  const __m512i tops = _mm512_set1_epi16(static_cast<short>(top)), one = _mm512_set1_epi32(1);
  const auto places = [&](const float* p) {
    return _mm512_srli_epi32(_mm512_sub_epi32(_mm512_loadu_si512(p), one), 23);
  };
  for (int word = 0; word < kPlaneWords; ++word, x += 64) {
    prefetch();
    prefetch();
    const __m512i low = codes_of(_mm512_packus_epi32(places(x), places(x + 16)), tops);
    const __m512i high = codes_of(_mm512_packus_epi32(places(x + 32), places(x + 48)), tops);
    const __m512i packed = _mm512_packus_epi16(low, high);
#pragma GCC unroll 5
    for (int k = 0; k < kCodeBits; ++k) {
      const uint64_t bits =
          _mm512_test_epi8_mask(packed, _mm512_set1_epi8(static_cast<char>(1 << k)));
      codes.plane[k][word] = bits;
      if (k < kSignBit) codes.inverse[k][word] = ~bits;
    }
  }
}

__attribute__((target("avx512vpopcntdq"))) inline void count_codes(const Codes& codes,
                                                                   int64_t (&positive)[kDeepest],
                                                                   int64_t (&negative)[kDeepest]) {
  for (int code = 0; code < kDeepest; ++code) {
    const uint64_t* chosen[kSignBit];
    for (int k = 0; k < kSignBit; ++k)
      chosen[k] = (code >> k & 1) != 0 ? codes.plane[k] : codes.inverse[k];
    __m512i counts = _mm512_setzero_si512(), negatives = counts;
    for (int word = 0; word < kPlaneWords; word += 8) {
      const auto at = [&](const uint64_t* plane) { return _mm512_load_si512(plane + word); };
      const __m512i where = _mm512_and_si512(_mm512_and_si512(at(chosen[0]), at(chosen[1])),
                                             _mm512_and_si512(at(chosen[2]), at(chosen[3])));
      const __m512i signs = _mm512_and_si512(where, at(codes.plane[kSignBit]));
      counts = _mm512_add_epi64(counts, _mm512_popcnt_epi64(where));
      negatives = _mm512_add_epi64(negatives, _mm512_popcnt_epi64(signs));
    }
    negative[code] = _mm512_reduce_add_epi64(negatives);
    positive[code] = _mm512_reduce_add_epi64(counts) - negative[code];
  }
}

// Counts the non-zero elements of the deepest code one by one.
inline void count_deep(const float* x, uint32_t top, const Codes& codes, HistogramTables& tables) {
  const __m512i limit = _mm512_set1_epi32(static_cast<int>((top - (kDeepest - 1)) << 23));
  for (int word = 0; word < kPlaneWords; ++word) {
    if ((codes.plane[0][word] & codes.plane[1][word] & codes.plane[2][word] &
         codes.plane[3][word]) == 0)
      continue;
    for (int i = word * 64; i < word * 64 + 64; i += 16) {
      const __m512i bits = _mm512_loadu_si512(x + i);
      const __m512i size = _mm512_and_si512(bits, _mm512_set1_epi32(0x7FFFFFFF));
      const __m512i below = _mm512_sub_epi32(size, _mm512_set1_epi32(1));
      const __mmask16 deep = _mm512_cmplt_epu32_mask(below, limit);
      if (deep == 0) continue;
      alignas(64) uint32_t found[16];
      _mm512_store_si512(found, _mm512_maskz_compress_epi32(deep, bits));
      for (int k = 0; k < __builtin_popcount(deep); ++k)
        ++tables.count[k % kTables][bucket_place(found[k], 0)];
    }
  }
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
