// The values of a tile of two tensors, Note [Pairs].
#pragma once

#include <type_traits>

#include "cpu/stats/stats_items.h"

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

  // What n elements make, of which these are the items of x and of y; NaN from n to `padded`. In
  // buffer, [padded].
  const Item* values(const void* items, const void* others, int64_t n, int64_t padded,
                     Item* buffer) {
    const Item* const x = tile_values(first_type_, items, n, n, buffer);
    const Item* const y = tile_values(first_type_, others, n, n, others_);
    if (how_.pairing == Pairing::difference) {
      combine(x, y, n, buffer, DifferenceOf<L>{}, DifferenceOf<One>{});
    } else {
      const double factor = how_.factor;
      combine(x, y, n, buffer, SquareRatioOf<L>(factor), SquareRatioOf<One>(factor));
    }
    std::fill(buffer + n, buffer + padded, static_cast<Item>(__builtin_nanf("")));
    return buffer;
  }

 private:
  using L = std::conditional_t<sizeof(Item) == 8, Lanes64, Lanes32>;
  using One = std::conditional_t<sizeof(Item) == 8, Scalar64, Scalar32>;

  // Lanes of both, and one by one what is left.
  template <class Both, class BothOfOne>
  static void combine(const Item* x, const Item* y, int64_t n, Item* out, const Both& both,
                      const BothOfOne& both_of_one) {
    constexpr int64_t kLanes = L::kWidth;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) L::store(out + i, both(L::load(x + i), L::load(y + i)));
    for (; i < n; ++i) out[i] = both_of_one(x[i], y[i]);
  }

  ItemType first_type_;
  StatsRange second_;
  Second how_;
  alignas(64) uint64_t gathered_[kTile];
  alignas(64) Item others_[kTile];
};

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
