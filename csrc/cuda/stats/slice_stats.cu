// The kernels of the statistics of slices, and their launches: a warp takes one group of 32 slices.
#include "cuda/reduce.cuh"
#include "cuda/stats/slice_stats.h"
#include "cuda/stats/stats_load.cuh"

namespace initstats::cuda {

namespace {

constexpr int kMergeThreads = 128;

struct SliceTask {
  SliceTarget target;
  Record* records;  // [groups, slices], unused with one group
  int64_t groups, warps_per_group;
  bool lanes_along_elements;
};

// Where a warp puts a chunk: element e of slice s at [e][s], read by lane s. A column more keeps
// the lanes of either direction in different banks.
template <class Value>
struct SliceShared {
  static constexpr int kWarps = 16 / static_cast<int>(sizeof(Value));
  Value staged[kWarps][kChunk][kWarp + 1];
};

// Whether the lane's item of a step exists: its element of slice `step`, or element `step` of its
// slice.
__device__ __forceinline__ bool is_there(const SliceTask& task, int step, int half, int n,
                                         int present) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int e = half * kWarp + (task.lanes_along_elements ? lane : step);
  return e < n && (task.lanes_along_elements ? step : lane) < present;
}

// Reads the chunk of n elements, two of whose offsets each lane holds, for 32 slices, whose
// offsets the lanes hold; `present` of them exist.
template <class Value>
__device__ __forceinline__ void stage_chunk(const SliceTask& task,
                                            Value (&staged)[kChunk][kWarp + 1], int64_t slice,
                                            const int64_t (&element)[2], int n, int present) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr int kStep = kItemsAhead / 2;  // slices or elements whose items are asked for together
  with_stored<Value>(task.target.type, [&](auto stored) {
    using Stored = decltype(stored);
    const auto* const data = static_cast<const Stored*>(task.target.data);
#pragma unroll 1
    for (int begin = 0; begin < kWarp; begin += kStep) {
      const Stored* item[kStep][2];
#pragma unroll
      for (int j = 0; j < kStep; ++j) {
        const int64_t first = __shfl_sync(kAllLanes, slice, begin + j);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t e = __shfl_sync(kAllLanes, element[half], begin + j);
          item[j][half] = data + (task.lanes_along_elements ? first + element[half] : slice + e);
        }
      }
      // Shuffles end before loads begin, or the last ones would wait for the first.
      Stored bits[2 * kStep] = {};
#pragma unroll
      for (int j = 0; j < kStep; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (is_there(task, begin + j, half, n, present)) bits[2 * j + half] = *item[j][half];
        }
      }
      end_of_loads(bits);
      with_conversion<Value, Stored>(task.target.type, [&](auto value) {
#pragma unroll
        for (int j = 0; j < kStep; ++j) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if (!is_there(task, begin + j, half, n, present)) continue;
            Value& place = task.lanes_along_elements ? staged[half * kWarp + lane][begin + j]
                                                     : staged[half * kWarp + begin + j][lane];
            place = value(bits[2 * j + half]);
          }
        }
      });
    }
  });
}

// The record of one chunk of n elements of the lane's slice.
template <class L, class Value>
__device__ __forceinline__ Record chunk_record(const Value (&staged)[kChunk][kWarp + 1], int n) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  ChunkExtrema<L, true> extrema;
#pragma unroll 4
  for (int e = 0; e < n; ++e) extrema.see(staged[e][lane]);
  TileSums<Value> sums;
  set_extrema(sums, n, extrema.share, extrema.min, extrema.max, extrema.min_abs,
              static_cast<int>(extrema.nan), static_cast<int>(extrema.pos_inf),
              static_cast<int>(extrema.neg_inf), static_cast<int>(extrema.zero));
  ChunkPowers<L, true> powers(tile_scale(sums), sums.pivot);
#pragma unroll 4
  for (int e = 0; e < n; ++e) powers.see(staged[e][lane]);
  set_sums(sums, powers.s1, powers.s2, powers.s3, powers.s4, powers.l1);
  return to_record(sums);
}

// So many warps per processor at least, which bounds the registers: 128.
constexpr int kWarpsPerProcessor = 16;

template <class L>
__global__ void __launch_bounds__(SliceShared<typename L::F>::kWarps* kWarp,
                                  kWarpsPerProcessor / SliceShared<typename L::F>::kWarps)
    slice_group_kernel(INITSTATS_GRID_CONSTANT(SliceTask) task) {
  using Value = typename L::F;
  INITSTATS_SHARED(SliceShared<Value>, shared, );
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * SliceShared<Value>::kWarps + warp;
  const int64_t group = index / task.warps_per_group;
  if (group >= task.groups) return;
  const int64_t slices = task.target.slices.count, count = task.target.elements.count;
  const int64_t first = index % task.warps_per_group * kWarp, mine = first + lane;
  const int present = slices - first < kWarp ? static_cast<int>(slices - first) : kWarp;
  const int64_t slice = task.target.slices.place(lane < present ? mine : first).offset;
  const int64_t end = (group + 1) * kGroup < count ? (group + 1) * kGroup : count;
  Value(&staged)[kChunk][kWarp + 1] = shared.staged[warp];
  Record record = empty_record();
#pragma unroll 1
  for (int64_t begin = group * kGroup; begin < end; begin += kChunk) {
    const int n = end - begin < kChunk ? static_cast<int>(end - begin) : kChunk;
    int64_t element[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int e = half * kWarp + lane;
      element[half] = task.target.elements.place(begin + (e < n ? e : 0)).offset;
    }
    __syncwarp();  // the chunk before has been read
    stage_chunk(task, staged, slice, element, n, present);
    __syncwarp();
    if (lane < present) {
      const Record chunk = chunk_record<L>(staged, n);
      record = begin == group * kGroup ? chunk : merge(record, chunk);
    }
  }
  if (lane >= present) return;
  if (task.groups > 1) {
    task.records[group * slices + mine] = record;
  } else {
    write_record(record, count, 0, task.target.moments + mine * kMomentColumns,
                 task.target.counts + mine * kCountColumns);
  }
}

__global__ void __launch_bounds__(kMergeThreads)
    slice_merge_kernel(INITSTATS_GRID_CONSTANT(SliceTask) task) {
  const int64_t slices = task.target.slices.count;
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kMergeThreads + threadIdx.x;
  if (s >= slices) return;
  Record record = empty_record();
#pragma unroll 1
  for (int64_t group = 0; group < task.groups; ++group) {
    const Record next = task.records[group * slices + s];
    record = group == 0 ? next : merge(record, next);
  }
  write_record(record, task.target.elements.count, 0, task.target.moments + s * kMomentColumns,
               task.target.counts + s * kCountColumns);
}

template <class L>
cudaError_t launch_groups(const SliceTask& task, cudaStream_t cuda_stream) {
  constexpr int kWarps = SliceShared<typename L::F>::kWarps;
  const int64_t blocks = divide_up(task.groups * task.warps_per_group, kWarps);
  if (blocks > kMostBlocks) return cudaErrorInvalidConfiguration;
  return launch(slice_group_kernel<L>, dim3(static_cast<unsigned>(blocks)), dim3(kWarps * kWarp), 0,
                cuda_stream, task);
}

int64_t innermost_stride(const Layout& layout) {
  const int64_t stride = layout.stride[layout.dims - 1];
  return stride < 0 ? -stride : stride;
}

}  // namespace

int64_t slice_stats_workspace_bytes(const SliceTarget& target) {
  const int64_t groups = groups_of(target.elements.count);
  return groups > 1 ? groups * target.slices.count * static_cast<int64_t>(sizeof(Record)) : 0;
}

cudaError_t launch_slice_stats(const SliceTarget& target, void* workspace,
                               cudaStream_t cuda_stream) {
  if (target.slices.count == 0) return cudaSuccess;
  SliceTask task{};
  task.target = target;
  task.records = static_cast<Record*>(workspace);
  task.groups = groups_of(target.elements.count);
  task.warps_per_group = divide_up(target.slices.count, kWarp);
  // A single slice's stride says nothing.
  task.lanes_along_elements = target.slices.count == 1 ||
                              innermost_stride(target.elements) < innermost_stride(target.slices);
  if (task.groups > 0) {
    const cudaError_t status = is_wide(target.type) ? launch_groups<Scalar64>(task, cuda_stream)
                                                    : launch_groups<Scalar32>(task, cuda_stream);
    if (status != cudaSuccess || task.groups == 1) return status;
  }
  const int64_t blocks = divide_up(target.slices.count, kMergeThreads);
  if (blocks > kMostBlocks) return cudaErrorInvalidConfiguration;
  return launch(slice_merge_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kMergeThreads), 0,
                cuda_stream, task);
}

}  // namespace initstats::cuda
