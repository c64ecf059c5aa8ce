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
  Second second = {};  // Note [Pairs]; then no fingerprint
};

// The most tiles of one call. A call begins at a multiple of it, so that its record is a node of
// Note [Merge order].
constexpr int kTilesPerCall = 32;

struct StatsPartial {
  Record record;
  uint64_t fingerprint;
};

// The kernels of one capability; equal bits for every capability.
struct StatsKernels {
  // histogram is [histogram_places(scale)], Note [Buckets]; counts are added to it atomically.
  void (*range)(const StatsRange&, const StatsGroups&, StatsPartial*, int64_t* histogram);
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
