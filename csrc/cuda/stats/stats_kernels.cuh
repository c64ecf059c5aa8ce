// The two kernels of the statistics: one takes tiles, one merges their records as a tree.
#pragma once

#include "cuda/stats/stats_tile.cuh"
#include "cuda/task_batch.cuh"

namespace initstats::cuda {

namespace {

// What a tile leaves behind; the fingerprint is that of all tiles of the block, at its last tile.
template <class F>
struct TileRecord {
  TileSums<F> sums;
  uint64_t fingerprint;
};

// What all tasks of a tile kernel share.
struct TileHead {
  StatsGroups groups;
  int32_t tiles_per_block;
};

// Adds the block's counters to histogram.
__device__ __forceinline__ void flush_histogram(const uint32_t* counters, int scale,
                                                int64_t* histogram) {
  const int copies = 1 << (kMaxScale - scale);
  for (int place = static_cast<int>(threadIdx.x); place < histogram_places(scale);
       place += kTileThreads) {
    uint32_t count = 0;
    for (int copy = 0; copy < copies; ++copy) count += counters[place * copies + copy];
    // Integer additions: any order gives the same counts.
    if (count != 0) atomicAdd(reinterpret_cast<unsigned long long*>(histogram + place), count);
  }
}

template <class Loader, int kCapacity>
__global__ void __launch_bounds__(kTileThreads, Loader::kBlocksPerProcessor)
    stats_tile_kernel(INITSTATS_GRID_CONSTANT(TaskBatch<TileHead, typename Loader::Task, kCapacity>)
                          batch) {
  using F = typename Loader::Value;
  INITSTATS_SHARED(TileShared<F>, shared, );
  INITSTATS_SHARED(typename Loader::Shared, loader_shared, );
  INITSTATS_SHARED(uint32_t, counters, [kHistogramWords]);
  INITSTATS_SHARED(uint64_t, fingerprints, [kTileQuarters]);
  const StatsGroups groups = batch.groups;
  const typename Loader::Task& task = task_of(batch, blockIdx.x);
  auto* const records = static_cast<TileRecord<F>*>(task.records);
  const int begin = static_cast<int>(blockIdx.x - task.first_block) * batch.tiles_per_block;
  const int end =
      begin + batch.tiles_per_block < task.tiles ? begin + batch.tiles_per_block : task.tiles;
  if (groups.histogram) {
    for (int i = static_cast<int>(threadIdx.x); i < kHistogramWords; i += kTileThreads)
      counters[i] = 0;
    __syncthreads();
  }
  uint64_t fingerprint = 0;
#pragma unroll 1
  for (int tile = begin; tile < end; ++tile) {
    typename Loader::Tile x;
    const int missing = Loader::load(task, tile, groups.fingerprint, x, fingerprint, loader_shared);
    bool in_buckets = false;  // all elements: none is zero or not finite
    if (groups.moments) {
      const TileSums<F> sums = tile_sums(x, missing, shared);
      if (threadIdx.x == 0) records[tile].sums = sums;
      in_buckets = sums.finite == kTile && sums.zero == 0;
    }
    if (groups.histogram) count_tile(x, groups.scale, in_buckets, counters);
  }
  if (groups.fingerprint) {
    fingerprint = warp_reduce(fingerprint, [](uint64_t a, uint64_t b) { return a + b; });
    if (lane_number() == 0) fingerprints[warp_number()] = fingerprint;
  }
  __syncthreads();
  if (groups.fingerprint && threadIdx.x == 0) {
    records[end - 1].fingerprint =
        (fingerprints[0] + fingerprints[1]) + (fingerprints[2] + fingerprints[3]);
  }
  if (groups.histogram) flush_histogram(counters, groups.scale, task.histogram);
}

// A node of Note [Merge order].
struct alignas(16) Node {
  Record record;
  uint64_t fingerprint;
};

__device__ __forceinline__ Node merge_nodes(const Node& a, const Node& b) {
  return {merge(a.record, b.record), a.fingerprint + b.fingerprint};
}
__device__ __forceinline__ Node empty_node() { return {empty_record(), 0}; }

// What all tasks of a merge share.
struct MergeHead {
  bool moments, fingerprint;
  int32_t tiles_per_block;  // fingerprints lie at the last tile of each block
};

// Child i of a merge as a node.
template <class F>
__device__ __forceinline__ Node to_node(const TileRecord<F>* records, int64_t i, int64_t count,
                                        const MergeHead& head) {
  Node node = empty_node();
  if (head.moments) node.record = to_record(records[i].sums);
  const bool last_of_block = (i + 1) % head.tiles_per_block == 0 || i + 1 == count;
  if (head.fingerprint && last_of_block) node.fingerprint = records[i].fingerprint;
  return node;
}
__device__ __forceinline__ Node to_node(const Node* nodes, int64_t i, int64_t, const MergeHead&) {
  return nodes[i];
}

struct MergeTask {
  const void* children;  // [count] TileRecord or Node
  int64_t count;
  Node* nodes;  // [number of blocks], where there is more than one
  int64_t elements;
  double* moments;
  int64_t* counts;
  uint32_t first_block;
  int32_t blocks;
};

constexpr int kMergeThreads = 128;
constexpr int kChildrenPerThread = 4;
constexpr int kChildrenPerBlock = kMergeThreads * kChildrenPerThread;

// Merges up to kChildrenPerBlock children to one node; the only block of a task writes the tensor's
// record.
template <class Child, int kCapacity>
__global__ void __launch_bounds__(kMergeThreads)
    stats_merge_kernel(INITSTATS_GRID_CONSTANT(TaskBatch<MergeHead, MergeTask, kCapacity>) batch) {
  INITSTATS_SHARED(Node, nodes, [kMergeThreads]);
  const MergeTask& task = task_of(batch, blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const auto* children = static_cast<const Child*>(task.children);
  const int64_t block = static_cast<int64_t>(blockIdx.x - task.first_block);
  const int64_t first = block * kChildrenPerBlock + thread * kChildrenPerThread;
  const auto child = [&](int64_t i) { return to_node(children, i, task.count, batch); };
  // A merge with an empty node changes nothing: it is left out.
  Node node = empty_node();
  if (first < task.count) {
    node = child(first);
    if (first + 1 < task.count) node = merge_nodes(node, child(first + 1));
    if (first + 2 < task.count) {
      Node upper = child(first + 2);
      if (first + 3 < task.count) upper = merge_nodes(upper, child(first + 3));
      node = merge_nodes(node, upper);
    }
  }
  nodes[thread] = node;
  const int64_t children_left = task.count - block * kChildrenPerBlock;
  const int64_t left = (children_left + kChildrenPerThread - 1) / kChildrenPerThread;
  const int filled = left < kMergeThreads ? static_cast<int>(left) : kMergeThreads;
#pragma unroll 1
  for (int stride = 1; stride < filled; stride *= 2) {
    __syncthreads();
    if (thread % (2 * stride) == 0 && thread + stride < filled)
      nodes[thread] = merge_nodes(nodes[thread], nodes[thread + stride]);
  }
  if (thread != 0) return;
  if (task.blocks == 1) {
    write_record(nodes[0].record, task.elements, nodes[0].fingerprint, task.moments, task.counts);
  } else {
    task.nodes[block] = nodes[0];
  }
}

}  // namespace

}  // namespace initstats::cuda
