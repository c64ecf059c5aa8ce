// The values of a tile of x - y, Note [Difference].
#pragma once

#include "cpu/stats/stats_items.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

template <class Item>
class Difference {
 public:
  explicit Difference(const StatsRange& r) : type_(r.type), minus_(r) {
    minus_.data = r.minus;
    minus_.layout = r.minus_layout;
  }

  // The differences of the n elements from `begin` on, `items` being those of x side by side; NaN
  // from n to `padded`. In buffer, [padded].
  const Item* values(const void* items, int64_t begin, int64_t n, int64_t padded, Item* buffer) {
    const Item* const x = tile_values(type_, items, n, n, buffer);
    const Item* const y =
        tile_values(type_, read_items(minus_, begin, begin + n, gathered_), n, n, second_);
    for (int64_t i = 0; i < n; ++i) buffer[i] = x[i] - y[i];
    std::fill(buffer + n, buffer + padded, static_cast<Item>(__builtin_nanf("")));
    return buffer;
  }

 private:
  ItemType type_;
  StatsRange minus_;
  alignas(64) uint64_t gathered_[kTile];
  alignas(64) Item second_[kTile];
};

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
