// CUDA C++ for g++: a kernel source that includes this instead of cuda_runtime.h compiles and runs
// on the CPU.
//
// csrc/cuda/launch.cuh includes it when INITSTATS_CUDA_ON_CPU is defined. README.md beside this
// file says what an execution proves and what it does not.
#pragma once

#if defined(__CUDACC__)
#error "cuda_on_cpu.h is for g++; nvcc has the real thing"
#endif

// NVIDIA's own headers, for types, conversions of half types and declarations; none of their
// libraries is linked.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <vector_types.h>

// The toolkit's headers define some of these for g++ as well.
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __align__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__
// __shared__ stays undefined on purpose: INITSTATS_SHARED poisons shared memory and checks its
// bounds, a plain static array would do neither.

#include "grid.h"

#define threadIdx (::cuda_on_cpu::current->index)
#define blockIdx (::cuda_on_cpu::running.index)
#define blockDim (::cuda_on_cpu::running.block)
#define gridDim (::cuda_on_cpu::running.grid)

#include "atomics.h"
#include "collectives.h"
#include "intrinsics.h"
#include "runtime.h"
