// Pruning schedules on the host, in doubles and exact integers: f32 on a device would miss counts.
#pragma once
#include <cmath>
#include <tuple>

#include "core/parallel.hpp"

namespace bitlaw {

struct PolynomialAttrs {
  double initial, final;
  int64_t first, begin, end, every, power, ahead;
  bool closing;
  static constexpr auto fields() {
    return std::tuple{
        Field{"initial", &PolynomialAttrs::initial}, Field{"final", &PolynomialAttrs::final},
        Field{"first", &PolynomialAttrs::first},     Field{"begin", &PolynomialAttrs::begin},
        Field{"end", &PolynomialAttrs::end},         Field{"every", &PolynomialAttrs::every},
        Field{"power", &PolynomialAttrs::power},     Field{"ahead", &PolynomialAttrs::ahead},
        Field{"closing", &PolynomialAttrs::closing}};
  }
};

// base^power by repeated products: the same bits everywhere.
inline double whole_power(double base, int64_t power) {
  double product = 1.0;
  for (int64_t i = 0; i < power; ++i) product *= base;
  return product;
}

// Updates at first, first + every, ... up to `end`:
//     s(t) = final + (initial - final) (1 - p)^power,   p = (t + ahead - begin) / (end - begin)
// `closing` puts the last one at `end`, where the sparsity is exactly `final`.
inline void polynomial_schedule(const Parallel&, View<int64_t, 1> steps, View<double, 1> sparsity,
                                PolynomialAttrs a) {
  const int64_t n = steps.shape[0];
  for (int64_t i = 0; i < n; ++i) {
    const bool last = a.closing && i == n - 1;
    steps.data[i] = last ? a.end : a.first + i * a.every;
    const double p = static_cast<double>(steps.data[i] + a.ahead - a.begin) /
                     static_cast<double>(a.end - a.begin);
    const double left = 1.0 - std::min(1.0, std::max(0.0, p));
    sparsity.data[i] =
        last ? a.final : a.final + (a.initial - a.final) * whole_power(left, a.power);
  }
}

struct AlternatingAttrs {
  double final;
  int64_t begin, end, every;
  static constexpr auto fields() {
    return std::tuple{
        Field{"final", &AlternatingAttrs::final}, Field{"begin", &AlternatingAttrs::begin},
        Field{"end", &AlternatingAttrs::end}, Field{"every", &AlternatingAttrs::every}};
  }
};

// Sparse at begin, dense at begin + every, and so by turns; sparse at `end`, the last.
inline void alternating_schedule(const Parallel&, View<int64_t, 1> steps, View<double, 1> sparsity,
                                 AlternatingAttrs a) {
  const int64_t n = steps.shape[0];
  for (int64_t i = 0; i < n; ++i) {
    const bool last = i == n - 1;
    steps.data[i] = last ? a.end : a.begin + i * a.every;
    sparsity.data[i] = last || i % 2 == 0 ? a.final : 0.0;
  }
}

struct CosineAttrs {
  double initial;
  int64_t begin, end, every;
  static constexpr auto fields() {
    return std::tuple{Field{"initial", &CosineAttrs::initial}, Field{"begin", &CosineAttrs::begin},
                      Field{"end", &CosineAttrs::end}, Field{"every", &CosineAttrs::every}};
  }
};

// fraction(t) = initial / 2 (1 + cos(pi p)) at t = begin, begin + every, ... before `end`, by
// 1 + cos(2 y) = 2 - 2 sin(y)^2 and the series of sin to y^27: no library has the same last bit.
inline void cosine_schedule(const Parallel&, View<int64_t, 1> steps, View<double, 1> fraction,
                            CosineAttrs a) {
  for (int64_t i = 0; i < steps.shape[0]; ++i) {
    steps.data[i] = a.begin + i * a.every;
    const double p =
        static_cast<double>(steps.data[i] - a.begin) / static_cast<double>(a.end - a.begin);
    const double y = p * 1.5707963267948966;
    double term = y, sine = y;
    for (int64_t k = 1; k < 14; ++k) {
      term *= -(y * y) / static_cast<double>(2 * k * (2 * k + 1));
      sine += term;
    }
    fraction.data[i] = a.initial * (1.0 - sine * sine);
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
