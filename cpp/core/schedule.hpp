// Pruning schedules on the host, in doubles and exact integers: f32 on a device would miss counts.
#pragma once
#include <cmath>
#include <tuple>

#include "core/parallel.hpp"

namespace bitlaw {

struct CubicAttrs {
  double initial, final;
  int64_t begin, end, every;
  static constexpr auto fields() {
    return std::tuple{Field{"initial", &CubicAttrs::initial}, Field{"final", &CubicAttrs::final},
                      Field{"begin", &CubicAttrs::begin}, Field{"end", &CubicAttrs::end},
                      Field{"every", &CubicAttrs::every}};
  }
};

// Updates at begin, begin + every, ..., and always at `end`, where the sparsity is exactly `final`:
//     s(t) = final + (initial - final) (1 - p)^3,   p = (t - begin) / (end - begin)
inline void cubic_schedule(const Parallel&, View<int64_t, 1> steps, View<double, 1> sparsity,
                           CubicAttrs a) {
  const int64_t n = steps.shape[0];
  for (int64_t i = 0; i < n; ++i) {
    const bool last = i == n - 1;
    steps.data[i] = last ? a.end : a.begin + i * a.every;
    const double left =
        1.0 - static_cast<double>(steps.data[i] - a.begin) / static_cast<double>(a.end - a.begin);
    sparsity.data[i] = last ? a.final : a.final + (a.initial - a.final) * (left * left * left);
  }
}

// keep[u, l] = max(1, round_half_even(size_l (1 - sparsity_u))), and 0 for an empty leaf.
inline void keep_counts(const Parallel&, View<const double, 1> sparsity,
                        View<const int64_t, 1> sizes, View<int64_t, 2> keep) {
  const int64_t leaves = sizes.shape[0];
  for (int64_t u = 0; u < sparsity.shape[0]; ++u)
    for (int64_t l = 0; l < leaves; ++l) {
      const double exact = static_cast<double>(sizes.data[l]) * (1.0 - sparsity.data[u]);
      const auto rounded = static_cast<int64_t>(std::nearbyint(exact));
      keep.data[u * leaves + l] = sizes.data[l] == 0 ? 0 : std::max<int64_t>(1, rounded);
    }
}

}  // namespace bitlaw
