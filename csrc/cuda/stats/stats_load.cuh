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

// The storage types that RunLoader reads. The type says how many lane rows the order of summation
// has, and with that how many neighbouring items a lane takes at once: 16 bytes of the
// floating-point types and of int64, 8 of int32 and int16, 4 of a byte. All 32 items of a thread
// are on their way together.
template <ItemType kItemType, class V, class S>
struct Items {
  static constexpr ItemType kType = kItemType;
  using Value = V;
  using Stored = S;
};
struct Float32Items : Items<ItemType::float32, float, uint32_t> {};
struct Float16Items : Items<ItemType::float16, float, uint16_t> {};
struct BFloat16Items : Items<ItemType::bfloat16, float, uint16_t> {};
struct Float64Items : Items<ItemType::float64, double, uint64_t> {};
struct Int16Items : Items<ItemType::int16, float, uint16_t> {};
struct Int32Items : Items<ItemType::int32, double, uint32_t> {};
struct Int64Items : Items<ItemType::int64, double, uint64_t> {};
// One byte each, whose type the task tells: all have as many lane rows.
struct ByteItems : Items<ItemType::uint8, float, uint8_t> {};

// The types that have a kernel for few tensors beside that for many.
constexpr bool is_common(ItemType type) {
  return type == ItemType::float32 || type == ItemType::float16 || type == ItemType::bfloat16 ||
         type == ItemType::float64;
}

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

// Calls read(Stored{}) with the unsigned integer that has as many bytes as an item. Items of 8
// bytes have values of float64, those of 4 of either type, the others of float32.
template <class Value, class Read>
__device__ __forceinline__ void with_stored(ItemType type, Read read) {
  if constexpr (sizeof(Value) == 8) {
    return item_size(type) == 4 ? read(uint32_t{}) : read(uint64_t{});
  } else {
    switch (item_size(type)) {
      case 1:
        return read(uint8_t{});
      case 2:
        return read(uint16_t{});
      default:
        return read(uint32_t{});
    }
  }
}

// Stands between the loads of several items and what is done with them, or the compiler would wait
// for the first before it asks for the last: up to sm_80 ptxas obeys a barrier of the warp alone,
// from sm_90 on such a barrier makes it write the loop twice, and items that it takes as new
// suffice.
template <class Stored, int kCount>
__device__ __forceinline__ void end_of_loads(Stored (&bits)[kCount]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  __syncwarp();
#elif defined(__CUDA_ARCH__)
  if constexpr (sizeof(Stored) >= 4) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if constexpr (sizeof(Stored) == 4) {
        asm volatile("" : "+r"(bits[k]));
      } else {
        asm volatile("" : "+l"(bits[k]));
      }
    }
  }
#endif
  static_cast<void>(bits);
}

// The value of an item from its bits, for a type that the compiler knows; float16 by the GPU's own
// instruction.
template <class Value, ItemType kType>
struct Conversion {
  template <class Stored>
  __device__ __forceinline__ Value operator()(Stored bits) const {
    if constexpr (sizeof(Value) == 8) {
      return wide_item_value(kType, bits);
    } else if constexpr (kType == ItemType::float16) {
      return __half2float(bit_cast<__half>(bits));
    } else if constexpr (kType == ItemType::float8_e5m2) {
      return __half2float(bit_cast<__half>(static_cast<uint16_t>(bits << 8)));
    } else {
      return item_value(kType, bits);
    }
  }
};

// Calls take(Conversion) for the type of the items: the type is asked for once, not per item.
template <class Value, class Stored, class Take>
__device__ __forceinline__ void with_conversion(ItemType type, Take take) {
  if constexpr (sizeof(Stored) == 1) {
    switch (type) {
      case ItemType::float8_e4m3fn:
        return take(Conversion<Value, ItemType::float8_e4m3fn>{});
      case ItemType::float8_e5m2:
        return take(Conversion<Value, ItemType::float8_e5m2>{});
      case ItemType::int8:
        return take(Conversion<Value, ItemType::int8>{});
      default:
        return take(Conversion<Value, ItemType::uint8>{});
    }
  } else if constexpr (sizeof(Stored) == 2) {
    switch (type) {
      case ItemType::float16:
        return take(Conversion<Value, ItemType::float16>{});
      case ItemType::bfloat16:
        return take(Conversion<Value, ItemType::bfloat16>{});
      default:
        return take(Conversion<Value, ItemType::int16>{});
    }
  } else if constexpr (sizeof(Stored) == 4) {  // as wide as their values, or not
    constexpr bool kWide = sizeof(Value) == 8;
    return take(Conversion<Value, kWide ? ItemType::int32 : ItemType::float32>{});
  } else if (type == ItemType::int64) {
    return take(Conversion<Value, ItemType::int64>{});
  } else {
    return take(Conversion<Value, ItemType::float64>{});
  }
}

// Reads full tiles of a RunTask with one load per kItems neighbours; the last tile of a tensor item
// by item.
template <class Items, bool kDifference>
struct RunLoader {
  static constexpr bool kBytes = std::is_same_v<Items, ByteItems>;
  using Task = std::conditional_t<kDifference, RunPairTask,
                                  std::conditional_t<kBytes, ByteRunTask, RunTask>>;
  using Value = typename Items::Value;
  using Stored = typename Items::Stored;
  static constexpr int kItems = lane_rows(Items::kType) * kTileColumns / 32;  // of a lane at once
  using Tile = ThreadTile<Value, kItems>;
  static constexpr bool kSmallBatches = !kDifference && is_common(Items::kType);
  // As many as fit without spilling registers.
  static constexpr int kBlocksPerProcessor = sizeof(Value) == 8 ? 2 : kDifference ? 3 : 4;
  struct alignas(kItems * sizeof(Stored)) Vector {
    Stored item[kItems];
  };
  using Word = std::conditional_t<sizeof(Vector) == 16, uint4,
                                  std::conditional_t<sizeof(Vector) == 8, uint2, uint32_t>>;
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
      with_conversion<Value, Stored>(task.type, [&](auto value) { convert(raw, x, value); });
    } else {
      convert(raw, x, Conversion<Value, Items::kType>{});
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
          with_conversion<Value, Stored>(task.type,
                                         [&](auto value) { x.v[step][k] = value(bits); });
        } else {
          x.v[step][k] = Conversion<Value, Items::kType>{}(bits);
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
  static constexpr bool kSmallBatches = true;
  static constexpr int kBlocksPerProcessor = sizeof(Value) == 8 ? 2 : 4;
  struct Shared {
    Value staged[kTile];
  };

  static __device__ __forceinline__ int load(const Task& task, int64_t tile, bool fingerprint,
                                             Tile& x, uint64_t& sum, Shared& shared) {
    __syncthreads();  // the tile before has been read
    with_stored<Value>(task.type, [&](auto stored) {
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < kTile; i += kItemsAhead * kTileThreads)
        stage<decltype(stored)>(task, tile * kTile, i, fingerprint, sum, shared);
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
    // Pairs are of float32 and float64, which are as wide as their values, and of 16-bit types.
    constexpr bool kPairs = sizeof(Stored) == sizeof(Value) || sizeof(Stored) == 2;
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
      if (kPairs && task.pairing != Pairing::none)
        others[j] = static_cast<const Stored*>(task.second)[task.second_layout.place(at).offset];
    }
    end_of_loads(bits);
    with_conversion<Value, Stored>(task.type, [&](auto value) {
#pragma unroll
      for (int j = 0; j < kItemsAhead; ++j) {
        const bool exists = begin + i + j * kTileThreads < task.layout.count;
        Value x = value(bits[j]);
        if (kPairs && task.pairing != Pairing::none) x = paired(task, x, value(others[j]));
        if (fingerprint && exists) sum += mix(bits[j], static_cast<uint64_t>(index[j]));
        shared.staged[i + j * kTileThreads] = exists ? x : missing_value<Value>();
      }
    });
  }

  // What an element makes with the other tensor's.
  static __device__ __forceinline__ Value paired(const Task& task, Value x, Value y) {
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
