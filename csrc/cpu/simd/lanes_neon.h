// Vector families of csrc/math/core/lanes.h for aarch64, whose every processor has NEON with fused
// multiply-adds and conversions of float16.
#pragma once

#include <arm_neon.h>

#include "cpu/simd/lanes_128.h"

namespace initstats::cpu {

struct Neonx32 : Vector128x32 {
  static constexpr bool kComparesIntegers = true;

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
  static INITSTATS_HD U join(W low_half, W high_half) {
    return (U)vuzp1q_u32((uint32x4_t)low_half, (uint32x4_t)high_half);
  }
  static INITSTATS_HD void transpose(U (&v)[4]) {
    const uint32x4_t a = (uint32x4_t)v[0], b = (uint32x4_t)v[1], c = (uint32x4_t)v[2],
                     d = (uint32x4_t)v[3];
    const uint64x2_t ab_low = (uint64x2_t)vzip1q_u32(a, b), ab_high = (uint64x2_t)vzip2q_u32(a, b);
    const uint64x2_t cd_low = (uint64x2_t)vzip1q_u32(c, d), cd_high = (uint64x2_t)vzip2q_u32(c, d);
    v[0] = (U)vzip1q_u64(ab_low, cd_low);
    v[1] = (U)vzip2q_u64(ab_low, cd_low);
    v[2] = (U)vzip1q_u64(ab_high, cd_high);
    v[3] = (U)vzip2q_u64(ab_high, cd_high);
  }
  static INITSTATS_HD void store_high_halves(uint16_t* p, U a, U b) {
    vst1q_u16(p, vuzp2q_u16((uint16x8_t)a, (uint16x8_t)b));
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
