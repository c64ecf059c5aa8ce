// CPU Dirac fills: a range of output channels per call. No threads, no checks.
#pragma once

#include "cpu/simd/dispatch.h"
#include "math/random/dirac.h"

namespace initstats::cpu {

// Writes the channels [begin, end) of contiguous items of 2, 4 or 8 bytes; value holds the bits of
// the element that is not zero.
struct DiracKernels {
  void (*channels)(const Dirac&, void* data, int64_t item_bytes, uint64_t value, int64_t begin,
                   int64_t end);
};

namespace baseline {
extern const DiracKernels dirac_kernels;
}
namespace avx2 {
extern const DiracKernels dirac_kernels;
}
namespace avx512 {
extern const DiracKernels dirac_kernels;
}

}  // namespace initstats::cpu
