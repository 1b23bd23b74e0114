// Radix selection: the key's 31 bits are resolved 12, 12 and 7 at a time, each time by a histogram
// of the keys in the bin found so far. Three reads, then one to mark; where some of the equal
// elements go and others stay, one more to number them by index. Sums are of integers, so no order
// of atomics shows.
//
// Bytes per element of b bytes: top_k_mask and joint_top_k_mask 4 b + 1 / 8 (with ties 5 b),
// select_threshold 3 b, key_histogram b, threshold_mask b + 1 / 8 (with ties 2 b).
#include "cuda/keys.cuh"
#include "cuda/select.hpp"

namespace bitlaw::cuda {
namespace {

inline constexpr int kLevels = 3;
inline constexpr int kLevelShift[kLevels] = {31 - kBinBits, 31 - 2 * kBinBits, 0};
inline constexpr uint32_t kLevelBins[kLevels] = {kBins, kBins, 1 << kLevelShift[1]};
inline constexpr int64_t kCounting = 1024;  // blocks that count keys: each adds up its bins

// Adds an item's keys inside the first `used` bins of the range, and those beyond to `above`.
template <class T>
__device__ void count_range(const Keys<T>& keys, int64_t item, Range range, uint32_t used,
                            uint32_t* bins, uint32_t* above) {
  __shared__ uint32_t part[kBins];
  for (int b = threadIdx.x; b < kBins; b += kThreads) part[b] = 0;
  __syncthreads();
  uint32_t over = 0, zeros = 0;  // pruned weights are many, and all in one bin
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kTile;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kTile + kChunk * threadIdx.x; i < keys.n;
       i += stride) {
    int32_t key[kChunk];
    const int count = keys.load(item, i, key);
    BITLAW_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      if (j >= count || key[j] < range.lo) continue;
      const uint32_t bin = range.bin(key[j]);
      over += bin >= used;
      zeros += key[j] == kZeroKey;
      if (bin < used && key[j] != kZeroKey) atomicAdd(&part[bin], 1u);
    }
  }
  if (zeros && range.bin(kZeroKey) < used) atomicAdd(&part[range.bin(kZeroKey)], zeros);
  if (above && over) atomicAdd(above, over);
  __syncthreads();
  for (int b = threadIdx.x; b < kBins; b += kThreads)
    if (part[b]) atomicAdd(&bins[b], part[b]);
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    count_level(Keys<T> keys, Space space, int shift, uint32_t used) {
  for (int64_t item = blockIdx.y; item < keys.items; item += gridDim.y)
    count_range(keys, item, {space[item].key, shift}, used, space[item].bins, nullptr);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    count_given(Keys<T> keys, const int32_t* ranges, uint32_t* above, uint32_t* bins) {
  for (int64_t item = blockIdx.y; item < keys.items; item += gridDim.y) {
    const int32_t lo = ranges[2 * item], shift = ranges[2 * item + 1];
    const Range range{lo < 0 ? 0 : lo, shift < 0               ? 0
                                       : shift > 31 - kBinBits ? 31 - kBinBits
                                                               : shift};
    count_range(keys, item, range, kBins, bins + item * kBins, above + item);
  }
}

__global__ void begin_selection(const int32_t* keep, int64_t items, int64_t n, Space space) {
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    Selection& s = space[item];
    for (int b = threadIdx.x; b < kBins; b += kThreads) s.bins[b] = 0;
    if (threadIdx.x == 0) {
      const int64_t k = keep[item] < 0 ? 0 : keep[item] > n ? n : keep[item];
      s.key = k ? 0 : kKeys;  // beyond all: nothing is counted, nothing taken
      s.left = static_cast<uint32_t>(k);
      s.some = 0;
    }
  }
}

__global__ void begin_marking(const int32_t* threshold, const int32_t* ties, int64_t items,
                              Space space) {
  for (int64_t item = blockIdx.x * int64_t{kThreads} + threadIdx.x; item < items;
       item += gridDim.x * int64_t{kThreads}) {
    Selection& s = space[item];
    s.some = ties[item] > 0;
    s.key = s.some || threshold[item] >= kKeys ? threshold[item] : threshold[item] + 1;
    s.left = s.some ? static_cast<uint32_t>(ties[item]) : 0;
  }
}

// Finds the bin that holds the last element to be taken, the largest keys first, and clears the
// bins for the next level.
__global__ void __launch_bounds__(kThreads) choose_bin(int64_t items, Space space, int shift) {
  constexpr int kEach = kBins / kThreads;
  __shared__ typename Scan::TempStorage storage;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    Selection& s = space[item];
    const uint32_t left = s.left;
    const int32_t key = s.key;
    uint32_t count[kEach], before[kEach];
    for (int j = 0; j < kEach; ++j) count[j] = s.bins[kBins - 1 - (threadIdx.x * kEach + j)];
    Scan(storage).ExclusiveSum(count, before);
    __syncthreads();
    for (int j = 0; j < kEach; ++j) {
      const int bin = static_cast<int>(kBins) - 1 - (static_cast<int>(threadIdx.x) * kEach + j);
      s.bins[bin] = 0;
      if (before[j] < left && left <= before[j] + count[j]) {  // true for one bin, or none
        s.key = key + (bin << shift);
        s.left = left - before[j];
        s.some = left - before[j] < count[j];
      }
    }
    __syncthreads();
  }
}

// Elements equal to the threshold, in each tile of the item.
template <class T>
__global__ void __launch_bounds__(kThreads) count_ties(Keys<T> keys, int64_t tiles, Space space) {
  __shared__ typename Scan::TempStorage storage;
  for (int64_t item = blockIdx.y; item < keys.items; item += gridDim.y) {
    Selection& s = space[item];
    if (!s.some) continue;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      int32_t key[kChunk];
      const int count = keys.load(item, tile * kTile + kChunk * threadIdx.x, key);
      uint32_t equal = 0, before, total;
      for (int j = 0; j < kChunk; ++j) equal += j < count && key[j] == s.key;
      Scan(storage).ExclusiveSum(equal, before, total);
      if (threadIdx.x == 0) s.ties()[keys.first_tile + tile] = total;
      __syncthreads();
    }
  }
}

__global__ void __launch_bounds__(kThreads) scan_ties(int64_t items, int64_t tiles, Space space) {
  __shared__ typename Scan::TempStorage storage;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    Selection& s = space[item];
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
__global__ void __launch_bounds__(kThreads) mark(Keys<T> keys, int64_t tiles, Space space) {
  __shared__ typename Scan::TempStorage storage;
  const int64_t width = bytes_of_bits(keys.n);
  for (int64_t item = blockIdx.y; item < keys.items; item += gridDim.y) {
    Selection& s = space[item];
    const int32_t threshold = s.key;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const int64_t first = tile * kTile + kChunk * static_cast<int64_t>(threadIdx.x);
      int32_t key[kChunk];
      const int count = keys.load(item, first, key);
      uint32_t above = 0, equal = 0;
      for (int j = 0; j < kChunk; ++j) {
        above |= static_cast<uint32_t>(j < count && key[j] > threshold) << j;
        equal |= static_cast<uint32_t>(j < count && key[j] == threshold) << j;
      }
      if (s.some) {  // alike for the whole block
        uint32_t rank;
        Scan(storage).ExclusiveSum(static_cast<uint32_t>(__popc(equal)), rank);
        __syncthreads();
        rank += s.ties()[keys.first_tile + tile];
        uint32_t taken = 0;
        for (int j = 0; j < kChunk; ++j)
          if (equal >> j & 1) taken |= static_cast<uint32_t>(rank++ < s.left) << j;
        equal = taken;
      }
      if (count > 0) keys.mask[item * width + first / kChunk] = static_cast<uint8_t>(above | equal);
    }
  }
}

unsigned rows_of(int64_t items) {
  return static_cast<unsigned>(std::min<int64_t>(std::max<int64_t>(items, 1), 65535));
}

// Arrays of the same items, of which one selection is made.
template <class T>
using Arrays = std::vector<Keys<T>>;

// The threshold of every item, and how many equal elements are taken.
template <class T>
void find_thresholds(Stream stream, const Arrays<T>& arrays, const int32_t* keep, int64_t items,
                     Space space) {
  int64_t n = 0;
  for (const Keys<T>& keys : arrays) n += keys.n;
  launch(stream, rows_of(items), &begin_selection, keep, items, n, space);
  if (n == 0) return;
  for (int level = 0; level < kLevels; ++level) {
    const int shift = kLevelShift[level];
    for (const Keys<T>& keys : arrays)
      if (keys.n > 0)
        launch(stream, keys.grid(kCounting), &count_level<T>, keys, space, shift,
               kLevelBins[level]);
    launch(stream, rows_of(items), &choose_bin, items, space, shift);
  }
}

template <class T>
void mark_items(Stream stream, const Arrays<T>& arrays, int64_t items, Space space) {
  int64_t tiles = 0;
  for (const Keys<T>& keys : arrays) {
    tiles += keys.tiles();
    if (keys.n > 0)
      launch(stream, keys.grid(kMaxBlocks), &count_ties<T>, keys, keys.tiles(), space);
  }
  launch(stream, rows_of(items), &scan_ties, items, tiles, space);
  for (const Keys<T>& keys : arrays)
    if (keys.n > 0) launch(stream, keys.grid(kMaxBlocks), &mark<T>, keys, keys.tiles(), space);
}

Space space_of(View<uint8_t, 2> workspace, int64_t bytes) {
  require(workspace.shape[1] == bytes, "workspace must have selection_workspace bytes per item");
  return {workspace.data, workspace.shape[1]};
}

}  // namespace

int64_t selection_workspace(const std::vector<int64_t>& sizes) {
  int64_t tiles = 0;
  for (const int64_t n : sizes) tiles += (n + kTile - 1) / kTile;
  return static_cast<int64_t>(sizeof(Selection)) + 4 * tiles;
}

template <class T>
void top_k_mask(Stream stream, View<const T, 2> x, View<const int32_t, 1> keep,
                View<uint8_t, 2> mask, View<uint8_t, 2> workspace) {
  const int64_t items = x.shape[0];
  const Space space = space_of(workspace, selection_workspace({x.shape[1]}));
  if (x.size() == 0) return;
  const Arrays<T> one{Keys<T>(x, mask.data)};
  find_thresholds(stream, one, keep.data, items, space);
  mark_items(stream, one, items, space);
  check_launch("top_k_mask");
}

template <class T>
void joint_top_k_mask(Stream stream, View<const int32_t, 1> keep, View<const float, 2> scale,
                      Views<const T, 2> arrays, Views<uint8_t, 2> masks,
                      View<uint8_t, 2> workspace) {
  const int64_t items = keep.shape[0], count = static_cast<int64_t>(arrays.each.size());
  require(scale.shape[1] == count, "scale must have a column for each array");
  Arrays<T> all;
  std::vector<int64_t> sizes;
  int64_t tiles = 0;
  for (int64_t p = 0; p < count; ++p) {
    all.emplace_back(arrays.each[p], masks.each[p].data, scale.data + p, count, tiles);
    sizes.push_back(all.back().n);
    tiles += all.back().tiles();
  }
  const Space space = space_of(workspace, selection_workspace(sizes));
  if (items == 0 || tiles == 0) return;
  find_thresholds(stream, all, keep.data, items, space);
  mark_items(stream, all, items, space);
  check_launch("joint_top_k_mask");
}

template <class T>
void select_threshold(Stream stream, View<const T, 2> x, View<const int32_t, 1> keep,
                      View<int32_t, 1> key, View<int32_t, 1> take, View<uint8_t, 2> workspace) {
  const int64_t items = x.shape[0];
  const Space space = space_of(workspace, selection_workspace({x.shape[1]}));
  if (items == 0) return;
  find_thresholds(stream, Arrays<T>{Keys<T>(x)}, keep.data, items, space);
  for_each(stream, items, "select_threshold", [=] __device__(int64_t i) {
    key.data[i] = space[i].key;
    take.data[i] = static_cast<int32_t>(space[i].left);
  });
}

template <class T>
void key_histogram(Stream stream, View<const T, 2> x, View<const float, 1> scale,
                   View<const int32_t, 2> range, View<int32_t, 1> above, View<int32_t, 2> bins) {
  for_each(stream, bins.size(), "key_histogram", [=] __device__(int64_t i) {
    bins.data[i] = 0;
    if (i % kBins == 0) above.data[i / kBins] = 0;
  });
  if (x.size() == 0) return;
  const Keys<T> keys(x, nullptr, scale.data);
  launch(stream, keys.grid(kCounting), &count_given<T>, keys, range.data,
         reinterpret_cast<uint32_t*>(above.data), reinterpret_cast<uint32_t*>(bins.data));
  check_launch("key_histogram");
}

template <class T>
void threshold_mask(Stream stream, View<const T, 2> x, View<const float, 1> scale,
                    View<const int32_t, 1> threshold, View<const int32_t, 1> ties,
                    View<uint8_t, 2> mask, View<uint8_t, 2> workspace) {
  const Space space = space_of(workspace, selection_workspace({x.shape[1]}));
  if (x.size() == 0) return;
  launch(stream, rows_of(x.shape[0]), &begin_marking, threshold.data, ties.data, x.shape[0], space);
  mark_items(stream, Arrays<T>{Keys<T>(x, mask.data, scale.data)}, x.shape[0], space);
  check_launch("threshold_mask");
}

#define BITLAW_SELECT(T)                                                                         \
  template void top_k_mask(Stream, View<const T, 2>, View<const int32_t, 1>, View<uint8_t, 2>,   \
                           View<uint8_t, 2>);                                                    \
  template void joint_top_k_mask(Stream, View<const int32_t, 1>, View<const float, 2>,           \
                                 Views<const T, 2>, Views<uint8_t, 2>, View<uint8_t, 2>);        \
  template void select_threshold(Stream, View<const T, 2>, View<const int32_t, 1>,               \
                                 View<int32_t, 1>, View<int32_t, 1>, View<uint8_t, 2>);          \
  template void key_histogram(Stream, View<const T, 2>, View<const float, 1>,                    \
                              View<const int32_t, 2>, View<int32_t, 1>, View<int32_t, 2>);       \
  template void threshold_mask(Stream, View<const T, 2>, View<const float, 1>,                   \
                               View<const int32_t, 1>, View<const int32_t, 1>, View<uint8_t, 2>, \
                               View<uint8_t, 2>);
BITLAW_SELECT(float)
BITLAW_SELECT(bfloat16)
BITLAW_SELECT(float16)

}  // namespace bitlaw::cuda
