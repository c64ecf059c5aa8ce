// The layouts of the tensors of a call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "math/core/layout.h"

namespace initstats::ops {

// One layout per tensor, in order. Of a run that begins its logical tensor, as most tensors are,
// the number of elements is all there is to know; a Layout takes four lines of the cache, and lists
// are long.
class Layouts {
 public:
  void reserve(size_t tensors) { places_.reserve(tensors); }

  void add_run(int64_t count) { places_.push_back({count, kRun}); }
  void add(const Layout& layout) {
    if (layout.is_one_run() && layout.first_index == 0) return add_run(layout.count);
    places_.push_back({layout.count, others_.size()});
    others_.push_back(layout);
  }

  // Replaces each that is more than a count by another one of as many elements.
  template <class Change>
  void change_others(const Change& change) {
    for (Layout& layout : others_) layout = change(layout);
  }

  size_t size() const { return places_.size(); }
  int64_t count(size_t i) const { return places_[i].count; }
  bool is_run(size_t i) const { return places_[i].other == kRun; }

  // Shows the layout to `see`, which must not keep it.
  template <class See>
  auto with(size_t i, const See& see) const {
    if (!is_run(i)) return see(others_[places_[i].other]);
    Layout run;
    set_to_run(run, count(i));
    return see(run);
  }

  // For what keeps it.
  Layout operator[](size_t i) const {
    if (!is_run(i)) return others_[places_[i].other];
    Layout run{};
    set_to_run(run, count(i));
    return run;
  }

 private:
  static constexpr size_t kRun = SIZE_MAX;
  struct Place {
    int64_t count;
    size_t other;  // in others_, or kRun
  };

  // The dimensions that it has not stay as they are.
  static void set_to_run(Layout& layout, int64_t count) {
    layout.count = layout.size[0] = count;
    layout.first_index = 0;
    layout.dims = 1;
    layout.stride[0] = layout.logical[0] = 1;
  }

  std::vector<Place> places_;
  std::vector<Layout> others_;
};

}  // namespace initstats::ops
