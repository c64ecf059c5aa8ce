// What two tensors make together, element by element, for statistics of it.
#pragma once

#include <type_traits>

#include "math/core/layout.h"

namespace initstats {

// Note [Pairs]. Statistics may be those of two tensors x and y of the same sizes and type:
//   difference     x - y
//   square_ratio   x^2 / max(y, kLeastSquare) * factor
// computed in float32, or in float64 where values are wide (math/core/items.h), and never stored as
// a tensor. Each of the two has a layout of its own; element i of both in C order makes element i.
// The ratio is that of a squared gradient to Adam's second moment, whose bias the factor corrects.
enum class Pairing : int32_t { none, difference, square_ratio };

// The square of Adam's usual eps: below it a second moment does not matter.
constexpr double kLeastSquare = 1e-16;

// The second tensor of a pair.
struct Second {
  const void* data = nullptr;
  const Layout* layout = nullptr;  // host
  Pairing pairing = Pairing::none;
  double factor = 1;  // of the square ratio
};

// What lanes of x and y make. A second moment that is NaN gives NaN.
template <class L>
struct DifferenceOf {
  using F = typename L::F;
  INITSTATS_HD F operator()(F x, F y) const { return x - y; }
};
template <class L>
struct SquareRatioOf {
  using F = typename L::F;
  F least, factor;

  INITSTATS_HD explicit SquareRatioOf(double factor_of_all)
      : least(L::broadcast(static_cast<Item>(kLeastSquare))),
        factor(L::broadcast(static_cast<Item>(factor_of_all))) {}
  INITSTATS_HD F operator()(F x, F y) const { return x * x / L::max(least, y) * factor; }

 private:
  using Item = std::conditional_t<sizeof(typename L::U) / L::kWidth == 8, double, float>;
};

}  // namespace initstats
