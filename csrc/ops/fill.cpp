// Fills: every distribution of Note [Distributions] on lists of tensors. Checks once, then the CPU
// or the CUDA path. Values of parameters are checked in initstats/init/_distributions.py; here
// stands what memory safety needs.
#include "cpu/random/fill.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <utility>

#include "math/random/distributions.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"
#include "ops/direct.h"
#include "ops/register.h"
#if defined(INITSTATS_WITH_CUDA)
#include "cuda/random/fill.h"
#endif

namespace initstats::ops {

namespace {

using Numbers = std::vector<double>;
using Integers = std::vector<int64_t>;

// Elements per task below which another thread does not pay.
constexpr int64_t kGrain = 65536;

// Checks everything before anything is written.
FillTargets targets_of(const std::string& op, const std::vector<Tensor>& tensors,
                       const Integers& keys, const Integers& box) {
  if (keys.size() != tensors.size()) {
    fail(op, "one key per tensor, " + std::to_string(tensors.size()), std::to_string(keys.size()));
  }
  check_one_device(op, tensors);
  const Boxes boxes(op, tensors, box);
  FillTargets targets;
  if (!tensors.empty()) targets.device_index = tensors[0].get_device_index();
  targets.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::optional<DType> dtype = fill_dtype(tensors[i].scalar_type());
    if (!dtype) fail(op, "dtype float16, bfloat16, float32 or float64", "another dtype");
    const Layout layout = boxes.layout(i);
    check_no_overlap(op, layout);
    targets.items.push_back({nullptr, static_cast<uint64_t>(keys[i]), *dtype});
    targets.layouts.add(layout);
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (targets.layouts.count(i) > 0) targets.items[i].data = tensors[i].mutable_data_ptr();
  }
  return targets;
}

// A list of parameters that holds one number for all tensors or one per tensor.
struct PerTensor {
  PerTensor(const std::string& op, const char* name, const Numbers& list, size_t tensors)
      : numbers(list) {
    if (list.size() != 1 && list.size() != tensors) {
      fail(op,
           std::string("one ") + name + " for all tensors or one per tensor, " +
               std::to_string(tensors),
           std::to_string(list.size()));
    }
  }
  double operator[](size_t i) const { return numbers.size() == 1 ? numbers[0] : numbers[i]; }

  const Numbers& numbers;
};

// What the list of distributions says of each: NAME_entry.
#define INITSTATS_ENTRY(name, D, ...)                                                  \
  struct name##_entry {                                                                \
    template <class Real>                                                              \
    using Dist = D<Real>;                                                              \
    static constexpr const char* kOp = #name "_";                                      \
    static constexpr const char* kParameters[] = {__VA_ARGS__};                        \
    static auto kernel(const cpu::FillKernels& k, float) { return k.name; }            \
    static auto kernel(const cpu::FillKernels& k, double) { return k.name##_float64; } \
  };
INITSTATS_DISTRIBUTIONS(INITSTATS_ENTRY)
#undef INITSTATS_ENTRY

// What `make` made of the latest parameters: that of a truncated normal takes longer than a small
// fill. One per thread; a place is taken by its latest parameters.
template <class Dist, size_t kParameters>
class Prepared {
 public:
  template <class Make>
  const Dist& operator()(DType dtype, const std::array<double, kParameters>& numbers,
                         const Make& make) {
    uint64_t hash = static_cast<uint64_t>(dtype) + 1;
    for (const double number : numbers)
      hash = (hash ^ bit_cast<uint64_t>(number)) * 0x9E3779B97F4A7C15;
    Entry& entry = entries_[hash >> (64 - kBits)];
    // By bits: 0 is not -0, and NaN is equal to itself.
    if (!entry.holds || entry.dtype != dtype ||
        memcmp(entry.numbers.data(), numbers.data(), sizeof(numbers)) != 0) {
      entry = {true, dtype, numbers, make()};
    }
    return entry.dist;
  }

 private:
  static constexpr int kBits = 4;
  struct Entry {
    bool holds = false;
    DType dtype{};
    std::array<double, kParameters> numbers{};
    Dist dist{};
  };
  Entry entries_[1 << kBits];
};

template <class Entry>
using Order = std::make_index_sequence<std::size(Entry::kParameters)>;  // of the parameters

// A distribution and the parameters of all tensors.
template <class Entry>
struct Family : Entry {
  std::array<PerTensor, std::size(Entry::kParameters)> parameters;

  // It stays until the next one is made.
  template <class Real>
  const typename Entry::template Dist<Real>& make(DType dtype, size_t i) const {
    return make<Real>(dtype, i, Order<Entry>{});
  }

 private:
  template <class Real, size_t... J>
  const auto& make(DType dtype, size_t i, std::index_sequence<J...>) const {
    using Dist = typename Entry::template Dist<Real>;
    thread_local Prepared<Dist, sizeof...(J)> prepared;
    const std::array<double, sizeof...(J)> numbers{parameters[J][i]...};
    return prepared(dtype, numbers, [&] { return Dist::make(dtype, numbers[J]...); });
  }
};

// The latest distribution that was made: most lists have one, for all their tensors.
template <class Real, class Family>
class Latest {
 public:
  using Dist = typename Family::template Dist<Real>;
  explicit Latest(const Family& family)
      : family_(family),
        shared_(std::all_of(family.parameters.begin(), family.parameters.end(),
                            [](const PerTensor& list) { return list.numbers.size() == 1; })) {}

  // That of tensor i; it stays until the next call.
  const Dist& operator()(DType dtype, size_t i) {
    if (!made_ || !shared_ || dtype != dtype_) {
      made_ = &family_.template make<Real>(dtype, i);
      dtype_ = dtype;
    }
    return *made_;
  }

 private:
  const Family& family_;
  bool shared_;
  const Dist* made_ = nullptr;
  DType dtype_{};
};

template <class Real>
bool has_width(DType dtype) {
  return (dtype == DType::float64) == (sizeof(Real) == 8);
}

// Fills the tensors of storage width Real one after the other.
template <class Real, class Family>
void fill_in_order(const FillTargets& targets, const Family& family) {
  const auto kernel = Family::kernel(INITSTATS_CHOOSE(fill_kernels), Real{});
  Latest<Real, Family> dists(family);
  for (size_t i = 0; i < targets.items.size(); ++i) {
    const FillTarget& t = targets.items[i];
    const int64_t count = targets.layouts.count(i);
    if (!has_width<Real>(t.dtype) || count == 0) continue;
    const auto& dist = dists(t.dtype, i);
    targets.layouts.with(i, [&](const Layout& layout) {
      kernel(dist, cpu::FillRange{t.data, t.dtype, &layout, t.key, 0, count});
    });
  }
}

// Fills them side by side on torch's threads, cut anywhere.
template <class Real, class Family>
void fill_on_threads(const FillTargets& targets, const Family& family) {
  using Dist = typename Family::template Dist<Real>;
  const auto kernel = Family::kernel(INITSTATS_CHOOSE(fill_kernels), Real{});
  Latest<Real, Family> latest(family);
  std::vector<Dist> dists;
  std::vector<size_t> chosen;
  Integers first;  // of each tensor in the concatenation of all
  dists.reserve(targets.items.size());
  chosen.reserve(targets.items.size());
  first.reserve(targets.items.size() + 1);
  first.push_back(0);
  for (size_t i = 0; i < targets.items.size(); ++i) {
    const DType dtype = targets.items[i].dtype;
    if (!has_width<Real>(dtype) || targets.layouts.count(i) == 0) continue;
    dists.push_back(latest(dtype, i));
    chosen.push_back(i);
    first.push_back(first.back() + targets.layouts.count(i));
  }
  const auto work = [&](int64_t begin, int64_t end) {
    size_t i = static_cast<size_t>(std::upper_bound(first.begin(), first.end(), begin) -
                                   first.begin() - 1);
    for (; begin < end; ++i) {
      const int64_t stop = std::min(end, first[i + 1]);
      const FillTarget& t = targets.items[chosen[i]];
      targets.layouts.with(chosen[i], [&](const Layout& layout) {
        kernel(dists[i],
               cpu::FillRange{t.data, t.dtype, &layout, t.key, begin - first[i], stop - first[i]});
      });
      begin = stop;
    }
  };
  torch::stable::parallel_for(0, first.back(), kGrain, work);
}

template <class Real, class Family>
void fill_width_cpu(const FillTargets& targets, const Family& family) {
  int64_t elements = 0;
  for (size_t i = 0; i < targets.items.size(); ++i)
    if (has_width<Real>(targets.items[i].dtype)) elements += targets.layouts.count(i);
  if (elements > kGrain) return fill_on_threads<Real>(targets, family);
  if (elements > 0) fill_in_order<Real>(targets, family);
}

template <class Family>
void run(OnCpu, const std::string& /*op*/, const FillTargets& targets, const Family& family) {
  fill_width_cpu<float>(targets, family);
  fill_width_cpu<double>(targets, family);
}

#if defined(INITSTATS_WITH_CUDA)
template <class Real, class Family>
void fill_width_cuda(const std::string& op, const FillTargets& targets, const Family& family,
                     cudaStream_t cuda_stream) {
  using Dist = typename Family::template Dist<Real>;
  std::vector<cuda::FillTarget<Dist>> launched;
  Latest<Real, Family> dists(family);
  for (size_t i = 0; i < targets.items.size(); ++i) {
    const FillTarget& t = targets.items[i];
    if (!has_width<Real>(t.dtype)) continue;
    launched.push_back({t.data, t.dtype, targets.layouts[i], t.key, dists(t.dtype, i)});
  }
  check_cuda(
      op, cuda::launch_fill(launched.data(), static_cast<int64_t>(launched.size()), cuda_stream));
}

template <class Family>
void run(OnCuda, const std::string& op, const FillTargets& targets, const Family& family) {
  if (targets.items.empty()) return;
  const DeviceScope scope(targets.device_index);
  fill_width_cuda<float>(op, targets, family, scope.cuda_stream());
  fill_width_cuda<double>(op, targets, family, scope.cuda_stream());
}
#endif

template <class Device, class Family>
void fill(const std::string& op, const std::vector<Tensor>& tensors, const Integers& keys,
          const Integers& box, const Family& family) {
  const FillTargets targets = targets_of(op, tensors, keys, box);
  run(Device{}, op, targets, family);
}

// The op: one list of numbers per parameter.
template <class Device, class Entry, class = Order<Entry>>
struct Op;

template <class Device, class Entry, size_t... J>
struct Op<Device, Entry, std::index_sequence<J...>> {
  template <size_t>
  using NumbersOf = Numbers;

  static void call(std::vector<Tensor> tensors, Integers keys, NumbersOf<J>... numbers,
                   Integers box) {
    const Family<Entry> family{{},
                               {{{Entry::kOp, Entry::kParameters[J], numbers, tensors.size()}...}}};
    fill<Device>(Entry::kOp, tensors, keys, box, family);
  }

  // See DirectFill.
  static void direct(const FillTargets& targets, const std::vector<Numbers>& numbers) {
    const Family<Entry> family{
        {}, {{{Entry::kOp, Entry::kParameters[J], numbers[J], targets.items.size()}...}}};
    run(Device{}, Entry::kOp, targets, family);
  }
};

#define INITSTATS_IMPLEMENT(name, Dist, ...) \
  m.impl(name##_entry::kOp, TORCH_BOX(&(Op<Device, name##_entry>::call)));

template <class Device>
void implement(Library& m) {
  INITSTATS_DISTRIBUTIONS(INITSTATS_IMPLEMENT);
}

INITSTATS_REGISTER(implement)

}  // namespace

const std::vector<DirectFill>& direct_fills() {
#if defined(INITSTATS_WITH_CUDA)
#define INITSTATS_DIRECT_ON_CUDA(name) &Op<OnCuda, name##_entry>::direct
#else
#define INITSTATS_DIRECT_ON_CUDA(name) nullptr
#endif
#define INITSTATS_DIRECT(name, Dist, ...)                                                     \
  {name##_entry::kOp, std::size(name##_entry::kParameters), &Op<OnCpu, name##_entry>::direct, \
   INITSTATS_DIRECT_ON_CUDA(name)},
  static const std::vector<DirectFill> fills{INITSTATS_DISTRIBUTIONS(INITSTATS_DIRECT)};
#undef INITSTATS_DIRECT
#undef INITSTATS_DIRECT_ON_CUDA
  return fills;
}

}  // namespace initstats::ops
