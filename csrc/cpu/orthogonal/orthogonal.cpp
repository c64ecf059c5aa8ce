// Reflectors and panel factors of one capability.
#include "cpu/orthogonal/orthogonal.h"

#include <algorithm>

#include "cpu/orthogonal/reflector.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

template <class Real>
void reflectors(const ReflectorRange<Real>& range) {
  const int64_t width = range.m - range.first, pitch = reflector_pitch(range.m);
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t r = range.first + i;
    Real* const row = range.vectors + i * range.pitch;
    const Reflection<Real> reflection =
        make_reflector(range.key, static_cast<uint64_t>((range.stream_row + r) * pitch), r, range.m,
                       range.first, row);
    std::fill(row + width, row + range.pitch, Real(0));
    range.squares[i] = reflection.square;
    range.diagonal[i] = reflection.diagonal;
  }
}

// Rows that share the reading of R.
constexpr int kRows = 4;

template <class Real>
void factors(const FactorRange<Real>& range) {
  const int64_t k = range.k;
  for (int64_t begin = range.begin; begin < range.end; begin += kRows) {
    alignas(64) double sums[kRows][kMostReflectorsInPanel];
    for (auto& row : sums) std::fill_n(row, k, 0.0);
    for (int64_t l = begin; l < k; ++l) {
      const Real* const r = range.gram + l * k;
      double t[kRows];
      for (int row = 0; row < kRows; ++row) {
        // Rows that begin later take 0: the sum keeps its bits.
        const int64_t i = begin + row;
        t[row] = l < i ? 0.0 : factor_element(l == i, sums[row][l], range.squares[l]);
        if (i < range.end) range.factor[i * k + l] = static_cast<Real>(t[row]);
      }
      for (int64_t j = l + 1; j < k; ++j) {
        const double element = static_cast<double>(r[j]);
        for (int row = 0; row < kRows; ++row) sums[row][j] += t[row] * element;
      }
    }
    for (int64_t i = begin; i < std::min(begin + kRows, range.end); ++i) {
      std::fill_n(range.factor + i * k, i, Real(0));
    }
  }
}

}  // namespace

const OrthogonalKernels orthogonal_kernels = {reflectors<float>, reflectors<double>, factors<float>,
                                              factors<double>};

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
