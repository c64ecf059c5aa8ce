// The lane families of the capability this translation unit is compiled for. Every kernel file of
// csrc/cpu is compiled once per capability with -DINITSTATS_CAPABILITY=<name> and the flags of that
// capability (setup.py).
#pragma once

#include "math/core/lanes.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "cpu/simd/lanes_avx512.h"
namespace initstats::cpu::INITSTATS_CAPABILITY {
using Lanes32 = Avx512x32;
using Lanes64 = Avx512x64;
}  // namespace initstats::cpu::INITSTATS_CAPABILITY
#elif defined(__AVX2__) && defined(__FMA__)
#include "cpu/simd/lanes_avx2.h"
namespace initstats::cpu::INITSTATS_CAPABILITY {
using Lanes32 = Avx2x32;
using Lanes64 = Avx2x64;
}  // namespace initstats::cpu::INITSTATS_CAPABILITY
#else
namespace initstats::cpu::INITSTATS_CAPABILITY {
using Lanes32 = Scalar32;
using Lanes64 = Scalar64;
}  // namespace initstats::cpu::INITSTATS_CAPABILITY
#endif
