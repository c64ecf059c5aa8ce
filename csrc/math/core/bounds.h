// The values of a storage type nearest to a bound, from the inside: what keeps bounds true after
// rounding. Host only.
#pragma once

#include <cmath>
#include <limits>

#include "math/core/scalar.h"

namespace initstats {

// x rounded to nearest in dtype (float16 and bfloat16 go through float32: good enough for a start
// of the search below).
inline double nearest_in(DType dtype, double x) {
  const float f = static_cast<float>(x);
  switch (dtype) {
    case DType::float64:
      return x;
    case DType::float32:
      return f;
    case DType::bfloat16:
      return from_bfloat16(to_bfloat16(f));
    case DType::float16:
      break;
  }
  return from_float16(to_float16(f));
}

// The neighbour of the dtype value x in the direction of +infinity (up) or -infinity.
inline double neighbour_in(DType dtype, double x, bool up) {
  const double toward =
      up ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
  if (dtype == DType::float64) return std::nextafter(x, toward);
  if (dtype == DType::float32)
    return std::nextafterf(static_cast<float>(x), static_cast<float>(toward));
  const bool brain = dtype == DType::bfloat16;
  const float f = static_cast<float>(x);
  if (f == 0) {
    const float smallest = brain ? from_bfloat16(1) : from_float16(1);
    return up ? smallest : -smallest;
  }
  const uint16_t bits = brain ? to_bfloat16(f) : to_float16(f);
  const bool grows = (f > 0) == up;
  const uint16_t next = static_cast<uint16_t>(grows ? bits + 1 : bits - 1);
  return brain ? from_bfloat16(next) : from_float16(next);
}

// The smallest dtype value >= x (infinite when there is none that is finite and x is not
// -infinity).
inline double smallest_at_least(DType dtype, double x) {
  double v = nearest_in(dtype, x);
  if (v < x) v = neighbour_in(dtype, v, true);
  return v;
}

// The largest dtype value <= x.
inline double largest_at_most(DType dtype, double x) { return -smallest_at_least(dtype, -x); }

// The largest dtype value < x.
inline double largest_below(DType dtype, double x) {
  const double v = largest_at_most(dtype, x);
  return v < x ? v : neighbour_in(dtype, v, false);
}

}  // namespace initstats
