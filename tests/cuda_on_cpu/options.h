// What a test may choose about an execution: the order in which threads and blocks run.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>

// Hidden visibility: a process may load several libraries that contain the executor (the extension
// and PTX modules); each must keep its own state.
namespace [[gnu::visibility("hidden")]] cuda_on_cpu {

// CUDA promises no order, so a result that depends on it is a bug. Tests run in all three.
enum class Order { kForward, kReverse, kRandom };

struct Options {
  Order order = Order::kForward;
  unsigned seed = 1;  // of Order::kRandom
};

// INITSTATS_CUDA_ON_CPU_ORDER = forward | reverse | random, INITSTATS_CUDA_ON_CPU_SEED = an
// integer.
inline Options options_from_environment() {
  Options options;
  if (const char* order = std::getenv("INITSTATS_CUDA_ON_CPU_ORDER")) {
    if (std::strcmp(order, "reverse") == 0) {
      options.order = Order::kReverse;
    } else if (std::strcmp(order, "random") == 0) {
      options.order = Order::kRandom;
    } else if (std::strcmp(order, "forward") != 0) {
      std::fprintf(stderr,
                   "cuda_on_cpu: expected INITSTATS_CUDA_ON_CPU_ORDER forward, reverse or random, "
                   "got %s\n",
                   order);
      std::abort();
    }
  }
  if (const char* seed = std::getenv("INITSTATS_CUDA_ON_CPU_SEED")) {
    options.seed = static_cast<unsigned>(std::strtoul(seed, nullptr, 10));
  }
  return options;
}

inline Options options = options_from_environment();

}  // namespace cuda_on_cpu
