// Runs the blocks of a launch one after another, and the threads of a block as fibres.
//
// In a pass over some warps every ready thread of theirs runs, in the chosen order, until it
// finishes or waits; then warp collectives whose members have all arrived are released, and the
// pass is repeated until none is left. Order::kForward and kReverse pass over one warp at a time,
// so that it runs ahead of the others as far as the block barriers allow (and its stacks stay in
// the cache); kRandom passes over the whole block, so that warps interleave. A missing barrier
// shows in at least one of them. Threads switch to each other directly, and one that never waits
// costs no switch at all: its fibre runs the next one.
#pragma once

#include <algorithm>
#include <cstdio>
#include <map>
#include <random>

#include "block.h"
#include "options.h"

namespace [[gnu::visibility("hidden")]] cuda_on_cpu {

inline void fibre_main();
inline FibrePool fibres{&fibre_main};

inline void record_failure(const std::string& why) {
  if (running.has_failed) return;  // the first cause is the one that helps
  running.has_failed = true;
  running.failure = why + " [block (" + std::to_string(running.index.x) + "," +
                    std::to_string(running.index.y) + "," + std::to_string(running.index.z) + ")";
  if (current != nullptr) {
    running.failure += " thread (" + std::to_string(current->index.x) + "," +
                       std::to_string(current->index.y) + "," + std::to_string(current->index.z) +
                       ")";
  }
  running.failure += "]";
  std::fprintf(stderr, "cuda_on_cpu: %s\n", running.failure.c_str());
}

[[noreturn]] inline void fail(const std::string& why) {
  record_failure(why);
  Thread* const thread = current;
  if (thread == nullptr) std::abort();  // called outside a kernel
  current = nullptr;
  switch_fibre(*thread->fibre, running.scheduler);
  std::abort();  // unreachable: FibrePool::restart_all forgets this fibre
}

inline Thread* next_ready() {
  while (running.position < running.pass_end) {
    Thread& thread = running.threads[running.order[running.position++]];
    if (thread.state == State::kReady) return &thread;
  }
  return nullptr;
}

// Parks the fibre that runs now; goes on with thread `next` or, when null, with the scheduler.
inline void switch_to_thread(Fibre& from, Thread* next) {
  current = next;
  if (next == nullptr) {
    switch_fibre(from, running.scheduler);
  } else {
    if (next->fibre == nullptr) next->fibre = fibres.acquire();
    switch_fibre(from, *next->fibre);
  }
}

// What every fibre executes for ever: the thread in `current`, then threads that have not begun
// yet.
inline void fibre_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {
    running.body(running.body_context);
    Fibre* const fibre = current->fibre;
    current->state = State::kDone;
    current->fibre = nullptr;
    ++running.done_count;
    Thread* const next = next_ready();
    if (next != nullptr && next->fibre == nullptr) {
      next->fibre = fibre;
      current = next;
    } else {
      fibres.release(fibre);
      switch_to_thread(*fibre, next);
    }
  }
}

// The current thread waits in the given state until the scheduler has made it ready again.
inline void wait(State state, int line) {
  Thread* const thread = current;
  thread->state = state;
  thread->line = line;
  switch_to_thread(*thread->fibre, next_ready());
}

inline void block_barrier(int line) {
  ++running.barrier_waiting;
  wait(State::kAtBarrier, line);
}

// The lanes of `mask` meet and show each other their operands: returns those of the 32 lanes.
inline const std::uint64_t* warp_meet(std::uint32_t mask, std::uint64_t operand, int line) {
  if ((mask >> current->lane & 1) == 0) {
    fail("lane calls a warp collective but is not in its mask, line " + std::to_string(line));
  }
  current->operand = operand;
  current->mask = mask;
  ++running.warps[current->warp].waiting;
  wait(State::kAtWarpCollective, line);
  return current->operands;
}

// Lets the lanes in `members` of a warp go on from their collective.
inline void release_lanes(Warp& warp, Thread* lanes, std::uint32_t members) {
  std::uint64_t* operands = warp.operands[warp.meetings++ & 1];
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if ((members >> lane & 1) == 0) continue;
    Thread& thread = lanes[lane];
    operands[lane] = thread.operand;
    thread.operands = operands;
    thread.state = State::kReady;
    ++thread.warp_epoch;
    --warp.waiting;
  }
}

// Releases the groups of lanes that have all arrived at the same collective. Returns whether
// there was one.
inline bool release_warp(unsigned index) {
  Warp& warp = running.warps[index];
  if (warp.waiting == 0) return false;
  Thread* lanes = &running.threads[index * kWarpSize];
  const unsigned lane_count = std::min(kWarpSize, running.thread_count - index * kWarpSize);
  const std::uint32_t existing = lane_count == kWarpSize ? ~0u : (1u << lane_count) - 1;
  bool has_released = false;
  for (unsigned lane = 0; lane < lane_count && warp.waiting != 0; ++lane) {
    if (lanes[lane].state != State::kAtWarpCollective) continue;
    std::uint32_t arrived = 0;
    for (unsigned other = 0; other < lane_count; ++other) {
      const Thread& thread = lanes[other];
      const bool is_same = thread.state == State::kAtWarpCollective &&
                           thread.mask == lanes[lane].mask && thread.line == lanes[lane].line;
      arrived |= static_cast<std::uint32_t>(is_same) << other;
    }
    const std::uint32_t wanted = lanes[lane].mask & existing;
    if ((arrived & wanted) == wanted) {
      release_lanes(warp, lanes, arrived);
      has_released = true;
    }
  }
  return has_released;
}

// Threads that have exited count as arrived, as on sm_70 and newer.
inline bool release_barrier() {
  if (running.barrier_waiting == 0 ||
      running.barrier_waiting + running.done_count != running.thread_count)
    return false;
  int line = -1;
  for (Thread& thread : running.threads) {
    if (thread.state != State::kAtBarrier) continue;
    if (line >= 0 && thread.line != line) {
      record_failure("threads of one block wait at different barriers: lines " +
                     std::to_string(line) + " and " + std::to_string(thread.line));
      return false;
    }
    line = thread.line;
    thread.state = State::kReady;
  }
  running.barrier_waiting = 0;
  ++running.epoch;
  return true;
}

inline std::string describe_deadlock() {
  std::map<std::string, unsigned> count_by_place;
  for (const Thread& thread : running.threads) {
    const std::string line = std::to_string(thread.line);
    ++count_by_place[thread.state == State::kDone        ? "exited"
                     : thread.state == State::kAtBarrier ? "at a block barrier, line " + line
                                                         : "at a warp collective, line " + line];
  }
  std::string text = "deadlock (divergent barrier or warp collective):";
  for (const auto& [place, count] : count_by_place)
    text += " " + std::to_string(count) + " " + place + ";";
  return text;
}

// Runs warps [begin, end) until their threads are done or wait for the block barrier. Returns
// false when that is the end of the block: all threads are done, or one has failed.
inline bool run_warps(unsigned begin, unsigned end, std::mt19937& random) {
  const unsigned count = running.thread_count;
  const unsigned first = begin * kWarpSize, last = std::min(end * kWarpSize, count);
  const bool is_reverse = options.order == Order::kReverse;
  for (bool has_released = true; has_released;) {
    if (options.order == Order::kRandom)
      std::shuffle(running.order.begin(), running.order.end(), random);
    running.position = is_reverse ? count - last : first;
    running.pass_end = is_reverse ? count - first : last;
    if (Thread* const thread = next_ready()) switch_to_thread(running.scheduler, thread);
    if (running.has_failed || running.done_count == count) return false;
    has_released = false;
    for (unsigned warp = begin; warp < end; ++warp) has_released |= release_warp(warp);
  }
  return true;
}

// Runs all threads of the block to their end, or until a failure.
inline void run_block(std::mt19937& random) {
  const auto warp_count = static_cast<unsigned>(running.warps.size());
  const unsigned step = options.order == Order::kRandom ? warp_count : 1;
  for (;;) {
    for (unsigned i = 0; i < warp_count; i += step) {
      const unsigned begin = options.order == Order::kReverse ? warp_count - 1 - i : i;
      if (!run_warps(begin, begin + step, random)) return;
    }
    if (!release_barrier()) return record_failure(describe_deadlock());
  }
}

}  // namespace cuda_on_cpu
