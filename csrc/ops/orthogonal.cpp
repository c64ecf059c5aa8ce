// The pieces of orthogonal matrices that are not matrix products: reflectors_, panel_factors, and
// small matrices whole. initstats/init/householder.py puts them together.
#include "cpu/orthogonal/orthogonal.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "ops/checks.h"
#include "ops/cuda_stream.h"
#include "ops/register.h"
#if defined(INITSTATS_WITH_CUDA)
#include "cuda/orthogonal/orthogonal.h"
#endif

namespace initstats::ops {

namespace {

void check_same(const std::string& op, const char* name, const Tensor& tensor, const Tensor& like,
                ScalarType dtype, int64_t elements) {
  if (tensor.scalar_type() != dtype || !tensor.is_contiguous() || tensor.numel() != elements) {
    fail(op,
         std::string(name) + " contiguous, of its dtype, with " + std::to_string(elements) +
             " elements",
         std::to_string(tensor.numel()) + " elements or another dtype or strides");
  }
  check_one_device(op, {like, tensor});
}

ScalarType real_type(const std::string& op, const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  if (dtype != ScalarType::Float && dtype != ScalarType::Double)
    fail(op, "dtype float32 or float64", "another dtype");
  return dtype;
}

// ---- reflectors

// Rows of the reflectors of matrices of one size: vectors [matrices, rows, pitch], squares and
// diagonal [matrices, rows]. Row i holds reflector first + i of n; beyond the last one v = 0,
// |v|^2 = 1 and D = 0.
template <class Real>
struct ReflectorBatch {
  Real* vectors;
  double* squares;
  Real* diagonal;
  int64_t pitch, first, m, n, rows;
  const std::vector<int64_t>& keys;
  const std::vector<int64_t>& stream_rows;  // of reflector 0

  int64_t matrices() const { return static_cast<int64_t>(keys.size()); }
};

// Rows begin, ..., end - 1 of one matrix.
template <class Real>
void make_rows(const cpu::OrthogonalKernels& kernels, const ReflectorBatch<Real>& batch,
               int64_t matrix, int64_t begin, int64_t end) {
  const auto place = static_cast<size_t>(matrix);
  const int64_t row = matrix * batch.rows, drawn = std::clamp(batch.n - batch.first, begin, end);
  const cpu::ReflectorRange<Real> range{batch.vectors + row * batch.pitch,
                                        batch.squares + row,
                                        batch.diagonal + row,
                                        batch.pitch,
                                        static_cast<uint64_t>(batch.keys[place]),
                                        batch.stream_rows[place],
                                        batch.first,
                                        batch.m,
                                        begin,
                                        drawn};
  if constexpr (sizeof(Real) == 4) {
    kernels.reflectors(range);
  } else {
    kernels.reflectors_float64(range);
  }
  std::fill(range.vectors + drawn * batch.pitch, range.vectors + end * batch.pitch, Real(0));
  std::fill(range.squares + drawn, range.squares + end, 1.0);
  std::fill(range.diagonal + drawn, range.diagonal + end, Real(0));
}

template <class Real>
void make_reflectors(OnCpu, const std::string& /*op*/, const Tensor& /*vectors*/,
                     const ReflectorBatch<Real>& batch) {
  const cpu::OrthogonalKernels& kernels = INITSTATS_CHOOSE(orthogonal_kernels);
  constexpr int64_t kGrain = 16384;  // elements per task below which another thread does not pay
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, batch.m - batch.first));
  torch::stable::parallel_for(
      0, batch.matrices() * batch.rows, grain, [&](int64_t begin, int64_t end) {
        while (begin < end) {
          const int64_t matrix = begin / batch.rows, row = begin % batch.rows;
          const int64_t stop = std::min(batch.rows, row + end - begin);
          make_rows(kernels, batch, matrix, row, stop);
          begin += stop - row;
        }
      });
}

#if defined(INITSTATS_WITH_CUDA)
template <class Real>
void make_reflectors(OnCuda, const std::string& op, const Tensor& vectors,
                     const ReflectorBatch<Real>& batch) {
  const DeviceScope scope(vectors);
  for (int64_t begin = 0; begin < batch.matrices(); begin += cuda::kMostMatrices) {
    const int64_t row = begin * batch.rows;
    cuda::ReflectorTask<Real> task{batch.vectors + row * batch.pitch,
                                   batch.squares + row,
                                   batch.diagonal + row,
                                   batch.pitch,
                                   batch.first,
                                   batch.m,
                                   batch.n,
                                   batch.rows,
                                   std::min<int64_t>(cuda::kMostMatrices, batch.matrices() - begin),
                                   {},
                                   {}};
    for (int64_t i = 0; i < task.matrices; ++i) {
      task.key[i] = static_cast<uint64_t>(batch.keys[static_cast<size_t>(begin + i)]);
      task.stream_row[i] = batch.stream_rows[static_cast<size_t>(begin + i)];
    }
    check_cuda(op, cuda::launch_reflectors(task, scope.cuda_stream()));
  }
}
#endif

template <class Device>
void reflectors(Tensor vectors, Tensor squares, Tensor diagonal, std::vector<int64_t> keys,
                std::vector<int64_t> stream_rows, int64_t first, int64_t size, int64_t count) {
  const std::string op = "reflectors_";
  const ScalarType dtype = real_type(op, vectors);
  if (vectors.dim() != 3) fail(op, "vectors to be matrices", "another number of dimensions");
  const int64_t matrices = vectors.size(0), rows = vectors.size(1), pitch = vectors.size(2);
  check_same(op, "vectors", vectors, vectors, dtype, matrices * rows * pitch);
  check_same(op, "squares", squares, vectors, ScalarType::Double, matrices * rows);
  check_same(op, "diagonal", diagonal, vectors, dtype, matrices * rows);
  if (static_cast<int64_t>(keys.size()) != matrices || stream_rows.size() != keys.size())
    fail(op, "one key and one row of the stream per matrix, " + std::to_string(matrices),
         std::to_string(keys.size()) + " and " + std::to_string(stream_rows.size()));
  if (first < 0 || first % 4 != 0 || first > count || count > size ||
      std::any_of(stream_rows.begin(), stream_rows.end(), [](int64_t row) { return row < 0; }))
    fail(op, "first to be a multiple of 4, and reflectors that lie in the matrix",
         "first=" + std::to_string(first) + ", count=" + std::to_string(count));
  if (pitch % 4 != 0 || pitch < size - first)
    fail(op, "a multiple of 4 columns, at least size - first", std::to_string(pitch));
  if (matrices == 0 || rows == 0) return;
  constexpr uintptr_t kStore = 16;  // bytes that a CUDA thread writes at once
  const auto place = reinterpret_cast<uintptr_t>(vectors.const_data_ptr());
  if (place % kStore != 0)
    fail(op, "vectors to begin at a multiple of 16 bytes",
         std::to_string(place % kStore) + " bytes past one");
  const auto make = [&](auto real) {
    using Real = decltype(real);
    make_reflectors(
        Device{}, op, vectors,
        ReflectorBatch<Real>{vectors.mutable_data_ptr<Real>(), squares.mutable_data_ptr<double>(),
                             diagonal.mutable_data_ptr<Real>(), pitch, first, size, count, rows,
                             keys, stream_rows});
  };
  dtype == ScalarType::Float ? make(0.0f) : make(0.0);
}

// ---- panel factors

template <class Real>
void factor_panels(OnCpu, const std::string& /*op*/, const Tensor& /*on*/, const Real* gram,
                   const double* squares, Real* factors, int64_t panels, int64_t k) {
  const cpu::OrthogonalKernels& kernels = INITSTATS_CHOOSE(orthogonal_kernels);
  constexpr int64_t kRows = 4;  // of one call of the kernel
  const int64_t groups = (k + kRows - 1) / kRows;
  torch::stable::parallel_for(0, panels * groups, 8, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      // The first rows are the longest: long and short ones alternate, so that threads get the
      // same.
      const int64_t panel = unit / groups, i = unit % groups;
      const int64_t row = kRows * (i % 2 == 0 ? i / 2 : groups - 1 - i / 2);
      const cpu::FactorRange<Real> range{
          gram + panel * k * k,    squares + panel * k, factors + panel * k * k, k, row,
          std::min(row + kRows, k)};
      if constexpr (sizeof(Real) == 4) {
        kernels.factors(range);
      } else {
        kernels.factors_float64(range);
      }
    }
  });
}

#if defined(INITSTATS_WITH_CUDA)
template <class Real>
void factor_panels(OnCuda, const std::string& op, const Tensor& on, const Real* gram,
                   const double* squares, Real* factors, int64_t panels, int64_t k) {
  const DeviceScope scope(on);
  check_cuda(op,
             cuda::launch_panel_factors(gram, squares, factors, panels, k, scope.cuda_stream()));
}
#endif

template <class Device>
Tensor panel_factors(Tensor gram, Tensor squares) {
  const std::string op = "panel_factors";
  const ScalarType dtype = real_type(op, gram);
  if (gram.dim() != 3 || gram.size(1) != gram.size(2) || gram.size(1) > kMostReflectorsInPanel)
    fail(op, "gram to be [panels, k, k] with k <= " + std::to_string(kMostReflectorsInPanel),
         "other sizes");
  const int64_t panels = gram.size(0), k = gram.size(1);
  check_same(op, "gram", gram, gram, dtype, panels * k * k);
  check_same(op, "squares", squares, gram, ScalarType::Double, panels * k);
  Tensor factors = torch::stable::new_empty(gram, {panels, k, k});
  if (panels == 0 || k == 0) return factors;
  const auto make = [&](auto real) {
    using Real = decltype(real);
    factor_panels(Device{}, op, gram, gram.const_data_ptr<Real>(), squares.const_data_ptr<double>(),
                  factors.mutable_data_ptr<Real>(), panels, k);
  };
  dtype == ScalarType::Float ? make(0.0f) : make(0.0);
  return factors;
}

// ---- small matrices

// One tensor, [rows, columns] or [batch, rows, columns]; the matrices turned so that they are tall.
struct SmallBatch {
  void* data;
  DType dtype;
  int64_t count, m, n;
  int64_t batch_stride, row_stride, column_stride;
  uint64_t key;
  double gain;
  int64_t first;  // number of its first matrix in the whole batch
};

std::vector<SmallBatch> small_batches(const std::string& op, const std::vector<Tensor>& tensors,
                                      const std::vector<int64_t>& keys,
                                      const std::vector<double>& gain,
                                      const std::vector<int64_t>& first) {
  if (keys.size() != tensors.size() || (gain.size() != 1 && gain.size() != tensors.size()))
    fail(op, "one key and one gain per tensor, " + std::to_string(tensors.size()),
         std::to_string(keys.size()) + " and " + std::to_string(gain.size()));
  if (!first.empty() && first.size() != tensors.size())
    fail(op, "no numbers of first matrices or one per tensor, " + std::to_string(tensors.size()),
         std::to_string(first.size()));
  check_one_device(op, tensors);
  std::vector<SmallBatch> batches;
  batches.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    const std::optional<DType> dtype = fill_dtype(tensor.scalar_type());
    if (!dtype) fail(op, "dtype float16, bfloat16, float32 or float64", "another dtype");
    const int64_t dims = tensor.dim();
    if (dims < 2 || dims > 3 || std::max(tensor.size(dims - 2), tensor.size(dims - 1)) > kSmallSide)
      fail(op,
           "[rows, columns] or [batch, rows, columns] with sides of at most " +
               std::to_string(kSmallSide),
           "other sizes");
    check_storage(op, tensor);
    check_no_overlap(
        op, layout_of(op, dims, tensor.sizes().data(), tensor.strides().data(), nullptr, nullptr));
    const int64_t rows = dims - 2, columns = dims - 1;
    const bool tall = tensor.size(rows) >= tensor.size(columns);
    const int64_t longer = tall ? rows : columns, shorter = tall ? columns : rows;
    batches.push_back({nullptr, *dtype, dims == 3 ? tensor.size(0) : 1, tensor.size(longer),
                       tensor.size(shorter), dims == 3 ? tensor.stride(0) : 0,
                       tensor.stride(longer), tensor.stride(shorter),
                       static_cast<uint64_t>(keys[i]), gain[gain.size() == 1 ? 0 : i],
                       first.empty() ? 0 : first[i]});
    if (batches.back().n == 0) batches.back().count = 0;
    if (batches.back().first < 0 || batches.back().first + batches.back().count > UINT32_MAX)
      fail(op, "the number of a matrix in its batch to be from 0 to 2^32 - 2",
           std::to_string(batches.back().first));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (batches[i].count > 0) batches[i].data = tensors[i].mutable_data_ptr();
  }
  return batches;
}

void make_small(OnCpu, const std::string& /*op*/, const std::vector<Tensor>& /*tensors*/,
                const std::vector<SmallBatch>& batches) {
  const cpu::SmallOrthogonalKernels& kernels = INITSTATS_CHOOSE(small_orthogonal_kernels);
  std::vector<int64_t> first{0};  // matrix of each tensor, counted through all
  for (const SmallBatch& batch : batches) first.push_back(first.back() + batch.count);
  torch::stable::parallel_for(0, first.back(), 1, [&](int64_t begin, int64_t end) {
    size_t i = static_cast<size_t>(std::upper_bound(first.begin(), first.end(), begin) -
                                   first.begin() - 1);
    for (int64_t at = begin; at < end; ++at) {
      while (at >= first[i + 1]) ++i;
      const SmallBatch& t = batches[i];
      const int64_t b = at - first[i];
      char* const data = static_cast<char*>(t.data) + b * t.batch_stride * item_bytes(t.dtype);
      const auto matrix = [&](auto real) {
        using Real = decltype(real);
        return cpu::SmallMatrix<Real>{data,
                                      t.dtype,
                                      t.m,
                                      t.n,
                                      t.row_stride,
                                      t.column_stride,
                                      t.key,
                                      (t.first + b) * t.n,
                                      static_cast<Real>(t.gain)};
      };
      if (t.dtype == DType::float64) {
        kernels.matrix_float64(matrix(0.0));
      } else {
        kernels.matrix(matrix(0.0f));
      }
    }
  });
}

#if defined(INITSTATS_WITH_CUDA)
void make_small(OnCuda, const std::string& op, const std::vector<Tensor>& tensors,
                const std::vector<SmallBatch>& batches) {
  if (tensors.empty()) return;
  const DeviceScope scope(tensors[0]);
  std::vector<cuda::SmallTask> tasks;
  tasks.reserve(batches.size());
  for (const SmallBatch& t : batches) {
    tasks.push_back({t.data, t.dtype, t.count, t.batch_stride, t.row_stride, t.column_stride, t.key,
                     t.gain, static_cast<int32_t>(t.m), static_cast<int32_t>(t.n),
                     static_cast<uint32_t>(t.first), 0});
  }
  check_cuda(op, cuda::launch_small_orthogonal(tasks.data(), static_cast<int64_t>(tasks.size()),
                                               scope.cuda_stream()));
}
#endif

template <class Device>
void small_orthogonal(std::vector<Tensor> tensors, std::vector<int64_t> keys,
                      std::vector<int64_t> first, std::vector<double> gain) {
  const std::string op = "small_orthogonal_";
  const std::vector<SmallBatch> batches = small_batches(op, tensors, keys, gain, first);
  make_small(Device{}, op, tensors, batches);
}

template <class Device>
void implement(Library& m) {
  m.impl("reflectors_", TORCH_BOX(&reflectors<Device>));
  m.impl("panel_factors", TORCH_BOX(&panel_factors<Device>));
  m.impl("small_orthogonal_", TORCH_BOX(&small_orthogonal<Device>));
}

INITSTATS_REGISTER(implement)

}  // namespace

}  // namespace initstats::ops
