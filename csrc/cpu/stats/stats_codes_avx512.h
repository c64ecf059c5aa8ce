// Counting a tile by its codes with vectors of 512 bits: bit planes and
// population counts.
#pragma once

#include "cpu/stats/stats_histogram.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Five bits tell a value's place: the sign and the code. Bit k of 64 elements
// side by side is a word of plane k, and the elements of one code are the ones
// in an AND of planes.
constexpr int kCodeBits = 5, kSignBit = 4, kDeepest = 15;
constexpr int kPlaneWords = kTile / 64;

struct Codes {
  alignas(64) uint64_t plane[kCodeBits][kPlaneWords];
};

inline bool has_codes(uint32_t top) {
  static const bool has_population_count = __builtin_cpu_supports("avx512vpopcntdq") != 0;
  return has_population_count && top >= kDeepest;
}

// Codes of 32 elements from their places (9 bits: sign, exponent); a zero's
// place lies 255 above the bottom.
INITSTATS_HD __m512i codes_of(__m512i places, __m512i top) {
  const __m512i below = _mm512_sub_epi16(top, _mm512_and_si512(places, _mm512_set1_epi16(0xFF)));
  const __m512i level = _mm512_min_epu16(below, _mm512_set1_epi16(kDeepest));
  const __m512i sign = _mm512_srli_epi16(places, 8 - kSignBit);
  constexpr int kAOrBAndC = 0xF8;
  return _mm512_ternarylogic_epi32(level, sign, _mm512_set1_epi16(1 << kSignBit), kAOrBAndC);
}

// The order of elements inside a word is that of the pack instructions.
inline void take_codes(const float *x, uint32_t top, const Ahead &ahead, Codes &codes) {
  CountAhead prefetch(ahead, 2 * kPlaneWords);
  const __m512i tops = _mm512_set1_epi16(static_cast<short>(top)), one = _mm512_set1_epi32(1);
  const auto places = [&](const float *p) {
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
      codes.plane[k][word] =
          _mm512_test_epi8_mask(packed, _mm512_set1_epi8(static_cast<char>(1 << k)));
    }
  }
}

// The bits of 512 elements, plane by plane.
struct Planes {
  __m512i bit[kCodeBits];

  INITSTATS_HD explicit Planes(const Codes &codes, int word) {
    for (int k = 0; k < kCodeBits; ++k) bit[k] = _mm512_load_si512(codes.plane[k] + word);
  }
  // Where the lower three bits of the code are those of kLow.
  template <int kLow>
  INITSTATS_HD __m512i with_low_bits() const {
    constexpr int kOneMinterm = 1 << ((kLow & 1) * 4 + (kLow >> 1 & 1) * 2 + (kLow >> 2 & 1));
    return _mm512_ternarylogic_epi64(bit[0], bit[1], bit[2], kOneMinterm);
  }
};

// How many elements have a code, and how many of these are negative.
struct CodeCount {
  __m512i all, negative;
};

__attribute__((target("avx512vpopcntdq"), always_inline)) inline void add_where(__m512i where,
                                                                                __m512i signs,
                                                                                CodeCount &count) {
  count.all = _mm512_add_epi64(count.all, _mm512_popcnt_epi64(where));
  count.negative =
      _mm512_add_epi64(count.negative, _mm512_popcnt_epi64(_mm512_and_si512(where, signs)));
}

// Counts codes kFirst to kFirst + 3, and those 8 above: as many as registers
// hold sums.
template <int kFirst>
__attribute__((target("avx512vpopcntdq"))) inline void count_eight(const Codes &codes,
                                                                   int64_t *positive,
                                                                   int64_t *negative) {
  CodeCount low[4], high[4];
  const __m512i zero = _mm512_setzero_si512();
  for (int i = 0; i < 4; ++i) low[i] = high[i] = {zero, zero};
  for (int word = 0; word < kPlaneWords; word += 8) {
    const Planes planes(codes, word);
    const __m512i upper = planes.bit[3], signs = planes.bit[kSignBit];
    const __m512i same[4] = {planes.with_low_bits<kFirst>(), planes.with_low_bits<kFirst + 1>(),
                             planes.with_low_bits<kFirst + 2>(),
                             planes.with_low_bits<kFirst + 3>()};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      add_where(_mm512_andnot_si512(upper, same[i]), signs, low[i]);
      add_where(_mm512_and_si512(upper, same[i]), signs, high[i]);
    }
  }
  const auto write = [&](const CodeCount &count, int code) {
    if (code >= kDeepest) return;
    negative[code] = _mm512_reduce_add_epi64(count.negative);
    positive[code] = _mm512_reduce_add_epi64(count.all) - negative[code];
  };
  for (int i = 0; i < 4; ++i) {
    write(low[i], kFirst + i);
    write(high[i], kFirst + i + 8);
  }
}

__attribute__((target("avx512vpopcntdq"))) inline void count_codes(const Codes &codes,
                                                                   int64_t (&positive)[kDeepest],
                                                                   int64_t (&negative)[kDeepest]) {
  count_eight<0>(codes, positive, negative);
  count_eight<4>(codes, positive, negative);
}

// Counts the non-zero elements below all other codes one by one.
inline void count_deep(const float *x, uint32_t top, const Codes &codes, HistogramTables &tables) {
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
