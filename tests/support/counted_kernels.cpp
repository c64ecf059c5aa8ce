// Runs each kernel once, for its instructions to be counted: by callgrind, which writes a file per
// kernel, or else step by step, which prints them, or by qemu, for aarch64. An argument names the
// only kernel to count. INITSTATS_CPU_CAPABILITY chooses the kernels.
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/orthogonal/orthogonal.h"
#include "cpu/random/fill.h"
#include "cpu/stats/stats.h"
#include "math/random/distributions.h"
#include "math/stats/buckets.h"
#include "step_counter.h"
#if defined(__x86_64__)
#include "valgrind/callgrind.h"
#else
#define RUNNING_ON_VALGRIND 0
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(name)
#endif

namespace {

using namespace initstats;

constexpr int64_t kElements = 4096, kSide = 32;
const char* only = nullptr;

template <class Body>
void count(const char* name, Body body) {
  if (only && strcmp(only, name) != 0) return;
  body();  // whatever happens once
  if (RUNNING_ON_VALGRIND) {
    CALLGRIND_ZERO_STATS;
    body();
    CALLGRIND_DUMP_STATS_AT(name);
  } else {
    start_counting();
    body();
    printf("%s: %lu\n", name, stop_counting());
  }
}

void count_fills(DType dtype, const char* const names[3]) {
  const auto& kernels = INITSTATS_CHOOSE(fill_kernels);
  std::vector<float> data(kElements);
  Layout layout = {};
  layout.count = kElements;
  layout.dims = 1;
  layout.size[0] = kElements;
  layout.stride[0] = layout.logical[0] = 1;
  const cpu::FillRange range{data.data(), dtype, &layout, 1, 0, kElements};
  const auto uniform = Uniform<float>::make(dtype, 0.0, 1.0);
  const auto normal = Normal<float>::make(dtype, 0.0, 1.0);
  const auto trunc_normal = TruncNormal<float>::make(dtype, 0.0, 1.0, -2.0, 2.0);
  count(names[0], [&] { kernels.uniform(uniform, range); });
  count(names[1], [&] { kernels.normal(normal, range); });
  count(names[2], [&] { kernels.trunc_normal(trunc_normal, range); });
}

void count_stats() {
  std::vector<float> data(kElements);
  Layout layout = {};
  layout.count = kElements;
  layout.dims = 1;
  layout.size[0] = kElements;
  layout.stride[0] = layout.logical[0] = 1;
  const cpu::FillRange fill{data.data(), DType::float32, &layout, 1, 0, kElements};
  INITSTATS_CHOOSE(fill_kernels).normal(Normal<float>::make(DType::float32, 0.0, 1.0), fill);
  const auto& kernels = cpu::chosen_stats_kernels();
  const cpu::StatsRange range{data.data(), ItemType::float32, &layout, 0, kElements / kTile};
  std::vector<int64_t> histogram(static_cast<size_t>(histogram_places(0)));
  cpu::StatsPartial partial;
  const auto groups = [&](bool with_histogram, bool with_fingerprint) {
    kernels.range(range, StatsGroups{true, with_histogram, with_fingerprint, 0}, &partial,
                  with_histogram ? histogram.data() : nullptr);
  };
  count("stats moments", [&] { groups(false, false); });
  count("stats moments + histogram", [&] { groups(true, false); });
  count("stats all groups", [&] { groups(true, true); });
}

void count_orthogonal() {
  const auto& kernels = INITSTATS_CHOOSE(small_orthogonal_kernels);
  std::vector<float> data(kSide * kSide);
  const cpu::SmallMatrix<float> matrix{data.data(), DType::float32, kSide, kSide, kSide, 1, 1, 0,
                                       1.0F};
  count("orthogonal_ 32x32", [&] { kernels.matrix(matrix); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) only = argv[1];
  const char* const float32[] = {"uniform_ float32", "normal_ float32", "trunc_normal_ float32"};
  const char* const bfloat16[] = {"uniform_ bfloat16", "normal_ bfloat16",
                                  "trunc_normal_ bfloat16"};
  count_fills(DType::float32, float32);
  count_fills(DType::bfloat16, bfloat16);
  count_stats();
  count_orthogonal();
}
