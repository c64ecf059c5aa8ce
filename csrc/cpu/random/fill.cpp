// Fills of one capability: the stream in blocks of vectors, one write per element.
#include "cpu/random/fill.h"

#include <algorithm>

#include "cpu/random/sample.h"

namespace initstats::cpu::INITSTATS_CAPABILITY {

namespace {

// Fills n elements at out, out + stride, ... whose logical indices are first, first + 1, ...
template <class Dist, class Store>
void fill_run(const Dist& dist, uint64_t key, typename Store::Item* out, int64_t stride,
              uint64_t first, int64_t n) {
  using Item = typename Store::Item;
  const auto staged = [&](int64_t skip,
                          int64_t count) {  // part of the block that holds the current element
    alignas(64) Item block[kBlock];
    sample_block<Store>(dist, key, first / 4, block);
    if (stride == 1) {
      std::copy_n(block + skip, count, out);
    } else {
      for (int64_t i = 0; i < count; ++i) out[i * stride] = block[skip + i];
    }
    out += count * stride;
    first += static_cast<uint64_t>(count);
    n -= count;
  };
  const int64_t skip = static_cast<int64_t>(first % 4);
  if (skip != 0 && n > 0) staged(skip, std::min(n, kBlock - skip));
  if (stride == 1 && n >= kBlock) {
    const int64_t whole = n / kBlock * kBlock;
    sample_blocks<Store>(dist, key, first / 4, out, whole);
    n -= whole, out += whole, first += static_cast<uint64_t>(whole);
  }
  while (n > 0) staged(0, std::min(n, kBlock));
}

// Cuts [begin, end) of the box into runs along the innermost dimension.
template <class Dist, class Store>
void fill_range(const Dist& dist, const FillRange& r) {
  using Item = typename Store::Item;
  const Layout& layout = *r.layout;
  const int inner = layout.dims - 1;
  const bool in_order = layout.logical[inner] == 1;
  for (int64_t i = r.begin; i < r.end;) {
    const int64_t row_end =
        layout.dims == 1 ? r.end : (i / layout.size[inner] + 1) * layout.size[inner];
    const int64_t n = in_order ? std::min(row_end, r.end) - i : 1;
    const Layout::Place place = layout.place(i);
    fill_run<Dist, Store>(dist, r.key, static_cast<Item*>(r.data) + place.offset,
                          layout.stride[inner], static_cast<uint64_t>(place.index), n);
    i += n;
  }
}

template <template <class> class Dist>
void fill(const Dist<float>& dist, const FillRange& r) {
  switch (r.dtype) {
    case DType::float32:
      fill_range<Dist<float>, StoreFloat32>(dist, r);
      break;
    case DType::bfloat16:
      fill_range<Dist<float>, StoreBFloat16>(dist, r);
      break;
    case DType::float16:
      fill_range<Dist<float>, StoreFloat16>(dist, r);
      break;
    case DType::float64:
      break;
  }
}

template <template <class> class Dist>
void fill_float64(const Dist<double>& dist, const FillRange& r) {
  fill_range<Dist<double>, StoreFloat64>(dist, r);
}

}  // namespace

#define INITSTATS_FILL_KERNELS(name, Dist, ...) fill<Dist>, fill_float64<Dist>,
const FillKernels fill_kernels = {INITSTATS_DISTRIBUTIONS(INITSTATS_FILL_KERNELS)};
#undef INITSTATS_FILL_KERNELS

}  // namespace initstats::cpu::INITSTATS_CAPABILITY
