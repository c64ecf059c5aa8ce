// The CUDA sparse kernel, executed, against the CPU kernels: equal bits for every storage type,
// layout and box, and nothing written outside of the tensor (guard bytes; ASan sees the rest). And
// the decisions by high words alone against exact ones.
#include <cstdio>
#include <vector>

#include "cpu/random/sparse.h"
#include "cuda/random/fill.h"
#include "cuda/random/sparse.h"
#include "math/random/distributions.h"
#include "math/random/sparse.h"

namespace {

using namespace initstats;

constexpr int64_t kGuard = 64;
constexpr unsigned char kUntouched = 0xA5;
int failures = 0;

struct Case {
  int64_t rows, columns, row_stride, column_stride;
  int64_t first_row, first_column, logical_rows, logical_columns, zeros;
};

Layout layout_of(const Case& c) {
  Layout layout{};
  layout.count = c.rows * c.columns;
  layout.first_index = c.first_row * c.logical_columns + c.first_column;
  layout.dims = 2;
  layout.size[0] = c.rows;
  layout.size[1] = c.columns;
  layout.stride[0] = c.row_stride;
  layout.stride[1] = c.column_stride;
  layout.logical[0] = c.logical_columns;
  layout.logical[1] = 1;
  return layout;
}

template <class Real, class Kernel>
void compare(const Case& c, DType dtype, Kernel kernel) {
  const Layout layout = layout_of(c);
  const int64_t reach = (c.rows - 1) * c.row_stride + (c.columns - 1) * c.column_stride + 1;
  const size_t bytes = static_cast<size_t>(reach * item_bytes(dtype) + 2 * kGuard);
  std::vector<unsigned char> ours(bytes, kUntouched), expected(bytes, kUntouched);
  const Normal<Real> dist = Normal<Real>::make(dtype, 0.0, 2.0);
  constexpr uint64_t kKey = 4711;

  const cpu::SparseMatrix m{expected.data() + kGuard,
                            dtype,
                            &layout,
                            kKey,
                            c.rows,
                            c.columns,
                            c.row_stride,
                            c.column_stride,
                            c.first_row,
                            c.first_column,
                            c.logical_rows,
                            c.logical_columns,
                            c.zeros};
  kernel(dist, m, 0, c.columns / 2);  // cut anywhere
  kernel(dist, m, c.columns / 2, c.columns);

  void* const data = ours.data() + kGuard;
  const cuda::FillTarget<Normal<Real>> filled{data, dtype, layout, kKey, dist};
  const cuda::SparseTarget target{data,
                                  dtype,
                                  kKey,
                                  c.rows,
                                  c.columns,
                                  c.row_stride,
                                  c.column_stride,
                                  c.first_row,
                                  c.first_column,
                                  c.logical_rows,
                                  c.logical_columns,
                                  c.zeros};
  if (cuda::launch_fill(&filled, 1, nullptr) != cudaSuccess ||
      cuda::launch_sparse_zeros(target, nullptr) != cudaSuccess || ours != expected) {
    std::printf("dtype %d, %d x %d: WRONG\n", static_cast<int>(dtype), static_cast<int>(c.rows),
                static_cast<int>(c.columns));
    ++failures;
  }
}

// floor(u m) < n with u = (high 2^32 + low) / 2^64, on exact integers.
bool exact(uint32_t high, uint32_t low, uint32_t rows, uint32_t zeros) {
  const unsigned __int128 u = static_cast<unsigned __int128>(high) << 32 | low;
  return static_cast<uint64_t>(u * rows >> 64) < zeros;
}

void check_decision(uint32_t high, uint32_t low, uint32_t rows, uint32_t zeros) {
  const bool expected = exact(high, low, rows, zeros);
  if (sparse_is_zero(high, low, rows, zeros) != expected) ++failures;
  if (!sparse_needs_low(high, rows, zeros) && sparse_is_zero(high, rows, zeros) != expected)
    ++failures;
}

// High words next to the places where the decision changes, with extreme low words.
void check_decisions() {
  for (uint32_t k = 0; k < 100000; ++k) {
    const Words<Scalar32> w = philox4x32_10<Scalar32>(99, k, 0);
    const uint32_t rows = k % 3 == 0 ? w.v[0] | 1 : 1 + w.v[0] % 50;
    const uint32_t zeros = w.v[1] % (rows + (rows == UINT32_MAX ? 0u : 1u));
    const uint64_t edge = (static_cast<uint64_t>(zeros) << 32) / rows;
    for (int64_t d = -2; d <= 2; ++d) {
      const int64_t high = static_cast<int64_t>(edge) + d;
      if (high < 0 || high > UINT32_MAX) continue;
      for (const uint32_t low : {0u, 1u, w.v[2], UINT32_MAX - 1, UINT32_MAX})
        check_decision(static_cast<uint32_t>(high), low, rows, zeros);
    }
    check_decision(w.v[2], w.v[3], rows, zeros);
  }
  if (failures != 0) std::printf("decisions: %d wrong\n", failures);
}

}  // namespace

int main() {
  check_decisions();
  const Case cases[] = {
      {1, 1, 1, 1, 0, 0, 1, 1, 1},          {9, 5, 5, 1, 0, 0, 9, 5, 4},
      {33, 300, 300, 1, 0, 0, 33, 300, 30}, {7, 9, 1, 7, 0, 0, 7, 9, 2},  // transposed
      {6, 31, 80, 2, 0, 0, 6, 31, 3},       {8, 21, 21, 1, 5, 7, 40, 90, 36},
      {4, 3, 3, 1, 36, 1, 40, 5, 11},       {3, 1030, 1030, 1, 0, 2, 3, 1040, 1},
  };
  const cpu::SparseKernels& k = cpu::baseline::sparse_kernels;
  for (const Case& c : cases) {
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16})
      compare<float>(c, dtype, k.columns);
    compare<double>(c, DType::float64, k.columns_float64);
  }
  const cuda::SparseTarget nothing{nullptr, DType::float32, 1, 0, 5, 5, 1, 0, 0, 9, 5, 3};
  if (cuda::launch_sparse_zeros(nothing, nullptr) != cudaSuccess) ++failures;
  std::printf(failures == 0 ? "all right\n" : "%d wrong\n", failures);
  return failures == 0 ? 0 : 1;
}
