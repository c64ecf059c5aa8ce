// Fills: every thread draws the words of its own elements and writes them once.
#include "cuda/launch.cuh"
#include "cuda/random/fill.h"
#include "cuda/random/fill_store.cuh"

namespace initstats::cuda {

namespace {

constexpr unsigned kThreads = 256;
constexpr int kUnroll = 4;                     // chunks per thread
constexpr int64_t kLargestParameters = 32764;  // bytes, CUDA 12.1 and newer
constexpr int64_t kMostBlocks = (1LL << 31) - 1;

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

template <class Task, int kCapacity>
struct Batch {
  int32_t count;
  Task task[kCapacity];
};

template <class Task>
constexpr int kFullBatch =
    static_cast<int>((kLargestParameters - 16) / static_cast<int64_t>(sizeof(Task)));
constexpr int kSmallBatch = 4;  // most calls are for a few tensors: do not copy 32 KB for them
constexpr int kBoxBatch = 16;   // boxes are rare: one size of batch is enough

// The task that block works on: the last one whose first block is not beyond it.
template <class Task, int kCapacity>
__device__ __forceinline__ const Task& task_of(const Batch<Task, kCapacity>& batch,
                                               uint32_t block) {
  int low = 0, high = batch.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (batch.task[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return batch.task[low];
}

template <class Dist, class Store, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    fill_run_kernel(INITSTATS_GRID_CONSTANT(Batch<RunTask<Dist>, kCapacity>) batch) {
  const RunTask<Dist>& task = task_of(batch, blockIdx.x);
  auto* const out = static_cast<typename Store::Item*>(task.data);
  const int64_t chunks = (task.count + Store::kChunk - 1) / Store::kChunk;
  int64_t chunk =
      static_cast<int64_t>(blockIdx.x - task.first_block) * (kThreads * kUnroll) + threadIdx.x;
#pragma unroll 1
  for (int k = 0; k < kUnroll; ++k, chunk += kThreads) {
    if (chunk >= chunks) return;
    const int64_t at = chunk * Store::kChunk;
    if (task.aligned && at + Store::kChunk <= task.count) {
      Store::template store_chunk<Dist>(task.dist, task.key,
                                        static_cast<uint64_t>(task.first_index + at), out + at);
      continue;
    }
    // Edges, and runs that start off a quad or off 16 bytes: the quads that hold the chunk's
    // elements, one by one.
    const int64_t end = at + Store::kChunk < task.count ? at + Store::kChunk : task.count;
    for (int64_t i = at; i < end;) {
      const uint64_t index = static_cast<uint64_t>(task.first_index + i);
      const auto quad = Store::template quad<Dist>(task.dist, task.key, index / 4);
      for (int j = static_cast<int>(index % 4); j < 4 && i < end; ++j, ++i) out[i] = quad.pick(j);
    }
  }
}

template <class Dist, class Store, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    fill_box_kernel(INITSTATS_GRID_CONSTANT(Batch<BoxTask<Dist>, kCapacity>) batch) {
  const BoxTask<Dist>& task = task_of(batch, blockIdx.x);
  auto* const out = static_cast<typename Store::Item*>(task.data);
  const int64_t unit = static_cast<int64_t>(blockIdx.x - task.first_block) * kThreads + threadIdx.x;
  if (unit >= task.units) return;
  if (task.quads_per_row == 0) {
    const Layout::Place place = task.layout.place(unit);
    const uint64_t index = static_cast<uint64_t>(place.index);
    out[place.offset] = Store::template quad<Dist>(task.dist, task.key, index / 4)
                            .pick(static_cast<int>(index % 4));
    return;
  }
  const int inner = task.layout.dims - 1;
  const int64_t row = unit / task.quads_per_row, size = task.layout.size[inner];
  const Layout::Place place = task.layout.place(row * size);  // of the row's first element
  const uint64_t first = static_cast<uint64_t>(place.index);
  const uint64_t quad_index = first / 4 + static_cast<uint64_t>(unit - row * task.quads_per_row);
  const auto quad = Store::template quad<Dist>(task.dist, task.key, quad_index);
  for (int j = 0; j < 4; ++j) {
    const int64_t i = static_cast<int64_t>(quad_index * 4 + static_cast<uint64_t>(j) - first);
    if (i >= 0 && i < size) out[place.offset + i * task.layout.stride[inner]] = quad.pick(j);
  }
}

int64_t blocks_for(int64_t units, int64_t per_block) { return (units + per_block - 1) / per_block; }

// Collects tasks and launches a batch whenever it is full.
template <class Kernel>
class Batches {
  using Task = typename Kernel::Task;

 public:
  explicit Batches(cudaStream_t stream) : stream_(stream) {}

  cudaError_t add(Task task, int64_t blocks) {
    if (blocks > kMostBlocks) return cudaErrorInvalidConfiguration;
    if (batch_.count == Kernel::kCapacity || blocks_ + blocks > kMostBlocks) {
      const cudaError_t status = flush();
      if (status != cudaSuccess) return status;
    }
    task.first_block = static_cast<uint32_t>(blocks_);
    batch_.task[batch_.count++] = task;
    blocks_ += blocks;
    return cudaSuccess;
  }

  cudaError_t flush() {
    if (batch_.count == 0) return cudaSuccess;
    const dim3 grid(static_cast<unsigned>(blocks_));
    cudaError_t status;
    if (batch_.count <= Kernel::kSmall) {
      Batch<Task, Kernel::kSmall> small;
      small.count = batch_.count;
      for (int i = 0; i < batch_.count; ++i) small.task[i] = batch_.task[i];
      status = launch(Kernel::small, grid, dim3(kThreads), 0, stream_, small);
    } else {
      status = launch(Kernel::full, grid, dim3(kThreads), 0, stream_, batch_);
    }
    batch_.count = 0;
    blocks_ = 0;
    return status;
  }

 private:
  cudaStream_t stream_;
  int64_t blocks_ = 0;
  Batch<Task, Kernel::kCapacity> batch_{};
};

template <class Dist, class Store>
struct RunKernel {
  using Task = RunTask<Dist>;
  static constexpr int kCapacity = kFullBatch<Task>;
  static constexpr int kSmall = kSmallBatch;
  static constexpr auto small = fill_run_kernel<Dist, Store, kSmall>;
  static constexpr auto full = fill_run_kernel<Dist, Store, kCapacity>;
};

template <class Dist, class Store>
struct BoxKernel {
  using Task = BoxTask<Dist>;
  static constexpr int kCapacity = kBoxBatch;
  static constexpr int kSmall = kBoxBatch;
  static constexpr auto small = fill_box_kernel<Dist, Store, kSmall>;
  static constexpr auto full = small;
};

// The tensors of one storage type.
template <class Dist, class Store>
cudaError_t launch_fill_of(DType dtype, const FillTarget<Dist>* targets, int64_t count,
                           cudaStream_t stream) {
  Batches<RunKernel<Dist, Store>> runs(stream);
  Batches<BoxKernel<Dist, Store>> boxes(stream);
  for (int64_t i = 0; i < count; ++i) {
    const FillTarget<Dist>& t = targets[i];
    if (t.dtype != dtype || t.layout.count == 0) continue;
    cudaError_t status;
    if (t.layout.is_one_run()) {
      const bool aligned =
          t.layout.first_index % 4 == 0 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
      const int64_t chunks = blocks_for(t.layout.count, Store::kChunk);
      status = runs.add({t.data, t.key, t.layout.first_index, t.layout.count, 0, aligned, t.dist},
                        blocks_for(chunks, kThreads * kUnroll));
    } else {
      const int inner = t.layout.dims - 1;
      const int64_t size = t.layout.size[inner];
      // A row of `size` elements that starts anywhere touches at most this many quads.
      const int64_t quads = t.layout.logical[inner] == 1 ? (size + 6) / 4 : 0;
      const int64_t units = quads == 0 ? t.layout.count : t.layout.count / size * quads;
      status = boxes.add({t.data, t.key, t.layout, units, quads, 0, t.dist},
                         blocks_for(units, kThreads));
    }
    if (status != cudaSuccess) return status;
  }
  const cudaError_t status = runs.flush();
  return status == cudaSuccess ? boxes.flush() : status;
}

}  // namespace

template <class Dist>
cudaError_t launch_fill(const FillTarget<Dist>* targets, int64_t count, cudaStream_t stream) {
  if constexpr (sizeof(typename Dist::Value) == 8) {
    return launch_fill_of<Dist, StoreFloat64>(DType::float64, targets, count, stream);
  } else {
    cudaError_t status = launch_fill_of<Dist, StoreFloat32>(DType::float32, targets, count, stream);
    if (status == cudaSuccess)
      status = launch_fill_of<Dist, StoreBFloat16>(DType::bfloat16, targets, count, stream);
    if (status == cudaSuccess)
      status = launch_fill_of<Dist, StoreFloat16>(DType::float16, targets, count, stream);
    return status;
  }
}

template cudaError_t launch_fill(const FillTarget<Uniform<float>>*, int64_t, cudaStream_t);
template cudaError_t launch_fill(const FillTarget<Uniform<double>>*, int64_t, cudaStream_t);
template cudaError_t launch_fill(const FillTarget<Normal<float>>*, int64_t, cudaStream_t);
template cudaError_t launch_fill(const FillTarget<Normal<double>>*, int64_t, cudaStream_t);
template cudaError_t launch_fill(const FillTarget<TruncNormal<float>>*, int64_t, cudaStream_t);
template cudaError_t launch_fill(const FillTarget<TruncNormal<double>>*, int64_t, cudaStream_t);

}  // namespace initstats::cuda
