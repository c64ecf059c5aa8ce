// Which elements of a column become zero: selection sampling, one decision per row.
#pragma once

#include "math/random/stream.h"

namespace initstats {

// Note [Sparse columns]. A column of m rows gets exactly n zeros. Row by row, from the first to the
// last, an element becomes zero with probability n / m, where n and m count what is left of zeros
// and of rows (Knuth, TAOCP volume 2, section 3.4.2, algorithm S): every subset of n rows is then
// equally likely. The decision is floor(u m) < n with u = (h 2^32 + l) / 2^64. For the element (i,
// j) of a logical matrix with c columns, h and l are word j % 4 of the quad i * ceil(c / 4) + j / 4
// with the purposes sparse and sparse_low, so that a row begins with a quad. A subset's probability
// is off by at most a factor 1 + m^2 / 2^65, for 64 random bits cannot express n / m exactly.
// Decisions need those of all rows above: a shard of rows repeats them from row 0 on, without
// communication, from the words of its own columns alone.

INITSTATS_HD int64_t sparse_quads_per_row(int64_t columns) { return (columns + 3) / 4; }

// The decision from the high word alone; right unless sparse_needs_low().
INITSTATS_HD bool sparse_is_zero(uint32_t high, uint32_t rows_left, uint32_t zeros_left) {
  return static_cast<uint32_t>(static_cast<uint64_t>(high) * rows_left >> 32) < zeros_left;
}

// Whether the low word may change the decision: it adds less than rows_left to the product, so only
// a carry out of the lower half, to a place that is zeros_left - 1 without it, matters. The share
// of such elements is below rows_left / 2^32 / n.
INITSTATS_HD bool sparse_needs_low(uint32_t high, uint32_t rows_left, uint32_t zeros_left) {
  const uint64_t product = static_cast<uint64_t>(high) * rows_left;
  const bool carries = static_cast<uint32_t>(product) > 0u - rows_left;
  return carries && static_cast<uint32_t>(product >> 32) + 1u == zeros_left;
}

INITSTATS_HD bool sparse_is_zero(uint32_t high, uint32_t low, uint32_t rows_left,
                                 uint32_t zeros_left) {
  const uint64_t carry = static_cast<uint64_t>(low) * rows_left >> 32;
  const uint64_t product = static_cast<uint64_t>(high) * rows_left + carry;
  return static_cast<uint32_t>(product >> 32) < zeros_left;
}

}  // namespace initstats
