// Enough of CUDA to run a kernel on the CPU, slowly and exactly: tests of what a kernel computes,
// on machines without a GPU. Blocks run one after the other; a block's threads are fibers, which
// run in order from one barrier to the next, of the block or of the warp. It shows wrong
// arithmetic, wrong indices and missing code; it does not show races between barriers, for which
// compute-sanitizer is needed.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one by one, so one copy serves them all

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

struct Fiber {
  ucontext_t context;
  jmp_buf at;  // where it goes on; jumps leave the signal mask alone, as contexts do not
  std::vector<char> stack = std::vector<char>(64 * 1024);
  dim3 index;
  bool begun = false, done, waits;  // waits: at a barrier of the block
};

inline dim3 block, grid;
inline Fiber* current;
inline jmp_buf scheduler;
inline const std::function<void()>* kernel;
inline int counted;

// Until the other threads of the warp are there: all pause equally often.
[[gnu::noinline]] inline void pause() {
  if (_setjmp(current->at) == 0) _longjmp(scheduler, 1);
}

// Until all threads of the block that still run are there.
inline void wait() {
  current->waits = true;
  pause();
}

inline void enter() {
  for (;;) {
    (*kernel)();
    current->done = true;
    pause();
  }
}

// Runs a thread to its next pause.
[[gnu::noinline]] inline void resume(Fiber& fiber) {
  current = &fiber;
  if (_setjmp(scheduler)) return;
  if (fiber.begun) _longjmp(fiber.at, 1);
  fiber.begun = true;
  getcontext(&fiber.context);
  fiber.context.uc_stack = {fiber.stack.data(), 0, fiber.stack.size()};
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
  setcontext(&fiber.context);
}

// kernel() once per thread of every block.
inline void run(dim3 blocks, int threads, const std::function<void()>& body) {
  static std::vector<std::unique_ptr<Fiber>> fibers;
  while (static_cast<int>(fibers.size()) < threads) fibers.push_back(std::make_unique<Fiber>());
  kernel = &body;
  grid = blocks;
  for (unsigned b = 0; b < blocks.x * blocks.y; ++b) {
    block = dim3(b % blocks.x, b / blocks.x);
    for (int t = 0; t < threads; ++t) {
      fibers[t]->index = dim3(t);
      fibers[t]->done = fibers[t]->waits = false;
    }
    for (bool alive = true; alive;) {  // one round per barrier
      alive = false;
      bool moved = false;
      for (int t = 0; t < threads; ++t) {
        if (fibers[t]->done || fibers[t]->waits) continue;
        resume(*fibers[t]);
        moved = true;
      }
      for (int t = 0; t < threads; ++t) {
        alive |= !fibers[t]->done;
        if (!moved) fibers[t]->waits = false;
      }
    }
  }
}

}  // namespace emulator

#define threadIdx (emulator::current->index)
#define blockIdx (emulator::block)
#define gridDim (emulator::grid)

inline void __syncthreads() { emulator::wait(); }
inline int __syncthreads_count(bool flag) {
  emulator::counted = 0;
  emulator::wait();
  emulator::counted += flag;
  emulator::wait();
  const int count = emulator::counted;
  emulator::wait();
  return count;
}
inline void __syncwarp() { emulator::pause(); }

namespace emulator {
// look(values) once the values of all threads of the warp are there.
template <class T, class Look>
auto in_warp(T value, const Look& look) {
  static T values[1024];
  const int first = threadIdx.x / 32 * 32;
  values[threadIdx.x] = value;
  pause();
  const auto seen = look(values + first);
  pause();
  return seen;
}
}  // namespace emulator

template <class T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  return emulator::in_warp(value, [=](const T* all) { return all[threadIdx.x % 32 ^ offset]; });
}
inline unsigned __match_any_sync(unsigned, int32_t value) {
  return emulator::in_warp(value, [=](const int32_t* all) {
    unsigned same = 0;
    for (int lane = 0; lane < 32; ++lane) same |= static_cast<unsigned>(all[lane] == value) << lane;
    return same;
  });
}
inline int32_t atomicMax(int32_t* at, int32_t value) {
  const int32_t before = *at;
  *at = before > value ? before : value;
  return before;
}
inline uint32_t atomicAdd(uint32_t* at, uint32_t value) {
  const uint32_t before = *at;
  *at += value;
  return before;
}
inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline int __ffs(uint32_t bits) { return __builtin_ffs(static_cast<int>(bits)); }

using cudaError_t = int;
inline constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
