// What one running block consists of: its threads, its shared memory and the operands of its warp
// collectives.
#pragma once

#include <vector_types.h>  // NVIDIA's own dim3, uint3, float4, ...: plain C++

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fibre.h"

namespace [[gnu::visibility("hidden")]] cuda_on_cpu {

constexpr unsigned kWarpSize = 32;

enum class State : std::uint8_t { kReady, kAtBarrier, kAtWarpCollective, kDone };

struct Thread {
  uint3 index;  // threadIdx
  unsigned linear, lane, warp;
  State state;
  int line;            // source line (PTX: id of the instruction) of the collective it waits at
  std::uint32_t mask;  // member mask of the warp collective it waits at
  std::uint32_t warp_epoch;       // warp collectives passed so far
  std::uint64_t operand;          // what it brings to the warp collective
  const std::uint64_t* operands;  // what the 32 lanes brought
  Fibre* fibre;                   // null until it first runs, and again once it is done
};

struct Warp {
  unsigned waiting;   // lanes at a collective
  unsigned meetings;  // picks the buffer: lanes may still read the last one
  std::uint64_t operands[2][kWarpSize];
};

// Static shared memory. Each declaration gets a slot per block, with redzones between slots.
struct SharedArena {
  static constexpr std::size_t kLimitBytes = 48 << 10;  // CUDA's limit for static shared memory
  static constexpr std::size_t kRedzone = 64;
  alignas(128) unsigned char bytes[kLimitBytes + (16 << 10)];
  std::size_t top = 0, used = 0;
};

struct Block {
  dim3 grid, block;
  uint3 index{};  // blockIdx
  unsigned thread_count = 0, done_count = 0, barrier_waiting = 0;
  unsigned epoch = 0;  // block barriers passed so far
  std::uint64_t serial =
      0;  // differs for every block ever run: says whether a shared slot is this block's
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<unsigned> order;             // linear thread indices in the order in which they run
  std::size_t position = 0, pass_end = 0;  // in `order`, of the pass that runs now
  void (*body)(void*) = nullptr;
  void* body_context = nullptr;
  unsigned char* dynamic_shared = nullptr;
  std::size_t dynamic_shared_bytes = 0;
  Fibre scheduler;
  bool has_failed = false;
  std::string failure;
};

inline Block running;              // the block that runs now
inline Thread* current = nullptr;  // the thread that runs now; null in the scheduler
inline SharedArena shared_arena;

// Reports a bug of the kernel and ends the launch; from a thread it does not return. The launch
// then returns cudaErrorLaunchFailure.
[[noreturn]] inline void fail(const std::string& why);

// ---- static shared memory: one per declaration, see INITSTATS_SHARED
struct SharedSlot {
  std::uint64_t serial = 0;
  void* memory = nullptr;
};

inline void* new_shared_slot(SharedSlot& slot, std::size_t bytes, std::size_t alignment) {
  SharedArena& arena = shared_arena;
  const std::size_t begin =
      (arena.top + SharedArena::kRedzone + alignment - 1) / alignment * alignment;
  arena.used += bytes;
  if (arena.used > SharedArena::kLimitBytes || begin + bytes > sizeof(arena.bytes)) {
    fail("static shared memory over 48 KiB");
  }
  arena.top = begin + bytes;
  slot = {running.serial, &arena.bytes[begin]};
  ASAN_UNPOISON_MEMORY_REGION(slot.memory, bytes);
  __builtin_memset(slot.memory, 0xFF, bytes);  // NaN: reading before writing shows
  return slot.memory;
}

inline void* shared_memory(SharedSlot& slot, std::size_t bytes, std::size_t alignment) {
  return __builtin_expect(slot.serial == running.serial, 1)
             ? slot.memory
             : new_shared_slot(slot, bytes, alignment);
}

inline unsigned char* dynamic_shared_memory() { return running.dynamic_shared; }

}  // namespace cuda_on_cpu
