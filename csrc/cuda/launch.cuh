// The one way kernels are launched, and the two macros that let one source serve nvcc and the CPU
// executor.
//
// nvcc compiles a .cu file for the GPU. g++ -x c++ -DINITSTATS_CUDA_ON_CPU -I tests/cuda_on_cpu
// compiles the same file for the executor, which runs every CUDA thread on the CPU
// (tests/cuda_on_cpu/README.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// Declares a shared array or scalar in a kernel or device function:
//   INITSTATS_SHARED(float, partial, [32]);   INITSTATS_SHARED(int, winner, );
#define INITSTATS_SHARED(T, name, extents) __shared__ T name extents

// A kernel parameter of struct type that all threads read in place: const __grid_constant__ T under
// nvcc (up to 32764 bytes with CUDA 12.1 or newer), a reference on the CPU. A plain `const
// __grid_constant__ T name` works too, but the executor then copies it once per thread.
#define INITSTATS_GRID_CONSTANT(...) const __grid_constant__ __VA_ARGS__

#elif defined(INITSTATS_CUDA_ON_CPU)

#include "cuda_on_cpu.h"

#define INITSTATS_SHARED(T, name, extents)        \
  using name##_type = T extents;                  \
  static ::cuda_on_cpu::SharedSlot name##_slot;   \
  name##_type& name = *static_cast<name##_type*>( \
      ::cuda_on_cpu::shared_memory(name##_slot, sizeof(name##_type), alignof(name##_type)))

#define INITSTATS_GRID_CONSTANT(...) const __VA_ARGS__&

#else
#error \
    "csrc/cuda/*.cu: compile with nvcc, or with g++ -x c++ -DINITSTATS_CUDA_ON_CPU -I tests/cuda_on_cpu"
#endif

namespace initstats::cuda {

constexpr int64_t kMostBlocks = (1LL << 31) - 1;   // of a grid
constexpr std::size_t kLargestParameters = 32764;  // bytes of a kernel's, CUDA 12.1 and newer

constexpr int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// The block's dynamic shared memory, aligned to 16 bytes; its size is the launch's shared_bytes.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char initstats_dynamic_shared_bytes[];
  return reinterpret_cast<T*>(initstats_dynamic_shared_bytes);
#else
  return reinterpret_cast<T*>(::cuda_on_cpu::dynamic_shared_memory());
#endif
}

// Enqueues kernel(args...) on cuda_stream. A grid or block of zero is an error: the caller returns
// early when n == 0.
template <class... P, class... A>
[[nodiscard]] cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block,
                                 std::size_t shared_bytes, cudaStream_t cuda_stream, A&&... args) {
#if defined(__CUDACC__)
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = cuda_stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...);
#else
  static_cast<void>(cuda_stream);
  return ::cuda_on_cpu::launch(kernel, grid, block, shared_bytes, std::forward<A>(args)...);
#endif
}

}  // namespace initstats::cuda
