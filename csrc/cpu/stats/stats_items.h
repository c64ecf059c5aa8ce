// Reading a tile of any storage type and layout: its stored bits side by side, and its values as
// float or double.
#pragma once

#include <algorithm>

#include "cpu/simd/lanes.h"
#include "cpu/stats/stats.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Calls run(offset in memory, stride in memory, logical index, logical step, n) for each stretch of
// the elements [begin, end) of the box along the innermost dimension.
template <class Run>
INITSTATS_HD void for_each_run(const Layout& layout, int64_t begin, int64_t end, Run run) {
  const int inner = layout.dims - 1;
  const int64_t size = layout.size[inner];
  for (int64_t i = begin; i < end;) {
    const int64_t row_end = layout.dims == 1 ? end : (i / size + 1) * size;
    const int64_t n = std::min(row_end, end) - i;
    const Layout::Place place = layout.place(i);
    run(place.offset, layout.stride[inner], static_cast<uint64_t>(place.index),
        static_cast<uint64_t>(layout.logical[inner]), n);
    i += n;
  }
}

template <class Item>
void gather(const StatsRange& r, int64_t begin, int64_t end, Item* out) {
  for_each_run(*r.layout, begin, end,
               [&](int64_t offset, int64_t stride, uint64_t, uint64_t, int64_t n) {
                 const Item* in = static_cast<const Item*>(r.data) + offset;
                 if (stride == 1) {
                   memcpy(out, in, static_cast<size_t>(n) * sizeof(Item));
                 } else {
                   for (int64_t i = 0; i < n; ++i) out[i] = in[i * stride];
                 }
                 out += n;
               });
}

// The stored items of the elements [begin, end), side by side: in place if they lie so, else copied
// to buffer.
inline const void* read_items(const StatsRange& r, int64_t begin, int64_t end, void* buffer) {
  const Layout& layout = *r.layout;
  if (layout.is_dense()) {
    return static_cast<const char*>(r.data) + begin * item_size(r.type);
  }
  switch (item_size(r.type)) {
    case 1:
      gather(r, begin, end, static_cast<uint8_t*>(buffer));
      break;
    case 2:
      gather(r, begin, end, static_cast<uint16_t*>(buffer));
      break;
    case 4:
      gather(r, begin, end, static_cast<uint32_t*>(buffer));
      break;
    default:
      gather(r, begin, end, static_cast<uint64_t*>(buffer));
      break;
  }
  return buffer;
}

#if defined(__AVX512F__)
inline __m512 widen_float16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
inline __m512 widen_bfloat16(const uint16_t* p) {
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)),
                                   16);
}
#elif defined(__AVX2__)
inline __m256 widen_float16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
inline __m256 widen_bfloat16(const uint16_t* p) {
  return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
}
#elif defined(__aarch64__)
inline Lanes32::F widen_float16(const uint16_t* p) {
  return (Lanes32::F)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
inline Lanes32::F widen_bfloat16(const uint16_t* p) {
  return (Lanes32::F)vshll_n_u16(vld1_u16(p), 16);
}
#else
// From so many scalars: the compiler makes vectors of them.
inline Lanes32::F widen_float16(const uint16_t* p) {
  float v[Lanes32::kWidth];
  for (int i = 0; i < Lanes32::kWidth; ++i) v[i] = from_float16(p[i]);
  return Lanes32::load(v);
}
inline Lanes32::F widen_bfloat16(const uint16_t* p) {
  float v[Lanes32::kWidth];
  for (int i = 0; i < Lanes32::kWidth; ++i) v[i] = from_bfloat16(p[i]);
  return Lanes32::load(v);
}
#endif

// Values of n items of a narrow type.
template <class Item, class Value>
INITSTATS_HD void convert(const void* items, int64_t n, float* out, Value value) {
  const Item* in = static_cast<const Item*>(items);
  for (int64_t i = 0; i < n; ++i) out[i] = value(in[i]);
}

inline void narrow_values(ItemType type, const void* items, int64_t n, float* out) {
  const uint16_t* halves = static_cast<const uint16_t*>(items);
  int64_t i = 0;
  switch (type) {
    case ItemType::float16:
      for (; i + Lanes32::kWidth <= n; i += Lanes32::kWidth)
        Lanes32::store(out + i, widen_float16(halves + i));
      for (; i < n; ++i) out[i] = from_float16(halves[i]);
      break;
    case ItemType::bfloat16:
      for (; i + Lanes32::kWidth <= n; i += Lanes32::kWidth)
        Lanes32::store(out + i, widen_bfloat16(halves + i));
      for (; i < n; ++i) out[i] = from_bfloat16(halves[i]);
      break;
    case ItemType::float8_e4m3fn:
      convert<uint8_t>(items, n, out, from_float8_e4m3fn);
      break;
    case ItemType::float8_e5m2:
      convert<uint8_t>(items, n, out, from_float8_e5m2);
      break;
    case ItemType::uint8:
      convert<uint8_t>(items, n, out, [](uint8_t v) { return static_cast<float>(v); });
      break;
    case ItemType::int8:
      convert<int8_t>(items, n, out, [](int8_t v) { return static_cast<float>(v); });
      break;
    case ItemType::int16:
      convert<int16_t>(items, n, out, [](int16_t v) { return static_cast<float>(v); });
      break;
    default:
      memcpy(out, items, static_cast<size_t>(n) * sizeof(float));
      break;
  }
}

inline void wide_values(ItemType type, const void* items, int64_t n, double* out) {
  switch (type) {
    case ItemType::int32:
      for (int64_t i = 0; i < n; ++i)
        out[i] = static_cast<double>(static_cast<const int32_t*>(items)[i]);
      break;
    case ItemType::int64:
      for (int64_t i = 0; i < n; ++i)
        out[i] = static_cast<double>(static_cast<const int64_t*>(items)[i]);
      break;
    default:
      memcpy(out, items, static_cast<size_t>(n) * sizeof(double));
      break;
  }
}

// The values of n items as a tile that is padded with NaN to `padded`; in place if nothing needs to
// change.
inline const float* tile_values(ItemType type, const void* items, int64_t n, int64_t padded,
                                float* buffer) {
  if (type == ItemType::float32 && n == padded) return static_cast<const float*>(items);
  narrow_values(type, items, n, buffer);
  std::fill(buffer + n, buffer + padded, __builtin_nanf(""));
  return buffer;
}
inline const double* tile_values(ItemType type, const void* items, int64_t n, int64_t padded,
                                 double* buffer) {
  if (type == ItemType::float64 && n == padded) return static_cast<const double*>(items);
  wide_values(type, items, n, buffer);
  std::fill(buffer + n, buffer + padded, __builtin_nan(""));
  return buffer;
}

}  // namespace

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
