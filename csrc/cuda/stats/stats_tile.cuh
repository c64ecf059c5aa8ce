// What a block takes from a tile in its registers: the sums of Note [Tile sums] and counts in the
// histogram.
#pragma once

#include "cuda/reduce.cuh"
#include "cuda/stats/stats_load.cuh"
#include "math/stats/buckets.h"

namespace initstats::cuda {

template <class F>
struct alignas(16) TileShared {
  using Bits = ItemBits<F>;
  F sum[kTileQuarters][2 * kTileColumns];
  F powers[kTileQuarters][6 * kTileColumns];
  Bits min[kTileQuarters], max[kTileQuarters];  // ordered_bits
  Bits min_abs[kTileQuarters], min_nonzero[kTileQuarters];
  uint32_t kinds[kTileQuarters][2], zeros[kTileQuarters];
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

// Bits that compare as unsigned numbers like the values themselves, -0 below +0, and back.
template <class F>
__device__ __forceinline__ ItemBits<F> ordered_bits(F x) {
  using U = ItemBits<F>;
  using S = std::make_signed_t<U>;
  constexpr U kSign = ~(~U{0} >> 1);
  const U bits = bit_cast<U>(x);
  return bits ^ (static_cast<U>(static_cast<S>(bits) >> (8 * sizeof(F) - 1)) | kSign);
}
template <class F>
__device__ __forceinline__ F from_ordered_bits(ItemBits<F> ordered) {
  using U = ItemBits<F>;
  constexpr U kSign = ~(~U{0} >> 1);
  return bit_cast<F>(ordered ^ ((ordered & kSign) != 0 ? kSign : ~U{0}));
}

// The lesser and the greater of two numbers, neither of them NaN; of two zeros either.
__device__ __forceinline__ float lesser(float a, float b) {
#if defined(__CUDA_ARCH__)
  return fminf(a, b);
#else
  return b < a ? b : a;
#endif
}
__device__ __forceinline__ float greater(float a, float b) {
#if defined(__CUDA_ARCH__)
  return fmaxf(a, b);
#else
  return b > a ? b : a;
#endif
}
__device__ __forceinline__ double lesser(double a, double b) { return b < a ? b : a; }
__device__ __forceinline__ double greater(double a, double b) { return b > a ? b : a; }

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
    if (hold_alike<kMask, kCount * kItems>() || j < held.end)
      out[j / kItems * kTileColumns + lane % kMask * kItems + j % kItems] = v[k];
  }
}

// Steps 3 and 4 for two sums at once, a half of the lanes each: lanes 0 to 15 get the sum over
// `quarters`, [kTileQuarters] rows that lie `stride` apart, the others that over the rows beside
// them, kTileColumns further.
template <class F>
__device__ __forceinline__ F fold_quarters(const F* quarters, int stride) {
  const F* p = quarters + lane_number();
  F sum = (p[0] + p[stride]) + (p[2 * stride] + p[3 * stride]);
#pragma unroll
  for (int half = kTileColumns / 2; half > 0; half /= 2)
    sum = sum + __shfl_xor_sync(kAllLanes, sum, half);
  return sum;
}
template <class F>
__device__ __forceinline__ F of_second_half(F sum) {
  return __shfl_sync(kAllLanes, sum, kTileColumns);
}

// Exchanges the extrema of the block through shared memory. Followed by a barrier and read_extrema.
template <class F>
__device__ __forceinline__ void write_extrema(F min, F max, F min_abs, TileShared<F>& shared) {
  const ItemBits<F> least = warp_min(ordered_bits(min)), most = warp_max(ordered_bits(max)),
                    least_size = warp_min(bit_cast<ItemBits<F>>(min_abs));
  if (lane_number() == 0) {
    shared.min[warp_number()] = least;
    shared.max[warp_number()] = most;
    shared.min_abs[warp_number()] = least_size;
  }
}

template <class U>
__device__ __forceinline__ U least_of(const U (&quarters)[kTileQuarters]) {
  U least = quarters[0];
#pragma unroll
  for (int q = 1; q < kTileQuarters; ++q) least = quarters[q] < least ? quarters[q] : least;
  return least;
}
template <class U>
__device__ __forceinline__ U most_of(const U (&quarters)[kTileQuarters]) {
  U most = quarters[0];
#pragma unroll
  for (int q = 1; q < kTileQuarters; ++q) most = quarters[q] > most ? quarters[q] : most;
  return most;
}

template <class F>
__device__ __forceinline__ void read_extrema(const TileShared<F>& shared, TileSums<F>& t) {
  t.min = from_ordered_bits<F>(least_of(shared.min));
  t.max = from_ordered_bits<F>(most_of(shared.max));
  t.min_abs = bit_cast<F>(least_of(shared.min_abs));
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
  F min = x.v[0][0], max = min, min_abs = bit_cast<F>(magnitude_bits(min));
#pragma unroll
  for (int step = 0; step < x.kSteps; ++step) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const F v = x.v[step][k];
      const F size = bit_cast<F>(magnitude_bits(v));
      sums[k] = step == 0 ? v : sums[k] + v;
      sums[kItems + k] = step == 0 ? size : sums[kItems + k] + size;
      min = lesser(min, v);
      max = greater(max, v);
      min_abs = lesser(min_abs, size);
    }
  }
  fold_lane_rows<kItems, 2>(sums, shared.sum[warp_number()]);
  write_extrema(min, max, min_abs, shared);
  __syncthreads();
  read_extrema(shared, t);
  const F sum = fold_quarters(shared.sum[0], 2 * kTileColumns);
  return {__shfl_sync(kAllLanes, sum, 0), of_second_half(sum)};
}

// The count of zeros and the smallest size beside them, where all elements are finite: the tile of
// a ReLU's output needs no more than this.
template <class F, int kItems>
__device__ __forceinline__ void count_zeros(const ThreadTile<F, kItems>& x, TileShared<F>& shared,
                                            TileSums<F>& t) {
  F min_nonzero = static_cast<F>(kInfinity);
  uint32_t zeros = 0;
#pragma unroll
  for (int step = 0; step < x.kSteps; ++step) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const F v = x.v[step][k];
      if (v == F{0}) {
        ++zeros;
      } else {
        min_nonzero = lesser(min_nonzero, bit_cast<F>(magnitude_bits(v)));
      }
    }
  }
  zeros = warp_sum(zeros);
  const ItemBits<F> least = warp_min(bit_cast<ItemBits<F>>(min_nonzero));
  if (lane_number() == 0) {
    shared.zeros[warp_number()] = zeros;
    shared.min_nonzero[warp_number()] = least;
  }
  __syncthreads();
  t.zero = static_cast<uint16_t>((shared.zeros[0] + shared.zeros[1]) +
                                 (shared.zeros[2] + shared.zeros[3]));
  t.min_abs = bit_cast<F>(least_of(shared.min_nonzero));
}

// Counts of every kind, the extrema of the finite elements and the sum of them times
// kMaskedSumScale.
template <class F, int kItems>
__device__ __forceinline__ F masked_first_pass(const ThreadTile<F, kItems>& x, int missing,
                                               TileShared<F>& shared, TileSums<F>& t) {
  const ItemBits<F> infinity = infinity_bits<F>();
  F sums[kItems];
  F min = static_cast<F>(kInfinity), max = -min, min_abs = min;
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
      min_abs = magnitude != 0 && magnitude < bit_cast<ItemBits<F>>(min_abs)
                    ? bit_cast<F>(magnitude)
                    : min_abs;
      nan_zero += magnitude > infinity ? 1u : magnitude == 0 ? 1u << 16 : 0u;
      infinities += magnitude != infinity                  ? 0u
                    : bit_cast<ItemBits<F>>(v) == infinity ? 1u
                                                           : 1u << 16;
    }
  }
  nan_zero = warp_sum(nan_zero);
  infinities = warp_sum(infinities);
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
  return __shfl_sync(kAllLanes, fold_quarters(shared.sum[0], 2 * kTileColumns), 0);
}

// What the second pass meets: finite elements of usual sizes, scaled by 1; finite ones that have to
// be scaled; elements some of which are missing or not finite.
enum class Elements { usual, scaled, masked };

// The sums about the pivot, valid in thread 0; with masking also that of sizes, which the first
// pass could not take.
template <Elements kElements, class F, int kItems>
__device__ __forceinline__ void second_pass(const ThreadTile<F, kItems>& x, TileShared<F>& shared,
                                            TileSums<F>& t) {
  constexpr bool kMasked = kElements == Elements::masked;
  constexpr int kSums = kMasked ? 5 : 4;
  const F scale = kElements == Elements::usual ? F{1} : tile_scale(t);
  const F scaled_pivot = t.pivot * scale;
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
    constexpr int kStride = 6 * kTileColumns;
    t.s1 = fold_quarters(shared.powers[0], kStride);
    t.s3 = fold_quarters(shared.powers[0] + 2 * kTileColumns, kStride);
    t.s2 = of_second_half(t.s1);
    t.s4 = of_second_half(t.s3);
    if constexpr (kMasked) t.l1 = fold_quarters(shared.powers[0] + 4 * kTileColumns, kStride);
  }
}

// The sums of a tile, as tile_sums of csrc/cpu/stats/stats_moments.h; valid in thread 0.
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
  if (!plain) {
    masked_sum = masked_first_pass(x, missing, shared, t);
  } else if (t.min_abs == F{0}) {
    count_zeros(x, shared, t);
  }
  forget_terms(x);
  set_pivot(t, plain ? sums.x * static_cast<F>(1.0 / kTile) : masked_mean(masked_sum, t.finite));
  if (!plain) {
    second_pass<Elements::masked>(x, shared, t);
  } else if (sizeof(F) == 8 || t.exponent != 0) {  // registers hold no third pass of doubles
    second_pass<Elements::scaled>(x, shared, t);
    t.l1 = sums.size * tile_scale(t);
  } else {
    second_pass<Elements::usual>(x, shared, t);
    t.l1 = sums.size;
  }
  forget_terms(x);
  return t;
}

// The block's histogram: kHistogramWords counters, several per place at low scales, taken in turn
// by the lanes.
constexpr int kHistogramWords = histogram_places(kMaxScale);

// A counter of the block's histogram by its address: one addition on the way instead of a generic
// address, and nothing comes back.
class Counters {
 public:
  __device__ __forceinline__ explicit Counters(uint32_t* first)
#if defined(__CUDA_ARCH__)
      : first_(static_cast<uint32_t>(__cvta_generic_to_shared(first))){}
#else
      : first_(first) {
  }
#endif
        __device__ __forceinline__ void add_one(uint32_t index) const {
#if defined(__CUDA_ARCH__)
    asm volatile("red.shared.add.u32 [%0], 1;" ::"r"(first_ + index * 4) : "memory");
#else
    atomicAdd(first_ + index, 1u);
#endif
  }

 private:
#if defined(__CUDA_ARCH__)
  uint32_t first_;
#else
  uint32_t* first_;
#endif
};

// kAll: all elements have a bucket.
template <bool kAll, class F, int kItems, class Place>
__device__ __forceinline__ void count_tile(const ThreadTile<F, kItems>& x, int copies_log2,
                                           uint32_t* counters, Place place) {
  const Counters mine(counters + (threadIdx.x & ((1u << copies_log2) - 1)));
#pragma unroll
  for (int step = 0; step < x.kSteps; ++step) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const ItemBits<F> bits = bit_cast<ItemBits<F>>(x.v[step][k]);
      if (kAll || has_bucket(bits)) mine.add_one(place(bits) << copies_log2);
    }
  }
}

template <class F, int kItems>
__device__ __forceinline__ void count_tile(const ThreadTile<F, kItems>& x, int scale, bool all,
                                           uint32_t* counters) {
  if (sizeof(F) == 4 && scale == 0) {
    const auto place = [](ItemBits<F> bits) { return static_cast<uint32_t>((bits - 1) >> 23); };
    if (all) {
      count_tile<true>(x, kMaxScale, counters, place);
    } else {
      count_tile<false>(x, kMaxScale, counters, place);
    }
  } else {
    count_tile<false>(x, kMaxScale - scale, counters,
                      [scale](ItemBits<F> bits) { return bucket_place(bits, scale); });
  }
}

}  // namespace initstats::cuda
