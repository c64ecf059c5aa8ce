// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"),
// over any lane family.
#pragma once

#include "math/core/lanes.h"

namespace initstats {

// The words of L::kWidth consecutive counters: v[j], lane k is word (j * kWidth + k) % 4 of counter
// first + (j * kWidth + k) / 4, that is, the 4 * kWidth words in the order of the stream.
template <class L>
struct Words {
  typename L::U v[4];
};

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;

// The two key words of each round, taken in turn: from the key, or from a table.
struct RunningKeys {
  uint32_t k0, k1;

  INITSTATS_HD explicit RunningKeys(uint64_t key)
      : k0(static_cast<uint32_t>(key)), k1(static_cast<uint32_t>(key >> 32)) {}
  INITSTATS_HD uint32_t first(int /*round*/) const { return k0; }
  INITSTATS_HD uint32_t second(int /*round*/) const { return k1; }
  INITSTATS_HD void advance() {
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
};

struct RoundKeys {
  uint32_t k0[kPhiloxRounds], k1[kPhiloxRounds];

  INITSTATS_HD uint32_t first(int round) const { return k0[round]; }
  INITSTATS_HD uint32_t second(int round) const { return k1[round]; }
  INITSTATS_HD void advance() {}
};

// Counters are (lo, hi) = first + 0, 1, ... and (word2, word3).
template <class L, class Keys>
INITSTATS_HD Words<L> philox_words(Keys keys, uint64_t first, uint32_t word2, uint32_t word3 = 0) {
  using W = typename L::W;
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  // State words sit in the low halves of 64-bit lanes. The high halves hold left-overs that
  // mul_wide ignores.
  W state[L::kHalves][4];
  for (int h = 0; h < L::kHalves; ++h) {
    state[h][0] = L::counters(first, h);
    state[h][1] = state[h][0] >> 32;
    state[h][2] = state[h][0] * 0 + word2;
    state[h][3] = state[h][0] * 0 + word3;
  }
#if defined(__CUDACC__)
#pragma unroll
#else
#pragma GCC unroll 10
#endif
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int h = 0; h < L::kHalves; ++h) {
      W(&c)[4] = state[h];
      const W p0 = L::mul_wide(c[0], kMultiplier0), p1 = L::mul_wide(c[2], kMultiplier1);
      c[0] = (p1 >> 32) ^ c[1] ^ static_cast<uint64_t>(keys.first(round));
      c[1] = p1;
      c[2] = (p0 >> 32) ^ c[3] ^ static_cast<uint64_t>(keys.second(round));
      c[3] = p0;
    }
    keys.advance();
  }
  Words<L> words;
  for (int w = 0; w < 4; ++w) words.v[w] = L::join(state[0][w], state[L::kHalves - 1][w]);
  L::transpose(words.v);
  return words;
}

// The key is (lo key, hi key).
template <class L>
INITSTATS_HD Words<L> philox4x32_10(uint64_t key, uint64_t first, uint32_t word2,
                                    uint32_t word3 = 0) {
  return philox_words<L>(RunningKeys(key), first, word2, word3);
}

}  // namespace initstats
