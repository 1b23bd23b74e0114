// What the kernels of a selection share: keys a chunk at a time, and an item's workspace.
#pragma once
#include <cub/block/block_scan.cuh>

#include "core/key.hpp"
#include "cuda/groups.cuh"

namespace bitlaw::cuda {

inline constexpr int kTile = kChunk * kThreads;  // elements a block marks, a byte per thread

using Scan = cub::BlockScan<uint32_t, kThreads>;

// One item's workspace; behind it a count of ties per tile.
struct Selection {
  uint32_t bins[kBins];
  int32_t key;    // of the keys found so far, the least; in the end the threshold
  uint32_t left;  // elements still to be taken from them
  uint32_t some;  // whether only some of the elements equal to the threshold are taken

  __device__ uint32_t* ties() { return reinterpret_cast<uint32_t*>(this + 1); }
};

struct Space {
  uint8_t* data;
  int64_t bytes;
  __device__ Selection& operator[](int64_t item) const {
    return *reinterpret_cast<Selection*>(data + item * bytes);
  }
};

// Keys of |x| scale, a chunk at a time; without scales, of |x|. Of several arrays, whose tiles are
// numbered on, scales lie side by side.
template <class T>
struct Keys {
  const T* x;
  int64_t items, n;
  uint8_t* mask;
  const float* scale;
  int64_t scales, first_tile;
  bool whole;

  Keys(View<const T, 2> x, uint8_t* mask = nullptr, const float* scale = nullptr,
       int64_t scales = 1, int64_t first_tile = 0)
      : x(x.data),
        items(x.shape[0]),
        n(x.shape[1]),
        mask(mask),
        scale(scale),
        scales(scales),
        first_tile(first_tile),
        whole(aligned(x.data, x.shape[1])) {}
  int64_t tiles() const { return (n + kTile - 1) / kTile; }
  dim3 grid(int64_t most) const {
    return dim3(static_cast<unsigned>(std::min(tiles(), most)),
                static_cast<unsigned>(std::min<int64_t>(items, 65535)));
  }
  // How many elements there are from `first`, at most a chunk, and their keys.
  BITLAW_LEAF int load(int64_t item, int64_t first, int32_t* key) const {
    const int64_t rest = n - first;
    const int count = static_cast<int>(rest < kChunk ? (rest < 0 ? 0 : rest) : kChunk);
    float v[kChunk];
    cuda::load(x + item * n + first, count, whole && count > 0, v);
    const float by = scale ? scale[item * scales] : 1.0f;
    for (int j = 0; j < kChunk; ++j) key[j] = scaled_key(v[j], by);
    return count;
  }
};

}  // namespace bitlaw::cuda
