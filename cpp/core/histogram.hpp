// The parts of a selection over several arrays: counts of keys that add up, and marking by a key.
#pragma once
#include "core/select.hpp"

namespace bitlaw {

// Of the keys of |x| scale[item]: above[item] is how many are beyond the range, bins[item][b] how
// many are in [lo + (b << shift), lo + ((b + 1) << shift)), where range[item] = (lo, shift).
template <class T>
void key_histogram(const Parallel& par, View<const T, 2> x, View<const float, 1> scale,
                   View<const int32_t, 2> range, View<int32_t, 1> above, View<int32_t, 2> bins) {
  for (int64_t i = 0; i < x.shape[0]; ++i)
    require(range.item(i)[0] >= 0 && range.item(i)[1] >= 0 && range.item(i)[1] <= 31 - kBinBits,
            "range must be lo >= 0 and shift in [0, " + std::to_string(31 - kBinBits) + "], got " +
                std::to_string(range.item(i)[0]) + " and " + std::to_string(range.item(i)[1]));
  over_items(par, x.shape[0], x.shape[1], [&](const Parallel& threads, int64_t i) {
    const Range r{range.item(i)[0], range.item(i)[1]};
    Segment<T> one[]{{x.item(i), x.shape[1], scale.data[i]}};
    const Histogram h = histogram(threads, Segments<T>(one), r);
    above.data[i] = static_cast<int32_t>(h.above);
    std::copy(h.bins.begin(), h.bins.end(), bins.item(i));
  });
}

// mask[item]: keys of |x| scale[item] beyond threshold[item], and the first ties[item] equal to it.
template <class T>
void threshold_mask(const Parallel& par, View<const T, 2> x, View<const float, 1> scale,
                    View<const int32_t, 1> threshold, View<const int32_t, 1> ties,
                    View<uint8_t, 2> mask) {
  const int64_t n = x.shape[1];
  over_items(par, x.shape[0], n, [&](const Parallel& threads, int64_t i) {
    Segment<T> one[]{{x.item(i), n, scale.data[i], mask.item(i)}};
    const int32_t key = threshold.data[i];
    if (ties.data[i] == 0)
      mark_beyond(threads, Segments<T>(one), key);
    else
      mark_first(threads, Segments<T>(one), {key, key, ties.data[i], ties.data[i]});
  });
}

}  // namespace bitlaw
