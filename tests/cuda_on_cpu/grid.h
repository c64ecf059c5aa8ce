// launch(): checks a launch configuration as CUDA does and runs the grid.
#pragma once

#include <dlfcn.h>
#include <driver_types.h>  // cudaError_t, cudaStream_t

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "executor.h"

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#endif

namespace [[gnu::visibility("hidden")]] cuda_on_cpu {

constexpr unsigned kMaxThreadsPerBlock = 1024;
constexpr std::size_t kMaxSharedBytes = 48 << 10;  // dynamic, unless the kernel opted in to more
constexpr std::size_t kMaxSharedBytesOptedIn = 227
                                               << 10;  // sm_90; 64 KiB on sm_75, 163 KiB on sm_80
constexpr std::size_t kMaxParameterBytes = 32764;      // sm_70 and newer, CUDA 12.1 and newer

// cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) lands here.
inline std::map<const void*, std::size_t> opted_in_shared_bytes;
inline std::mutex launch_mutex;  // the executor's state is global: one OS thread at a time

// Why the last launch that failed did so.
inline const std::string& last_failure() { return running.failure; }

inline void (*on_block_begin)() = nullptr;  // hooks for instrumentation
inline void (*on_block_end)() = nullptr;

struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes;
  void (*body)(void*);
  void* body_context;
  const void* kernel;
};

inline cudaError_t check_configuration(const Launch& launch) {
  const dim3 &grid = launch.grid, &block = launch.block;
  const auto threads = std::uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreadsPerBlock || block.z > 64 || grid.x == 0 ||
      grid.x > 0x7fffffffu || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  const auto opted_in = opted_in_shared_bytes.find(launch.kernel);
  const std::size_t limit = opted_in == opted_in_shared_bytes.end()
                                ? kMaxSharedBytes
                                : std::max(kMaxSharedBytes, opted_in->second);
  return launch.shared_bytes > limit ? cudaErrorInvalidValue : cudaSuccess;
}

// The threads of a block of shape running.block.
inline void make_threads() {
  const dim3& shape = running.block;
  const unsigned count = shape.x * shape.y * shape.z;
  running.thread_count = count;
  running.order.resize(count);
  running.warps.assign((count + kWarpSize - 1) / kWarpSize, Warp{});
  running.threads.assign(count, Thread{});
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = running.threads[i];
    thread.index.x = i % shape.x;
    thread.index.y = i / shape.x % shape.y;
    thread.index.z = i / shape.x / shape.y;
    thread.linear = i;
    thread.lane = i % kWarpSize;
    thread.warp = i / kWarpSize;
  }
}

// ASan must know the stack that the scheduler runs on: the calling OS thread's own.
inline void describe_scheduler_stack() {
#if defined(__SANITIZE_ADDRESS__)
  struct Bounds {
    void* bottom = nullptr;
    std::size_t bytes = 0;
    Bounds() {
      pthread_attr_t attributes;
      pthread_getattr_np(pthread_self(), &attributes);
      pthread_attr_getstack(&attributes, &bottom, &bytes);
      pthread_attr_destroy(&attributes);
    }
  };
  static thread_local const Bounds bounds;
  running.scheduler.stack_bottom = bounds.bottom;
  running.scheduler.stack_bytes = bounds.bytes;
#endif
}

// Sets up what all blocks of a launch have in common.
inline void begin_launch(const Launch& launch) {
  Block& block = running;
  const bool is_same_shape = block.block.x == launch.block.x && block.block.y == launch.block.y &&
                             block.block.z == launch.block.z && !block.has_failed;
  block.grid = launch.grid;
  block.block = launch.block;
  block.body = launch.body;
  block.body_context = launch.body_context;
  block.has_failed = false;
  block.failure.clear();
  if (!is_same_shape || block.threads.empty()) make_threads();
  std::iota(block.order.begin(), block.order.end(), 0u);
  if (options.order == Order::kReverse) std::reverse(block.order.begin(), block.order.end());
  describe_scheduler_stack();
}

// Dynamic shared memory: aligned to 16 bytes and no more, so that an assumption of more shows;
// NaN; redzones.
inline void poison_dynamic_shared(std::size_t bytes) {
  constexpr std::size_t kRedzone = 128;
  static std::vector<unsigned char> buffer;
  ASAN_UNPOISON_MEMORY_REGION(buffer.data(), buffer.size());
  if (buffer.size() < bytes + 4 * kRedzone) buffer.resize(bytes + 4 * kRedzone);
  const auto base = reinterpret_cast<std::uintptr_t>(buffer.data());
  running.dynamic_shared =
      buffer.data() + ((base + kRedzone - 1) / kRedzone * kRedzone - base) + kRedzone + 16;
  running.dynamic_shared_bytes = bytes;
  __builtin_memset(running.dynamic_shared, 0xFF, bytes);
  ASAN_POISON_MEMORY_REGION(buffer.data(), buffer.size());
  ASAN_UNPOISON_MEMORY_REGION(running.dynamic_shared, bytes);
}

inline void begin_block(std::uint64_t linear, const Launch& launch) {
  Block& block = running;
  block.index.x = static_cast<unsigned>(linear % launch.grid.x);
  block.index.y = static_cast<unsigned>(linear / launch.grid.x % launch.grid.y);
  block.index.z = static_cast<unsigned>(linear / launch.grid.x / launch.grid.y);
  block.done_count = block.barrier_waiting = block.epoch = 0;
  ++block.serial;
  shared_arena.top = shared_arena.used = 0;
  ASAN_POISON_MEMORY_REGION(shared_arena.bytes, sizeof(shared_arena.bytes));
  poison_dynamic_shared(launch.shared_bytes);
  for (Thread& thread : block.threads) thread.state = State::kReady;
}

// Writes each kernel that is launched once, by its place in the library, to the file that
// INITSTATS_CUDA_ON_CPU_LAUNCHED names.
inline void note_kernel(const void* kernel) {
  static const char* const path = std::getenv("INITSTATS_CUDA_ON_CPU_LAUNCHED");
  static std::set<const void*> noted;
  if (path == nullptr || !noted.insert(kernel).second) return;
  Dl_info library{};
  std::FILE* const file = std::fopen(path, "a");
  if (file == nullptr || dladdr(kernel, &library) == 0) std::abort();
  std::fprintf(file, "%zx\n",
               static_cast<std::size_t>(static_cast<const char*>(kernel) -
                                        static_cast<const char*>(library.dli_fbase)));
  std::fclose(file);
}

inline cudaError_t run(const Launch& launch) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  note_kernel(launch.kernel);
  if (const cudaError_t error = check_configuration(launch); error != cudaSuccess) return error;
  begin_launch(launch);
  std::mt19937 random(options.seed);
  const std::uint64_t count = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  // Blocks in random order: every step-th one, modulo their number. The step is odd to them, so
  // that none is left out.
  std::uint64_t step = 1, first = 0;
  if (options.order == Order::kRandom) {
    first = random() % count;
    do step = 1 + random() % count;
    while (std::gcd(step, count) != 1);
  }
  for (std::uint64_t i = 0; i < count && !running.has_failed; ++i) {
    const std::uint64_t reverse = count - 1 - i;
    const auto shuffled =
        static_cast<std::uint64_t>((static_cast<unsigned __int128>(i) * step + first) % count);
    begin_block(options.order == Order::kForward   ? i
                : options.order == Order::kReverse ? reverse
                                                   : shuffled,
                launch);
    if (on_block_begin != nullptr) on_block_begin();
    run_block(random);
    if (on_block_end != nullptr) on_block_end();
  }
  if (!running.has_failed) return cudaSuccess;
  fibres.restart_all();
  return cudaErrorLaunchFailure;
}

template <class Body>
void call_body(void* body) {
  (*static_cast<Body*>(body))();
}

// Runs kernel(args...) at once. Arguments are converted as cudaLaunchKernelEx converts them and
// copied per thread.
template <class... P, class... A>
[[nodiscard]] cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block,
                                 std::size_t shared_bytes, A&&... args) {
  static_assert((sizeof(P) + ... + std::size_t{0}) <= kMaxParameterBytes,
                "kernel parameters over 32764 bytes");
  auto body = [&] { kernel(static_cast<P>(args)...); };
  return run({grid, block, shared_bytes, &call_body<decltype(body)>, &body,
              reinterpret_cast<const void*>(kernel)});
}

}  // namespace cuda_on_cpu
