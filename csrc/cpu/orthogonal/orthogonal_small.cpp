// Small orthogonal matrices of one capability: the reflections one after the other, on columns side
// by side in vectors.
#include "cpu/orthogonal/orthogonal.h"
#include "cpu/orthogonal/reflector.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

constexpr int64_t kSide = kSmallSide;

// Some reflections that follow each other, Note [Small matrices]; those beyond the last are zeros.
template <class Real>
struct Panel {
  const Real* v[kSmallPanel];
  Real scale[kSmallPanel];
  Real product[kSmallPanel][kSmallPanel];  // v_k . v_l where k < l
};

// Applies a panel to kVectors vectors of columns at c, [m, pitch], from row `begin` on.
template <class L, int kVectors, class Real>
INITSTATS_HD void reflect(const Panel<Real>& panel, int64_t begin, int64_t m, int64_t pitch,
                          Real* c) {
  using F = typename L::F;
  F step[kSmallPanel][kVectors] = {};
  for (int64_t i = begin; i < m; ++i) {
    F row[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) row[j] = L::load(c + i * pitch + j * L::kWidth);
#pragma GCC unroll 4
    for (int k = 0; k < kSmallPanel; ++k) {
      const F element = L::broadcast(panel.v[k][i]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) step[k][j] = L::fma(element, row[j], step[k][j]);
    }
  }
#pragma GCC unroll 4
  for (int k = kSmallPanel - 1; k >= 0; --k) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
#pragma GCC unroll 4
      for (int l = kSmallPanel - 1; l > k; --l)
        step[k][j] = L::fma(L::broadcast(panel.product[k][l]), step[l][j], step[k][j]);
      step[k][j] *= -panel.scale[k];
    }
  }
  for (int64_t i = begin; i < m; ++i) {
    F row[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) row[j] = L::load(c + i * pitch + j * L::kWidth);
#pragma GCC unroll 4
    for (int k = kSmallPanel - 1; k >= 0; --k) {
      const F element = L::broadcast(panel.v[k][i]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) row[j] = L::fma(element, step[k][j], row[j]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) L::store(c + i * pitch + j * L::kWidth, row[j]);
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
  using Store = StoreReal<Real>;
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

// |v_r|^2 but for its first element: draw left a zero there.
template <class Real>
double squares_of(const Real* row, int64_t r, int64_t m) {
  alignas(64) double chains[kSide];
  const int64_t begin = r / kBlock * kBlock, used = (m + kBlock - 1) / kBlock * kBlock;
  std::fill_n(chains, begin, 0.0);
  for (int64_t i = begin; i < used; ++i) {
    const double x = static_cast<double>(row[i]);
    chains[i] = x * x;
  }
  return fold_chains(chains, used);
}

// The products of the vectors of a panel that begins with coordinate `first`.
template <class L, class Real>
void multiply(Panel<Real>& panel, int64_t first, int64_t m) {
  using F = typename L::F;
  alignas(64) Real chains[kSmallPairs][kSmallChains];
  const int64_t begin = first / kSmallChains * kSmallChains;
  for (int64_t lane = 0; lane < kSmallChains; lane += L::kWidth) {
    F sum[kSmallPairs] = {};
    for (int64_t i = begin + lane; i < m; i += kSmallChains) {
      F element[kSmallPanel];
#pragma GCC unroll 4
      for (int k = 0; k < kSmallPanel; ++k) element[k] = L::load(panel.v[k] + i);
      int pair = 0;
#pragma GCC unroll 4
      for (int l = 1; l < kSmallPanel; ++l) {
#pragma GCC unroll 4
        for (int k = 0; k < l; ++k, ++pair) sum[pair] = L::fma(element[k], element[l], sum[pair]);
      }
    }
    for (int pair = 0; pair < kSmallPairs; ++pair) L::store(chains[pair] + lane, sum[pair]);
  }
  int pair = 0;
  for (int l = 1; l < kSmallPanel; ++l) {
    for (int k = 0; k < l; ++k, ++pair) {
#pragma GCC unroll 4
      for (int h = kSmallChains / 2; h > 0; h /= 2) {
        for (int c = 0; c < h; ++c) chains[pair][c] += chains[pair][c + h];
      }
      panel.product[k][l] = chains[pair][0];
    }
  }
}

template <class Real>
void matrix(const SmallMatrix<Real>& t) {
  using L = std::conditional_t<sizeof(Real) == 8, Lanes64, Lanes32>;
  constexpr int kVectors = L::kWidth * sizeof(Real) == 64 ? 4 : 2;  // as the registers allow
  alignas(64) Real c[kSide * kSide];
  alignas(64) Real v[kSide][kSide];
  Real own[kSide];
  const int64_t pitch = reflector_pitch(t.m);
  const int64_t width = (t.n + L::kWidth - 1) / L::kWidth * L::kWidth;
  const int64_t padded = (t.n + kSmallPanel - 1) / kSmallPanel * kSmallPanel;
  std::fill_n(c, t.m * width, Real(0));
  // In two steps, so that the processor works on the sums of several rows at once.
  for (int64_t r = 0; r < t.n; ++r)
    own[r] = draw(t.key, static_cast<uint64_t>((t.stream_row + r) * pitch), r, t.m, v[r]);
  Real scale[kSide] = {};
  for (int64_t r = 0; r < t.n; ++r) {
    const double squares = squares_of(v[r], r, t.m);
    const Reflection<Real> reflection = reflection_of(own[r], squares);
    v[r][r] = reflection.first;
    c[r * width + r] = reflection.diagonal;
    scale[r] = static_cast<Real>(2.0 / reflection.square);
  }
  for (int64_t r = t.n; r < padded; ++r) std::fill_n(v[r], kSide, Real(0));
  for (int64_t first = padded - kSmallPanel; first >= 0; first -= kSmallPanel) {
    Panel<Real> panel;
    for (int k = 0; k < kSmallPanel; ++k) {
      panel.v[k] = v[first + k];
      panel.scale[k] = scale[first + k];
    }
    multiply<L>(panel, first, t.m);
    // Columns before `first` are zero from its row on: what is added to them is zero.
    int64_t j = first / L::kWidth * L::kWidth;
    for (; j + kVectors * L::kWidth <= width; j += kVectors * L::kWidth)
      reflect<L, kVectors>(panel, first, t.m, width, c + j);
    for (; j < width; j += L::kWidth) reflect<L, 1>(panel, first, t.m, width, c + j);
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
