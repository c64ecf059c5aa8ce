// What the math is written over: a family of lanes (one scalar, or a SIMD vector) and the few
// operations that C++ operators do not offer. The scalar families live here and serve CUDA threads
// and the scalar reference; the vector families live in csrc/cpu/lanes_*.h.
//
// A family L of 32-bit lanes has
//   L::F, L::U   float and uint32_t lanes; + - * & | ^ << >> and comparisons work on them, scalars
//   broadcast L::W         uint64_t lanes, half as many per vector: Philox keeps 32-bit state words
//   in them L::kWidth    lanes per F or U;  L::kHalves = vectors W per vector U (1 for the scalar
//   family)
//   L::kComparesIntegers   whether vectors of integers compare as fast as those of floats
// and the functions below. A family of 64-bit lanes (Scalar64) has F = double and U = uint64_t.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define INITSTATS_HD __host__ __device__ __forceinline__
#elif defined(INITSTATS_CUDA_ON_CPU)
#include <cmath>
#define INITSTATS_HD inline  // speed is nothing here, and sanitizers make inlined code long
#else
#include <cmath>
#define INITSTATS_HD inline __attribute__((always_inline))
#endif

namespace initstats {

template <class To, class From>
INITSTATS_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof(to));
  return to;
}

// Whether the family makes its fma of other operations (cpu/simd/lanes_sse2.h). It then has a
// faster way for chains of them: horner(), for polynomials() and quotient() of
// math/random/special.h.
template <class L>
inline constexpr bool kEmulatesFma = false;

// Whether the family multiplies whole vectors U into two, mul_halves(), rather than vectors W.
template <class L>
inline constexpr bool kMultipliesHalves = false;

struct Scalar32 {
  using F = float;
  using U = uint32_t;
  using W = uint64_t;
  static constexpr int kWidth = 1;
  static constexpr int kHalves = 1;
  static constexpr bool kComparesIntegers = false;

  static INITSTATS_HD F fma(F a, F b, F c) { return fmaf(a, b, c); }
  static INITSTATS_HD F sqrt(F a) { return sqrtf(a); }
  static INITSTATS_HD U bits(F a) { return bit_cast<U>(a); }
  static INITSTATS_HD F from_bits(U a) { return bit_cast<F>(a); }
  // Two's complement value of a, rounded to nearest even.
  static INITSTATS_HD F from_int(U a) { return static_cast<float>(static_cast<int32_t>(a)); }
  static INITSTATS_HD F select(bool where, F a, F b) { return where ? a : b; }
  static INITSTATS_HD bool any(bool a) { return a; }
  static INITSTATS_HD F min(F a, F b) { return a < b ? a : b; }
  static INITSTATS_HD F max(F a, F b) { return a > b ? a : b; }
  static INITSTATS_HD F broadcast(float a) { return a; }
  static INITSTATS_HD F load(const float* p) { return *p; }
  static INITSTATS_HD void store(float* p, F a) { *p = a; }
  static INITSTATS_HD U load(const uint32_t* p) { return *p; }
  static INITSTATS_HD void store(uint32_t* p, U a) { *p = a; }
  static INITSTATS_HD U splat(uint32_t a) { return a; }
  static INITSTATS_HD U umin(U a, U b) { return a < b ? a : b; }
  static INITSTATS_HD U umax(U a, U b) { return a > b ? a : b; }
  // The greater one as two's complement.
  static INITSTATS_HD U smax(U a, U b) {
    return static_cast<int32_t>(a) > static_cast<int32_t>(b) ? a : b;
  }
  static INITSTATS_HD U one_where(bool where) { return where ? 1u : 0u; }
  // Product of the low 32 bits of a with b, 64 bits wide. nvcc makes of the portable form a product
  // of 64-bit numbers, whose upper half takes one more addition, of zero.
  static INITSTATS_HD W mul_wide(W a, uint32_t b) {
#if defined(__CUDA_ARCH__)
    uint64_t product;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(static_cast<uint32_t>(a)), "r"(b));
    return product;
#else
    return static_cast<uint64_t>(static_cast<uint32_t>(a)) * b;
#endif
  }
  static INITSTATS_HD W counters(uint64_t first, int /*half*/) { return first; }
  static INITSTATS_HD U join(W low_half, W /*high_half*/) {
    return static_cast<uint32_t>(low_half);
  }
  static INITSTATS_HD void transpose(U (&)[4]) {}
};

struct Scalar64 {
  using F = double;
  using U = uint64_t;
  static constexpr int kWidth = 1;
  static constexpr bool kComparesIntegers = false;

  static INITSTATS_HD F fma(F a, F b, F c) { return ::fma(a, b, c); }
  static INITSTATS_HD F sqrt(F a) { return ::sqrt(a); }
  static INITSTATS_HD U bits(F a) { return bit_cast<U>(a); }
  static INITSTATS_HD F from_bits(U a) { return bit_cast<F>(a); }
  static INITSTATS_HD F from_int(U a) { return static_cast<double>(static_cast<int64_t>(a)); }
  static INITSTATS_HD F select(bool where, F a, F b) { return where ? a : b; }
  static INITSTATS_HD bool any(bool a) { return a; }
  static INITSTATS_HD F min(F a, F b) { return a < b ? a : b; }
  static INITSTATS_HD F max(F a, F b) { return a > b ? a : b; }
  static INITSTATS_HD F broadcast(double a) { return a; }
  static INITSTATS_HD F load(const double* p) { return *p; }
  static INITSTATS_HD void store(double* p, F a) { *p = a; }
  static INITSTATS_HD U splat(uint64_t a) { return a; }
  // Of values below 2^63.
  static INITSTATS_HD U umin(U a, U b) { return a < b ? a : b; }
  static INITSTATS_HD U one_where(bool where) { return where ? 1u : 0u; }
};

// a * power + c, rounded once, for a power of two and a product that is not subnormal, which is
// exact.
template <class L, class Real>
INITSTATS_HD typename L::F add_scaled(typename L::F a, Real power, Real c) {
  if constexpr (kEmulatesFma<L>) {
    return a * power + c;
  } else {
    return L::fma(a, L::broadcast(power), L::broadcast(c));
  }
}

}  // namespace initstats
