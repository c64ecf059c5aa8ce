// The sums of one tile, Note [Tile sums]: two passes, or three where elements are not finite or
// missing.
#pragma once

#include <type_traits>

#include "cpu/stats/stats_ahead.h"
#include "cpu/stats/stats_sums.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Elements of whole vectors, of any length; what is missing is NaN at least up to there.
constexpr int kKindsStep = 32;

// Counts of every kind and extrema of the finite elements, lane by lane.
template <class L>
struct Kinds {
  using F = typename L::F;
  using U = typename L::U;
  static constexpr float kInfinite = __builtin_huge_valf();
  U nan = L::splat(0), pos_inf = L::splat(0), neg_inf = L::splat(0), zero = L::splat(0);
  F min = L::broadcast(kInfinite), max = L::broadcast(-kInfinite);
  F min_abs = L::broadcast(kInfinite);

  INITSTATS_HD void see(F x) {
    const F plus = L::broadcast(kInfinite), minus = L::broadcast(-kInfinite);
    const F size = L::from_bits(magnitude<L>(x));
    const auto is_zero = size == L::broadcast(0), finite = size < plus;
    nan += L::one_where(x != x);
    pos_inf += L::one_where(x == plus);
    neg_inf += L::one_where(x == minus);
    zero += L::one_where(is_zero);
    min = L::min(L::select(finite, x, plus), min);
    max = L::max(L::select(finite, x, minus), max);
    min_abs = L::min(L::select(is_zero, plus, size), min_abs);
  }
};

// Counts of every kind among n elements, whole vectors, the last `missing` of which are missing,
// and extrema of the finite ones.
template <class L, class Item>
INITSTATS_HD void count_kinds(const Item* x, int n, int missing, TileSums<Item>& t) {
  Kinds<L> kinds;
  for (int i = 0; i < n; i += L::kWidth) kinds.see(L::load(x + i));
  ItemBits<Item> counts[4][L::kWidth];
  Item mins[L::kWidth], maxs[L::kWidth], sizes[L::kWidth];
  memcpy(counts[0], &kinds.nan, sizeof(counts[0]));
  memcpy(counts[1], &kinds.pos_inf, sizeof(counts[1]));
  memcpy(counts[2], &kinds.neg_inf, sizeof(counts[2]));
  memcpy(counts[3], &kinds.zero, sizeof(counts[3]));
  memcpy(mins, &kinds.min, sizeof(mins));
  memcpy(maxs, &kinds.max, sizeof(maxs));
  memcpy(sizes, &kinds.min_abs, sizeof(sizes));
  for (int half = L::kWidth / 2; half > 0; half /= 2) {
    for (auto& count : counts)
      for (int i = 0; i < half; ++i) count[i] += count[i + half];
    for (int i = 0; i < half; ++i) {
      mins[i] = mins[i + half] < mins[i] ? mins[i + half] : mins[i];
      maxs[i] = maxs[i + half] > maxs[i] ? maxs[i + half] : maxs[i];
      sizes[i] = sizes[i + half] < sizes[i] ? sizes[i + half] : sizes[i];
    }
  }
  t.nan = static_cast<uint16_t>(counts[0][0] - static_cast<ItemBits<Item>>(missing));
  t.pos_inf = static_cast<uint16_t>(counts[1][0]);
  t.neg_inf = static_cast<uint16_t>(counts[2][0]);
  t.zero = static_cast<uint16_t>(counts[3][0]);
  t.finite = static_cast<uint16_t>(static_cast<ItemBits<Item>>(n) - counts[0][0] - counts[1][0] -
                                   counts[2][0]);
  t.min = mins[0];
  t.max = maxs[0];
  t.min_abs = sizes[0];
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

// Where the last, partial tile of n elements ends in memory: a whole number of steps, NaN from
// element n on.
INITSTATS_HD constexpr int padded_size(int n, int lane_rows) {
  const int step = lane_rows * kTileColumns;
  return (n + step - 1) / step * step;
}

// What is picked of n values, by halving: no value waits for all others.
template <int n, class Value, class Pick>
INITSTATS_HD Value picked(Value (&v)[n], Pick pick) {
#pragma GCC unroll 4
  for (int half = n / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) v[i] = pick(v[i], v[i + half]);
  }
  return v[0];
}

// The extrema of finite elements. Most SIMD lanes of 32 bits compare bits: as unsigned numbers the
// negative ones of largest size come last, as two's complement the positive ones do. Where there
// are none, the smallest size tells the extreme.
template <class L>
struct Extrema {
  using F = typename L::F;
  using U = typename L::U;
  static constexpr bool kByBits = L::kComparesIntegers;
  U least;  // |x|
  U last_unsigned, last_signed;
  F min, max;

  INITSTATS_HD Extrema()
      : least(magnitude<L>(L::from_bits(L::splat(0) - 1u))),
        last_unsigned(L::splat(0)),
        last_signed(L::bits(L::broadcast(-0.0f))),
        min(L::broadcast(__builtin_huge_valf())),
        max(L::broadcast(-__builtin_huge_valf())) {}
  INITSTATS_HD void see(F x) {
    least = L::umin(magnitude<L>(x), least);
    if constexpr (kByBits) {
      last_unsigned = L::umax(L::bits(x), last_unsigned);
      last_signed = L::smax(L::bits(x), last_signed);
    } else {
      min = L::min(x, min);
      max = L::max(x, max);
    }
  }
  template <class Item>
  INITSTATS_HD void write(TileSums<Item>& t) const {
    using Bits = ItemBits<Item>;
    Bits leasts[L::kWidth];
    memcpy(leasts, &least, sizeof(leasts));
    t.min_abs = bit_cast<Item>(picked(leasts, [](Bits a, Bits b) { return a < b ? a : b; }));
    if constexpr (kByBits) {
      using Signed = std::make_signed_t<Bits>;
      constexpr Bits kSign = Bits{1} << (8 * sizeof(Bits) - 1);
      Bits unsigneds[L::kWidth];
      Signed signeds[L::kWidth];
      memcpy(unsigneds, &last_unsigned, sizeof(unsigneds));
      memcpy(signeds, &last_signed, sizeof(signeds));
      const Bits low = picked(unsigneds, [](Bits a, Bits b) { return a > b ? a : b; });
      const Signed high = picked(signeds, [](Signed a, Signed b) { return a > b ? a : b; });
      t.min = (low & kSign) != 0 ? bit_cast<Item>(low) : t.min_abs;
      t.max = high >= 0 ? bit_cast<Item>(high) : -t.min_abs;
    } else {
      Item mins[L::kWidth], maxs[L::kWidth];
      memcpy(mins, &min, sizeof(mins));
      memcpy(maxs, &max, sizeof(maxs));
      t.min = picked(mins, [](Item a, Item b) { return a < b ? a : b; });
      t.max = picked(maxs, [](Item a, Item b) { return a > b ? a : b; });
    }
  }
};

constexpr int kTileRows = kTile / kTileColumns;

// Lane rows at once in pass 1: as many as their sums leave registers for.
template <class L, int R>
constexpr int kFirstAtOnce = sizeof(typename L::F) == 64 && R >= 8 ? 8 : 4;

// The sums of x and |x|; the extrema too, if the latter is finite.
template <class L, int R, class From, class Item>
INITSTATS_HD void first_pass(const From& from, const Ahead& ahead, Item (&sums)[2],
                             TileSums<Item>& t) {
  Extrema<L> extrema;
  PassAhead<L> prefetch(ahead, 0);
  sum_tile<L, R, kFirstAtOnce<L, R>, true>(from, kTileRows, PlainTerms<L>{}, sums,
                                           [&](typename L::F v, int i) {
                                             prefetch(i);
                                             extrema.see(v);
                                           });
  extrema.write(t);
}

template <class L, int R, bool kScaled, class Item>
INITSTATS_HD void second_pass(const Item* x, const Ahead& ahead, Item size, TileSums<Item>& t) {
  const Item scale = tile_scale(t);
  Item sums[4];
  PassAhead<L> prefetch(ahead, 1);
  const PowerTerms<L, kScaled, false> terms{L::broadcast(scale), L::broadcast(t.pivot * scale)};
  const FromMemory<L, Item> from{x};
  sum_tile<L, R, 2, true>(from, kTileRows, terms, sums, [&](typename L::F, int i) { prefetch(i); });
  set_sums(t, sums[0], sums[1], sums[2], sums[3], size * scale);
}

template <class L, int R, class Item>
INITSTATS_HD void masked_passes(const Item* x, int n, TileSums<Item>& t) {
  const int padded = padded_size(n, R), rows = padded / kTileColumns;
  const int counted = (n + kKindsStep - 1) / kKindsStep * kKindsStep;
  const auto ignore = [](typename L::F, int) {};
  const FromMemory<L, Item> from{x};
  Item sum, sums[5];
  count_kinds<L>(x, counted, counted - n, t);
  sum_tile<L, R, kFirstAtOnce<L, R>, false>(from, rows, MaskedTerms<L>{}, &sum, ignore);
  set_pivot(t, masked_mean(sum, t.finite));
  const Item scale = tile_scale(t);
  const PowerTerms<L, true, true> terms{L::broadcast(scale), L::broadcast(t.pivot * scale)};
  sum_tile<L, R, 2, false>(from, rows, terms, sums, ignore);
  set_sums(t, sums[0], sums[1], sums[2], sums[3], sums[4]);
}

// The sums of a tile of n elements; x is [padded_size(n, R)]. The vectors of a full one come `from`
// elsewhere at first, which leaves them at x.
template <class L, int R, class Item, class From>
TileSums<Item> tile_sums(const Item* x, int n, const Ahead& ahead, const From& from) {
  TileSums<Item> t;
  if (n == kTile) {
    Item sums[2];
    first_pass<L, R>(from, ahead, sums, t);
    if (bit_cast<ItemBits<Item>>(sums[1] - sums[1]) == 0) {
      t.finite = kTile;
      t.nan = t.pos_inf = t.neg_inf = t.zero = 0;
      if (t.min_abs == 0) count_zeros(x, t);
      set_pivot(t, sums[0] * Item{1.0 / kTile});
      if (t.exponent == 0) {
        second_pass<L, R, false>(x, ahead, sums[1], t);
      } else {
        second_pass<L, R, true>(x, ahead, sums[1], t);
      }
      return t;
    }
  }
  masked_passes<L, R>(x, n, t);
  return t;
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
