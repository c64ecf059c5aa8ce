// Dirac fills: a block per output channel, whose threads write its row side by side.
#include "cuda/launch.cuh"
#include "cuda/random/dirac.h"

namespace initstats::cuda {

namespace {

constexpr unsigned kThreads = 128;

template <class Bits>
__global__ void __launch_bounds__(kThreads)
    dirac_kernel(INITSTATS_GRID_CONSTANT(Dirac) dirac, Bits* data, Bits value) {
  for (int64_t channel = blockIdx.x; channel < dirac.channels; channel += gridDim.x) {
    const int64_t row = dirac.row(), place = dirac.place(channel);
    Bits* const out = data + channel * row;
    for (int64_t i = threadIdx.x; i < row; i += kThreads) out[i] = i == place ? value : Bits{0};
  }
}

template <class Bits>
cudaError_t launch_of_width(const Dirac& dirac, void* data, uint64_t value,
                            cudaStream_t cuda_stream) {
  const int64_t blocks = dirac.channels < kMostBlocks ? dirac.channels : kMostBlocks;
  return launch(dirac_kernel<Bits>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
                cuda_stream, dirac, static_cast<Bits*>(data), static_cast<Bits>(value));
}

}  // namespace

cudaError_t launch_dirac(const Dirac& dirac, void* data, int64_t item_bytes, uint64_t value,
                         cudaStream_t cuda_stream) {
  if (dirac.channels == 0 || dirac.row() == 0) return cudaSuccess;
  switch (item_bytes) {
    case 8:
      return launch_of_width<uint64_t>(dirac, data, value, cuda_stream);
    case 4:
      return launch_of_width<uint32_t>(dirac, data, value, cuda_stream);
    default:
      return launch_of_width<uint16_t>(dirac, data, value, cuda_stream);
  }
}

}  // namespace initstats::cuda
