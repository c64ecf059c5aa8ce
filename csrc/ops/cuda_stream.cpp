// Lookup of torch's current CUDA stream.
#include "ops/cuda_stream.h"

#if defined(INITSTATS_WITH_CUDA)

#include <dlfcn.h>

#include "ops/checks.h"

namespace initstats::ops {

#if defined(INITSTATS_CUDA_ON_CPU)

DeviceScope::DeviceScope(int32_t /*device_index*/) {}

void check_cuda(const std::string& op, cudaError_t status) {
  if (status != cudaSuccess)
    fail(op, "this launch to succeed", "CUDA error " + std::to_string(static_cast<int>(status)));
}

#else

// aoti_torch_get_current_cuda_stream lives in libtorch_cuda, which a CPU-only torch does not have,
// and which Python loads without making its symbols global: the library that is loaded already is
// asked by name when the first CUDA tensor arrives. (The id of a torch::stable Stream is not a
// cudaStream_t, and torch_stream_native_handle exists only from torch 2.13 on.)
DeviceScope::DeviceScope(int32_t device_index) {
  using Lookup = AOTITorchError (*)(int32_t, void**);
  static void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) fail("ops", "a torch built with CUDA", "one without libtorch_cuda.so");
  static const auto lookup =
      reinterpret_cast<Lookup>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  if (lookup == nullptr) fail("ops", "torch 2.10 or newer", "a libtorch_cuda.so without streams");
  guard_.emplace(device_index);
  void* cuda_stream = nullptr;
  TORCH_ERROR_CODE_CHECK(lookup(device_index, &cuda_stream));
  cuda_stream_ = static_cast<cudaStream_t>(cuda_stream);
}

void check_cuda(const std::string& op, cudaError_t status) {
  if (status == cudaSuccess) return;
  // Kernels run after their launch has returned: what one does wrong is told by a later call.
  fail(op, "this launch and all earlier ones on the device to succeed",
       std::string(cudaGetErrorName(status)) + " (" + cudaGetErrorString(status) +
           "), of this or an earlier launch of any library; CUDA_LAUNCH_BLOCKING=1 shows which");
}

#endif

}  // namespace initstats::ops

#endif
