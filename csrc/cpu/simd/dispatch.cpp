// Detection of the processor's capability and the environment variable that overrides it.
#include "cpu/simd/dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace initstats::cpu {

namespace {

Capability parse(const std::string& text) {
  for (Capability c : {Capability::baseline, Capability::avx2, Capability::avx512}) {
    if (text == capability_name(c)) return c;
  }
  throw std::invalid_argument(
      "initstats: expected INITSTATS_CPU_CAPABILITY to be one of baseline, avx2, avx512, got " +
      text);
}

Capability decide() {
  const char* wanted = std::getenv("INITSTATS_CPU_CAPABILITY");
  if (wanted == nullptr || *wanted == '\0') return best_capability();
  const Capability capability = parse(wanted);
  if (capability > best_capability()) {
    throw std::invalid_argument("initstats: expected INITSTATS_CPU_CAPABILITY to be at most " +
                                std::string(capability_name(best_capability())) +
                                " on this machine, got " + wanted);
  }
  return capability;
}

}  // namespace

const char* capability_name(Capability capability) {
  switch (capability) {
    case Capability::avx512:
      return "avx512";
    case Capability::avx2:
      return "avx2";
    case Capability::baseline:
      break;
  }
  return "baseline";
}

const char* capability_vectors(Capability capability) {
  switch (capability) {
    case Capability::avx512:
      return "AVX-512, 16 float32 at once";
    case Capability::avx2:
      return "AVX2 and FMA, 8 float32 at once";
    case Capability::baseline:
      break;
  }
    // As cpu/simd/lanes.h chooses.
#if defined(__aarch64__)
  return "NEON, 4 float32 at once";
#elif defined(__SSE2__)
  return "SSE2, 4 float32 at once; fused multiply-adds are emulated, with the same bits: several "
         "times slower than AVX2";
#else
  return "no vectors: written for one number at a time, slow where fused multiply-adds are "
         "function "
         "calls";
#endif
}

Capability best_capability() {
#if defined(INITSTATS_BASELINE_ONLY)
  return Capability::baseline;
#else
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Capability::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return Capability::avx2;
  }
  return Capability::baseline;
#endif
}

Capability chosen_capability() {
  static const Capability chosen = decide();
  return chosen;
}

std::string capability_reason() {
  const char* wanted = std::getenv("INITSTATS_CPU_CAPABILITY");
  const std::string best = capability_name(best_capability());
  if (wanted != nullptr && *wanted != '\0') {
    return std::string("INITSTATS_CPU_CAPABILITY=") + wanted + " (the processor offers " + best +
           ")";
  }
  return "best that the processor offers";
}

}  // namespace initstats::cpu
