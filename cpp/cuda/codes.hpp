// Packed codes on a GPU; what they mean is in core/codes.hpp and core/bits.hpp.
#pragma once
#include "core/codes.hpp"
#include "cuda/stream.hpp"

namespace bitlaw::cuda {

template <class T>
void quantize(Stream stream, View<const T, 3> x, View<const float, 2> grid,
              View<const uint32_t, 2> noise, View<uint8_t, 3> codes, View<float, 2> scale,
              View<float, 2> zero, View<uint8_t, 3> mask, View<uint8_t, 2> workspace, CodesAttrs a);

template <class T>
void quantize_scaled(Stream stream, View<const T, 3> x, View<const float, 2> scale,
                     View<const float, 2> zero, View<const float, 2> grid,
                     View<const uint32_t, 2> noise, View<uint8_t, 3> codes, View<uint8_t, 3> mask,
                     View<uint8_t, 2> workspace, ScaledCodesAttrs a);

template <class T>
void dequantize(Stream stream, View<const uint8_t, 3> codes, View<const float, 2> scale,
                View<const float, 2> zero, View<const float, 2> grid, View<T, 3> y,
                View<uint8_t, 2> workspace, DequantizeAttrs a);

void pack_bits(Stream stream, View<const uint8_t, 2> codes, View<uint8_t, 2> packed, BitsAttrs a);

void unpack_bits(Stream stream, View<const uint8_t, 2> packed, View<uint8_t, 2> codes, BitsAttrs a);

void uniform(Stream stream, View<const uint32_t, 2> noise, View<float, 3> u, UniformAttrs a);

}  // namespace bitlaw::cuda
