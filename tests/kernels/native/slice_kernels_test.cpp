// The CUDA kernels of slice statistics on the source executor against the CPU kernels: every bit of
// every row.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "cpu/stats/slice_stats.h"
#include "cuda/stats/slice_stats.h"

namespace {

using namespace initstats;

Layout line(int64_t count, int64_t stride) {
  Layout layout{};
  layout.count = layout.size[0] = count;
  layout.dims = 1;
  layout.stride[0] = stride;
  layout.logical[0] = 1;
  return layout;
}

Layout grid(int64_t rows, int64_t row_stride, int64_t columns, int64_t column_stride) {
  Layout layout{};
  layout.count = rows * columns;
  layout.dims = 2;
  layout.size[0] = rows;
  layout.stride[0] = row_stride;
  layout.logical[0] = columns;
  layout.size[1] = columns;
  layout.stride[1] = column_stride;
  layout.logical[1] = 1;
  return layout;
}

struct Rows {
  std::vector<double> moments;
  std::vector<int64_t> counts;
  explicit Rows(int64_t slices)
      : moments(static_cast<size_t>(slices * kMomentColumns), -7),
        counts(static_cast<size_t>(slices * kCountColumns), -7) {}
};

Rows on_cpu(const void* data, ItemType type, const Layout& slices, const Layout& elements) {
  Rows rows(slices.count);
  const int64_t groups = groups_of(elements.count);
  std::vector<Record> records(static_cast<size_t>(slices.count * groups));
  cpu::baseline::slice_kernels.range({data, type, &slices, &elements, 0, slices.count, 0, groups},
                                     records.data(), slices.count);
  for (int64_t s = 0; s < slices.count; ++s) {
    Record total = empty_record();
    for (int64_t g = 0; g < groups; ++g) {
      const Record& next = records[static_cast<size_t>(g * slices.count + s)];
      total = g == 0 ? next : merge(total, next);
    }
    write_record(total, elements.count, 0, &rows.moments[static_cast<size_t>(s * kMomentColumns)],
                 &rows.counts[static_cast<size_t>(s * kCountColumns)]);
  }
  return rows;
}

Rows on_cuda(const void* data, ItemType type, const Layout& slices, const Layout& elements) {
  Rows rows(slices.count);
  const cuda::SliceTarget target{
      data, type, slices, elements, rows.moments.data(), rows.counts.data()};
  const size_t bytes = static_cast<size_t>(cuda::slice_stats_workspace_bytes(target));
  const std::unique_ptr<char[]> workspace(new char[bytes]);
  memset(workspace.get(), 0xFF, bytes);
  if (cuda::launch_slice_stats(target, workspace.get(), nullptr) != cudaSuccess) exit(1);
  return rows;
}

int wrong = 0;

// `items` of memory; the layouts reach exactly to its end, so that the sanitizer sees a step too
// far.
void compare(const char* name, ItemType type, int64_t items, const Layout& slices,
             const Layout& elements, const std::function<double(int64_t)>& value) {
  const std::unique_ptr<char[]> memory(new char[static_cast<size_t>(items * item_size(type))]);
  for (int64_t i = 0; i < items; ++i) {
    const double v = value(i);
    const float narrow = static_cast<float>(v);
    char* const at = memory.get() + i * item_size(type);
    const int64_t whole = std::isfinite(v) ? static_cast<int64_t>(v * 20) : 0;
    const uint16_t half = type == ItemType::float16 ? to_float16(narrow) : to_bfloat16(narrow);
    if (type == ItemType::float32) {
      memcpy(at, &narrow, 4);
    } else if (type == ItemType::float64) {
      memcpy(at, &v, 8);
    } else if (type == ItemType::float16 || type == ItemType::bfloat16) {
      memcpy(at, &half, 2);
    } else {
      memcpy(at, &whole, static_cast<size_t>(item_size(type)));
    }
  }
  const Rows cpu = on_cpu(memory.get(), type, slices, elements),
             cuda = on_cuda(memory.get(), type, slices, elements);
  if (memcmp(cpu.moments.data(), cuda.moments.data(), cpu.moments.size() * 8) != 0 ||
      cpu.counts != cuda.counts) {
    std::printf("DIFFERENT: %s\n", name);
    ++wrong;
  }
}

}  // namespace

int main() {
  std::mt19937_64 generator(3);
  std::normal_distribution<double> normal;
  const auto plain = [&](int64_t) { return 3 * normal(generator); };
  const auto special = [&](int64_t i) {
    return i % 97 == 0    ? NAN
           : i % 101 == 0 ? INFINITY
           : i % 103 == 0 ? -INFINITY
           : i % 3 == 0   ? 0.0
                          : normal(generator);
  };
  const auto rectified = [&](int64_t) { return std::fmax(0.0, normal(generator)); };
  const auto huge = [&](int64_t) { return 5e37 * normal(generator); };
  const auto denormal = [&](int64_t) { return 1e-41 * normal(generator); };
  const auto nothing = [](int64_t) { return NAN; };

  for (const ItemType type : {ItemType::float32, ItemType::float16, ItemType::bfloat16,
                              ItemType::float64, ItemType::int8, ItemType::int64}) {
    compare("columns", type, 300 * 37, line(37, 1), line(300, 37), plain);
    compare("rows", type, 37 * 130, line(37, 130), line(130, 1), plain);
    compare("channels", type, 3 * 35 * 20, line(35, 20), grid(3, 35 * 20, 20, 1), special);
  }
  for (const int64_t n : {1, 63, 64, 65, 255, 256, 257})
    compare("lengths", ItemType::float32, n * 5, line(5, 1), line(n, 5), special);
  for (const int64_t slices : {1, 15, 16, 17, 31, 32, 33, 129})
    compare("widths", ItemType::float32, slices * 70, line(slices, 1), line(70, slices), plain);
  compare("rectified", ItemType::float32, 64 * 100, line(64, 1), line(100, 64), rectified);
  compare("huge", ItemType::float32, 64 * 100, line(64, 1), line(100, 64), huge);
  compare("denormal", ItemType::float32, 64 * 100, line(64, 1), line(100, 64), denormal);
  compare("nothing finite", ItemType::float32, 64 * 70, line(64, 1), line(70, 64), nothing);
  compare("no elements", ItemType::float32, 1, line(5, 1), line(0, 5), plain);
  if (wrong == 0) std::printf("all right\n");
  return wrong;
}
