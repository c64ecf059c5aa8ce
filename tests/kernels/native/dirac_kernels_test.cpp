// The CUDA Dirac kernel, executed, against the CPU kernel, and both against a loop over elements;
// nothing is written outside of the tensor (guard bytes; ASan sees the rest).
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/random/dirac.h"
#include "cuda/random/dirac.h"

namespace {

using namespace initstats;

constexpr int64_t kGuard = 64;
constexpr unsigned char kUntouched = 0xA5;
constexpr uint64_t kValue = 0xBFF0123456789ABC;
int failures = 0;

std::vector<unsigned char> by_element(const Dirac& d, int64_t item) {
  std::vector<unsigned char> bytes(static_cast<size_t>(d.channels * d.row() * item + 2 * kGuard),
                                   kUntouched);
  unsigned char* out = bytes.data() + kGuard;
  for (int64_t channel = 0; channel < d.channels; ++channel) {
    for (int64_t input = 0; input < d.inputs; ++input) {
      for (int64_t k = 0; k < d.kernel; ++k, out += item) {
        const bool one = k == d.centre && channel % d.channels_per_group == input;
        const uint64_t bits = one ? kValue : 0;
        std::memcpy(out, &bits, static_cast<size_t>(item));
      }
    }
  }
  return bytes;
}

}  // namespace

int main() {
  const Dirac cases[] = {{1, 1, 1, 1, 0},   {8, 4, 3, 9, 4},     {5, 5, 9, 1, 0},
                         {6, 2, 4, 27, 13}, {3, 3, 2, 200, 100}, {300, 100, 7, 3, 1}};
  const cpu::DiracKernels& k = cpu::baseline::dirac_kernels;
  for (const Dirac& d : cases) {
    for (const int64_t item : {2, 4, 8}) {
      const std::vector<unsigned char> expected = by_element(d, item);
      std::vector<unsigned char> host(expected.size(), kUntouched), device = host;
      k.channels(d, host.data() + kGuard, item, kValue, 0, d.channels / 3);
      k.channels(d, host.data() + kGuard, item, kValue, d.channels / 3, d.channels);
      const cudaError_t status =
          cuda::launch_dirac(d, device.data() + kGuard, item, kValue, nullptr);
      if (status != cudaSuccess || host != expected || device != expected) {
        std::printf("%d channels, items of %d bytes: WRONG\n", static_cast<int>(d.channels),
                    static_cast<int>(item));
        ++failures;
      }
    }
  }
  if (cuda::launch_dirac({0, 1, 5, 5, 2}, nullptr, 4, kValue, nullptr) != cudaSuccess) ++failures;
  std::printf(failures == 0 ? "all right\n" : "%d wrong\n", failures);
  return failures == 0 ? 0 : 1;
}
