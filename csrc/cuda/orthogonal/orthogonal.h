// CUDA kernels of orthogonal matrices: reflectors, panel factors, small matrices.
#pragma once

#include <cuda_runtime_api.h>

#include "math/core/scalar.h"
#include "math/orthogonal/reflectors.h"

namespace initstats::cuda {

constexpr int kMostMatrices = 64;  // of a launch of reflectors

// The reflectors first, ..., first + rows - 1 of matrices of one size, Note [Reflectors], from
// their coordinate `first` on, which is a multiple of 4.
template <class Real>
struct ReflectorTask {
  Real*
      vectors;  // [matrices, rows, pitch], device, 16-byte aligned; row i holds reflector first + i
  double* squares;  // [matrices, rows], device: |v|^2
  Real* diagonal;   // [matrices, rows], device: D
  int64_t pitch;    // a multiple of 4, >= m - first; what is beyond m - first is set to zero
  int64_t first, m, n, rows;  // rows beyond the last reflector n - 1: v = 0, |v|^2 = 1, D = 0
  int64_t matrices;           // at most kMostMatrices
  uint64_t key[kMostMatrices];
  int64_t stream_row[kMostMatrices];  // of reflector 0: b n
};

// One block per reflector, in two dimensions: rows, matrices. Asynchronous on `cuda_stream`; no
// rows launch nothing.
template <class Real>
[[nodiscard]] cudaError_t launch_reflectors(const ReflectorTask<Real>& task,
                                            cudaStream_t cuda_stream);

// The T of panels of k <= kMostReflectorsInPanel reflections each, Note [Panel factors]: one warp
// per row, no exchange between warps; longer rows pass 128 columns at a time. Asynchronous on
// `cuda_stream`; no panels launch nothing.
template <class Real>
[[nodiscard]] cudaError_t launch_panel_factors(
    const Real* gram,       // [panels, k, k], device, read right of the diagonals
    const double* squares,  // [panels, k], device
    Real* factors,          // [panels, k, k], device
    int64_t panels, int64_t k, cudaStream_t cuda_stream);

// A batch of matrices in their tall orientation, Note [Small matrices]: n <= m <= kSmallSide.
struct SmallTask {
  void* data;  // device
  DType dtype;
  int64_t count;
  int64_t batch_stride, row_stride, column_stride;  // in elements
  uint64_t key;
  double gain;
  int32_t m, n;
  uint32_t first_matrix;  // its number in the whole batch
  uint32_t first_block;   // set by the launcher
};

// All matrices of all tasks, at most two launches per hundred tasks: one for float64, one for the
// rest. A block takes 32 columns of one matrix. Asynchronous on `cuda_stream`; empty tasks launch
// nothing.
[[nodiscard]] cudaError_t launch_small_orthogonal(const SmallTask* tasks,  // [count], host
                                                  int64_t count, cudaStream_t cuda_stream);

}  // namespace initstats::cuda
