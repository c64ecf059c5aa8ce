// The distributions of the fills: what turns one word of the stream into one value. Real is float
// (for float16, bfloat16 and float32 tensors) or double; L is any lane family of that width.
// Parameters are prepared on the host (parameters.h, truncation.h).
#pragma once

#include "math/special.h"
#include "math/stream.h"

namespace initstats {

// How many bits of a word carry the magnitude, besides a sign bit: k in [0, 2^kBits).
template <class Real>
struct WordBits;
template <>
struct WordBits<float> {
  static constexpr int kBits = 31;
  static constexpr float kStep = 4.656612873077392578125e-10f;  // 2^-31
  static constexpr uint32_t kLargest = 0x7FFFFFFFu;
  static constexpr uint32_t kSign = 0x80000000u;
};
template <>
struct WordBits<double> {
  static constexpr int kBits = 53;
  static constexpr double kStep = 1.1102230246251565404236316680908203125e-16;  // 2^-53
  static constexpr uint64_t kLargest = (uint64_t{1} << 53) - 1;
  static constexpr uint64_t kSign = uint64_t{1} << 63;
};

// Uniform in [low, high): 24 (53) bits, kept inside [bottom, top], the storage type's values in
// that interval.
template <class Real>
struct Uniform {
  using Value = Real;
  Real low, width, bottom, top;

  template <class L>
  INITSTATS_HD typename L::F sample(typename L::U word) const {
    constexpr int kShift = sizeof(Real) == 4 ? 8 : 11;
    constexpr Real kStep =
        sizeof(Real) == 4 ? Real(5.9604644775390625e-8) : WordBits<double>::kStep;  // 2^-24, 2^-53
    const typename L::F u = L::from_int(word >> kShift) * kStep;
    const typename L::F value = L::fma(u, L::broadcast(width), L::broadcast(low));
    return L::max(L::broadcast(bottom), L::min(L::broadcast(top), value));
  }
};

// Normal with the given mean and standard deviation; |z| reaches 6.3 (float64: 8.5).
// Word: sign from the top bit, tail probability p = (k + 1/2) / 2^(kBits + 1).
template <class Real>
struct Normal {
  using Value = Real;
  Real mean, std;

  template <class L>
  INITSTATS_HD typename L::F sample(typename L::U word) const {
    using B = WordBits<Real>;
    using F = typename L::F;
    constexpr Real kStep = B::kStep, kHalfStep = B::kStep / 2;
    F magnitude;
    if constexpr (sizeof(Real) == 4) {
      const typename L::U k = word & B::kLargest;
      // x = 1 - 2p and 2p, each from its own integer: both keep full relative precision.
      const F x =
          L::fma(L::from_int(k ^ B::kLargest), L::broadcast(kStep), L::broadcast(kHalfStep));
      const F p2 = L::fma(L::from_int(k), L::broadcast(kStep), L::broadcast(kHalfStep));
      magnitude = normal_magnitude<L>(x, L::fma(p2, x, p2));
    } else {
      const typename L::U k = (word << 1) >> 11;
      const F x =
          L::fma(L::from_int(k ^ B::kLargest), L::broadcast(kStep), L::broadcast(kHalfStep));
      const F p = L::fma(L::from_int(k), L::broadcast(kStep / 2), L::broadcast(kHalfStep / 2));
      magnitude = normal_magnitude_float64<L>(x, p);
    }
    const F z = L::from_bits(L::bits(magnitude) | (word & B::kSign));
    return L::fma(z, L::broadcast(std), L::broadcast(mean));
  }
};

// How a truncated normal is computed. All three are the inverse CDF between the two bounds, by the
// form that keeps its precision there; the host chooses (truncation.h).
enum class TruncNormalForm : int32_t {
  general,  // normal_magnitude on the word mapped into [Phi(a), Phi(b)]
  narrow,   // bounds close together: polynomial in u, anchored at the lower bound
  tail  // both bounds beyond kTailStart standard deviations on one side: through the exponential
        // variate -ln v
};

// Normal truncated to [low, high]; results stay in [bottom, top], the storage type's values in that
// interval. Word: u = (k + 1/2) / 2^kBits; the value increases with u.
template <class Real>
struct TruncNormal {
  using Value = Real;
  using Word = decltype(WordBits<Real>::kLargest + 0u);
  static constexpr int kCoefficients = sizeof(Real) == 4 ? 14 : 16;

  TruncNormalForm form;
  Word origin;     // general: the k at which x = 2 Phi - 1 changes sign, so that z near 0 keeps
                   // relative precision; tail: mask that makes k count from the far bound
  Real mean, std;  // narrow and tail: mean is the anchor, std the signed scale
  Real bottom, top;
  Real slope;         // general: x per step of k; tail: v per step of k
  Real x_offset;      // general: x = slope * (k - origin) + x_offset
  Real lower, upper;  // general: 2p = slope * k + lower and, from above, slope * (largest - k) +
                      // upper; tail: upper
  Real coefficients[kCoefficients];  // narrow: of the polynomial in u; tail: of d / e in e

  template <class L>
  INITSTATS_HD typename L::F sample(typename L::U word) const {
    using F = typename L::F;
    const typename L::U k = word >> (8 * static_cast<int>(sizeof(Real)) - WordBits<Real>::kBits);
    F value;
    if (form == TruncNormalForm::general) {
      value = L::fma(general<L>(k), L::broadcast(std), L::broadcast(mean));
    } else if (form == TruncNormalForm::narrow) {
      const F u = L::fma(L::from_int(k), L::broadcast(WordBits<Real>::kStep),
                         L::broadcast(WordBits<Real>::kStep / 2));
      value = L::fma(polynomial<L>(u, coefficients), L::broadcast(std), L::broadcast(mean));
    } else {
      value = L::fma(tail<L>(k), L::broadcast(std), L::broadcast(mean));
    }
    return L::max(L::broadcast(bottom), L::min(L::broadcast(top), value));
  }

 private:
  template <class L>
  INITSTATS_HD typename L::F general(typename L::U k) const {
    using B = WordBits<Real>;
    using F = typename L::F;
    const F x = L::fma(L::from_int(k - origin), L::broadcast(slope), L::broadcast(x_offset));
    const F below = L::fma(L::from_int(k), L::broadcast(slope), L::broadcast(lower));
    const F above = L::fma(L::from_int(k ^ B::kLargest), L::broadcast(slope), L::broadcast(upper));
    const F p2 = L::min(below, above);
    const F x_magnitude = L::from_bits(L::bits(x) & ~B::kSign);
    F z;
    if constexpr (sizeof(Real) == 4) {
      z = normal_magnitude<L>(x_magnitude, L::fma(p2, x_magnitude, p2));
    } else {
      z = normal_magnitude_float64<L>(x_magnitude, p2 * Real(0.5));
    }
    return L::from_bits(L::bits(z) | (L::bits(x) & B::kSign));
  }

  // Distance from the nearer bound in standard deviations, a smooth function of the (truncated)
  // exponential e = -ln v.
  template <class L>
  INITSTATS_HD typename L::F tail(typename L::U k) const {
    using F = typename L::F;
    const F v = L::fma(L::from_int(k ^ origin), L::broadcast(slope), L::broadcast(upper));
    F e;
    if constexpr (sizeof(Real) == 4) {
      e = negative_log<L>(v);
    } else {
      e = -log_float64<L>(v);
    }
    return e * polynomial<L>(e, coefficients);
  }
};

}  // namespace initstats
