// Dirac kernels and identities: at most one element that is not zero per output channel.
#pragma once

#include "math/core/lanes.h"

namespace initstats {

// A contiguous weight [channels, inputs, kernel]: channel c of every group passes input c on, with
// its one at the centre of the kernel. A matrix is a kernel of one element.
struct Dirac {
  int64_t channels;            // output channels of all groups
  int64_t channels_per_group;  // > 0
  int64_t inputs;              // per group, as the weight has them
  int64_t kernel;              // elements of one kernel
  int64_t centre;              // 0 <= centre < kernel

  INITSTATS_HD int64_t row() const { return inputs * kernel; }

  // Where in its row the element of a channel is that is not zero, or -1.
  INITSTATS_HD int64_t place(int64_t channel) const {
    // 32 bits: 64-bit divisions are function calls on a GPU. The op refuses 2^32 channels and more.
    const uint32_t in_group =
        static_cast<uint32_t>(channel) % static_cast<uint32_t>(channels_per_group);
    return in_group < inputs ? in_group * kernel + centre : -1;
  }
};

}  // namespace initstats
