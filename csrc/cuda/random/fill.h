// CUDA fills of many tensors: raw pointers and a CUDA stream, no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "math/core/layout.h"
#include "math/core/scalar.h"
#include "math/random/distributions.h"

namespace initstats::cuda {

// One tensor of a fill. dtype is float64 if and only if Dist is over double.
template <class Dist>
struct FillTarget {
  void* data;  // device
  DType dtype;
  Layout layout;
  uint64_t key;
  Dist dist;
};

// Fills count tensors: one launch per storage type for the contiguous ones and one for the others
// (more only where the parameters outgrow a launch's 32764 bytes, from about 250 tensors on).
// Asynchronous on `cuda_stream`; tensors without elements launch nothing; no allocation, no
// synchronisation. Stream: Note [Stream v1].
template <class Dist>
[[nodiscard]] cudaError_t launch_fill(const FillTarget<Dist>* targets,  // [count], host
                                      int64_t count, cudaStream_t cuda_stream);

}  // namespace initstats::cuda
