// The CUDA statistics kernels on the source executor against the CPU kernels: every bit of every
// row.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/stats/stats.h"
#include "cuda/stats/stats.h"
#include "math/stats/buckets.h"

namespace {

using namespace initstats;

struct Rows {
  std::vector<double> moments;
  std::vector<int64_t> counts, histogram;

  Rows(size_t tensors, int scale)
      : moments(tensors * kMomentColumns, -7),
        counts(tensors * kCountColumns, -7),
        histogram(tensors * static_cast<size_t>(histogram_places(scale)), 0) {}
};

// A tensor whose memory ends where its last element does, so that the sanitizer sees a step too
// far.
struct Tensor {
  std::unique_ptr<char[]> memory;
  const void* data;
  ItemType type;
  Layout layout;
  Pairing pairing = Pairing::none;
  const void* other = nullptr;
  Layout other_layout{};
  Second second() const { return {other, &other_layout, pairing, 0.7}; }
};

Layout run(int64_t count, int64_t first_index = 0) {
  Layout layout{};
  layout.count = layout.size[0] = count;
  layout.first_index = first_index;
  layout.dims = 1;
  layout.stride[0] = layout.logical[0] = 1;
  return layout;
}

// rows x columns elements of a matrix with `pitch` elements per row in memory and `full` in the
// logical tensor.
Layout matrix(int64_t rows, int64_t columns, int64_t pitch, int64_t full, int64_t first_index) {
  Layout layout{};
  layout.count = rows * columns;
  layout.first_index = first_index;
  layout.dims = 2;
  layout.size[0] = rows;
  layout.size[1] = columns;
  layout.stride[0] = pitch;
  layout.logical[0] = full;
  layout.stride[1] = layout.logical[1] = 1;
  return layout;
}

Tensor tensor(ItemType type, const Layout& layout, int64_t items,
              const std::function<double(int64_t)>& value, int64_t skip = 0) {
  const int64_t bytes = (items + skip) * item_size(type);
  Tensor t{std::unique_ptr<char[]>(new char[static_cast<size_t>(bytes)]), nullptr, type, layout};
  t.data = t.memory.get() + skip * item_size(type);
  for (int64_t i = 0; i < items; ++i) {
    const double v = value(i);
    char* const at = t.memory.get() + (skip + i) * item_size(type);
    const float narrow = static_cast<float>(v);
    switch (type) {
      case ItemType::float32:
        memcpy(at, &narrow, 4);
        break;
      case ItemType::float64:
        memcpy(at, &v, 8);
        break;
      case ItemType::float16: {
        const uint16_t bits = to_float16(narrow);
        memcpy(at, &bits, 2);
        break;
      }
      case ItemType::bfloat16: {
        const uint16_t bits = to_bfloat16(narrow);
        memcpy(at, &bits, 2);
        break;
      }
      default: {
        const int64_t bits = static_cast<int64_t>(std::isfinite(v) ? v * 20 : 0);
        memcpy(at, &bits, static_cast<size_t>(item_size(type)));
      }
    }
  }
  return t;
}

Rows on_cpu(const std::vector<Tensor>& tensors, const StatsGroups& groups) {
  Rows rows(tensors.size(), groups.scale);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& t = tensors[i];
    int64_t* const histogram =
        rows.histogram.data() + i * static_cast<size_t>(histogram_places(groups.scale));
    const int64_t tiles = (t.layout.count + kTile - 1) / kTile;
    MergeTree tree;
    uint64_t fingerprint = 0;
    for (int64_t begin = 0; begin < tiles; begin += cpu::kTilesPerCall) {
      cpu::StatsPartial partial;
      const int64_t end = std::min(begin + cpu::kTilesPerCall, tiles);
      cpu::baseline::stats_kernels.range({t.data, t.type, &t.layout, begin, end, t.second()},
                                         groups, &partial, histogram);
      tree.add(partial.record);
      fingerprint += partial.fingerprint;
    }
    write_record(tree.total(), t.layout.count, fingerprint, &rows.moments[i * kMomentColumns],
                 &rows.counts[i * kCountColumns]);
  }
  return rows;
}

Rows on_cuda(const std::vector<Tensor>& tensors, const StatsGroups& groups) {
  Rows rows(tensors.size(), groups.scale);
  std::vector<cuda::StatsTarget> targets;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& t = tensors[i];
    targets.push_back(
        {t.data, t.type, t.layout, &rows.moments[i * kMomentColumns],
         &rows.counts[i * kCountColumns],
         rows.histogram.data() + i * static_cast<size_t>(histogram_places(groups.scale)),
         t.second()});
  }
  const int64_t count = static_cast<int64_t>(targets.size());
  const size_t bytes = static_cast<size_t>(cuda::stats_workspace_bytes(targets.data(), count));
  const std::unique_ptr<char[]> workspace(new char[bytes]);
  memset(workspace.get(), 0xFF, bytes);
  if (cuda::launch_stats(targets.data(), count, groups, workspace.get(), nullptr) != cudaSuccess)
    exit(1);
  return rows;
}

int different(const char* name, const Rows& a, const Rows& b) {
  const bool same = memcmp(a.moments.data(), b.moments.data(), a.moments.size() * 8) == 0 &&
                    a.counts == b.counts && a.histogram == b.histogram;
  if (!same) printf("DIFFERENT: %s\n", name);
  return same ? 0 : 1;
}

}  // namespace

int main() {
  std::mt19937_64 generator(3);
  std::normal_distribution<double> normal;
  const auto plain = [&](int64_t) { return 3 * normal(generator); };
  const auto special = [&](int64_t i) {
    return i % 97 == 0    ? NAN
           : i % 101 == 0 ? INFINITY
           : i % 103 == 0 ? -INFINITY
           : i % 3 == 0   ? 0.0
                          : normal(generator);
  };
  const auto rectified = [&](int64_t) { return std::fmax(0.0, normal(generator)); };
  const auto huge = [&](int64_t) { return 5e37 * normal(generator); };
  const auto denormal = [&](int64_t) { return 1e-41 * normal(generator); };
  const ItemType types[] = {ItemType::float32, ItemType::float16,       ItemType::bfloat16,
                            ItemType::float64, ItemType::float8_e4m3fn, ItemType::float8_e5m2,
                            ItemType::uint8,   ItemType::int8,          ItemType::int16,
                            ItemType::int32,   ItemType::int64};
  std::vector<Tensor> tensors;
  for (const ItemType type : types) {
    for (const int64_t n : {0, 5, 4099}) tensors.push_back(tensor(type, run(n), n, plain));
    tensors.push_back(tensor(type, run(4100), 4100, special));
    tensors.push_back(tensor(type, run(4096), 4096, rectified));
    tensors.push_back(
        tensor(type, run(4500, (int64_t{1} << 32) - 3000), 4500, plain));  // 32 bits wrap inside
    tensors.push_back(tensor(type, run(4500), 4500, plain, 1));            // off 16 bytes
    tensors.push_back(tensor(type, matrix(60, 70, 80, 1000, 12345), 60 * 80 - 10, plain));
  }
  tensors.push_back(tensor(ItemType::float32, run(4096), 4096, huge));
  tensors.push_back(tensor(ItemType::float32, run(4096), 4096, denormal));

  int wrong = 0;
  for (const StatsGroups& groups :
       {StatsGroups{true, true, true, 0}, StatsGroups{false, false, true, 0}}) {
    wrong += different("all kinds of tensors", on_cpu(tensors, groups), on_cuda(tensors, groups));
  }
  tensors.clear();
  tensors.push_back(tensor(ItemType::float32, run(4200), 4200, plain));
  const StatsGroups fine{true, true, true, 2};
  wrong += different("scale 2", on_cpu(tensors, fine), on_cuda(tensors, fine));

  // Two tensors, Note [Pairs]: runs, one of them off 16 bytes, and rows with columns.
  std::vector<Tensor> pairs, others;
  const auto pair = [&](Tensor x, Tensor y) {
    x.other = y.data;
    x.other_layout = y.layout;
    pairs.push_back(std::move(x));
    others.push_back(std::move(y));
  };
  for (const ItemType type :
       {ItemType::float32, ItemType::float16, ItemType::bfloat16, ItemType::float64}) {
    for (const int64_t n : {5, 4096, 8300})
      pair(tensor(type, run(n), n, special), tensor(type, run(n), n, plain));
    pair(tensor(type, run(4100), 4100, plain), tensor(type, run(4100), 4100, plain, 1));
    Layout turned = matrix(70, 60, 1, 60, 0);  // [60, 70] in memory
    turned.stride[1] = 70;
    pair(tensor(type, run(4200), 4200, plain), tensor(type, turned, 4200, plain));
    pair(tensor(type, matrix(70, 60, 64, 60, 0), 70 * 64, plain),
         tensor(type, turned, 4200, plain));
  }
  for (const int scale : {0, 1}) {
    const StatsGroups groups{true, true, false, scale};
    for (const Pairing pairing : {Pairing::difference, Pairing::square_ratio}) {
      for (Tensor& x : pairs) x.pairing = pairing;
      wrong += different("pairs", on_cpu(pairs, groups), on_cuda(pairs, groups));
    }
  }
  if (wrong == 0) printf("all right\n");
  return wrong;
}
