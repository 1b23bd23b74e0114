// Selection on a GPU; what it means is in core/select.hpp and core/histogram.hpp. Counts and ranges
// outside what the core takes are clamped: a device cannot raise. Nor are scales refused there.
#pragma once
#include <vector>

#include "core/histogram.hpp"
#include "cuda/stream.hpp"

namespace bitlaw::cuda {

// Bytes of workspace per item of arrays of so many elements.
int64_t selection_workspace(const std::vector<int64_t>& sizes);

template <class T>
void top_k_mask(Stream stream, View<const T, 2> x, View<const int32_t, 1> keep,
                View<uint8_t, 2> mask, View<uint8_t, 2> workspace);

template <class T>
void joint_top_k_mask(Stream stream, View<const int32_t, 1> keep, View<const float, 2> scale,
                      Views<const T, 2> arrays, Views<uint8_t, 2> masks,
                      View<uint8_t, 2> workspace);

template <class T>
void select_threshold(Stream stream, View<const T, 2> x, View<const int32_t, 1> keep,
                      View<int32_t, 1> key, View<int32_t, 1> take, View<uint8_t, 2> workspace);

template <class T>
void key_histogram(Stream stream, View<const T, 2> x, View<const float, 1> scale,
                   View<const int32_t, 2> range, View<int32_t, 1> above, View<int32_t, 2> bins);

template <class T>
void threshold_mask(Stream stream, View<const T, 2> x, View<const float, 1> scale,
                    View<const int32_t, 1> threshold, View<const int32_t, 1> ties,
                    View<uint8_t, 2> mask, View<uint8_t, 2> workspace);

}  // namespace bitlaw::cuda
