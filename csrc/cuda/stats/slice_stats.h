// CUDA statistics of slices of a tensor: raw pointers and a CUDA stream, no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "math/core/items.h"
#include "math/core/layout.h"
#include "math/stats/slice_stats.h"

namespace initstats::cuda {

// A tensor as slices, and where their records go. All pointers are to device memory.
struct SliceTarget {
  const void* data;
  ItemType type;
  Layout slices;    // where slices begin
  Layout elements;  // where their elements lie, from there
  double* moments;  // [slices.count, kMomentColumns]
  int64_t* counts;  // [slices.count, kCountColumns]
};

// Scratch memory that launch_slice_stats needs, aligned to 16 bytes.
int64_t slice_stats_workspace_bytes(const SliceTarget& target);

// Takes the moments of every slice, Note [Slice order]. One launch reads every element once, lanes
// along whichever of slices and elements lie closer together; a second one merges groups where
// slices have more than one. Asynchronous on `cuda_stream`; no allocation, no synchronisation;
// without slices nothing is launched. The bits are those of the CPU.
[[nodiscard]] cudaError_t launch_slice_stats(const SliceTarget& target,
                                             void* workspace,  // [slice_stats_workspace_bytes()]
                                             cudaStream_t cuda_stream);

}  // namespace initstats::cuda
