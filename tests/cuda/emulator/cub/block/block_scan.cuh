// cub::BlockScan, of one value or several consecutive ones per thread.
#pragma once
#include "cuda_runtime.h"

namespace cub {

template <class T, int kThreads>
struct BlockScan {
  struct TempStorage {
    T values[kThreads];
  };
  TempStorage& storage;
  explicit BlockScan(TempStorage& storage) : storage(storage) {}

  void ExclusiveSum(T value, T& before, T& total) {
    storage.values[threadIdx.x] = value;
    __syncthreads();
    T below = 0, all = 0;
    for (int t = 0; t < kThreads; ++t) {
      below += t < static_cast<int>(threadIdx.x) ? storage.values[t] : 0;
      all += storage.values[t];
    }
    __syncthreads();
    before = below;
    total = all;
  }
  void ExclusiveSum(T value, T& before) {
    T total;
    ExclusiveSum(value, before, total);
  }
  template <int kEach>
  void ExclusiveSum(T (&values)[kEach], T (&before)[kEach]) {
    T own = 0, below;
    for (T value : values) own += value;
    ExclusiveSum(own, below);
    for (int j = 0; j < kEach; ++j) {
      before[j] = below;
      below += values[j];
    }
  }
};

}  // namespace cub
