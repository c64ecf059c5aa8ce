// Counting a tile into the histogram of scale 0 without a table: bit planes and population counts.
#pragma once

#include "cpu/stats_histogram.h"
#if defined(__AVX512F__)
#include "cpu/stats_planes_avx512.h"
#elif defined(__AVX2__)
#include "cpu/stats_planes_avx2.h"
#endif

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

#if defined(__AVX2__)

// Counts a full tile of finite elements, or returns false where a table is the better way.
inline bool count_tile_by_planes(const float* x, const TileSums<float>& t,
                                 HistogramTables& tables) {
  const float largest = -t.min > t.max ? -t.min : t.max;
  if (!has_population_count() || t.finite != kTile || largest == 0) return false;
  const uint32_t top = (bit_cast<uint32_t>(largest) - 1) >> 23;
  Planes planes;
  int64_t all[kLevels], negative[kLevels];
  fill_planes(x, top, planes);
  count_levels(planes, all, negative);
  constexpr int64_t kManyDeep = kTile / 8;
  const int64_t deep = all[kDeepest] - t.zero;
  if (deep > kManyDeep) return false;
  for (uint32_t level = 0; level < kDeepest && level <= top; ++level) {
    tables.count[0][top - level] += static_cast<uint32_t>(all[level] - negative[level]);
    tables.count[0][256 + top - level] += static_cast<uint32_t>(negative[level]);
  }
  if (deep > 0) count_deep(x, top, planes, tables);
  return true;
}

#else

inline bool count_tile_by_planes(const float*, const TileSums<float>&, HistogramTables&) {
  return false;
}

#endif

inline bool count_tile_by_planes(const double*, const TileSums<double>&, HistogramTables&) {
  return false;
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
