// Device intrinsics: cached loads and stores, bits, integers and explicitly rounded arithmetic.
#pragma once

// math.h, not cmath: device code writes sqrtf, fmaf, isnan, ... without std::.
#include <math.h>

#include <algorithm>
#include <cstdint>

#include "collectives.h"

using std::max;
using std::min;

// ---- loads and stores with a cache hint
namespace [[gnu::visibility("hidden")]] cuda_on_cpu {
// UBSan sees a misaligned dereference only where it is compiled in: this check is always there.
template <class T>
void check_alignment(const T* address, int line) {
  if (reinterpret_cast<std::uintptr_t>(address) % sizeof(T) != 0) {
    fail("misaligned access of " + std::to_string(sizeof(T)) + " bytes, line " +
         std::to_string(line));
  }
}
}  // namespace cuda_on_cpu
#define CUDA_ON_CPU_LOAD(name)                            \
  template <class T>                                      \
  T name(const T* address, int line = __builtin_LINE()) { \
    cuda_on_cpu::check_alignment(address, line);          \
    return *address;                                      \
  }
CUDA_ON_CPU_LOAD(__ldg)
CUDA_ON_CPU_LOAD(__ldcs)
CUDA_ON_CPU_LOAD(__ldca)
CUDA_ON_CPU_LOAD(__ldcg)
CUDA_ON_CPU_LOAD(__ldcv)
CUDA_ON_CPU_LOAD(__ldlu)
#undef CUDA_ON_CPU_LOAD
#define CUDA_ON_CPU_STORE(name)                                          \
  template <class T>                                                     \
  void name(T* address, typename cuda_on_cpu::NotDeduced<T>::type value, \
            int line = __builtin_LINE()) {                               \
    cuda_on_cpu::check_alignment(address, line);                         \
    *address = value;                                                    \
  }
CUDA_ON_CPU_STORE(__stcs)
CUDA_ON_CPU_STORE(__stcg)
CUDA_ON_CPU_STORE(__stwb)
CUDA_ON_CPU_STORE(__stwt)
#undef CUDA_ON_CPU_STORE

// ---- bits
inline float __uint_as_float(unsigned value) { return cuda_on_cpu::from_bits<float>(value); }
inline float __int_as_float(int value) {
  return cuda_on_cpu::from_bits<float>(static_cast<unsigned>(value));
}
inline unsigned __float_as_uint(float value) {
  return static_cast<unsigned>(cuda_on_cpu::to_bits(value));
}
inline int __float_as_int(float value) { return static_cast<int>(cuda_on_cpu::to_bits(value)); }
inline long long __double_as_longlong(double value) {
  return static_cast<long long>(cuda_on_cpu::to_bits(value));
}
inline double __longlong_as_double(long long value) {
  return cuda_on_cpu::from_bits<double>(static_cast<std::uint64_t>(value));
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline int __clz(int value) {
  return value != 0 ? __builtin_clz(static_cast<unsigned>(value)) : 32;
}
inline int __clzll(long long value) {
  return value != 0 ? __builtin_clzll(static_cast<unsigned long long>(value)) : 64;
}
inline unsigned __brev(unsigned value) {
  unsigned reversed = 0;
  for (unsigned bit = 0; bit < 32; ++bit) reversed |= (value >> bit & 1) << (31 - bit);
  return reversed;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) >> (shift & 31));
}

// ---- integers
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(std::int64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

// ---- arithmetic rounded to nearest even and never contracted: build with -ffp-contract=off
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __double2float_rn(double a) { return static_cast<float>(a); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline int __float2int_rn(float a) { return static_cast<int>(nearbyintf(a)); }
inline float rsqrtf(float a) {
  return 1.0f / sqrtf(a);
}  // the GPU's is approximate: not the same bits
inline float __saturatef(float a) {
  return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f;
}  // NaN gives 0
