// CUDA Dirac fills: raw pointers and a CUDA stream, no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "math/random/dirac.h"

namespace initstats::cuda {

// Writes a contiguous weight of items of 2, 4 or 8 bytes, every element once; value holds the bits
// of the elements that are not zero. Asynchronous on `cuda_stream`; a weight without elements
// launches nothing.
[[nodiscard]] cudaError_t launch_dirac(const Dirac& dirac, void* data, int64_t item_bytes,
                                       uint64_t value, cudaStream_t cuda_stream);

}  // namespace initstats::cuda
