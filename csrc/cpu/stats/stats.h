// CPU statistics: the moments, histogram and fingerprint of a run of tiles of one tensor. No
// threads, no checks.
#pragma once

#include "cpu/simd/dispatch.h"
#include "math/core/items.h"
#include "math/core/layout.h"
#include "math/stats/moments.h"
#include "math/stats/pairs.h"

namespace initstats::cpu {

// The tiles [begin, end) of a tensor, Note [Tile order].
struct StatsRange {
  const void* data;
  ItemType type;
  const Layout* layout;
  int64_t begin, end;
  Second second = {};    // Note [Pairs]; then no fingerprint
  void* copy = nullptr;  // of a dense tensor: where its items go, in the same layout
};

// The most tiles of one call. A call begins at a multiple of it, so that its record is a node of
// Note [Merge order].
constexpr int kTilesPerCall = 32;

struct StatsPartial {
  Record record;
  uint64_t fingerprint;
};

// A tensor of at most so many elements may have their places in the histogram written, which is
// less than the histogram.
constexpr int64_t kFewElements = 512;

// Where the histogram of a range goes, Note [Buckets]: one of both.
struct HistogramRow {
  HistogramRow(int64_t* to) : counts(to) {}
  HistogramRow(uint16_t* to) : places(to) {}

  int64_t* counts = nullptr;   // [histogram_places(scale)], to which counts are added atomically
  uint16_t* places = nullptr;  // [count] of a whole tensor of few elements: of each, or kNoPlace
};

// The kernels of one capability; equal bits for every capability.
struct StatsKernels {
  // The histogram row is not looked at without that group.
  void (*range)(const StatsRange&, const StatsGroups&, StatsPartial*, HistogramRow);
};

namespace baseline {
extern const StatsKernels stats_kernels;
}
namespace avx2 {
extern const StatsKernels stats_kernels;
}
namespace avx512 {
extern const StatsKernels stats_kernels;
}

inline const StatsKernels& chosen_stats_kernels() { return INITSTATS_CHOOSE(stats_kernels); }

}  // namespace initstats::cpu
