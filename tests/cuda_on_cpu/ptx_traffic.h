// Requests, 32-byte sectors and shared-memory wavefronts per instruction, from the addresses that
// lanes accessed.
#pragma once

#include "ptx_memory.h"

namespace [[gnu::visibility("hidden")]] ptx {

inline std::vector<AccessTraffic> traffic;  // per access of the kernel, over the launch

// Bank conflicts. A request is served in phases of 32, 16 or 8 lanes for 4, 8 or 16 bytes per
// lane; a phase takes as many wavefronts as the fullest of the 32 banks holds different words.
inline u64 count_wavefronts(const std::vector<u64>& lane_addresses, u32 bytes) {
  const std::size_t lanes_per_phase = bytes <= 4 ? 32 : 128 / bytes;
  u64 wavefronts = 0;
  for (std::size_t begin = 0; begin < lane_addresses.size(); begin += lanes_per_phase) {
    std::set<u64> words_by_bank[32];
    std::size_t fullest = 1;
    for (std::size_t i = begin; i < std::min(lane_addresses.size(), begin + lanes_per_phase); ++i) {
      for (u32 byte = 0; byte < std::max(bytes, 4u); byte += 4) {
        const u64 word = (lane_addresses[i] + byte) / 4;
        words_by_bank[word % 32].insert(word);
      }
    }
    for (const auto& words : words_by_bank) fullest = std::max(fullest, words.size());
    wavefronts += fullest;
  }
  return wavefronts;
}

// A naturally aligned access of at most 32 bytes lies in one sector.
inline u64 count_sectors(std::vector<u64> lane_addresses) {
  for (u64& address : lane_addresses) address /= 32;
  std::sort(lane_addresses.begin(), lane_addresses.end());
  return u64(std::unique(lane_addresses.begin(), lane_addresses.end()) - lane_addresses.begin());
}

// Pairs the k-th execution of an instruction by each lane of a warp into one request.
inline void count_warp_traffic(unsigned first_thread, unsigned last_thread, int access) {
  const auto count = unsigned(kernel->access_count);
  auto of_thread = [&](unsigned thread) -> std::vector<u64>& {
    return addresses[thread * count + unsigned(access)];
  };
  std::size_t executions = 0;
  for (unsigned t = first_thread; t < last_thread; ++t) {
    executions = std::max(executions, of_thread(t).size());
  }
  const Access& info = kernel->accesses[access];
  AccessTraffic& sum = traffic[unsigned(access)];
  std::vector<u64> request;
  for (std::size_t k = 0; k < executions; ++k) {
    request.clear();
    for (unsigned t = first_thread; t < last_thread; ++t) {
      if (k < of_thread(t).size()) request.push_back(of_thread(t)[k]);
    }
    ++sum.requests;
    sum.lanes += request.size();
    sum.bytes += request.size() * u64(info.bytes);
    if (info.space == kShared) {
      sum.wavefronts += count_wavefronts(request, u32(info.bytes));
    } else {
      sum.sectors += count_sectors(request);
    }
  }
  for (unsigned t = first_thread; t < last_thread; ++t) of_thread(t).clear();
}

inline void end_block() {
#if PTX_TRACE
  for (unsigned first = 0; first < running.thread_count; first += kWarpSize) {
    const unsigned last = std::min(running.thread_count, first + kWarpSize);
    for (int access = 0; access < kernel->access_count; ++access) {
      count_warp_traffic(first, last, access);
    }
  }
  std::fill(shared_bytes.begin(), shared_bytes.end(), SharedByte{});
#endif
}

}  // namespace ptx
