// Atomic functions. Fibres switch only where they wait, so a plain read, change and write is atomic
// here.
#pragma once

#include <algorithm>
#include <cstdint>

namespace [[gnu::visibility("hidden")]] cuda_on_cpu {

template <class T>
struct NotDeduced {
  using type = T;
};

// Writes change(old) and returns old, as every atomic function does.
template <class T, class Change>
T read_modify_write(T* address, Change change) {
  const T old = *address;
  *address = change(old);
  return old;
}

}  // namespace cuda_on_cpu

// The second argument converts to the type of the first, as it does for CUDA's overloads.
#define CUDA_ON_CPU_ATOMIC(name, expression)                                                \
  template <class T>                                                                        \
  T name(T* address, typename cuda_on_cpu::NotDeduced<T>::type value) {                     \
    return cuda_on_cpu::read_modify_write(address, [&](T old) -> T { return expression; }); \
  }
CUDA_ON_CPU_ATOMIC(atomicAdd, static_cast<T>(old + value))
CUDA_ON_CPU_ATOMIC(atomicSub, static_cast<T>(old - value))
CUDA_ON_CPU_ATOMIC(atomicMax, std::max(old, value))
CUDA_ON_CPU_ATOMIC(atomicMin, std::min(old, value))
CUDA_ON_CPU_ATOMIC(atomicAnd, old& value)
CUDA_ON_CPU_ATOMIC(atomicOr, old | value)
CUDA_ON_CPU_ATOMIC(atomicXor, old ^ value)
CUDA_ON_CPU_ATOMIC(atomicExch, value)
CUDA_ON_CPU_ATOMIC(atomicInc, old >= value ? T{0} : old + 1)
CUDA_ON_CPU_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef CUDA_ON_CPU_ATOMIC

template <class T>
T atomicCAS(T* address, typename cuda_on_cpu::NotDeduced<T>::type compare,
            typename cuda_on_cpu::NotDeduced<T>::type value) {
  return cuda_on_cpu::read_modify_write(address,
                                        [&](T old) { return old == compare ? value : old; });
}
