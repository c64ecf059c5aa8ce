// A block of consecutive elements of the stream, drawn at once and written in the storage type.
#pragma once

#include "cpu/simd/lanes.h"
#include "cpu/simd/storage.h"
#include "math/random/distributions.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

constexpr int64_t kBlock = 4 * Lanes32::kWidth;  // elements whose words are drawn at once

template <class Store, class Dist>
INITSTATS_HD void write_block(const Dist& dist, const Words<Lanes32>& words,
                              typename Store::Item* out) {
  Lanes32::F values[4];
  dist.template samples<Lanes32>(words.v, values);
  Store::store_block(out, values);
}

// Writes the kBlock elements from quad on, out is [kBlock].
template <class Store, class Dist>
INITSTATS_MANY_FMA void sample_block(const Dist& dist, uint64_t key, uint64_t quad,
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
      Store::store(out + i, sample<Lanes64>(dist, word));
    }
  } else {
    write_block<Store>(dist, words, out);
  }
}

// Writes n elements, n a multiple of kBlock. Where there are registers enough (AVX-512), the next
// words are drawn before the present values are computed, so that the integer and the
// floating-point units work at the same time.
template <class Store, class Dist>
void sample_blocks(const Dist& dist, uint64_t key, uint64_t quad, typename Store::Item* out,
                   int64_t n) {
  if constexpr (sizeof(typename Store::Item) == 8 || Lanes32::kWidth < 16) {
    for (; n > 0; n -= kBlock, quad += kBlock / 4, out += kBlock)
      sample_block<Store>(dist, key, quad, out);
  } else if (n > 0) {
    Words<Lanes32> words = stream_words<Lanes32>(key, quad, Purpose::fill);
    for (; n > kBlock; n -= kBlock, out += kBlock) {
      quad += kBlock / 4;
      const Words<Lanes32> next = stream_words<Lanes32>(key, quad, Purpose::fill);
      write_block<Store>(dist, words, out);
      for (int j = 0; j < 4; ++j) words.v[j] = next.v[j];
    }
    write_block<Store>(dist, words, out);
  }
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
