// The fingerprint of a run of items, Note [Fingerprint v1].
#pragma once

#include "cpu/simd/lanes.h"
#include "math/stats/fingerprint.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Zero-extended to 32 bits: one vector of items.
#if defined(__AVX512F__)
inline Lanes32::U load_bits(const uint8_t* p) {
  return (Lanes32::U)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
}
inline Lanes32::U load_bits(const uint16_t* p) {
  return (Lanes32::U)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
}
inline Lanes32::U load_bits(const uint32_t* p) { return Lanes32::load(p); }
#elif defined(__AVX2__)
inline Lanes32::U load_bits(const uint8_t* p) {
  return (Lanes32::U)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
}
inline Lanes32::U load_bits(const uint16_t* p) {
  return (Lanes32::U)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
}
inline Lanes32::U load_bits(const uint32_t* p) { return Lanes32::load(p); }
#elif INITSTATS_VECTORS
template <class Item>
inline Lanes32::U load_bits(const Item* p) {
  return Lanes32::U{p[0], p[1], p[2], p[3]};
}
#endif

#if INITSTATS_VECTORS
// Sum over the lanes of mix(bits, position), added to even and odd lanes apart.
INITSTATS_HD void add_mix(Lanes32::U bits, Lanes32::U position, Lanes32::W& even, Lanes32::W& odd) {
  using U = Lanes32::U;
  [[maybe_unused]] typedef Lanes32::W W;
  U a = (bits ^ position) * kMixMultiplier;
  a ^= a >> 15;
  const U m = (position ^ kMixOffset) | 1u;
#if defined(__AVX512F__)
  even += (W)_mm512_mul_epu32((__m512i)a, (__m512i)m);
  odd += (W)_mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), _mm512_srli_epi64((__m512i)m, 32));
#elif defined(__AVX2__)
  even += (W)_mm256_mul_epu32((__m256i)a, (__m256i)m);
  odd += (W)_mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), _mm256_srli_epi64((__m256i)m, 32));
#else
  Lanes32::add_products(a, m, even, odd);
#endif
}
#endif

// Items at logical indices first, first + step, ...; positions advance by a constant while the high
// half of the index stays the same, which the caller sees to.
template <class Item>
uint64_t fingerprint_stretch(const Item* items, int64_t n, uint64_t first, uint64_t step) {
  uint64_t sum = 0;
  const uint32_t stride = static_cast<uint32_t>(step) * kPositionLow;
  uint32_t position = fingerprint_position(first);
  int64_t i = 0;
#if INITSTATS_VECTORS
  constexpr int kWidth = Lanes32::kWidth;
  if (n >= kWidth) {
    alignas(64) uint32_t start[kWidth];
    for (int j = 0; j < kWidth; ++j) start[j] = position + static_cast<uint32_t>(j) * stride;
    Lanes32::U positions = Lanes32::load(start);
    const Lanes32::U advance = Lanes32::splat(stride * kWidth);
    Lanes32::W even{}, odd{};
    for (; i + kWidth <= n; i += kWidth) {
      add_mix(load_bits(items + i), positions, even, odd);
      positions += advance;
    }
    even += odd;
    for (int j = 0; j < kWidth / 2; ++j) sum += even[j];
    position += static_cast<uint32_t>(i) * stride;
  }
#endif
  for (; i < n; ++i) {
    sum += fingerprint_mix(items[i], position);
    position += stride;
  }
  return sum;
}

template <class Item>
uint64_t fingerprint_run(const Item* items, int64_t n, uint64_t first, uint64_t step) {
  uint64_t sum = 0;
  while (n > 0) {
    const uint64_t left =
        step == 0 ? ~uint64_t{0} : (0xFFFFFFFFu - (first & 0xFFFFFFFFu)) / step + 1;
    const int64_t m = left < static_cast<uint64_t>(n) ? static_cast<int64_t>(left) : n;
    sum += fingerprint_stretch(items, m, first, step);
    items += m;
    n -= m;
    first += static_cast<uint64_t>(m) * step;
  }
  return sum;
}

// n items side by side in memory, at logical indices first, first + step, ...
inline uint64_t fingerprint_items(const void* items, int item_bytes, int64_t n, uint64_t first,
                                  uint64_t step) {
  switch (item_bytes) {
    case 1:
      return fingerprint_run(static_cast<const uint8_t*>(items), n, first, step);
    case 2:
      return fingerprint_run(static_cast<const uint16_t*>(items), n, first, step);
    case 4:
      return fingerprint_run(static_cast<const uint32_t*>(items), n, first, step);
    default:
      break;
  }
  const uint32_t* words = static_cast<const uint32_t*>(items);
  if (step == 1) return fingerprint_run(words, 2 * n, 2 * first, 1);
  uint64_t sum = 0;
  for (int64_t i = 0; i < n; ++i)
    sum += fingerprint_run(words + 2 * i, 2, 2 * (first + static_cast<uint64_t>(i) * step), 1);
  return sum;
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
