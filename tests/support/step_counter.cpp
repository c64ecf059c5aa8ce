// Steps through a call with the trap flag, and counts the instructions of the objects asked for.

#include "step_counter.h"

#include <ucontext.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <initializer_list>

namespace {

struct Range {
  uint64_t begin, end;
};

uint64_t steps;
Range left_out[64];
int ranges_left_out;

void on_step(int, siginfo_t*, void* context) {
  const uint64_t ip =
      static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  for (int i = 0; i < ranges_left_out; ++i)
    if (ip >= left_out[i].begin && ip < left_out[i].end) return;
  ++steps;
}

void find_ranges_to_leave_out() {
  ranges_left_out = 0;
  FILE* maps = fopen("/proc/self/maps", "r");
  char line[4096], rights[8];
  while (maps && fgets(line, sizeof(line), maps)) {
    Range range;
    const bool code =
        sscanf(line, "%lx-%lx %7s", &range.begin, &range.end, rights) == 3 && rights[2] == 'x';
    bool system = false;
    for (const char* name : {"/libc.so", "/libm.so", "/ld-linux", "[vdso]"})
      system = system || strstr(line, name);
    if (code && system && ranges_left_out < 64) left_out[ranges_left_out++] = range;
  }
  if (maps) fclose(maps);
}

}  // namespace

// The stack pointer steps over the red zone, which the caller may be using.
void start_counting() {
  find_ranges_to_leave_out();
  struct sigaction action = {};
  action.sa_sigaction = on_step;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGTRAP, &action, nullptr);
  steps = 0;
  asm volatile("lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp"
               :
               :
               : "memory", "cc");
}

uint64_t stop_counting() {
  asm volatile("lea -128(%%rsp), %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp"
               :
               :
               : "memory", "cc");
  return steps;
}
