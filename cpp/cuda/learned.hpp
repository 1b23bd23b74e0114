// Gradients of learned scales on a GPU; what they mean is in core/learned.hpp.
#pragma once
#include "core/learned.hpp"
#include "cuda/stream.hpp"

namespace bitlaw::cuda {

// Bytes of workspace per item of so many rows and columns: sums of parts or panels.
int64_t learned_workspace(int64_t rows, int64_t cols, int64_t block);

template <class T>
void learned_gradient(Stream stream, View<const T, 3> g, View<const T, 3> x,
                      View<const float, 2> scale, View<const float, 2> zero,
                      View<const float, 2> grid, View<T, 3> dx, View<float, 3> sums,
                      View<uint8_t, 2> workspace, LearnedAttrs a);

}  // namespace bitlaw::cuda
