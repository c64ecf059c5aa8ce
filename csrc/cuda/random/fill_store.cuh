// How a CUDA thread turns words into values of the storage type and writes a chunk of them, 16
// bytes per store.
#pragma once

#include <type_traits>

#include "cuda/launch.cuh"
#include "math/random/distributions.h"

namespace initstats::cuda {

// Four consecutive values of the stream.
template <class Item>
struct Quad {
  Item v[4];
  // v[j] by selection, so that the array stays in registers.
  __device__ __forceinline__ Item pick(int j) const {
    return j == 0 ? v[0] : j == 1 ? v[1] : j == 2 ? v[2] : v[3];
  }
};

template <class Dist>
__device__ __forceinline__ Quad<float> sample_quad(const Dist& dist, uint64_t key, uint64_t quad) {
  const Words<Scalar32> words = stream_words<Scalar32>(key, quad, Purpose::fill);
  return {{sample<Scalar32>(dist, words.v[0]), sample<Scalar32>(dist, words.v[1]),
           sample<Scalar32>(dist, words.v[2]), sample<Scalar32>(dist, words.v[3])}};
}

struct StoreFloat32 {
  using Item = float;
  static constexpr int kChunk = 4;

  template <class Dist>
  static __device__ __forceinline__ Quad<Item> quad(const Dist& dist, uint64_t key, uint64_t quad) {
    return sample_quad(dist, key, quad);
  }
  template <class Dist>
  static __device__ __forceinline__ void store_chunk(const Dist& dist, uint64_t key, uint64_t first,
                                                     Item* out) {
    const Quad<float> q = sample_quad(dist, key, first / 4);
    *reinterpret_cast<float4*>(out) = make_float4(q.v[0], q.v[1], q.v[2], q.v[3]);
  }
};

// Both 16-bit types: Round turns a float into its bits.
template <class Round>
struct StoreHalf {
  using Item = uint16_t;
  static constexpr int kChunk = 8;

  template <class Dist>
  static __device__ __forceinline__ Quad<Item> quad(const Dist& dist, uint64_t key, uint64_t quad) {
    const Quad<float> q = sample_quad(dist, key, quad);
    return {{Round::bits(q.v[0]), Round::bits(q.v[1]), Round::bits(q.v[2]), Round::bits(q.v[3])}};
  }
  template <class Dist>
  static __device__ __forceinline__ void store_chunk(const Dist& dist, uint64_t key, uint64_t first,
                                                     Item* out) {
    const Quad<Item> a = StoreHalf::quad(dist, key, first / 4),
                     b = StoreHalf::quad(dist, key, first / 4 + 1);
    *reinterpret_cast<uint4*>(out) = make_uint4(pair(a.v[0], a.v[1]), pair(a.v[2], a.v[3]),
                                                pair(b.v[0], b.v[1]), pair(b.v[2], b.v[3]));
  }

 private:
  static __device__ __forceinline__ uint32_t pair(uint32_t low, uint32_t high) {
    return low | high << 16;
  }
};

struct RoundBFloat16 {
  static __device__ __forceinline__ uint16_t bits(float x) {
    return static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(x)).x;
  }
};
struct RoundFloat16 {
  static __device__ __forceinline__ uint16_t bits(float x) {
    return static_cast<__half_raw>(__float2half_rn(x)).x;
  }
};
using StoreBFloat16 = StoreHalf<RoundBFloat16>;
using StoreFloat16 = StoreHalf<RoundFloat16>;

struct StoreFloat64 {
  using Item = double;
  static constexpr int kChunk = 4;

  template <class Dist>
  static __device__ __forceinline__ Quad<Item> quad(const Dist& dist, uint64_t key, uint64_t quad) {
    const WideWords words = stream_wide_words(key, quad);
    return {{sample<Scalar64>(dist, words.v[0]), sample<Scalar64>(dist, words.v[1]),
             sample<Scalar64>(dist, words.v[2]), sample<Scalar64>(dist, words.v[3])}};
  }
  template <class Dist>
  static __device__ __forceinline__ void store_chunk(const Dist& dist, uint64_t key, uint64_t first,
                                                     Item* out) {
    const Quad<double> q = StoreFloat64::quad(dist, key, first / 4);
    reinterpret_cast<double2*>(out)[0] = make_double2(q.v[0], q.v[1]);
    reinterpret_cast<double2*>(out)[1] = make_double2(q.v[2], q.v[3]);
  }
};

// How a normal in Real is drawn and stored.
template <class Real>
using StoreReal = std::conditional_t<sizeof(Real) == 8, StoreFloat64, StoreFloat32>;

}  // namespace initstats::cuda
