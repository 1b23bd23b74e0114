// Masks on a GPU; what they mean is in core/mask.hpp and core/transposable.hpp.
#pragma once
#include "core/mask.hpp"
#include "core/transposable.hpp"
#include "cuda/stream.hpp"

namespace bitlaw::cuda {

template <class T>
void nm_mask(Stream stream, View<const T, 3> x, View<uint8_t, 2> mask, NmAttrs a);

template <class T>
void prune(Stream stream, View<const T, 2> x, View<const uint8_t, 2> mask, View<T, 2> y);

// Its workspace is a byte per element.
template <class T>
void transposable_mask(Stream stream, View<const T, 3> x, View<uint8_t, 2> mask,
                       View<uint8_t, 2> workspace, TransposableAttrs a);

}  // namespace bitlaw::cuda
