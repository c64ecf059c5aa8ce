// CUDA sparse fills: the zeros over a matrix of normals. Raw pointers and a CUDA stream, no torch.
#pragma once

#include <cuda_runtime_api.h>

#include "math/core/scalar.h"

namespace initstats::cuda {

// A matrix [rows, columns] in device memory that is a box of a logical one.
struct SparseTarget {
  void* data;
  DType dtype;
  uint64_t key;
  int64_t rows, columns, row_stride, column_stride;
  int64_t first_row, first_column;  // in the logical matrix
  int64_t logical_rows, logical_columns;
  int64_t zeros;  // of each column of the logical matrix
};

// Writes the zeros of one matrix, and nothing else. One thread walks down four columns: the time is
// that of logical_rows decisions after one another. Asynchronous on `cuda_stream`; a matrix without
// elements launches nothing. Stream: Note [Sparse columns].
[[nodiscard]] cudaError_t launch_sparse_zeros(const SparseTarget& target, cudaStream_t cuda_stream);

}  // namespace initstats::cuda
