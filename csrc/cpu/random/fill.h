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

// Over double, the range is float64; over float, one of the others.
template <class Dist>
using FillKernel = void (*)(const Dist&, const FillRange&);

// The kernels of one capability, of every distribution of Note [Distributions]. Stream:
// Note [Stream v1]; equal bits for every capability and every cut into ranges.
struct FillKernels {
#define INITSTATS_FILL_KERNELS(name, Dist, ...) \
  FillKernel<Dist<float>> name;                 \
  FillKernel<Dist<double>> name##_float64;
  INITSTATS_DISTRIBUTIONS(INITSTATS_FILL_KERNELS)
#undef INITSTATS_FILL_KERNELS
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
