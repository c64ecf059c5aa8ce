// The bounds that csrc/math states for its functions, asserted: the logarithm, the inverse normal
// over all its words (a stride of them, every one near the ends), roundings to 16 bits, bounds in
// storage types.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "math/random/truncation.h"

namespace {

using namespace initstats;

int failures = 0;

void check(bool right, const char* what, double value) {
  std::printf("%s: %.3g%s\n", what, value, right ? "" : "  WRONG");
  failures += right ? 0 : 1;
}

void test_negative_log() {
  double worst = 0;  // absolute error as a share of the stated bound
  for (uint32_t bits = 0x00800000u; bits <= 0x3F800000u; bits += 37) {
    const float t = bit_cast<float>(bits);
    const double exact = -std::log(static_cast<double>(t));
    const double error = std::fabs(negative_log<Scalar32>(t) - exact);
    worst = std::fmax(worst, error / (1.2e-7 + 1.5e-7 * exact));
  }
  check(worst <= 1.0, "negative_log, share of its bound", worst);
}

void test_log_float64() {
  double worst = 0;
  uint64_t bits = 0x0010000000000000ull;
  for (int i = 0; i < 2000000; ++i, bits += 0x7FE0000000000000ull / 2000003) {
    const double x = bit_cast<double>(bits);
    const long double exact = std::log(static_cast<long double>(x));
    const double spacing =
        std::fabs(std::nextafter(static_cast<double>(exact), 1e300) - static_cast<double>(exact));
    worst = std::fmax(worst,
                      static_cast<double>(std::fabs(log_float64<Scalar64>(x) - exact)) / spacing);
  }
  check(worst <= 1.0, "log_float64, ulp", worst);
}

// Against Wichura's AS 241 in double, itself tested against 50 digits in tests/init/test_fills.py.
void test_normal() {
  const Normal<float> normal{0.0f, 1.0f};
  double worst = 0, largest = 0;
  for (uint64_t k = 0; k < uint64_t{1} << 31;
       k += (k < 1000000 || k > (uint64_t{1} << 31) - 1000000) ? 1 : 131) {
    const double p = (static_cast<double>(k) + 0.5) / 4294967296.0;
    const double x = (2147483647.0 - static_cast<double>(k) + 0.5) / 2147483648.0;
    const double exact = normal_magnitude_float64<Scalar64>(x, p);
    const float z = sample<Scalar32>(normal, static_cast<uint32_t>(k));
    int exponent;
    std::frexp(exact, &exponent);
    worst = std::fmax(worst, std::fabs(z - exact) / std::ldexp(1.0, exponent - 24));
    largest = std::fmax(largest, z);
  }
  check(worst <= 5.0, "normal, ulp of float32", worst);
  check(largest > 6.3 && largest < 6.4, "normal, largest", largest);
}

void test_roundings() {
  int wrong = 0;
  for (int i = 0; i < 65536;
       ++i) {  // every finite 16-bit value is its own rounding, midpoints go to even
    const uint16_t bits = static_cast<uint16_t>(i);
    const float half = from_float16(bits), brain = from_bfloat16(bits);
    if (std::isfinite(half) && to_float16(half) != bits) ++wrong;
    if (std::isfinite(brain) && to_bfloat16(brain) != bits) ++wrong;
    if ((i & 0x7FFF) < 0x7BFF) {
      const float next = from_float16(static_cast<uint16_t>(i + 1));
      const float middle = (half + next) / 2;
      if (to_float16(middle) != static_cast<uint16_t>(i % 2 == 0 ? i : i + 1)) ++wrong;
      if (to_float16(std::nextafterf(middle, next)) != static_cast<uint16_t>(i + 1)) ++wrong;
      if (to_float16(std::nextafterf(middle, half)) != bits) ++wrong;
    }
  }
  check(wrong == 0, "roundings to 16 bits, wrong", wrong);
  check(to_float16(65519.996f) == 0x7BFF && to_float16(65520.0f) == 0x7C00, "float16 overflow",
        65520);
}

void test_bounds() {
  int wrong = 0;
  for (const DType dtype : {DType::float16, DType::bfloat16, DType::float32, DType::float64}) {
    for (const double x :
         {0.0, 0.1, -0.1, 1.0, 1.001, -3.7, 1e-6, -1e-6, 1000.3, 6e-8, -6e-8, 60000.0}) {
      const double up = smallest_at_least(dtype, x), down = largest_at_most(dtype, x),
                   below = largest_below(dtype, x);
      if (!(up >= x && down <= x && below < x)) ++wrong;
      if (nearest_in(dtype, up) != up || nearest_in(dtype, down) != down ||
          nearest_in(dtype, below) != below)
        ++wrong;
      if (up > x && neighbour_in(dtype, up, false) >= x) ++wrong;
      if (down < x && neighbour_in(dtype, down, true) <= x) ++wrong;
      if (neighbour_in(dtype, below, true) < x) ++wrong;
    }
  }
  check(wrong == 0, "bounds in storage types, wrong", wrong);
}

void test_masses() {
  double worst = 0;
  for (double z = -8.0; z <= 8.0; z += 0.01) {
    const double exact =
        static_cast<double>(std::erfc(static_cast<long double>(z) / std::sqrt(2.0L)) / 2.0L);
    worst = std::fmax(worst, std::fabs(truncation::upper_mass(z) / exact - 1.0));
    const double centre =
        static_cast<double>(std::erf(static_cast<long double>(z) / std::sqrt(2.0L)));
    if (z != 0.0) worst = std::fmax(worst, std::fabs(truncation::central_mass(z) / centre - 1.0));
  }
  check(worst <= 2e-14, "normal masses, relative error", worst);
}

}  // namespace

int main() {
  test_negative_log();
  test_log_float64();
  test_normal();
  test_roundings();
  test_bounds();
  test_masses();
  return failures == 0 ? 0 : 1;
}
