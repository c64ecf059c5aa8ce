// Prints the bits that the CPU kernels make, for another processor to be compared with this one:
// `fill NAME DTYPE COUNT KEY NUMBER...`, `stats DTYPE COUNT KEY`, `orthogonal DTYPE SIDE KEY`.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/orthogonal/orthogonal.h"
#include "cpu/random/fill.h"
#include "cpu/stats/stats.h"
#include "math/random/distributions.h"
#include "math/stats/buckets.h"

namespace {

using namespace initstats;

struct Type {
  const char* name;
  DType dtype;
  ItemType item;
  size_t bytes;
};
constexpr Type kTypes[] = {{"float16", DType::float16, ItemType::float16, 2},
                           {"bfloat16", DType::bfloat16, ItemType::bfloat16, 2},
                           {"float32", DType::float32, ItemType::float32, 4},
                           {"float64", DType::float64, ItemType::float64, 8}};

const Type& type_of(const char* name) {
  for (const Type& type : kTypes) {
    if (strcmp(type.name, name) == 0) return type;
  }
  abort();
}

Layout contiguous(int64_t count) {
  Layout layout = {};
  layout.count = count;
  layout.dims = 1;
  layout.size[0] = count;
  layout.stride[0] = layout.logical[0] = 1;
  return layout;
}

template <class Dist, size_t... I>
Dist made(DType dtype, const double* numbers, std::index_sequence<I...>) {
  return Dist::make(dtype, numbers[I]...);
}

template <class Dist>
void fill(cpu::FillKernel<Dist> kernel, const cpu::FillRange& range, const double* numbers) {
  constexpr auto n = static_cast<size_t>(parameters_of_make<Dist>(0));
  kernel(made<Dist>(range.dtype, numbers, std::make_index_sequence<n>()), range);
}

std::vector<char> filled(const std::string& name, const Type& type, int64_t count, uint64_t key,
                         const double* numbers) {
  std::vector<char> data(static_cast<size_t>(count) * type.bytes);
  const Layout layout = contiguous(count);
  const cpu::FillRange range{data.data(), type.dtype, &layout, key, 0, count};
  const auto& kernels = INITSTATS_CHOOSE(fill_kernels);
#define INITSTATS_FILL(op, Dist, ...)                           \
  if (name == #op) {                                            \
    if (type.dtype == DType::float64)                           \
      fill<Dist<double>>(kernels.op##_float64, range, numbers); \
    else                                                        \
      fill<Dist<float>>(kernels.op, range, numbers);            \
  }
  INITSTATS_DISTRIBUTIONS(INITSTATS_FILL)
#undef INITSTATS_FILL
  return data;
}

void print(const void* data, size_t bytes) { fwrite(data, 1, bytes, stdout); }

void print_stats(const Type& type, int64_t count, uint64_t key) {
  const double numbers[] = {0.1, 0.02};
  const std::vector<char> data = filled("normal", type, count, key, numbers);
  const Layout layout = contiguous(count);
  for (int scale = 0; scale <= kMaxScale; ++scale) {
    std::vector<int64_t> histogram(static_cast<size_t>(histogram_places(scale)));
    const int64_t tiles = (count + kTile - 1) / kTile;
    for (int64_t begin = 0; begin < tiles; begin += cpu::kTilesPerCall) {
      const int64_t end = std::min(begin + cpu::kTilesPerCall, tiles);
      const cpu::StatsRange range{data.data(), type.item, &layout, begin, end};
      cpu::StatsPartial partial;
      memset(&partial, 0, sizeof(partial));
      const bool first = scale == 0;
      cpu::chosen_stats_kernels().range(range, StatsGroups{true, true, first, scale}, &partial,
                                        histogram.data());
      print(&partial.record, sizeof(partial.record));
      if (first) print(&partial.fingerprint, sizeof(partial.fingerprint));
    }
    print(histogram.data(), histogram.size() * sizeof(int64_t));
  }
}

template <class Real>
void print_orthogonal(void (*kernel)(const cpu::SmallMatrix<Real>&), const Type& type, int64_t side,
                      uint64_t key) {
  std::vector<char> data(static_cast<size_t>(side * side) * type.bytes);
  kernel({data.data(), type.dtype, side, side, side, 1, key, 0, Real(1)});
  print(data.data(), data.size());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argv[1];
  const int at = what == "fill" ? 3 : 2;
  const Type& type = type_of(argv[at]);
  const int64_t count = atoll(argv[at + 1]);
  const uint64_t key = strtoull(argv[at + 2], nullptr, 16);
  if (what == "fill") {
    std::vector<double> numbers;
    for (int i = at + 3; i < argc; ++i) numbers.push_back(strtod(argv[i], nullptr));
    const std::vector<char> data = filled(argv[2], type, count, key, numbers.data());
    print(data.data(), data.size());
  } else if (what == "stats") {
    print_stats(type, count, key);
  } else if (type.dtype == DType::float64) {
    print_orthogonal(INITSTATS_CHOOSE(small_orthogonal_kernels).matrix_float64, type, count, key);
  } else {
    print_orthogonal(INITSTATS_CHOOSE(small_orthogonal_kernels).matrix, type, count, key);
  }
}
