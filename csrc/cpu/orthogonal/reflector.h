// One reflector of one capability: its normals, the float64 sum of squares in its fixed order, its
// first element.
#pragma once

#include <algorithm>

#include "cpu/random/sample.h"
#include "math/orthogonal/reflectors.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Folds chains [used] by halving, used being a multiple of kBlock; chains from `used` on are zeros
// that are left out.
inline double fold_chains(double* chains, int64_t used) {
  for (int64_t h = kReflectorChains / 2; h >= kBlock; h /= 2) {
    for (int64_t c = 0; c + h < used; ++c) chains[c] += chains[c + h];
    used = std::min(used, h);
  }
#pragma GCC unroll 8
  for (int64_t h = kBlock / 2; h > 0; h /= 2) {
    for (int64_t c = 0; c < h; ++c) chains[c] += chains[c + h];
  }
  return chains[0];
}

// Writes reflector r of R^m from coordinate `first` <= r on, out is [m - first]. stream_index is
// the element of its coordinate 0, a multiple of 4; first may be any.
template <class Real>
Reflection<Real> make_reflector(uint64_t key, uint64_t stream_index, int64_t r, int64_t m,
                                int64_t first, Real* out) {
  using Store = StoreReal<Real>;
  const Normal<Real> dist{0, 1};
  alignas(64) double chains[kReflectorChains];
  const int64_t used = std::min<int64_t>((m + kBlock - 1) / kBlock * kBlock, kReflectorChains);
  std::fill_n(chains, used, 0.0);
  std::fill_n(out, r - first, Real(0));
  Real own = 0;
  for (int64_t j = r / kBlock * kBlock; j < m; j += kBlock) {
    const uint64_t quad = (stream_index + static_cast<uint64_t>(j)) / 4;
    double* const chain = chains + j % kReflectorChains;
    const int64_t end = std::min(m, j + kBlock);
    if (j > r && end == j + kBlock) {
      Real* const block = out + (j - first);
      sample_block<Store>(dist, key, quad, block);
      for (int64_t i = 0; i < kBlock; ++i) {
        const double x = static_cast<double>(block[i]);
        chain[i] += x * x;
      }
      continue;
    }
    alignas(64) Real block[kBlock];
    sample_block<Store>(dist, key, quad, block);
    if (j <= r) own = block[r - j];
    const int32_t low = static_cast<int32_t>(std::max<int64_t>(r + 1 - j, 0));
    const int32_t high = static_cast<int32_t>(end - j);
    for (int32_t i = 0; i < kBlock; ++i) {
      const Real x = block[i];  // read in any case, or the loop does not become vectors
      block[i] = low <= i && i < high ? x : Real(0);
    }
    for (int64_t i = 0; i < kBlock; ++i) {
      const double x = static_cast<double>(block[i]);
      chain[i] += x * x;
    }
    std::copy(block + low, block + high, out + (j + low - first));
  }
  const Reflection<Real> reflection = reflection_of(own, fold_chains(chains, used));
  out[r - first] = reflection.first;
  return reflection;
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
