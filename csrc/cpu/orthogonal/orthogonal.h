// CPU kernels of orthogonal matrices: reflectors, panel factors, small matrices. No threads, no
// checks.
#pragma once

#include "cpu/simd/dispatch.h"
#include "math/core/scalar.h"
#include "math/orthogonal/reflectors.h"

namespace initstats::cpu {

// The reflectors first + begin, ..., first + end - 1 of a matrix, Note [Reflectors], from their
// coordinate `first` on.
template <class Real>
struct ReflectorRange {
  Real* vectors;  // [end, pitch]: row i holds reflector first + i, zeros before its own coordinate
  double* squares;  // [end], |v|^2
  Real* diagonal;   // [end], D
  int64_t pitch;    // of vectors, at least m - first; what is beyond m - first is set to zero
  uint64_t key;
  int64_t stream_row;  // of reflector 0: b n
  int64_t first, m;    // first is a multiple of 4
  int64_t begin, end;  // rows
};

// Rows begin, ..., end - 1 of one panel's T, Note [Panel factors].
template <class Real>
struct FactorRange {
  const Real* gram;       // [k, k], read right of the diagonal
  const double* squares;  // [k]
  Real* factor;           // [k, k], all of the rows is written
  int64_t k;              // at most kMostReflectorsInPanel
  int64_t begin, end;
};

// One matrix, Note [Small matrices], in its tall orientation.
template <class Real>
struct SmallMatrix {
  void* data;
  DType dtype;  // float64 if and only if Real is double
  int64_t m, n;
  int64_t row_stride, column_stride;  // in elements
  uint64_t key;
  int64_t stream_row;
  Real gain;
};

// The kernels of one capability; all give the same bits.
struct OrthogonalKernels {
  void (*reflectors)(const ReflectorRange<float>&);
  void (*reflectors_float64)(const ReflectorRange<double>&);
  void (*factors)(const FactorRange<float>&);
  void (*factors_float64)(const FactorRange<double>&);
};

struct SmallOrthogonalKernels {
  void (*matrix)(const SmallMatrix<float>&);
  void (*matrix_float64)(const SmallMatrix<double>&);
};

namespace baseline {
extern const OrthogonalKernels orthogonal_kernels;
extern const SmallOrthogonalKernels small_orthogonal_kernels;
}  // namespace baseline
namespace avx2 {
extern const OrthogonalKernels orthogonal_kernels;
extern const SmallOrthogonalKernels small_orthogonal_kernels;
}  // namespace avx2
namespace avx512 {
extern const OrthogonalKernels orthogonal_kernels;
extern const SmallOrthogonalKernels small_orthogonal_kernels;
}  // namespace avx512

}  // namespace initstats::cpu
