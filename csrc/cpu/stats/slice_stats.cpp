// Statistics of slices of one capability: as many slices side by side as a vector has lanes.
#include "cpu/stats/slice_stats.h"

#include <algorithm>

#include "cpu/stats/stats_items.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// The values of one chunk of kSlicesPerCall slices: element e of each side by side in row e. A copy
// even where they lie so in memory, for there the rows are often a power of two apart, and no cache
// keeps them. Lanes beyond the last slice hold anything.
template <class Item>
struct ChunkRows {
  alignas(64) Item row[kChunk][kSlicesPerCall] = {};
};

template <class Item>
Item value_of(ItemType type, const char* item) {
  if constexpr (sizeof(Item) == 8) {
    uint64_t bits = 0;
    memcpy(&bits, item, static_cast<size_t>(item_size(type)));
    return wide_item_value(type, bits);
  } else {
    uint32_t bits = 0;
    memcpy(&bits, item, static_cast<size_t>(item_size(type)));
    return item_value(type, bits);
  }
}

inline void values_of(ItemType type, const void* items, int64_t n, float* out) {
  narrow_values(type, items, n, out);
}
inline void values_of(ItemType type, const void* items, int64_t n, double* out) {
  wide_values(type, items, n, out);
}

// Where the first elements of up to kSlicesPerCall slices lie.
struct Places {
  int64_t offset[kSlicesPerCall];
  int count = 0;
  bool side_by_side = true;

  void set(const Layout& slices, int64_t begin, int64_t end) {
    count = static_cast<int>(end - begin);
    side_by_side = count > 1;  // the elements of a single slice may
    for (int s = 0; s < count; ++s) {
      offset[s] = slices.place(begin + s).offset;
      side_by_side = side_by_side && offset[s] == offset[0] + s;
    }
  }
};

// Reads the n elements, at offsets `at` from their beginnings, of all slices of the blocks, which
// lie side by side: row by row.
template <class Item>
void read_side_by_side(const SliceRange& r, const Places* places, int blocks, const int64_t* at,
                       int n, ChunkRows<Item>* rows) {
  const int bytes = item_size(r.type);
  const char* const data = static_cast<const char*>(r.data) + places[0].offset[0] * bytes;
  const bool plain = r.type == ItemType::float32 || r.type == ItemType::float64;
  for (int e = 0; e < n; ++e) {
    const char* items = data + at[e] * bytes;
    for (int b = 0; b < blocks; ++b, items += kSlicesPerCall * bytes) {
      if (plain && places[b].count == kSlicesPerCall) {
        memcpy(rows[b].row[e], items, sizeof(rows[b].row[e]));
      } else {
        values_of(r.type, items, places[b].count, rows[b].row[e]);
      }
    }
  }
}

// The same for slices that lie anywhere.
template <class Item>
void read_apart(const SliceRange& r, const Places& places, const int64_t* at, int n,
                ChunkRows<Item>& rows) {
  const int bytes = item_size(r.type);
  const char* const data = static_cast<const char*>(r.data);
  const bool elements_side_by_side = at[n - 1] - at[0] == n - 1;
  alignas(64) Item values[kChunk];
  for (int s = 0; s < places.count; ++s) {
    if (elements_side_by_side) {
      values_of(r.type, data + (places.offset[s] + at[0]) * bytes, n, values);
      for (int e = 0; e < n; ++e) rows.row[e][s] = values[e];
    } else {
      for (int e = 0; e < n; ++e)
        rows.row[e][s] = value_of<Item>(r.type, data + (places.offset[s] + at[e]) * bytes);
    }
  }
}

// The lanes of a vector in memory. Without the barrier GCC takes them out of the register one by
// one, which costs more than the sums.
template <class L, class Item>
struct Lanes {
  alignas(64) Item lane[L::kWidth];

  template <class Vector>
  INITSTATS_HD explicit Lanes(const Vector& v) {
    static_assert(sizeof(v) == sizeof(lane));
    memcpy(lane, &v, sizeof(lane));
    asm volatile("" : "+m"(lane));
  }
  INITSTATS_HD Item operator[](int i) const { return lane[i]; }
};

// What a vector of slices holds after the first time, lane by lane.
template <class L, bool kMasked, class Item>
INITSTATS_HD bool first_time(const Item* rows, int n, TileSums<Item>* sums) {
  ChunkExtrema<L, kMasked> extrema;
#pragma GCC unroll 4
  for (int e = 0; e < n; ++e) extrema.see(L::load(rows + e * kSlicesPerCall));
  if (!kMasked && L::any(!(extrema.share - extrema.share == L::broadcast(0)))) return false;
  const Lanes<L, Item> share(extrema.share), min(extrema.min), max(extrema.max),
      min_abs(extrema.min_abs);
  const Lanes<L, ItemBits<Item>> nan(extrema.nan), pos_inf(extrema.pos_inf),
      neg_inf(extrema.neg_inf), zero(extrema.zero);
  for (int i = 0; i < L::kWidth; ++i) {
    set_extrema(sums[i], n, share[i], min[i], max[i], min_abs[i], static_cast<int>(nan[i]),
                static_cast<int>(pos_inf[i]), static_cast<int>(neg_inf[i]),
                static_cast<int>(zero[i]));
  }
  return true;
}

template <class L, bool kMasked, class Item>
INITSTATS_HD void second_time(const Item* rows, int n, TileSums<Item>* sums) {
  Item scale[L::kWidth], pivot[L::kWidth];
  for (int i = 0; i < L::kWidth; ++i) {
    scale[i] = tile_scale(sums[i]);
    pivot[i] = sums[i].pivot;
  }
  ChunkPowers<L, kMasked> powers(L::load(scale), L::load(pivot));
#pragma GCC unroll 4
  for (int e = 0; e < n; ++e) powers.see(L::load(rows + e * kSlicesPerCall));
  const Lanes<L, Item> s1(powers.s1), s2(powers.s2), s3(powers.s3), s4(powers.s4), l1(powers.l1);
  for (int i = 0; i < L::kWidth; ++i) set_sums(sums[i], s1[i], s2[i], s3[i], s4[i], l1[i]);
}

// Adds a chunk of n elements to the records of its group.
template <class L, class Item>
void add_chunk(const ChunkRows<Item>& rows, int n, int count, bool first, Record* records) {
  TileSums<Item> sums[kSlicesPerCall];
  for (int lane = 0; lane < count; lane += L::kWidth) {
    const Item* const values = &rows.row[0][lane];
    if (first_time<L, false>(values, n, sums + lane)) {
      second_time<L, false>(values, n, sums + lane);
    } else {
      first_time<L, true>(values, n, sums + lane);
      second_time<L, true>(values, n, sums + lane);
    }
  }
  for (int s = 0; s < count; ++s) {
    const Record chunk = to_record(sums[s]);
    records[s] = first ? chunk : merge(records[s], chunk);
  }
}

// Adds the chunk that begins at element `begin` of the slices of `blocks` vectors side by side.
template <class L, class Item>
void add_chunks(const SliceRange& r, const Places* places, int blocks, int64_t begin,
                ChunkRows<Item>* rows, Record* records) {
  const int64_t group_end = std::min((begin / kGroup + 1) * kGroup, r.elements->count);
  const int n = static_cast<int>(std::min<int64_t>(kChunk, group_end - begin));
  int64_t at[kChunk];
  int k = 0;
  for_each_run(*r.elements, begin, begin + n,
               [&](int64_t offset, int64_t stride, uint64_t, uint64_t, int64_t m) {
                 for (int64_t i = 0; i < m; ++i) at[k++] = offset + i * stride;
               });
  if (places[0].side_by_side) {
    read_side_by_side(r, places, blocks, at, n, rows);
  } else {
    read_apart(r, places[0], at, n, rows[0]);
  }
  for (int b = 0; b < blocks; ++b)
    add_chunk<L>(rows[b], n, places[b].count, begin % kGroup == 0, records + b * kSlicesPerCall);
}

// Blocks of slices that are read row by row together, where all of them lie side by side in memory.
constexpr int kBlocksTogether = 8;

template <class L, class Item>
void slices(const SliceRange& r, Record* records, int64_t pitch) {
  ChunkRows<Item> rows[kBlocksTogether];
  Places places[kBlocksTogether];
  for (int64_t first = r.begin; first < r.end;) {
    int blocks = 0;
    int64_t last = first;
    for (; blocks < kBlocksTogether && last < r.end; ++blocks) {
      const int64_t end = std::min(last + kSlicesPerCall, r.end);
      places[blocks].set(*r.slices, last, end);
      const bool joins = places[blocks].side_by_side &&
                         places[blocks].offset[0] == places[0].offset[0] + (last - first);
      if (blocks > 0 && !(places[0].side_by_side && joins)) break;
      last = end;
    }
    for (int64_t group = r.first_group; group < r.last_group; ++group) {
      Record* const out = records + (group - r.first_group) * pitch + (first - r.begin);
      const int64_t end = std::min((group + 1) * kGroup, r.elements->count);
      for (int64_t begin = group * kGroup; begin < end; begin += kChunk)
        add_chunks<L>(r, places, blocks, begin, rows, out);
    }
    first = last;
  }
}

void range(const SliceRange& r, Record* records, int64_t pitch) {
  if (is_wide(r.type)) {
    slices<Lanes64, double>(r, records, pitch);
  } else {
    slices<Lanes32, float>(r, records, pitch);
  }
}

}  // namespace

const SliceKernels slice_kernels = {range};

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
