// The values of a tile of two tensors, Note [Pairs].
#pragma once

#include <type_traits>

#include "cpu/stats/stats_items.h"
#include "cpu/stats/stats_sums.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

template <class Item>
class PairValues {
 public:
  explicit PairValues(const StatsRange& r) : first_type_(r.type), second_(r), how_(r.second) {
    second_.data = r.second.data;
    second_.layout = r.second.layout;
  }

  // The stored items of y for the elements [begin, end), side by side.
  const void* items(int64_t begin, int64_t end) {
    return read_items(second_, begin, end, gathered_);
  }

  // The sums of what n elements make, of which these are the items of x and of y, and that itself
  // in buffer, [padded], NaN from n on. `sums_from` takes them from where it is told.
  template <class SumsFrom>
  TileSums<Item> sums(const void* items, const void* others, int n, int padded, Item* buffer,
                      SumsFrom sums_from) {
    const Item* const x = tile_values(first_type_, items, n, n, buffer);
    const Item* const y = tile_values(first_type_, others, n, n, others_);
    if (how_.pairing == Pairing::difference)
      return sums(x, y, n, padded, buffer, DifferenceOf<L>{}, DifferenceOf<One>{}, sums_from);
    const double factor = how_.factor;
    return sums(x, y, n, padded, buffer, SquareRatioOf<L>(factor), SquareRatioOf<One>(factor),
                sums_from);
  }

 private:
  using L = std::conditional_t<sizeof(Item) == 8, Lanes64, Lanes32>;
  using One = std::conditional_t<sizeof(Item) == 8, Scalar64, Scalar32>;

  // A full tile is made while it is summed for the first time.
  template <class Both>
  struct FromBoth {
    const Item *x, *y;
    Item* made;
    Both both;
    INITSTATS_HD typename L::F vector(int element) const {
      const typename L::F v = both(L::load(x + element), L::load(y + element));
      L::store(made + element, v);
      return v;
    }
  };

  template <class Both, class BothOfOne, class SumsFrom>
  static TileSums<Item> sums(const Item* x, const Item* y, int n, int padded, Item* buffer,
                             const Both& both, const BothOfOne& both_of_one, SumsFrom& sums_from) {
    if (n == kTile) return sums_from(FromBoth<Both>{x, y, buffer, both});
    for (int i = 0; i < n; ++i) buffer[i] = both_of_one(x[i], y[i]);
    std::fill(buffer + n, buffer + padded, static_cast<Item>(__builtin_nanf("")));
    return sums_from(FromMemory<L, Item>{buffer});
  }

  ItemType first_type_;
  StatsRange second_;
  Second how_;
  alignas(64) uint64_t gathered_[kTile];
  alignas(64) Item others_[kTile];
};

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
