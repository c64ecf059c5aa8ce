// Counting a tile into the histogram of scale 0 without a table, by codes of a
// few bits.
#pragma once

#include "cpu/stats/stats_histogram.h"
#if defined(__AVX512F__)
#include "cpu/stats/stats_codes_avx512.h"
#elif defined(__AVX2__)
#include "cpu/stats/stats_codes_avx2.h"
#endif

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

#if defined(__AVX2__)

// Note [Codes of a tile]. A tile's values mostly lie within a few powers of two
// of the largest one. A value's code is how many powers of two it lies below
// that one, kDeepest at most; a zero has the code kDeepest too. Codes and signs
// are counted without a table, where one would take a load, an addition and a
// store per element; the few values of code kDeepest are counted one by one.
// docs/decisions/0020-histogram-by-bit-planes.md has the times.

// A second round of codes, of the values that lie too deep for the first one,
// is for tiles of many sizes, such as Adam's second moments: those above its
// window have the code kDeepest too.
constexpr int kCodeRounds = 2;

// Counts a full tile of finite elements, or returns false where a table is the
// better way.
inline bool count_tile_by_codes(const float *x, const TileSums<float> &t, const Ahead &ahead,
                                HistogramTables &tables) {
  constexpr int64_t kManyDeep = kTile / 8;
  const float largest = -t.min > t.max ? -t.min : t.max;
  if (t.finite != kTile || largest == 0) return false;
  const uint32_t top = (bit_cast<uint32_t>(largest) - 1) >> 23;
  Codes codes;
  int64_t positive[kCodeRounds][kDeepest], negative[kCodeRounds][kDeepest];
  int64_t deep = kTile - t.zero;
  int rounds = 0;
  while (deep > (rounds == 0 ? 0 : kManyDeep)) {
    const uint32_t round_top = top - static_cast<uint32_t>(rounds * kDeepest);
    if (rounds == kCodeRounds || !has_codes(round_top)) return false;
    take_codes(x, round_top, ahead, codes);
    count_codes(codes, positive[rounds], negative[rounds]);
    for (int code = 0; code < kDeepest; ++code)
      deep -= positive[rounds][code] + negative[rounds][code];
    ++rounds;
  }
  for (int round = 0; round < rounds; ++round) {
    const uint32_t round_top = top - static_cast<uint32_t>(round * kDeepest);
    for (uint32_t code = 0; code < kDeepest; ++code) {
      tables.count[0][round_top - code] += static_cast<uint32_t>(positive[round][code]);
      tables.count[0][256 + round_top - code] += static_cast<uint32_t>(negative[round][code]);
    }
  }
  if (deep > 0) count_deep(x, top - static_cast<uint32_t>((rounds - 1) * kDeepest), codes, tables);
  return true;
}

#else

inline bool count_tile_by_codes(const float *, const TileSums<float> &, const Ahead &,
                                HistogramTables &) {
  return false;
}

#endif

inline bool count_tile_by_codes(const double *, const TileSums<double> &, const Ahead &,
                                HistogramTables &) {
  return false;
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
