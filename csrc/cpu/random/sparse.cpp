// Sparse fills of one capability: rows of normals, and zeros over them while they are in the cache.
#include "cpu/random/sparse.h"

#include <algorithm>

#include "cpu/random/fill.h"
#include "cpu/simd/lanes.h"
#include "math/random/sparse.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

constexpr int64_t kGroup = 4 * Lanes32::kWidth;  // words that are drawn at once
constexpr int64_t kColumns = 1024;               // of a block: its state fits into the L1 cache

// The columns of a block, from a quad on; up to 3 of them lie before the first one that is filled.
struct Block {
  alignas(64) uint32_t high[kColumns];
  alignas(64) uint32_t zeros_left[kColumns];
  alignas(64) uint32_t mask[kColumns];  // all ones where the row becomes zero
};

void draw_words(uint64_t key, uint64_t quad, Purpose purpose, int64_t n, uint32_t* words) {
  for (int64_t c = 0; c < n; c += kGroup) {
    const Words<Lanes32> drawn =
        stream_words<Lanes32>(key, quad + static_cast<uint64_t>(c / 4), purpose);
    memcpy(words + c, drawn.v, sizeof(drawn.v));
  }
}

// Decides one row of n columns, a multiple of kGroup.
void decide_row(Block& block, uint64_t key, uint64_t quad, int64_t n, uint32_t rows_left) {
  draw_words(key, quad, Purpose::sparse, n, block.high);
  uint32_t unsure = 0;
  for (int64_t c = 0; c < n; ++c) {
    const uint32_t high = block.high[c], left = block.zeros_left[c];
    unsure |= sparse_needs_low(high, rows_left, left) ? 1u : 0u;
    block.mask[c] = sparse_is_zero(high, rows_left, left) ? ~0u : 0u;
  }
  if (unsure != 0) {
    alignas(64) uint32_t low[kColumns];
    draw_words(key, quad, Purpose::sparse_low, n, low);
    for (int64_t c = 0; c < n; ++c) {
      block.mask[c] =
          sparse_is_zero(block.high[c], low[c], rows_left, block.zeros_left[c]) ? ~0u : 0u;
    }
  }
  for (int64_t c = 0; c < n; ++c) block.zeros_left[c] += block.mask[c];
}

template <class Bits>
void clear(void* row, int64_t stride, const uint32_t* mask, int64_t n) {
  typedef Bits Item __attribute__((may_alias));
  Item* const items = static_cast<Item*>(row);
  // Sign extension makes all ones of any width out of all ones.
  const auto kept = [&](int64_t c) {
    return static_cast<Bits>(~static_cast<int64_t>(static_cast<int32_t>(mask[c])));
  };
  if (stride == 1) {
    for (int64_t c = 0; c < n; ++c) items[c] = static_cast<Bits>(items[c] & kept(c));
  } else {
    for (int64_t c = 0; c < n; ++c)
      items[c * stride] = static_cast<Bits>(items[c * stride] & kept(c));
  }
}

void clear_row(const SparseMatrix& m, int64_t offset, const uint32_t* mask, int64_t n) {
  char* const row = static_cast<char*>(m.data) + offset * item_bytes(m.dtype);
  switch (item_bytes(m.dtype)) {
    case 8:
      return clear<uint64_t>(row, m.column_stride, mask, n);
    case 4:
      return clear<uint32_t>(row, m.column_stride, mask, n);
    default:
      return clear<uint16_t>(row, m.column_stride, mask, n);
  }
}

template <class Dist, class Fill>
void fill_columns(Fill fill, const Dist& dist, const SparseMatrix& m, int64_t begin, int64_t end) {
  const int64_t quads_per_row = sparse_quads_per_row(m.logical_columns);
  Block block;
  while (begin < end) {
    const int64_t quad = (m.first_column + begin) / 4, skip = (m.first_column + begin) % 4;
    const int64_t n = std::min(end - begin, kColumns - skip);
    const int64_t drawn = (skip + n + kGroup - 1) / kGroup * kGroup;
    std::fill_n(block.zeros_left, drawn, static_cast<uint32_t>(m.zeros));
    for (int64_t i = 0; i < m.first_row + m.rows; ++i) {
      decide_row(block, m.key, static_cast<uint64_t>(i * quads_per_row + quad), drawn,
                 static_cast<uint32_t>(m.logical_rows - i));
      const int64_t row = i - m.first_row;
      if (row < 0) continue;
      const int64_t first = row * m.columns + begin;
      fill(dist, FillRange{m.data, m.dtype, m.layout, m.key, first, first + n});
      clear_row(m, row * m.row_stride + begin * m.column_stride, block.mask + skip, n);
    }
    begin += n;
  }
}

void columns(const Normal<float>& dist, const SparseMatrix& m, int64_t begin, int64_t end) {
  fill_columns(fill_kernels.normal, dist, m, begin, end);
}

void columns_float64(const Normal<double>& dist, const SparseMatrix& m, int64_t begin,
                     int64_t end) {
  fill_columns(fill_kernels.normal_float64, dist, m, begin, end);
}

}  // namespace

const SparseKernels sparse_kernels = {columns, columns_float64};

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
