// A block of consecutive elements of the stream, drawn at once and written in the storage type.
#pragma once

#include "cpu/lanes.h"
#include "cpu/storage.h"
#include "math/distributions.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

constexpr int64_t kBlock = 4 * Lanes32::kWidth;  // elements whose words are drawn at once

// Writes the kBlock elements from quad on, out is [kBlock].
template <class Dist, class Store>
INITSTATS_HD void sample_block(const Dist& dist, uint64_t key, uint64_t quad,
                               typename Store::Item* out) {
  const Words<Lanes32> words = stream_words<Lanes32>(key, quad, Purpose::fill);
  if constexpr (sizeof(typename Store::Item) == 8) {
    const Words<Lanes32> low = stream_words<Lanes32>(key, quad, Purpose::fill_low);
    alignas(64) uint32_t high_words[kBlock], low_words[kBlock];
    alignas(64) uint64_t wide[kBlock];
    memcpy(high_words, words.v, sizeof(high_words));
    memcpy(low_words, low.v, sizeof(low_words));
    for (int i = 0; i < kBlock; ++i)
      wide[i] = static_cast<uint64_t>(high_words[i]) << 32 | low_words[i];
    for (int i = 0; i < kBlock; i += Lanes64::kWidth) {
      typename Lanes64::U word;
      memcpy(&word, wide + i, sizeof(word));
      Store::store(out + i, dist.template sample<Lanes64>(word));
    }
  } else {
    Lanes32::F values[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) values[j] = dist.template sample<Lanes32>(words.v[j]);
    Store::store_block(out, values);
  }
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
