// The moments of slices of a tensor, one per unit or channel: chunk by chunk, one lane per slice.
#pragma once

#include "math/stats/moments.h"

namespace initstats {

// Note [Slice order]. A slice is what remains of a tensor when some dimensions are kept at one
// index; its elements come in C order of the other dimensions. They are cut into chunks of kChunk
// and groups of kChunksPerGroup chunks. A chunk is summed element after element, first for its mean
// and its extrema, then for the powers about that mean (Note [Tile sums]). The records of a group's
// chunks merge one after another, and so do the groups. The order depends on the number of elements
// alone, not on strides, threads or vectors: every device gives the same bits.
constexpr int kChunk = 64;
constexpr int kChunksPerGroup = 4;
constexpr int kGroup = kChunk * kChunksPerGroup;

// How many groups the elements of a slice make.
INITSTATS_HD constexpr int64_t groups_of(int64_t elements) {
  return (elements + kGroup - 1) / kGroup;
}

template <class L>
INITSTATS_HD typename L::F size_of(typename L::F x) {
  return L::from_bits(L::bits(x) & (L::bits(L::broadcast(-0.0f)) ^ ~L::splat(0)));
}

// The first time over a chunk, kWidth slices of L side by side. Without kMasked the elements should
// be finite, and are if `share` is: then the results are those with it.
template <class L, bool kMasked>
struct ChunkExtrema {
  using F = typename L::F;
  using U = typename L::U;
  static constexpr float kInfinite = __builtin_huge_valf();
  // The sum of kChunk finite values times this cannot overflow; it is needed for closeness only.
  static constexpr float kShare = 1.0f / (2 * kChunk);
  F share = L::broadcast(0), min = L::broadcast(kInfinite), max = L::broadcast(-kInfinite),
    min_abs = L::broadcast(kInfinite);
  U nan = L::splat(0), pos_inf = L::splat(0), neg_inf = L::splat(0), zero = L::splat(0);

  INITSTATS_HD void see(F x) {
    const F infinity = L::broadcast(kInfinite), none = L::broadcast(0), size = size_of<L>(x);
    if constexpr (kMasked) {
      const auto finite = size < infinity;
      share = L::fma(L::select(finite, x, none), L::broadcast(kShare), share);
      min = L::min(L::select(finite, x, infinity), min);
      max = L::max(L::select(finite, x, L::broadcast(-kInfinite)), max);
      nan += L::one_where(x != x);
      pos_inf += L::one_where(x == infinity);
      neg_inf += L::one_where(x == L::broadcast(-kInfinite));
    } else {
      share = L::fma(x, L::broadcast(kShare), share);
      min = L::min(x, min);
      max = L::max(x, max);
    }
    min_abs = L::min(L::select(size > none, size, infinity), min_abs);
    zero += L::one_where(x == none);
  }
};

// The second time: the sums about the pivot.
template <class L, bool kMasked>
struct ChunkPowers {
  using F = typename L::F;
  F scale, minus_pivot;  // scaled
  F s1 = L::broadcast(0), s2 = L::broadcast(0), s3 = L::broadcast(0), s4 = L::broadcast(0),
    l1 = L::broadcast(0);

  INITSTATS_HD ChunkPowers(F scale_of_chunk, F pivot)
      : scale(scale_of_chunk), minus_pivot(-(pivot * scale_of_chunk)) {}

  INITSTATS_HD void see(F x) {
    F d = L::fma(x, scale, minus_pivot), size = size_of<L>(x);
    if constexpr (kMasked) {
      const auto finite = size < L::broadcast(__builtin_huge_valf());
      d = L::select(finite, d, L::broadcast(0));
      size = L::select(finite, size, L::broadcast(0));
    }
    const F d2 = d * d;
    s1 = s1 + d;
    s2 = s2 + d2;
    s3 = L::fma(d2, d, s3);
    s4 = L::fma(d2, d2, s4);
    l1 = L::fma(size, scale, l1);
  }
};

// What a lane knows after the first time; counts of n elements.
template <class Item>
INITSTATS_HD void set_extrema(TileSums<Item>& t, int n, Item share, Item min, Item max,
                              Item min_abs, int nan, int pos_inf, int neg_inf, int zero) {
  t.nan = static_cast<uint16_t>(nan);
  t.pos_inf = static_cast<uint16_t>(pos_inf);
  t.neg_inf = static_cast<uint16_t>(neg_inf);
  t.zero = static_cast<uint16_t>(zero);
  t.finite = static_cast<uint16_t>(n - nan - pos_inf - neg_inf);
  t.min = min;
  t.max = max;
  t.min_abs = min_abs;
  const int finite = t.finite;
  set_pivot(t, finite == 0 ? Item{0} : share / static_cast<Item>(finite) * Item{2 * kChunk});
}

}  // namespace initstats
