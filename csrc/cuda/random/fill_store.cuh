// How a CUDA thread turns words into values of the storage type and writes a chunk of them, 16
// bytes per store.
#pragma once

#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "math/random/distributions.h"

namespace initstats::cuda {

// Lanes of warps whose 32 threads sample together. A branch that one thread needs is taken by all:
// one vote, where threads that branch by themselves would have to meet again.
struct WarpLanes : Scalar32 {
  static __device__ __forceinline__ bool any(bool a) { return __any_sync(kAllLanes, a) != 0; }
};

// The same with minimum and maximum as one instruction each, which tells -0 from +0 where a
// comparison does not. Normal compares no zeros. A uniform value of zero has the sign of both of
// its bounds that are zero (a zero bottom is -0 if and only if a is below it, or -0; a zero top is
// +0).
struct ExtremaLanes : WarpLanes {
#if defined(__CUDA_ARCH__)
  static __device__ __forceinline__ F min(F a, F b) { return fminf(a, b); }
  static __device__ __forceinline__ F max(F a, F b) { return fmaxf(a, b); }
#endif
};

// A bound of a truncated normal may be a zero of either sign.
template <class Dist>
using SampleLanes =
    std::conditional_t<std::is_same_v<Dist, TruncNormal<float>>, WarpLanes, ExtremaLanes>;

// The keys of all rounds, in registers.
__device__ __forceinline__ RoundKeys round_keys(uint64_t key) {
  RoundKeys keys;
  RunningKeys running(key);
#pragma unroll
  for (int round = 0; round < kPhiloxRounds; ++round, running.advance()) {
    keys.k0[round] = running.k0;
    keys.k1[round] = running.k1;
#if defined(__CUDA_ARCH__)
    // Takes them as new, or the compiler adds them up again for every quad.
    asm volatile("" : "+r"(keys.k0[round]), "+r"(keys.k1[round]));
#endif
  }
  return keys;
}

// Four consecutive values of the stream.
template <class Item>
struct Quad {
  Item v[4];
  // v[j] by selection, so that the array stays in registers.
  __device__ __forceinline__ Item pick(int j) const {
    return j == 0 ? v[0] : j == 1 ? v[1] : j == 2 ? v[2] : v[3];
  }
};

// The Stores below: row_keys() makes the keys of many quads, quad() gives four values in the
// storage type, store_chunk() writes 16 bytes of them (float64: 32). L is Scalar32, or SampleLanes
// where all threads of the warp call it. Keys are RunningKeys or RoundKeys.
template <class L, class Dist, class Keys>
__device__ __forceinline__ Quad<float> sample_quad(const Dist& dist, const Keys& keys,
                                                   uint64_t quad) {
  Quad<float> q;
  dist.template samples<L>(stream_words<Scalar32>(keys, quad, Purpose::fill).v, q.v);
  return q;
}

struct StoreFloat32 {
  using Item = float;
  static constexpr int kChunk = 4;

  static __device__ __forceinline__ RoundKeys row_keys(uint64_t key) { return round_keys(key); }

  template <class L, class Dist, class Keys>
  static __device__ __forceinline__ Quad<Item> quad(const Dist& dist, const Keys& keys,
                                                    uint64_t quad) {
    return sample_quad<L>(dist, keys, quad);
  }
  template <class L, class Dist, class Keys>
  static __device__ __forceinline__ void store_chunk(const Dist& dist, const Keys& keys,
                                                     uint64_t first_quad, Item* out) {
    const Quad<float> q = sample_quad<L>(dist, keys, first_quad);
    *reinterpret_cast<float4*>(out) = make_float4(q.v[0], q.v[1], q.v[2], q.v[3]);
  }
};

// Both 16-bit types: Round turns a float into its bits, or two, the first of them in the lower
// half.
template <class Round>
struct StoreHalf {
  using Item = uint16_t;
  static constexpr int kChunk = 8;

  static __device__ __forceinline__ RoundKeys row_keys(uint64_t key) { return round_keys(key); }

  template <class L, class Dist, class Keys>
  static __device__ __forceinline__ Quad<Item> quad(const Dist& dist, const Keys& keys,
                                                    uint64_t quad) {
    const uint2 bits = pairs<L>(dist, keys, quad);
    return {{static_cast<Item>(bits.x), static_cast<Item>(bits.x >> 16), static_cast<Item>(bits.y),
             static_cast<Item>(bits.y >> 16)}};
  }
  template <class L, class Dist, class Keys>
  static __device__ __forceinline__ void store_chunk(const Dist& dist, const Keys& keys,
                                                     uint64_t first_quad, Item* out) {
    const uint2 a = pairs<L>(dist, keys, first_quad), b = pairs<L>(dist, keys, first_quad + 1);
    *reinterpret_cast<uint4*>(out) = make_uint4(a.x, a.y, b.x, b.y);
  }

 private:
  template <class L, class Dist, class Keys>
  static __device__ __forceinline__ uint2 pairs(const Dist& dist, const Keys& keys, uint64_t quad) {
    const Quad<float> q = sample_quad<L>(dist, keys, quad);
    return make_uint2(Round::bits(q.v[0], q.v[1]), Round::bits(q.v[2], q.v[3]));
  }
};

struct RoundBFloat16 {
  static __device__ __forceinline__ uint16_t bits(float x) {
    return static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(x)).x;
  }
  static __device__ __forceinline__ uint32_t bits(float low, float high) {
    return bit_cast<uint32_t>(__floats2bfloat162_rn(low, high));
  }
};
struct RoundFloat16 {
  static __device__ __forceinline__ uint16_t bits(float x) {
    return static_cast<__half_raw>(__float2half_rn(x)).x;
  }
  static __device__ __forceinline__ uint32_t bits(float low, float high) {
    return bit_cast<uint32_t>(__floats2half2_rn(low, high));
  }
};
using StoreBFloat16 = StoreHalf<RoundBFloat16>;
using StoreFloat16 = StoreHalf<RoundFloat16>;

struct StoreFloat64 {
  using Item = double;
  static constexpr int kChunk = 4;

  // Registers hold no keys of rounds besides the inverse normals, nor four of those: one value at a
  // time, and no votes.
  static __device__ __forceinline__ RunningKeys row_keys(uint64_t key) { return RunningKeys(key); }
  template <class, class Dist, class Keys>
  static __device__ __forceinline__ Quad<Item> quad(const Dist& dist, const Keys& keys,
                                                    uint64_t quad) {
    const WideWords words = stream_wide_words(keys, quad);
    return {{sample<Scalar64>(dist, words.v[0]), sample<Scalar64>(dist, words.v[1]),
             sample<Scalar64>(dist, words.v[2]), sample<Scalar64>(dist, words.v[3])}};
  }
  template <class L, class Dist, class Keys>
  static __device__ __forceinline__ void store_chunk(const Dist& dist, const Keys& keys,
                                                     uint64_t first_quad, Item* out) {
    const Quad<double> q = StoreFloat64::quad<L>(dist, keys, first_quad);
    reinterpret_cast<double2*>(out)[0] = make_double2(q.v[0], q.v[1]);
    reinterpret_cast<double2*>(out)[1] = make_double2(q.v[2], q.v[3]);
  }
};

// How a normal in Real is drawn and stored.
template <class Real>
using StoreReal = std::conditional_t<sizeof(Real) == 8, StoreFloat64, StoreFloat32>;

}  // namespace initstats::cuda
