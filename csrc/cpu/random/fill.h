// CPU fills: one range of one tensor per call. No threads, no checks.
#pragma once

#include "cpu/simd/dispatch.h"
#include "math/core/layout.h"
#include "math/core/scalar.h"
#include "math/random/distributions.h"

namespace initstats::cpu {

// Where a fill writes: the elements [begin, end) of the box, in C order.
struct FillRange {
  void* data;
  DType dtype;  // float64 if and only if the distribution is over double
  const Layout* layout;
  uint64_t key;
  int64_t begin, end;
};

// The kernels of one capability. Stream: Note [Stream v1]; equal bits for every capability and
// every cut into ranges.
struct FillKernels {
  void (*uniform)(const Uniform<float>&, const FillRange&);
  void (*uniform_float64)(const Uniform<double>&, const FillRange&);
  void (*normal)(const Normal<float>&, const FillRange&);
  void (*normal_float64)(const Normal<double>&, const FillRange&);
  void (*trunc_normal)(const TruncNormal<float>&, const FillRange&);
  void (*trunc_normal_float64)(const TruncNormal<double>&, const FillRange&);
};

namespace baseline {
extern const FillKernels fill_kernels;
}
namespace avx2 {
extern const FillKernels fill_kernels;
}
namespace avx512 {
extern const FillKernels fill_kernels;
}

}  // namespace initstats::cpu
