// The ops stats, square_ratio_stats and copy_stats_: one record per tensor or pair of tensors, in
// one pass, on their device.
#include "cpu/stats/stats.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "math/stats/buckets.h"
#include "ops/checks.h"
#include "ops/cuda_stream.h"
#include "ops/direct.h"
#include "ops/register.h"
#if defined(INITSTATS_WITH_CUDA)
#include "cuda/stats/stats.h"
#endif

namespace initstats::ops {

namespace {

constexpr char kOp[] = "stats", kRatioOp[] = "square_ratio_stats", kCopyOp[] = "copy_stats_";

// Note [Memory order]. Statistics take the elements of a tensor in the order in which they lie in
// memory, longest strides first: a transposed matrix or an activation in channels_last is read as
// fast as a contiguous tensor. Tiles then hold other elements than in C order. Moments differ from
// those by rounding; counts, extrema and histogram do not depend on the order, and fingerprints
// take each element with its logical index. Both devices are given the same order.

// The dimensions of a layout by falling stride. Unless elements are `indexed`, those that are
// contiguous in memory become one.
Layout in_memory_order(const Layout& layout, bool indexed) {
  const int64_t* const strides = layout.stride;
  if (layout.dims == 1 || std::count(strides, strides + layout.dims, 0) > 0) return layout;
  std::array<int, Layout::kMaxDims> order;
  std::iota(order.begin(), order.begin() + layout.dims, 0);
  std::stable_sort(order.begin(), order.begin() + layout.dims,
                   [&](int a, int b) { return layout.stride[a] > layout.stride[b]; });
  Layout sorted = layout;
  sorted.dims = 0;
  for (int d = 0; d < layout.dims; ++d) {
    const int64_t size = layout.size[order[d]], stride = layout.stride[order[d]];
    int& last = sorted.dims;
    if (!indexed && last > 0 && sorted.stride[last - 1] == size * stride) {
      sorted.size[last - 1] *= size;
      sorted.stride[last - 1] = stride;
      continue;
    }
    sorted.size[last] = size;
    sorted.stride[last] = stride;
    sorted.logical[last] = layout.logical[order[d]];
    ++last;
  }
  if (indexed) return sorted;
  sorted.first_index = 0;
  for (int64_t d = sorted.dims - 1, logical = 1; d >= 0; logical *= sorted.size[d], --d)
    sorted.logical[d] = logical;
  return sorted;
}

// The layouts of both tensors of a pair, in the order of the first one's memory.
std::array<Layout, 2> in_memory_order(const Tensor& x, const Tensor& y) {
  std::vector<int64_t> order(static_cast<size_t>(x.dim()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return x.stride(a) > x.stride(b); });
  std::array<Layout, 2> layouts;
  for (size_t i = 0; i < 2; ++i) {
    const Tensor& tensor = i == 0 ? x : y;
    std::vector<int64_t> sizes, strides;
    for (const int64_t d : order) {
      sizes.push_back(tensor.size(d));
      strides.push_back(tensor.stride(d));
    }
    layouts[i] = layout_of(kOp, x.dim(), sizes.data(), strides.data(), nullptr, nullptr);
  }
  return layouts;
}

// One tensor of the call. Its layout is in Work::layouts, that of the second in Call.
struct Job {
  const void* data;
  ItemType type;
  Second second;
  void* copy = nullptr;  // where its items go while they are read
};

// The jobs, and where their records go.
struct Work {
  std::vector<Job> jobs;
  Layouts layouts;
  StatsGroups groups;
  double* moments_data;
  int64_t* counts_data;
  // Where not 0: job beside + i is of what job i reads as its second tensor.
  size_t beside = 0;
  double* moments_row(size_t i) const { return moments_data + i * kMomentColumns; }
  int64_t* counts_row(size_t i) const { return counts_data + i * kCountColumns; }
  int64_t tiles(size_t i) const { return (layouts.count(i) + kTile - 1) / kTile; }
};

struct Call : Work {
  std::vector<Layout> second_layouts;
  Tensor moments, counts, histogram;
  int64_t* histogram_data;
  int64_t* histogram_row(size_t i) const {
    return groups.histogram
               ? histogram_data + i * static_cast<size_t>(histogram_places(groups.scale))
               : nullptr;
  }
};

// The second tensors of a call, and what the messages call them.
struct Seconds {
  const std::vector<Tensor>& tensors;
  const char *op, *name, *to_do;  // for instance "minus", "to subtract"
  Pairing pairing;
  std::vector<double> factors;  // of square ratios
  bool measured = false;        // their own records follow
};

void check_pairs(const std::vector<Tensor>& tensors, const Seconds& seconds,
                 const StatsGroups& groups, const std::vector<int64_t>& box) {
  const std::string op = seconds.op, name = seconds.name;
  const std::vector<Tensor>& others = seconds.tensors;
  const std::string n = std::to_string(tensors.size());
  if (others.size() != tensors.size())
    fail(op, "one tensor " + std::string(seconds.to_do) + " per tensor, " + n,
         std::to_string(others.size()));
  if (seconds.pairing == Pairing::square_ratio && seconds.factors.size() != tensors.size())
    fail(op, "one factor per tensor, " + n, std::to_string(seconds.factors.size()));
  if (groups.fingerprint || !box.empty())
    fail(op, "neither fingerprint nor box with " + name, "one of them");
  check_one_device(op, others);
  if (others[0].is_cpu() != tensors[0].is_cpu() ||
      others[0].get_device_index() != tensors[0].get_device_index())
    fail(op, "tensors and " + name + " on one device", "several devices");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor &x = tensors[i], &y = others[i];
    if (!fill_dtype(x.scalar_type()) || y.scalar_type() != x.scalar_type())
      fail(op, "tensors and " + name + " of one floating dtype", "others");
    bool same = x.dim() == y.dim();
    for (int64_t d = 0; same && d < x.dim(); ++d) same = x.size(d) == y.size(d);
    if (!same) fail(op, "tensors and " + name + " of the same sizes", "different ones");
  }
}

// Makes the records of all jobs, on the device of `like`.
void make_room(Call& call, const Tensor& like) {
  const int64_t rows = static_cast<int64_t>(call.jobs.size());
  call.moments = torch::stable::new_empty(like, {rows, kMomentColumns}, ScalarType::Double);
  call.counts = torch::stable::new_empty(like, {rows, kCountColumns}, ScalarType::Long);
  call.histogram = call.groups.histogram
                       ? torch::stable::new_zeros(like, {rows, histogram_places(call.groups.scale)},
                                                  ScalarType::Long)
                       : torch::stable::new_empty(like, {0, 0}, ScalarType::Long);
  call.moments_data = call.moments.mutable_data_ptr<double>();
  call.counts_data = call.counts.mutable_data_ptr<int64_t>();
  call.histogram_data = call.histogram.mutable_data_ptr<int64_t>();
}

// Everything is checked before anything is read.
Call prepare(const std::vector<Tensor>& tensors, int64_t groups, int64_t scale,
             const std::vector<int64_t>& box, const Seconds& seconds) {
  constexpr int64_t kMoments = 1, kHistogram = 2, kFingerprintGroup = 4, kAll = 7;
  const char* const op = seconds.op;
  if (tensors.empty()) fail(op, "at least one tensor", "none");
  if (groups <= 0 || groups > kAll)
    fail(op, "groups to be a sum of 1, 2 and 4", "groups=" + std::to_string(groups));
  if (scale < 0 || scale > kMaxScale)
    fail(op, "scale to be 0, 1 or 2", "scale=" + std::to_string(scale));
  check_one_device(op, tensors);
  Call call;
  call.groups = {(groups & (kMoments | kHistogram)) != 0, (groups & kHistogram) != 0,
                 (groups & kFingerprintGroup) != 0, static_cast<int>(scale)};
  if (seconds.pairing != Pairing::none) check_pairs(tensors, seconds, call.groups, box);
  const Boxes boxes(op, tensors, box);
  call.jobs.reserve(tensors.size());
  call.layouts.reserve(tensors.size());
  call.second_layouts.reserve(seconds.tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Layout layout = boxes.layout(i);
    call.jobs.push_back({tensors[i].const_data_ptr(), item_type(op, tensors[i]), {}});
    if (seconds.pairing == Pairing::none) {
      call.layouts.add(in_memory_order(layout, call.groups.fingerprint));
      continue;
    }
    const Tensor& y = seconds.tensors[i];
    check_storage(op, y);
    const std::array<Layout, 2> layouts = in_memory_order(tensors[i], y);
    call.layouts.add(layouts[0]);
    call.second_layouts.push_back(layouts[1]);
    const double factor = seconds.pairing == Pairing::square_ratio ? seconds.factors[i] : 1;
    call.jobs[i].second = {y.const_data_ptr(), &call.second_layouts[i], seconds.pairing, factor};
  }
  if (seconds.measured) {
    const Boxes second_boxes(op, seconds.tensors, box);
    call.beside = tensors.size();
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Tensor& y = seconds.tensors[i];
      call.jobs.push_back({y.const_data_ptr(), item_type(op, y), {}});
      call.layouts.add(in_memory_order(second_boxes.layout(i), false));
    }
  }
  make_room(call, tensors[0]);
  return call;
}

void check_copies(const std::vector<Tensor>& tensors, const std::vector<Tensor>& copies) {
  const std::string n = std::to_string(tensors.size());
  if (copies.size() != tensors.size())
    fail(kCopyOp, "one copy per tensor, " + n, std::to_string(copies.size()));
  check_one_device(kCopyOp, copies);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor &x = tensors[i], &copy = copies[i];
    check_storage(kCopyOp, copy);
    bool same = copy.scalar_type() == x.scalar_type() && copy.is_cpu() == x.is_cpu() &&
                copy.get_device_index() == x.get_device_index() && copy.dim() == x.dim();
    for (int64_t d = 0; same && d < x.dim(); ++d)
      same = copy.size(d) == x.size(d) && copy.stride(d) == x.stride(d);
    if (!same) fail(kCopyOp, "copies of the dtype, device, sizes and strides of tensors", "others");
  }
}

// A piece of work for one thread: a node of Note [Merge order].
struct Piece {
  size_t job;
  int64_t begin, end;  // tiles
  bool is_whole;       // the only piece of its job
};

// The order in which pieces are taken, empty for that of the pieces: what a pair reads second is in
// the cache when it is read again.
std::vector<size_t> order_of(const std::vector<Piece>& pieces, size_t beside) {
  if (beside == 0) return {};
  std::vector<size_t> order(pieces.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto place = [&](size_t i) {
    const Piece& piece = pieces[i];
    const bool second = piece.job >= beside;
    return std::make_tuple(second ? piece.job - beside : piece.job, piece.begin, !second);
  };
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return place(a) < place(b); });
  return order;
}

// Takes the records of all jobs. `histogram_row(job)` is where its histogram goes.
template <class HistogramRowOf>
void take_records(const Work& call, const HistogramRowOf& histogram_row) {
  std::vector<Piece> pieces;
  pieces.reserve(call.jobs.size());
  // A task is so many pieces that it is worth the handing out: those from one number up to the
  // next.
  std::vector<size_t> tasks;
  constexpr int64_t kWorthTask = 1 << 14, kWorthThreads = 1 << 16, kCostOfTensor = 1024;
  int64_t cost = 0, cost_of_task = kWorthTask;  // in elements
  bool all_whole = true;
  for (size_t job = 0; job < call.jobs.size(); ++job) {
    const int64_t tiles = call.tiles(job);
    const bool is_whole = tiles <= cpu::kTilesPerCall;
    all_whole = all_whole && is_whole;
    int64_t begin = 0;
    do {
      if (cost_of_task >= kWorthTask) {
        tasks.push_back(pieces.size());
        cost_of_task = 0;
      }
      const int64_t end = std::min(begin + cpu::kTilesPerCall, tiles);
      pieces.push_back({job, begin, end, is_whole});
      const int64_t elements = std::min(end * kTile, call.layouts.count(job)) - begin * kTile;
      cost_of_task += kCostOfTensor + elements;
      cost += kCostOfTensor + elements;
      begin = end;
    } while (begin < tiles);
  }
  tasks.push_back(pieces.size());
  std::vector<cpu::StatsPartial> partials(all_whole ? 0 : pieces.size());
  const std::vector<size_t> order = order_of(pieces, call.beside);
  const cpu::StatsKernels& kernels = cpu::chosen_stats_kernels();
  const auto write = [&](size_t job, const Record& record, uint64_t fingerprint) {
    write_record(record, call.layouts.count(job), fingerprint, call.moments_row(job),
                 call.counts_row(job));
  };
  std::atomic<size_t> next{0};
  const auto work = [&](int64_t, int64_t) {
    for (size_t task = next++; task + 1 < tasks.size(); task = next++) {
      for (size_t at = tasks[task]; at < tasks[task + 1]; ++at) {
        const size_t i = order.empty() ? at : order[at];
        const Piece& piece = pieces[i];
        const Job& job = call.jobs[piece.job];
        cpu::StatsPartial whole;
        cpu::StatsPartial* const partial = piece.is_whole ? &whole : &partials[i];
        call.layouts.with(piece.job, [&](const Layout& layout) {
          const cpu::StatsRange range{job.data,  job.type,   &layout, piece.begin,
                                      piece.end, job.second, job.copy};
          kernels.range(range, call.groups, partial, histogram_row(piece.job));
        });
        if (piece.is_whole) write(piece.job, whole.record, whole.fingerprint);
      }
    }
  };
  if (cost < kWorthThreads || pieces.size() == 1) {
    work(0, 1);
  } else {
    torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, work);
  }
  for (size_t i = 0; i < pieces.size();) {
    const size_t job = pieces[i].job;
    if (pieces[i].is_whole) {
      ++i;
      continue;
    }
    MergeTree tree;
    uint64_t fingerprint = 0;
    for (; i < pieces.size() && pieces[i].job == job; ++i) {
      tree.add(partials[i].record);
      fingerprint += partials[i].fingerprint;
    }
    write(job, tree.total(), fingerprint);
  }
}

void run(OnCpu, const Call& call) {
  take_records(call, [&](size_t job) { return cpu::HistogramRow(call.histogram_row(job)); });
}

#if defined(INITSTATS_WITH_CUDA)
void run(OnCuda, Call& call) {
  const DeviceScope scope(call.moments);
  std::vector<cuda::StatsTarget> targets;
  targets.reserve(call.jobs.size());
  for (size_t i = 0; i < call.jobs.size(); ++i) {
    const Job& job = call.jobs[i];
    targets.push_back({job.data, job.type, call.layouts[i], call.moments_row(i), call.counts_row(i),
                       call.histogram_row(i), job.second});
  }
  const int64_t count = static_cast<int64_t>(targets.size());
  const Tensor workspace = torch::stable::new_empty(
      call.moments, {cuda::stats_workspace_bytes(targets.data(), count)}, ScalarType::Byte);
  check_cuda(kOp, cuda::launch_stats(targets.data(), count, call.groups,
                                     workspace.mutable_data_ptr(), scope.cuda_stream()));
}
#endif

template <class Device>
std::tuple<Tensor, Tensor, Tensor> stats(std::vector<Tensor> tensors, int64_t groups, int64_t scale,
                                         std::vector<int64_t> box, std::vector<Tensor> minus) {
  const Pairing pairing = minus.empty() ? Pairing::none : Pairing::difference;
  Call call =
      prepare(tensors, groups, scale, box, {minus, kOp, "minus", "to subtract", pairing, {}});
  run(Device{}, call);
  return {call.moments, call.counts, call.histogram};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> square_ratio_stats(std::vector<Tensor> tensors,
                                                      std::vector<Tensor> over,
                                                      std::vector<double> factors, int64_t groups,
                                                      int64_t scale, bool with_over) {
  Call call =
      prepare(tensors, groups, scale, {},
              {over, kRatioOp, "over", "to divide by", Pairing::square_ratio, factors, with_over});
  run(Device{}, call);
  return {call.moments, call.counts, call.histogram};
}

// Copies while it reads. What has gaps between its elements is copied before.
void run_copying(OnCpu device, Call& call, const std::vector<Tensor>& tensors,
                 std::vector<Tensor>& copies) {
  for (size_t i = 0; i < copies.size(); ++i) {
    if (call.layouts.with(i, [](const Layout& layout) { return layout.is_dense(); })) {
      call.jobs[i].copy = copies[i].mutable_data_ptr();
    } else {
      torch::stable::copy_(copies[i], tensors[i]);
    }
  }
  run(device, call);
}

#if defined(INITSTATS_WITH_CUDA)
// A pass of its own: its kernels would be four more.
void run_copying(OnCuda device, Call& call, const std::vector<Tensor>& tensors,
                 std::vector<Tensor>& copies) {
  for (size_t i = 0; i < copies.size(); ++i) torch::stable::copy_(copies[i], tensors[i]);
  run(device, call);
}
#endif

template <class Device>
std::tuple<Tensor, Tensor, Tensor> copy_stats_(std::vector<Tensor> tensors,
                                               std::vector<Tensor> copies, int64_t groups,
                                               int64_t scale) {
  const std::vector<Tensor> none;
  Call call = prepare(tensors, groups, scale, {}, {none, kCopyOp, "", "", Pairing::none, {}});
  check_copies(tensors, copies);
  run_copying(Device{}, call, tensors, copies);
  return {call.moments, call.counts, call.histogram};
}

template <class Device>
void implement(Library& m) {
  m.impl("stats", TORCH_BOX(&stats<Device>));
  m.impl("square_ratio_stats", TORCH_BOX(&square_ratio_stats<Device>));
  m.impl("copy_stats_", TORCH_BOX(&copy_stats_<Device>));
}

INITSTATS_REGISTER(implement)

}  // namespace

namespace {

bool has_few(int64_t count) { return count <= cpu::kFewElements; }

std::vector<Job> jobs_of(const std::vector<StatsSource>& sources) {
  std::vector<Job> jobs;
  jobs.reserve(sources.size());
  for (const StatsSource& source : sources) jobs.push_back({source.data, source.type, {}});
  return jobs;
}

Layouts in_memory_order(Layouts layouts, const StatsGroups& groups) {
  layouts.change_others(
      [&](const Layout& layout) { return in_memory_order(layout, groups.fingerprint); });
  return layouts;
}

}  // namespace

size_t direct_histogram_bytes(const StatsGroups& groups, int64_t count) {
  constexpr size_t kAlignment = sizeof(int64_t);
  if (!groups.histogram) return 0;
  if (!has_few(count)) return static_cast<size_t>(histogram_places(groups.scale)) * kAlignment;
  const size_t bytes = static_cast<size_t>(count) * sizeof(uint16_t);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

#if defined(INITSTATS_WITH_CUDA)
std::array<Tensor, 3> direct_stats_on_cuda(const std::vector<StatsSource>& sources, Layouts layouts,
                                           const StatsGroups& groups, const Tensor& like) {
  Call call;
  call.groups = groups;
  call.layouts = in_memory_order(std::move(layouts), groups);
  call.jobs = jobs_of(sources);
  make_room(call, like);
  run(OnCuda{}, call);
  return {call.moments, call.counts, call.histogram};
}
#endif

void direct_stats(const std::vector<StatsSource>& sources, Layouts layouts,
                  const StatsGroups& groups, double* moments, int64_t* counts, char* histogram) {
  const Work work{jobs_of(sources), in_memory_order(std::move(layouts), groups), groups, moments,
                  counts};
  std::vector<char*> rows;
  if (groups.histogram) {
    rows.reserve(sources.size());
    for (size_t i = 0; i < sources.size(); ++i) {
      const int64_t count = work.layouts.count(i);
      const size_t bytes = direct_histogram_bytes(groups, count);
      if (!has_few(count)) {
        memset(histogram, 0, bytes);
      } else if (bytes > 0) {
        memset(histogram + bytes - sizeof(int64_t), 0, sizeof(int64_t));  // what stays unwritten
      }
      rows.push_back(histogram);
      histogram += bytes;
    }
  }
  take_records(work, [&](size_t job) {
    if (rows.empty()) return cpu::HistogramRow(static_cast<int64_t*>(nullptr));
    return has_few(work.layouts.count(job))
               ? cpu::HistogramRow(reinterpret_cast<uint16_t*>(rows[job]))
               : cpu::HistogramRow(reinterpret_cast<int64_t*>(rows[job]));
  });
}

}  // namespace initstats::ops
