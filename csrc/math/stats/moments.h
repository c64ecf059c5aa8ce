// Central moments: the sums of one tile, how they become a record, and how two records merge.
#pragma once

#include "math/core/lanes.h"

namespace initstats {

// Note [Tile order]. A tile is 4096 consecutive elements of a tensor in C order: 256 rows of 16
// columns, cut into four quarters of 64 rows. A sum over a tile is taken in this order, on every
// device:
//   1. row k of a quarter belongs to step k / R and lane row k % R, R = lane_rows(type): what 32
//      threads with 16-byte loads read at once. The steps of a lane row are added in order;
//   2. the R lane rows are added as a balanced binary tree over adjacent pairs;
//   3. the quarters are added as (0 + 1) + (2 + 3);
//   4. the columns are added by halving: column c + column c + 8, then + 4, + 2, + 1.
// Elements past the end of the tensor count as missing: they are NaN in the tile and contribute
// nothing.
constexpr int kTile = 4096;
constexpr int kTileColumns = 16;
constexpr int kTileQuarters = 4;
constexpr int kQuarterRows = kTile / kTileColumns / kTileQuarters;

// Note [Tile sums]. Sums of powers of d = x * 2^-exponent - pivot * 2^-exponent over the finite
// elements of a tile, F = float for float32 and narrower types, double for float64. The pivot is
// the mean of the tile, rounded and clamped to [min, max]; it needs no exactness, only closeness.
// The scale makes the largest |x| about 1, so that fourth powers neither overflow nor vanish for
// any finite input.
template <class F>
struct alignas(16) TileSums {
  F pivot;
  F s1, s2, s3, s4;  // sums of d, d^2, d^3, d^4
  F l1;              // sum of |x| * 2^-exponent
  F min, max;        // over finite elements; zero is +0; +inf and -inf if there is none
  F min_abs;         // over finite non-zero elements; +inf if there is none
  int32_t exponent;
  uint16_t finite, nan, pos_inf, neg_inf, zero;
};

// What a record keeps of the finite elements; merges with merge_central.
struct Central {
  double n, mean, m2, m3, m4, l1;
};

// 2^exponent for exponents of normal doubles, -1022 to 1023.
INITSTATS_HD double power_of_two(int exponent) {
  return bit_cast<double>(static_cast<uint64_t>(static_cast<uint32_t>(exponent + 1023)) << 52);
}

// The exponent of Note [Tile sums] from the bits of the largest finite |x|. Clamped so that
// 2^-exponent is normal and |x| * 2^-exponent < 4 (float32: denormal tiles land at 2^-23 and above,
// whose fourth power 2^-92 is still normal). 0 for the usual sizes, which saves a multiplication:
// where even the fourth power of one unit in the last place of the largest |x| is normal, 4 (e -
// 23) >= -126, and 4096 fourth powers of 2^(e + 2) stay finite.
INITSTATS_HD int scale_exponent(uint32_t max_abs_bits) {
  const int e = static_cast<int>(max_abs_bits >> 23) - 127;
  return e < -126 ? -126 : e > 126 ? 126 : e >= -8 && e <= 24 ? 0 : e;
}
INITSTATS_HD int scale_exponent(uint64_t max_abs_bits) {
  const int e = static_cast<int>(max_abs_bits >> 52) - 1023;
  return e < -1022 ? -1022 : e > 1022 ? 1022 : e >= -200 && e <= 240 ? 0 : e;
}

template <class Item>
struct BitsOf;
template <>
struct BitsOf<float> {
  using Type = uint32_t;
};
template <>
struct BitsOf<double> {
  using Type = uint64_t;
};
template <class Item>
using ItemBits = typename BitsOf<Item>::Type;

INITSTATS_HD float negative_power(float, int exponent) {
  return bit_cast<float>(static_cast<uint32_t>(127 - exponent) << 23);
}
INITSTATS_HD double negative_power(double, int exponent) {
  return bit_cast<double>(static_cast<uint64_t>(1023 - exponent) << 52);
}

// 2^-exponent.
template <class F>
INITSTATS_HD F tile_scale(const TileSums<F>& t) {
  return negative_power(F{}, t.exponent);
}

// The mean of a tile from the sum of its finite elements times kMaskedSumScale (such a sum cannot
// overflow).
constexpr float kMaskedSumScale = 1.0f / 8192;
template <class F>
INITSTATS_HD F masked_mean(F scaled_sum, int finite) {
  return finite == 0 ? F{0} : scaled_sum / static_cast<F>(finite) * F{8192};
}

// Sets pivot and exponent from the mean and the extrema, and makes zero extrema +0.
template <class F>
INITSTATS_HD void set_pivot(TileSums<F>& t, F mean) {
  t.min = t.min + F{0};
  t.max = t.max + F{0};
  const F high = mean < t.max ? mean : t.max;
  const F pivot = high > t.min ? high : t.min;
  const F max_abs = -t.min > t.max ? -t.min : t.max;
  t.pivot = t.finite == 0 ? F{0} : pivot + F{0};
  t.exponent = scale_exponent(bit_cast<ItemBits<F>>(t.finite == 0 ? F{0} : max_abs + F{0}));
}

template <class F>
INITSTATS_HD void set_sums(TileSums<F>& t, F s1, F s2, F s3, F s4, F l1) {
  t.s1 = s1;
  t.s2 = s2;
  t.s3 = s3;
  t.s4 = s4;
  t.l1 = l1;
}

// Moments about the mean from sums about the pivot, in float64. n == 0 gives zeros.
INITSTATS_HD Central to_central(double n, double pivot, double s1, double s2, double s3, double s4,
                                double l1, int exponent) {
  const double unit = power_of_two(exponent);
  const double safe_n = n > 0 ? n : 1;
  const double shift = s1 / safe_n;  // mean of d
  const double m2 = s2 - s1 * shift;
  const double m3 = (s3 - 3 * shift * s2) + 2 * shift * shift * s1;
  const double m4 =
      ((s4 - 4 * shift * s3) + 6 * shift * shift * s2) - 3 * shift * shift * shift * s1;
  Central c;
  c.n = n;
  c.mean = pivot + shift * unit;
  c.m2 = (m2 > 0 ? m2 : 0) * unit * unit;
  c.m3 = m3 * unit * unit * unit +
         0.0;  // never -0, whose sign would tell in which order zeros were added
  c.m4 = (m4 > 0 ? m4 : 0) * unit * unit * unit * unit;
  c.l1 = l1 * unit;
  return c;
}

template <class F>
INITSTATS_HD Central to_central(const TileSums<F>& t) {
  return to_central(static_cast<double>(t.finite), static_cast<double>(t.pivot),
                    static_cast<double>(t.s1), static_cast<double>(t.s2), static_cast<double>(t.s3),
                    static_cast<double>(t.s4), static_cast<double>(t.l1), t.exponent);
}

// The record of two disjoint sets. Merging with an empty record changes nothing.
// Source: Pebay 2008, SAND2008-6212, equations for M2, M3, M4 of a union (Chan et al. 1979 for M2).
INITSTATS_HD Central merge_central(const Central& a, const Central& b) {
  const double n = a.n + b.n;
  const double safe_n = n > 0 ? n : 1;
  const double share_a = a.n / safe_n, share_b = b.n / safe_n;
  const double d = b.mean - a.mean;
  const double weight = a.n * share_b;  // na nb / n
  const double d2 = d * d;
  Central c;
  c.n = n;
  c.mean = a.mean + d * share_b;
  c.m2 = (a.m2 + b.m2) + weight * d2;
  c.m3 = (a.m3 + b.m3) +
         (weight * (share_a - share_b) * d2 * d + 3 * d * (share_a * b.m2 - share_b * a.m2));
  c.m4 = (a.m4 + b.m4) +
         (weight * ((share_a * share_a - share_a * share_b) + share_b * share_b) * d2 * d2 +
          (6 * d2 * (share_a * share_a * b.m2 + share_b * share_b * a.m2) +
           4 * d * (share_a * b.m3 - share_b * a.m3)));
  c.l1 = a.l1 + b.l1;
  // With an empty side the formulas give the other side exactly, unless a power of d overflows.
  const bool keep_a = b.n == 0, keep_b = a.n == 0;
  c.mean = keep_a ? a.mean : keep_b ? b.mean : c.mean;
  c.m2 = keep_a ? a.m2 : keep_b ? b.m2 : c.m2;
  c.m3 = keep_a ? a.m3 : keep_b ? b.m3 : c.m3;
  c.m4 = keep_a ? a.m4 : keep_b ? b.m4 : c.m4;
  return c;
}

// Everything of the moments group. Note [Merge order]: records of tiles merge as the balanced
// binary tree over the tile index, adjacent pairs first, as if the number of tiles were the next
// power of two and the missing ones empty.
struct Record {
  Central central;
  double min, max, min_abs;  // +inf, -inf, +inf if there is none
  int64_t nan, pos_inf, neg_inf, zero;
};

constexpr double kInfinity = __builtin_huge_val();

INITSTATS_HD Record empty_record() {
  return Record{Central{0, 0, 0, 0, 0, 0}, kInfinity, -kInfinity, kInfinity, 0, 0, 0, 0};
}

template <class F>
INITSTATS_HD Record to_record(const TileSums<F>& t) {
  return Record{to_central(t),
                static_cast<double>(t.min),
                static_cast<double>(t.max),
                static_cast<double>(t.min_abs),
                t.nan,
                t.pos_inf,
                t.neg_inf,
                t.zero};
}

INITSTATS_HD Record merge(const Record& a, const Record& b) {
  return Record{merge_central(a.central, b.central),
                a.min < b.min ? a.min : b.min,
                a.max > b.max ? a.max : b.max,
                a.min_abs < b.min_abs ? a.min_abs : b.min_abs,
                a.nan + b.nan,
                a.pos_inf + b.pos_inf,
                a.neg_inf + b.neg_inf,
                a.zero + b.zero};
}

// The columns of the two rows that a record is stored as.
enum MomentColumn { kMean, kM2, kM3, kM4, kL1, kMin, kMax, kMinAbs, kMomentColumns };
enum CountColumn { kCount, kNan, kPosInf, kNegInf, kZero, kFingerprint, kCountColumns = 8 };

// NaN where nothing is defined: the mean and the extrema without finite elements, min_abs without
// non-zero ones.
INITSTATS_HD void write_record(const Record& r, int64_t count, uint64_t fingerprint,
                               double* moments, int64_t* counts) {
  const double nan = __builtin_nan("");
  const bool none = r.central.n == 0;
  moments[kMean] = none ? nan : r.central.mean;
  moments[kM2] = r.central.m2;
  moments[kM3] = r.central.m3;
  moments[kM4] = r.central.m4;
  moments[kL1] = r.central.l1;
  moments[kMin] = none ? nan : r.min;
  moments[kMax] = none ? nan : r.max;
  moments[kMinAbs] = r.min_abs == kInfinity ? nan : r.min_abs;
  counts[kCount] = count;
  counts[kNan] = r.nan;
  counts[kPosInf] = r.pos_inf;
  counts[kNegInf] = r.neg_inf;
  counts[kZero] = r.zero;
  counts[kFingerprint] = static_cast<int64_t>(fingerprint);
  counts[kFingerprint + 1] = counts[kFingerprint + 2] = 0;
}

// What a call asks for. Counts and extrema come with the moments, and the moments with the
// histogram.
struct StatsGroups {
  bool moments, histogram, fingerprint;
  int scale;  // of the histogram, 0 to kMaxScale
};

// Merges records that come in order of their index as a balanced tree: a binary counter.
class MergeTree {
 public:
  INITSTATS_HD void add(Record record) {
    int level = 0;
    for (; (count_ >> level & 1) != 0; ++level) record = merge(pending_[level], record);
    pending_[level] = record;
    ++count_;
  }
  INITSTATS_HD Record total() const {
    Record result = empty_record();
    bool first = true;
    for (int level = 0; level < kLevels; ++level) {
      if ((count_ >> level & 1) == 0) continue;
      result = first ? pending_[level] : merge(pending_[level], result);
      first = false;
    }
    return result;
  }

 private:
  static constexpr int kLevels = 52;  // more than 2^63 / kTile
  Record pending_[kLevels];
  int64_t count_ = 0;
};

}  // namespace initstats
