// Fills: every thread draws the words of its own elements and writes them once.
#include "cuda/launch.cuh"
#include "cuda/random/fill.h"
#include "cuda/random/fill_store.cuh"
#include "cuda/task_batch.cuh"

namespace initstats::cuda {

namespace {

constexpr unsigned kThreads = 256;
#if !defined(INITSTATS_FILL_BLOCKS)  // tests/gpu/quarter_hour.sh compiles another choice to measure
#define INITSTATS_FILL_BLOCKS 4
#endif
// At least so many blocks per processor, which bounds the registers: 64, and 80 for float64.
template <class Dist>
constexpr int kBlocksPerProcessor = sizeof(typename Dist::Value) == 8 ? 3 : INITSTATS_FILL_BLOCKS;

// What all tasks of a run kernel share.
struct RunHead {
  int32_t chunks_per_thread;
};

// A contiguous tensor, or contiguous rows of a logical tensor.
template <class Dist>
struct RunTask {
  void* data;
  uint64_t key;
  int64_t first_index, count;
  uint32_t first_block;
  bool aligned;  // data and first_index allow 16-byte stores
  Dist dist;
};

template <class Dist>
struct BoxTask {
  void* data;
  uint64_t key;
  Layout layout;
  int64_t units;  // quads of all rows, or elements where the innermost dimension is not in logical
                  // order
  int64_t quads_per_row;  // 0: units are elements
  uint32_t first_block;
  Dist dist;
};

constexpr int kBoxBatch = 16;  // boxes are rare: one size of batch is enough

// Chunks that all threads of the block write side by side, `rows` times; `out` is the thread's
// first. Counters of the stream grow in their low word alone.
template <class Dist, class Store>
__device__ __forceinline__ void fill_rows(const Dist& dist, uint64_t key, uint64_t first_quad,
                                          typename Store::Item* out, int rows) {
  const auto keys = Store::row_keys(key);
  const uint64_t high = first_quad >> 32 << 32;
  uint32_t low = static_cast<uint32_t>(first_quad);
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    Store::template store_chunk<SampleLanes<Dist>>(dist, keys, high | low, out);
    low += kThreads * (Store::kChunk / 4);
    out += kThreads * Store::kChunk;
  }
}

template <class Dist, class Store, int kCapacity>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor<Dist>)
    fill_run_kernel(INITSTATS_GRID_CONSTANT(TaskBatch<RunHead, RunTask<Dist>, kCapacity>) batch) {
  constexpr int kQuads = Store::kChunk / 4;  // of a chunk
  const RunTask<Dist>& task = task_of(batch, blockIdx.x);
  auto* const out = static_cast<typename Store::Item*>(task.data);
  const int64_t chunks = (task.count + Store::kChunk - 1) / Store::kChunk;
  const int64_t begin = static_cast<int64_t>(blockIdx.x - task.first_block) *
                        (static_cast<int64_t>(kThreads) * batch.chunks_per_thread);
  int row = 0;
  if (task.aligned) {
    const uint64_t quad = static_cast<uint64_t>(task.first_index) / 4 + begin * kQuads;
    const int64_t full = (task.count / Store::kChunk - begin) / kThreads;
    const int rows =
        full < batch.chunks_per_thread ? static_cast<int>(full) : batch.chunks_per_thread;
    // One block in 2^32 quads counts past the low word: it takes the way of the edges.
    if (static_cast<uint32_t>(quad) <= 0u - kThreads * kQuads * batch.chunks_per_thread) {
      fill_rows<Dist, Store>(task.dist, task.key, quad + threadIdx.x * kQuads,
                             out + (begin + threadIdx.x) * Store::kChunk, rows);
      row = rows;
    }
  }
  // Edges, and runs that start off a quad or off 16 bytes.
#pragma unroll 1
  for (; row < batch.chunks_per_thread; ++row) {
    const int64_t at = (begin + row * kThreads + threadIdx.x) * Store::kChunk;
    if (at >= task.count) return;
    const RunningKeys keys(task.key);
    if (task.aligned && at + Store::kChunk <= task.count) {
      Store::template store_chunk<Scalar32>(
          task.dist, keys, static_cast<uint64_t>(task.first_index + at) / 4, out + at);
      continue;
    }
    // The quads that hold the chunk's elements, one by one.
    const int64_t end = at + Store::kChunk < task.count ? at + Store::kChunk : task.count;
#pragma unroll 1
    for (int64_t i = at; i < end;) {
      const uint64_t index = static_cast<uint64_t>(task.first_index + i);
      const auto quad = Store::template quad<Scalar32>(task.dist, keys, index / 4);
      for (int j = static_cast<int>(index % 4); j < 4 && i < end; ++j, ++i) out[i] = quad.pick(j);
    }
  }
}

template <class Dist, class Store, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    fill_box_kernel(INITSTATS_GRID_CONSTANT(TaskBatch<NoHead, BoxTask<Dist>, kCapacity>) batch) {
  const BoxTask<Dist>& task = task_of(batch, blockIdx.x);
  auto* const out = static_cast<typename Store::Item*>(task.data);
  const int64_t unit = static_cast<int64_t>(blockIdx.x - task.first_block) * kThreads + threadIdx.x;
  if (unit >= task.units) return;
  if (task.quads_per_row == 0) {
    const Layout::Place place = task.layout.place(unit);
    const uint64_t index = static_cast<uint64_t>(place.index);
    out[place.offset] = Store::template quad<Scalar32>(task.dist, RunningKeys(task.key), index / 4)
                            .pick(static_cast<int>(index % 4));
    return;
  }
  const int inner = task.layout.dims - 1;
  const int64_t row = unit / task.quads_per_row, size = task.layout.size[inner];
  const Layout::Place place = task.layout.place(row * size);  // of the row's first element
  const uint64_t first = static_cast<uint64_t>(place.index);
  const uint64_t quad_index = first / 4 + static_cast<uint64_t>(unit - row * task.quads_per_row);
  const auto quad = Store::template quad<Scalar32>(task.dist, RunningKeys(task.key), quad_index);
  for (int j = 0; j < 4; ++j) {
    const int64_t i = static_cast<int64_t>(quad_index * 4 + static_cast<uint64_t>(j) - first);
    if (i >= 0 && i < size) out[place.offset + i * task.layout.stride[inner]] = quad.pick(j);
  }
}

template <class Dist, class Store>
struct RunKernel {
  using Head = RunHead;
  using Task = RunTask<Dist>;
  static constexpr unsigned kThreads = cuda::kThreads;
  static constexpr int kCapacity = kFullBatch<Head, Task>, kSmall = kSmallBatch;
  template <int kTasks>
  static constexpr auto kernel = fill_run_kernel<Dist, Store, kTasks>;
};

template <class Dist, class Store>
struct BoxKernel {
  using Head = NoHead;
  using Task = BoxTask<Dist>;
  static constexpr unsigned kThreads = cuda::kThreads;
  static constexpr int kCapacity = kBoxBatch, kSmall = kBoxBatch;
  template <int kTasks>
  static constexpr auto kernel = fill_box_kernel<Dist, Store, kTasks>;
};

// Blocks should be many enough to fill a large GPU several times over, and threads long enough to
// make their round keys worthwhile.
template <class Dist>
RunHead run_head(DType dtype, const FillTarget<Dist>* targets, int64_t count, int chunk) {
  constexpr int64_t kManyBlocks = 2048, kLongest = 16;
  int64_t elements = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (targets[i].dtype == dtype && targets[i].layout.is_one_run())
      elements += targets[i].layout.count;
  }
  const int64_t wanted = elements / (chunk * kThreads * kManyBlocks);
  return {static_cast<int32_t>(wanted < 1 ? 1 : wanted > kLongest ? kLongest : wanted)};
}

// The tensors of one storage type.
template <class Dist, class Store>
cudaError_t launch_fill_of(DType dtype, const FillTarget<Dist>* targets, int64_t count,
                           cudaStream_t cuda_stream) {
  const RunHead head = run_head(dtype, targets, count, Store::kChunk);
  TaskLauncher<RunKernel<Dist, Store>> runs(head, cuda_stream);
  TaskLauncher<BoxKernel<Dist, Store>> boxes({}, cuda_stream);
  for (int64_t i = 0; i < count; ++i) {
    const FillTarget<Dist>& t = targets[i];
    if (t.dtype != dtype || t.layout.count == 0) continue;
    cudaError_t status;
    if (t.layout.is_one_run()) {
      const bool aligned =
          t.layout.first_index % 4 == 0 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
      const int64_t chunks = divide_up(t.layout.count, Store::kChunk);
      status = runs.add({t.data, t.key, t.layout.first_index, t.layout.count, 0, aligned, t.dist},
                        divide_up(chunks, static_cast<int64_t>(kThreads) * head.chunks_per_thread));
    } else {
      const int inner = t.layout.dims - 1;
      const int64_t size = t.layout.size[inner];
      // A row of `size` elements that starts anywhere touches at most this many quads.
      const int64_t quads = t.layout.logical[inner] == 1 ? (size + 6) / 4 : 0;
      const int64_t units = quads == 0 ? t.layout.count : t.layout.count / size * quads;
      status =
          boxes.add({t.data, t.key, t.layout, units, quads, 0, t.dist}, divide_up(units, kThreads));
    }
    if (status != cudaSuccess) return status;
  }
  const cudaError_t status = runs.flush();
  return status == cudaSuccess ? boxes.flush() : status;
}

}  // namespace

template <class Dist>
cudaError_t launch_fill(const FillTarget<Dist>* targets, int64_t count, cudaStream_t cuda_stream) {
  if constexpr (sizeof(typename Dist::Value) == 8) {
    return launch_fill_of<Dist, StoreFloat64>(DType::float64, targets, count, cuda_stream);
  } else {
    cudaError_t status =
        launch_fill_of<Dist, StoreFloat32>(DType::float32, targets, count, cuda_stream);
    if (status == cudaSuccess)
      status = launch_fill_of<Dist, StoreBFloat16>(DType::bfloat16, targets, count, cuda_stream);
    if (status == cudaSuccess)
      status = launch_fill_of<Dist, StoreFloat16>(DType::float16, targets, count, cuda_stream);
    return status;
  }
}

#define INITSTATS_LAUNCH_FILL(name, Dist, ...)                                             \
  template cudaError_t launch_fill(const FillTarget<Dist<float>>*, int64_t, cudaStream_t); \
  template cudaError_t launch_fill(const FillTarget<Dist<double>>*, int64_t, cudaStream_t);
INITSTATS_DISTRIBUTIONS(INITSTATS_LAUNCH_FILL)
#undef INITSTATS_LAUNCH_FILL

}  // namespace initstats::cuda
