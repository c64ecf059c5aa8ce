// Counting a tile by its codes with vectors of 256 bits: positional population
// counts.
#pragma once

#include <type_traits>

#include "cpu/stats/stats_histogram.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// A byte of a row has one bit for each of eight codes: those from 0 to 7 of
// positive values, the same of negative ones, and those from 8 to 11 of both.
// Each bit is counted by itself, in all 32 bytes of a vector, by carry-save
// adders (Mula, Kurz and Lemire 2018, "Faster population counts using AVX2
// instructions", section 4: Harley and Seal's method): counters that are spread
// over vectors, one binary digit in each. A transposition of bits makes bytes
// of them at the end of the tile, where none exceeds 128.
constexpr int kDeepest = 12;
constexpr int kRows = 3, kDigits = 8;
constexpr int kCodesBytes = 32, kBlockVectors = 16;  // of a block of a row

struct Codes {
  alignas(64) uint8_t code[kTile];  // in the order of the pack instructions
  __m256i digit[kRows][kDigits];
};

// A zero's exponent comes out as 255, and bytes wrap around: it must not land
// on a code.
INITSTATS_HD bool has_codes(uint32_t top) { return top >= kDeepest; }

struct CodeVectors {
  __m256i code, negative;  // 0xFF where negative
};

INITSTATS_HD CodeVectors codes_of(const float *x, __m256i top) {
  const __m256i one = _mm256_set1_epi32(1), exponent = _mm256_set1_epi16(0xFF);
  const auto places = [&](const float *p) {  // 9 bits: sign, exponent
    return _mm256_srli_epi32(_mm256_sub_epi32(_mm256_loadu_si256((const __m256i *)p), one), 23);
  };
  const __m256i low = _mm256_packus_epi32(places(x), places(x + 8));
  const __m256i high = _mm256_packus_epi32(places(x + 16), places(x + 24));
  const __m256i exponents =
      _mm256_packus_epi16(_mm256_and_si256(low, exponent), _mm256_and_si256(high, exponent));
  const __m256i signs = _mm256_packus_epi16(_mm256_srli_epi16(low, 8), _mm256_srli_epi16(high, 8));
  return {_mm256_min_epu8(_mm256_sub_epi8(top, exponents), _mm256_set1_epi8(kDeepest)),
          _mm256_sub_epi8(_mm256_setzero_si256(), signs)};
}

// The sum of three digits of one weight: `low` of that weight, and returned, of
// twice that weight.
INITSTATS_HD __m256i carry_save(__m256i &low, __m256i b, __m256i c) {
  const __m256i a = low, u = _mm256_xor_si256(a, b);
  low = _mm256_xor_si256(u, c);
  return _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(u, c));
}

// Adds kBlockVectors vectors of a row to its digits.
INITSTATS_HD void add_block(const __m256i (&v)[kBlockVectors], __m256i (&digit)[kDigits]) {
  __m256i ones = digit[0], twos = digit[1], fours = digit[2], eights = digit[3];
  const auto four = [&](int i) {  // vectors i to i + 3, what overflows into fours
    const __m256i a = carry_save(ones, v[i], v[i + 1]), b = carry_save(ones, v[i + 2], v[i + 3]);
    return carry_save(twos, a, b);
  };
  const auto eight = [&](int i) {
    const __m256i a = four(i), b = four(i + 4);
    return carry_save(fours, a, b);
  };
  const __m256i a = eight(0), b = eight(8);
  __m256i carry = carry_save(eights, a, b);
  digit[0] = ones;
  digit[1] = twos;
  digit[2] = fours;
  digit[3] = eights;
#pragma GCC unroll 4
  for (int k = 4; k < kDigits; ++k) {
    const __m256i sum = _mm256_xor_si256(digit[k], carry);
    carry = _mm256_and_si256(digit[k], carry);
    digit[k] = sum;
  }
}

inline void take_codes(const float *x, uint32_t top, const Ahead &ahead, Codes &codes) {
  const __m256i tops = _mm256_set1_epi8(static_cast<char>(top));
  // One bit for each code from 0 to 7; one in each half of the byte for those
  // from 8 to 11.
  const __m256i near = _mm256_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2,
                                        4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256i far = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x22, 0x44, -0x78, 0, 0, 0, 0,
                                       0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x22, 0x44, -0x78, 0, 0, 0, 0);
  const __m256i low_half = _mm256_set1_epi8(0x0F);
  CountAhead prefetch(ahead, kTile / kCodesBytes);
  for (auto &digits : codes.digit) {
    for (__m256i &digit : digits) digit = _mm256_setzero_si256();
  }
  for (int block = 0; block < kTile; block += kCodesBytes * kBlockVectors) {
    __m256i v[kRows][kBlockVectors];
    for (int i = 0; i < kBlockVectors; ++i) {
      const int at = block + i * kCodesBytes;
      prefetch();
      const CodeVectors c = codes_of(x + at, tops);
      _mm256_store_si256((__m256i *)(codes.code + at), c.code);
      const __m256i either = _mm256_shuffle_epi8(near, c.code);
      v[0][i] = _mm256_andnot_si256(c.negative, either);
      v[1][i] = _mm256_and_si256(c.negative, either);
      v[2][i] = _mm256_and_si256(_mm256_shuffle_epi8(far, c.code),
                                 _mm256_xor_si256(c.negative, low_half));
    }
    for (int row = 0; row < kRows; ++row) add_block(v[row], codes.digit[row]);
  }
}

INITSTATS_HD int64_t sum_of_bytes(__m256i bytes) {
  const __m256i sums = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
  const __m128i two =
      _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1);
}

// In each byte of eight vectors, bit i of vector k becomes bit k of vector i.
INITSTATS_HD void transpose_bits(__m256i (&v)[kDigits]) {
  const auto swap = [&](int i, int j, auto shift, char mask) {
    const __m256i t = _mm256_and_si256(_mm256_xor_si256(_mm256_srli_epi16(v[i], shift.value), v[j]),
                                       _mm256_set1_epi8(mask));
    v[j] = _mm256_xor_si256(v[j], t);
    v[i] = _mm256_xor_si256(v[i], _mm256_slli_epi16(t, shift.value));
  };
  for (int i = 0; i < 4; ++i) swap(i, i + 4, std::integral_constant<int, 4>{}, 0x0F);
  for (const int i : {0, 1, 4, 5}) swap(i, i + 2, std::integral_constant<int, 2>{}, 0x33);
  for (const int i : {0, 2, 4, 6}) swap(i, i + 1, std::integral_constant<int, 1>{}, 0x55);
}

inline void count_codes(Codes &codes, int64_t (&positive)[kDeepest],
                        int64_t (&negative)[kDeepest]) {
  for (auto &digits : codes.digit) transpose_bits(digits);
  for (int i = 0; i < 8; ++i) {
    positive[i] = sum_of_bytes(codes.digit[0][i]);
    negative[i] = sum_of_bytes(codes.digit[1][i]);
  }
  for (int i = 0; i < 4; ++i) {
    positive[8 + i] = sum_of_bytes(codes.digit[2][i]);
    negative[8 + i] = sum_of_bytes(codes.digit[2][4 + i]);
  }
}

// Counts the non-zero elements below all other codes one by one.
inline void count_deep(const float *x, uint32_t top, const Codes &codes, HistogramTables &tables) {
  constexpr int kLanes = 8;
  const __m256i limit = _mm256_set1_epi32(static_cast<int>((top - (kDeepest - 1)) << 23));
  for (int at = 0; at < kTile; at += kCodesBytes) {
    const __m256i deepest = _mm256_cmpeq_epi8(_mm256_load_si256((const __m256i *)(codes.code + at)),
                                              _mm256_set1_epi8(kDeepest));
    if (_mm256_testz_si256(deepest, deepest) != 0) continue;
    for (int i = at; i < at + kCodesBytes; i += kLanes) {
      const __m256i size = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + i)),
                                            _mm256_set1_epi32(0x7FFFFFFF));
      const __m256i is_deep = _mm256_andnot_si256(_mm256_cmpgt_epi32(size, limit),
                                                  _mm256_cmpgt_epi32(size, _mm256_setzero_si256()));
      unsigned deep = static_cast<unsigned>(_mm256_movemask_ps((__m256)is_deep));
      for (; deep != 0; deep &= deep - 1) {
        const int k = __builtin_ctz(deep);
        ++tables.count[k % kTables][bucket_place(bit_cast<uint32_t>(x[i + k]), 0)];
      }
    }
  }
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
