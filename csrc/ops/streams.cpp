// Lookup of torch's current CUDA stream.
#include "ops/streams.h"

#if defined(INITSTATS_WITH_CUDA)

#include <dlfcn.h>

#include "ops/checks.h"

namespace initstats::ops {

#if defined(INITSTATS_CUDA_ON_CPU)

DeviceScope::DeviceScope(const Tensor& /*tensor*/) {}

void check_cuda(const std::string& op, cudaError_t status) {
  if (status != cudaSuccess)
    fail(op, "the launch to succeed", "CUDA error " + std::to_string(static_cast<int>(status)));
}

#else

// aoti_torch_get_current_cuda_stream lives in libtorch_cuda, which a CPU-only torch does not have:
// it is looked up when the first CUDA tensor arrives. (The id of a torch::stable Stream is not a
// cudaStream_t, and torch_stream_native_handle exists only from torch 2.13 on.)
DeviceScope::DeviceScope(const Tensor& tensor) {
  using Lookup = AOTITorchError (*)(int32_t, void**);
  static const auto lookup =
      reinterpret_cast<Lookup>(dlsym(RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
  if (lookup == nullptr)
    fail("ops", "a torch built with CUDA", "one without (libtorch_cuda is not loaded)");
  const int32_t index = tensor.get_device_index();
  guard_.emplace(index);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(lookup(index, &stream));
  stream_ = static_cast<cudaStream_t>(stream);
}

void check_cuda(const std::string& op, cudaError_t status) {
  if (status != cudaSuccess) fail(op, "the launch to succeed", cudaGetErrorString(status));
}

#endif

}  // namespace initstats::ops

#endif
