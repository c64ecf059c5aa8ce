// Preparation of a truncated normal's parameters, in double, on the host. No libm function whose
// last bit may differ between platforms: the parameters are part of the stream.
#pragma once

#include <limits>

#include "math/random/distributions.h"

namespace initstats {

namespace truncation {

constexpr double kPi = 3.14159265358979323846;

inline double log(double x) { return log_float64<Scalar64>(x); }

// e^x to a few ulp for |x| < 700: argument reduction by ln 2 and the Taylor series.
inline double exp(double x) {
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  if (x < -708.0) return 0.0;
  const double n = std::floor(x / (kLn2High + kLn2Low) + 0.5);
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double sum = 1.0;
  for (int i = 18; i >= 1; --i) sum = 1.0 + sum * (r / i);
  return std::ldexp(sum, static_cast<int>(n));
}

// cos(x) for x in [0, pi], absolute error about 1e-16: Chebyshev nodes need no more.
inline double cos(double x) {
  double sum = 1.0;
  for (int i = 26; i >= 2; i -= 2) sum = 1.0 - sum * (x * x / (i * (i - 1.0)));
  return sum;
}

inline double density(double z) { return exp(-0.5 * z * z) / std::sqrt(2.0 * kPi); }

// density(z) / Phi(-z), the hazard of the normal distribution, for z >= 2: Laplace's continued
// fraction.
inline double hazard(double z) {
  double tail = z;
  for (int i = 300; i >= 1; --i) tail = z + i / tail;
  return tail;
}

// Phi(z) - Phi(-z) = erf(z / sqrt 2) with its sign, to full relative precision also near 0.
inline double central_mass(double z) {
  if (std::fabs(z) >= 38.0) return z > 0 ? 1.0 : -1.0;
  if (std::fabs(z) >= 2.0) {
    const double outside = 2.0 * density(z) / hazard(std::fabs(z));
    return z > 0 ? 1.0 - outside : outside - 1.0;
  }
  double term = z, sum = z;  // sum of z^(2n+1) / (1 3 5 ... (2n+1))
  for (int n = 3; n < 80; n += 2) sum += term *= z * z / n;
  return 2.0 * density(z) * sum;
}

// Phi(-z), the mass above z: relative error about 1e-14 for z <= 2 and 1e-15 beyond.
inline double upper_mass(double z) {
  if (z >= 2.0) return z > 38.0 ? 0.0 : density(z) / hazard(z);
  if (z < -2.0) return z < -38.0 ? 1.0 : 1.0 - density(z) / hazard(-z);
  return 0.5 - 0.5 * central_mass(z);
}

// Integral over [0, h] of e^(-a t - t^2 / 2) by its Taylor series, for |a| h and h of order 1 at
// most.
inline double local_mass(double a, double h) {
  double previous = 0.0, coefficient = 1.0, power = h, sum = h;
  for (int n = 1; n < 60; ++n) {
    const double next = -(a * coefficient + previous) / n;
    previous = coefficient;
    coefficient = next;
    power *= h;
    sum += coefficient * power / (n + 1);
  }
  return sum;
}

// The polynomial of degree N - 1 through f at the Chebyshev nodes of [0, end], in powers of the
// argument.
template <int N, class Function, class Real>
void interpolate(double end, Function f, Real (&coefficients)[N]) {
  double node[N], difference[N], sum[N] = {};
  for (int i = 0; i < N; ++i) {
    node[i] = 0.5 * (1.0 - cos(kPi * (i + 0.5) / N));  // on [0, 1]
    difference[i] = f(end * node[i]);
  }
  for (int order = 1; order < N; ++order) {
    for (int i = N - 1; i >= order; --i) {
      difference[i] = (difference[i] - difference[i - 1]) / (node[i] - node[i - order]);
    }
  }
  sum[0] = difference[N - 1];
  for (int i = N - 2; i >= 0; --i) {  // sum = sum * (x - node[i]) + difference[i]
    for (int j = N - 1; j > 0; --j) sum[j] = sum[j - 1] - node[i] * sum[j];
    sum[0] = difference[i] - node[i] * sum[0];
  }
  double scale = 1.0;
  for (int j = 0; j < N; ++j) {
    coefficients[j] = static_cast<Real>(sum[j] * scale);
    scale /= end;
  }
}

// t with local_mass(a, t) = target, by Newton's method from inside [0, h].
inline double invert_local_mass(double a, double h, double target) {
  double t = target / local_mass(a, h) * h;
  for (int i = 0; i < 40; ++i) {
    const double step = (local_mass(a, t) - target) / exp(-a * t - 0.5 * t * t);
    t -= step;
    if (std::fabs(step) <= 1e-17 * h) break;
  }
  return t;
}

// d with ln Phi(-a) - ln Phi(-(a + d)) = e, by Newton's method, a >= 4.
inline double invert_log_tail(double a, double e) {
  double d = 2.0 * e / (a + std::sqrt(a * a + 2.0 * e));
  const double hazard_at_a = hazard(a);
  for (int i = 0; i < 40; ++i) {
    const double h = hazard(a + d);
    const double step = (a * d + 0.5 * d * d + log(h / hazard_at_a) - e) / h;
    d -= step;
    if (std::fabs(step) <= 1e-17 * d) break;
  }
  return d;
}

// t with local_mass(a, t) = u local_mass(a, h), as a share of h: u itself for an h so small that
// the density does not change in between.
inline double share_of_width(double a, double h, double u) {
  if (h * std::fmax(1.0, std::fabs(a)) < 1e-20) return u;
  return invert_local_mass(a, h, u * local_mass(a, h)) / h;
}

}  // namespace truncation

// Standard deviations beyond which one-sided intervals take the tail form: float32 would lose the
// word's last bits in Phi(-a) u before, float64 before Phi underflows.
template <class Real>
constexpr double kTailStart = sizeof(Real) == 4 ? 4.5 : 25.0;

// Widths below which |a| h is small enough for the polynomial in u to be exact to rounding.
template <class Real>
constexpr double kNarrowWidth = sizeof(Real) == 4 ? 0.5 : 0.25;

// std >= 0, a <= b, [a, b] holds a value of dtype (unless a == b, which gives the nearest value)
// and, if std == 0, the mean: the caller has checked.
template <class Real>
TruncNormal<Real> TruncNormal<Real>::make(DType dtype, double mean, double std, double a,
                                          double b) {
  using namespace truncation;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kSteps = static_cast<double>(WordBits<Real>::kLargest) + 1.0;
  TruncNormal<Real> t = {};
  t.bottom = static_cast<Real>(a == -kInfinity ? a : smallest_at_least(dtype, a));
  t.top = static_cast<Real>(b == kInfinity ? b : largest_at_most(dtype, b));
  t.mean = static_cast<Real>(mean);
  t.std = static_cast<Real>(std);
  if (std == 0.0 || a == b) {  // one value: the polynomial 0 at the anchor
    t.form = TruncNormalForm::narrow;
    t.mean = static_cast<Real>(a == b ? a : mean);
    if (a == b) t.bottom = t.top = static_cast<Real>(nearest_in(dtype, a));
    return t;
  }
  const double alpha = (a - mean) / std, beta = (b - mean) / std, width = (b - a) / std;
  const double reach = std::fmax(1.0, std::fmax(std::fabs(alpha), std::fabs(beta)));
  const bool narrow = width * reach <= kNarrowWidth<Real>;
  // Where std or the widths in units of it leave the range of Real, the polynomial in u counts in
  // half widths from the middle. The limit of large std is the uniform distribution on [a, b].
  constexpr double kSmallest = std::numeric_limits<Real>::min();
  constexpr double kLargest = std::numeric_limits<Real>::max();
  const bool finite = std::fmax(std::fabs(a), std::fabs(b)) <= kLargest;
  const auto by_half_widths = [&] {
    t.form = TruncNormalForm::narrow;
    t.mean = static_cast<Real>(0.5 * a + 0.5 * b);
    t.std = static_cast<Real>(0.5 * b - 0.5 * a);
    interpolate(
        1.0, [&](double u) { return 2.0 * share_of_width(alpha, width, u) - 1.0; }, t.coefficients);
    return t;
  };
  if (finite && std > kLargest && width * reach <= 4.0) return by_half_widths();
  if (narrow && (alpha > 0 || beta < 0)) {
    if (width < kSmallest) return by_half_widths();
    const double mass = local_mass(alpha, width);
    t.form = TruncNormalForm::narrow;
    t.mean = static_cast<Real>(a);
    interpolate(
        1.0, [&](double u) { return invert_local_mass(alpha, width, u * mass); }, t.coefficients);
  } else if (alpha >= kTailStart<Real> || beta <= -kTailStart<Real>) {
    const bool right = alpha > 0;
    const double near = right ? alpha : -beta, far = right ? beta : -alpha;
    const double depth =
        near * width + 0.5 * width * width;  // -ln of the density ratio of the two bounds
    const double log_ratio =
        far == kInfinity || depth > 700.0 ? -kInfinity : log(hazard(near) / hazard(far)) - depth;
    const double ratio = log_ratio == -kInfinity ? 0.0 : exp(log_ratio);
    const double longest = log(2.0 * kSteps);  // -ln of the smallest v
    const double end = std::fmin(-log_ratio, longest);
    t.form = TruncNormalForm::tail;
    t.origin = right ? WordBits<Real>::kLargest : 0;
    t.mean = static_cast<Real>(right ? a : b);
    t.std = static_cast<Real>(right ? std : -std);
    t.slope = static_cast<Real>((1.0 - ratio) / kSteps);
    t.upper = static_cast<Real>(ratio + 0.5 * (1.0 - ratio) / kSteps);
    interpolate(end, [&](double e) { return invert_log_tail(near, e) / e; }, t.coefficients);
  } else {
    const double below = upper_mass(-alpha), above = upper_mass(beta);  // Phi(alpha), 1 - Phi(beta)
    double mass = 1.0 - below - above;
    if (alpha > 0) mass = upper_mass(alpha) - above;
    if (beta < 0) mass = upper_mass(-beta) - below;
    if (narrow) mass = density(alpha) * local_mass(alpha, width);
    const double slope = 2.0 * mass / kSteps;
    if (narrow && slope < kSmallest) return by_half_widths();
    const double zero = -central_mass(alpha) / slope - 0.5;  // the real k at which x = 0
    const double origin = std::fmin(std::fmax(std::floor(zero + 0.5), 0.0), kSteps - 1.0);
    const double edge = upper_mass(reach);  // reach >= 1: the smaller tail of the two bounds
    t.form = sizeof(Real) == 4 && 4.0 * edge * (1.0 - edge) >= kCentreT ? TruncNormalForm::centre
                                                                        : TruncNormalForm::general;
    t.origin = static_cast<typename TruncNormal<Real>::Word>(origin);
    t.slope = static_cast<Real>(slope);
    t.x_offset = static_cast<Real>(slope * (origin - zero));
    t.lower = static_cast<Real>(2.0 * below + 0.5 * slope);
    t.upper = static_cast<Real>(2.0 * above + 0.5 * slope);
  }
  return t;
}

}  // namespace initstats
