// Launches of the statistics: which kernel takes which tensor, and where its records lie in the
// workspace.
#include "cuda/stats/stats.h"
#include "cuda/stats/stats_kernels.cuh"

namespace initstats::cuda {

namespace {

constexpr int64_t kLargestParameters = 32764;  // bytes, CUDA 12.1 and newer
constexpr int64_t kMostBlocks = (1LL << 31) - 1;
constexpr int kSmallBatch = 4;  // most calls are for a few tensors: do not copy 32 KB for them

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
int64_t tiles_of(const StatsTarget& target) { return divide_up(target.layout.count, kTile); }

// Where the parts of the workspace that belong to one target begin, in bytes.
struct Place {
  int64_t records, nodes, end;
};

Place place_of(const StatsTarget& target, int64_t begin) {
  const int64_t tiles = tiles_of(target);
  const size_t record_bytes =
      is_wide(target.type) ? sizeof(TileRecord<double>) : sizeof(TileRecord<float>);
  Place place{begin, begin + tiles * static_cast<int64_t>(record_bytes), 0};
  place.end = place.nodes;
  for (int64_t nodes = divide_up(tiles, kChildrenPerBlock); nodes > 1;
       nodes = divide_up(nodes, kChildrenPerBlock)) {
    place.end += nodes * static_cast<int64_t>(sizeof(Node));
  }
  return place;
}

// Blocks should be many enough to fill a large GPU several times over, and long enough to share one
// histogram.
int32_t tiles_per_block(int64_t tiles) {
  constexpr int64_t kManyBlocks = 2048, kLongest = 64;
  const int64_t wanted = tiles / kManyBlocks;
  return static_cast<int32_t>(wanted < 1 ? 1 : wanted > kLongest ? kLongest : wanted);
}

// Collects tasks of one kernel and launches them together, in several launches if they are many.
template <class Kernel>
class Launches {
 public:
  Launches(const typename Kernel::Head& head, cudaStream_t stream) : head_(head), stream_(stream) {}

  cudaError_t add(typename Kernel::Task task, int64_t blocks) {
    if (blocks > kMostBlocks) return cudaErrorInvalidConfiguration;
    if (full_.count == Kernel::kCapacity || blocks_ + blocks > kMostBlocks) {
      const cudaError_t status = flush();
      if (status != cudaSuccess) return status;
    }
    task.first_block = static_cast<uint32_t>(blocks_);
    full_.task[full_.count++] = task;
    blocks_ += blocks;
    return cudaSuccess;
  }

  cudaError_t flush() {
    if (full_.count == 0) return cudaSuccess;
    const dim3 grid(static_cast<unsigned>(blocks_));
    cudaError_t status;
    if (full_.count <= Kernel::kSmall) {
      typename Kernel::Small small{};
      small.count = full_.count;
      for (int i = 0; i < full_.count; ++i) small.task[i] = full_.task[i];
      Kernel::set_head(small, head_);
      status = launch(Kernel::small, grid, dim3(Kernel::kThreads), 0, stream_, small);
    } else {
      Kernel::set_head(full_, head_);
      status = launch(Kernel::full, grid, dim3(Kernel::kThreads), 0, stream_, full_);
    }
    full_.count = 0;
    blocks_ = 0;
    return status;
  }

 private:
  typename Kernel::Head head_;
  cudaStream_t stream_;
  int64_t blocks_ = 0;
  typename Kernel::Full full_{};
};

struct TileHead {
  StatsGroups groups;
  int32_t tiles_per_block;
};

template <class Loader>
struct TileKernel {
  using Head = TileHead;
  using Task = typename Loader::Task;
  static constexpr int kThreads = kTileThreads;
  static constexpr int kCapacity =
      static_cast<int>((kLargestParameters - 64) / static_cast<int64_t>(sizeof(Task)));
  // Differences are taken in large batches: one kernel less to compile.
  static constexpr int kSmall = std::is_same_v<Task, RunPairTask> ? kCapacity : kSmallBatch;
  using Small = TileBatch<Task, kSmall>;
  using Full = TileBatch<Task, kCapacity>;
  static constexpr auto small = stats_tile_kernel<Loader, kSmall>;
  static constexpr auto full = stats_tile_kernel<Loader, kCapacity>;

  template <class Batch>
  static void set_head(Batch& batch, const Head& head) {
    batch.groups = head.groups;
    batch.tiles_per_block = head.tiles_per_block;
  }
};

template <class Child>
struct MergeKernel {
  using Head = MergeFlags;
  using Task = MergeTask;
  static constexpr int kThreads = kMergeThreads;
  static constexpr int kCapacity =
      static_cast<int>((kLargestParameters - 64) / static_cast<int64_t>(sizeof(Task)));
  static constexpr int kSmall = kSmallBatch;
  using Small = MergeBatch<kSmall>;
  using Full = MergeBatch<kCapacity>;
  static constexpr auto small = stats_merge_kernel<Child, kSmall>;
  static constexpr auto full = stats_merge_kernel<Child, kCapacity>;

  template <class Batch>
  static void set_head(Batch& batch, const Head& head) {
    batch.flags = head;
  }
};

bool is_aligned_run(const StatsTarget& t) {
  return t.layout.is_one_run() &&
         (reinterpret_cast<uintptr_t>(t.data) | reinterpret_cast<uintptr_t>(t.minus)) % 16 == 0;
}

// What launch_stats does with its targets, one kernel after another.
class Plan {
 public:
  Plan(const StatsTarget* targets, int64_t count, const StatsGroups& groups, void* workspace,
       cudaStream_t stream)
      : targets_(targets),
        count_(count),
        workspace_(static_cast<char*>(workspace)),
        stream_(stream) {
    int64_t tiles = 0;
    for (int64_t i = 0; i < count; ++i) tiles += tiles_of(targets[i]);
    head_ = {groups, tiles_per_block(tiles)};
  }

  // Launches the tile kernel for the targets that `chosen` picks.
  template <class Loader, class Chosen>
  cudaError_t take_tiles(Chosen chosen) {
    Launches<TileKernel<Loader>> launches(head_, stream_);
    int64_t at = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const StatsTarget& t = targets_[i];
      const Place place = place_of(t, at);
      at = place.end;
      const int64_t tiles = tiles_of(t);
      if (tiles == 0 || !chosen(t)) continue;
      if (tiles > kMostBlocks) return cudaErrorInvalidValue;
      typename Loader::Task task{};
      task.data = t.data;
      task.records = workspace_ + place.records;
      task.histogram = t.histogram;
      task.tiles = static_cast<int32_t>(tiles);
      describe(t, task);
      const cudaError_t status = launches.add(task, divide_up(tiles, head_.tiles_per_block));
      if (status != cudaSuccess) return status;
    }
    return launches.flush();
  }

  // Merges level by level, until every tensor is one node; level 0 has tiles as children. Sets
  // `more` if a tensor needs another level.
  template <class Child, class Chosen>
  cudaError_t merge(int level, Chosen chosen, bool& more) {
    const MergeFlags flags{head_.groups.moments, head_.groups.fingerprint, head_.tiles_per_block};
    Launches<MergeKernel<Child>> launches(flags, stream_);
    int64_t at = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const StatsTarget& t = targets_[i];
      const Place place = place_of(t, at);
      at = place.end;
      if (!chosen(t)) continue;
      int64_t children = tiles_of(t), from = place.records, to = place.nodes;
      for (int k = 0; k < level; ++k) {
        from = to;
        children = divide_up(children, kChildrenPerBlock);
        to += children * static_cast<int64_t>(sizeof(Node));
      }
      if (level > 0 && children == 1) continue;  // the level before wrote its record
      const int64_t blocks = children == 0 ? 1 : divide_up(children, kChildrenPerBlock);
      more = more || blocks > 1;
      MergeTask task{};
      task.children = workspace_ + from;
      task.count = children;
      task.nodes = reinterpret_cast<Node*>(workspace_ + to);
      task.elements = t.layout.count;
      task.moments = t.moments;
      task.counts = t.counts;
      task.blocks = static_cast<int32_t>(blocks);
      const cudaError_t status = launches.add(task, blocks);
      if (status != cudaSuccess) return status;
    }
    return launches.flush();
  }

 private:
  static void describe(const StatsTarget& t, RunTask& task) {
    task.count = t.layout.count;
    task.first_index = t.layout.first_index;
  }
  static void describe(const StatsTarget& t, RunPairTask& task) {
    describe(t, static_cast<RunTask&>(task));
    task.minus = t.minus;
  }
  static void describe(const StatsTarget& t, BoxTask& task) {
    task.minus = t.minus;
    task.layout = t.layout;
    task.type = t.type;
  }

  const StatsTarget* targets_;
  int64_t count_;
  char* workspace_;
  cudaStream_t stream_;
  TileHead head_{};
};

// Runs steps until one fails.
template <class... Steps>
cudaError_t in_turn(Steps... steps) {
  cudaError_t status = cudaSuccess;
  static_cast<void>(((status = steps(), status == cudaSuccess) && ...));
  return status;
}

}  // namespace

int64_t stats_workspace_bytes(const StatsTarget* targets, int64_t count) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < count; ++i) bytes = place_of(targets[i], bytes).end;
  return bytes;
}

cudaError_t launch_stats(const StatsTarget* targets, int64_t count, const StatsGroups& groups,
                         void* workspace, cudaStream_t stream) {
  Plan plan(targets, count, groups, workspace, stream);
  const auto runs_of = [](ItemType type, bool pairs = false) {
    return [type, pairs](const StatsTarget& t) {
      return t.type == type && is_aligned_run(t) && (t.minus != nullptr) == pairs;
    };
  };
  // Everything that has no kernel of its own, by the lane rows of its order of summation.
  const auto boxes_of = [](int rows) {
    return [rows](const StatsTarget& t) {
      const bool own = t.type == ItemType::float32 || t.type == ItemType::float16 ||
                       t.type == ItemType::bfloat16 || t.type == ItemType::float64;
      return lane_rows(t.type) == rows && !(own && is_aligned_run(t));
    };
  };
  const auto narrow = [](const StatsTarget& t) { return !is_wide(t.type); };
  const auto wide = [](const StatsTarget& t) { return is_wide(t.type); };
  const auto all = [](const StatsTarget&) { return true; };
  bool more = false;
  cudaError_t status = in_turn(
      [&] { return plan.take_tiles<RunLoader<Float32Items, false>>(runs_of(ItemType::float32)); },
      [&] { return plan.take_tiles<RunLoader<Float16Items, false>>(runs_of(ItemType::float16)); },
      [&] { return plan.take_tiles<RunLoader<BFloat16Items, false>>(runs_of(ItemType::bfloat16)); },
      [&] { return plan.take_tiles<RunLoader<Float64Items, false>>(runs_of(ItemType::float64)); },
      [&] {
        return plan.take_tiles<RunLoader<Float32Items, true>>(runs_of(ItemType::float32, true));
      },
      [&] {
        return plan.take_tiles<RunLoader<Float16Items, true>>(runs_of(ItemType::float16, true));
      },
      [&] {
        return plan.take_tiles<RunLoader<BFloat16Items, true>>(runs_of(ItemType::bfloat16, true));
      },
      [&] {
        return plan.take_tiles<RunLoader<Float64Items, true>>(runs_of(ItemType::float64, true));
      },
      [&] { return plan.take_tiles<BoxLoader<float, 4>>(boxes_of(8)); },
      [&] { return plan.take_tiles<BoxLoader<float, 8>>(boxes_of(16)); },
      [&] { return plan.take_tiles<BoxLoader<double, 2>>(boxes_of(4)); },
      [&] { return plan.merge<TileRecord<float>>(0, narrow, more); },
      [&] { return plan.merge<TileRecord<double>>(0, wide, more); });
  for (int level = 1; more && status == cudaSuccess; ++level) {
    more = false;
    status = plan.merge<Node>(level, all, more);
  }
  return status;
}

}  // namespace initstats::cuda
