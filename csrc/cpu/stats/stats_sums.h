// The order in which a tile is summed, Note [Tile order], and the terms of the passes over it.
#pragma once

#include <algorithm>

#include "cpu/simd/lanes.h"
#include "math/stats/moments.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Step 4 for kCount sums at once.
template <int kCount, class Item>
INITSTATS_HD void sum_columns(Item (&columns)[kCount][kTileColumns], Item* sums) {
#pragma GCC unroll 4
  for (int half = kTileColumns / 2; half > 0; half /= 2) {
    for (int c = 0; c < kCount; ++c) {
#pragma GCC unroll 8
      for (int i = 0; i < half; ++i) columns[c][i] = columns[c][i] + columns[c][i + half];
    }
  }
  for (int c = 0; c < kCount; ++c) sums[c] = columns[c][0];
}

template <class L>
INITSTATS_HD typename L::U magnitude(typename L::F x) {
  using U = typename L::U;
  return L::bits(x) & (L::bits(L::broadcast(-0.0f)) ^ ~U{});
}

template <class L>
INITSTATS_HD auto is_finite(typename L::F x) {
  return magnitude<L>(x) < L::bits(L::broadcast(__builtin_huge_valf()));
}

// Pass 1: the sums of x and |x|. The latter is finite if every element is and nothing overflows.
template <class L>
struct PlainTerms {
  using F = typename L::F;
  static constexpr int kCount = 2;
  INITSTATS_HD void set(F x, F (&sums)[2]) const {
    sums[0] = x;
    sums[1] = L::from_bits(magnitude<L>(x));
  }
  INITSTATS_HD void add(F x, F (&sums)[2]) const {
    sums[0] = sums[0] + x;
    sums[1] = sums[1] + L::from_bits(magnitude<L>(x));
  }
};

// Pass 1 if that is not finite: the sum of x * kMaskedSumScale over the finite elements cannot
// overflow.
template <class L>
struct MaskedTerms {
  using F = typename L::F;
  static constexpr int kCount = 1;
  INITSTATS_HD F term(F x) const {
    return L::select(is_finite<L>(x), x, L::broadcast(0)) * L::broadcast(kMaskedSumScale);
  }
  INITSTATS_HD void set(F x, F (&sums)[1]) const { sums[0] = term(x); }
  INITSTATS_HD void add(F x, F (&sums)[1]) const { sums[0] = sums[0] + term(x); }
};

// Pass 2: the sums about the pivot, Note [Tile sums]; with masking also that of sizes, which pass 1
// could not take.
template <class L, bool kScaled, bool kMasked>
struct PowerTerms {
  using F = typename L::F;
  static constexpr int kCount = kMasked ? 5 : 4;
  F scale, scaled_pivot;

  INITSTATS_HD F scaled(F x) const {
    if constexpr (kScaled) return x * scale;
    return x;
  }
  INITSTATS_HD void set(F x, F (&sums)[kCount]) const {
    const F d = masked(x, scaled(x) - scaled_pivot);
    sums[0] = d;
    sums[1] = d * d;
    sums[2] = sums[1] * d;
    sums[3] = sums[1] * sums[1];
    if constexpr (kMasked) sums[4] = masked(x, L::from_bits(magnitude<L>(scaled(x))));
  }
  INITSTATS_HD void add(F x, F (&sums)[kCount]) const {
    const F d = masked(x, scaled(x) - scaled_pivot), d2 = d * d;
    sums[0] = sums[0] + d;
    sums[1] = sums[1] + d2;
    sums[2] = L::fma(d2, d, sums[2]);
    sums[3] = L::fma(d2, d2, sums[3]);
    if constexpr (kMasked) sums[4] = sums[4] + masked(x, L::from_bits(magnitude<L>(scaled(x))));
  }
  static INITSTATS_HD F masked(F x, F term) {
    if constexpr (kMasked) {
      return L::select(is_finite<L>(x), term, L::broadcast(0));
    } else {
      return term;
    }
  }
};

// Where a pass has the vectors of a tile from: memory.
template <class L, class Item>
struct FromMemory {
  const Item* x;
  INITSTATS_HD typename L::F vector(int element) const { return L::load(x + element); }
};

// The sum over kRows lane rows of a quarter, the first of which begins at element `first`: the tree
// of Note [Tile order], kAtOnce lane rows in registers together. `see` is shown every vector once,
// and a count.
template <class L, int R, int kRows, int kAtOnce, class Pass, class From, class See>
INITSTATS_HD void sum_rows(const From& from, int first, int steps, const Pass& pass,
                           typename L::F (&sums)[Pass::kCount], See& see) {
  using F = typename L::F;
  constexpr int kCount = Pass::kCount;
  if constexpr (kRows > kAtOnce) {
    F right[kCount];
    sum_rows<L, R, kRows / 2, kAtOnce>(from, first, steps, pass, sums, see);
    sum_rows<L, R, kRows / 2, kAtOnce>(from, first + kRows / 2 * kTileColumns, steps, pass, right,
                                       see);
#pragma GCC unroll 5
    for (int c = 0; c < kCount; ++c) sums[c] = sums[c] + right[c];
  } else {
    F rows[kRows][kCount];
#pragma GCC unroll 8
    for (int k = 0; k < kRows; ++k) {
      const F v = from.vector(first + k * kTileColumns);
      see(v, k);
      pass.set(v, rows[k]);
    }
#pragma GCC unroll 4
    for (int step = 1; step < steps; ++step) {
#pragma GCC unroll 8
      for (int k = 0; k < kRows; ++k) {
        const F v = from.vector(first + (step * R + k) * kTileColumns);
        see(v, step * kRows + k);
        pass.add(v, rows[k]);
      }
    }
#pragma GCC unroll 3
    for (int apart = 1; apart < kRows; apart *= 2) {
#pragma GCC unroll 4
      for (int k = 0; k < kRows; k += 2 * apart) {
#pragma GCC unroll 5
        for (int c = 0; c < kCount; ++c) rows[k][c] = rows[k][c] + rows[k + apart][c];
      }
    }
#pragma GCC unroll 5
    for (int c = 0; c < kCount; ++c) sums[c] = rows[0][c];
  }
}

// Adds what a pass takes from the first `rows_present` rows of a tile, a multiple of R, in the
// order of Note [Tile order]: the rest is missing, and skipping it changes nothing.
template <class L, int R, int kAtOnce, bool kFull, class Pass, class From, class Item, class See>
INITSTATS_HD void sum_tile(const From& from, int rows_present, const Pass& pass, Item* sums,
                           See&& see) {
  using F = typename L::F;
  constexpr int kCount = Pass::kCount, kSteps = kQuarterRows / R;
  alignas(64) Item columns[kCount][kTileColumns];
  for (int column = 0; column < kTileColumns; column += L::kWidth) {
    F quarters[kTileQuarters][kCount];
#pragma GCC unroll 1
    for (int q = 0; q < kTileQuarters; ++q) {
      const int steps = kFull ? kSteps : std::min((rows_present - q * kQuarterRows) / R, kSteps);
      if (steps > 0) {
        sum_rows<L, R, R, kAtOnce>(from, q * kQuarterRows * kTileColumns + column, steps, pass,
                                   quarters[q], see);
      } else {
        for (int c = 0; c < kCount; ++c) quarters[q][c] = L::broadcast(0);
      }
    }
#pragma GCC unroll 5
    for (int c = 0; c < kCount; ++c) {
      L::store(&columns[c][column],
               (quarters[0][c] + quarters[1][c]) + (quarters[2][c] + quarters[3][c]));
    }
  }
  sum_columns<kCount>(columns, sums);
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
