// The Walsh-Hadamard transform in shared memory: butterflies by ascending stride, as on the CPU.
#include "cuda/groups.cuh"
#include "cuda/quantize.hpp"

namespace bitlaw::cuda {
namespace {

// A block transforms `unit` consecutive elements at a time, whole runs of one line.
template <class T, class U>
__global__ void __launch_bounds__(kThreads)
    transform(const T* x, const uint8_t* signs, U* y, int64_t units, int64_t unit,
              int64_t units_of_line, int64_t rows, int64_t cols, int64_t size, float factor,
              bool inverse) {
  __shared__ float work[kHadamardMax];
  for (int64_t u = blockIdx.x; u < units; u += gridDim.x) {
    const int64_t line = u / units_of_line, first = (u - line * units_of_line) * unit;
    const int64_t at = line * cols + first, n = cols - first < unit ? cols - first : unit;
    const uint8_t* bits = signs ? signs + line / rows * bytes_of_bits(cols) : nullptr;
    const auto flag = [&](int64_t i) -> uint8_t {
      return bits ? bits[(first + i) / 8] >> ((first + i) % 8) & 1 : 0;
    };
    for (int64_t i = threadIdx.x; i < n; i += kThreads)
      work[i] = turned(to_float(x[at + i]), inverse ? 0 : flag(i));
    __syncthreads();
    for (int64_t h = 1; h < size; h *= 2) {
      for (int64_t p = threadIdx.x; p < n / 2; p += kThreads) {
        const int64_t i = p / h * 2 * h + p % h;
        const float a = work[i], b = work[i + h];
        work[i] = a + b;
        work[i + h] = a - b;
      }
      __syncthreads();
    }
    for (int64_t i = threadIdx.x; i < n; i += kThreads)
      y[at + i] = Narrow<U>::from(turned(work[i] * factor, inverse ? flag(i) : 0));
    __syncthreads();
  }
}

}  // namespace

template <class T, class U>
void rotate(Stream stream, const T* x, const uint8_t* signs, U* y, int64_t items, int64_t rows,
            int64_t cols, int64_t size, bool inverse) {
  if (items * rows * cols == 0) return;
  const int64_t unit = std::min(cols, std::max<int64_t>(size, kHadamardUnit));
  const int64_t of_line = (cols + unit - 1) / unit, units = items * rows * of_line;
  launch(stream, static_cast<unsigned>(std::min<int64_t>(units, kMaxBlocks)), &transform<T, U>, x,
         signs, y, units, unit, of_line, rows, cols, size, hadamard_factor(size), inverse);
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
