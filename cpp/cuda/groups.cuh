// How elements fall into groups that share a scale, and reads of eight at a time.
#pragma once
#include "core/quantize.hpp"
#include "cuda/launch.cuh"

namespace bitlaw::cuda {

inline constexpr int kChunk = 8;  // elements of a thread: one byte of a mask

// An array [items, rows, cols] and its groups. Where they are flat, a group is `length` consecutive
// elements; else it is `block` columns of all rows of an item.
template <class T>
struct Groups {
  const T* x;
  int64_t items, rows, cols, block;
  bool flat;

  Groups(View<const T, 3> x, int64_t block)
      : x(x.data),
        items(x.shape[0]),
        rows(x.shape[1]),
        cols(x.shape[2]),
        block(block),
        flat(rows == 1 || is_long(x, block)) {}
  BITLAW_LEAF int64_t per_item() const { return cols / block; }
  BITLAW_LEAF int64_t length() const { return rows * block; }
  BITLAW_LEAF int64_t chunks_of_row() const { return (cols + kChunk - 1) / kChunk; }
  int64_t groups() const { return items * per_item(); }
  int64_t chunks() const { return items * rows * chunks_of_row(); }
};

// Of kLanes threads side by side, as the core's sum_of_lanes.
template <class N>
__device__ N sum_of_team(N lane) {
  for (int half = kLanes / 2; half > 0; half /= 2) lane += __shfl_xor_sync(0xffffffffu, lane, half);
  return lane;
}

// A chunk of a row: where its elements are and which group the first belongs to.
struct Chunk {
  int64_t line, first;  // line: item * rows + row; first: column
  int n;                // elements, at most kChunk
};
template <class T>
BITLAW_LEAF Chunk chunk_at(const Groups<T>& g, int64_t i) {
  const int64_t line = i / g.chunks_of_row(), first = (i - line * g.chunks_of_row()) * kChunk;
  const int64_t rest = g.cols - first;
  return {line, first, static_cast<int>(rest < kChunk ? rest : kChunk)};
}

template <class T>
struct alignas(16) Eight {
  T at[kChunk];
};

// Whether rows of this length, from here on, are read and written sixteen bytes at a time.
template <class T>
bool aligned(const T* data, int64_t cols) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && cols % kChunk == 0;
}

template <class T>
BITLAW_LEAF void load(const T* x, int n, bool whole, float* v) {
  if (whole) {
    const Eight<T> eight = *reinterpret_cast<const Eight<T>*>(x);
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j) v[j] = to_float(eight.at[j]);
  } else {
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j) v[j] = j < n ? to_float(x[j]) : 0.0f;
  }
}
template <class T>
BITLAW_LEAF void store(const float* v, int n, bool whole, T* y) {
  if (whole) {
    Eight<T> eight;
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j) eight.at[j] = Narrow<T>::from(v[j]);
    *reinterpret_cast<Eight<T>*>(y) = eight;
  } else {
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j)
      if (j < n) y[j] = Narrow<T>::from(v[j]);
  }
}

// The bits of what an extreme statistic takes the maximum of: magnitudes, or values above zero
// (`high`) and magnitudes of those below (`low`).
struct Extreme {
  int32_t high, low;
  BITLAW_LEAF void see(float v, bool range) {
    const int32_t bits = bits_of(v), m = range ? bits : magnitude_bits(v);
    high = high > m ? high : m;
    const int32_t below = range ? below_zero(bits) : 0;
    low = low > below ? low : below;
  }
};

// The largest value of `team` neighbouring threads of the block, a power of two; all
// threads of the block must call it.
inline __device__ int32_t team_max(int32_t v, int team) {
  __shared__ int32_t of_warp[kThreads / 32];
  for (int offset = 1; offset < 32 && offset < team; offset *= 2) {
    const int32_t other = __shfl_xor_sync(0xffffffffu, v, offset);
    v = v > other ? v : other;
  }
  if (team <= 32) return v;
  const int warp = threadIdx.x / 32, warps = team / 32;
  if (threadIdx.x % 32 == 0) of_warp[warp] = v;
  __syncthreads();
  for (int w = 0; w < warps; ++w) {
    const int32_t other = of_warp[warp / warps * warps + w];
    v = v > other ? v : other;
  }
  __syncthreads();
  return v;
}

// high, and low of a range, of every group; rms sums in the CPU's order.
template <class T>
void statistics(Stream stream, const Groups<T>& g, Statistic statistic, bool pruned, float* high,
                float* low);

// Scales, and zero points, in place of the statistics (`zero` holds low).
void store_scales(Stream stream, int64_t groups, int64_t per_item, const float* grid,
                  Scaling scaling, bool uniform, float* scale, float* zero);

// Scales by mse_search.
template <class T>
void search_scales(Stream stream, const Groups<T>& g, const float* grid, const Choices& c,
                   float* scale);

struct Operands;

// Values y or, where the operands say so, codes; `scale` and `zero` are written unless given.
template <class T>
void quantize_array(Stream stream, View<const T, 3> x, T* y, float* scale, float* zero, bool given,
                    const Operands& o, uint8_t* workspace, const Choices& c);

// y = the transform of each run of `size` consecutive elements, with the signs of the op hadamard.
template <class T, class U>
void rotate(Stream stream, const T* x, const uint8_t* signs, U* y, int64_t items, int64_t rows,
            int64_t cols, int64_t size, bool inverse);

}  // namespace bitlaw::cuda
