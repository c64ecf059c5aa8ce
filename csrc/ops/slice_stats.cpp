// The op slice_stats: the moments of every slice of a tensor whose first dimensions are kept.
#include "cpu/stats/slice_stats.h"

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "ops/checks.h"
#include "ops/cuda_stream.h"
#include "ops/register.h"
#if defined(INITSTATS_WITH_CUDA)
#include "cuda/stats/slice_stats.h"
#endif

namespace initstats::ops {

namespace {

constexpr char kOp[] = "stats";

struct Call {
  const void* data;
  ItemType type;
  Layout slices, elements;
  Tensor moments, counts;
};

// Everything is checked before anything is read.
Call prepare(const Tensor& tensor, int64_t kept) {
  const int64_t dims = tensor.dim();
  if (kept < 0 || kept > dims)
    fail(kOp, "kept to be from 0 to the number of dimensions", "kept=" + std::to_string(kept));
  check_storage(kOp, tensor);
  const int64_t *sizes = tensor.sizes().data(), *strides = tensor.strides().data();
  Call call{tensor.const_data_ptr(),
            item_type(kOp, tensor),
            layout_of(kOp, kept, sizes, strides, nullptr, nullptr),
            layout_of(kOp, dims - kept, sizes + kept, strides + kept, nullptr, nullptr),
            {},
            {}};
  call.moments =
      torch::stable::new_empty(tensor, {call.slices.count, kMomentColumns}, ScalarType::Double);
  call.counts =
      torch::stable::new_empty(tensor, {call.slices.count, kCountColumns}, ScalarType::Long);
  return call;
}

// Runs work(i) for every i below n, on torch's threads if they are worth it.
template <class Work>
void for_each_piece(int64_t n, bool worth_threads, const Work& work) {
  std::atomic<int64_t> next{0};
  const auto run = [&](int64_t, int64_t) {
    for (int64_t i = next++; i < n; i = next++) work(i);
  };
  if (n <= 1 || !worth_threads) {
    run(0, 1);
  } else {
    torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, run);
  }
}

// Merges the records of slices [begin, end), one group after another, and writes them.
void write_slices(const Call& call, int64_t begin, int64_t end, const Record* records,
                  int64_t pitch) {
  double* const moments = call.moments.mutable_data_ptr<double>() + begin * kMomentColumns;
  int64_t* const counts = call.counts.mutable_data_ptr<int64_t>() + begin * kCountColumns;
  const int64_t groups = groups_of(call.elements.count);
  std::vector<Record> total(static_cast<size_t>(end - begin), empty_record());
  for (int64_t g = 0; g < groups; ++g) {
    for (size_t s = 0; s < total.size(); ++s) {
      const Record& next = records[g * pitch + static_cast<int64_t>(s)];
      total[s] = g == 0 ? next : merge(total[s], next);
    }
  }
  for (size_t s = 0; s < total.size(); ++s) {
    write_record(total[s], call.elements.count, 0, moments + s * kMomentColumns,
                 counts + s * kCountColumns);
  }
}

void run(OnCpu, Call& call) {
  constexpr int64_t kWorthThreads = 1 << 15, kPieceElements = 1 << 16, kMostRecords = 1 << 13;
  const int64_t slices = call.slices.count, groups = groups_of(call.elements.count);
  const bool worth_threads = slices * call.elements.count >= kWorthThreads;
  const cpu::SliceKernels& kernels = cpu::chosen_slice_kernels();
  const auto range = [&](int64_t begin, int64_t end, int64_t first_group, int64_t last_group) {
    return cpu::SliceRange{call.data, call.type, &call.slices, &call.elements,
                           begin,     end,       first_group,  last_group};
  };
  // As many whole vectors of slices as make a piece of good size.
  const int64_t vector = cpu::kSlicesPerCall;
  const int64_t by_size = kPieceElements / std::max<int64_t>(1, groups * kGroup);
  const int64_t width = std::clamp(by_size / vector, int64_t{1}, int64_t{16}) * vector;
  const int64_t pieces = (slices + width - 1) / width;
  if (width * groups <= kMostRecords && pieces >= 4 * torch::stable::get_num_threads()) {
    // Whole slices per thread: their records stay in its cache.
    for_each_piece(pieces, worth_threads, [&](int64_t piece) {
      thread_local std::vector<Record> records;
      const int64_t begin = piece * width, end = std::min(begin + width, slices);
      records.resize(static_cast<size_t>(width * std::max<int64_t>(1, groups)));
      kernels.range(range(begin, end, 0, groups), records.data(), width);
      write_slices(call, begin, end, records.data(), width);
    });
    return;
  }
  // Few slices, or long ones: threads share them.
  std::vector<Record> records(static_cast<size_t>(slices * groups));
  const int64_t length = std::max<int64_t>(1, kPieceElements / (width * kGroup));
  const int64_t lengths = (groups + length - 1) / length;
  for_each_piece(pieces * lengths, worth_threads, [&](int64_t piece) {
    const int64_t begin = piece / lengths * width, first_group = piece % lengths * length;
    kernels.range(range(begin, std::min(begin + width, slices), first_group,
                        std::min(first_group + length, groups)),
                  records.data() + first_group * slices + begin, slices);
  });
  for_each_piece(pieces, worth_threads, [&](int64_t piece) {
    const int64_t begin = piece * width;
    write_slices(call, begin, std::min(begin + width, slices), records.data() + begin, slices);
  });
}

#if defined(INITSTATS_WITH_CUDA)
void run(OnCuda, Call& call) {
  const DeviceScope scope(call.moments);
  const cuda::SliceTarget target{call.data,
                                 call.type,
                                 call.slices,
                                 call.elements,
                                 call.moments.mutable_data_ptr<double>(),
                                 call.counts.mutable_data_ptr<int64_t>()};
  const Tensor workspace = torch::stable::new_empty(
      call.moments, {cuda::slice_stats_workspace_bytes(target)}, ScalarType::Byte);
  check_cuda(kOp,
             cuda::launch_slice_stats(target, workspace.mutable_data_ptr(), scope.cuda_stream()));
}
#endif

template <class Device>
std::tuple<Tensor, Tensor> slice_stats(Tensor tensor, int64_t kept) {
  Call call = prepare(tensor, kept);
  run(Device{}, call);
  return {call.moments, call.counts};
}

template <class Device>
void implement(Library& m) {
  m.impl("slice_stats", TORCH_BOX(&slice_stats<Device>));
}

INITSTATS_REGISTER(implement)

}  // namespace

}  // namespace initstats::ops
