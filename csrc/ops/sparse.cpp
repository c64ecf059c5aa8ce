// The op sparse_: matrices of normals with so many zeros in every column.
#include "cpu/random/sparse.h"

#include <algorithm>

#include "math/random/distributions.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"
#include "ops/register.h"
#if defined(INITSTATS_WITH_CUDA)
#include "cuda/random/fill.h"
#include "cuda/random/sparse.h"
#endif

namespace initstats::ops {

namespace {

constexpr char kOp[] = "sparse_";
// Elements per task below which another thread does not pay.
constexpr int64_t kGrain = 65536;

struct Job {
  Layout layout;
  cpu::SparseMatrix matrix;
  double std;
};

// Checks everything before anything is written.
std::vector<Job> jobs_of(const std::vector<Tensor>& tensors, const std::vector<int64_t>& keys,
                         const std::vector<double>& std, const std::vector<int64_t>& zeros,
                         const std::vector<int64_t>& box) {
  const size_t n = tensors.size();
  if (keys.size() != n || std.size() != n || zeros.size() != n)
    fail(kOp, "one key, std and number of zeros per tensor, " + std::to_string(n), "others");
  check_one_device(kOp, tensors);
  const Boxes boxes(kOp, tensors, box);
  std::vector<Job> jobs(n);
  for (size_t i = 0; i < n; ++i) {
    const Tensor& t = tensors[i];
    const std::optional<DType> dtype = fill_dtype(t.scalar_type());
    if (!dtype) fail(kOp, "dtype float16, bfloat16, float32 or float64", "another dtype");
    if (t.dim() != 2) fail(kOp, "2 dimensions", std::to_string(t.dim()));
    jobs[i].layout = boxes.layout(i);
    jobs[i].std = std[i];
    check_no_overlap(kOp, jobs[i].layout);
    const int64_t whole[4] = {0, 0, t.size(0), t.size(1)};
    const int64_t* const place = box.empty() ? whole : box.data() + 4 * i;
    if (place[2] > UINT32_MAX) fail(kOp, "less than 2^32 rows", std::to_string(place[2]));
    if (zeros[i] < 0 || zeros[i] > place[2])
      fail(kOp, "zeros from 0 to the rows, " + std::to_string(place[2]), std::to_string(zeros[i]));
    jobs[i].matrix = {nullptr,   *dtype,    nullptr,     static_cast<uint64_t>(keys[i]),
                      t.size(0), t.size(1), t.stride(0), t.stride(1),
                      place[0],  place[1],  place[2],    place[3],
                      zeros[i]};
  }
  for (size_t i = 0; i < n; ++i) {
    jobs[i].matrix.layout = &jobs[i].layout;
    if (jobs[i].layout.count > 0) jobs[i].matrix.data = tensors[i].mutable_data_ptr();
  }
  return jobs;
}

void run(OnCpu, const std::vector<Tensor>& /*tensors*/, const std::vector<Job>& jobs) {
  const cpu::SparseKernels& kernels = INITSTATS_CHOOSE(sparse_kernels);
  for (const Job& job : jobs) {
    const cpu::SparseMatrix& m = job.matrix;
    if (job.layout.count == 0) continue;
    const int64_t height = m.first_row + m.rows;
    torch::stable::parallel_for(
        0, m.columns, std::max<int64_t>(64, kGrain / height), [&](int64_t begin, int64_t end) {
          if (m.dtype == DType::float64) {
            kernels.columns_float64(Normal<double>::make(m.dtype, 0, job.std), m, begin, end);
          } else {
            kernels.columns(Normal<float>::make(m.dtype, 0, job.std), m, begin, end);
          }
        });
  }
}

#if defined(INITSTATS_WITH_CUDA)
template <class Real>
void fill_normal(const Job& job, cudaStream_t cuda_stream) {
  const cpu::SparseMatrix& m = job.matrix;
  const cuda::FillTarget<Normal<Real>> target{m.data, m.dtype, job.layout, m.key,
                                              Normal<Real>::make(m.dtype, 0, job.std)};
  check_cuda(kOp, cuda::launch_fill(&target, 1, cuda_stream));
}

void run(OnCuda, const std::vector<Tensor>& tensors, const std::vector<Job>& jobs) {
  if (tensors.empty()) return;
  const DeviceScope scope(tensors[0]);
  for (const Job& job : jobs) {
    const cpu::SparseMatrix& m = job.matrix;
    if (m.dtype == DType::float64) {
      fill_normal<double>(job, scope.cuda_stream());
    } else {
      fill_normal<float>(job, scope.cuda_stream());
    }
    const cuda::SparseTarget target{m.data,          m.dtype,           m.key,
                                    m.rows,          m.columns,         m.row_stride,
                                    m.column_stride, m.first_row,       m.first_column,
                                    m.logical_rows,  m.logical_columns, m.zeros};
    check_cuda(kOp, cuda::launch_sparse_zeros(target, scope.cuda_stream()));
  }
}
#endif

template <class Device>
void sparse(std::vector<Tensor> tensors, std::vector<int64_t> keys, std::vector<double> std,
            std::vector<int64_t> zeros, std::vector<int64_t> box) {
  const std::vector<Job> jobs = jobs_of(tensors, keys, std, zeros, box);
  run(Device{}, tensors, jobs);
}

template <class Device>
void implement(Library& m) {
  m.impl("sparse_", TORCH_BOX(&sparse<Device>));
}

INITSTATS_REGISTER(implement)

}  // namespace

}  // namespace initstats::ops
