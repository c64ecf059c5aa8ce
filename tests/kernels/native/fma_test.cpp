// The emulated fused multiply-adds of csrc/cpu/simd/lanes_sse2.h against those of the C library,
// every bit, at random operands and at those where an emulation goes wrong: sums on and beside
// midpoints, cancellation, subnormals, overflow, zeros of both signs.
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>

#include "cpu/simd/lanes_sse2.h"

namespace {

using namespace initstats;
using Lanes32 = cpu::Sse2x32;
using Lanes64 = cpu::Sse2x64;

std::mt19937_64 words(2026);
int failures = 0;

// NaN of any kind are one: which of them an operation returns is not promised.
template <class Real>
bool same(Real a, Real b) {
  return (a != a && b != b) || std::memcmp(&a, &b, sizeof(a)) == 0;
}

template <class L, class Real>
void compare(const Real (&a)[L::kWidth], const Real (&b)[L::kWidth], const Real (&c)[L::kWidth]) {
  Real result[L::kWidth];
  L::store(result, L::fma(L::load(a), L::load(b), L::load(c)));
  for (int i = 0; i < L::kWidth; ++i) {
    const Real exact = std::fma(a[i], b[i], c[i]);
    if (same(result[i], exact)) continue;
    if (++failures < 20)
      std::printf("fma(%a, %a, %a): %a, not %a  WRONG\n", a[i], b[i], c[i], result[i], exact);
  }
}

uint64_t below(uint64_t n) { return words() % n; }

// A number with a mantissa of few or of many bits set, or almost a power of two.
template <class Real>
Real mantissa() {
  constexpr int kBits = std::numeric_limits<Real>::digits;
  const uint64_t one = uint64_t{1} << (kBits - 1), random = words() & (one - 1);
  uint64_t bits = random;
  switch (below(5)) {
    case 0:
      bits = (uint64_t{1} << below(kBits - 1)) | (uint64_t{1} << below(kBits - 1));
      break;
    case 1:
      bits = below(4);
      break;
    case 2:
      bits = one - 1 - below(4);
      break;
    case 3:
      bits = random & ~((uint64_t{1} << below(kBits - 1)) - 1);
      break;
    default:
      break;
  }
  const Real size = std::ldexp(static_cast<Real>(one | bits), 1 - kBits);
  return (words() & 1) != 0 ? -size : size;
}

template <class Real>
Real number(int least, int greatest) {
  return std::ldexp(mantissa<Real>(),
                    least + static_cast<int>(below(static_cast<uint64_t>(greatest - least))));
}

// c so that a * b + c lies close to a midpoint of Real, close to zero, or anywhere.
template <class Real>
Real third(Real a, Real b) {
  constexpr int kBits = std::numeric_limits<Real>::digits;
  const Real product = a * b;
  if (!std::isfinite(product) || product == 0) return number<Real>(-60, 60);
  const int exponent = std::ilogb(product);
  switch (below(8)) {
    case 0:  // the product is a half, or nearly, of a unit in the last place of c
      return std::ldexp(mantissa<Real>(), exponent + kBits + static_cast<int>(below(3)) - 1);
    case 1:  // the rounding error of the product, and what is beside it
      return std::nextafter(-product, below(2) != 0 ? Real(0) : -2 * product);
    case 2:
      return -product;
    case 3:  // just below the last bits of the product
      return std::ldexp(mantissa<Real>(), exponent - kBits - static_cast<int>(below(6)) + 2);
    case 4:  // below its last bits by far
      return std::ldexp(mantissa<Real>(), exponent - 2 * kBits - static_cast<int>(below(40)));
    case 5:
      return (words() & 1) != 0 ? Real(0) : -Real(0);
    default:
      return std::ldexp(mantissa<Real>(), exponent + static_cast<int>(below(120)) - 60);
  }
}

template <class L, class Real>
void test_hard_cases(const char* name, int least, int greatest, int64_t rounds) {
  const int before = failures;
  for (int64_t round = 0; round < rounds; ++round) {
    Real a[L::kWidth], b[L::kWidth], c[L::kWidth];
    for (int i = 0; i < L::kWidth; ++i) {
      a[i] = number<Real>(least, greatest);
      b[i] = number<Real>(least, greatest);
      c[i] = third(a[i], b[i]);
      // Times a power of two, so that the sum is just so large.
      if (below(16) == 0) a[i] = below(2) != 0 ? Real(0) : -Real(0);
    }
    compare<L, Real>(a, b, c);
  }
  std::printf("%s: %" PRId64 " rounds%s\n", name, rounds, failures == before ? "" : "  WRONG");
}

// Every bit pattern is as likely: all exponents, infinities, NaN.
template <class L, class Real, class Bits>
void test_all_exponents(const char* name, int64_t rounds) {
  const int before = failures;
  for (int64_t round = 0; round < rounds; ++round) {
    Real a[L::kWidth], b[L::kWidth], c[L::kWidth];
    for (int i = 0; i < L::kWidth; ++i) {
      a[i] = bit_cast<Real>(static_cast<Bits>(words()));
      b[i] = bit_cast<Real>(static_cast<Bits>(words()));
      c[i] = bit_cast<Real>(static_cast<Bits>(words()));
    }
    compare<L, Real>(a, b, c);
  }
  std::printf("%s: %" PRId64 " rounds%s\n", name, rounds, failures == before ? "" : "  WRONG");
}

// a * b is half a unit in the last place of c, and a little more or less: every such pair of a
// column of mantissas. An addition in float64 alone gets half of them wrong.
void test_every_midpoint_of_float32() {
  const int before = failures;
  int64_t wrong_in_float64 = 0, count = 0;
  for (uint32_t m = 1; m < 1u << 23; m += 2) {
    float a[4], b[4], c[4];
    for (int i = 0; i < 4; ++i) {
      // (1 + m 2^-23) (2 - m 2^-22) is close to 2 for small m; a power of two places it.
      a[i] = 1 + static_cast<float>(m) * 0x1p-23f;
      b[i] = std::nextafter(static_cast<float>(1 / static_cast<double>(a[i])),
                            i % 2 != 0 ? 2.0f : 0.0f) *
             0x1p-24f;
      if (i % 2 != 0) b[i] = std::nextafter(b[i], 0.0f);
      c[i] = i < 2 ? 1 + static_cast<float>(m & 1023u) * 0x1p-23f
                   : -1 - static_cast<float>(m & 1023u) * 0x1p-23f;
      const double sum = static_cast<double>(a[i]) * b[i] + c[i];
      wrong_in_float64 += static_cast<float>(sum) != std::fma(a[i], b[i], c[i]);
      ++count;
    }
    compare<Lanes32, float>(a, b, c);
  }
  std::printf("midpoints of float32: %" PRId64 ", %" PRId64 " of them wrong in float64%s\n", count,
              wrong_in_float64, failures == before && wrong_in_float64 > 0 ? "" : "  WRONG");
  failures += wrong_in_float64 > 0 ? 0 : 1;
}

template <class L, class Real, int N>
void test_polynomials(const char* name, int64_t rounds) {
  const int before = failures;
  for (int64_t round = 0; round < rounds; ++round) {
    Real c[N], points[2][L::kWidth], sums[2][L::kWidth];
    const bool small = below(4) == 0;
    for (Real& coefficient : c) {
      coefficient = small && below(3) == 0 ? (below(2) != 0 ? Real(0) : number<Real>(-140, -100))
                                           : number<Real>(-20, 4);
    }
    typename L::F x[2], sum[2];
    for (int j = 0; j < 2; ++j) {
      for (Real& point : points[j])
        point = below(32) == 0 ? Real(0) : number<Real>(small ? -30 : -3, 3);
      x[j] = L::load(points[j]);
    }
    L::horner(x, c, sum);
    for (int j = 0; j < 2; ++j) {
      L::store(sums[j], sum[j]);
      for (int i = 0; i < L::kWidth; ++i) {
        Real exact = c[N - 1];
        for (int k = N - 2; k >= 0; --k) exact = std::fma(exact, points[j][i], c[k]);
        if (!same(sums[j][i], exact)) ++failures;
      }
    }
  }
  std::printf("%s: %" PRId64 " rounds%s\n", name, rounds, failures == before ? "" : "  WRONG");
}

// A polynomial that comes upon a midpoint: c[0] = 1 and the rest half a unit in its last place.
void test_polynomial_at_midpoints() {
  const int before = failures;
  for (uint32_t m = 1; m < 1u << 20; m += 2) {
    const float a = 1 + static_cast<float>(m) * 0x1p-20f;
    const float b = std::nextafter(static_cast<float>(1 / static_cast<double>(a)),
                                   (m & 2u) != 0 ? 2.0f : 0.0f) *
                    0x1p-24f;
    const float c[2] = {1 + static_cast<float>(m & 1023u) * 0x1p-23f, a};
    const float points[4] = {b, -b, b / 2, b};
    const Lanes32::F x[1] = {Lanes32::load(points)};
    Lanes32::F sum[1];
    Lanes32::horner(x, c, sum);
    float sums[4];
    Lanes32::store(sums, sum[0]);
    for (int i = 0; i < 4; ++i) failures += !same(sums[i], std::fma(a, points[i], c[0]));
  }
  std::printf("polynomials at midpoints%s\n", failures == before ? "" : "  WRONG");
}

void test_integers() {
  const int before = failures;
  for (int64_t round = 0; round < 1000000; ++round) {
    const uint64_t bits = words() >> below(64);
    const uint64_t n = below(2) != 0 ? bits : uint64_t{} - bits;
    double result[2];
    Lanes64::store(result, Lanes64::from_int(Lanes64::splat(n)));
    failures += result[0] != static_cast<double>(static_cast<int64_t>(n));
  }
  std::printf("integers to float64%s\n", failures == before ? "" : "  WRONG");
}

}  // namespace

int main() {
  test_hard_cases<Lanes32, float>("fma of float32, usual sizes", -20, 20, 3000000);
  test_hard_cases<Lanes32, float>("fma of float32, subnormal", -76, -60, 1000000);
  test_hard_cases<Lanes32, float>("fma of float32, large", 55, 66, 300000);
  test_every_midpoint_of_float32();
  test_all_exponents<Lanes32, float, uint32_t>("fma of float32, all exponents", 1000000);
  test_hard_cases<Lanes64, double>("fma of float64, usual sizes", -20, 20, 3000000);
  test_hard_cases<Lanes64, double>("fma of float64, subnormal", -540, -440, 500000);
  test_hard_cases<Lanes64, double>("fma of float64, large", 440, 520, 500000);
  test_all_exponents<Lanes64, double, uint64_t>("fma of float64, all exponents", 1000000);
  test_polynomials<Lanes32, float, 10>("polynomials of float32", 300000);
  test_polynomials<Lanes64, double, 8>("polynomials of float64", 100000);
  test_polynomial_at_midpoints();
  test_integers();
  return failures == 0 ? 0 : 1;
}
