// torch's device guard and current CUDA stream, found at run time, so that a CPU-only torch loads
// the module too.
#pragma once

#if defined(INITSTATS_WITH_CUDA)

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>

namespace initstats::ops {

// Makes a CUDA device the current one while it lives, and knows torch's current CUDA stream there.
class DeviceScope {
 public:
  explicit DeviceScope(const torch::stable::Tensor& tensor)
      : DeviceScope(tensor.get_device_index()) {}
  explicit DeviceScope(int32_t device_index);
  cudaStream_t cuda_stream() const { return cuda_stream_; }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  cudaStream_t cuda_stream_ = nullptr;
};

// Throws std::runtime_error with CUDA's own words unless status is cudaSuccess.
void check_cuda(const std::string& op, cudaError_t status);

}  // namespace initstats::ops

#endif
