// Launchers of example_kernels.cu, for example_test.cpp.
#pragma once

#include <driver_types.h>

#include <cstdint>

// A parameter struct of 32760 bytes: close to CUDA's limit of 32764 for all parameters together.
constexpr int kTableOutputs = 4;
struct Table {
  double* outputs[kTableOutputs];
  double values[4091];
};

struct AtomicResults {
  unsigned long long sum, mixed, bits;
  double double_sum;
  int minimum;
  unsigned maximum;
};

cudaError_t launch_sum(const float* x, float* sums, int64_t n, unsigned grid);
cudaError_t launch_histogram(const float* x, unsigned* bins, int64_t n, int bin_count, float low,
                             float inverse_width, unsigned grid);
cudaError_t launch_philox(float* out, int64_t vector_count, uint64_t seed, uint64_t offset,
                          unsigned grid);
cudaError_t launch_table(const Table& table, unsigned grid, unsigned block);
cudaError_t launch_table_reference(const Table& table, unsigned grid, unsigned block);
cudaError_t launch_atomics(const unsigned* x, AtomicResults* results, unsigned grid);
cudaError_t launch_halves(const float* x, float* halves, float* bfloats, unsigned grid);
