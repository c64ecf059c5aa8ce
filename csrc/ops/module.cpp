// The pybind11 module initstats._C: loading it registers the ops; its functions are host-only facts
// that Python shares.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <string>
#include <vector>

#include "cpu/simd/dispatch.h"
#include "math/core/bounds.h"
#include "math/random/philox.h"
#include "ops/checks.h"
#include "ops/python_methods.h"

namespace {

std::map<std::string, std::string> build_info() {
  return {
      {"torch_abi_target", "2.10"},
      {"compiler", __VERSION__},
#if defined(INITSTATS_WITH_CUDA)
      {"cuda_archs", INITSTATS_CUDA_ARCHS},
#else
      {"cuda_archs", ""},
#endif
#if defined(INITSTATS_CUDA_ON_CPU)
      {"backend", "CUDA kernels executed on the CPU"},
#else
      {"backend", "native"},
#endif
#if defined(INITSTATS_BASELINE_ONLY)
      {"cpu_capabilities", "baseline"},
#else
      {"cpu_capabilities", "baseline avx2 avx512"},
#endif
      {"cpu_capability", initstats::cpu::capability_name(initstats::cpu::chosen_capability())},
      {"cpu_capability_reason", initstats::cpu::capability_reason()},
      {"cpu_vectors", initstats::cpu::capability_vectors(initstats::cpu::chosen_capability())},
  };
}

initstats::DType dtype_named(const std::string& name) {
  if (name == "float16") return initstats::DType::float16;
  if (name == "bfloat16") return initstats::DType::bfloat16;
  if (name == "float64") return initstats::DType::float64;
  return initstats::DType::float32;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() =
      "Native half of initstats: registers torch.ops.initstats.* and offers host-only functions.";
  m.def("build_info", &build_info, "What was built and which CPU capability was chosen, and why.");
  m.def(
      "smallest_at_least",
      [](const std::string& dtype, double x) {
        return initstats::smallest_at_least(dtype_named(dtype), x);
      },
      "The smallest value of the dtype that is >= x.");
  m.def(
      "largest_below",
      [](const std::string& dtype, double x) {
        return initstats::largest_below(dtype_named(dtype), x);
      },
      "The largest value of the dtype that is < x.");
  m.def(
      "check_memory",
      [](const std::string& op, const std::vector<int64_t>& sizes,
         const std::vector<int64_t>& strides, int64_t storage_bytes, int64_t item_bytes,
         int64_t offset) {
        using namespace initstats::ops;
        const auto dims = static_cast<int64_t>(sizes.size());
        check_storage(op, storage_bytes, item_bytes, offset, dims, sizes.data(), strides.data());
        check_no_overlap(op, layout_of(op, dims, sizes.data(), strides.data(), nullptr, nullptr));
      },
      "Raises RuntimeError unless a fill can write a tensor of these sizes and strides in a "
      "storage "
      "of so many bytes.");
  m.def(
      "check_storage",
      [](const std::string& op, const std::vector<int64_t>& sizes,
         const std::vector<int64_t>& strides, int64_t storage_bytes, int64_t item_bytes,
         int64_t offset) {
        initstats::ops::check_storage(op, storage_bytes, item_bytes, offset,
                                      static_cast<int64_t>(sizes.size()), sizes.data(),
                                      strides.data());
      },
      "Raises RuntimeError unless a storage of so many bytes holds such a tensor.");
  m.def(
      "philox4x32_10",
      [](uint64_t key, uint64_t counter, uint32_t word2, uint32_t word3) {
        const auto words =
            initstats::philox4x32_10<initstats::Scalar32>(key, counter, word2, word3);
        return std::array<uint32_t, 4>{words.v[0], words.v[1], words.v[2], words.v[3]};
      },
      "The four words of Philox4x32-10 for the counter (lo counter, hi counter, word2, word3).");
  if (PyModule_AddFunctions(m.ptr(), initstats::ops::python_methods()) != 0)
    throw pybind11::error_already_set();
  initstats::cpu::chosen_capability();  // an unknown INITSTATS_CPU_CAPABILITY is an ImportError
                                        // here, not later
}
