// CPU sparse fills: a range of columns of one matrix per call. No threads, no checks.
#pragma once

#include "cpu/simd/dispatch.h"
#include "math/core/layout.h"
#include "math/core/scalar.h"
#include "math/random/distributions.h"

namespace initstats::cpu {

// A matrix [rows, columns] in memory that is a box of a logical one.
struct SparseMatrix {
  void* data;
  DType dtype;  // float64 if and only if the distribution is over double
  const Layout* layout;
  uint64_t key;
  int64_t rows, columns, row_stride, column_stride;
  int64_t first_row, first_column;  // in the logical matrix
  int64_t logical_rows, logical_columns;
  int64_t zeros;  // of each column of the logical matrix
};

// The kernels of one capability: fill the columns [begin, end) with normals and zeros. Stream: Note
// [Sparse columns]; equal bits for every capability and every cut into ranges.
struct SparseKernels {
  void (*columns)(const Normal<float>&, const SparseMatrix&, int64_t begin, int64_t end);
  void (*columns_float64)(const Normal<double>&, const SparseMatrix&, int64_t begin, int64_t end);
};

namespace baseline {
extern const SparseKernels sparse_kernels;
}
namespace avx2 {
extern const SparseKernels sparse_kernels;
}
namespace avx512 {
extern const SparseKernels sparse_kernels;
}

}  // namespace initstats::cpu
