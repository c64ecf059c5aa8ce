// What PTX instructions compute, as functions on register values. Generated code calls them
// (ptx_instructions.py).
#pragma once

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace [[gnu::visibility("hidden")]] ptx {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
inline float as_f32(u32 bits) { return bit_cast<float>(bits); }
inline double as_f64(u64 bits) { return bit_cast<double>(bits); }
inline u32 f32_bits(float value) { return bit_cast<u32>(value); }
inline u64 f64_bits(double value) { return bit_cast<u64>(value); }

// ---- 16-bit floating point
inline float f16_to_f32(u16 half) {
  const u32 sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
  if (exponent == 31) return as_f32(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return as_f32(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = std::ldexp(float(mantissa), -24);
  return sign != 0 ? -magnitude : magnitude;
}
inline u16 f32_to_f16(float value) {  // to nearest even; NaN becomes 0x7fff, as on the GPU
  u32 bits = f32_bits(value);
  const u32 sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return 0x7fff;
  if (bits >= 0x477ff000) return u16(sign | 0x7c00);  // 65520 and more
  if (bits < 0x38800000)
    return u16(sign | u16(std::nearbyint(as_f32(bits) * 0x1p24f)));  // subnormal
  bits += 0xfff + (bits >> 13 & 1);
  return u16(sign | ((bits - 0x38000000) >> 13));
}
inline float bf16_to_f32(u16 value) { return as_f32(u32(value) << 16); }
inline u16 f32_to_bf16(float value) {
  const u32 bits = f32_bits(value);
  return value != value ? 0x7fff : u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
// Rounds to odd: rounding the result once more to at most 22 bits is as good as rounding once.
inline float narrow(double value) {
  const float nearest = float(value);
  if (double(nearest) == value || value != value || std::isinf(nearest)) return nearest;
  const bool is_too_big = std::fabs(double(nearest)) > std::fabs(value);
  return as_f32((f32_bits(nearest) - (is_too_big ? 1u : 0u)) | 1u);
}

// ---- floating point
// Operation `op` in a directed rounding mode. noinline and volatile keep it between the two mode
// changes.
template <class T>
__attribute__((noinline)) T directed(int mode, char op, T a_in, T b_in, T c_in) {
  volatile T a = a_in, b = b_in, c = c_in, result;
  const int saved = std::fegetround();
  std::fesetround(mode);
  switch (op) {
    case '+':
      result = a + b;
      break;
    case '-':
      result = a - b;
      break;
    case '*':
      result = a * b;
      break;
    case '/':
      result = a / b;
      break;
    case 'f':
      result = std::fma(T(a), T(b), T(c));
      break;
    case 's':
      result = std::sqrt(T(a));
      break;
    default:
      result = 1 / a;
  }
  std::fesetround(saved);
  return result;
}
template <class To, class From>
__attribute__((noinline)) To directed_convert(int mode, From value_in) {
  volatile From value = value_in;
  const int saved = std::fegetround();
  std::fesetround(mode);
  volatile To result = To(value);
  std::fesetround(saved);
  return result;
}
inline float flush(float v) {
  return std::fabs(v) < 0x1p-126f ? std::copysign(0.f, v) : v;
}  // .ftz
template <class T>
T saturate(T v) {  // .sat: to [0, 1], NaN gives 0
  return v > 0 ? (v < 1 ? v : T(1)) : T(0);
}
template <class T>
T minimum(T a, T b) {  // a NaN loses; -0 < +0
  return a != a ? b : b != b ? a : a < b ? a : b < a ? b : std::signbit(a) ? a : b;
}
template <class T>
T maximum(T a, T b) {
  return a != a ? b : b != b ? a : a > b ? a : b > a ? b : std::signbit(a) ? b : a;
}
template <class T>
T minimum_nan(T a, T b) {  // .NaN: a NaN wins
  return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : minimum(a, b);
}
template <class T>
T maximum_nan(T a, T b) {
  return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : maximum(a, b);
}
// `value` is integral already. NaN gives 0, or the smallest integer where 64 bits take part.
template <class I, class T>
I to_integer(T value, bool is_wide) {
  using Limits = std::numeric_limits<I>;
  if (value != value) return is_wide ? I(I(1) << (sizeof(I) * 8 - 1)) : I(0);
  if (double(value) <= double(Limits::min())) return Limits::min();
  if (double(value) >= double(Limits::max())) return Limits::max();
  return I(value);
}

// ---- integers
template <class To, class From>
To saturate_integer(From value) {
  const __int128 wide = value, low = std::numeric_limits<To>::min(),
                 high = std::numeric_limits<To>::max();
  return To(wide < low ? low : wide > high ? high : wide);
}
template <class T>
T high_product(T a, T b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
  return T(Wide(a) * Wide(b) >> sizeof(T) * 8);
}
template <class T>
T divide(T a, T b) {  // by zero is unspecified in PTX; hardware gives all ones
  if (b == 0) return T(-1);
  if (std::is_signed_v<T> && b == T(-1)) return T(0) - a;
  return a / b;
}
template <class T>
T remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == T(-1)) return 0;
  return a % b;
}

// ---- bits
inline u32 lop3(u32 a, u32 b, u32 c, u32 table) {
  u32 result = 0;
  for (u32 row = 0; row < 8; ++row) {
    if ((table >> row & 1) == 0) continue;
    result |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
  }
  return result;
}
inline u32 prmt(u32 a, u32 b, u32 selector) {
  const u64 bytes = u64(b) << 32 | a;
  u32 result = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 select = selector >> 4 * i & 15;
    u32 byte = u32(bytes >> 8 * (select & 7)) & 255;
    if (select & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << 8 * i;
  }
  return result;
}
inline u32 shf(bool is_left, bool is_wrap, u32 low, u32 high, u32 count) {
  const u32 n = is_wrap ? count & 31 : std::min(count, 32u);
  const u64 value = u64(high) << 32 | low;
  return is_left ? u32(value << n >> 32) : u32(value >> n);
}
template <class T>
T shl(T value, u32 n) {
  return n >= sizeof(T) * 8 ? T(0) : T(value << n);
}
template <class T>
T shr(T value, u32 n) {
  return n >= sizeof(T) * 8 ? (value < 0 ? T(-1) : T(0)) : T(value >> n);
}
template <class T>
T bfe(T value, u32 position, u32 length) {
  constexpr u32 kBits = sizeof(T) * 8;
  using U = std::make_unsigned_t<T>;
  position &= 255;
  length &= 255;
  if (length == 0) return 0;
  const bool fill =
      std::is_signed_v<T> && (U(value) >> std::min(position + length - 1, kBits - 1) & 1);
  U result = 0;
  for (u32 i = 0; i < kBits; ++i) {
    const bool bit = i < length && position + i < kBits ? U(value) >> (position + i) & 1 : fill;
    result |= U(bit) << i;
  }
  return T(result);
}
template <class T>
T bfi(T field, T into, u32 position, u32 length) {
  position &= 255;
  length &= 255;
  T result = into;
  for (u32 i = 0; i < length && position + i < sizeof(T) * 8; ++i) {
    result = (result & ~(T(1) << (position + i))) | ((field >> i & 1) << (position + i));
  }
  return result;
}
template <class T>
u32 bfind(T value, bool as_shift) {
  using U = std::make_unsigned_t<T>;
  const U bits = U(std::is_signed_v<T> && value < 0 ? ~value : value);
  if (bits == 0) return ~0u;
  const u32 top = 63 - u32(__builtin_clzll(u64(bits)));
  return as_shift ? u32(sizeof(T) * 8 - 1) - top : top;
}
template <class T>
u32 count_leading_zeros(T value) {
  return value == 0 ? u32(sizeof(T) * 8)
                    : u32(__builtin_clzll(u64(value))) - (64 - u32(sizeof(T) * 8));
}
template <class T>
T reverse_bits(T value) {
  T result = 0;
  for (u32 i = 0; i < sizeof(T) * 8; ++i) result |= (value >> i & 1) << (sizeof(T) * 8 - 1 - i);
  return result;
}

}  // namespace ptx
