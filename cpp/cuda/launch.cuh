// How kernels are launched, and how a failed launch becomes an error.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "cuda/stream.hpp"

namespace bitlaw::cuda {

inline constexpr int kThreads = 256;
inline constexpr int64_t kMaxBlocks = 1 << 20;  // grids beyond it stride

inline void check_launch(const char* what) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// kernel(arguments...) on blocks of kThreads threads.
template <class... P>
void launch(Stream stream, dim3 blocks, void (*kernel)(P...),
            std::type_identity_t<P>... arguments) {
#ifdef __CUDACC__
  kernel<<<blocks, kThreads, 0, stream>>>(arguments...);
#else  // tests/cuda/emulator
  (void)stream;
  emulator::run(blocks, kThreads, [=] { kernel(arguments...); });
#endif
}

template <class Index, class Body>
__global__ void __launch_bounds__(kThreads) each(Index n, Body body) {
  const Index stride = static_cast<Index>(gridDim.x) * kThreads;
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride)
    body(i);
}

// body(i) for every i in [0, n), in 32-bit indices where they suffice: division of 64-bit ones is
// slow on a GPU.
template <class Body>
void for_each(Stream stream, int64_t n, const char* what, const Body& body) {
  if (n == 0) return;
  const auto blocks = static_cast<unsigned>(std::min((n + kThreads - 1) / kThreads, kMaxBlocks));
  if (n < (int64_t{1} << 31))
    launch(stream, blocks, &each<uint32_t, Body>, static_cast<uint32_t>(n), body);
  else
    launch(stream, blocks, &each<uint64_t, Body>, static_cast<uint64_t>(n), body);
  check_launch(what);
}

}  // namespace bitlaw::cuda
