// The distributions of the fills: what turns one word of the stream into one value, and their list
// at the end, from which everything else is made. Real is float (for float16, bfloat16 and float32
// tensors) or double; L is any lane family of that width. `make` prepares the parameters on the
// host, in double, without a libm function whose last bit may differ between platforms: they are
// part of the stream.
#pragma once

#include <initializer_list>

#include "math/core/bounds.h"
#include "math/random/special.h"
#include "math/random/stream.h"

namespace initstats {

// The value of one word. Vector code gives dist.samples several words at once: they share the rare
// branches.
template <class L, class Dist>
INITSTATS_HD typename L::F sample(const Dist& dist, typename L::U word) {
  const typename L::U words[1] = {word};
  typename L::F values[1];
  dist.template samples<L>(words, values);
  return values[0];
}

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

// Uniform in [a, b): 24 (53) bits, kept inside [bottom, top], the storage type's values in that
// interval.
template <class Real>
struct Uniform {
  using Value = Real;
  Real a, width, bottom, top;

  // a <= b, both finite in dtype, b - a finite in Real, and [a, b) holds a value of dtype unless
  // a == b, which gives the nearest value: the caller has checked.
  static Uniform make(DType dtype, double a, double b) {
    Uniform u;
    u.a = static_cast<Real>(a);
    u.width = static_cast<Real>(b - a);
    // + 0.0: a bound of one value is +0 rather than -0, as the values below are.
    u.bottom = static_cast<Real>(a < b ? smallest_at_least(dtype, a) : nearest_in(dtype, a) + 0.0);
    u.top = a < b ? static_cast<Real>(largest_below(dtype, b)) : u.bottom;
    return u;
  }

  template <class L, int N>
  INITSTATS_HD void samples(const typename L::U (&words)[N], typename L::F (&values)[N]) const {
    constexpr int kShift = sizeof(Real) == 4 ? 8 : 11;
    constexpr Real kStep =
        sizeof(Real) == 4 ? Real(5.9604644775390625e-8) : WordBits<double>::kStep;  // 2^-24, 2^-53
    for (int j = 0; j < N; ++j) {
      const typename L::F u = L::from_int(words[j] >> kShift) * kStep;
      const typename L::F value = L::fma(u, L::broadcast(width), L::broadcast(a));
      values[j] = L::max(L::broadcast(bottom), L::min(L::broadcast(top), value));
    }
  }
};

// Normal with the given mean and standard deviation; |z| reaches 6.3 (float64: 8.5).
// Word: sign from the top bit, tail probability p = (k + 1/2) / 2^(kBits + 1).
template <class Real>
struct Normal {
  using Value = Real;
  Real mean, std;

  static Normal make(DType /*dtype*/, double mean, double std) {
    return {static_cast<Real>(mean), static_cast<Real>(std)};
  }

  template <class L, int N>
  INITSTATS_HD void samples(const typename L::U (&words)[N], typename L::F (&values)[N]) const {
    using B = WordBits<Real>;
    using F = typename L::F;
    constexpr Real kStep = B::kStep, kHalfStep = B::kStep / 2;
    F magnitude[N];
    if constexpr (sizeof(Real) == 4) {
      F x[N], t[N];
      for (int j = 0; j < N; ++j) {
        const typename L::U k = words[j] & B::kLargest;
        // x = 1 - 2p and 2p, each from its own integer: both keep full relative precision.
        x[j] = add_scaled<L>(L::from_int(k ^ B::kLargest), kStep, kHalfStep);
        const F p2 = add_scaled<L>(L::from_int(k), kStep, kHalfStep);
        t[j] = L::fma(p2, x[j], p2);
      }
      normal_ratios<L, true>(t, magnitude);
      for (int j = 0; j < N; ++j) magnitude[j] = x[j] * magnitude[j];
    } else {
      for (int j = 0; j < N; ++j) {
        const typename L::U k = (words[j] << 1) >> 11;
        const F x = add_scaled<L>(L::from_int(k ^ B::kLargest), kStep, kHalfStep);
        const F p = add_scaled<L>(L::from_int(k), kStep / 2, kHalfStep / 2);
        magnitude[j] = normal_magnitude_float64<L>(x, p);
      }
    }
    for (int j = 0; j < N; ++j) {
      const F z = L::from_bits(L::bits(magnitude[j]) | (words[j] & B::kSign));
      values[j] = L::fma(z, L::broadcast(std), L::broadcast(mean));
    }
  }
};

// How a truncated normal is computed. All three are the inverse CDF between the two bounds, by the
// form that keeps its precision there; `make` chooses.
enum class TruncNormalForm : int32_t {
  general,  // the inverse CDF of the word mapped into [Phi(a), Phi(b)]
  centre,   // the same between bounds within 3 standard deviations, where normal_ratios needs no
            // tails: same bits
  narrow,   // bounds close together: polynomial in u, anchored at the lower bound
  tail  // both bounds beyond kTailStart standard deviations on one side: through the exponential
        // variate -ln v
};

// Normal truncated to [a, b]; results stay in [bottom, top], the storage type's values in that
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

  static TruncNormal make(DType dtype, double mean, double std, double a, double b);

  template <class L, int N>
  INITSTATS_HD void samples(const typename L::U (&words)[N], typename L::F (&values)[N]) const {
    using F = typename L::F;
    constexpr int kShift = 8 * static_cast<int>(sizeof(Real)) - WordBits<Real>::kBits;
    typename L::U k[N];
    for (int j = 0; j < N; ++j) k[j] = words[j] >> kShift;
    if (form == TruncNormalForm::centre) {
      general<L, false>(k, values);
    } else if (form == TruncNormalForm::general) {
      general<L, true>(k, values);
    } else if (form == TruncNormalForm::narrow) {
      for (int j = 0; j < N; ++j) {
        constexpr Real kStep = WordBits<Real>::kStep;
        const F u = add_scaled<L>(L::from_int(k[j]), kStep, kStep / 2);
        values[j] = polynomial<L>(u, coefficients);
      }
    } else {
      for (int j = 0; j < N; ++j) values[j] = tail<L>(k[j]);
    }
    for (int j = 0; j < N; ++j) {
      const F value = L::fma(values[j], L::broadcast(std), L::broadcast(mean));
      values[j] = L::max(L::broadcast(bottom), L::min(L::broadcast(top), value));
    }
  }

 private:
  template <class L, bool kTails, int N>
  INITSTATS_HD void general(const typename L::U (&k)[N], typename L::F (&z)[N]) const {
    using B = WordBits<Real>;
    using F = typename L::F;
    F x[N], t[N];
    for (int j = 0; j < N; ++j) {
      x[j] = L::fma(L::from_int(k[j] - origin), L::broadcast(slope), L::broadcast(x_offset));
      const F below = L::fma(L::from_int(k[j]), L::broadcast(slope), L::broadcast(lower));
      const F above =
          L::fma(L::from_int(k[j] ^ B::kLargest), L::broadcast(slope), L::broadcast(upper));
      const F p2 = L::min(below, above);
      const F x_magnitude = L::from_bits(L::bits(x[j]) & ~B::kSign);
      if constexpr (sizeof(Real) == 4) {
        t[j] = L::fma(p2, x_magnitude, p2);
      } else {
        const F magnitude = normal_magnitude_float64<L>(x_magnitude, p2 * Real(0.5));
        z[j] = L::from_bits(L::bits(magnitude) | (L::bits(x[j]) & B::kSign));
      }
    }
    if constexpr (sizeof(Real) == 4) {
      normal_ratios<L, kTails>(t, z);
      for (int j = 0; j < N; ++j) z[j] = x[j] * z[j];
    }
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

// Note [Distributions]. The list: X(name, class, parameters...). The name is that of the op,
// without its underscore; the parameters are those of `make` after the dtype, in the words of the
// public function. From it are made the CPU kernels and their table (cpu/random/fill.h, fill.cpp),
// the CUDA launches (cuda/random/fill.cu), the schemas (ops/library.cpp) and the ops
// (ops/fill.cpp).
#define INITSTATS_DISTRIBUTIONS(X) \
  X(uniform, Uniform, "a", "b")    \
  X(normal, Normal, "mean", "std") \
  X(trunc_normal, TruncNormal, "mean", "std", "a", "b")

// How many doubles `make` takes, or -1 if there is no such function.
template <class Dist, class... Doubles>
constexpr int parameters_of(Dist (*)(DType, Doubles...)) {
  return sizeof...(Doubles);
}
template <class Dist>
constexpr auto parameters_of_make(int) -> decltype(parameters_of<Dist>(&Dist::make)) {
  return parameters_of<Dist>(&Dist::make);
}
template <class Dist>
constexpr int parameters_of_make(...) {
  return -1;
}
constexpr int count_of(std::initializer_list<const char*> names) {
  return static_cast<int>(names.size());
}

#define INITSTATS_CHECK_ENTRY(name, Dist, ...)                                 \
  static_assert(parameters_of_make<Dist<float>>(0) == count_of({__VA_ARGS__}), \
                #name ": expected " #Dist                                      \
                      "::make(DType, double, ...) with the parameters (" #__VA_ARGS__ ")");
INITSTATS_DISTRIBUTIONS(INITSTATS_CHECK_ENTRY)
#undef INITSTATS_CHECK_ENTRY

}  // namespace initstats

#include "math/random/truncation.h"  // TruncNormal::make
