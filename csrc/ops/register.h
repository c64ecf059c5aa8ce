// On which devices the ops of this build run: the only place that knows, and registers them there.
#pragma once

#include <torch/csrc/stable/library.h>

namespace initstats::ops {

using Library = torch::stable::detail::StableLibrary;

// Where an op runs. What differs is an overload per device, taken by this first argument; a build
// without CUDA kernels has no OnCuda overloads, and never asks for them.
struct OnCpu {};
struct OnCuda {};

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
