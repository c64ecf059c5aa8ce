// Logarithm and inverse normal distribution function, in float32 over any lane family and in
// float64. No libm: log, sqrt and polynomials with explicit fma, so that every device gives the
// same bits.
#pragma once

#include "math/core/lanes.h"

namespace initstats {

// Horner's rule for each of M values, sum = c[N - 1] x^(N-1) + ... + c[0], every step one fma. The
// M take each step together: M independent chains side by side are what keeps a processor busy.
template <class L, int M, int N, class Real>
INITSTATS_HD void polynomials(const typename L::F (&x)[M], const Real (&c)[N],
                              typename L::F (&sum)[M]) {
  if constexpr (kEmulatesFma<L>) return L::horner(x, c, sum);
  for (int j = 0; j < M; ++j) sum[j] = L::broadcast(c[N - 1]);
#if defined(__CUDACC__)
#pragma unroll
#else
#pragma GCC unroll 16
#endif
  for (int i = N - 2; i >= 0; --i) {
    for (int j = 0; j < M; ++j) sum[j] = L::fma(sum[j], x[j], L::broadcast(c[i]));
  }
}

template <class L, int N, class Real>
INITSTATS_HD typename L::F polynomial(typename L::F x, const Real (&c)[N]) {
  const typename L::F in[1] = {x};
  typename L::F sum[1];
  polynomials<L>(in, c, sum);
  return sum[0];
}

// Two polynomials in the same x, one after the other.
template <class L, int N>
INITSTATS_HD void two_polynomials(typename L::F x, const double (&a)[N], const double (&b)[N],
                                  typename L::F (&sums)[2]) {
  if constexpr (kEmulatesFma<L>) {
    L::horner(x, a, b, sums);
  } else {
    sums[0] = polynomial<L>(x, a);
    sums[1] = polynomial<L>(x, b);
  }
}

// w = -ln(t) for each of M float32 t in [2^-126, 4/3). Absolute error at most 1.2e-7 + 1.5e-7 * w,
// which is enough for the inverse normal (tests/kernels/native/special_test.cpp).
template <class L, int M>
INITSTATS_HD void negative_logs(const typename L::F (&t)[M], typename L::F (&w)[M]) {
  using F = typename L::F;
  using U = typename L::U;
  // t = m 2^-n with m in [2/3, 4/3); n >= 0 because t < 4/3.
  constexpr uint32_t kTwoThirds = 0x3F2AAAABu;
  // -ln(1 + f) / f on [-1/3, 1/3]: weighted minimax fit, f * polynomial has an absolute error
  // of 3.1e-8.
  constexpr float kLog1p[8] = {-0.9999993443489075f,  0.4999975264072418f,   -0.33341747522354126f,
                               0.25017601251602173f,  -0.19726130366325378f, 0.16266755759716034f,
                               -0.17469163239002228f, 0.16079764068126678f};
  constexpr float kLn2 = 0.693147182464599609375f;
  constexpr float kTwoMinus23 = 1.1920928955078125e-7f;
  F f[M], rest[M];
  for (int j = 0; j < M; ++j) {
    // n 2^23, which the exponent takes as it is: the product's factor makes up for it exactly.
    const U n = (kTwoThirds + 0x7FFFFFu - L::bits(t[j])) & 0xFF800000u;
    f[j] = L::from_bits(L::bits(t[j]) + n) - 1.0f;
    w[j] = L::from_int(n) * (kLn2 * kTwoMinus23);
  }
  polynomials<L>(f, kLog1p, rest);
  for (int j = 0; j < M; ++j) w[j] = L::fma(f[j], rest[j], w[j]);
}

template <class L>
INITSTATS_HD typename L::F negative_log(typename L::F t) {
  const typename L::F in[1] = {t};
  typename L::F w[1];
  negative_logs<L>(in, w);
  return w[0];
}

// ratio = z / x for N normal deviates z with 2 Phi(|z|) - 1 = |x|, given t = 1 - x^2 = 4 p (1 - p),
// where p = (1 - |x|) / 2 is the tail probability: the caller computes t from p, so that tails keep
// full relative precision. Domain: t in [1.8e-15, 1], that is |z| <= 7.9; without kTails, t >=
// kCentreT. The N share one branch to the tails. Error: x * ratio has at most 5 ulp of float32
// against the exact inverse CDF of the word (tests/kernels/native/special_test.cpp; seen: 3.9).
// Form: Giles 2010, "Approximating the erfinv function": z = x * P(w), w = -ln t, with one
// polynomial for the centre and one for the tails; the fits are our own.
constexpr double kCentreT = 0.0025;  // -ln t = 5.99, |z| = 3.2
template <class L, bool kTails, int N>
INITSTATS_HD void normal_ratios(const typename L::F (&t)[N], typename L::F (&ratio)[N]) {
  using F = typename L::F;
  constexpr float kCentreEnd = 6.0f;  // 0.12 % of all normals lie beyond
  // z / x on w in [0, 6], in powers of w: relative error 5.0e-8.
  constexpr float kCentre[10] = {1.2533140182495117f,      0.32811903953552246f,
                                 0.016321422532200813f,    -0.003278289223089814f,
                                 -0.00020419211068656296f, 7.689121412113309e-05f,
                                 9.4770052783133e-07f,     -1.8784269286697963e-06f,
                                 2.1635692348809243e-07f,  -8.240276017090764e-09f};
  // z / x on w in [6, 34], in powers of w - 20: relative error 1.7e-8. (In powers of sqrt w, as
  // Giles has it, half the degree would do, but a correctly rounded square root is a function call
  // on a GPU.)
  constexpr float kTail[15] = {
      6.10460090637207f,        0.15972870588302612f,     -0.0019901327323168516f,
      4.888592229690403e-05f,   -1.4913559880369576e-06f, 4.957411547934498e-08f,
      -1.6929687651767722e-09f, 8.834600412344074e-11f,   -4.723280360580118e-12f,
      -1.503476434062262e-13f,  1.6666172836330567e-14f,  1.591662787559108e-15f,
      -9.880168829388993e-17f,  -4.4266016269764865e-18f, 2.6037502768394916e-19f};
  F w[N];
  negative_logs<L>(t, w);
  polynomials<L>(w, kCentre, ratio);
  if constexpr (kTails) {
    F largest = w[0];
    for (int j = 1; j < N; ++j) largest = L::max(largest, w[j]);
    if (!L::any(largest > kCentreEnd)) return;
    for (int j = 0; j < N; ++j) {
      if (L::kWidth == 1 && !L::any(w[j] > kCentreEnd)) continue;  // vectors do without the branch
      ratio[j] = L::select(w[j] > kCentreEnd, polynomial<L>(w[j] - 20.0f, kTail), ratio[j]);
    }
  }
}

// ln(x) for float64 x > 0, normal numbers. Error below 1 ulp.  Source: the algorithm and
// coefficients of FDLIBM's e_log.c (Sun Microsystems 1993), over any 64-bit lane family.
template <class L>
INITSTATS_HD typename L::F log_float64(typename L::F x) {
  using F = typename L::F;
  using U = typename L::U;
  constexpr uint64_t kSqrtHalf = 0x3FE6A09E667F3BCDull;
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  constexpr double kSeries[7] = {6.666666666666735130e-01, 3.999999999940941908e-01,
                                 2.857142874366239149e-01, 2.222219843214978396e-01,
                                 1.818357216161805012e-01, 1.531383769920937332e-01,
                                 1.479819860511658591e-01};
  // Offset by 2048 so that the shift is a logical one on a positive number.
  const U shifted = L::bits(x) - kSqrtHalf + (uint64_t{2048} << 52);
  const U exponent = (shifted >> 52) - uint64_t{2048};
  const F f = L::from_bits(L::bits(x) - (exponent << 52)) - 1.0;
  const F k = L::from_int(exponent);
  const F s = f / (f + 2.0), z = s * s;
  const F half_square = f * f * 0.5;
  const F rest = z * polynomial<L>(z, kSeries);
  return k * kLn2High - ((half_square - (s * (half_square + rest) + k * kLn2Low)) - f);
}

// |z| in float64 as normal_magnitude, given x = 1 - 2 p and the tail probability p itself, p in
// [1e-300, 0.5]. Error about 1e-15 relative.  Source: Wichura 1988, "Algorithm AS 241", PPND16.
template <class L>
INITSTATS_HD typename L::F normal_magnitude_float64(typename L::F x, typename L::F p) {
  using F = typename L::F;
  constexpr double kA[8] = {3.3871328727963666080e0,  1.3314166789178437745e+2,
                            1.9715909503065514427e+3, 1.3731693765509461125e+4,
                            4.5921953931549871457e+4, 6.7265770927008700853e+4,
                            3.3430575583588128105e+4, 2.5090809287301226727e+3};
  constexpr double kB[8] = {1.0,
                            4.2313330701600911252e+1,
                            6.8718700749205790830e+2,
                            5.3941960214247511077e+3,
                            2.1213794301586595867e+4,
                            3.9307895800092710610e+4,
                            2.8729085735721942674e+4,
                            5.2264952788528545610e+3};
  constexpr double kC[8] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                            5.76949722146069140550e0,  3.64784832476320460504e0,
                            1.27045825245236838258e0,  2.41780725177450611770e-1,
                            2.27238449892691845833e-2, 7.74545014278341407640e-4};
  constexpr double kD[8] = {1.0,
                            2.05319162663775882187e0,
                            1.67638483018380384940e0,
                            6.89767334985100004550e-1,
                            1.48103976427480074590e-1,
                            1.51986665636164571966e-2,
                            5.47593808499534494600e-4,
                            1.05075007164441684324e-9};
  constexpr double kE[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                            1.78482653991729133580e0,  2.96560571828504891230e-1,
                            2.65321895265761230930e-2, 1.24266094738807843860e-3,
                            2.71155556874348757815e-5, 2.01033439929228813265e-7};
  constexpr double kF[8] = {1.0,
                            5.99832206555887937690e-1,
                            1.36929880922735805310e-1,
                            1.48753612908506148525e-2,
                            7.86869131145613259100e-4,
                            1.84631831751005468180e-5,
                            1.42151175831644588870e-7,
                            2.04426310338993978564e-15};
  const F q = x * 0.5;
  const F centre =
      L::fma(-q, q, L::broadcast(0.180625));  // 0.425^2 - q^2: the centre ends at |q| = 0.425
  F ratio[2], far_ratio[2];
  two_polynomials<L>(centre, kA, kB, ratio);
  const F in_centre_z = q * ratio[0] / ratio[1];
  const auto in_tail = centre < 0.0;
  if (!L::any(in_tail)) return in_centre_z;
  const F r = L::sqrt(-log_float64<L>(p));
  const F near = r - 1.6, far = r - 5.0;
  two_polynomials<L>(far, kE, kF, far_ratio);
  two_polynomials<L>(near, kC, kD, ratio);
  const F tail_z = L::select(far > 0.0, far_ratio[0] / far_ratio[1], ratio[0] / ratio[1]);
  return L::select(in_tail, tail_z, in_centre_z);
}

}  // namespace initstats
