// Many tasks in one launch: they travel as the kernel's parameters, and each block finds its own.
#pragma once

#include "cuda/launch.cuh"

namespace initstats::cuda {

struct NoHead {};

// The parameters of a launch: what all tasks share, and the tasks. A Task has a uint32_t
// first_block, which TaskLauncher sets.
template <class Head, class Task, int kCapacity>
struct TaskBatch : Head {
  int32_t count;
  Task task[kCapacity];
};

// The most tasks of a launch.
template <class Head, class Task>
constexpr int kFullBatch = static_cast<int>(
    (kLargestParameters - (sizeof(TaskBatch<Head, Task, 1>) - sizeof(Task))) / sizeof(Task));
constexpr int kSmallBatch = 4;  // most calls are for a few tensors: do not copy 32 KB for them

// The task that the block works on: the last one whose first block is not beyond it.
template <class Batch>
__device__ __forceinline__ const auto& task_of(const Batch& batch, uint32_t block) {
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

// Collects tasks and launches a batch whenever it is full. Kernel has the types Head and Task, the
// numbers kThreads and kSmall <= kCapacity, and `kernel`, a template over the capacity of its
// batch, for these two capacities.
template <class Kernel>
class TaskLauncher {
  using Head = typename Kernel::Head;
  using Task = typename Kernel::Task;

 public:
  TaskLauncher(const Head& head, cudaStream_t cuda_stream) : cuda_stream_(cuda_stream) {
    static_cast<Head&>(batch_) = head;
  }

  cudaError_t add(const Task& task, int64_t blocks) {
    if (blocks > kMostBlocks) return cudaErrorInvalidConfiguration;
    if (batch_.count == Kernel::kCapacity || blocks_ + blocks > kMostBlocks) {
      const cudaError_t status = flush();
      if (status != cudaSuccess) return status;
    }
    Task& added = batch_.task[batch_.count++];
    added = task;
    added.first_block = static_cast<uint32_t>(blocks_);
    blocks_ += blocks;
    return cudaSuccess;
  }

  cudaError_t flush() {
    if (batch_.count == 0) return cudaSuccess;
    const cudaError_t status = launch_batch();
    batch_.count = 0;
    blocks_ = 0;
    return status;
  }

 private:
  cudaError_t launch_batch() {
    const dim3 grid(static_cast<unsigned>(blocks_)), threads(Kernel::kThreads);
    if constexpr (Kernel::kSmall < Kernel::kCapacity) {
      if (batch_.count <= Kernel::kSmall) {
        TaskBatch<Head, Task, Kernel::kSmall> small{};
        static_cast<Head&>(small) = batch_;
        small.count = batch_.count;
        for (int i = 0; i < batch_.count; ++i) small.task[i] = batch_.task[i];
        return launch(Kernel::template kernel<Kernel::kSmall>, grid, threads, 0, cuda_stream_,
                      small);
      }
    }
    return launch(Kernel::template kernel<Kernel::kCapacity>, grid, threads, 0, cuda_stream_,
                  batch_);
  }

  cudaStream_t cuda_stream_;
  int64_t blocks_ = 0;
  TaskBatch<Head, Task, Kernel::kCapacity> batch_{};
};

}  // namespace initstats::cuda
