// Counting a tile by its codes with vectors of 512 bits: bit planes and
// population counts.
#pragma once

#include "cpu/stats/stats_histogram.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Five bits tell a value's place: the sign and the code. Bit k of 512 elements is eight words of
// plane k, and the elements of one code are the ones in an AND of planes.
constexpr int kCodeBits = 5, kSignBit = 4, kDeepest = 15;
constexpr int kPlaneWords = kTile / 64;
constexpr int kBlockWords = 8, kBlock = kBlockWords * 64;

struct Codes {
  alignas(64) uint64_t plane[kCodeBits][kPlaneWords];
};

inline bool has_codes(uint32_t top) {
  static const bool has_instructions =
      __builtin_cpu_supports("avx512vpopcntdq") != 0 && __builtin_cpu_supports("gfni") != 0;
  return has_instructions && top >= kDeepest;
}

// For each bit of `where` that is set that of a, for the others that of b.
INITSTATS_HD __m512i chosen(__m512i where, __m512i a, __m512i b) {
  constexpr int kChosen = 0xCA;
  return _mm512_ternarylogic_epi32(where, a, b, kChosen);
}

// Upper halves of the elements from x + 16 on, and beside them in lower halves those from x on, all
// less one in the last place: sign, exponent and what is of no use.
INITSTATS_HD __m512i upper_halves(const float *x) {
  const __m512i one = _mm512_set1_epi32(1), upper = _mm512_set1_epi32(static_cast<int>(0xFFFF0000));
  const __m512i low = _mm512_sub_epi32(_mm512_loadu_si512(x), one);
  const __m512i high = _mm512_sub_epi32(_mm512_loadu_si512(x + 16), one);
  return chosen(upper, high, _mm512_srli_epi32(low, 16));
}

// Codes of 64 elements: byte p is that of element element_of_byte(p). A zero's exponent is 255.
INITSTATS_HD __m512i packed_codes(const float *x, __m512i tops) {
  const __m512i a = upper_halves(x), b = upper_halves(x + 32);
  const __m512i upper = _mm512_set1_epi16(static_cast<short>(0xFF00));
  const __m512i exponents = chosen(upper, _mm512_add_epi16(b, b), _mm512_srli_epi16(a, 7));
  const __m512i below = _mm512_sub_epi8(tops, exponents);  // at least kDeepest where it wraps
  const __m512i level = _mm512_min_epu8(below, _mm512_set1_epi8(kDeepest));
  const __m512i signs =
      chosen(upper, _mm512_srli_epi16(b, 7 - kSignBit), _mm512_srli_epi16(a, 15 - kSignBit));
  return chosen(_mm512_set1_epi8(1 << kSignBit), signs, level);
}
INITSTATS_HD int element_of_byte(int byte) { return (byte & 1) << 5 | (byte & 2) << 3 | byte >> 2; }

// Makes 8 x 8 bits of every 8 bytes: bit i of byte k is bit k of byte 7 - i.
__attribute__((target("gfni"), always_inline)) inline __m512i bits_turned(__m512i bytes) {
  constexpr long long kOneBitPerByte = static_cast<long long>(0x8040201008040201u);
  return _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64(kOneBitPerByte), bytes, 0);
}

// Note [Order of planes]. Turned, bytes 8 j + k of a vector of 64 codes hold bit k of its bytes 8 j
// to 8 j + 7. Of eight such vectors, bytes with the same j and k are put side by side: byte w of
// word j of a plane is of codes 8 j to 8 j + 7 of vector w, the last one in its lowest bit.
__attribute__((target("gfni"))) inline void take_codes(const float *x, uint32_t top,
                                                       const Ahead &ahead, Codes &codes) {
  CountAhead prefetch(ahead, 2 * kPlaneWords);
  const __m512i tops = _mm512_set1_epi8(static_cast<char>(top));
  for (int word = 0; word < kPlaneWords; word += kBlockWords) {
    __m512i even[4], odd[4];  // by the parity of j, bytes of two vectors in turn
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w, x += 128) {
      for (int i = 0; i < 4; ++i) prefetch();
      const __m512i a = bits_turned(packed_codes(x, tops));
      const __m512i b = bits_turned(packed_codes(x + 64, tops));
      even[w] = _mm512_unpacklo_epi8(a, b);
      odd[w] = _mm512_unpackhi_epi8(a, b);
    }
    // Of four vectors, then of eight: bits 0 to 3, and bit 4.
    const auto low = [](const __m512i(&v)[4], int w) {
      return _mm512_unpacklo_epi16(v[w], v[w + 1]);
    };
    const auto high = [](const __m512i(&v)[4], int w) {
      return _mm512_unpackhi_epi16(v[w], v[w + 1]);
    };
    const __m512i even_01 = _mm512_unpacklo_epi32(low(even, 0), low(even, 2));
    const __m512i even_23 = _mm512_unpackhi_epi32(low(even, 0), low(even, 2));
    const __m512i even_4 = _mm512_unpacklo_epi32(high(even, 0), high(even, 2));
    const __m512i odd_01 = _mm512_unpacklo_epi32(low(odd, 0), low(odd, 2));
    const __m512i odd_23 = _mm512_unpackhi_epi32(low(odd, 0), low(odd, 2));
    const __m512i odd_4 = _mm512_unpacklo_epi32(high(odd, 0), high(odd, 2));
    _mm512_store_si512(codes.plane[0] + word, _mm512_unpacklo_epi64(even_01, odd_01));
    _mm512_store_si512(codes.plane[1] + word, _mm512_unpackhi_epi64(even_01, odd_01));
    _mm512_store_si512(codes.plane[2] + word, _mm512_unpacklo_epi64(even_23, odd_23));
    _mm512_store_si512(codes.plane[3] + word, _mm512_unpackhi_epi64(even_23, odd_23));
    _mm512_store_si512(codes.plane[4] + word, _mm512_unpacklo_epi64(even_4, odd_4));
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

// Counts those of 64 elements that are smaller than all codes tell, one by one.
inline void count_deep_of(const float *x, __m512i limit, HistogramTables &tables) {
  for (int i = 0; i < 64; i += 16) {
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

// Counts the non-zero elements below all other codes one by one. A few in a block are found by
// their bits, most of which are of such elements: no branch depends on a value.
inline void count_deep(const float *x, uint32_t top, const Codes &codes, HistogramTables &tables) {
  constexpr int kFewBits = kBlock / 8;
  const uint32_t limit = (top - (kDeepest - 1)) << 23;
  const __m512i limits = _mm512_set1_epi32(static_cast<int>(limit));
  for (int block = 0; block < kPlaneWords; block += kBlockWords, x += kBlock) {
    uint64_t deepest[kBlockWords];
    int bits = 0;
    for (int j = 0; j < kBlockWords; ++j) {
      const int word = block + j;
      deepest[j] =
          codes.plane[0][word] & codes.plane[1][word] & codes.plane[2][word] & codes.plane[3][word];
      bits += __builtin_popcountll(deepest[j]);
    }
    if (bits > kFewBits) {
      for (int i = 0; i < kBlock; i += 64) count_deep_of(x + i, limits, tables);
      continue;
    }
    for (int j = 0; bits > 0 && j < kBlockWords; ++j) {
      for (uint64_t word = deepest[j]; word != 0; word &= word - 1) {
        const int bit = __builtin_ctzll(word);  // Note [Order of planes]
        const int element = (bit >> 3) * 64 + element_of_byte(8 * j + 7 - (bit & 7));
        const uint32_t value = bit_cast<uint32_t>(x[element]);
        const bool deep = (value & 0x7FFFFFFFu) - 1 < limit;
        ++tables.count[element % kTables][deep ? (value - 1) >> 23 : kNoPlace];
      }
    }
  }
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
