// Quantization on a GPU; what it means is in core/quantize.hpp.
#pragma once
#include "core/quantize.hpp"
#include "cuda/stream.hpp"

namespace bitlaw::cuda {

// Bytes of workspace per item of so many elements: they are rotated as floats.
int64_t rotated_bytes(int64_t elements, int64_t hadamard);

template <class T>
void group_statistic(Stream stream, View<const T, 3> x, View<float, 2> high, View<float, 2> low,
                     View<uint8_t, 2> workspace, StatisticAttrs a);

void statistic_ratio(Stream stream, View<const float, 2> statistic, View<const float, 2> largest,
                     View<float, 2> ratio, View<float, 2> unit);

void statistic_scale(Stream stream, View<const float, 2> high, View<const float, 2> low,
                     View<const float, 2> unit, View<const float, 2> grid, View<float, 2> scale,
                     View<float, 2> zero, ScaleAttrs a);

void outer_scale(Stream stream, View<const float, 2> statistic, View<const float, 2> grid,
                 View<float, 2> outer);

template <class T>
void fake_quantize(Stream stream, View<const T, 3> x, View<const float, 2> grid,
                   View<const uint32_t, 2> noise, View<T, 3> y, View<float, 2> scale,
                   View<float, 2> zero, View<uint8_t, 3> mask, View<uint8_t, 2> workspace,
                   QuantizeAttrs a);

template <class T>
void fake_quantize_scaled(Stream stream, View<const T, 3> x, View<const float, 2> scale,
                          View<const float, 2> zero, View<const float, 2> grid,
                          View<const uint32_t, 2> noise, View<T, 3> y, View<uint8_t, 3> mask,
                          View<uint8_t, 2> workspace, ScaledAttrs a);

template <class T>
void hadamard(Stream stream, View<const T, 3> x, View<const uint8_t, 2> signs, View<T, 3> y,
              HadamardAttrs a);

}  // namespace bitlaw::cuda
