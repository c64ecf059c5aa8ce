// What a seed means: which random word belongs to which element.
#pragma once

#include "math/random/philox.h"

namespace initstats {

// Note [Stream v1]. Element i (C-order index in the logical tensor, Note [Box]) of a fill with the
// 64-bit key K takes word i % 4 of Philox4x32-10 with key (lo K, hi K) and counter (lo(i/4),
// hi(i/4), purpose, 0). It depends on (K, i, purpose) and on nothing else: not on the device, the
// thread, the launch, the shard or the batch of tensors. Fills of float64 take the high half of
// their 64-bit word from purpose 0 and the low half from purpose 1. Which elements of a sparse
// matrix are zero takes purposes 2 and 3, Note [Sparse columns]. The bits never change without
// "[stream]" in CHANGELOG.md and new golden values (tests/vectors).
enum class Purpose : uint32_t { fill = 0, fill_low = 1, sparse = 2, sparse_low = 3 };

template <class L, class Keys>
INITSTATS_HD Words<L> stream_words(const Keys& keys, uint64_t first_quad, Purpose purpose) {
  return philox_words<L>(keys, first_quad, static_cast<uint32_t>(purpose));
}

template <class L>
INITSTATS_HD Words<L> stream_words(uint64_t key, uint64_t first_quad, Purpose purpose) {
  return stream_words<L>(RunningKeys(key), first_quad, purpose);
}

// The 64-bit words of the quad: high halves first.
struct WideWords {
  uint64_t v[4];
};

template <class Keys>
INITSTATS_HD WideWords stream_wide_words(const Keys& keys, uint64_t quad) {
  const Words<Scalar32> high = stream_words<Scalar32>(keys, quad, Purpose::fill);
  const Words<Scalar32> low = stream_words<Scalar32>(keys, quad, Purpose::fill_low);
  WideWords words;
  for (int j = 0; j < 4; ++j) words.v[j] = static_cast<uint64_t>(high.v[j]) << 32 | low.v[j];
  return words;
}

}  // namespace initstats
