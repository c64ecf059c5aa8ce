// The random reflections whose product is a Haar orthogonal matrix: which elements of the stream
// they are made of, and how. One source for CPU and CUDA.
#pragma once

#include "math/random/distributions.h"

namespace initstats {

// Note [Reflectors]. A semi-orthogonal matrix has a longer side m and a shorter side n <= m. In its
// tall orientation, [m, n], it is the first n columns of H_0 H_1 ... H_(n-1) D. H_r reflects R^m
// with the vector v_r, which is zero before coordinate r. From there on it is x, standard normals
// of the stream of the matrix's key: x_j is element (b n + r) * pitch + j, where pitch is m rounded
// up to a multiple of 4 (a reflector begins with a whole Philox counter) and b the number of the
// matrix in a batch. float64 matrices take float64 normals, all others float32.
//   s = -1 if x_r < 0, else 1;  v_r = x_r + s |x|, the other elements of v are those of x;
//   H = I - (2 / |v|^2) v v^t takes x to -s |x| e_r, and D_r = -s makes the diagonal of that R
//   positive, without which the product would not be Haar.
// |x|^2 and |v|^2 are float64: chain j mod kReflectorChains adds x_j^2 in the order of j > r, then
// the chains fold by halving, chain c + h into chain c for h = kReflectorChains / 2, ..., 1. So all
// bits of v, |v|^2 and D are the same on every device and for every number of threads.
constexpr int kReflectorChains = 1024;

INITSTATS_HD int64_t reflector_pitch(int64_t m) { return (m + 3) / 4 * 4; }

// What the first element x of a vector becomes, and the rest of what a reflection needs.
template <class Real>
struct Reflection {
  Real first;     // v_r
  Real diagonal;  // D_r
  double square;  // |v|^2
};

// tail is the sum of the squares of the elements after the first. x != 0: a normal of the stream
// never is.
template <class Real>
INITSTATS_HD Reflection<Real> reflection_of(Real x, double tail) {
  const double wide = static_cast<double>(x);
  const double norm = Scalar64::sqrt(tail + wide * wide);
  const Real first = static_cast<Real>(x < Real(0) ? wide - norm : wide + norm);
  const double square = static_cast<double>(first) * static_cast<double>(first);
  return {first, x < Real(0) ? Real(1) : Real(-1), tail + square};
}

// Note [Panel factors]. k reflections in a row are I - V^t T V, V [k, m] holding their vectors. T
// is upper triangular, and its inverse R is known (the UT transform, Joffrain et al. 2006): R_ll =
// |v_l|^2 / 2 and, right of the diagonal, R_lj = v_l . v_j, the Gram matrix. Row i of T is then
//   t_l = (delta_il - sum_(i <= p < l) t_p R_pl) / R_ll,
// in float64, the sum in the order of p, and rounded once.
constexpr int kMostReflectorsInPanel = 512;

INITSTATS_HD double factor_element(bool on_diagonal, double sum, double square) {
  return ((on_diagonal ? 1.0 : 0.0) - sum) * (2.0 / square);
}

// Note [Small matrices]. With a longer side of at most kSmallSide a matrix is made by one task or
// block, column j starting as D_j e_j. The reflections are applied four at a time, r, ..., r + 3
// where r is a multiple of 4, the last first; those beyond the last have v = 0 and scale 0. With
// scale_k = 2 / |v_k|^2 and everything in the type of the vectors, a column c takes
//   w_k = v_k . c, one chain of fused multiply-adds in the order of i;
//   s_k = -scale_k (w_k + sum_(l > k) (v_k . v_l) s_l), fused, l = 3, ..., k + 1, for k = 3, ...,
//   0; c += v_k s_k, fused, for k = 3, ..., 0.
// v_k . v_l adds in kSmallChains chains, i mod kSmallChains, fused in the order of i; they fold by
// halving. Last the column is multiplied by gain and rounded to the storage type. CPU and CUDA
// agree in every bit.
constexpr int kSmallSide = 128;
constexpr int kSmallPanel = 4;
constexpr int kSmallPairs = kSmallPanel * (kSmallPanel - 1) / 2;
constexpr int kSmallChains = 16;

}  // namespace initstats
