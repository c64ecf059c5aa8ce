// What a block takes from a tile in its registers: the sums of Note [Tile sums] and counts in the
// histogram.
#pragma once

#include "cuda/reduce.cuh"
#include "cuda/stats/stats_load.cuh"
#include "math/stats/buckets.h"

namespace initstats::cuda {

template <class F>
struct TileShared {
  F sum[kTileQuarters][2 * kTileColumns];
  F powers[kTileQuarters][5 * kTileColumns];
  F min[kTileQuarters], max[kTileQuarters];
  ItemBits<F> min_abs[kTileQuarters];
  uint32_t kinds[kTileQuarters][2];
};

template <class F>
__device__ __forceinline__ ItemBits<F> magnitude_bits(F x) {
  using U = ItemBits<F>;
  return bit_cast<U>(x) & (~U{0} >> 1);
}
template <class F>
__device__ __forceinline__ ItemBits<F> infinity_bits() {
  return bit_cast<ItemBits<F>>(static_cast<F>(kInfinity));
}
template <class F>
__device__ __forceinline__ bool is_finite(F x) {
  return magnitude_bits(x) < infinity_bits<F>();
}

__device__ __forceinline__ float fused(float a, float b, float c) { return Scalar32::fma(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) {
  return Scalar64::fma(a, b, c);
}

__device__ __forceinline__ int lane_number() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_number() { return static_cast<int>(threadIdx.x) / kWarp; }

// Steps 2 of Note [Tile order] for kCount sums per column, v[count * kItems + item]; out is
// [kCount][kTileColumns].
template <int kItems, int kCount, class F>
__device__ __forceinline__ void fold_lane_rows(F (&v)[kCount * kItems], F* out) {
  constexpr int kMask = kTileColumns / kItems;  // lanes of one row
  const int lane = lane_number();
  constexpr int kMost = held_sums<kMask, kCount * kItems>();
  const Held held = scatter_sums<kMask>(v, lane);
#pragma unroll
  for (int k = 0; k < kMost; ++k) {
    const int j = held.first + k;
    if (j < held.end) out[j / kItems * kTileColumns + lane % kMask * kItems + j % kItems] = v[k];
  }
}

// Steps 3 and 4: every lane gets the sum over `quarters`, [kTileQuarters] rows that lie `stride`
// apart.
template <class F>
__device__ __forceinline__ F fold_quarters(const F* quarters, int stride) {
  const F* p = quarters + lane_number() % kTileColumns;
  F sum = (p[0] + p[stride]) + (p[2 * stride] + p[3 * stride]);
#pragma unroll
  for (int half = kTileColumns / 2; half > 0; half /= 2)
    sum = sum + __shfl_xor_sync(kAllLanes, sum, half);
  return sum;
}

// Exchanges the extrema of the block through shared memory. Followed by a barrier and read_extrema.
template <class F>
__device__ __forceinline__ void write_extrema(F min, F max, ItemBits<F> min_abs,
                                              TileShared<F>& shared) {
  min = warp_reduce(min, [](F a, F b) { return b < a ? b : a; });
  max = warp_reduce(max, [](F a, F b) { return b > a ? b : a; });
  min_abs = warp_reduce(min_abs, [](ItemBits<F> a, ItemBits<F> b) { return b < a ? b : a; });
  if (lane_number() == 0) {
    shared.min[warp_number()] = min;
    shared.max[warp_number()] = max;
    shared.min_abs[warp_number()] = min_abs;
  }
}

template <class F>
__device__ __forceinline__ void read_extrema(const TileShared<F>& shared, TileSums<F>& t) {
  t.min = shared.min[0];
  t.max = shared.max[0];
  ItemBits<F> min_abs = shared.min_abs[0];
#pragma unroll
  for (int q = 1; q < kTileQuarters; ++q) {
    t.min = shared.min[q] < t.min ? shared.min[q] : t.min;
    t.max = shared.max[q] > t.max ? shared.max[q] : t.max;
    min_abs = shared.min_abs[q] < min_abs ? shared.min_abs[q] : min_abs;
  }
  t.min_abs = bit_cast<F>(min_abs);
}

template <class F>
struct PlainSums {
  F x, size;
};

// The sums of x and |x|; the extrema too, if the latter is finite.
template <class F, int kItems>
__device__ __forceinline__ PlainSums<F> first_pass(const ThreadTile<F, kItems>& x,
                                                   TileShared<F>& shared, TileSums<F>& t) {
  F sums[2 * kItems];
  F min = x.v[0][0], max = min;
  ItemBits<F> min_abs = magnitude_bits(min);
#pragma unroll
  for (int step = 0; step < x.kSteps; ++step) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const F v = x.v[step][k];
      const F size = bit_cast<F>(magnitude_bits(v));
      sums[k] = step == 0 ? v : sums[k] + v;
      sums[kItems + k] = step == 0 ? size : sums[kItems + k] + size;
      min = v < min ? v : min;
      max = v > max ? v : max;
      min_abs = magnitude_bits(v) < min_abs ? magnitude_bits(v) : min_abs;
    }
  }
  fold_lane_rows<kItems, 2>(sums, shared.sum[warp_number()]);
  write_extrema(min, max, min_abs, shared);
  __syncthreads();
  read_extrema(shared, t);
  return {fold_quarters(shared.sum[0], 2 * kTileColumns),
          fold_quarters(shared.sum[0] + kTileColumns, 2 * kTileColumns)};
}

// Counts of every kind, the extrema of the finite elements and the sum of them times
// kMaskedSumScale.
template <class F, int kItems>
__device__ __forceinline__ F masked_first_pass(const ThreadTile<F, kItems>& x, int missing,
                                               TileShared<F>& shared, TileSums<F>& t) {
  const ItemBits<F> infinity = infinity_bits<F>();
  F sums[kItems];
  F min = static_cast<F>(kInfinity), max = -min;
  ItemBits<F> min_abs = infinity;
  uint32_t nan_zero = 0, infinities = 0;  // two counts of 16 bits each
#pragma unroll
  for (int step = 0; step < x.kSteps; ++step) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const F v = x.v[step][k];
      const ItemBits<F> magnitude = magnitude_bits(v);
      const bool finite = magnitude < infinity;
      const F term = (finite ? v : F{0}) * static_cast<F>(kMaskedSumScale);
      sums[k] = step == 0 ? term : sums[k] + term;
      min = finite && v < min ? v : min;
      max = finite && v > max ? v : max;
      min_abs = magnitude != 0 && magnitude < min_abs ? magnitude : min_abs;
      nan_zero += magnitude > infinity ? 1u : magnitude == 0 ? 1u << 16 : 0u;
      infinities += magnitude != infinity                  ? 0u
                    : bit_cast<ItemBits<F>>(v) == infinity ? 1u
                                                           : 1u << 16;
    }
  }
  const auto add = [](uint32_t a, uint32_t b) { return a + b; };
  nan_zero = warp_reduce(nan_zero, add);
  infinities = warp_reduce(infinities, add);
  __syncthreads();  // the results of the first pass have been read
  if (lane_number() == 0) {
    shared.kinds[warp_number()][0] = nan_zero;
    shared.kinds[warp_number()][1] = infinities;
  }
  fold_lane_rows<kItems, 1>(sums, shared.sum[warp_number()]);
  write_extrema(min, max, min_abs, shared);
  __syncthreads();
  read_extrema(shared, t);
  nan_zero = infinities = 0;
#pragma unroll
  for (int q = 0; q < kTileQuarters; ++q) {
    nan_zero += shared.kinds[q][0];
    infinities += shared.kinds[q][1];
  }
  t.zero = static_cast<uint16_t>(nan_zero >> 16);
  t.pos_inf = static_cast<uint16_t>(infinities);
  t.neg_inf = static_cast<uint16_t>(infinities >> 16);
  t.finite = static_cast<uint16_t>(kTile - (nan_zero & 0xFFFF) - t.pos_inf - t.neg_inf);
  t.nan = static_cast<uint16_t>((nan_zero & 0xFFFF) - static_cast<uint32_t>(missing));
  return fold_quarters(shared.sum[0], 2 * kTileColumns);
}

// The sums about the pivot, valid in warp 0; with masking also that of sizes, which the first pass
// could not take.
template <bool kMasked, class F, int kItems>
__device__ __forceinline__ void second_pass(const ThreadTile<F, kItems>& x, TileShared<F>& shared,
                                            TileSums<F>& t) {
  constexpr int kSums = kMasked ? 5 : 4;
  const F scale = tile_scale(t), scaled_pivot = t.pivot * scale;
  F sums[kSums * kItems];
#pragma unroll
  for (int step = 0; step < x.kSteps; ++step) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const bool keep = !kMasked || is_finite(x.v[step][k]);
      const F scaled = x.v[step][k] * scale;
      const F d = keep ? scaled - scaled_pivot : F{0};
      const F d2 = d * d;
      F* const s = sums + k;
      s[0] = step == 0 ? d : s[0] + d;
      s[kItems] = step == 0 ? d2 : s[kItems] + d2;
      s[2 * kItems] = step == 0 ? d2 * d : fused(d2, d, s[2 * kItems]);
      s[3 * kItems] = step == 0 ? d2 * d2 : fused(d2, d2, s[3 * kItems]);
      if constexpr (kMasked) {
        const F size = keep ? bit_cast<F>(magnitude_bits(scaled)) : F{0};
        s[4 * kItems] = step == 0 ? size : s[4 * kItems] + size;
      }
    }
  }
  fold_lane_rows<kItems, kSums>(sums, shared.powers[warp_number()]);
  __syncthreads();
  if (warp_number() == 0) {
    constexpr int kStride = 5 * kTileColumns;
    t.s1 = fold_quarters(shared.powers[0], kStride);
    t.s2 = fold_quarters(shared.powers[0] + kTileColumns, kStride);
    t.s3 = fold_quarters(shared.powers[0] + 2 * kTileColumns, kStride);
    t.s4 = fold_quarters(shared.powers[0] + 3 * kTileColumns, kStride);
    if constexpr (kMasked) t.l1 = fold_quarters(shared.powers[0] + 4 * kTileColumns, kStride);
  }
}

// The sums of a tile, as tile_sums of csrc/cpu/stats/stats_moments.h; valid in warp 0.
template <class F, int kItems>
__device__ __forceinline__ TileSums<F> tile_sums(ThreadTile<F, kItems>& x, int missing,
                                                 TileShared<F>& shared) {
  TileSums<F> t;
  const PlainSums<F> sums = first_pass(x, shared, t);
  const bool plain = is_finite(sums.size);  // the same in all threads, as every condition here
  t.finite = kTile;
  t.nan = t.pos_inf = t.neg_inf = t.zero = 0;
  F masked_sum = F{0};
  forget_terms(x);
  if (!plain || t.min_abs == F{0}) masked_sum = masked_first_pass(x, missing, shared, t);
  forget_terms(x);
  set_pivot(t, plain ? sums.x * static_cast<F>(1.0 / kTile) : masked_mean(masked_sum, t.finite));
  if (plain) {
    second_pass<false>(x, shared, t);
    t.l1 = sums.size * tile_scale(t);
  } else {
    second_pass<true>(x, shared, t);
  }
  forget_terms(x);
  return t;
}

// The block's histogram: kHistogramWords counters, several per place at low scales, taken in turn
// by the lanes.
constexpr int kHistogramWords = histogram_places(kMaxScale);

template <class F, int kItems, class Place>
__device__ __forceinline__ void count_tile(const ThreadTile<F, kItems>& x, int copies_log2,
                                           uint32_t* counters, Place place) {
  const uint32_t copy = threadIdx.x & ((1u << copies_log2) - 1);
#pragma unroll
  for (int step = 0; step < x.kSteps; ++step) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const ItemBits<F> bits = bit_cast<ItemBits<F>>(x.v[step][k]);
      if (has_bucket(bits)) atomicAdd(counters + ((place(bits) << copies_log2) | copy), 1u);
    }
  }
}

template <class F, int kItems>
__device__ __forceinline__ void count_tile(const ThreadTile<F, kItems>& x, int scale,
                                           uint32_t* counters) {
  if (sizeof(F) == 4 && scale == 0) {
    count_tile(x, kMaxScale, counters,
               [](ItemBits<F> bits) { return static_cast<uint32_t>((bits - 1) >> 23); });
  } else {
    count_tile(x, kMaxScale - scale, counters,
               [scale](ItemBits<F> bits) { return bucket_place(bits, scale); });
  }
}

}  // namespace initstats::cuda
