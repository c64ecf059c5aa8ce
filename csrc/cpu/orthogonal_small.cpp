// Small orthogonal matrices of one capability: the reflections one after the other, on columns side
// by side in vectors.
#include "cpu/orthogonal.h"
#include "cpu/reflector.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

template <class Real>
struct LanesOf;
template <>
struct LanesOf<float> {
  using Type = Lanes32;
};
template <>
struct LanesOf<double> {
  using Type = Lanes64;
};

constexpr int64_t kSide = kSmallSide;

// Applies one reflection to kVectors vectors of columns at c, [m, kSide], from row `begin` on,
// which is a multiple of 4; v is zero before its own coordinate.
template <class L, int kVectors, class Real>
INITSTATS_HD void reflect(const Real* v, Real scale, int64_t begin, int64_t m, int64_t pitch,
                          Real* c) {
  using F = typename L::F;
  constexpr int kChains = 4;
  F sum[kChains][kVectors] = {};
  int64_t i = begin;
  for (; i + kChains <= m; i += kChains) {
#pragma GCC unroll 4
    for (int chain = 0; chain < kChains; ++chain) {
      const F element = L::broadcast(v[i + chain]);
      const Real* const row = c + (i + chain) * pitch;
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k)
        sum[chain][k] = L::fma(element, L::load(row + k * L::kWidth), sum[chain][k]);
    }
  }
  for (int chain = 0; i + chain < m; ++chain) {
    const F element = L::broadcast(v[i + chain]);
    const Real* const row = c + (i + chain) * pitch;
    for (int k = 0; k < kVectors; ++k)
      sum[chain][k] = L::fma(element, L::load(row + k * L::kWidth), sum[chain][k]);
  }
  F step[kVectors];
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k)
    step[k] = ((sum[0][k] + sum[1][k]) + (sum[2][k] + sum[3][k])) * -scale;
  for (i = begin; i < m; ++i) {
    const F element = L::broadcast(v[i]);
    Real* const row = c + i * pitch;
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) {
      Real* const place = row + k * L::kWidth;
      L::store(place, L::fma(element, step[k], L::load(place)));
    }
  }
}

template <class Item, class Real, class Round>
void write(const SmallMatrix<Real>& t, const Real* c, int64_t width, Round round) {
  Item* const out = static_cast<Item*>(t.data);
  for (int64_t i = 0; i < t.m; ++i) {
    for (int64_t j = 0; j < t.n; ++j)
      out[i * t.row_stride + j * t.column_stride] = round(c[i * width + j] * t.gain);
  }
}

// Draws x of reflector r into row [kSide], zeros elsewhere and in place of x_r, which is returned.
template <class Real>
Real draw(uint64_t key, uint64_t stream_index, int64_t r, int64_t m, Real* row) {
  using Store = typename StoreReal<Real>::Type;
  static_assert(kSide % kBlock == 0);
  const int32_t begin = static_cast<int32_t>(r / kBlock * kBlock);
  std::fill_n(row, begin, Real(0));
  for (int64_t j = begin; j < m; j += kBlock) {
    sample_block<Store>(Normal<Real>{0, 1}, key, (stream_index + static_cast<uint64_t>(j)) / 4,
                        row + j);
  }
  const Real own = row[r];
  for (int32_t i = begin; i < (m + kBlock - 1) / kBlock * kBlock; ++i) {
    const Real x = row[i];  // read in any case, or the loop does not become vectors
    row[i] = i > r && i < m ? x : Real(0);
  }
  return own;
}

// The sum of the squares of a row that draw made: one element per chain.
template <class Real>
double sum_of_squares(const Real* row, int64_t m) {
  alignas(64) double chains[kSide];
  const int64_t used = (m + kBlock - 1) / kBlock * kBlock;
  for (int64_t i = 0; i < used; ++i) {
    const double x = static_cast<double>(row[i]);
    chains[i] = x * x;
  }
  return fold_chains(chains, used);
}

template <class Real>
void matrix(const SmallMatrix<Real>& t) {
  using L = typename LanesOf<Real>::Type;
  alignas(64) Real c[kSide * kSide];
  alignas(64) Real v[kSide][kSide];
  Real own[kSide];
  const int64_t pitch = reflector_pitch(t.m);
  const int64_t width = (t.n + L::kWidth - 1) / L::kWidth * L::kWidth;
  std::fill_n(c, t.m * width, Real(0));
  // In two steps, so that the processor works on the sums of several rows at once.
  for (int64_t r = 0; r < t.n; ++r)
    own[r] = draw(t.key, static_cast<uint64_t>((t.stream_row + r) * pitch), r, t.m, v[r]);
  Real scale[kSide];
  for (int64_t r = 0; r < t.n; ++r) {
    const Reflection<Real> reflection = reflection_of(own[r], sum_of_squares(v[r], t.m));
    v[r][r] = reflection.first;
    c[r * width + r] = reflection.diagonal;
    scale[r] = static_cast<Real>(2.0 / reflection.square);
  }
  for (int64_t r = t.n - 1; r >= 0; --r) {
    // Columns before r are zero from row r on: what is added to them is zero.
    const int64_t begin = r / 4 * 4;
    int64_t j = r / L::kWidth * L::kWidth;
    for (; j + 4 * L::kWidth <= width; j += 4 * L::kWidth)
      reflect<L, 4>(v[r], scale[r], begin, t.m, width, c + j);
    switch ((width - j) / L::kWidth) {
      case 3:
        reflect<L, 3>(v[r], scale[r], begin, t.m, width, c + j);
        break;
      case 2:
        reflect<L, 2>(v[r], scale[r], begin, t.m, width, c + j);
        break;
      case 1:
        reflect<L, 1>(v[r], scale[r], begin, t.m, width, c + j);
        break;
      default:
        break;
    }
  }
  switch (t.dtype) {
    case DType::float32:
    case DType::float64:
      write<Real>(t, c, width, [](Real x) { return x; });
      break;
    case DType::bfloat16:
      write<uint16_t>(t, c, width, [](Real x) { return to_bfloat16(static_cast<float>(x)); });
      break;
    case DType::float16:
      write<uint16_t>(t, c, width, [](Real x) { return to_float16(static_cast<float>(x)); });
      break;
  }
}

}  // namespace

const SmallOrthogonalKernels small_orthogonal_kernels = {matrix<float>, matrix<double>};

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
