// The lane families of the capability this translation unit is compiled for. Every kernel file of
// csrc/cpu is compiled once per capability with -DINITSTATS_CAPABILITY=<name> and the flags of that
// capability (setup.py).
#pragma once

#include "math/core/lanes.h"

// Whether they are vectors, for what csrc/math/core/lanes.h does not offer.
#define INITSTATS_VECTORS 1

// Before functions that hold many fused multiply-adds: where those are emulated, a copy for every
// use would make the module several times as large.
#define INITSTATS_MANY_FMA INITSTATS_HD

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
#elif defined(__aarch64__)
#include "cpu/simd/lanes_neon.h"
namespace initstats::cpu::INITSTATS_CAPABILITY {
using Lanes32 = Neonx32;
using Lanes64 = Neonx64;
}  // namespace initstats::cpu::INITSTATS_CAPABILITY
#elif defined(__SSE2__)
#include "cpu/simd/lanes_sse2.h"
#undef INITSTATS_MANY_FMA
#define INITSTATS_MANY_FMA __attribute__((noinline))
namespace initstats::cpu::INITSTATS_CAPABILITY {
using Lanes32 = Sse2x32;
using Lanes64 = Sse2x64;
}  // namespace initstats::cpu::INITSTATS_CAPABILITY
#else
#undef INITSTATS_VECTORS
#define INITSTATS_VECTORS 0
namespace initstats::cpu::INITSTATS_CAPABILITY {
using Lanes32 = Scalar32;
using Lanes64 = Scalar64;
}  // namespace initstats::cpu::INITSTATS_CAPABILITY
#endif
