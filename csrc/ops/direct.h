// What Python calls without torch's dispatcher (ops/direct.cpp) runs: the ops on memory that is
// already checked.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "math/core/items.h"
#include "math/core/scalar.h"
#include "math/stats/moments.h"
#include "ops/checks.h"
#include "ops/layouts.h"

namespace initstats::ops {

struct FillTarget {
  void* data;
  uint64_t key;
  DType dtype;
};

// The tensors of a fill, each with its layout, all on one device.
struct FillTargets {
  void reserve(size_t tensors) {
    items.reserve(tensors);
    layouts.reserve(tensors);
  }
  std::vector<FillTarget> items;
  Layouts layouts;
  int32_t device_index = -1;
};

// A distribution. `run` takes memory of the CPU and `run_on_cuda`, null in a build without CUDA
// kernels, memory of the targets' device, asynchronously on torch's current stream there. Lists of
// parameters hold one number for all targets or one each.
struct DirectFill {
  std::string op;
  size_t parameters;
  using Run = void(const FillTargets& targets, const std::vector<std::vector<double>>& numbers);
  Run *run, *run_on_cuda;
};

// Those of the list of distributions, in its order.
const std::vector<DirectFill>& direct_fills();

struct StatsSource {
  const void* data;
  ItemType type;
};

// Note [Direct records]. The records of a direct call are moments [n, kMomentColumns], counts [n,
// kCountColumns], and the histograms, a row of direct_histogram_bytes for each tensor: of one with
// more than cpu::kFewElements elements the int64 counts [histogram_places(scale)]; of others, whose
// histogram would take longer to clear than all else, the uint16 place of each element, in any
// order, or kNoPlace.

// Takes the records of CPU memory. The histogram begins at a multiple of 8 bytes.
void direct_stats(const std::vector<StatsSource>& sources, Layouts layouts,
                  const StatsGroups& groups, double* moments, int64_t* counts, char* histogram);

#if defined(INITSTATS_WITH_CUDA)
// Takes the records of CUDA memory as the op does and returns what it returns, on the device of
// `like`. Asynchronous.
std::array<Tensor, 3> direct_stats_on_cuda(const std::vector<StatsSource>& sources, Layouts layouts,
                                           const StatsGroups& groups, const Tensor& like);
#endif

// Bytes of the histogram of a tensor of so many elements; 0 without the group.
size_t direct_histogram_bytes(const StatsGroups& groups, int64_t count);

}  // namespace initstats::ops
