// Fibres: stacks that take turns on one OS thread. A CUDA thread that waits parks its fibre.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) \
  (static_cast<void>(address), static_cast<void>(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) \
  (static_cast<void>(address), static_cast<void>(bytes))
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace [[gnu::visibility("hidden")]] cuda_on_cpu {

struct Fibre {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  const void* stack_bottom = nullptr;
  std::size_t stack_bytes = 0;
  void* asan_fake_stack = nullptr;
};

// Callee-saved registers and the stack pointer are all that a switch must keep: it is an ordinary
// function call to the compiler. The floating-point environment is shared on purpose.
#if defined(__x86_64__)
extern "C" void cuda_on_cpu_switch(void** from_stack_pointer, void* to_stack_pointer)
    __attribute__((visibility("hidden")));
asm(R"(
.pushsection .text
.weak cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch,@function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch,.-cuda_on_cpu_switch
.popsection
)");
#endif

inline void switch_fibre(Fibre& from, Fibre& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.asan_fake_stack, to.stack_bottom, to.stack_bytes);
#endif
#if defined(__x86_64__)
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.asan_fake_stack, nullptr, nullptr);
#endif
}

// Owns the stacks. They live until the process ends: a block takes them over from the block
// before it.
class FibrePool {
 public:
  explicit FibrePool(void (*entry)()) : entry_(entry) {}

  Fibre* acquire() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<Fibre>());
      map_stack(*all_.back(), all_.size());
      prepare(*all_.back());
      return all_.back().get();
    }
    Fibre* fibre = free_.back();  // last in, first out: its stack is still in the cache
    free_.pop_back();
    return fibre;
  }

  void release(Fibre* fibre) { free_.push_back(fibre); }

  // Makes every fibre start anew: after a failed launch some of them hang in the middle of a
  // kernel.
  void restart_all() {
    free_.clear();
    for (auto& fibre : all_) {
      ASAN_UNPOISON_MEMORY_REGION(fibre->stack_bottom, fibre->stack_bytes);
      prepare(*fibre);
      free_.push_back(fibre.get());
    }
  }

 private:
  static constexpr std::size_t kPage = 4096;
  // ASan's redzones and a 32 KiB by-value parameter struct both need room. Only touched pages
  // cost memory.
  static constexpr std::size_t kStackBytes = 256 << 10;

  static void map_stack(Fibre& fibre, std::size_t index) {
    void* base = mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED ||
        mprotect(base, kPage, PROT_NONE) != 0) {  // a guard page: overflow crashes
      std::perror("cuda_on_cpu: stack of a fibre");
      std::abort();
    }
    fibre.stack_bottom = static_cast<char*>(base) + kPage;
    // Tops at equal distances would all fall into the same sets of the cache.
    fibre.stack_bytes = kStackBytes - index % 61 * 64;
  }

  void prepare(Fibre& fibre) const {
    char* bottom = static_cast<char*>(const_cast<void*>(fibre.stack_bottom));
    fibre.asan_fake_stack = nullptr;
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(bottom + fibre.stack_bytes);
    *--top = nullptr;  // the ABI wants rsp = 16 k + 8 at a function's first instruction
    *--top = reinterpret_cast<void*>(entry_);
    for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
    fibre.stack_pointer = top;
#else
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = bottom;
    fibre.context.uc_stack.ss_size = fibre.stack_bytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, entry_, 0);
#endif
  }

  void (*entry_)();
  std::vector<std::unique_ptr<Fibre>> all_;
  std::vector<Fibre*> free_;
};

}  // namespace cuda_on_cpu
