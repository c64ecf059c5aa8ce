// Counting a tile into the exponential histogram, Note [Buckets].
#pragma once

#include <algorithm>

#include "cpu/simd/lanes.h"
#include "cpu/stats/stats_ahead.h"
#include "math/stats/buckets.h"
#include "math/stats/moments.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Several tables take turns, so that equal neighbours do not wait for each other's increment.
constexpr int kTables = 4;
struct HistogramTables {
  alignas(64) uint32_t count[kTables][histogram_places(kMaxScale) + 16];
};

INITSTATS_HD void count_places(const uint16_t* places, int n, HistogramTables& tables) {
  for (int i = 0; i < n; i += 4) {
    uint64_t four;
    memcpy(&four, places + i, sizeof(four));
    ++tables.count[0][four & 0xFFFF];
    ++tables.count[1][four >> 16 & 0xFFFF];
    ++tables.count[2][four >> 32 & 0xFFFF];
    ++tables.count[3][four >> 48];
  }
}

constexpr int kPlacesBlock = 256;

// Called once per block of a tile.
class BlocksAhead {
 public:
  INITSTATS_HD explicit BlocksAhead(const Ahead& ahead)
      : prefetch_(ahead, kPerBlock * kTile / kPlacesBlock) {}
  INITSTATS_HD void operator()() {
    for (int i = 0; i < kPerBlock; ++i) prefetch_();
  }

 private:
  static constexpr int kPerBlock = 8;
  CountAhead prefetch_;
};

// x is [n], n a multiple of 16; what has no bucket lands as bucket_place says.
template <int kScale>
void count_tile(const float* x, int n, const Ahead& ahead, HistogramTables& tables) {
  alignas(64) uint16_t places[kPlacesBlock];
  BlocksAhead prefetch(ahead);
  for (int i = 0; i < n; i += kPlacesBlock) {
    prefetch();
    const int block = std::min(n - i, kPlacesBlock);
    for (int j = 0; j < block; j += Lanes32::kWidth) {
      const Lanes32::U place =
          bucket_place<Lanes32, kScale>(Lanes32::bits(Lanes32::load(x + i + j)));
#if defined(__AVX512F__)
      _mm256_store_si256((__m256i*)(places + j), _mm512_cvtepi32_epi16((__m512i)place));
#elif defined(__AVX2__)
      const __m256i packed = _mm256_packus_epi32((__m256i)place, (__m256i)place);
      _mm_store_si128((__m128i*)(places + j),
                      _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 8)));
#elif INITSTATS_VECTORS
      Lanes32::store_low_halves(places + j, place);
#else
      places[j] = static_cast<uint16_t>(place);
#endif
    }
    count_places(places, block, tables);
  }
}

inline void count_tile(const float* x, int n, int scale, const Ahead& ahead,
                       HistogramTables& tables) {
  switch (scale) {
    case 0:
      count_tile<0>(x, n, ahead, tables);
      break;
    case 1:
      count_tile<1>(x, n, ahead, tables);
      break;
    default:
      count_tile<2>(x, n, ahead, tables);
      break;
  }
}

inline void count_tile(const double* x, int n, int scale, const Ahead& ahead,
                       HistogramTables& tables) {
  alignas(64) uint16_t places[kPlacesBlock];
  BlocksAhead prefetch(ahead);
  for (int i = 0; i < n; i += kPlacesBlock) {
    prefetch();
    const int block = std::min(n - i, kPlacesBlock);
    for (int j = 0; j < block; ++j) {
      const uint64_t bits = bit_cast<uint64_t>(x[i + j]);
      places[j] = static_cast<uint16_t>(has_bucket(bits) ? bucket_place(bits, scale) : kNoPlace);
    }
    count_places(places, block, tables);
  }
}

// Adds the few elements of a small tensor straight to its histogram: clearing and adding tables
// would take longer.
template <class Item>
void count_few(const Item* x, int n, int scale, int64_t* histogram) {
  for (int i = 0; i < n; ++i) {
    const auto bits = bit_cast<ItemBits<Item>>(x[i]);
    if (!has_bucket(bits)) continue;
    if (sizeof(Item) == 4 && scale == 0) {
      ++histogram[bucket_place<Scalar32, 0>(static_cast<uint32_t>(bits))];
    } else {
      ++histogram[bucket_place(bits, scale)];
    }
  }
}

// Writes the places of so few elements; places is [n].
template <class Item>
void write_places(const Item* x, int n, int scale, uint16_t* places) {
  for (int i = 0; i < n; ++i) {
    const auto bits = bit_cast<ItemBits<Item>>(x[i]);
    const uint32_t place = sizeof(Item) == 4 && scale == 0
                               ? bucket_place<Scalar32, 0>(static_cast<uint32_t>(bits))
                               : bucket_place(bits, scale);
    places[i] = static_cast<uint16_t>(has_bucket(bits) ? place : kNoPlace);
  }
}

inline void clear(HistogramTables& tables, int scale) {
  for (auto& table : tables.count) {
    memset(table, 0, static_cast<size_t>(histogram_places(scale)) * sizeof(uint32_t));
    memset(table + kNoPlace, 0, sizeof(uint32_t));
  }
}

// Adds the tables to histogram, less the elements without a bucket.
inline void add_tables(HistogramTables& tables, bool wide, int scale, const Record& record,
                       int64_t* histogram) {
  const int per_sign = 256 << scale, strays = 255 << scale;
  if (!wide) {
    tables.count[0][strays - 1] -= static_cast<uint32_t>(record.pos_inf);
    tables.count[0][per_sign + strays - 1] -= static_cast<uint32_t>(record.neg_inf);
    for (auto& table : tables.count) {
      std::fill(table + strays, table + per_sign, 0u);
      std::fill(table + per_sign + strays, table + 2 * per_sign, 0u);
    }
  }
  constexpr int kBlock = 16;  // most places are empty: look at several at once
  for (int i = 0; i < 2 * per_sign; i += kBlock) {
    uint32_t counts[kBlock], any = 0;
    for (int j = 0; j < kBlock; ++j) {
      counts[j] = (tables.count[0][i + j] + tables.count[1][i + j]) +
                  (tables.count[2][i + j] + tables.count[3][i + j]);
      any |= counts[j];
    }
    if (any == 0) continue;
    for (int j = 0; j < kBlock; ++j) {
      if (counts[j] != 0)
        __atomic_fetch_add(histogram + i + j, static_cast<int64_t>(counts[j]), __ATOMIC_RELAXED);
    }
  }
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
