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
constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
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

// For a family that multiplies whole vectors: the state words of kWidth counters, lane by lane.
template <class L, class Keys>
INITSTATS_HD Words<L> philox_words_by_halves(Keys keys, uint64_t first, uint32_t word2,
                                             uint32_t word3) {
  using U = typename L::U;
  const typename L::W low = L::counters(first, 0), high = L::counters(first, 1);
  Words<L> c{
      {L::join(low, high), L::join(low >> 32, high >> 32), L::splat(word2), L::splat(word3)}};
#if defined(__CUDACC__)
#pragma unroll
#else
#pragma GCC unroll 10
#endif
  for (int round = 0; round < kPhiloxRounds; ++round) {
    U low0, high0, low1, high1;
    L::mul_halves(c.v[0], kPhiloxMultiplier0, low0, high0);
    L::mul_halves(c.v[2], kPhiloxMultiplier1, low1, high1);
    c.v[0] = high1 ^ c.v[1] ^ keys.first(round);
    c.v[1] = low1;
    c.v[2] = high0 ^ c.v[3] ^ keys.second(round);
    c.v[3] = low0;
    keys.advance();
  }
  L::transpose(c.v);
  return c;
}

// Counters are (lo, hi) = first + 0, 1, ... and (word2, word3).
template <class L, class Keys>
INITSTATS_HD Words<L> philox_words(Keys keys, uint64_t first, uint32_t word2, uint32_t word3 = 0) {
  if constexpr (kMultipliesHalves<L>) return philox_words_by_halves<L>(keys, first, word2, word3);
  using W = typename L::W;
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
      const W p0 = L::mul_wide(c[0], kPhiloxMultiplier0),
              p1 = L::mul_wide(c[2], kPhiloxMultiplier1);
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
