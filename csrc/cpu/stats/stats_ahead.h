// Asking for the next tile while this one is worked on.
#pragma once

#include "cpu/simd/lanes.h"
#include "math/stats/moments.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// The items of the next tile, which begin at `next`: so many bytes are asked for in each of the two
// passes over this tile, and so many while it is counted, spread evenly. Memory is then never idle,
// and the passes find their tile in the cache. The lines go into the second-level cache: the first
// one has no room for two tiles beside the tables. docs/decisions/0019-prefetch-the-next-tile.md
// has what else was tried.
struct Ahead {
  const char* next;
  int64_t apart;  // from there to the next tile of the second tensor, 0 where there is none
  int pass_bytes[2], count_bytes;

  INITSTATS_HD Ahead(const void* items, const void* second, int item_bytes, bool counted)
      : next(static_cast<const char*>(items) + kTile * item_bytes),
        apart(second == nullptr
                  ? 0
                  : static_cast<const char*>(second) - static_cast<const char*>(items)) {
    const int quarter = kTile * item_bytes / 4;
    pass_bytes[0] = counted && second == nullptr ? quarter : 2 * quarter;
    pass_bytes[1] = counted ? quarter : 2 * quarter;
    count_bytes = 4 * quarter - pass_bytes[0] - pass_bytes[1];
  }
  // Where pass 0 or 1, or counting as 2, begins to ask.
  INITSTATS_HD const char* begin(int pass) const {
    return next + (pass > 0 ? pass_bytes[0] : 0) + (pass > 1 ? pass_bytes[1] : 0);
  }
};

constexpr int kLine = 64;

INITSTATS_HD void ask_for(const char* line) {
  constexpr int kSecondLevel = 2;
  __builtin_prefetch(line, 0, kSecondLevel);
}

// Call once per vector of a pass; prefetches one line every kVectors calls, the same line twice
// where the steps are short.
template <class L>
struct PassAhead {
  static constexpr int kVectors = 2 * kLine / static_cast<int>(sizeof(typename L::F));  // per step
  const char* line;
  int64_t apart;
  int step_bytes;

  INITSTATS_HD PassAhead(const Ahead& ahead, int pass)
      : line(ahead.begin(pass)),
        apart(ahead.apart),
        step_bytes(ahead.pass_bytes[pass] / (kTile / (kVectors * L::kWidth))) {}
  INITSTATS_HD void operator()(int i) {
    if (i % kVectors != 0) return;
    ask_for(line);
    ask_for(line + apart);  // the same line again where there is one tensor, which costs nothing
    line += step_bytes;
  }
};

// The same for counting, in so many steps.
struct CountAhead {
  const char* line;
  int64_t apart;
  int step_bytes;

  INITSTATS_HD CountAhead(const Ahead& ahead, int steps)
      : line(ahead.begin(2)), apart(ahead.apart), step_bytes(ahead.count_bytes / steps) {}
  INITSTATS_HD void operator()() {
    ask_for(line);
    ask_for(line + apart);
    line += step_bytes;
  }
};

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
