// Reflectors, a block each, and panel factors, a warp per row.
#include "cuda/launch.cuh"
#include "cuda/orthogonal/orthogonal.h"
#include "cuda/random/fill_store.cuh"
#include "cuda/reduce.cuh"

namespace initstats::cuda {

namespace {

// 16 bytes per store, as an intrinsic: nvcc 13.0 splits plain vector stores in the loop of
// reflectors into single elements.
__device__ __forceinline__ void store_quad(float* out, float a, float b, float c, float d) {
  __stcg(reinterpret_cast<float4*>(out), make_float4(a, b, c, d));
}

__device__ __forceinline__ void store_quad(double* out, double a, double b, double c, double d) {
  __stcg(reinterpret_cast<double2*>(out), make_double2(a, b));
  __stcg(reinterpret_cast<double2*>(out) + 1, make_double2(c, d));
}

// ---- reflectors

// Thread t adds the chains 4 t, ..., 4 t + 3.
constexpr int kReflectorThreads = kReflectorChains / 4;

// The sum over all chains, in thread 0; sums is scratch.
__device__ __forceinline__ double fold_chains(double (&chain)[4],
                                              double (&sums)[kReflectorChains]) {
  const int t = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int c = 0; c < 4; ++c) sums[4 * t + c] = chain[c];
#pragma unroll
  for (int h = kReflectorChains / 2; h >= 4 * kWarp; h /= 2) {
    __syncthreads();
    if (4 * t < h) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        chain[c] += sums[4 * t + c + h];
        sums[4 * t + c] = chain[c];
      }
    }
  }
  if (t < kWarp) {
#pragma unroll
    for (int h = kWarp / 2; h > 0; h /= 2) {
#pragma unroll
      for (int c = 0; c < 4; ++c) chain[c] += __shfl_down_sync(kAllLanes, chain[c], h);
    }
  }
  return (chain[0] + chain[2]) + (chain[1] + chain[3]);
}

template <class Real>
__global__ void __launch_bounds__(kReflectorThreads)
    reflectors_kernel(INITSTATS_GRID_CONSTANT(ReflectorTask<Real>) task) {
  INITSTATS_SHARED(double, sums, [kReflectorChains]);
  INITSTATS_SHARED(double, tail, );
  const Normal<Real> dist{0, 1};
  const int64_t t = static_cast<int64_t>(threadIdx.x);
  // The matrix as a coordinate of the grid stays in uniform registers, and its key with it.
  const unsigned matrix = blockIdx.y;
  const int64_t index = task.first + static_cast<int64_t>(blockIdx.x);
  const int64_t row = static_cast<int64_t>(matrix) * task.rows + static_cast<int64_t>(blockIdx.x);
  const bool beyond = index >= task.n;
  // Beyond the last reflector all elements are zeros before the vector.
  const int64_t r = beyond ? task.m + 4 : index, first_quad = task.first / 4;
  const uint64_t key = task.key[matrix];
  const uint64_t stream_quad =
      static_cast<uint64_t>((task.stream_row[matrix] + r) * (reflector_pitch(task.m) / 4));
  Real* const out = task.vectors + row * task.pitch;
  double chain[4] = {};
  Real own = 0;
  // Quads are counted from coordinate 0, so that a thread meets the same chains in every row.
  constexpr int64_t kThreads = kReflectorThreads;
  int64_t quad = first_quad + (t + kThreads - first_quad % kThreads) % kThreads;
#pragma unroll 1
  for (; quad < first_quad + task.pitch / 4; quad += kThreads) {
    const int64_t j = 4 * quad;
    if (j + 3 < r || j >= task.m) {
      store_quad(out + (j - task.first), Real(0), Real(0), Real(0), Real(0));
      continue;
    }
    const Quad<Real> q = StoreReal<Real>::template quad<Scalar32>(
        dist, RunningKeys(key), stream_quad + static_cast<uint64_t>(quad));
    Real x[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      x[c] = j + c < r || j + c >= task.m ? Real(0) : q.v[c];
      if (j + c == r) own = x[c];
      const double later = j + c == r ? 0.0 : static_cast<double>(x[c]);
      chain[c] += later * later;
    }
    store_quad(out + (j - task.first), x[0], x[1], x[2], x[3]);
  }
  const double sum = fold_chains(chain, sums);
  if (t == 0) tail = sum;
  __syncthreads();
  if (beyond) {
    if (t == 0) {
      task.squares[row] = 1;
      task.diagonal[row] = 0;
    }
  } else if (t == r / 4 % kThreads) {
    // The thread that wrote this element before.
    const Reflection<Real> reflection = reflection_of(own, tail);
    out[r - task.first] = reflection.first;
    task.squares[row] = reflection.square;
    task.diagonal[row] = reflection.diagonal;
  }
}

// ---- panel factors

constexpr int kFactorThreads = 128;
// At least so many blocks per processor, which bounds the registers: 64, for float64 80.
template <class Real>
constexpr int kFactorBlocks = sizeof(Real) == 4 ? 8 : 6;
constexpr int kRowsPerBlock = kFactorThreads / kWarp;
constexpr int kColumnsPerLane = 4;
constexpr int kChunk = kColumnsPerLane * kWarp;  // columns that a warp passes at a time

// The elements of row l right of the diagonal that are in the lane's columns of a chunk, from the
// group of 32 columns kGroup on.
template <int kGroup, class Real>
__device__ __forceinline__ void load_row(const Real* gram, int k, int l, int chunk, int lane,
                                         Real (&element)[kColumnsPerLane]) {
#pragma unroll
  for (int d = kGroup; d < kColumnsPerLane; ++d) {
    const int column = chunk + d * kWarp + lane;
    if (column > l && column < k) element[d] = gram[static_cast<int64_t>(l) * k + column];
  }
}

// The factors of a group of 32 columns, one after another; each adds its row to later columns. The
// next row is on its way before a factor is known, which is all that a step waits for.
template <int kGroup, class Real>
__device__ __forceinline__ void factor_group(const Real* gram, int k, int i, int chunk, int lane,
                                             double square, double (&sum)[kColumnsPerLane],
                                             double* t) {
  const int group = chunk + kGroup * kWarp;
  const int begin = group > i ? group : i, end = group + kWarp < k ? group + kWarp : k;
  Real next[kColumnsPerLane] = {};
  if (begin < end) load_row<kGroup>(gram, k, begin, chunk, lane, next);
#pragma unroll 1
  for (int l = begin; l < end; ++l) {
    Real element[kColumnsPerLane];
#pragma unroll
    for (int d = kGroup; d < kColumnsPerLane; ++d) element[d] = next[d];
    if (l + 1 < end) load_row<kGroup>(gram, k, l + 1, chunk, lane, next);
    const int owner = l % kWarp;
    const double mine = factor_element(l == i, sum[kGroup], square);
    const double factor = __shfl_sync(kAllLanes, mine, owner);
    if (lane == owner) t[l] = factor;
#pragma unroll
    for (int d = kGroup; d < kColumnsPerLane; ++d) {
      const int column = chunk + d * kWarp + lane;
      if (column > l && column < k) sum[d] += factor * static_cast<double>(element[d]);
    }
  }
}

// Lane a holds the columns a, a + 32, ... of the chunk of its warp's row.
template <class Real>
__global__ void __launch_bounds__(kFactorThreads, kFactorBlocks<Real>)
    panel_factors_kernel(const Real* gram, const double* squares, Real* factors, int k,
                         int blocks_per_panel) {
  INITSTATS_SHARED(double, rows, [kRowsPerBlock][kMostReflectorsInPanel]);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t panel = static_cast<int64_t>(blockIdx.x) / blocks_per_panel;
  const int i =
      static_cast<int>(static_cast<int64_t>(blockIdx.x) % blocks_per_panel) * kRowsPerBlock + warp;
  if (i >= k) return;  // the whole warp
  const Real* const r = gram + panel * k * k;
  Real* const out = factors + (panel * k + i) * k;
  double* const t = rows[warp];
#pragma unroll 1
  for (int chunk = i / kChunk * kChunk; chunk < k; chunk += kChunk) {
    double sum[kColumnsPerLane] = {}, square[kColumnsPerLane];
#pragma unroll
    for (int d = 0; d < kColumnsPerLane; ++d) {
      const int column = chunk + d * kWarp + lane;
      square[d] = column < k ? squares[panel * k + column] : 1.0;
    }
    // What the chunks before add: no element of this chunk is needed yet, so loads overlap.
#pragma unroll 2
    for (int l = i; l < chunk; ++l) {
      const double factor = t[l];
#pragma unroll
      for (int d = 0; d < kColumnsPerLane; ++d) {
        const int column = chunk + d * kWarp + lane;
        if (column < k)
          sum[d] += factor * static_cast<double>(r[static_cast<int64_t>(l) * k + column]);
      }
    }
    static_assert(kColumnsPerLane == 4);
    factor_group<0>(r, k, i, chunk, lane, square[0], sum, t);
    factor_group<1>(r, k, i, chunk, lane, square[1], sum, t);
    factor_group<2>(r, k, i, chunk, lane, square[2], sum, t);
    factor_group<3>(r, k, i, chunk, lane, square[3], sum, t);
    __syncwarp();  // the next chunk reads what other lanes wrote
  }
#pragma unroll 1
  for (int column = lane; column < k; column += kWarp)
    out[column] = column < i ? Real(0) : static_cast<Real>(t[column]);
}

}  // namespace

template <class Real>
cudaError_t launch_reflectors(const ReflectorTask<Real>& task, cudaStream_t cuda_stream) {
  if (task.rows == 0 || task.matrices == 0) return cudaSuccess;
  if (task.matrices > kMostMatrices || task.rows > kMostBlocks)
    return cudaErrorInvalidConfiguration;
  return launch(reflectors_kernel<Real>,
                dim3(static_cast<unsigned>(task.rows), static_cast<unsigned>(task.matrices)),
                dim3(kReflectorThreads), 0, cuda_stream, task);
}

template <class Real>
cudaError_t launch_panel_factors(const Real* gram, const double* squares, Real* factors,
                                 int64_t panels, int64_t k, cudaStream_t cuda_stream) {
  if (panels == 0 || k == 0) return cudaSuccess;
  const int64_t per_panel = (k + kRowsPerBlock - 1) / kRowsPerBlock;
  return launch(panel_factors_kernel<Real>, dim3(static_cast<unsigned>(panels * per_panel)),
                dim3(kFactorThreads), 0, cuda_stream, gram, squares, factors, static_cast<int>(k),
                static_cast<int>(per_panel));
}

template cudaError_t launch_reflectors(const ReflectorTask<float>&, cudaStream_t);
template cudaError_t launch_reflectors(const ReflectorTask<double>&, cudaStream_t);
template cudaError_t launch_panel_factors(const float*, const double*, float*, int64_t, int64_t,
                                          cudaStream_t);
template cudaError_t launch_panel_factors(const double*, const double*, double*, int64_t, int64_t,
                                          cudaStream_t);

}  // namespace initstats::cuda
