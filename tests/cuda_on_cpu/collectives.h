// Barriers, shuffles, votes and warp reductions, as device code calls them. Two calls meet when
// they are on one line.
#pragma once

#include <cstring>
#include <string>

#include "executor.h"

namespace [[gnu::visibility("hidden")]] cuda_on_cpu {

template <class T>
std::uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

// The value of lane `source`, or the own one where the shuffle's segment ends.
template <class T>
T shuffle(unsigned mask, T value, unsigned source, bool is_inside, int line) {
  const std::uint64_t* operands = warp_meet(mask, to_bits(value), line);
  if (!is_inside) return value;
  if ((mask >> source & 1) == 0) {
    fail("shuffle reads a lane that is not in the mask, line " + std::to_string(line));
  }
  return from_bits<T>(operands[source]);
}

template <class T, class Combine>
T reduce_lanes(unsigned mask, T value, int line, Combine combine) {
  const std::uint64_t* operands = warp_meet(mask, to_bits(value), line);
  const auto first = static_cast<unsigned>(__builtin_ctz(mask));
  T result = from_bits<T>(operands[first]);
  for (unsigned lane = first + 1; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) != 0) result = combine(result, from_bits<T>(operands[lane]));
  }
  return result;
}

// How many threads of the block pass a true predicate. Counted in shared memory, between two
// barriers.
inline int count_in_block(int predicate, int line) {
  static SharedSlot slot;
  int& count = *static_cast<int*>(shared_memory(slot, sizeof(int), alignof(int)));
  block_barrier(line);  // nobody reads the count of a call before this one any more
  count = 0;
  block_barrier(line);
  count += predicate != 0 ? 1 : 0;
  block_barrier(line);
  return count;
}

}  // namespace cuda_on_cpu

constexpr int warpSize = 32;

inline void __syncthreads(int line = __builtin_LINE()) { cuda_on_cpu::block_barrier(line); }
inline int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
  return cuda_on_cpu::count_in_block(predicate, line);
}
inline int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
  return cuda_on_cpu::count_in_block(predicate, line) != 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
  return cuda_on_cpu::count_in_block(predicate == 0 ? 1 : 0, line) == 0 ? 1 : 0;
}
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) {
  cuda_on_cpu::warp_meet(mask, 0, line);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
  const auto segment = static_cast<unsigned>(width - 1);
  const unsigned lane = cuda_on_cpu::current->lane;
  return cuda_on_cpu::shuffle(
      mask, value, (lane & ~segment) | (static_cast<unsigned>(source) & segment), true, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  int line = __builtin_LINE()) {
  const auto segment = static_cast<unsigned>(width - 1);
  const unsigned lane = cuda_on_cpu::current->lane,
                 source = lane ^ static_cast<unsigned>(lane_mask);
  return cuda_on_cpu::shuffle(mask, value, source, source <= (lane | segment), line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   int line = __builtin_LINE()) {
  const auto segment = static_cast<unsigned>(width - 1);
  const unsigned lane = cuda_on_cpu::current->lane;
  return cuda_on_cpu::shuffle(mask, value, lane + delta, lane + delta <= (lane | segment), line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 int line = __builtin_LINE()) {
  const auto segment = static_cast<unsigned>(width - 1);
  const unsigned lane = cuda_on_cpu::current->lane;
  return cuda_on_cpu::shuffle(mask, value, lane - delta, lane >= delta + (lane & ~segment), line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  const std::uint64_t* operands = cuda_on_cpu::warp_meet(mask, predicate != 0 ? 1 : 0, line);
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < cuda_on_cpu::kWarpSize; ++lane) {
    if ((mask >> lane & 1) != 0) ballot |= static_cast<unsigned>(operands[lane]) << lane;
  }
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) == mask ? 1 : 0;
}

// sm_80 and newer.
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, int line = __builtin_LINE()) {
  return cuda_on_cpu::reduce_lanes(mask, value, line, [](unsigned a, unsigned b) { return a + b; });
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, int line = __builtin_LINE()) {
  return cuda_on_cpu::reduce_lanes(mask, value, line,
                                   [](unsigned a, unsigned b) { return a < b ? a : b; });
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, int line = __builtin_LINE()) {
  return cuda_on_cpu::reduce_lanes(mask, value, line,
                                   [](unsigned a, unsigned b) { return a > b ? a : b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, int line = __builtin_LINE()) {
  return cuda_on_cpu::reduce_lanes(mask, value, line, [](unsigned a, unsigned b) { return a | b; });
}
