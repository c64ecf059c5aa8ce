// Small orthogonal matrices: a block makes 32 columns of one matrix, from reflectors that it draws
// itself.
#include "cuda/launch.cuh"
#include "cuda/orthogonal/orthogonal.h"
#include "cuda/random/fill_store.cuh"
#include "cuda/reduce.cuh"
#include "cuda/task_batch.cuh"

namespace initstats::cuda {

namespace {

constexpr int kThreads = kSmallPanel * kWarp;  // a warp for each reflector of a panel
constexpr int kColumns = kWarp;                // of a block: one per lane
constexpr int kTasks = 100;                    // of a launch
// At least so many blocks per processor, which bounds the registers: 64, twice that for float64.
template <class Real>
constexpr int kBlocksPerProcessor = 32 / static_cast<int>(sizeof(Real));

// A warp draws reflector r of R^m, lane a its coordinates 4 a, ..., 4 a + 3, into v [kSmallSide].
template <class Real>
__device__ __forceinline__ Reflection<Real> make_reflector(uint64_t key, uint64_t stream_quad,
                                                           int r, int m, Real* v) {
  const Normal<Real> dist{0, 1};
  const int lane = static_cast<int>(threadIdx.x) % kWarp, j = 4 * lane;
  Quad<Real> q{};
  if (j + 3 >= r && j < m) {
    q = StoreReal<Real>::template quad<Scalar32>(dist, RunningKeys(key),
                                                 stream_quad + static_cast<uint64_t>(lane));
  }
  double chain[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (j + c < r || j + c >= m) q.v[c] = 0;
    const double x = j + c == r ? 0.0 : static_cast<double>(q.v[c]);
    chain[c] = x * x;
  }
#pragma unroll
  for (int h = kWarp / 2; h > 0; h /= 2) {
#pragma unroll
    for (int c = 0; c < 4; ++c) chain[c] += __shfl_down_sync(kAllLanes, chain[c], h);
  }
  const double tail = __shfl_sync(kAllLanes, (chain[0] + chain[2]) + (chain[1] + chain[3]), 0);
  const Real own = __shfl_sync(kAllLanes, q.pick(r % 4), r / 4);
  const Reflection<Real> reflection = reflection_of(own, tail);
#pragma unroll
  for (int c = 0; c < 4; ++c) v[j + c] = j + c == r ? reflection.first : q.v[c];
  return reflection;
}

template <class Real>
__device__ __forceinline__ void write(const SmallTask& task, int64_t place, Real value) {
  if constexpr (sizeof(Real) == 8) {
    static_cast<double*>(task.data)[place] = value;
  } else if (task.dtype == DType::float32) {
    static_cast<float*>(task.data)[place] = value;
  } else if (task.dtype == DType::bfloat16) {
    static_cast<uint16_t*>(task.data)[place] = RoundBFloat16::bits(value);
  } else {
    static_cast<uint16_t*>(task.data)[place] = RoundFloat16::bits(value);
  }
}

// Half a warp multiplies two vectors of a panel, products [kSmallPairs].
template <class Real>
__device__ __forceinline__ void multiply(const Real (&v)[kSmallPanel][kSmallSide], int first, int m,
                                         Real* products) {
  static_assert(kSmallChains == kWarp / 2 && kSmallPairs % 2 == 0);
  const int pair = static_cast<int>(threadIdx.x) / kSmallChains;
  if (pair >= kSmallPairs) return;  // whole warps
  const int l = pair < 1 ? 1 : pair < 3 ? 2 : 3, k = pair - l * (l - 1) / 2;
  const int chain = static_cast<int>(threadIdx.x) % kSmallChains;
  Real sum = 0;
  for (int i = first / kSmallChains * kSmallChains + chain; i < m; i += kSmallChains)
    sum = fma(v[k][i], v[l][i], sum);
#pragma unroll
  for (int h = kSmallChains / 2; h > 0; h /= 2) sum += __shfl_down_sync(kAllLanes, sum, h);
  if (chain == 0) products[pair] = sum;
}

template <class Real>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor<Real>)
    small_orthogonal_kernel(INITSTATS_GRID_CONSTANT(TaskBatch<NoHead, SmallTask, kTasks>) batch) {
  INITSTATS_SHARED(Real, c, [kSmallSide][kColumns]);
  INITSTATS_SHARED(Real, v, [kSmallPanel][kSmallSide]);
  INITSTATS_SHARED(Real, scale, [kSmallPanel]);
  INITSTATS_SHARED(Real, products, [kSmallPairs]);
  INITSTATS_SHARED(Real, projection, [kSmallPanel][kColumns]);
  const SmallTask& task = task_of(batch, blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int m = task.m, n = task.n;
  const int chunks = (n + kColumns - 1) / kColumns;
  const int64_t block = static_cast<int64_t>(blockIdx.x - task.first_block);
  const int64_t matrix = block / chunks;
  const int first_column = static_cast<int>(block % chunks) * kColumns;
  const int column = first_column + lane;
  const uint64_t pitch_quads = static_cast<uint64_t>(reflector_pitch(m) / 4);
  const uint64_t first_row =
      (static_cast<uint64_t>(matrix) + task.first_matrix) * static_cast<uint64_t>(n);

  for (int i = warp; i < m; i += kSmallPanel) c[i][lane] = 0;
  // Reflections beyond the block's columns leave them as they are.
  const int last = (first_column + kColumns < n ? first_column + kColumns : n) - 1;
#pragma unroll 1
  for (int first = last / kSmallPanel * kSmallPanel; first >= 0; first -= kSmallPanel) {
    __syncthreads();
    if (const int r = first + warp; r < n) {
      const Reflection<Real> reflection = make_reflector(
          task.key, (first_row + static_cast<uint64_t>(r)) * pitch_quads, r, m, v[warp]);
      if (lane == 0) scale[warp] = static_cast<Real>(2.0 / reflection.square);
      if (column == r) c[r][lane] = reflection.diagonal;
    } else {
      for (int i = lane; i < m; i += kWarp) v[warp][i] = 0;
      if (lane == 0) scale[warp] = 0;
    }
    __syncthreads();
    multiply(v, first, m, products);
    Real sum = 0;
#pragma unroll 4
    for (int i = first; i < m; ++i) sum = fma(v[warp][i], c[i][lane], sum);
    projection[warp][lane] = sum;
    __syncthreads();
    Real step[kSmallPanel];
#pragma unroll
    for (int k = kSmallPanel - 1; k >= 0; --k) {
      step[k] = projection[k][lane];
#pragma unroll
      for (int l = kSmallPanel - 1; l > k; --l)
        step[k] = fma(products[l * (l - 1) / 2 + k], step[l], step[k]);
      step[k] *= -scale[k];
    }
    for (int i = first + warp; i < m; i += kSmallPanel) {
      Real row = c[i][lane];
#pragma unroll
      for (int k = kSmallPanel - 1; k >= 0; --k) row = fma(v[k][i], step[k], row);
      c[i][lane] = row;
    }
  }
  if (column >= n) return;
  // A thread writes the rows that it wrote last.
  const Real gain = static_cast<Real>(task.gain);
  const int64_t place = matrix * task.batch_stride + column * task.column_stride;
  for (int i = warp; i < m; i += kSmallPanel)
    write(task, place + i * task.row_stride, c[i][lane] * gain);
}

template <class Real>
struct SmallKernel {
  using Head = NoHead;
  using Task = SmallTask;
  static constexpr unsigned kThreads = cuda::kThreads;
  static constexpr int kCapacity = kTasks, kSmall = kTasks;
  template <int>
  static constexpr auto kernel = small_orthogonal_kernel<Real>;
};

// The tasks of one width of Real.
template <class Real>
cudaError_t launch_width(const SmallTask* tasks, int64_t count, cudaStream_t cuda_stream) {
  TaskLauncher<SmallKernel<Real>> launcher({}, cuda_stream);
  for (int64_t i = 0; i < count; ++i) {
    const SmallTask& t = tasks[i];
    if ((t.dtype == DType::float64) != (sizeof(Real) == 8) || t.count == 0 || t.n == 0) continue;
    const cudaError_t status = launcher.add(t, t.count * divide_up(t.n, kColumns));
    if (status != cudaSuccess) return status;
  }
  return launcher.flush();
}

}  // namespace

cudaError_t launch_small_orthogonal(const SmallTask* tasks, int64_t count,
                                    cudaStream_t cuda_stream) {
  const cudaError_t status = launch_width<float>(tasks, count, cuda_stream);
  return status == cudaSuccess ? launch_width<double>(tasks, count, cuda_stream) : status;
}

}  // namespace initstats::cuda
