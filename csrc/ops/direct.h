// What Python calls without torch's dispatcher (ops/direct.cpp) runs on the CPU: the ops on memory
// that is already checked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "math/core/items.h"
#include "math/core/layout.h"
#include "math/core/scalar.h"
#include "math/stats/moments.h"

namespace initstats::ops {

struct FillTarget {
  void* data;
  DType dtype;
  Layout layout;
  uint64_t key;
};

// A distribution on CPU memory. Lists of parameters hold one number for all targets or one each.
struct DirectFill {
  std::string op;
  size_t parameters;
  void (*run)(const std::vector<FillTarget>& targets,
              const std::vector<std::vector<double>>& numbers);
};

// Those of the list of distributions, in its order.
const std::vector<DirectFill>& direct_fills();

struct StatsSource {
  const void* data;
  ItemType type;
  Layout layout;
};

// Records of CPU memory: moments [n, kMomentColumns], counts [n, kCountColumns], histogram [n,
// histogram_places(scale)], of zeros, or null without that group.
void direct_stats(const std::vector<StatsSource>& sources, const StatsGroups& groups,
                  double* moments, int64_t* counts, int64_t* histogram);

}  // namespace initstats::ops
