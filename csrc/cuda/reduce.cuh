// Sums across a warp in a fixed order.
#pragma once

#include "cuda/launch.cuh"
#include "math/core/lanes.h"

namespace initstats::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kWarp = 32;

// Which of the sums that went into scatter_sums a lane holds afterwards: first, first + 1, ...
// before end.
struct Held {
  int first, end;
};

// Adds n sums across the lanes that differ in the bits of kMask, 2 kMask, ... 16 of their number,
// as a balanced tree that takes the lowest bit first. After each level a lane keeps half of the
// sums, so that there are about n shuffles in all instead of n per level. v[0], v[1], ... are the
// sums that the returned Held names.
template <int kMask, int n, class F, int kSize>
__device__ __forceinline__ void scatter_level(F (&v)[kSize], int lane, Held& held) {
  if constexpr (kMask < kWarp) {
    constexpr int kHalf = (n + 1) / 2;
    const bool upper = (lane & kMask) != 0;
#pragma unroll
    for (int k = 0; k < kHalf; ++k) {
      const F high = kHalf + k < n ? v[kHalf + k < n ? kHalf + k : 0] : F{0};
      const F keep = upper ? high : v[k], give = upper ? v[k] : high;
      v[k] = keep + __shfl_xor_sync(kAllLanes, give, kMask);
    }
    held.end = upper ? held.first + n : held.first + kHalf;
    held.first = upper ? held.first + kHalf : held.first;
    scatter_level<2 * kMask, kHalf>(v, lane, held);
  }
}

template <int kMask, int n, class F>
__device__ __forceinline__ Held scatter_sums(F (&v)[n], int lane) {
  Held held{0, n};
  scatter_level<kMask, n>(v, lane, held);
  return held;
}

// Whether all lanes hold equally many sums after scatter_sums.
template <int kMask, int n>
INITSTATS_HD constexpr bool hold_alike() {
  return n % (kWarp / kMask) == 0;
}

// How many sums a lane holds at most after scatter_sums.
template <int kMask, int n>
INITSTATS_HD constexpr int held_sums() {
  if constexpr (kMask < kWarp) {
    return held_sums<2 * kMask, (n + 1) / 2>();
  } else {
    return n;
  }
}

template <class T, class Combine>
__device__ __forceinline__ T warp_reduce(T value, Combine combine) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    value = combine(value, __shfl_xor_sync(kAllLanes, value, mask));
  return value;
}

// The smallest, the largest and the sum of the lanes' numbers: one instruction where the GPU has
// it.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
__device__ __forceinline__ uint32_t warp_min(uint32_t value) {
  return __reduce_min_sync(kAllLanes, value);
}
__device__ __forceinline__ uint32_t warp_max(uint32_t value) {
  return __reduce_max_sync(kAllLanes, value);
}
__device__ __forceinline__ uint32_t warp_sum(uint32_t value) {
  return __reduce_add_sync(kAllLanes, value);
}
#else
__device__ __forceinline__ uint32_t warp_min(uint32_t value) {
  return warp_reduce(value, [](uint32_t a, uint32_t b) { return b < a ? b : a; });
}
__device__ __forceinline__ uint32_t warp_max(uint32_t value) {
  return warp_reduce(value, [](uint32_t a, uint32_t b) { return b > a ? b : a; });
}
__device__ __forceinline__ uint32_t warp_sum(uint32_t value) {
  return warp_reduce(value, [](uint32_t a, uint32_t b) { return a + b; });
}
#endif
__device__ __forceinline__ uint64_t warp_min(uint64_t value) {
  return warp_reduce(value, [](uint64_t a, uint64_t b) { return b < a ? b : a; });
}
__device__ __forceinline__ uint64_t warp_max(uint64_t value) {
  return warp_reduce(value, [](uint64_t a, uint64_t b) { return b > a ? b : a; });
}

}  // namespace initstats::cuda
