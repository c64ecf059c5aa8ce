// Memory of a PTX execution: which accesses are allowed, which race, and how much traffic they
// make.
#pragma once

#include <set>
#include <unordered_set>

#include "grid.h"
#include "ptx_arithmetic.h"

#ifndef PTX_TRACE  // 0: no race check and no traffic, four to eight times as fast
#define PTX_TRACE 1
#endif

namespace [[gnu::visibility("hidden")]] ptx {

using cuda_on_cpu::current;
using cuda_on_cpu::fail;
using cuda_on_cpu::kWarpSize;
using cuda_on_cpu::running;

enum Space : u8 { kGeneric, kGlobal, kShared, kLocal, kConst, kParam };
enum Kind : u8 { kLoad, kStore, kAtomic };

// One instruction that accesses memory, and its traffic over a launch.
struct Access {
  const char* text;
  int line;
  Space space;
  Kind kind;
  int bytes;  // per lane
};
struct AccessTraffic {
  u64 requests = 0, lanes = 0, bytes = 0, sectors = 0, wavefronts = 0;
};

struct Kernel {
  const char* name;
  const Access* accesses;
  int access_count;
  u32 static_shared_bytes;  // these come first, dynamic shared memory behind them
};

inline const Kernel* kernel = nullptr;

constexpr std::size_t kParameterBytes = 32768;
alignas(128) inline u8 parameters[kParameterBytes];
inline std::size_t parameter_bytes = 0;

// ---- what kernels may touch
struct Range {
  u64 base, bytes;
  u64 loaded = 0, stored = 0, atomic = 0;
  bool contains(u64 address, u64 count) const {
    return address >= base && address + count <= base + bytes;
  }
};
inline std::vector<Range> arrays;     // the arguments of the launch
inline std::vector<Range> variables;  // the module's own __device__ and __constant__ variables
struct Variable {
  Variable(const void* address, u64 bytes) {
    variables.push_back({reinterpret_cast<u64>(address), bytes});
  }
};

inline Range* find_range(u64 address, u64 bytes) {
  static std::size_t last = 0;
  if (last < arrays.size() && arrays[last].contains(address, bytes)) return &arrays[last];
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    if (arrays[i].contains(address, bytes)) return &arrays[last = i];
  }
  for (Range& variable : variables) {
    if (variable.contains(address, bytes)) return &variable;
  }
  return nullptr;
}

// ---- races on shared memory
// ---------------------------------------------------------------------------------------- Two
// accesses by different threads, one of them a write, race unless a block barrier lies between
// them, or a warp collective when the threads are in one warp, or both are atomic.
struct Toucher {
  int thread = -1;
  u32 epoch = 0, warp_epoch = 0;
  int access = 0;
  bool is_unordered_with(u32 me) const {
    if (thread < 0 || epoch != running.epoch || thread == int(me)) return false;
    const bool is_same_warp = unsigned(thread) / kWarpSize == me / kWarpSize;
    return !(is_same_warp && warp_epoch != current->warp_epoch);
  }
};
struct SharedByte {
  Toucher writer, reader;
  bool is_written_atomically = false;
  bool has_many_readers = false;  // since the last write, unordered among themselves
};
inline std::vector<SharedByte> shared_bytes;
inline u64 race_count = 0;
inline std::string first_race;

inline void report_race(const char* what, u64 byte, int access, int earlier) {
  if (race_count++ != 0) return;
  auto place = [](int i) {
    const Access& a = kernel->accesses[i];
    return "PTX line " + std::to_string(a.line) + " (" + a.text + ")";
  };
  first_race = std::string(what) + " at shared byte " + std::to_string(byte) + ": " +
               place(access) + " against " + place(earlier);
}

inline void check_race(u64 begin, u32 bytes, Kind kind, int access) {
  const u32 me = current->linear;
  const Toucher now{int(me), running.epoch, current->warp_epoch, access};
  for (u64 i = begin; i < begin + bytes; ++i) {
    SharedByte& byte = shared_bytes[i];
    const bool is_atomic_pair = kind == kAtomic && byte.is_written_atomically;
    if (byte.writer.is_unordered_with(me) && !is_atomic_pair) {
      report_race(kind == kLoad ? "read after write" : "write after write", i, access,
                  byte.writer.access);
    }
    const Toucher& reader = byte.reader;
    const bool has_reader = reader.thread >= 0 && reader.epoch == running.epoch;
    if (kind == kLoad) {
      byte.has_many_readers = has_reader && reader.is_unordered_with(me);
      byte.reader = now;
    } else {
      if (has_reader && (byte.has_many_readers || reader.is_unordered_with(me))) {
        report_race("write after read", i, access, reader.access);
      }
      byte.writer = now;
      byte.is_written_atomically = kind == kAtomic;
      byte.reader = Toucher{};
    }
  }
}

// ---- accesses
inline std::vector<std::vector<u64>> addresses;  // [thread * access_count + access], of this block
inline std::unordered_set<u64> loaded_sectors;  // 32-byte sectors of global memory, over the launch

inline std::string describe(int access) {
  const Access& a = kernel->accesses[access];
  return std::string(a.text) + ", PTX line " + std::to_string(a.line);
}
inline bool is_on_own_stack(u64 address, u64 bytes) {
  const auto bottom = reinterpret_cast<u64>(current->fibre->stack_bottom);
  return Range{bottom, current->fibre->stack_bytes}.contains(address, bytes);
}
inline bool is_parameter(u64 address, u64 bytes) {
  return Range{reinterpret_cast<u64>(parameters), parameter_bytes}.contains(address, bytes);
}

// The memory behind an address in space .param, .local or .const.
inline u8* private_memory(u64 address, u32 bytes, const char* text, int line) {
  if (!is_parameter(address, bytes) && !is_on_own_stack(address, bytes) &&
      find_range(address, bytes) == nullptr) {
    fail("access out of bounds in " + std::string(text) + ", PTX line " + std::to_string(line));
  }
  return reinterpret_cast<u8*>(address);
}

// The memory behind an address in space .global or .shared, or a generic one.
inline u8* memory(Space space, u64 address, u32 bytes, Kind kind, int access) {
  if (address % bytes != 0) fail("misaligned address in " + describe(access));
  u8* const shared = running.dynamic_shared;
  if (space == kGeneric) {
    const auto base = reinterpret_cast<u64>(shared);
    if (address >= base && address < base + running.dynamic_shared_bytes) {
      space = kShared;
      address -= base;
    }
  }
  if (space == kShared) {
    if (address + bytes > running.dynamic_shared_bytes) {
      fail("shared access out of bounds in " + describe(access));
    }
#if PTX_TRACE
    check_race(address, bytes, kind, access);
    addresses[current->linear * unsigned(kernel->access_count) + unsigned(access)].push_back(
        address);
#endif
    return shared + address;
  }
  Range* const range = find_range(address, bytes);
  if (range == nullptr) {
    if (space == kGeneric && (is_parameter(address, bytes) || is_on_own_stack(address, bytes))) {
      return reinterpret_cast<u8*>(address);
    }
    fail("global access out of bounds in " + describe(access));
  }
#if PTX_TRACE
  (kind == kLoad ? range->loaded : kind == kStore ? range->stored : range->atomic) += bytes;
  if (kind == kLoad) loaded_sectors.insert(address / 32);
  addresses[current->linear * unsigned(kernel->access_count) + unsigned(access)].push_back(address);
#endif
  return reinterpret_cast<u8*>(address);
}

template <class T>
T load(const u8* address) {
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}
template <class T>
void store(u8* address, T value) {
  std::memcpy(address, &value, sizeof(T));
}

}  // namespace ptx
