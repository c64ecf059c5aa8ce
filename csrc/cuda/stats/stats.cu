// Launches of the statistics: which kernel takes which tensor, and where its records lie in the
// workspace.
#include "cuda/stats/stats.h"
#include "cuda/stats/stats_kernels.cuh"

namespace initstats::cuda {

namespace {

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

template <class Loader>
struct TileKernel {
  using Head = TileHead;
  using Task = typename Loader::Task;
  static constexpr int kThreads = kTileThreads;
  static constexpr int kCapacity = kFullBatch<Head, Task>;
  // Differences, bytes and integers are taken in large batches: kernels less to compile.
  static constexpr int kSmall = Loader::kSmallBatches ? kSmallBatch : kCapacity;
  template <int kTasks>
  static constexpr auto kernel = stats_tile_kernel<Loader, kTasks>;
};

template <class Child>
struct MergeKernel {
  using Head = MergeHead;
  using Task = MergeTask;
  static constexpr int kThreads = kMergeThreads;
  static constexpr int kCapacity = kFullBatch<Head, Task>;
  static constexpr int kSmall = kSmallBatch;
  template <int kTasks>
  static constexpr auto kernel = stats_merge_kernel<Child, kTasks>;
};

bool is_aligned_run(const StatsTarget& t) {
  const Second& y = t.second;
  return t.layout.is_one_run() && (y.pairing == Pairing::none || y.layout->is_one_run()) &&
         (reinterpret_cast<uintptr_t>(t.data) | reinterpret_cast<uintptr_t>(y.data)) % 16 == 0;
}

// What launch_stats does with its targets, one kernel after another.
class Plan {
 public:
  Plan(const StatsTarget* targets, int64_t count, const StatsGroups& groups, void* workspace,
       cudaStream_t cuda_stream)
      : targets_(targets),
        count_(count),
        workspace_(static_cast<char*>(workspace)),
        cuda_stream_(cuda_stream) {
    int64_t tiles = 0;
    for (int64_t i = 0; i < count; ++i) tiles += tiles_of(targets[i]);
    head_ = {groups, tiles_per_block(tiles)};
  }

  // Launches the tile kernel for the targets that `chosen` picks.
  template <class Loader, class Chosen>
  cudaError_t take_tiles(Chosen chosen) {
    TaskLauncher<TileKernel<Loader>> launcher(head_, cuda_stream_);
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
      const cudaError_t status = launcher.add(task, divide_up(tiles, head_.tiles_per_block));
      if (status != cudaSuccess) return status;
    }
    return launcher.flush();
  }

  // Merges level by level, until every tensor is one node; level 0 has tiles as children. Sets
  // `more` if a tensor needs another level.
  template <class Child, class Chosen>
  cudaError_t merge(int level, Chosen chosen, bool& more) {
    const MergeHead head{head_.groups.moments, head_.groups.fingerprint, head_.tiles_per_block};
    TaskLauncher<MergeKernel<Child>> launcher(head, cuda_stream_);
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
      const cudaError_t status = launcher.add(task, blocks);
      if (status != cudaSuccess) return status;
    }
    return launcher.flush();
  }

 private:
  static void describe(const StatsTarget& t, RunTask& task) {
    task.count = t.layout.count;
    task.first_index = t.layout.first_index;
  }
  static void describe(const StatsTarget& t, ByteRunTask& task) {
    describe(t, static_cast<RunTask&>(task));
    task.type = t.type;
  }
  static void describe(const StatsTarget& t, RunPairTask& task) {
    describe(t, static_cast<RunTask&>(task));
    task.minus = t.second.data;
  }
  static void describe(const StatsTarget& t, BoxTask& task) {
    task.pairing = t.second.pairing;
    task.factor = t.second.factor;
    task.second = t.second.data;
    if (task.pairing != Pairing::none) task.second_layout = *t.second.layout;
    task.layout = t.layout;
    task.type = t.type;
  }

  const StatsTarget* targets_;
  int64_t count_;
  char* workspace_;
  cudaStream_t cuda_stream_;
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
                         void* workspace, cudaStream_t cuda_stream) {
  Plan plan(targets, count, groups, workspace, cuda_stream);
  const auto runs_of = [](ItemType type, Pairing pairing = Pairing::none) {
    return [type, pairing](const StatsTarget& t) {
      return t.type == type && is_aligned_run(t) && t.second.pairing == pairing;
    };
  };
  const auto bytes = [](const StatsTarget& t) {
    return item_size(t.type) == 1 && is_aligned_run(t) && t.second.pairing == Pairing::none;
  };
  // Everything that has no kernel of its own, by the lane rows of its order of summation. Only
  // floating-point numbers come in pairs.
  const auto boxes_of = [](int rows) {
    return [rows](const StatsTarget& t) {
      const bool own = is_aligned_run(t) && t.second.pairing != Pairing::square_ratio;
      return lane_rows(t.type) == rows && !own;
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
      [&] { return plan.take_tiles<RunLoader<ByteItems, false>>(bytes); },
      [&] { return plan.take_tiles<RunLoader<Int16Items, false>>(runs_of(ItemType::int16)); },
      [&] { return plan.take_tiles<RunLoader<Int32Items, false>>(runs_of(ItemType::int32)); },
      [&] { return plan.take_tiles<RunLoader<Int64Items, false>>(runs_of(ItemType::int64)); },
      [&] {
        return plan.take_tiles<RunLoader<Float32Items, true>>(
            runs_of(ItemType::float32, Pairing::difference));
      },
      [&] {
        return plan.take_tiles<RunLoader<Float16Items, true>>(
            runs_of(ItemType::float16, Pairing::difference));
      },
      [&] {
        return plan.take_tiles<RunLoader<BFloat16Items, true>>(
            runs_of(ItemType::bfloat16, Pairing::difference));
      },
      [&] {
        return plan.take_tiles<RunLoader<Float64Items, true>>(
            runs_of(ItemType::float64, Pairing::difference));
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
