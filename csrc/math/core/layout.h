// Where the elements of a tensor lie in memory and in the larger logical tensor that it is a box
// of.
#pragma once

#include "math/core/lanes.h"

namespace initstats {

// Note [Box]. A tensor may be a box of a larger logical tensor: it starts at some offset in each
// dimension of the full sizes. Element numbers of the stream and of fingerprints are C-order
// indices in the full tensor, so pieces cut by rows, columns or blocks get the bits of the whole.
// Layout holds the box after merging dimensions that are contiguous in memory and in the logical
// tensor alike; a contiguous tensor that is its own logical tensor, or a block of whole rows of it,
// has one dimension with both strides 1.
struct Layout {
  static constexpr int kMaxDims = 8;  // after merging; more is refused with an error

  int64_t count;              // elements
  int64_t first_index;        // logical index of the first element
  int32_t dims;               // 1 <= dims <= kMaxDims; size[dims - 1] is the innermost
  int64_t size[kMaxDims];     // elements per dimension
  int64_t stride[kMaxDims];   // in memory, in elements
  int64_t logical[kMaxDims];  // in the logical tensor, in elements

  // One run, contiguous in memory and in the logical tensor: the fast paths.
  INITSTATS_HD bool is_one_run() const { return dims == 1 && stride[0] == 1 && logical[0] == 1; }

  // Whether the elements lie side by side in C order of the box, whatever their logical indices.
  INITSTATS_HD bool is_dense() const {
    int64_t dense = 1;
    for (int d = dims - 1; d >= 0; --d) {
      if (stride[d] != dense) return false;
      dense *= size[d];
    }
    return true;
  }

  struct Place {
    int64_t offset;  // in memory, in elements
    int64_t index;   // in the logical tensor
  };

  // Place of the i-th element of the box in C order, 0 <= i < count.
  INITSTATS_HD Place place(int64_t i) const {
    Place p{0, first_index};
#if defined(__CUDACC__)
#pragma unroll 1  // eight divisions side by side would be most of a kernel's code
#endif
    for (int d = dims - 1; d > 0; --d) {
      const int64_t q = i / size[d], r = i - q * size[d];
      p.offset += r * stride[d];
      p.index += r * logical[d];
      i = q;
    }
    p.offset += i * stride[0];
    p.index += i * logical[0];
    return p;
  }
};

}  // namespace initstats
