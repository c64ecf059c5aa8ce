// CPU statistics of slices: the groups of a run of slices. No threads, no checks.
#pragma once

#include "cpu/simd/dispatch.h"
#include "math/core/items.h"
#include "math/core/layout.h"
#include "math/stats/slice_stats.h"

namespace initstats::cpu {

// Slices [begin, end) and groups [first_group, last_group) of a tensor, Note [Slice order].
struct SliceRange {
  const void* data;
  ItemType type;
  const Layout* slices;    // where slices begin
  const Layout* elements;  // where their elements lie, from there
  int64_t begin, end, first_group, last_group;
};

// The kernels of one capability; equal bits for every capability.
struct SliceKernels {
  // records is [last_group - first_group, end - begin], `pitch` records from group to group.
  void (*range)(const SliceRange&, Record* records, int64_t pitch);
};

// Slices per call that use the vectors fully.
constexpr int kSlicesPerCall = 16;

namespace baseline {
extern const SliceKernels slice_kernels;
}
namespace avx2 {
extern const SliceKernels slice_kernels;
}
namespace avx512 {
extern const SliceKernels slice_kernels;
}

inline const SliceKernels& chosen_slice_kernels() { return INITSTATS_CHOOSE(slice_kernels); }

}  // namespace initstats::cpu
