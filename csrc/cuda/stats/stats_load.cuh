// How the threads of a block read a tile: 128 threads, 32 elements each, Note [Tile order].
#pragma once

#include <type_traits>

#include "cuda/launch.cuh"
#include "math/core/items.h"
#include "math/core/layout.h"
#include "math/stats/fingerprint.h"
#include "math/stats/moments.h"
#include "math/stats/pairs.h"

namespace initstats::cuda {

constexpr int kTileThreads = 128;
constexpr int kQuarter = kTile / kTileQuarters;  // elements of one warp

// The elements of a thread: v[step][k] is element quarter * kQuarter + step * 32 kItems + lane *
// kItems + k of the tile.
template <class Value, int kItemsPerLoad>
struct ThreadTile {
  static constexpr int kItems = kItemsPerLoad;
  static constexpr int kSteps = kTile / kTileThreads / kItems;
  Value v[kSteps][kItems];
};

// Makes the compiler take the elements as new: it would otherwise keep |x| and other terms of 32
// elements from one pass to the next, in registers that are better spent on a fourth block per
// processor.
template <class Value, int kItems>
__device__ __forceinline__ void forget_terms(ThreadTile<Value, kItems>& x) {
#if defined(__CUDA_ARCH__)
#pragma unroll
  for (int step = 0; step < x.kSteps; ++step) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      if constexpr (sizeof(Value) == 8) {
        asm volatile("" : "+d"(x.v[step][k]));
      } else {
        asm volatile("" : "+f"(x.v[step][k]));
      }
    }
  }
#else
  static_cast<void>(x);
#endif
}

template <int kItems>
__device__ __forceinline__ int element_of(int step, int item) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  return warp * kQuarter + step * 32 * kItems + lane * kItems + item;
}

// A tensor that is one run in memory and in the logical tensor, aligned to 16 bytes.
struct RunTask {
  const void* data;
  int64_t count, first_index;
  void* records;  // [tiles] TileRecord
  int64_t* histogram;
  uint32_t first_block;
  int32_t tiles;
};

// Two of them that are subtracted, Note [Pairs].
struct RunPairTask : RunTask {
  const void* minus;
};

// A run of items of one byte: one kernel for all of their types.
struct ByteRunTask : RunTask {
  ItemType type;
};

// Any other tensor.
struct BoxTask {
  const void* data;
  const void* second;  // of Note [Pairs]
  Layout layout, second_layout;
  void* records;
  int64_t* histogram;
  uint32_t first_block;
  int32_t tiles;
  ItemType type;
  Pairing pairing;
  double factor;
};

struct Float32Items {
  using Value = float;
  using Stored = uint32_t;
  static __device__ __forceinline__ float value(uint32_t bits) { return bit_cast<float>(bits); }
};
struct Float16Items {
  using Value = float;
  using Stored = uint16_t;
  static __device__ __forceinline__ float value(uint16_t bits) {
    return __half2float(bit_cast<__half>(bits));
  }
};
struct BFloat16Items {
  using Value = float;
  using Stored = uint16_t;
  static __device__ __forceinline__ float value(uint16_t bits) { return from_bfloat16(bits); }
};
// Items of one byte, whose type the task tells. Lanes read four of them at once, as the order of
// summation has them, so that all 32 of a thread are on their way together.
struct ByteItems {
  using Value = float;
  using Stored = uint8_t;
};
struct Float64Items {
  using Value = double;
  using Stored = uint64_t;
  static __device__ __forceinline__ double value(uint64_t bits) { return bit_cast<double>(bits); }
};

template <class Value>
__device__ __forceinline__ Value missing_value() {
  return static_cast<Value>(__builtin_nanf(""));
}
// How many of the tile's elements are past the end, `left` elements after its start.
__device__ __forceinline__ int missing_of(int64_t left) {
  return left >= kTile ? 0 : kTile - static_cast<int>(left);
}

// How many items a thread asks for before it waits for the first: memory is far away.
constexpr int kItemsAhead = 8;

// Calls read(Stored{}) with the unsigned integer that has as many bytes as an item.
template <class Read>
__device__ __forceinline__ void with_stored(ItemType type, Read read) {
  switch (item_size(type)) {
    case 1:
      return read(uint8_t{});
    case 2:
      return read(uint16_t{});
    case 4:
      return read(uint32_t{});
    default:
      return read(uint64_t{});
  }
}

// The value of an item from its bits.
template <class Value, class Stored>
__device__ __forceinline__ Value value_of(ItemType type, Stored bits) {
  if constexpr (sizeof(Value) == 8) {
    return wide_item_value(type, bits);
  } else {
    return item_value(type, static_cast<uint32_t>(bits));
  }
}

// Reads tiles of a RunTask with 16-byte loads (4 where items are bytes); the last tile of a tensor
// item by item.
template <class Items, bool kDifference>
struct RunLoader {
  static constexpr bool kBytes = std::is_same_v<Items, ByteItems>;
  using Task = std::conditional_t<kDifference, RunPairTask,
                                  std::conditional_t<kBytes, ByteRunTask, RunTask>>;
  using Value = typename Items::Value;
  using Stored = typename Items::Stored;
  static constexpr int kItems = kBytes ? 4 : 16 / static_cast<int>(sizeof(Stored));
  using Tile = ThreadTile<Value, kItems>;
  // As many as fit without spilling registers.
  static constexpr int kBlocksPerProcessor = sizeof(Value) == 8 ? 2 : kDifference ? 3 : 4;
  struct alignas(kItems * sizeof(Stored)) Vector {
    Stored item[kItems];
  };
  using Word = std::conditional_t<kBytes, uint32_t, uint4>;
  struct Shared {};

  static __device__ __forceinline__ int load(const Task& task, int64_t tile, bool fingerprint,
                                             Tile& x, uint64_t& sum, Shared&) {
    const Stored* const data = static_cast<const Stored*>(task.data) + tile * kTile;
    const int64_t left = task.count - tile * kTile;
    const uint64_t index = static_cast<uint64_t>(task.first_index + tile * kTile) * kWords;
    // Inside of a full tile nothing asks for bounds, nor whether positions outgrow 32 bits.
    const bool counts_on = static_cast<uint32_t>(index) <= 0u - kTile * kWords;
    if (left >= kTile && (counts_on || kDifference || !fingerprint)) {
      Vector raw[Tile::kSteps];
      read(data, raw);
      if (!kDifference && fingerprint) add_fingerprint(raw, index, sum);
      values(task, raw, x);
      if constexpr (kDifference) {
        forget_terms(x);  // or both tensors are on their way at once, more than registers hold
        read(static_cast<const Stored*>(task.minus) + tile * kTile, raw);
        Tile minus;
        values(task, raw, minus);
        subtract(minus, x);
      }
    } else {
      load_edge(task, data, left, index, fingerprint, x, sum);
      if constexpr (kDifference) {
        forget_terms(x);
        Tile minus;
        load_edge(task, static_cast<const Stored*>(task.minus) + tile * kTile, left, index, false,
                  minus, sum);
        subtract(minus, x);
      }
    }
    forget_terms(x);
    return missing_of(left);
  }

 private:
  static constexpr uint32_t kWords = sizeof(Stored) == 8 ? 2 : 1;  // 32-bit elements per item

  static __device__ __forceinline__ void read(const Stored* data, Vector (&raw)[Tile::kSteps]) {
#pragma unroll
    for (int step = 0; step < Tile::kSteps; ++step)
      raw[step] =
          bit_cast<Vector>(*reinterpret_cast<const Word*>(data + element_of<kItems>(step, 0)));
  }

  static __device__ __forceinline__ void values(const Task& task, const Vector (&raw)[Tile::kSteps],
                                                Tile& x) {
    if constexpr (kBytes) {
      switch (task.type) {  // once for all items
        case ItemType::float8_e4m3fn:
          return convert(raw, x, [](Stored bits) { return from_float8_e4m3fn(bits); });
        case ItemType::float8_e5m2:
          return convert(raw, x, [](Stored bits) { return from_float8_e5m2(bits); });
        case ItemType::int8:
          return convert(raw, x,
                         [](Stored bits) { return static_cast<float>(static_cast<int8_t>(bits)); });
        default:
          return convert(raw, x, [](Stored bits) { return static_cast<float>(bits); });
      }
    } else {
      convert(raw, x, [](Stored bits) { return Items::value(bits); });
    }
  }
  template <class Convert>
  static __device__ __forceinline__ void convert(const Vector (&raw)[Tile::kSteps], Tile& x,
                                                 Convert value) {
#pragma unroll
    for (int step = 0; step < Tile::kSteps; ++step) {
#pragma unroll
      for (int k = 0; k < kItems; ++k) x.v[step][k] = value(raw[step].item[k]);
    }
  }

  static __device__ __forceinline__ void subtract(const Tile& minus, Tile& x) {
#pragma unroll
    for (int step = 0; step < Tile::kSteps; ++step) {
#pragma unroll
      for (int k = 0; k < kItems; ++k) x.v[step][k] = x.v[step][k] - minus.v[step][k];
    }
  }

  static __device__ __forceinline__ uint64_t mix(Stored bits, uint32_t position,
                                                 uint32_t next_position, uint64_t sum) {
    sum = fingerprint_add(static_cast<uint32_t>(bits), position, sum);
    if constexpr (kWords == 2)
      sum = fingerprint_add(static_cast<uint32_t>(bits >> 32), next_position, sum);
    return sum;
  }

  static __device__ __forceinline__ void add_fingerprint(const Vector (&raw)[Tile::kSteps],
                                                         uint64_t index, uint64_t& sum) {
    const uint32_t position =
        fingerprint_position(index) +
        static_cast<uint32_t>(element_of<kItems>(0, 0)) * kWords * kPositionLow;
#pragma unroll
    for (int step = 0; step < Tile::kSteps; ++step) {
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        const uint32_t offset = static_cast<uint32_t>(step * 32 * kItems + k) * kWords;
        sum = mix(raw[step].item[k], position + offset * kPositionLow,
                  position + (offset + 1) * kPositionLow, sum);
      }
    }
  }

  // The items of a tile of which `left` are there, one by one; the others are missing.
  static __device__ __forceinline__ void load_edge(const Task& task, const Stored* data,
                                                   int64_t left, uint64_t index, bool fingerprint,
                                                   Tile& x, uint64_t& sum) {
    int first = element_of<kItems>(0, 0);
#if defined(__CUDA_ARCH__)
    // Takes it as new, or terms of 32 elements would wait in registers for this rare tile.
    asm volatile("" : "+r"(first));
#endif
#pragma unroll
    for (int step = 0; step < Tile::kSteps; ++step) {
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        const int i = first + step * 32 * kItems + k;
        x.v[step][k] = missing_value<Value>();
        if (i >= left) continue;
        const Stored bits = data[i];
        if constexpr (kBytes) {
          x.v[step][k] = value_of<Value>(task.type, bits);
        } else {
          x.v[step][k] = Items::value(bits);
        }
        const uint64_t at = index + static_cast<uint32_t>(i) * kWords;
        if (fingerprint)
          sum = mix(bits, fingerprint_position(at), fingerprint_position(at + 1), sum);
      }
    }
  }
};

// Reads tiles of a BoxTask item by item, through shared memory.
template <class V, int kItemsPerLoad>
struct BoxLoader {
  using Task = BoxTask;
  using Value = V;
  static constexpr int kItems = kItemsPerLoad;
  using Tile = ThreadTile<Value, kItems>;
  static constexpr int kBlocksPerProcessor = sizeof(Value) == 8 ? 2 : 4;
  struct Shared {
    Value staged[kTile];
  };

  static __device__ __forceinline__ int load(const Task& task, int64_t tile, bool fingerprint,
                                             Tile& x, uint64_t& sum, Shared& shared) {
    __syncthreads();  // the tile before has been read
    with_stored(task.type, [&](auto stored) {
      using Stored = decltype(stored);
      // Items of this size have values of this one: 8-byte items are wide, 1 and 2 bytes are not.
      if constexpr (sizeof(Stored) == 4 || (sizeof(Stored) == 8) == (sizeof(Value) == 8)) {
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < kTile; i += kItemsAhead * kTileThreads)
          stage<Stored>(task, tile * kTile, i, fingerprint, sum, shared);
      }
    });
    __syncthreads();
#pragma unroll
    for (int step = 0; step < Tile::kSteps; ++step) {
#pragma unroll
      for (int k = 0; k < kItems; ++k) x.v[step][k] = shared.staged[element_of<kItems>(step, k)];
    }
    return missing_of(task.layout.count - tile * kTile);
  }

 private:
  // Elements i, i + kTileThreads, ... of the tile that begins at element `begin`.
  template <class Stored>
  static __device__ __forceinline__ void stage(const Task& task, int64_t begin, int i,
                                               bool fingerprint, uint64_t& sum, Shared& shared) {
    Stored bits[kItemsAhead], others[kItemsAhead];
    int64_t index[kItemsAhead];
#pragma unroll
    for (int j = 0; j < kItemsAhead; ++j) {
      const int64_t at = begin + i + j * kTileThreads;
      bits[j] = others[j] = 0;
      index[j] = 0;
      if (at >= task.layout.count) continue;
      const Layout::Place place = task.layout.place(at);
      index[j] = place.index;
      bits[j] = static_cast<const Stored*>(task.data)[place.offset];
      if (task.pairing != Pairing::none)
        others[j] = static_cast<const Stored*>(task.second)[task.second_layout.place(at).offset];
    }
#pragma unroll
    for (int j = 0; j < kItemsAhead; ++j) {
      const bool exists = begin + i + j * kTileThreads < task.layout.count;
      const Value value = value_with(task, value_of<Value>(task.type, bits[j]), others[j]);
      if (fingerprint && exists) sum += mix(bits[j], static_cast<uint64_t>(index[j]));
      shared.staged[i + j * kTileThreads] = exists ? value : missing_value<Value>();
    }
  }

  // What an element makes with the other tensor's, where there is one.
  template <class Stored>
  static __device__ __forceinline__ Value value_with(const Task& task, Value x, Stored other) {
    if (task.pairing == Pairing::none) return x;
    const Value y = value_of<Value>(task.type, other);
    using Lane = std::conditional_t<sizeof(Value) == 8, Scalar64, Scalar32>;
    if (task.pairing == Pairing::difference) return DifferenceOf<Lane>{}(x, y);
    return SquareRatioOf<Lane>(task.factor)(x, y);
  }

  template <class Stored>
  static __device__ __forceinline__ uint64_t mix(Stored bits, uint64_t index) {
    const uint32_t low = static_cast<uint32_t>(bits);
    if constexpr (sizeof(Stored) == 8) {
      return fingerprint_mix(low, fingerprint_position(2 * index)) +
             fingerprint_mix(static_cast<uint32_t>(bits >> 32),
                             fingerprint_position(2 * index + 1));
    } else {
      return fingerprint_mix(low, fingerprint_position(index));
    }
  }
};

}  // namespace initstats::cuda
