// The CUDA fill kernels, executed, against the CPU kernels: equal bits for every distribution,
// storage type, size and layout, and nothing written outside of the tensor (guard bytes; ASan sees
// the rest). What is compared: fill_kernels_test NAME NUMBERS..., the parameters of a distribution.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "cpu/random/fill.h"
#include "cuda/random/fill.h"
#include "math/random/distributions.h"

namespace {

using namespace initstats;

constexpr int64_t kGuard = 64;
constexpr unsigned char kUntouched = 0xA5;
int failures = 0;

template <class Dist>
using CpuKernel = void (*)(const Dist&, const cpu::FillRange&);

Layout one_run(int64_t n, int64_t first) {
  Layout layout{};
  layout.count = n;
  layout.first_index = first;
  layout.dims = 1;
  layout.size[0] = n;
  layout.stride[0] = layout.logical[0] = 1;
  return layout;
}

// rows x columns with the given memory strides, at (3, 5) of a logical matrix with `width` columns.
Layout block(int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
             int64_t width) {
  Layout layout{};
  layout.count = rows * columns;
  layout.first_index = 3 * width + 5;
  layout.dims = 2;
  layout.size[0] = rows;
  layout.size[1] = columns;
  layout.stride[0] = row_stride;
  layout.stride[1] = column_stride;
  layout.logical[0] = width;
  layout.logical[1] = 1;
  return layout;
}

int64_t reach(const Layout& layout) {
  int64_t last = 0;
  for (int d = 0; d < layout.dims; ++d) last += (layout.size[d] - 1) * layout.stride[d];
  return layout.count == 0 ? 0 : last + 1;
}

template <class Dist>
void compare(const char* name, const Dist& dist, CpuKernel<Dist> kernel, DType dtype,
             const std::vector<Layout>& layouts, int64_t shift) {
  std::vector<std::vector<unsigned char>> memory;
  std::vector<cuda::FillTarget<Dist>> targets;
  for (size_t i = 0; i < layouts.size(); ++i) {
    const int64_t bytes = (reach(layouts[i]) + shift) * item_bytes(dtype) + 2 * kGuard;
    memory.emplace_back(static_cast<size_t>(bytes), kUntouched);
    targets.push_back({memory.back().data() + kGuard + shift * item_bytes(dtype), dtype, layouts[i],
                       77 + i, dist});
  }
  if (cuda::launch_fill(targets.data(), static_cast<int64_t>(targets.size()), nullptr) !=
      cudaSuccess) {
    std::printf("%s: launch failed\n", name);
    ++failures;
  }
  for (size_t i = 0; i < layouts.size(); ++i) {
    std::vector<unsigned char> expected(memory[i].size(), kUntouched);
    void* const data = expected.data() + kGuard + shift * item_bytes(dtype);
    kernel(dist, cpu::FillRange{data, dtype, &layouts[i], 77 + i, 0, layouts[i].count});
    if (memory[i] != expected) {
      std::printf("%s dtype %d shift %d layout %d: WRONG\n", name, static_cast<int>(dtype),
                  static_cast<int>(shift), static_cast<int>(i));
      ++failures;
    }
  }
}

template <class Dist, size_t... J>
Dist make(DType dtype, char** numbers, std::index_sequence<J...>) {
  return Dist::make(dtype, std::atof(numbers[J])...);
}

template <template <class> class Dist, size_t kCount>
void compare_all(const char* name, CpuKernel<Dist<float>> narrow, CpuKernel<Dist<double>> wide,
                 char** numbers) {
  constexpr std::make_index_sequence<kCount> kOrder;
  std::vector<Layout> layouts;
  for (const int64_t n : {0, 1, 3, 4, 5, 8, 31, 1023, 4097}) {
    constexpr int64_t kQuads32 = int64_t{1} << 34;  // the first element whose quad takes 33 bits
    for (const int64_t first : {int64_t{0}, int64_t{4}, int64_t{7}, kQuads32 - 6, kQuads32 - 256}) {
      layouts.push_back(one_run(n, first));
    }
  }
  layouts.push_back(block(7, 33, 40, 1, 100));  // columns of a matrix
  layouts.push_back(block(9, 13, 1, 9, 64));    // transposed
  layouts.push_back(block(5, 6, 100, 3, 6));    // whole rows, strided memory
  layouts.push_back(block(300, 1, 2, 1, 31));   // one column
  layouts.back().dims = 1;                      // its innermost dimension is not in logical order
  for (const int64_t shift : {0, 1, 4}) {
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      compare<Dist<float>>(name, make<Dist<float>>(dtype, numbers, kOrder), narrow, dtype, layouts,
                           shift);
    }
    compare<Dist<double>>(name, make<Dist<double>>(DType::float64, numbers, kOrder), wide,
                          DType::float64, layouts, shift);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const cpu::FillKernels& k = cpu::baseline::fill_kernels;
  const std::string wanted = argc > 1 ? argv[1] : "";
  bool known = false;
#define INITSTATS_COMPARE(name, Dist, ...)                                                 \
  if (wanted == #name && argc == 2 + count_of({__VA_ARGS__})) {                            \
    compare_all<Dist, count_of({__VA_ARGS__})>(#name, k.name, k.name##_float64, argv + 2); \
    known = true;                                                                          \
  }
  INITSTATS_DISTRIBUTIONS(INITSTATS_COMPARE);
  std::printf(known && failures == 0 ? "all right\n" : "%d wrong\n", failures);
  return known && failures == 0 ? 0 : 1;
}
