// Statistics of one capability: everything asked for is taken from a tile while it is in the cache.
#include "cpu/stats/stats.h"

#include "cpu/stats/stats_codes.h"
#include "cpu/stats/stats_copy.h"
#include "cpu/stats/stats_fingerprint.h"
#include "cpu/stats/stats_histogram.h"
#include "cpu/stats/stats_items.h"
#include "cpu/stats/stats_moments.h"
#include "cpu/stats/stats_pair.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

template <class Item>
using LanesOf = std::conditional_t<sizeof(Item) == 8, Lanes64, Lanes32>;

// The sums of a tile of n elements at x, whose vectors come from `from` at first.
template <class Item, class From>
TileSums<Item> sums_of(ItemType type, const Item* x, int n, const Ahead& ahead, const From& from) {
  if constexpr (sizeof(Item) == 8) {
    return tile_sums<Lanes64, 4>(x, n, ahead, from);
  } else {
    return lane_rows(type) == 16 ? tile_sums<Lanes32, 16>(x, n, ahead, from)
                                 : tile_sums<Lanes32, 8>(x, n, ahead, from);
  }
}

// The balanced tree of Note [Merge order] over up to kTilesPerCall tiles. All merges of a level at
// once, so that the compiler can use vectors for them.
Record merge_tiles(Record* records, int n) {
  for (int i = n; i < kTilesPerCall; ++i) records[i] = empty_record();
  for (int half = kTilesPerCall / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) records[i] = merge(records[2 * i], records[2 * i + 1]);
  }
  return records[0];
}

uint64_t fingerprint_of(const StatsRange& r, const void* items, int64_t begin, int64_t end) {
  const char* p = static_cast<const char*>(items);
  const int bytes = item_size(r.type);
  uint64_t sum = 0;
  for_each_run(*r.layout, begin, end,
               [&](int64_t, int64_t, uint64_t index, uint64_t step, int64_t n) {
                 sum += fingerprint_items(p, bytes, n, index, step);
                 p += n * bytes;
               });
  return sum;
}

template <class Item>
void range_of(const StatsRange& r, const StatsGroups& groups, StatsPartial* out,
              HistogramRow histogram) {
  alignas(64) uint64_t gathered[kTile];
  alignas(64) Item buffer[kTile];
  PairValues<Item> pair(r);
  Record records[kTilesPerCall];
  HistogramTables tables;
  const bool few = r.begin == 0 && r.layout->count <= kFewElements;
  if (groups.histogram && !few) clear(tables, groups.scale);
  out->fingerprint = 0;
  int tiles = 0;
  const bool is_pair = r.second.pairing != Pairing::none;
  for (int64_t tile = r.begin; tile < r.end; ++tile) {
    const int64_t begin = tile * kTile, end = std::min(begin + kTile, r.layout->count);
    const void* items = read_items(r, begin, end, gathered);
    if (groups.moments || groups.histogram) {
      const int n = static_cast<int>(end - begin), padded = padded_size(n, lane_rows(r.type));
      const void* const others = is_pair ? pair.items(begin, end) : nullptr;
      const Item* x = is_pair ? buffer : tile_values(r.type, items, n, padded, buffer);
      // What follows gathered items is asked for in vain.
      const Ahead ahead(items, others, item_size(r.type), groups.histogram);
      const auto sums_from = [&](const auto& from) { return sums_of(r.type, x, n, ahead, from); };
      const TileSums<Item> sums = is_pair ? pair.sums(items, others, n, padded, buffer, sums_from)
                                          : sums_from(FromMemory<LanesOf<Item>, Item>{x});
      records[tiles++] = to_record(sums);
      if (groups.histogram && histogram.places) {
        write_places(x, n, groups.scale, histogram.places);
      } else if (groups.histogram && few) {
        count_few(x, n, groups.scale, histogram.counts);
      } else if (groups.histogram &&
                 (groups.scale != 0 || !count_tile_by_codes(x, sums, ahead, tables))) {
        count_tile(x, padded, groups.scale, ahead, tables);
      }
    }
    if (groups.fingerprint) out->fingerprint += fingerprint_of(r, items, begin, end);
    if (r.copy != nullptr) {
      const int64_t item_bytes = item_size(r.type);
      copy_past_caches(items, (end - begin) * item_bytes,
                       static_cast<char*>(r.copy) + begin * item_bytes);
    }
  }
  if (r.copy != nullptr) end_copies();
  out->record = tiles == 1 ? records[0] : merge_tiles(records, tiles);
  if (groups.histogram && !few)
    add_tables(tables, sizeof(Item) == 8, groups.scale, out->record, histogram.counts);
}

void range(const StatsRange& r, const StatsGroups& groups, StatsPartial* out,
           HistogramRow histogram) {
  if (is_wide(r.type)) {
    range_of<double>(r, groups, out, histogram);
  } else {
    range_of<float>(r, groups, out, histogram);
  }
}

}  // namespace

const StatsKernels stats_kernels = {range};

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
