// The sums of one tile, Note [Tile sums], in the order of Note [Tile order].
#pragma once

#include <algorithm>

#include "cpu/lanes.h"
#include "math/moments.h"

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

// Pass 1: the plain sum. It is finite if every element is and nothing overflows.
template <class L>
struct PlainTerms {
  using F = typename L::F;
  static constexpr int kCount = 1;
  INITSTATS_HD void set(F x, F (&sums)[1]) const { sums[0] = x; }
  INITSTATS_HD void add(F x, F (&sums)[1]) const { sums[0] = sums[0] + x; }
};

// Pass 1 if the plain sum is not finite: the sum of x * kMaskedSumScale over the finite elements cannot overflow.
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

// Pass 2: the sums about the pivot, Note [Tile sums].
template <class L, bool kMasked>
struct PowerTerms {
  using F = typename L::F;
  static constexpr int kCount = 5;
  F scale, scaled_pivot;

  INITSTATS_HD void set(F x, F (&sums)[5]) const {
    const F scaled = x * scale;
    const F d = masked(x, scaled - scaled_pivot);
    sums[0] = d;
    sums[1] = d * d;
    sums[2] = sums[1] * d;
    sums[3] = sums[1] * sums[1];
    sums[4] = masked(x, L::from_bits(magnitude<L>(scaled)));
  }
  INITSTATS_HD void add(F x, F (&sums)[5]) const {
    const F scaled = x * scale;
    const F d = masked(x, scaled - scaled_pivot), d2 = d * d;
    sums[0] = sums[0] + d;
    sums[1] = sums[1] + d2;
    sums[2] = L::fma(d2, d, sums[2]);
    sums[3] = L::fma(d2, d2, sums[3]);
    sums[4] = sums[4] + masked(x, L::from_bits(magnitude<L>(scaled)));
  }
  static INITSTATS_HD F masked(F x, F term) {
    if constexpr (kMasked) {
      return L::select(is_finite<L>(x), term, L::broadcast(0));
    } else {
      return term;
    }
  }
};

// Adds what a pass takes from the first `rows` rows of a tile, a multiple of R, in the order of Note [Tile order]: the
// rest is missing, and skipping it changes nothing. kAtOnce lane rows are in registers together; `see` is shown every
// vector once.
template <class L, int R, int kAtOnce, class Pass, class Item, class See>
INITSTATS_HD void sum_tile(const Item* x, int rows_present, const Pass& pass, Item* sums, See&& see) {
  using F = typename L::F;
  constexpr int kCount = Pass::kCount;
  alignas(64) Item columns[kCount][kTileColumns];
  for (int column = 0; column < kTileColumns; column += L::kWidth) {
    F quarters[kTileQuarters][kCount];
#pragma GCC unroll 1
    for (int q = 0; q < kTileQuarters; ++q) {
      const Item* quarter = x + q * kQuarterRows * kTileColumns + column;
      const int steps = std::min((rows_present - q * kQuarterRows) / R, kQuarterRows / R);
      if (steps <= 0) {
        for (int c = 0; c < kCount; ++c) quarters[q][c] = L::broadcast(0);
        continue;
      }
      F rows[R][kCount];
#pragma GCC unroll 1
      for (int row = 0; row < R; row += kAtOnce) {
        F some[kAtOnce][kCount];
#pragma GCC unroll 8
        for (int k = 0; k < kAtOnce; ++k) {
          const F v = L::load(quarter + (row + k) * kTileColumns);
          see(v);
          pass.set(v, some[k]);
        }
#pragma GCC unroll 4
        for (int step = 1; step < steps; ++step) {
#pragma GCC unroll 8
          for (int k = 0; k < kAtOnce; ++k) {
            const F v = L::load(quarter + (step * R + row + k) * kTileColumns);
            see(v);
            pass.add(v, some[k]);
          }
        }
#pragma GCC unroll 8
        for (int k = 0; k < kAtOnce; ++k) {
#pragma GCC unroll 5
          for (int c = 0; c < kCount; ++c) rows[row + k][c] = some[k][c];
        }
      }
#pragma GCC unroll 4
      for (int left = R / 2; left > 0; left /= 2) {
#pragma GCC unroll 1
        for (int i = 0; i < left; ++i) {
#pragma GCC unroll 5
          for (int c = 0; c < kCount; ++c) rows[i][c] = rows[2 * i][c] + rows[2 * i + 1][c];
        }
      }
#pragma GCC unroll 5
      for (int c = 0; c < kCount; ++c) quarters[q][c] = rows[0][c];
    }
#pragma GCC unroll 5
    for (int c = 0; c < kCount; ++c) {
      L::store(&columns[c][column], (quarters[0][c] + quarters[1][c]) + (quarters[2][c] + quarters[3][c]));
    }
  }
  sum_columns<kCount>(columns, sums);
}

// Counts of every kind among n elements, the last `missing` of which are missing, and extrema of the finite ones.
template <class Item>
void count_kinds(const Item* x, int n, int missing, TileSums<Item>& t) {
  using U = ItemBits<Item>;
  constexpr Item kInf = static_cast<Item>(__builtin_huge_val());
  constexpr U kSign = U{1} << (8 * sizeof(U) - 1);
  const U infinity = bit_cast<U>(kInf);
  U nan = 0, pos_inf = 0, neg_inf = 0, zero = 0, min_abs = infinity;
  Item min = kInf, max = -kInf;
  for (int i = 0; i < n; ++i) {
    const U bits = bit_cast<U>(x[i]), magnitude = bits & ~kSign;
    nan += magnitude > infinity;
    pos_inf += bits == infinity;
    neg_inf += bits == (infinity | kSign);
    zero += magnitude == 0;
    const Item low = magnitude < infinity ? x[i] : kInf, high = magnitude < infinity ? x[i] : -kInf;
    min = low < min ? low : min;
    max = high > max ? high : max;
    const U size = magnitude == 0 ? infinity : magnitude;
    min_abs = size < min_abs ? size : min_abs;
  }
  t.nan = static_cast<uint16_t>(nan - static_cast<U>(missing));
  t.pos_inf = static_cast<uint16_t>(pos_inf);
  t.neg_inf = static_cast<uint16_t>(neg_inf);
  t.zero = static_cast<uint16_t>(zero);
  t.finite = static_cast<uint16_t>(static_cast<U>(n) - nan - pos_inf - neg_inf);
  t.min = min;
  t.max = max;
  t.min_abs = bit_cast<Item>(min_abs);
}

// The same for a tile of finite elements whose extrema are known.
template <class Item>
void count_zeros(const Item* x, TileSums<Item>& t) {
  using U = ItemBits<Item>;
  constexpr U kSign = U{1} << (8 * sizeof(U) - 1);
  const U infinity = bit_cast<U>(static_cast<Item>(__builtin_huge_val()));
  U zero = 0, min_abs = infinity;
  for (int i = 0; i < kTile; ++i) {
    const U magnitude = bit_cast<U>(x[i]) & ~kSign;
    zero += magnitude == 0;
    const U size = magnitude == 0 ? infinity : magnitude;
    min_abs = size < min_abs ? size : min_abs;
  }
  t.zero = static_cast<uint16_t>(zero);
  t.min_abs = bit_cast<Item>(min_abs);
}

// The plain sum, and the extrema if every element is finite.
template <class L, int R, class Item>
INITSTATS_HD Item first_pass(const Item* x, TileSums<Item>& t) {
  using F = typename L::F;
  using U = typename L::U;
  F low = L::load(x), high = low;
  U small = magnitude<L>(low);
  Item sum;
  sum_tile<L, R, R < 8 ? R : 8>(x, kTile / kTileColumns, PlainTerms<L>{}, &sum, [&](F v) {
    low = L::min(v, low);
    high = L::max(v, high);
    small = L::umin(magnitude<L>(v), small);
  });
  alignas(64) Item lows[L::kWidth], highs[L::kWidth];
  alignas(64) ItemBits<Item> smalls[L::kWidth];
  memcpy(lows, &low, sizeof(lows));
  memcpy(highs, &high, sizeof(highs));
  memcpy(smalls, &small, sizeof(smalls));
  for (int i = 1; i < L::kWidth; ++i) {
    lows[0] = lows[i] < lows[0] ? lows[i] : lows[0];
    highs[0] = highs[i] > highs[0] ? highs[i] : highs[0];
    smalls[0] = smalls[i] < smalls[0] ? smalls[i] : smalls[0];
  }
  t.min = lows[0];
  t.max = highs[0];
  t.min_abs = bit_cast<Item>(smalls[0]);
  return sum;
}

template <class L, int R, bool kMasked, class Item>
INITSTATS_HD void second_pass(const Item* x, int rows, TileSums<Item>& t) {
  const Item scale = tile_scale(t);
  Item sums[5];
  const PowerTerms<L, kMasked> terms{L::broadcast(scale), L::broadcast(t.pivot * scale)};
  sum_tile<L, R, 2>(x, rows, terms, sums, [](typename L::F) {});
  t.s1 = sums[0];
  t.s2 = sums[1];
  t.s3 = sums[2];
  t.s4 = sums[3];
  t.l1 = sums[4];
}

// Where the last, partial tile of n elements ends in memory: a whole number of steps, NaN from element n on.
INITSTATS_HD constexpr int padded_size(int n, int lane_rows) {
  const int step = lane_rows * kTileColumns;
  return (n + step - 1) / step * step;
}

// The sums of a tile of n elements; x is [padded_size(n, R)].
template <class L, int R, class Item>
TileSums<Item> tile_sums(const Item* x, int n) {
  constexpr int kRows = kTile / kTileColumns;
  TileSums<Item> t;
  if (n == kTile) {
    const Item sum = first_pass<L, R>(x, t);
    if (bit_cast<ItemBits<Item>>(sum - sum) == 0) {
      t.finite = kTile;
      t.nan = t.pos_inf = t.neg_inf = t.zero = 0;
      if (t.min_abs == 0) count_zeros(x, t);
      set_pivot(t, sum * Item{1.0 / kTile});
      second_pass<L, R, false>(x, kRows, t);
      return t;
    }
  }
  const int padded = padded_size(n, R), rows = padded / kTileColumns;
  count_kinds(x, padded, padded - n, t);
  Item sum;
  sum_tile<L, R, R < 8 ? R : 8>(x, rows, MaskedTerms<L>{}, &sum, [](typename L::F) {});
  set_pivot(t, masked_mean(sum, t.finite));
  second_pass<L, R, true>(x, rows, t);
  return t;
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
