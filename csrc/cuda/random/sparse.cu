// Sparse fills: every thread decides four columns, row by row, and writes their zeros.
#include "cuda/launch.cuh"
#include "cuda/random/sparse.h"
#include "math/random/sparse.h"

namespace initstats::cuda {

namespace {

constexpr unsigned kThreads = 64;  // few threads do much each: small blocks spread over more SMs
constexpr int kRowsAhead = 2;      // more would take more than 64 registers

template <class Bits>
__global__ void __launch_bounds__(kThreads)
    sparse_zeros_kernel(INITSTATS_GRID_CONSTANT(SparseTarget) target) {
  const int64_t first_quad = target.first_column / 4;
  const int64_t quad = first_quad + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t first = quad * 4 - target.first_column;  // may be negative in the first quad
  if (first >= target.columns) return;
  const int64_t quads_per_row = sparse_quads_per_row(target.logical_columns);
  const int64_t rows = target.first_row + target.rows;
  Bits* out = static_cast<Bits*>(target.data) + first * target.column_stride -
              target.first_row * target.row_stride;
  uint32_t left[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) left[j] = static_cast<uint32_t>(target.zeros);
  const auto words_of = [&](int64_t i, Purpose purpose) {
    return stream_words<Scalar32>(target.key, static_cast<uint64_t>(i * quads_per_row + quad),
                                  purpose);
  };
  for (int64_t begin = 0; begin < rows; begin += kRowsAhead) {
    // The words of several rows side by side: decisions wait for one another, words do not.
    Words<Scalar32> ahead[kRowsAhead];
#pragma unroll
    for (int k = 0; k < kRowsAhead; ++k) ahead[k] = words_of(begin + k, Purpose::sparse);
#pragma unroll
    for (int k = 0; k < kRowsAhead; ++k, out += target.row_stride) {
      const int64_t i = begin + k;
      if (i >= rows) return;
      const Words<Scalar32>& high = ahead[k];
      const uint32_t rows_left = static_cast<uint32_t>(target.logical_rows - i);
      bool zero[4], unsure = false;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        zero[j] = sparse_is_zero(high.v[j], rows_left, left[j]);
        unsure = unsure || sparse_needs_low(high.v[j], rows_left, left[j]);
      }
      if (unsure) {
        const Words<Scalar32> low = words_of(i, Purpose::sparse_low);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          zero[j] = sparse_is_zero(high.v[j], low.v[j], rows_left, left[j]);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        left[j] -= zero[j] ? 1u : 0u;
        const bool inside = first + j >= 0 && first + j < target.columns && i >= target.first_row;
        if (zero[j] && inside) out[j * target.column_stride] = 0;
      }
    }
  }
}

template <class Bits>
cudaError_t launch_of_width(const SparseTarget& target, cudaStream_t cuda_stream) {
  const int64_t end = target.first_column + target.columns;
  const int64_t quads = (end + 3) / 4 - target.first_column / 4;
  const int64_t blocks = divide_up(quads, kThreads);
  if (blocks > kMostBlocks) return cudaErrorInvalidConfiguration;
  return launch(sparse_zeros_kernel<Bits>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
                cuda_stream, target);
}

}  // namespace

cudaError_t launch_sparse_zeros(const SparseTarget& target, cudaStream_t cuda_stream) {
  if (target.rows == 0 || target.columns == 0) return cudaSuccess;
  switch (item_bytes(target.dtype)) {
    case 8:
      return launch_of_width<uint64_t>(target, cuda_stream);
    case 4:
      return launch_of_width<uint32_t>(target, cuda_stream);
    default:
      return launch_of_width<uint16_t>(target, cuda_stream);
  }
}

}  // namespace initstats::cuda
