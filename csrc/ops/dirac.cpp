// The op dirac_: contiguous weights with one value per output channel, zeros elsewhere.
#include "cpu/random/dirac.h"

#include <algorithm>
#include <cmath>

#include "ops/checks.h"
#include "ops/cuda_stream.h"
#include "ops/register.h"
#if defined(INITSTATS_WITH_CUDA)
#include "cuda/random/dirac.h"
#endif

namespace initstats::ops {

namespace {

constexpr char kOp[] = "dirac_";
// Bytes per task below which another thread does not pay.
constexpr int64_t kGrainBytes = 1 << 20;

struct Job {
  Dirac dirac;
  void* data;
  int64_t item_bytes;
  uint64_t value;
};

// The bits of x rounded to the storage type.
uint64_t bits_of(DType dtype, double x) {
  const float narrow = static_cast<float>(x);
  switch (dtype) {
    case DType::float64:
      return bit_cast<uint64_t>(x);
    case DType::float32:
      return bit_cast<uint32_t>(narrow);
    case DType::bfloat16:
      return std::isnan(narrow) ? 0x7FC0u : to_bfloat16(narrow);
    case DType::float16:
      break;
  }
  return std::isnan(narrow) ? 0x7E00u : to_float16(narrow);
}

// Checks everything before anything is written.
std::vector<Job> jobs_of(const std::vector<Tensor>& tensors, const std::vector<int64_t>& groups,
                         const std::vector<double>& value) {
  if (groups.size() != tensors.size() || value.size() != tensors.size())
    fail(kOp, "groups and a value per tensor, " + std::to_string(tensors.size()), "others");
  check_one_device(kOp, tensors);
  std::vector<Job> jobs;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& t = tensors[i];
    const std::optional<DType> dtype = fill_dtype(t.scalar_type());
    if (!dtype) fail(kOp, "dtype float16, bfloat16, float32 or float64", "another dtype");
    if (t.dim() < 2) fail(kOp, "at least 2 dimensions", std::to_string(t.dim()));
    if (!t.is_contiguous()) fail(kOp, "a contiguous tensor", "another one");
    check_storage(kOp, t);
    if (t.size(0) > UINT32_MAX) fail(kOp, "less than 2^32 channels", std::to_string(t.size(0)));
    if (groups[i] < 1 || t.size(0) % groups[i] != 0)
      fail(kOp, "groups to divide the channels, " + std::to_string(t.size(0)),
           std::to_string(groups[i]));
    Dirac dirac{t.size(0), std::max<int64_t>(t.size(0) / groups[i], 1), t.size(1), 1, 0};
    for (int64_t d = 2; d < t.dim(); ++d) {
      dirac.kernel *= t.size(d);
      dirac.centre = dirac.centre * t.size(d) + t.size(d) / 2;
    }
    jobs.push_back({dirac, nullptr, item_bytes(*dtype), bits_of(*dtype, value[i])});
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].numel() > 0) jobs[i].data = tensors[i].mutable_data_ptr();
  }
  return jobs;
}

void run(OnCpu, const std::vector<Tensor>& /*tensors*/, const std::vector<Job>& jobs) {
  const cpu::DiracKernels& kernels = INITSTATS_CHOOSE(dirac_kernels);
  for (const Job& job : jobs) {
    const int64_t row_bytes = job.dirac.row() * job.item_bytes;
    if (row_bytes == 0) continue;
    torch::stable::parallel_for(
        0, job.dirac.channels, std::max<int64_t>(1, kGrainBytes / row_bytes),
        [&](int64_t begin, int64_t end) {
          kernels.channels(job.dirac, job.data, job.item_bytes, job.value, begin, end);
        });
  }
}

#if defined(INITSTATS_WITH_CUDA)
void run(OnCuda, const std::vector<Tensor>& tensors, const std::vector<Job>& jobs) {
  if (tensors.empty()) return;
  const DeviceScope scope(tensors[0]);
  for (const Job& job : jobs) {
    check_cuda(kOp, cuda::launch_dirac(job.dirac, job.data, job.item_bytes, job.value,
                                       scope.cuda_stream()));
  }
}
#endif

template <class Device>
void dirac(std::vector<Tensor> tensors, std::vector<int64_t> groups, std::vector<double> value) {
  const std::vector<Job> jobs = jobs_of(tensors, groups, value);
  run(Device{}, tensors, jobs);
}

template <class Device>
void implement(Library& m) {
  m.impl("dirac_", TORCH_BOX(&dirac<Device>));
}

INITSTATS_REGISTER(implement)

}  // namespace

}  // namespace initstats::ops
