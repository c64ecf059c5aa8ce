// The storage types that statistics read, and their values as float32 or float64.
#pragma once

#include "math/core/scalar.h"

namespace initstats {

// bool tensors are uint8 here: their bytes are 0 and 1.
enum class ItemType : int32_t {
  float32,
  float16,
  bfloat16,
  float64,
  float8_e4m3fn,
  float8_e5m2,
  uint8,
  int8,
  int16,
  int32,
  int64
};

INITSTATS_HD constexpr int item_size(ItemType type) {
  switch (type) {
    case ItemType::float64:
    case ItemType::int64:
      return 8;
    case ItemType::float32:
    case ItemType::int32:
      return 4;
    case ItemType::float16:
    case ItemType::bfloat16:
    case ItemType::int16:
      return 2;
    default:
      return 1;
  }
}

// Values and moments are float64 for these, float32 (exact) for all others. int64 beyond 2^53
// rounds to nearest even.
INITSTATS_HD constexpr bool is_wide(ItemType type) {
  return type == ItemType::float64 || type == ItemType::int32 || type == ItemType::int64;
}

// Lane rows of Note [Tile order].
INITSTATS_HD constexpr int lane_rows(ItemType type) {
  return is_wide(type) ? 4 : type == ItemType::float16 || type == ItemType::bfloat16 ? 16 : 8;
}

INITSTATS_HD float from_float8_e4m3fn(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24, magnitude = bits & 0x7Fu;
  if (magnitude == 0x7Fu) return bit_cast<float>(sign | 0x7FC00000u);
  // Read as float32 the exponent is too small by the difference of the biases, 127 - 7; the product
  // is exact.
  constexpr float kTwo120 = 1.329227995784916e36f;
  return bit_cast<float>(sign | bit_cast<uint32_t>(bit_cast<float>(magnitude << 20) * kTwo120));
}

INITSTATS_HD float from_float8_e5m2(uint8_t bits) {
  return from_float16(static_cast<uint16_t>(bits << 8));
}

// The value of a stored item that is not wide, and of one that is; `bits` are the stored bits,
// zero-extended.
INITSTATS_HD float item_value(ItemType type, uint32_t bits) {
  switch (type) {
    case ItemType::float16:
      return from_float16(static_cast<uint16_t>(bits));
    case ItemType::bfloat16:
      return from_bfloat16(static_cast<uint16_t>(bits));
    case ItemType::float8_e4m3fn:
      return from_float8_e4m3fn(static_cast<uint8_t>(bits));
    case ItemType::float8_e5m2:
      return from_float8_e5m2(static_cast<uint8_t>(bits));
    case ItemType::uint8:
      return static_cast<float>(static_cast<uint8_t>(bits));
    case ItemType::int8:
      return static_cast<float>(static_cast<int8_t>(bits));
    case ItemType::int16:
      return static_cast<float>(static_cast<int16_t>(bits));
    default:
      return bit_cast<float>(bits);
  }
}

INITSTATS_HD double wide_item_value(ItemType type, uint64_t bits) {
  switch (type) {
    case ItemType::int32:
      return static_cast<double>(static_cast<int32_t>(bits));
    case ItemType::int64:
      return static_cast<double>(static_cast<int64_t>(bits));
    default:
      return bit_cast<double>(bits);
  }
}

}  // namespace initstats
