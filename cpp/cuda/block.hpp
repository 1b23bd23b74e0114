// Sums over blocks on a GPU; what they mean is in core/block.hpp.
#pragma once
#include "core/block.hpp"
#include "cuda/stream.hpp"

namespace bitlaw::cuda {

// Its workspace is a float per column and row of blocks.
template <class T>
void block_sum(Stream stream, View<const T, 3> x, View<float, 3> sums, View<uint8_t, 2> workspace,
               BlockAttrs a);

}  // namespace bitlaw::cuda
