// Dirac fills of one capability: rows of zeros, one item in each.
#include "cpu/random/dirac.h"

#include <cstring>

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

void channels(const Dirac& dirac, void* data, int64_t item_bytes, uint64_t value, int64_t begin,
              int64_t end) {
  const int64_t row_bytes = dirac.row() * item_bytes;
  char* row = static_cast<char*>(data) + begin * row_bytes;
  std::memset(row, 0, static_cast<size_t>((end - begin) * row_bytes));
  for (int64_t channel = begin; channel < end; ++channel, row += row_bytes) {
    const int64_t place = dirac.place(channel);
    // The low bytes of the value: all of the processors that this builds for are little-endian.
    if (place >= 0) std::memcpy(row + place * item_bytes, &value, static_cast<size_t>(item_bytes));
  }
}

}  // namespace

const DiracKernels dirac_kernels = {channels};

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
