// cub::BlockScan, of one value or several consecutive ones per thread.
#pragma once
#include <utility>

#include "cuda_runtime.h"

namespace cub {

template <class T, int kThreads>
struct BlockScan {
  struct TempStorage {
    T values[kThreads], total;
  };
  TempStorage& storage;
  explicit BlockScan(TempStorage& storage) : storage(storage) {}

  void ExclusiveSum(T value, T& before, T& total) {
    storage.values[threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.x == 0) {
      T all = 0;
      for (T& at : storage.values) all += std::exchange(at, all);
      storage.total = all;
    }
    __syncthreads();
    before = storage.values[threadIdx.x];
    total = storage.total;
    __syncthreads();
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
