// The CUDA kernels of orthogonal matrices, executed, against the CPU kernels: equal bits, and
// nothing written outside of the arrays (guard bytes; ASan sees the rest).
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/orthogonal/orthogonal.h"
#include "cuda/orthogonal/orthogonal.h"

namespace {

using namespace initstats;

int failures = 0;

void check(bool right, const char* what, int64_t a, int64_t b, int64_t c) {
  if (right) return;
  std::printf("%s %d %d %d: WRONG\n", what, static_cast<int>(a), static_cast<int>(b),
              static_cast<int>(c));
  ++failures;
}

// An array with guards at both ends, all bytes 0xA5. The data is aligned to 16 bytes.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t n) : bytes_(static_cast<size_t>(n) * sizeof(T) + 2 * kGuard, 0xA5) {}
  T* data() { return reinterpret_cast<T*>(bytes_.data() + kGuard); }
  bool operator==(const Guarded& other) const { return bytes_ == other.bytes_; }

 private:
  static constexpr size_t kGuard = 64;
  std::vector<unsigned char> bytes_;
};

template <class Real>
void compare_reflectors(void (*kernel)(const cpu::ReflectorRange<Real>&)) {
  const struct {
    int64_t m, first, rows;
  } cases[] = {{1, 0, 1},       {4, 0, 4},       {5, 0, 5},    {5, 4, 1},
               {66, 0, 66},     {67, 32, 7},     {1000, 8, 3}, {1030, 1024, 6},
               {4099, 1028, 2}, {2048, 2044, 4}, {9, 4, 0}};
  for (const auto& c : cases) {
    for (const int64_t stream_row : {int64_t{0}, (int64_t{1} << 33) + 1}) {
      const int64_t pitch = reflector_pitch(c.m - c.first) + 4;
      constexpr int64_t kMatrices = 2;
      const int64_t guarded = c.rows > 0 ? kMatrices * c.rows : 1;
      Guarded<Real> vectors(guarded * pitch), expected(guarded * pitch);
      Guarded<double> squares(guarded), expected_squares(guarded);
      Guarded<Real> diagonal(guarded), expected_diagonal(guarded);
      cuda::ReflectorTask<Real> task{
          vectors.data(),   squares.data(), diagonal.data(), pitch, c.first, c.m,
          c.first + c.rows, c.rows,         kMatrices,       {},    {}};
      for (int64_t b = 0; b < kMatrices; ++b) {
        task.key[b] = static_cast<uint64_t>(99 + b);
        task.stream_row[b] = stream_row + 5 * b;
      }
      check(cuda::launch_reflectors(task, nullptr) == cudaSuccess, "launch", c.m, c.first, c.rows);
      for (int64_t b = 0; b < kMatrices; ++b) {
        kernel({expected.data() + b * c.rows * pitch, expected_squares.data() + b * c.rows,
                expected_diagonal.data() + b * c.rows, pitch, static_cast<uint64_t>(99 + b),
                stream_row + 5 * b, c.first, c.m, 0, c.rows});
      }
      check(vectors == expected, "vectors", c.m, c.first, c.rows);
      check(squares == expected_squares, "squares", c.m, c.first, c.rows);
      check(diagonal == expected_diagonal, "diagonal", c.m, c.first, c.rows);
    }
  }
}

template <class Real>
void compare_factors(void (*kernel)(const cpu::FactorRange<Real>&)) {
  for (const int64_t k : {1, 2, 7, 31, 32, 33, 64, 100, 128, 129, 261}) {
    constexpr int64_t kPanels = 2;
    std::vector<Real> gram(static_cast<size_t>(kPanels * k * k));
    std::vector<double> squares(static_cast<size_t>(kPanels * k));
    uint32_t state = 1;
    const auto next = [&] {
      state = state * 1664525u + 1013904223u;
      return static_cast<double>(state >> 8) / (1 << 24) - 0.5;
    };
    for (Real& x : gram) x = static_cast<Real>(next());
    for (double& x : squares) x = 4 + next();
    Guarded<Real> factors(kPanels * k * k), expected(kPanels * k * k);
    check(cuda::launch_panel_factors(gram.data(), squares.data(), factors.data(), kPanels, k,
                                     nullptr) == cudaSuccess,
          "launch", k, 0, 0);
    for (int64_t panel = 0; panel < kPanels; ++panel) {
      // In two parts, of which one begins off a group of rows.
      const int64_t cut = k / 2;
      for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, k}}) {
        kernel({gram.data() + panel * k * k, squares.data() + panel * k,
                expected.data() + panel * k * k, k, begin, end});
      }
    }
    check(factors == expected, "factors", k, 0, 0);
  }
}

struct Small {
  DType dtype;
  int64_t count, m, n, batch_stride, row_stride, column_stride;
};

void compare_small(const std::vector<Small>& cases) {
  std::vector<Guarded<double>> memory, expected;  // room for any type
  std::vector<cuda::SmallTask> tasks;
  const auto room = [](const Small& s) { return s.count * s.batch_stride + s.m * s.n * 2; };
  for (const Small& s : cases) memory.emplace_back(room(s)), expected.emplace_back(room(s));
  for (size_t i = 0; i < cases.size(); ++i) {
    const Small& s = cases[i];
    tasks.push_back({memory[i].data(), s.dtype, s.count, s.batch_stride, s.row_stride,
                     s.column_stride, 7 + i, 1.5, static_cast<int32_t>(s.m),
                     static_cast<int32_t>(s.n), 0});
    for (int64_t b = 0; b < s.count; ++b) {
      char* const data =
          reinterpret_cast<char*>(expected[i].data()) + b * s.batch_stride * item_bytes(s.dtype);
      if (s.dtype == DType::float64) {
        cpu::baseline::small_orthogonal_kernels.matrix_float64(
            {data, s.dtype, s.m, s.n, s.row_stride, s.column_stride, 7 + i, b * s.n, 1.5});
      } else {
        cpu::baseline::small_orthogonal_kernels.matrix(
            {data, s.dtype, s.m, s.n, s.row_stride, s.column_stride, 7 + i, b * s.n, 1.5f});
      }
    }
  }
  check(cuda::launch_small_orthogonal(tasks.data(), static_cast<int64_t>(tasks.size()), nullptr) ==
            cudaSuccess,
        "launch", 0, 0, 0);
  for (size_t i = 0; i < cases.size(); ++i)
    check(memory[i] == expected[i], "small", static_cast<int64_t>(cases[i].dtype), cases[i].m,
          cases[i].n);
}

}  // namespace

int main() {
  const cpu::OrthogonalKernels& k = cpu::baseline::orthogonal_kernels;
  compare_reflectors<float>(k.reflectors);
  compare_reflectors<double>(k.reflectors_float64);
  compare_factors<float>(k.factors);
  compare_factors<double>(k.factors_float64);
  std::vector<Small> cases;
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16, DType::float64}) {
    for (const auto& [m, n] :
         {std::pair{1, 1}, {2, 1}, {5, 5}, {33, 7}, {64, 33}, {64, 64}, {128, 97}}) {
      cases.push_back({dtype, 2, m, n, m * n, n, 1});          // contiguous
      cases.push_back({dtype, 1, m, n, 0, 1, m});              // wide in memory
      cases.push_back({dtype, 3, m, n, 2 * m * n, 2 * n, 2});  // with gaps
    }
    cases.push_back({dtype, 0, 4, 4, 16, 4, 1});
    cases.push_back({dtype, 1, 128, 128, 0, 128, 1});
  }
  for (int i = 0; i < 101; ++i)
    cases.push_back({DType::float32, 1, 3, 2, 6, 2, 1});  // two launches
  compare_small(cases);
  std::printf(failures == 0 ? "all right\n" : "%d wrong\n", failures);
  return failures == 0 ? 0 : 1;
}
