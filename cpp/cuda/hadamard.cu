// The Walsh-Hadamard transform, butterflies by ascending stride as on the CPU: the first three in a
// thread's registers, five more between the lanes of a warp, those of runs above 256 elements in
// shared memory. One read and one write: 2 b bytes per element of b bytes.
#include "cuda/groups.cuh"
#include "cuda/quantize.hpp"

namespace bitlaw::cuda {
namespace {

inline constexpr int kWarpRun = 32 * kChunk;  // elements a warp holds

// The butterflies of strides below min(size, kWarpRun).
__device__ __forceinline__ void warp_butterflies(float* v, int size) {
  BITLAW_UNROLL
  for (int h = 1; h < kChunk; h *= 2) {
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      if (j & h) continue;
      const float a = v[j], b = v[j + h];
      v[j] = a + b, v[j + h] = a - b;
    }
  }
  for (int apart = 1; apart < 32 && apart * kChunk < size; apart *= 2) {
    const bool upper = threadIdx.x & apart;
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      const float other = __shfl_xor_sync(0xffffffffu, v[j], apart);
      v[j] = upper ? other - v[j] : v[j] + other;
    }
  }
}

// All lines are one sequence of runs; a block transforms `unit` elements of it at a time.
template <class T, class U>
__global__ void __launch_bounds__(kThreads)
    transform(const T* x, const uint8_t* signs, U* y, int64_t n, int unit, int64_t rows,
              int64_t cols, int size, float factor, bool inverse, bool whole) {
  alignas(16) __shared__ float work[kHadamardMax];
  const auto flags = [&](int64_t at) -> unsigned {
    if (!signs) return 0;
    const int64_t line = at / cols;
    return signs[line / rows * bytes_of_bits(cols) + (at - line * cols) / 8];
  };
  const auto turn = [](float* v, unsigned flags, float factor) {
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j)
      v[j] = turned(v[j] * factor, static_cast<uint8_t>(flags >> j & 1));
  };
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * unit; first < n;
       first += static_cast<int64_t>(gridDim.x) * unit) {
    const int here = static_cast<int>(n - first < unit ? n - first : unit);
    for (int i = kChunk * static_cast<int>(threadIdx.x); i < unit; i += kChunk * kThreads) {
      float v[kChunk] = {};
      if (i < here) load(x + first + i, kChunk, whole, v);
      if (i < here && !inverse) turn(v, flags(first + i), 1.0f);
      warp_butterflies(v, size);
      if (i < here && size > kWarpRun) store(v, kChunk, true, work + i);
      if (i >= here || size > kWarpRun) continue;
      turn(v, inverse ? flags(first + i) : 0, factor);
      store(v, kChunk, whole, y + first + i);
    }
    if (size <= kWarpRun) continue;
    __syncthreads();
    for (int h = kWarpRun; h < size; h *= 2) {
      for (int p = threadIdx.x; p < here / 2; p += kThreads) {
        const int low = p & (h - 1), i = 2 * (p - low) + low;
        const float a = work[i], b = work[i + h];
        work[i] = a + b;
        work[i + h] = a - b;
      }
      __syncthreads();
    }
    for (int i = kChunk * static_cast<int>(threadIdx.x); i < here; i += kChunk * kThreads) {
      float v[kChunk];
      load(work + i, kChunk, true, v);
      turn(v, inverse ? flags(first + i) : 0, factor);
      store(v, kChunk, whole, y + first + i);
    }
    __syncthreads();
  }
}

}  // namespace

template <class T, class U>
void rotate(Stream stream, const T* x, const uint8_t* signs, U* y, int64_t items, int64_t rows,
            int64_t cols, int64_t size, bool inverse) {
  const int64_t n = items * rows * cols;
  if (n == 0) return;
  const int unit = std::max(static_cast<int>(size), kChunk * kThreads);
  const auto blocks = static_cast<unsigned>(std::min((n + unit - 1) / unit, kMaxBlocks));
  launch(stream, blocks, &transform<T, U>, x, signs, y, n, unit, rows, cols, static_cast<int>(size),
         hadamard_factor(size), inverse, aligned(x, cols) && aligned(y, cols));
  check_launch("hadamard");
}

template void rotate(Stream, const float*, const uint8_t*, float*, int64_t, int64_t, int64_t,
                     int64_t, bool);
template void rotate(Stream, const bfloat16*, const uint8_t*, float*, int64_t, int64_t, int64_t,
                     int64_t, bool);
template void rotate(Stream, const float*, const uint8_t*, bfloat16*, int64_t, int64_t, int64_t,
                     int64_t, bool);
template void rotate(Stream, const bfloat16*, const uint8_t*, bfloat16*, int64_t, int64_t, int64_t,
                     int64_t, bool);

template <class T>
void hadamard(Stream stream, View<const T, 3> x, View<const uint8_t, 2> signs, View<T, 3> y,
              HadamardAttrs a) {
  check_hadamard(a.block, x.shape[2]);
  rotate(stream, x.data, signs.shape[1] ? signs.data : nullptr, y.data, x.shape[0], x.shape[1],
         x.shape[2], a.block, a.inverse);
}

template void hadamard(Stream, View<const float, 3>, View<const uint8_t, 2>, View<float, 3>,
                       HadamardAttrs);
template void hadamard(Stream, View<const bfloat16, 3>, View<const uint8_t, 2>, View<bfloat16, 3>,
                       HadamardAttrs);

}  // namespace bitlaw::cuda
