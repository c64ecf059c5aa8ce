// Vector families of csrc/math/core/lanes.h for aarch64, whose every processor has NEON with fused
// multiply-adds and conversions of float16.
#pragma once

#include <arm_neon.h>

#include "cpu/simd/lanes_128.h"

namespace initstats::cpu {

struct Neonx32 : Vector128x32 {
  static INITSTATS_HD F fma(F a, F b, F c) {
    return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
  }
  static INITSTATS_HD F sqrt(F a) { return (F)vsqrtq_f32((float32x4_t)a); }
  static INITSTATS_HD bool any(I a) { return vmaxvq_u32((uint32x4_t)a) != 0; }
  static INITSTATS_HD U umin(U a, U b) { return (U)vminq_u32((uint32x4_t)a, (uint32x4_t)b); }
  static INITSTATS_HD U umax(U a, U b) { return (U)vmaxq_u32((uint32x4_t)a, (uint32x4_t)b); }
  // The greater one as two's complement.
  static INITSTATS_HD U smax(U a, U b) { return (U)vmaxq_s32((int32x4_t)a, (int32x4_t)b); }

  static INITSTATS_HD W mul_wide(W a, uint32_t b) {
    return (W)vmull_u32(vmovn_u64((uint64x2_t)a), vdup_n_u32(b));
  }
  // The products of all lanes with b, their halves apart.
  static INITSTATS_HD void mul_halves(U a, uint32_t b, U& low, U& high) {
    const uint32x4_t even = (uint32x4_t)vmull_u32(vget_low_u32((uint32x4_t)a), vdup_n_u32(b));
    const uint32x4_t odd = (uint32x4_t)vmull_high_u32((uint32x4_t)a, vdupq_n_u32(b));
    low = (U)vuzp1q_u32(even, odd);
    high = (U)vuzp2q_u32(even, odd);
  }
  static INITSTATS_HD void store_low_halves(uint16_t* p, U a) {
    vst1_u16(p, vmovn_u32((uint32x4_t)a));
  }
  // Adds the products of all lanes to two vectors; which go where is left open.
  static INITSTATS_HD void add_products(U a, U b, W& one, W& other) {
    one = (W)vmlal_u32((uint64x2_t)one, vget_low_u32((uint32x4_t)a), vget_low_u32((uint32x4_t)b));
    other = (W)vmlal_high_u32((uint64x2_t)other, (uint32x4_t)a, (uint32x4_t)b);
  }
};

struct Neonx64 : Vector128x64 {
  static INITSTATS_HD F fma(F a, F b, F c) {
    return (F)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
  }
  static INITSTATS_HD F sqrt(F a) { return (F)vsqrtq_f64((float64x2_t)a); }
  static INITSTATS_HD bool any(I a) { return vmaxvq_u32((uint32x4_t)a) != 0; }
};

}  // namespace initstats::cpu

template <>
inline constexpr bool initstats::kMultipliesHalves<initstats::cpu::Neonx32> = true;
