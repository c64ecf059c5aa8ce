// The fingerprint: a 64-bit sum over elements of a mix of logical index and stored bits.
#pragma once

#include "math/core/lanes.h"

namespace initstats {

// Note [Fingerprint v1]. Element i (C-order index in the logical tensor, Note [Box]) with stored
// bits b adds fingerprint_mix(b, fingerprint_position(i)) mod 2^64. Types of 8, 16 and 32 bits are
// zero-extended to 32 bits; a 64-bit element i counts as two elements, 2 i with the low word and 2
// i + 1 with the high word. For a fixed position the mix is injective in b: each step is a
// bijection of 32 bits, and the last product, of two 32-bit numbers, cannot wrap. So one changed
// element always changes the sum; more changes escape with a chance near 2^-64. The multipliers are
// those of MurmurHash3 (Appleby) and of Knuth's multiplicative hashing.
constexpr uint32_t kPositionLow = 0x9E3779B1u;
constexpr uint32_t kPositionHigh = 0x85EBCA77u;
constexpr uint32_t kMixMultiplier = 0xCC9E2D51u;
constexpr uint32_t kMixOffset = 0x27D4EB2Fu;

INITSTATS_HD uint32_t fingerprint_position(uint64_t index) {
  return static_cast<uint32_t>(index) * kPositionLow +
         static_cast<uint32_t>(index >> 32) * kPositionHigh;
}

// sum + fingerprint_mix(bits, position).
INITSTATS_HD uint64_t fingerprint_add(uint32_t bits, uint32_t position, uint64_t sum) {
  uint32_t a = (bits ^ position) * kMixMultiplier;
  a ^= a >> 15;
#if defined(__CUDA_ARCH__)
  uint32_t b;  // one instruction of three operands, where the compiler makes two of an immediate
  asm("lop3.b32 %0, %1, %2, %3, 0xBE;" : "=r"(b) : "r"(position), "r"(kMixOffset), "r"(1u));
  asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(sum) : "r"(a), "r"(b), "l"(sum));
  return sum;
#else
  return sum + static_cast<uint64_t>(a) * ((position ^ kMixOffset) | 1u);
#endif
}

INITSTATS_HD uint64_t fingerprint_mix(uint32_t bits, uint32_t position) {
  return fingerprint_add(bits, position, 0);
}

}  // namespace initstats
