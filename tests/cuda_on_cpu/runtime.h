// The part of the CUDA runtime that launchers use on the host: one device, and everything is done
// when a call returns.
#pragma once

#include <cuda_runtime_api.h>

#include <cstring>

#include "grid.h"

// Weak definitions of functions that cuda_runtime_api.h declares: every object file of an executor
// build may carry them.
#define CUDA_ON_CPU_RUNTIME extern "C" __attribute__((weak, visibility("hidden")))

CUDA_ON_CPU_RUNTIME cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
CUDA_ON_CPU_RUNTIME cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}
CUDA_ON_CPU_RUNTIME cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
// Few multiprocessors, so that a grid sized by them is small; the other limits are those of sm_90.
CUDA_ON_CPU_RUNTIME cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute,
                                                       int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = cuda_on_cpu::kMaxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = cuda_on_cpu::kMaxSharedBytes;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = cuda_on_cpu::kMaxSharedBytesOptedIn;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}
CUDA_ON_CPU_RUNTIME cudaError_t cudaFuncSetAttribute(const void* kernel,
                                                     cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<std::size_t>(value) > cuda_on_cpu::kMaxSharedBytesOptedIn)
    return cudaErrorInvalidValue;
  const std::lock_guard<std::mutex> lock(cuda_on_cpu::launch_mutex);
  cuda_on_cpu::opted_in_shared_bytes[kernel] = static_cast<std::size_t>(value);
  return cudaSuccess;
}
CUDA_ON_CPU_RUNTIME cudaError_t cudaMemsetAsync(void* target, int byte, size_t bytes,
                                                cudaStream_t) {
  std::memset(target, byte, bytes);
  return cudaSuccess;
}
CUDA_ON_CPU_RUNTIME cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes,
                                                cudaMemcpyKind, cudaStream_t) {
  std::memcpy(target, source, bytes);
  return cudaSuccess;
}
CUDA_ON_CPU_RUNTIME cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
CUDA_ON_CPU_RUNTIME cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
CUDA_ON_CPU_RUNTIME cudaError_t cudaGetLastError() { return cudaSuccess; }
CUDA_ON_CPU_RUNTIME cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
CUDA_ON_CPU_RUNTIME const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    default:
      return "an error that the CPU executor does not name";
  }
}
CUDA_ON_CPU_RUNTIME const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? cuda_on_cpu::last_failure().c_str()
                                         : cudaGetErrorName(error);
}
#undef CUDA_ON_CPU_RUNTIME

// nvcc's cuda_runtime.h has this overload for kernels.
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
