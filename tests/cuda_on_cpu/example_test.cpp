// Runs the example kernels on the source executor and compares them with plain loops.
//   example_test [case ...]   returns the number of cases that failed.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "example_kernels.h"

namespace {

constexpr unsigned kGrid = 8, kBlock = 256;
constexpr int64_t kCount = 20'003;

std::vector<float> normal_numbers(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  for (float& value : x) value = normal(generator);
  return x;
}

float butterfly_sum(const float* lanes) {
  float now[32], next[32];
  std::memcpy(now, lanes, sizeof(now));
  for (int mask = 16; mask > 0; mask >>= 1) {
    for (int lane = 0; lane < 32; ++lane) next[lane] = now[lane] + now[lane ^ mask];
    std::memcpy(now, next, sizeof(now));
  }
  return now[0];
}

// The kernel's own order of additions, so that every bit must agree.
bool sum_is_right() {
  const std::vector<float> x = normal_numbers(kCount);
  std::vector<float> sums(kGrid, -1.0f);
  if (launch_sum(x.data(), sums.data(), kCount, kGrid) != cudaSuccess) return false;
  const size_t n = x.size(), threads = size_t{kGrid} * kBlock;
  for (size_t block = 0; block < kGrid; ++block) {
    std::vector<float> of_thread(kBlock, 0.0f), of_warp(32, 0.0f);
    for (size_t t = 0; t < kBlock; ++t) {
      const size_t first = block * kBlock + t;
      for (size_t i = first; i < n / 4; i += threads) {
        of_thread[t] += (x[4 * i] + x[4 * i + 1]) + (x[4 * i + 2] + x[4 * i + 3]);
      }
      for (size_t i = n / 4 * 4 + first; i < n; i += threads) of_thread[t] += x[i];
    }
    for (size_t w = 0; w < kBlock / 32; ++w) of_warp[w] = butterfly_sum(&of_thread[w * 32]);
    const float expected = butterfly_sum(of_warp.data());
    if (std::memcmp(&sums[block], &expected, sizeof(float)) != 0) return false;
  }
  return true;
}

bool histogram_is_right() {
  constexpr int kBins = 101;
  const std::vector<float> x = normal_numbers(kCount);
  std::vector<unsigned> bins(kBins, 0), expected(kBins, 0);
  const float low = -2.0f, inverse_width = kBins / 4.0f;
  if (launch_histogram(x.data(), bins.data(), kCount, kBins, low, inverse_width, kGrid)) {
    return false;
  }
  for (const float value : x) {
    const int bin = static_cast<int>(std::floor((value - low) * inverse_width));
    ++expected[static_cast<size_t>(bin < 0 ? 0 : bin >= kBins ? kBins - 1 : bin)];
  }
  return bins == expected;
}

// Random123's known answers for philox4x32-10: key and counter of ones, and of zeros.
bool philox_is_right() {
  std::vector<float> out(4, -1.0f);
  if (launch_philox(out.data(), 1, 0, 0, 1) != cudaSuccess) return false;
  const unsigned zeros[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  for (size_t j = 0; j < 4; ++j) {
    if (out[j] != static_cast<float>(zeros[j] >> 8) * 0x1p-24f) return false;
  }
  // Element i depends on nothing but seed and offset + i: not on the grid.
  std::vector<float> one(4 * 3001), other(4 * 3001);
  const uint64_t seed = 0x0123456789abcdef, offset = 0xfffffff0;
  if (launch_philox(one.data(), 3001, seed, offset, 2) != cudaSuccess) return false;
  if (launch_philox(other.data(), 1501, seed, offset, 5) != cudaSuccess) return false;
  if (launch_philox(&other[4 * 1501], 1500, seed, offset + 1501, 3) != cudaSuccess) return false;
  return std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

bool large_parameters_are_right() {
  std::vector<std::vector<double>> outputs(kTableOutputs, std::vector<double>(64, 1.0));
  const auto table = std::make_unique<Table>();
  for (int i = 0; i < kTableOutputs; ++i)
    table->outputs[i] = outputs[static_cast<size_t>(i)].data();
  for (int i = 0; i < 4091; ++i) table->values[i] = i;
  if (launch_table(*table, 4091, 64) != cudaSuccess) return false;
  if (launch_table_reference(*table, 4091, 64) != cudaSuccess) return false;
  for (int k = 0; k < kTableOutputs; ++k) {
    double expected = 1.0;
    for (int i = k; i < 4091; i += kTableOutputs) expected += 2.0 * i;
    for (const double value : outputs[static_cast<size_t>(k)]) {
      if (value != expected) return false;
    }
  }
  return true;
}

bool atomics_are_right() {
  constexpr unsigned kThreads = 96;
  std::vector<unsigned> x(kGrid * kThreads);
  std::mt19937 generator(11);
  for (unsigned& value : x) value = generator() >> 1;
  AtomicResults results{0, 0, 0, 0.0, 0x7fffffff, 0}, expected = results;
  if (launch_atomics(x.data(), &results, kGrid) != cudaSuccess) return false;
  for (const unsigned value : x) {
    expected.sum += static_cast<unsigned long long>(value) << 20;
    expected.mixed ^= static_cast<unsigned long long>(value) << 32 |
                      static_cast<unsigned>(value ? __builtin_clz(value) : 32);
    expected.bits += static_cast<unsigned>(__builtin_popcount(value));
    expected.double_sum += value;  // exact: below 2^53
    expected.minimum = std::min(expected.minimum, static_cast<int>(value));
    expected.maximum = std::max(expected.maximum, value);
  }
  return results.sum == expected.sum && results.mixed == expected.mixed &&
         results.bits == expected.bits && results.double_sum == expected.double_sum &&
         results.minimum == expected.minimum && results.maximum == expected.maximum;
}

bool halves_are_right() {
  const std::vector<float> x = normal_numbers(256);
  std::vector<float> halves(256), bfloats(256);
  if (launch_halves(x.data(), halves.data(), bfloats.data(), 4) != cudaSuccess) return false;
  for (size_t i = 0; i < x.size(); ++i) {  // half an ulp of 11 and of 8 significant bits
    if (std::fabs(halves[i] - x[i]) > std::ldexp(std::fabs(x[i]), -11)) return false;
    if (std::fabs(bfloats[i] - x[i]) > std::ldexp(std::fabs(x[i]), -8)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::function<bool()>> cases = {
      {"sum", sum_is_right},          {"histogram", histogram_is_right},
      {"philox", philox_is_right},    {"large_parameters", large_parameters_are_right},
      {"atomics", atomics_are_right}, {"halves", halves_are_right},
  };
  int failures = 0;
  for (const auto& [name, is_right] : cases) {
    bool is_asked_for = argc == 1;
    for (int i = 1; i < argc; ++i) is_asked_for |= name == argv[i];
    if (!is_asked_for) continue;
    const bool passed = is_right();
    std::printf("%s: %s\n", name.c_str(), passed ? "right" : "WRONG");
    failures += passed ? 0 : 1;
  }
  return failures;
}
