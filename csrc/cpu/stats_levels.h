// What the bit planes of both vector lengths share.
#pragma once

#include "cpu/stats_histogram.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// A tile's values mostly lie within 2^-15 of the largest one. Five bits tell such a value's place:
// the sign, and how many powers of two it is below the largest (15: at least that, or zero). Bit k
// of 64 elements side by side is a word of plane k, and the elements of one code are the ones in an
// AND of planes: 0.1 operations per element and code, where a table takes a load, an addition and a
// store per element. docs/decisions.md has the times.
constexpr int kCodeBits = 5, kSignBit = 4, kLevels = 16, kDeepest = kLevels - 1;
constexpr int kPlaneWords = kTile / 64;

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
