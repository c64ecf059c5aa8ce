// The CPU capability in use: what the processor offers, or what INITSTATS_CPU_CAPABILITY asks for.
#pragma once

#include <string>

namespace initstats::cpu {

enum class Capability { baseline, avx2, avx512 };

const char* capability_name(Capability capability);

// One line for people: what the kernels of a capability compute with.
const char* capability_vectors(Capability capability);

// The best capability that this processor offers and this build holds.
Capability best_capability();

// The capability that all kernels use, decided once at the first call: best_capability(), or the
// value of the environment variable INITSTATS_CPU_CAPABILITY. Throws std::invalid_argument for an
// unknown value and for one that this processor or this build does not offer.
Capability chosen_capability();

// One line for people: why chosen_capability() is what it is.
std::string capability_reason();

// The table of kernels compiled for the chosen capability. On processors other than x86-64 only the
// baseline is compiled, and setup.py defines INITSTATS_BASELINE_ONLY.
#if defined(INITSTATS_BASELINE_ONLY)
#define INITSTATS_CHOOSE(table) (::initstats::cpu::baseline::table)
#else
template <class Table>
const Table& choose(const Table& baseline, const Table& avx2, const Table& avx512) {
  switch (chosen_capability()) {
    case Capability::avx512:
      return avx512;
    case Capability::avx2:
      return avx2;
    case Capability::baseline:
      break;
  }
  return baseline;
}
#define INITSTATS_CHOOSE(table)                                                              \
  ::initstats::cpu::choose(::initstats::cpu::baseline::table, ::initstats::cpu::avx2::table, \
                           ::initstats::cpu::avx512::table)
#endif

}  // namespace initstats::cpu
