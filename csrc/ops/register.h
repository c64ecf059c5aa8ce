// On which devices the ops of this build run: the only place that knows, and registers them there.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <cstdint>

namespace initstats::ops {

using Library = torch::stable::detail::StableLibrary;

// Where an op runs. What differs is an overload per device, taken by this first argument; a build
// without CUDA kernels has no OnCuda overloads, and never asks for them.
struct OnCpu {};
struct OnCuda {};

// The kernels that take tensors of a device.
enum class Kernels { none, cpu, cuda };

// By torch's number of the type of device. As below: tensors that nothing is registered for have no
// kernels.
inline Kernels kernels_for(int32_t device_type) {
#if defined(INITSTATS_CUDA_ON_CPU)
  constexpr Kernels kOfCpu = Kernels::cuda, kOfCuda = Kernels::none;
#elif defined(INITSTATS_WITH_CUDA)
  constexpr Kernels kOfCpu = Kernels::cpu, kOfCuda = Kernels::cuda;
#else
  constexpr Kernels kOfCpu = Kernels::cpu, kOfCuda = Kernels::none;
#endif
  if (device_type == aoti_torch_device_type_cpu()) return kOfCpu;
  return device_type == aoti_torch_device_type_cuda() ? kOfCuda : Kernels::none;
}

}  // namespace initstats::ops

// Registers the implementations of a file: `implement` is a template over the device, of signature
// void(Library&). Where the kernels are executed on the CPU, CPU tensors take their path.
#if defined(INITSTATS_CUDA_ON_CPU)
#define INITSTATS_REGISTER(implement) \
  STABLE_TORCH_LIBRARY_IMPL(initstats, CPU, m) { implement<initstats::ops::OnCuda>(m); }
#elif defined(INITSTATS_WITH_CUDA)
#define INITSTATS_REGISTER(implement)                                                   \
  STABLE_TORCH_LIBRARY_IMPL(initstats, CPU, m) { implement<initstats::ops::OnCpu>(m); } \
  STABLE_TORCH_LIBRARY_IMPL(initstats, CUDA, m) { implement<initstats::ops::OnCuda>(m); }
#else
#define INITSTATS_REGISTER(implement) \
  STABLE_TORCH_LIBRARY_IMPL(initstats, CPU, m) { implement<initstats::ops::OnCpu>(m); }
#endif
