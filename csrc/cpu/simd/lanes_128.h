// What the vector families of 128 bits share, 4 floats or 2 doubles: the vector types of GCC and
// Clang, which become SSE2 or NEON. The rest is in lanes_sse2.h and lanes_neon.h.
#pragma once

#include "math/core/lanes.h"

namespace initstats::cpu {

struct Vector128x32 {
  typedef float F __attribute__((vector_size(16)));
  typedef uint32_t U __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  typedef uint64_t W __attribute__((vector_size(16)));
  static constexpr int kWidth = 4;
  static constexpr int kHalves = 2;

  static INITSTATS_HD U bits(F a) { return (U)a; }
  static INITSTATS_HD F from_bits(U a) { return (F)a; }
  static INITSTATS_HD F from_int(U a) { return __builtin_convertvector((I)a, F); }
  static INITSTATS_HD F select(I where, F a, F b) { return where ? a : b; }
  // As the processor's own minimum of x86-64 has it: b where the two are equal, such as -0 and +0.
  static INITSTATS_HD F min(F a, F b) { return a < b ? a : b; }
  static INITSTATS_HD F max(F a, F b) { return a > b ? a : b; }
  static INITSTATS_HD F broadcast(float a) { return F{a, a, a, a}; }
  static INITSTATS_HD U splat(uint32_t a) { return U{a, a, a, a}; }
  static INITSTATS_HD U umax(U a, U b) { return a > b ? a : b; }
  static INITSTATS_HD U one_where(I where) { return U{} - (U)where; }

  static INITSTATS_HD F load(const float* p) { return loaded<F>(p); }
  static INITSTATS_HD U load(const uint32_t* p) { return loaded<U>(p); }
  static INITSTATS_HD void store(float* p, F a) { memcpy(p, &a, sizeof(a)); }
  static INITSTATS_HD void store(uint32_t* p, U a) { memcpy(p, &a, sizeof(a)); }

  // Lane k holds counter k; half h holds the lanes 2h and 2h + 1.
  static INITSTATS_HD W counters(uint64_t first, int half) {
    const W low = {0, 1}, high = {2, 3};
    return (half == 0 ? low : high) + first;
  }

 private:
  template <class Vector, class Item>
  static INITSTATS_HD Vector loaded(const Item* p) {
    Vector v;
    memcpy(&v, p, sizeof(v));
    return v;
  }
};

struct Vector128x64 {
  typedef double F __attribute__((vector_size(16)));
  typedef uint64_t U __attribute__((vector_size(16)));
  typedef int64_t I __attribute__((vector_size(16)));
  static constexpr int kWidth = 2;
  static constexpr bool kComparesIntegers = false;  // of 64 bits

  static INITSTATS_HD U bits(F a) { return (U)a; }
  static INITSTATS_HD F from_bits(U a) { return (F)a; }
  static INITSTATS_HD F from_int(U a) { return __builtin_convertvector((I)a, F); }
  static INITSTATS_HD F select(I where, F a, F b) { return where ? a : b; }
  static INITSTATS_HD F min(F a, F b) { return a < b ? a : b; }
  static INITSTATS_HD F max(F a, F b) { return a > b ? a : b; }
  static INITSTATS_HD F broadcast(double a) { return F{a, a}; }
  static INITSTATS_HD U splat(uint64_t a) { return U{a, a}; }
  // Of values below 2^63.
  static INITSTATS_HD U umin(U a, U b) { return (I)a < (I)b ? a : b; }
  static INITSTATS_HD U one_where(I where) { return U{} - (U)where; }
  static INITSTATS_HD F load(const double* p) {
    F v;
    memcpy(&v, p, sizeof(v));
    return v;
  }
  static INITSTATS_HD U load(const uint64_t* p) {
    U v;
    memcpy(&v, p, sizeof(v));
    return v;
  }
  static INITSTATS_HD void store(double* p, F a) { memcpy(p, &a, sizeof(a)); }
};

}  // namespace initstats::cpu
