// The base-2 exponential histogram: bucket of a value from its bits.
#pragma once

#include "math/core/lanes.h"

namespace initstats {

// Note [Buckets]. At scale s (0, 1, 2) a finite non-zero x lies in bucket k of its sign where
//   2^(k * 2^-s) < |x| <= 2^((k + 1) * 2^-s),
// the exponential histogram of OpenTelemetry and Prometheus. A row of counts holds, for each sign
// (positive first), 256 << s places; bucket k has place k + (127 << s). What lies outside:
//   place (1 << s) - 1      all 0 < |x| <= 2^-126; the places below it stay empty
//   place 255 << s          all |x| > 2^128 (float64 only); the places above it stay empty
// Zero, NaN and infinities are in no bucket. Two adjacent places of scale s + 1 make one of scale
// s: place >> 1.
constexpr int kMaxScale = 2;
INITSTATS_HD constexpr int histogram_places(int scale) { return 2 * (256 << scale); }
constexpr uint32_t kNoPlace = histogram_places(kMaxScale);  // of what is in no bucket

// floor(2^23 (2^(j/4) - 1)) for j = 1, 2, 3: the last mantissa that is still below the edge
// 2^(j/4).
constexpr uint32_t kEdge1 = 0x1837F0, kEdge2 = 0x3504F3, kEdge3 = 0x5744FC;
// The same for float64: floor(2^52 (2^(j/4) - 1)).
constexpr uint64_t kWideEdge1 = 0x306FE0A31B715, kWideEdge2 = 0x6A09E667F3BCC,
                   kWideEdge3 = 0xAE89F995AD3AD;

// Whether the float32 or float64 with these bits is finite and not zero.
INITSTATS_HD bool has_bucket(uint32_t bits) { return (bits & 0x7FFFFFFFu) - 1 < 0x7F7FFFFFu; }
INITSTATS_HD bool has_bucket(uint64_t bits) {
  return (bits & 0x7FFFFFFFFFFFFFFFu) - 1 < 0x7FEFFFFFFFFFFFFFu;
}

// Place of a float32 that has a bucket; L is a family of lanes. Infinities give the place of the
// largest finite value, NaN and zero give one of the last 1 << scale places of a sign.
template <class L, int kScale>
INITSTATS_HD typename L::U bucket_place(typename L::U bits) {
  using U = typename L::U;
  if constexpr (kScale == 0) {
    // The sign follows the exponent, and no borrow reaches it as the magnitude is at least 1.
    return (bits - 1) >> 23;
  } else {
    const U below = L::umax((bits & 0x7FFFFFFFu) - 1, L::splat(0x7FFFFFu));
    const U mantissa = below & 0x7FFFFFu;
    U place = (bits >> 31 << (8 + kScale)) + ((below >> 23 & 0xFFu) << kScale) +
              L::one_where(mantissa >= kEdge2) * (kScale == 2 ? 2u : 1u);
    if constexpr (kScale == 2) {
      place += L::one_where(mantissa >= kEdge1) - L::one_where(mantissa >= kEdge2) +
               L::one_where(mantissa >= kEdge3);
    }
    return place;
  }
}

INITSTATS_HD uint32_t bucket_place(uint32_t bits, int scale) {
  uint32_t below = (bits & 0x7FFFFFFFu) - 1;
  below = below < 0x7FFFFFu ? 0x7FFFFFu : below;
  const uint32_t mantissa = below & 0x7FFFFFu;
  uint32_t quarter = mantissa >= kEdge1 ? 1u : 0u;
  quarter += mantissa >= kEdge2 ? 1u : 0u;
  quarter += mantissa >= kEdge3 ? 1u : 0u;
  return (bits >> 31 << (8 + scale)) + (below >> 23 << scale) + (quarter >> (2 - scale));
}

INITSTATS_HD uint32_t bucket_place(uint64_t bits, int scale) {
  const uint64_t below = (bits & 0x7FFFFFFFFFFFFFFFu) - 1;
  const int exponent = static_cast<int>(below >> 52) - 1023;
  const uint64_t mantissa = below & 0xFFFFFFFFFFFFFu;
  uint32_t quarter = mantissa >= kWideEdge1 ? 1u : 0u;
  quarter += mantissa >= kWideEdge2 ? 1u : 0u;
  quarter += mantissa >= kWideEdge3 ? 1u : 0u;
  const uint32_t inside =
      (static_cast<uint32_t>(exponent + 127) << scale) + (quarter >> (2 - scale));
  const uint32_t place = exponent < -126  ? (1u << scale) - 1
                         : exponent > 127 ? 255u << scale
                                          : inside;
  return (static_cast<uint32_t>(bits >> 63) << (8 + scale)) + place;
}

}  // namespace initstats
