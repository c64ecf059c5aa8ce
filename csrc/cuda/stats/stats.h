// CUDA statistics of many tensors: raw pointers and a CUDA stream, no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "math/core/items.h"
#include "math/core/layout.h"
#include "math/stats/moments.h"
#include "math/stats/pairs.h"

namespace initstats::cuda {

// One tensor, and where its record goes. All pointers are to device memory.
struct StatsTarget {
  const void* data;
  ItemType type;
  Layout layout;
  double* moments;  // [kMomentColumns]
  int64_t* counts;  // [kCountColumns]
  int64_t*
      histogram;  // [histogram_places(scale)], zero before the launch; unused without the group
  Second second = {};  // Note [Pairs]; then no fingerprint
};

// Scratch memory that launch_stats needs, aligned to 16 bytes.
int64_t stats_workspace_bytes(const StatsTarget* targets, int64_t count);

// Takes the statistics of count tensors. One launch per storage class (float32, float16, bfloat16,
// float64 that are one aligned run, or two that are subtracted; everything else) reads every
// element once, more only where the parameters outgrow a launch's 32764 bytes, from about 680
// tensors on (580 differences). One more launch merges the tiles, Note [Merge order], and a second
// one where a tensor has more than 512 tiles, 2 million elements. Asynchronous on `cuda_stream`; no
// allocation, no synchronisation. The bits are those of the CPU, whatever the grid.
[[nodiscard]] cudaError_t launch_stats(const StatsTarget* targets,  // [count], host
                                       int64_t count, const StatsGroups& groups,
                                       void* workspace,  // [stats_workspace_bytes()], device
                                       cudaStream_t cuda_stream);

}  // namespace initstats::cuda
