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

template <class Body>
__global__ void __launch_bounds__(kThreads) each(int64_t n, Body body) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride)
    body(i);
}

// body(i) for every i in [0, n). Divisions of 64-bit indices are 32-bit ones where both fit: the
// compiler looks.
template <class Body>
void for_each(Stream stream, int64_t n, const char* what, const Body& body) {
  if (n == 0) return;
  const auto blocks = static_cast<unsigned>(std::min((n + kThreads - 1) / kThreads, kMaxBlocks));
  launch(stream, blocks, &each<Body>, n, body);
  check_launch(what);
}

}  // namespace bitlaw::cuda
