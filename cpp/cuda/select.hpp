// Selection on a GPU; what it means is in core/select.hpp.
#pragma once
#include "core/select.hpp"
#include "cuda/stream.hpp"

namespace bitlaw::cuda {

// Bytes of workspace per item of n elements.
int64_t top_k_workspace(int64_t n);

// As the core's, but that keep is clamped to [0, n]: a device cannot raise.
template <class T>
void top_k_mask(Stream stream, View<const T, 2> x, View<const int32_t, 1> keep,
                View<uint8_t, 2> mask, View<uint8_t, 2> workspace);

}  // namespace bitlaw::cuda
