// Radix selection: the key's 31 bits are resolved 11, 10 and 10 at a time, each time by a histogram
// of the keys that share the bits found so far. Three reads, then one to mark; where some of the
// equal elements go and others stay, one more to number them by index. Sums are of integers, so no
// order of atomics shows.
#include <cub/block/block_scan.cuh>

#include "cuda/launch.cuh"
#include "cuda/select.hpp"

namespace bitlaw::cuda {
namespace {

inline constexpr int kBins = 2048;
inline constexpr int kLevels = 3;
inline constexpr int kTile = 8 * kThreads;  // elements a block marks at a time, a byte per thread

__host__ __device__ constexpr int shift_of(int level) {
  return level == 0 ? 20 : level == 1 ? 10 : 0;
}
__host__ __device__ constexpr int bits_of(int level) { return level == 0 ? 11 : 10; }

// One item's workspace; behind it a count of ties per tile.
struct Selection {
  uint32_t bins[kBins];
  uint32_t key;   // the bits of the threshold found so far
  uint32_t left;  // elements still to be taken from the keys with those bits
  uint32_t some;  // whether only some of the elements equal to the threshold are taken
  uint32_t none;  // whether nothing is taken at all

  __device__ uint32_t* ties() { return reinterpret_cast<uint32_t*>(this + 1); }
};

__device__ Selection& of_item(uint8_t* workspace, int64_t bytes, int64_t item) {
  return *reinterpret_cast<Selection*>(workspace + item * bytes);
}

__global__ void begin_selection(const int32_t* keep, int64_t items, int64_t n, uint8_t* workspace,
                                int64_t bytes) {
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    Selection& s = of_item(workspace, bytes, item);
    for (int b = threadIdx.x; b < kBins; b += kThreads) s.bins[b] = 0;
    if (threadIdx.x == 0) {
      const int64_t k = keep[item] < 0 ? 0 : keep[item] > n ? n : keep[item];
      s.key = 0;
      s.left = static_cast<uint32_t>(k);
      s.some = 0;
      s.none = k == 0;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    count_keys(const T* x, int64_t items, int64_t n, uint8_t* workspace, int64_t bytes, int level) {
  __shared__ uint32_t bins[kBins];
  const int shift = shift_of(level), above = shift + bits_of(level);
  const uint32_t mask = (1u << bits_of(level)) - 1;
  for (int64_t item = blockIdx.y; item < items; item += gridDim.y) {
    Selection& s = of_item(workspace, bytes, item);
    for (int b = threadIdx.x; b < kBins; b += kThreads) bins[b] = 0;
    __syncthreads();
    const T* of_x = x + item * n;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n;
         i += stride) {
      const auto key = static_cast<uint32_t>(selection_key(to_float(of_x[i])));
      if (key >> above == s.key) atomicAdd(&bins[key >> shift & mask], 1u);
    }
    __syncthreads();
    for (int b = threadIdx.x; b < kBins; b += kThreads)
      if (bins[b]) atomicAdd(&s.bins[b], bins[b]);
    __syncthreads();
  }
}

// Finds the bin that holds the last element to be taken, the largest keys first, and clears the
// bins for the next level.
__global__ void __launch_bounds__(kThreads)
    choose_bin(int64_t items, uint8_t* workspace, int64_t bytes, int level) {
  constexpr int kEach = kBins / kThreads;
  using Scan = cub::BlockScan<uint32_t, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    Selection& s = of_item(workspace, bytes, item);
    const uint32_t left = s.left, key = s.key;
    uint32_t count[kEach], before[kEach];
    for (int j = 0; j < kEach; ++j) count[j] = s.bins[kBins - 1 - (threadIdx.x * kEach + j)];
    Scan(storage).ExclusiveSum(count, before);
    __syncthreads();
    for (int j = 0; j < kEach; ++j) {
      const int bin = kBins - 1 - (static_cast<int>(threadIdx.x) * kEach + j);
      s.bins[bin] = 0;
      if (before[j] < left && left <= before[j] + count[j]) {  // true for one bin, or none
        s.key = key << bits_of(level) | static_cast<uint32_t>(bin);
        s.left = left - before[j];
        s.some = left - before[j] < count[j];
      }
    }
    __syncthreads();
  }
}

// Elements equal to the threshold, before each tile of the item.
template <class T>
__global__ void __launch_bounds__(kThreads)
    count_ties(const T* x, int64_t items, int64_t n, uint8_t* workspace, int64_t bytes) {
  const int64_t tiles = (n + kTile - 1) / kTile;
  for (int64_t item = blockIdx.y; item < items; item += gridDim.y) {
    Selection& s = of_item(workspace, bytes, item);
    if (!s.some) continue;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      int total = 0;
      for (int j = 0; j < 8; ++j) {
        const int64_t i = tile * kTile + j * kThreads + threadIdx.x;
        const bool tie =
            i < n && static_cast<uint32_t>(selection_key(to_float(x[item * n + i]))) == s.key;
        total += __syncthreads_count(tie);
      }
      if (threadIdx.x == 0) s.ties()[tile] = static_cast<uint32_t>(total);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    scan_ties(int64_t items, int64_t tiles, uint8_t* workspace, int64_t bytes) {
  using Scan = cub::BlockScan<uint32_t, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    Selection& s = of_item(workspace, bytes, item);
    if (!s.some) continue;
    uint32_t total = 0;
    for (int64_t first = 0; first < tiles; first += kThreads) {
      const int64_t tile = first + threadIdx.x;
      const uint32_t count = tile < tiles ? s.ties()[tile] : 0;
      uint32_t before, sum;
      Scan(storage).ExclusiveSum(count, before, sum);
      if (tile < tiles) s.ties()[tile] = total + before;
      total += sum;
      __syncthreads();
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    mark(const T* x, int64_t items, int64_t n, uint8_t* workspace, int64_t bytes, uint8_t* mask) {
  using Scan = cub::BlockScan<uint32_t, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  const int64_t tiles = (n + kTile - 1) / kTile, width = bytes_of_bits(n);
  for (int64_t item = blockIdx.y; item < items; item += gridDim.y) {
    Selection& s = of_item(workspace, bytes, item);
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const int64_t first = tile * kTile + 8 * static_cast<int64_t>(threadIdx.x);
      uint32_t above = 0, equal = 0;
      for (int j = 0; j < 8 && first + j < n; ++j) {
        const auto key = static_cast<uint32_t>(selection_key(to_float(x[item * n + first + j])));
        above |= static_cast<uint32_t>(key > s.key) << j;
        equal |= static_cast<uint32_t>(key == s.key) << j;
      }
      if (s.some) {  // alike for the whole block
        uint32_t rank;
        Scan(storage).ExclusiveSum(static_cast<uint32_t>(__popc(equal)), rank);
        __syncthreads();
        rank += s.ties()[tile];
        uint32_t taken = 0;
        for (int j = 0; j < 8; ++j)
          if (equal >> j & 1) taken |= static_cast<uint32_t>(rank++ < s.left) << j;
        equal = taken;
      }
      if (first < n)
        mask[item * width + first / 8] = s.none ? 0 : static_cast<uint8_t>(above | equal);
    }
  }
}

}  // namespace

int64_t top_k_workspace(int64_t n) {
  const int64_t tiles = (n + kTile - 1) / kTile;
  return static_cast<int64_t>(sizeof(Selection)) + 4 * tiles;
}

template <class T>
void top_k_mask(Stream stream, View<const T, 2> x, View<const int32_t, 1> keep,
                View<uint8_t, 2> mask, View<uint8_t, 2> workspace) {
  const int64_t items = x.shape[0], n = x.shape[1], bytes = top_k_workspace(n);
  require(workspace.shape[1] == bytes, "workspace must have top_k_workspace(n) bytes per item");
  if (x.size() == 0) return;
  const int64_t tiles = (n + kTile - 1) / kTile;
  const auto rows = static_cast<unsigned>(std::min<int64_t>(items, 65535));
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(tiles, 4096)), rows);
  uint8_t* space = workspace.data;
  launch(stream, rows, &begin_selection, keep.data, items, n, space, bytes);
  for (int level = 0; level < kLevels; ++level) {
    launch(stream, grid, &count_keys<T>, x.data, items, n, space, bytes, level);
    launch(stream, rows, &choose_bin, items, space, bytes, level);
  }
  launch(stream, grid, &count_ties<T>, x.data, items, n, space, bytes);
  launch(stream, rows, &scan_ties, items, tiles, space, bytes);
  launch(stream, grid, &mark<T>, x.data, items, n, space, bytes, mask.data);
  check_launch("top_k_mask");
}

template void top_k_mask(Stream, View<const float, 2>, View<const int32_t, 1>, View<uint8_t, 2>,
                         View<uint8_t, 2>);
template void top_k_mask(Stream, View<const bfloat16, 2>, View<const int32_t, 1>, View<uint8_t, 2>,
                         View<uint8_t, 2>);
template void top_k_mask(Stream, View<const float16, 2>, View<const int32_t, 1>, View<uint8_t, 2>,
                         View<uint8_t, 2>);

}  // namespace bitlaw::cuda
