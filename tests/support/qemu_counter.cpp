// The ends of a stretch of code whose instructions qemu lists, for instruction_counts.py to find in
// its list.
#include "step_counter.h"

__attribute__((noinline)) void start_counting() { asm volatile(""); }
__attribute__((noinline)) uint64_t stop_counting() {
  asm volatile("");
  return 0;
}
