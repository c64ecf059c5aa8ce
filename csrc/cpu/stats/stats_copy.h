// Copying a tile that is in the cache to memory that nobody reads soon.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/simd/lanes.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Past the caches, with stores of whole lines: others would read every line that they write, and
// push out what is read next. docs/decisions/0064-copy-while-measuring.md has the times.
inline void copy_past_caches(const void* from, int64_t bytes, void* to) {
  const char* const source = static_cast<const char*>(from);
  char* const target = static_cast<char*>(to);
  int64_t i = 0;
#if defined(__SSE2__)
  constexpr int64_t kStore = 64;
  if (reinterpret_cast<uintptr_t>(target) % kStore == 0) {
    for (; i + kStore <= bytes; i += kStore) {
#if defined(__AVX512F__)
      _mm512_stream_si512((__m512i*)(target + i), _mm512_loadu_si512(source + i));
#else
#pragma GCC unroll 4
      for (int part = 0; part < 4; ++part) {
        const int64_t at = i + part * 16;
        _mm_stream_si128((__m128i*)(target + at), _mm_loadu_si128((const __m128i*)(source + at)));
      }
#endif
    }
  }
#endif
  memcpy(target + i, source + i, static_cast<size_t>(bytes - i));
}

// Call once after the copies of a thread: others see them then.
inline void end_copies() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
