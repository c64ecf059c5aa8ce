// The four storage types of fills and their conversions from and to float32 and float64, as bits.
#pragma once

#include "math/core/lanes.h"

namespace initstats {

enum class DType : int32_t { float32, float16, bfloat16, float64 };

constexpr int64_t item_bytes(DType dtype) {
  return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}

// Round to nearest, ties to even. x is not NaN.
INITSTATS_HD uint16_t to_bfloat16(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

INITSTATS_HD float from_bfloat16(uint16_t bits) {
  return bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Round to nearest, ties to even; overflow gives infinity, subnormals are kept. x is not NaN.
INITSTATS_HD uint16_t to_float16(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  constexpr uint32_t kFirstInfinite = 0x477FF000u;   // 65520: rounds to infinity
  constexpr uint32_t kSmallestNormal = 0x38800000u;  // 2^-14
  if (magnitude >= kFirstInfinite) return static_cast<uint16_t>(sign | 0x7C00u);
  if (magnitude < kSmallestNormal) {
    // Adding 0.5 aligns the last bit of the sum with the last bit of a float16 subnormal, 2^-24:
    // the adder rounds.
    const float aligned = bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bit_cast<uint32_t>(aligned) - 0x3F000000u));
  }
  const uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

INITSTATS_HD float from_float16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return bit_cast<float>(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  if (magnitude >= 0x400u) return bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
  const float subnormal =
      static_cast<float>(static_cast<int32_t>(magnitude)) * 5.9604644775390625e-8f;  // 2^-24
  return bit_cast<float>(sign | bit_cast<uint32_t>(subnormal));
}

}  // namespace initstats
