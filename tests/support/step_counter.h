// Counts the instructions of a stretch of code by stepping through it with the trap flag of x86-64:
// slow, and exact for every instruction that the processor has, those of AVX-512 too. What the C
// library and the loader execute is left out: they choose their code by the processor.
#pragma once

#include <cstdint>

extern "C" {
void start_counting();
uint64_t stop_counting();
}
