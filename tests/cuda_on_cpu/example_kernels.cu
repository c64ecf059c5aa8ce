// Kernels that exercise the executors. A macro BUG_... plants the bug of that name.
#include "cuda/launch.cuh"
#include "example_kernels.h"

namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float value) {
  for (int lane_mask = 16; lane_mask > 0; lane_mask >>= 1) {
    value += __shfl_xor_sync(kAllLanes, value, lane_mask);
  }
  return value;
}

__device__ __forceinline__ int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64_t grid_threads() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

// One sum per block: 16-byte loads, shuffles, one exchange through shared memory.
__global__ void __launch_bounds__(256) sum_kernel(const float* __restrict__ x,  // [n]
                                                  float* __restrict__ sums,     // [gridDim.x]
                                                  int64_t n) {
  INITSTATS_SHARED(float, partial, [32]);
  float sum = 0.0f;
#ifdef BUG_MISALIGNED
  const float4* vectors = reinterpret_cast<const float4*>(x + 1);
  const int64_t vector_count = (n - 1) / 4;
#else
  const float4* vectors = reinterpret_cast<const float4*>(x);
  const int64_t vector_count = n / 4;
#endif
#ifdef BUG_OUT_OF_BOUNDS
  n += 1;
#endif
  for (int64_t i = global_thread(); i < vector_count; i += grid_threads()) {
    const float4 v = __ldg(&vectors[i]);
    sum += (v.x + v.y) + (v.z + v.w);
  }
  for (int64_t i = vector_count * 4 + global_thread(); i < n; i += grid_threads()) sum += x[i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
#ifndef BUG_MISSING_BARRIER
  __syncthreads();
#endif
#ifdef BUG_DIVERGENT_SHUFFLE
  if (threadIdx.x < 20) {
#else
  if (threadIdx.x < 32) {
#endif
    sum = warp_sum(threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.0f);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
  }
}

// Counts per bin of width 1 / inverse_width, from `low`; what lies outside joins the outermost
// bins.
__global__ void __launch_bounds__(256)
    histogram_kernel(const float* __restrict__ x,  // [n]
                     unsigned* __restrict__ bins,  // [bin_count]
                     int64_t n, int bin_count, float low, float inverse_width) {
  unsigned* const mine = initstats::cuda::dynamic_shared<unsigned>();  // [bin_count]
  for (int b = threadIdx.x; b < bin_count; b += blockDim.x) mine[b] = 0;
  __syncthreads();
#ifdef BUG_OFF_BY_ONE
  const int last = bin_count;
#else
  const int last = bin_count - 1;
#endif
  for (int64_t i = global_thread(); i < n; i += grid_threads()) {
    const int b = static_cast<int>(floorf((x[i] - low) * inverse_width));
    atomicAdd(&mine[max(0, min(b, last))], 1u);
  }
#ifdef BUG_DIVERGENT_BARRIER
  if (threadIdx.x < 100) __syncthreads();
#endif
  __syncthreads();
  for (int b = threadIdx.x; b < bin_count; b += blockDim.x) {
    if (mine[b] != 0) atomicAdd(&bins[b], mine[b]);
  }
}

// Uniform numbers in [0, 1) from Philox4x32-10 (Salmon et al. 2011), counter = offset + i.
__global__ void __launch_bounds__(256)
    philox_kernel(float* __restrict__ out,  // [4 * vector_count]
                  int64_t vector_count, uint64_t seed, uint64_t offset) {
  for (int64_t i = global_thread(); i < vector_count; i += grid_threads()) {
    const uint64_t counter = offset + static_cast<uint64_t>(i);
    uint4 c =
        make_uint4(static_cast<unsigned>(counter), static_cast<unsigned>(counter >> 32), 0, 0);
    unsigned key0 = static_cast<unsigned>(seed), key1 = static_cast<unsigned>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const unsigned high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
      const unsigned high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
      c = make_uint4(high1 ^ c.y ^ key0, low1, high0 ^ c.w ^ key1, low0);
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    constexpr float kScale = 0x1p-24f;
    const float4 u = make_float4((c.x >> 8) * kScale, (c.y >> 8) * kScale, (c.z >> 8) * kScale,
                                 (c.w >> 8) * kScale);
    __stcs(&reinterpret_cast<float4*>(out)[i], u);
  }
}

// Adds table.values[block] to all elements of the array that table.outputs[block] points to.
__global__ void table_kernel(const __grid_constant__ Table table) {
  double* const out = table.outputs[blockIdx.x % kTableOutputs];
  out[threadIdx.x] += table.values[blockIdx.x];
}
__global__ void table_reference_kernel(INITSTATS_GRID_CONSTANT(Table) table) {
  double* const out = table.outputs[blockIdx.x % kTableOutputs];
  out[threadIdx.x] += table.values[blockIdx.x];
}

// What reductions in statistics need: 64-bit sums, extrema, shuffles of 32 and 64 bits, bit counts.
__global__ void atomics_kernel(const unsigned* __restrict__ x,  // [gridDim.x * blockDim.x]
                               AtomicResults* __restrict__ results) {
  INITSTATS_SHARED(unsigned, block_count, );
  if (threadIdx.x == 0) block_count = 0;
  __syncthreads();
  const unsigned value = x[global_thread()];
  atomicAdd(&block_count, __popc(value));
  atomicAdd(&results->sum, static_cast<unsigned long long>(value) << 20);
  atomicMin(&results->minimum, static_cast<int>(value));
  atomicMax(&results->maximum, value);
  double total = value;
  unsigned long long mixed = static_cast<unsigned long long>(value) << 32 | __clz(value);
  for (int delta = 16; delta > 0; delta >>= 1) {
    total += __shfl_down_sync(kAllLanes, total, delta);
    mixed ^= __shfl_xor_sync(kAllLanes, mixed, delta);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(&results->double_sum, total);
    atomicXor(&results->mixed, mixed);
  }
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(&results->bits, static_cast<unsigned long long>(block_count));
}

// Rounds to both 16-bit formats and back.
__global__ void halves_kernel(const float* __restrict__ x,  // [gridDim.x * blockDim.x]
                              float* __restrict__ halves, float* __restrict__ bfloats) {
  const int64_t i = global_thread();
  halves[i] = __half2float(__float2half_rn(x[i]));
  bfloats[i] = __bfloat162float(__float2bfloat16_rn(x[i]));
#ifdef BUG_LOCAL_ARRAY
  float kept[64] = {};
  for (int j = 0; j < 40; ++j) kept[static_cast<unsigned>(x[i] * j) % 64] += x[i];
  halves[i] += kept[threadIdx.x % 64];
#endif
}

}  // namespace

cudaError_t launch_sum(const float* x, float* sums, int64_t n, unsigned grid) {
  return initstats::cuda::launch(sum_kernel, grid, 256, 0, nullptr, x, sums, n);
}
cudaError_t launch_histogram(const float* x, unsigned* bins, int64_t n, int bin_count, float low,
                             float inverse_width, unsigned grid) {
  const size_t shared_bytes = static_cast<size_t>(bin_count) * sizeof(unsigned);
  return initstats::cuda::launch(histogram_kernel, grid, 256, shared_bytes, nullptr, x, bins, n,
                                 bin_count, low, inverse_width);
}
cudaError_t launch_philox(float* out, int64_t vector_count, uint64_t seed, uint64_t offset,
                          unsigned grid) {
  return initstats::cuda::launch(philox_kernel, grid, 256, 0, nullptr, out, vector_count, seed,
                                 offset);
}
cudaError_t launch_table(const Table& table, unsigned grid, unsigned block) {
  return initstats::cuda::launch(table_kernel, grid, block, 0, nullptr, table);
}
cudaError_t launch_table_reference(const Table& table, unsigned grid, unsigned block) {
  return initstats::cuda::launch(table_reference_kernel, grid, block, 0, nullptr, table);
}
cudaError_t launch_atomics(const unsigned* x, AtomicResults* results, unsigned grid) {
  return initstats::cuda::launch(atomics_kernel, grid, 96, 0, nullptr, x, results);
}
cudaError_t launch_halves(const float* x, float* halves, float* bfloats, unsigned grid) {
  return initstats::cuda::launch(halves_kernel, grid, 64, 0, nullptr, x, halves, bfloats);
}
