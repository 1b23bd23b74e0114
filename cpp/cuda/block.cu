// Sums over blocks: a thread adds up a column of a block, then one the columns. Bytes per element
// of b bytes: b + 8 / rows of a block.
#include "core/grid.hpp"
#include "cuda/block.hpp"
#include "cuda/launch.cuh"

namespace bitlaw::cuda {
namespace {

inline constexpr int kLevels = 40;  // for sums of fewer than 2^40 elements

// read(0) + .. + read(n - 1) in the core's order, n > 0: neighbours in pairs, the pairs in pairs,
// and so on. waiting[l] is the sum of 2^l elements that waits for its neighbour.
template <class Read>
__device__ float pair_sum(int64_t n, const Read& read) {
  float waiting[kLevels] = {};
  for (int64_t i = 0; i < n; ++i) {
    float sum = read(i);
    BITLAW_UNROLL
    for (int l = 0; l < kLevels; ++l) {
      if ((i >> l & 1) == 0) {
        waiting[l] = sum;
        break;
      }
      sum += waiting[l];
    }
  }
  float sum = 0.0f;
  bool none = true;  // of the sums that are left
  BITLAW_UNROLL
  for (int l = 0; l < kLevels; ++l) {
    if ((n >> l & 1) == 0) continue;
    sum = none ? waiting[l] : sum + waiting[l];
    none = false;
  }
  return sum;
}

}  // namespace

template <class T>
void block_sum(Stream stream, View<const T, 3> x, View<float, 3> sums, View<uint8_t, 2> workspace,
               BlockAttrs a) {
  require(a.rows >= 1 && x.shape[1] % a.rows == 0, "rows must divide axis 1 of x");
  require(a.cols >= 1 && x.shape[2] % a.cols == 0, "cols must divide axis 2 of x");
  if (x.size() == 0) return;
  const int64_t cols = x.shape[2], bands = x.shape[0] * (x.shape[1] / a.rows);
  const T* in = x.data;
  auto* const down = reinterpret_cast<float*>(workspace.data);
  float* const out = sums.data;
  for_each(stream, bands * cols, "block_sum", [=] __device__(int64_t i) {
    const int64_t band = i / cols, column = i - band * cols;
    const T* from = in + band * a.rows * cols + column;
    const auto read = [=](int64_t r) { return float_of(magnitude_bits(to_float(from[r * cols]))); };
    down[i] = pair_sum(a.rows, read);
  });
  for_each(stream, sums.size(), "block_sum", [=] __device__(int64_t b) {
    const float* from = down + b * a.cols;
    out[b] = pair_sum(a.cols, [=](int64_t c) { return from[c]; });
  });
}

template void block_sum(Stream, View<const float, 3>, View<float, 3>, View<uint8_t, 2>, BlockAttrs);
template void block_sum(Stream, View<const bfloat16, 3>, View<float, 3>, View<uint8_t, 2>,
                        BlockAttrs);
template void block_sum(Stream, View<const float16, 3>, View<float, 3>, View<uint8_t, 2>,
                        BlockAttrs);

}  // namespace bitlaw::cuda
