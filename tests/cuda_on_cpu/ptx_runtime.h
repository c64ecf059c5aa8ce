// What C++ generated from PTX includes (ptx_module.py): launches, warp collectives, and the
// functions ptx.py calls.
#pragma once

#include "ptx_traffic.h"

namespace [[gnu::visibility("hidden")]] ptx {

// ---- warp collectives. `id` stands for the instruction's qualifiers: equal ones meet, as PTX
// says --------------------
inline u32 shfl(char mode, u32 value, u32 b, u32 c, u32 mask, bool& is_inside, int id) {
  const u32 lane = current->lane, segment = c >> 8 & 31, clamp = c & 31;
  const u32 lowest = lane & segment, limit = lowest | (clamp & ~segment);
  b &= 31;
  int source = 0;
  switch (mode) {
    case 'u':
      source = int(lane) - int(b);
      is_inside = source >= int(limit);
      break;
    case 'd':
      source = int(lane + b);
      is_inside = source <= int(limit);
      break;
    case 'b':
      source = int(lane ^ b);
      is_inside = source <= int(limit);
      break;
    default:
      source = int(lowest | (b & ~segment));
      is_inside = source <= int(limit);
  }
  const u64* operands = cuda_on_cpu::warp_meet(mask, value, id);
  if (!is_inside) return value;
  if ((mask >> source & 1) == 0) fail("shfl.sync reads a lane outside the member mask");
  return u32(operands[source]);
}
inline u32 ballot(bool predicate, u32 mask, int id) {
  const u64* operands = cuda_on_cpu::warp_meet(mask, predicate, id);
  u32 result = 0;
  for (u32 lane = 0; lane < kWarpSize; ++lane) {
    if (mask >> lane & 1) result |= u32(operands[lane] & 1) << lane;
  }
  return result;
}
template <class T, class Combine>
T redux(T value, u32 mask, int id, Combine combine) {
  const u64* operands = cuda_on_cpu::warp_meet(mask, u64(value), id);
  const auto first = u32(__builtin_ctz(mask));
  T result = T(operands[first]);
  for (u32 lane = first + 1; lane < kWarpSize; ++lane) {
    if (mask >> lane & 1) result = combine(result, T(operands[lane]));
  }
  return result;
}
inline u32 match_any(u64 value, u32 mask, int id) {
  const u64* operands = cuda_on_cpu::warp_meet(mask, value, id);
  u32 result = 0;
  for (u32 lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) && operands[lane] == value) result |= 1u << lane;
  }
  return result;
}
inline u32 active_mask() {
  u32 result = 0;
  const unsigned first = current->warp * kWarpSize;
  for (unsigned i = first; i < std::min(running.thread_count, first + kWarpSize); ++i) {
    if (running.threads[i].state != cuda_on_cpu::State::kDone) result |= 1u << (i - first);
  }
  return result;
}

// ---- launch
inline int launch(const Kernel& launched, void (*entry)(const u8*), const unsigned* dimensions,
                  std::size_t dynamic_shared_bytes, const u8* arguments,
                  std::size_t argument_bytes) {
  kernel = &launched;
  if (argument_bytes > kParameterBytes) return cudaErrorInvalidValue;
  std::memset(parameters, 0xFF, sizeof(parameters));
  std::memcpy(parameters, arguments, argument_bytes);
  parameter_bytes = argument_bytes;
  const dim3 grid(dimensions[0], dimensions[1], dimensions[2]);
  const dim3 block(dimensions[3], dimensions[4], dimensions[5]);
  const std::size_t shared = launched.static_shared_bytes + dynamic_shared_bytes;
  const auto count = std::size_t(launched.access_count);
  traffic.assign(count, AccessTraffic{});
  addresses.clear();
  addresses.resize(std::size_t{block.x} * block.y * block.z * count);
  shared_bytes.assign(shared, SharedByte{});
  loaded_sectors.clear();
  race_count = 0;
  first_race.clear();
  for (Range& array : arrays) array.loaded = array.stored = array.atomic = 0;
  cuda_on_cpu::on_block_end = end_block;
  const void* key = reinterpret_cast<const void*>(entry);
  cuda_on_cpu::opted_in_shared_bytes[key] = cuda_on_cpu::kMaxSharedBytesOptedIn;
  auto body = [entry] { entry(parameters); };
  return cuda_on_cpu::run(
      {grid, block, shared, &cuda_on_cpu::call_body<decltype(body)>, &body, key});
}

}  // namespace ptx

// ---- for ptx.py
#define PTX_EXPORT extern "C" __attribute__((used, visibility("default"))) inline
PTX_EXPORT void ptx_clear_arrays() { ptx::arrays.clear(); }
PTX_EXPORT void ptx_add_array(std::uint64_t base, std::uint64_t bytes) {
  ptx::arrays.push_back({base, bytes});
}
PTX_EXPORT void ptx_set_order(int order, unsigned seed) {
  cuda_on_cpu::options = {static_cast<cuda_on_cpu::Order>(order), seed};
}
PTX_EXPORT const char* ptx_failure() { return cuda_on_cpu::last_failure().c_str(); }
PTX_EXPORT std::uint64_t ptx_race_count() { return ptx::race_count; }
PTX_EXPORT const char* ptx_first_race() { return ptx::first_race.c_str(); }
PTX_EXPORT std::uint64_t ptx_loaded_sectors() { return ptx::loaded_sectors.size(); }
// loaded, stored and atomic bytes of the i-th array.
PTX_EXPORT void ptx_array_traffic(int i, std::uint64_t* values) {
  const ptx::Range& array = ptx::arrays[std::size_t(i)];
  values[0] = array.loaded;
  values[1] = array.stored;
  values[2] = array.atomic;
}
PTX_EXPORT int ptx_access_count() { return ptx::kernel->access_count; }
// Returns the text of the i-th access; fills line, space, kind, requests, lanes, bytes, sectors,
// wavefronts.
PTX_EXPORT const char* ptx_access(int i, std::uint64_t* values) {
  const ptx::Access& access = ptx::kernel->accesses[i];
  const ptx::AccessTraffic& sum = ptx::traffic[std::size_t(i)];
  const std::uint64_t all[8] = {std::uint64_t(access.line),
                                access.space,
                                access.kind,
                                sum.requests,
                                sum.lanes,
                                sum.bytes,
                                sum.sectors,
                                sum.wavefronts};
  std::memcpy(values, all, sizeof(all));
  return access.text;
}
#undef PTX_EXPORT
