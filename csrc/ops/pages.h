// Larger pages for memory that is about to be written for the first time.
#pragma once

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace initstats::ops {

// Asks the system for 2 MiB pages where they lie inside [data, data + bytes), all of which is about
// to be written. Fresh memory is then mapped by one page fault instead of 512, which otherwise take
// longer than the fill. A hint: no effect on memory that is mapped already, nor where the system
// does not offer it (/sys/kernel/mm/transparent_hugepage/enabled says never).
inline void advise_large_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  static_cast<void>(data);
  static_cast<void>(bytes);
#endif
}

}  // namespace initstats::ops
