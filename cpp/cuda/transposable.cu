// Transposable masks. A thread weighs all patterns of a 4 by 4 tile, whose codes are constants of
// the program; a block sorts a larger tile and one thread takes by greed. Flags of a byte are then
// packed: b + 2 + 1 / 8 bytes per element of b bytes.
#include "cuda/codes.hpp"
#include "cuda/groups.cuh"
#include "cuda/mask.hpp"

namespace bitlaw::cuda {
namespace {

template <class T>
struct alignas(4 * sizeof(T)) FourOf {
  T at[4];
};

// flags = what is kept of every 4 by 4 tile, a byte each.
template <class T, int n>
__global__ void __launch_bounds__(kThreads)
    best_tiles(const T* x, uint8_t* flags, int64_t tiles, int64_t cols, bool whole) {
  const int64_t across = cols / 4, stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; t < tiles;
       t += stride) {
    const int64_t band = t / across, first = band * 4 * cols + (t - band * across) * 4;
    float value[16];
    BITLAW_UNROLL
    for (int r = 0; r < 4; ++r) {
      const T* row = x + first + r * cols;
      FourOf<T> four;
      if (whole)
        four = *reinterpret_cast<const FourOf<T>*>(row);
      else
        for (int j = 0; j < 4; ++j) four.at[j] = row[j];
      for (int j = 0; j < 4; ++j) value[4 * r + j] = tile_value(to_float(four.at[j]));
    }
    const auto code = static_cast<uint32_t>(best_code<n>(value));
    BITLAW_UNROLL
    for (int r = 0; r < 4; ++r) {
      const uint32_t row = code >> 4 * r;  // one byte per element, the first lowest
      const uint32_t four =
          (row & 1) | (row >> 1 & 1) << 8 | (row >> 2 & 1) << 16 | (row >> 3 & 1) << 24;
      *reinterpret_cast<uint32_t*>(flags + first + r * cols) = four;
    }
  }
}

// The same of m by m tiles by greed, a block each.
template <class T>
__global__ void __launch_bounds__(kThreads)
    greedy_tiles(const T* x, uint8_t* flags, int64_t tiles, int64_t cols, int n, int m) {
  __shared__ uint64_t order[kMaxTile * kMaxTile];
  __shared__ uint8_t taken[kMaxTile * kMaxTile];
  __shared__ int32_t counts[2 * kMaxTile];
  const bool pruning = n > m - n;
  const int size = m * m;
  int padded = 1;
  while (padded < size) padded *= 2;
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int64_t across = cols / m, band = t / across;
    const int64_t first = band * m * cols + (t - band * across) * m;
    for (int i = threadIdx.x; i < padded; i += kThreads) {
      uint64_t place = ~uint64_t{0};
      if (i < size) {  // larger keys first, lower indices first among equals; for pruning last
        const int32_t key = selection_key(to_float(x[first + i / m * cols + i % m]));
        place = static_cast<uint64_t>(0x7fffffff - key) << 32 | static_cast<uint32_t>(i);
        place = pruning ? ~place - (uint64_t{1} << 63) : place;  // below the padding
        taken[i] = 0;
      }
      order[i] = place;
    }
    for (int i = threadIdx.x; i < 2 * m; i += kThreads) counts[i] = 0;
    __syncthreads();
    for (int run = 2; run <= padded; run *= 2)  // bitonic
      for (int apart = run / 2; apart > 0; apart /= 2) {
        for (int i = threadIdx.x; i < padded; i += kThreads) {
          const int other = i ^ apart;
          if (other < i) continue;  // its pair is another thread's, to read and to write
          const uint64_t a = order[i], b = order[other];
          if ((a > b) == ((i & run) == 0)) order[i] = b, order[other] = a;
        }
        __syncthreads();
      }
    if (threadIdx.x == 0) {
      GreedyTile greedy{m, pruning ? m - n : n, taken, counts, counts + m};
      greedy.fill([&](int64_t i) {
        const auto index = static_cast<uint32_t>(order[i]);
        return static_cast<int64_t>(pruning ? ~index : index);
      });
    }
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += kThreads)
      flags[first + i / m * cols + i % m] = (taken[i] != 0) != pruning;
    __syncthreads();
  }
}

}  // namespace

template <class T>
void transposable_mask(Stream stream, View<const T, 3> x, View<uint8_t, 2> mask,
                       View<uint8_t, 2> workspace, TransposableAttrs a) {
  check_tiles(x, a);
  if (x.size() == 0) return;
  const int64_t cols = x.shape[2], tiles = x.size() / (a.m * a.m);
  uint8_t* const flags = workspace.data;
  const auto blocks = [](int64_t n) { return static_cast<unsigned>(std::min(n, kMaxBlocks)); };
  if (a.m == 4 && a.n < 4) {
    const bool whole = reinterpret_cast<uintptr_t>(x.data) % sizeof(FourOf<T>) == 0;
    const auto kernel = a.n == 1   ? &best_tiles<T, 1>
                        : a.n == 2 ? &best_tiles<T, 2>
                                   : &best_tiles<T, 3>;
    launch(stream, blocks((tiles + kThreads - 1) / kThreads), kernel, x.data, flags, tiles, cols,
           whole);
  } else {
    launch(stream, blocks(tiles), &greedy_tiles<T>, x.data, flags, tiles, cols,
           static_cast<int>(a.n), static_cast<int>(a.m));
  }
  check_launch("transposable_mask");
  pack_bits(stream, {flags, {x.shape[0], x.item_size()}}, mask, {1});
}

template void transposable_mask(Stream, View<const float, 3>, View<uint8_t, 2>, View<uint8_t, 2>,
                                TransposableAttrs);
template void transposable_mask(Stream, View<const bfloat16, 3>, View<uint8_t, 2>, View<uint8_t, 2>,
                                TransposableAttrs);
template void transposable_mask(Stream, View<const float16, 3>, View<uint8_t, 2>, View<uint8_t, 2>,
                                TransposableAttrs);

}  // namespace bitlaw::cuda
